"""Loads the site file, and looks up the pools of a spec in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from nextscale.cluster.hardware.catalogue import Accelerator, lookup
from nextscale.cluster.hardware.placement import price
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.site import Site
from nextscale.model.errors import InputError
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec import documents
from nextscale.sweeps.spec.sweep_spec import Pools
from nextscale.sweeps.spec.validation_errors import spec_error_of

SITE_VARIABLE = "NEXTSCALE_SITE"
DEFAULT_PATH = "~/.config/nextscale/site.yaml"


def load_site(path: str | Path | None = None) -> Site:
    """The site file: `path`, else what $NEXTSCALE_SITE names, else ~/.config/nextscale/site.yaml if there is one.

    Raises:
        SpecError: one line, `file:line: key: what, and how to mend it`.
    """
    named = path or os.environ.get(SITE_VARIABLE)
    file = Path(named or DEFAULT_PATH).expanduser()
    if not named and not file.is_file():
        return Site()
    document = documents.read(file)
    try:
        site = Site.model_validate(document.content)
        site.catalogue(str(file))
    except ValidationError as error:
        raise document.with_place(spec_error_of(error, document.content, Site, "site file")) from None
    except InputError as error:
        key = tuple(str(error).partition(":")[0].split(".", 1))
        raise SpecError(f"{document.place(key)}: {error}") from None
    return site.model_copy(update={"gates": site.gates.with_places(lambda name: document.place(("gates", name)))})


def pools_of(pools: Pools, site: Site, accelerators: Mapping[str, Accelerator]) -> dict[str, Pool] | None:
    """The pools of a spec, each with the price that holds for it, and its accelerator as the catalogue writes it; None
    for `auto`: those are read off the cluster.

    Raises:
        SpecError: a pool is not in the site file, or its accelerator not in the catalogue.
    """
    if pools == "auto":
        return None
    found = {}
    try:
        named = site.pools_named(pools)
    except InputError as error:
        raise SpecError(str(error), ("pools",)) from None
    for name, pool in named.items():
        try:
            accelerator = lookup(pool.accelerator, accelerators)
            usd, _ = price(pool, accelerator)
        except InputError as error:
            raise SpecError(f"pools.{name}.accelerator: {error}", ("pools", name, "accelerator")) from None
        found[name] = pool.model_copy(update={"accelerator": accelerator.name, "usd_per_chip_hour": usd})
    return found


def price_notes(pools: Pools, site: Site, accelerators: Mapping[str, Accelerator]) -> list[str]:
    """What to know of the prices of a spec's pools: which have none, and which spot pool has that on demand."""
    notes = []
    for name, pool in () if pools == "auto" else site.pools_named(pools).items():
        accelerator = lookup(pool.accelerator, accelerators)
        usd, basis = price(pool, accelerator)
        if usd is None or (pool.spot and pool.usd_per_chip_hour is None and not accelerator.usd_per_chip_hour_spot):
            notes.append(f"pool {name}: {basis}")
    return notes
