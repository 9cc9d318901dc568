"""The site file: accelerators with their prices, pools and gates that hold for every sweep at a site."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from nextscale.cluster.hardware.catalogue import CATALOGUE, Accelerator
from nextscale.cluster.hardware.gates import Gates
from nextscale.cluster.hardware.pool import Pool
from nextscale.model.config.identity import Config
from nextscale.model.errors import InputError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Positive = Annotated[float, Field(gt=0)]


class Listing(Config):
    """An accelerator, or what is otherwise of one in the catalogue; see `Accelerator`."""

    platform: Literal["cuda", "tpu", "cpu"] | None = None
    peak_flops: Positive | None = Field(
        None, description="FLOP/s in bfloat16, without sparsity; of a CPU core in float32"
    )
    hbm_bytes: Positive | None = None
    hbm_bandwidth: Positive | None = Field(None, description="bytes/s")
    chips_per_host: int | None = Field(None, ge=1, le=10_000)
    watts: Positive | None = None
    usd_per_chip_hour: float | None = Field(None, ge=0)
    usd_per_chip_hour_spot: float | None = Field(None, ge=0)
    device_kinds: tuple[str, ...] | None = Field(None, description="as JAX calls it: jax.devices()[0].device_kind")
    ray_types: tuple[str, ...] | None = Field(None, description="as Ray calls it, such as H100 or TPU-V4")


class Site(Config):
    """The site file: `accelerators` extend the catalogue, `pools` are there for specs to name, `gates` hold for all."""

    accelerators: dict[Name, Listing] = Field(default_factory=dict)
    pools: dict[Name, Pool] = Field(default_factory=dict)
    gates: Gates = Gates()

    def catalogue(self, source: str = "the site file") -> dict[str, Accelerator]:
        """The catalogue with what this site says of it.

        Raises:
            InputError: an accelerator that the catalogue does not have lacks a figure that it cannot do without.
        """
        found = dict(CATALOGUE)
        for name, listing in self.accelerators.items():
            stated = listing.model_dump(exclude_none=True)
            known = found.get(name)
            lacking = [field for field in ("platform", "peak_flops", "hbm_bytes") if field not in stated]
            if known is None and lacking:
                raise InputError(
                    f"accelerators.{name}: is not in the catalogue, so it needs {' and '.join(lacking)} here"
                )
            base = known or Accelerator(name=name, platform=stated["platform"])
            sources = {**base.sources, **dict.fromkeys(set(stated) - {"platform", "device_kinds", "ray_types"}, source)}
            priced = source if "usd_per_chip_hour" in stated else base.priced
            found[name] = dataclasses.replace(base, **stated, sources=sources, priced=priced)
        return found

    def pools_named(self, names: Mapping[str, Pool] | list[str]) -> dict[str, Pool]:
        """The pools of a spec: those that it states, or this site's by name.

        Raises:
            InputError: the site has none of a name.
        """
        if isinstance(names, Mapping):
            return dict(names)
        for name in names:
            if name not in self.pools:
                known = ", ".join(self.pools) or "none"
                raise InputError(f"pools: the site file has no pool '{name}' (it has {known}); add it there or here")
        return {name: self.pools[name] for name in names}
