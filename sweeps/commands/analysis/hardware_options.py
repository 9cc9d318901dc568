"""The options on the hardware that a model would be trained on, and its price."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from nextscale.sweeps.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.sweeps.budget.cluster import Cluster


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where it would be trained, and at what price."""

    panel: ClassVar = "Hardware"

    on: Annotated[
        str | None,
        typer.Option(metavar="NAMExCHIPS", help="such as h100x512; `nextscale hardware` lists the names"),
    ] = None
    utilisation: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1, help="of the peak, in model FLOPs \\[default: as RUNS measured it on such chips]"
        ),
    ] = None
    price: Annotated[float | None, typer.Option(min=0, help="dollars per chip-hour \\[default: the list price]")] = None
    spot: Annotated[bool, typer.Option("--spot", help="at the list price of what may be taken away")] = False
    pue: Annotated[
        float | None,
        typer.Option(min=1, help="energy of the building / of its machines \\[default: of the chips alone]"),
    ] = None
    site: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="NEXTSCALE_SITE", help="what this site says of its chips")
    ] = None

    def cluster(self, rows: pd.DataFrame | None) -> Cluster | None:
        """None where no hardware is named.

        Args:
            rows: the runs, some perhaps trained on such chips; None where there are none.
        """
        if self.on is None:
            for name in ("utilisation", "price", "pue"):
                if getattr(self, name) is not None:
                    raise SpecError(f"--{name}: is that of the hardware; name it with --on, such as --on h100x512")
            if self.spot:
                raise SpecError("--spot: is of the hardware; name it with --on, such as --on tpu-v5ex256")
            return None
        from nextscale.cluster.hardware.catalogue import with_measured_cpu
        from nextscale.sweeps.budget.cluster import cluster_of, parse_hardware
        from nextscale.sweeps.spec.site_file import load_site

        accelerators = load_site(self.site).catalogue("the site file" if self.site is None else str(self.site))
        if parse_hardware(self.on, accelerators)[0].platform == "cpu":
            accelerators = with_measured_cpu(accelerators)
        stated = {"utilisation": self.utilisation, "price": self.price, "pue": self.pue}
        return cluster_of(self.on, accelerators=accelerators, runs=rows, spot=self.spot, **stated)
