"""What compute takes on a cluster: device-hours, days, dollars and energy, and how much compute each of them buys.

Plain arithmetic, in which each direction is the other turned round; which model to spend it on is for a fit to say.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nextscale.cluster.hardware.catalogue import CATALOGUE, Accelerator, lookup
from nextscale.cluster.hardware.placement import LARGE_RUNS
from nextscale.cluster.hardware.placement import utilisation as expected_utilisation
from nextscale.model.errors import InputError
from nextscale.sweeps.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

SECONDS_PER_HOUR = 3600.0
LARGE_MODEL = {"cpu": 1e6, "cuda": 1e8, "tpu": 1e8}
"""Parameters from which on a model is expected to reach the utilisation that is assumed where none is known."""
_TAIL = 0.05
"""Of the measured compute on either side of a range."""
_FAR = 10.0
"""How many times larger a model may be than those that a utilisation was measured of, before that is said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """So many chips of one kind that train one model, how well, and at what price.

    Attributes:
        chips: on a CPU, cores.
        utilisation: model FLOPs / what the chips could do at their peak in that time (MFU; Chowdhery et al. 2022,
            app. B), restarts and all.
        basis: whether that was measured, stated or assumed, and by what.
        utilisation_range: what nine tenths of the compute that was measured reached, or published runs of large models
            where it is assumed; None where nobody says.
        measured_params: the largest model that it was measured of; None where it was not.
        usd_per_chip_hour: None where nobody says.
        priced: which price that is, and of when.
        pue: energy of the whole building / that of its machines (power usage effectiveness); None where it was not
            stated, and energy is that of the chips alone.
    """

    accelerator: Accelerator
    chips: int
    utilisation: float
    basis: str = "stated"
    utilisation_range: tuple[float, float] | None = None
    measured_params: float | None = None
    usd_per_chip_hour: float | None = None
    priced: str | None = None
    pue: float | None = None

    def __post_init__(self) -> None:
        if self.accelerator.peak_flops is None:
            raise SpecError(
                f"{self.accelerator.name}: its peak is not known, and so not how long anything takes; state its "
                "peak_flops in a site file"
            )
        if self.chips < 1:
            raise SpecError(f"chips: should be 1 or more, not {self.chips}")
        if not 0 < self.utilisation <= 1:
            raise SpecError(f"utilisation: should lie above 0 and be 1 at most, not {self.utilisation:g}")
        if self.usd_per_chip_hour is not None and not 0 <= self.usd_per_chip_hour < math.inf:
            raise SpecError(f"price: should be dollars per chip-hour, 0 or more, not {self.usd_per_chip_hour:g}")
        if self.pue is not None and not 1 <= self.pue < math.inf:
            raise SpecError(f"pue: should be 1 or more, not {self.pue:g}")

    @property
    def name(self) -> str:
        """As it is written: h100x512."""
        return f"{self.accelerator.name}x{self.chips}"

    @property
    def flops_per_device_hour(self) -> float:
        assert self.accelerator.peak_flops is not None
        return SECONDS_PER_HOUR * self.accelerator.peak_flops * self.utilisation

    @property
    def kwh_per_device_hour(self) -> float | None:
        """Chips at their power limit, times the PUE (as Touvron et al. 2023, sec. 6, count it); None where nobody says
        what a chip draws."""
        watts = self.accelerator.watts
        return None if watts is None else watts / 1000 * (self.pue or 1.0)

    def device_hours(self, flops: float) -> float:
        return flops / self.flops_per_device_hour

    def days(self, flops: float) -> float:
        """Of the clock, with all chips at work."""
        return self.device_hours(flops) / (24 * self.chips)

    def usd(self, flops: float) -> float | None:
        """None where no price is known."""
        return None if self.usd_per_chip_hour is None else self.device_hours(flops) * self.usd_per_chip_hour

    def kwh(self, flops: float) -> float | None:
        """None where no power is known."""
        return None if self.kwh_per_device_hour is None else self.device_hours(flops) * self.kwh_per_device_hour

    def flops_for_device_hours(self, hours: float) -> float:
        return hours * self.flops_per_device_hour

    def flops_for_days(self, days: float) -> float:
        return self.flops_for_device_hours(days * 24 * self.chips)

    def flops_for_usd(self, usd: float) -> float:
        """
        Raises:
            SpecError: no price is known, or it is nothing.
        """
        if not self.usd_per_chip_hour:
            what = "no price is known" if self.usd_per_chip_hour is None else "it costs nothing"
            raise SpecError(
                f"{self.accelerator.name}: {what}, so dollars buy no certain compute; state one with --price"
            )
        return self.flops_for_device_hours(usd / self.usd_per_chip_hour)

    def costs(self, flops: float | None, interval: Sequence[float | None] | None = None) -> dict[str, Any]:
        """By the name of each of `MEASURES`, and its `_interval`.

        Args:
            flops: None where nobody can say.
            interval: of these, of which an end that is None or infinite is open. None, or one without width, where the
                FLOPs are given: then what they cost is as certain, and has none.
        """
        given = interval is None or list(interval) == [flops, flops]
        costs: dict[str, Any] = {}
        for name, measure in MEASURES.items():
            costs[name] = None if flops is None else measure(self, flops)
            unknown = given or measure(self, 1.0) is None
            costs[f"{name}_interval"] = None if unknown else [_of_end(self, measure, end) for end in interval or ()]
        return costs

    def assumptions(self) -> list[str]:
        """What its figures rest on."""
        peak, watts = self.accelerator.peak_flops, self.accelerator.watts
        price, energy = "no price is known; state one with --price", "no power is known, and so no energy"
        if self.usd_per_chip_hour is not None:
            price = f"${self.usd_per_chip_hour:g} per chip-hour, {self.priced}"
        if watts is not None:
            whole = "of the chips alone: no PUE was stated" if self.pue is None else f"with a PUE of {self.pue:g}"
            energy = f"energy at {watts:g} W a chip, {whole}"
        notes = (f"{self.utilisation:.3g} of the peak of {peak:.4g} FLOP/s a chip, {self.basis}", price, energy)
        return [f"{self.name}: {text}" for text in notes]

    def warnings(self, params: float) -> list[str]:
        """What may be wrong with its utilisation for a model of so many parameters."""
        if self.measured_params is not None:
            if params <= _FAR * self.measured_params:
                return []
            return [
                f"{self.name}: its utilisation was measured on models of up to {self.measured_params:.3g} parameters; "
                f"one of {params:.3g} may well reach another: state it with --utilisation"
            ]
        if self.basis.startswith("assumed") and params < (large := LARGE_MODEL[self.accelerator.platform]):
            return [
                f"{self.name}: the utilisation assumed is that of models of {large:.0e} parameters and more; one of "
                f"{params:.3g} reaches less, and takes longer: state it with --utilisation"
            ]
        return []

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "accelerator": self.accelerator.name,
            "chips": self.chips,
            "peak_flops": self.accelerator.peak_flops,
            "utilisation": self.utilisation,
            "utilisation_basis": self.basis,
            "utilisation_range": self.utilisation_range,
            "usd_per_chip_hour": self.usd_per_chip_hour,
            "priced": self.priced,
            "watts": self.accelerator.watts,
            "pue": self.pue,
            "flops_per_device_hour": self.flops_per_device_hour,
        }


MEASURES: Mapping[str, Callable[[Cluster, float], float | None]] = {
    "device_hours": Cluster.device_hours,
    "days": Cluster.days,
    "usd": Cluster.usd,
    "kwh": Cluster.kwh,
}
"""What so many FLOPs take on a cluster; each is proportional to them."""

BUYS: Mapping[str, Callable[[Cluster, float], float]] = {
    "device_hours": Cluster.flops_for_device_hours,
    "days": Cluster.flops_for_days,
    "usd": Cluster.flops_for_usd,
}
"""How many FLOPs so much of each buys."""


def _of_end(cluster: Cluster, measure: Callable[[Cluster, float], float | None], end: float | None) -> float | None:
    return None if end is None or not math.isfinite(end) else measure(cluster, end)


@dataclasses.dataclass(frozen=True)
class MeasuredUtilisation:
    """The utilisation of runs that were trained: of all their FLOPs together.

    Attributes:
        ends: of the middle nine tenths of these FLOPs, by the utilisation of the run that they are of.
        params: of the largest of these models.
        left_out: runs on it that were not timed, or not in numbers that can be.
    """

    share: float
    ends: tuple[float, float]
    runs: int
    params: float | None
    left_out: int


def measured_utilisation(table: pd.DataFrame, accelerator: Accelerator) -> MeasuredUtilisation | None:
    """What the runs of a table reached on an accelerator; None where none was timed on one.

    Args:
        table: with columns `accelerator` and, as `nextscale.sweeps.load` returns it, `flops_kept` and `device_hours`
            (of which what was lost to restarts is a part); or else `utilisation` and `flops`.
    """
    columns = {*table.columns}
    if "accelerator" not in columns:
        return None
    here = on_it = table[table["accelerator"] == accelerator.name]
    if {"flops_kept", "device_hours"} <= columns:
        # By the time taken, for the peak of a CPU is as it is measured now, and may have been another then.
        here = here[(here["flops_kept"] > 0) & (here["device_hours"] > 0)]
        made = here["flops_kept"]
        each = made / (here["device_hours"] * SECONDS_PER_HOUR * (accelerator.peak_flops or math.inf))
    elif {"utilisation", "flops"} <= columns:
        here = here[here["utilisation"].between(0, 1, inclusive="right") & (here["flops"] > 0)]
        made, each = here["flops"], here["utilisation"]
    else:
        return None
    if here.empty:
        return None
    params = float(here["params"].max()) if "params" in columns else None
    made, each = made.astype(float), each.astype(float)
    share = min(float(made.sum() / (made / each).sum()), 1.0)
    return MeasuredUtilisation(share, _ends_around(share, each, made), len(here), params, len(on_it) - len(here))


def _ends_around(share: float, each: pd.Series, made: pd.Series) -> tuple[float, float]:
    """Between which utilisations the middle nine tenths of some FLOPs lie, and what they came to together."""
    order = each.sort_values().index
    below = made[order].cumsum() / made.sum()
    low, high = (min(float(each[order].iloc[int((below < part).sum())]), 1.0) for part in (_TAIL, 1 - _TAIL))
    return min(low, share), max(high, share)


def parse_hardware(text: str, accelerators: Mapping[str, Accelerator] = CATALOGUE) -> tuple[Accelerator, int]:
    """An accelerator and how many, from such as `h100x512`; of a name alone one.

    Raises:
        SpecError: no accelerator has that name, or the number is none.
    """
    name, chips = text, "1"
    if text not in accelerators and (found := re.fullmatch(r"(.+)[xX×*](\d+)", text)):
        name, chips = found.groups()
    try:
        accelerator = lookup(name, accelerators)
    except InputError as error:
        raise SpecError(f"--on {text}: {error}") from None
    if not 1 <= int(chips) <= 10_000_000:
        raise SpecError(f"--on {text}: write it as NAMExCHIPS with 1 chip or more, such as {name}x512")
    return accelerator, int(chips)


def cluster_of(
    text: str,
    *,
    accelerators: Mapping[str, Accelerator] = CATALOGUE,
    runs: pd.DataFrame | None = None,
    utilisation: float | None = None,
    price: float | None = None,
    spot: bool = False,
    pue: float | None = None,
) -> Cluster:
    """A cluster from such as `h100x512`, with what is known of it.

    Args:
        accelerators: the catalogue, with what a site says.
        runs: a table of runs, some perhaps trained on one; see `measured_utilisation`.
        utilisation: as stated; else that of `runs`; else what a large model is expected to reach.
        price: dollars per chip-hour; else the list price.
        spot: the list price of what may be taken away.
        pue: see `Cluster`.

    Raises:
        SpecError: a name or a figure cannot be used, or no price is listed for spot.
    """
    accelerator, chips = parse_hardware(text, accelerators)
    measured, ends = None, None
    if utilisation is not None:
        basis = "as stated"
    elif (measured := None if runs is None else measured_utilisation(runs, accelerator)) is not None:
        left_out = f" ({measured.left_out} more without a usable time left out)" if measured.left_out else ""
        utilisation, basis = measured.share, f"as measured over {measured.runs} runs on it{left_out}"
        ends = measured.ends if measured.runs > 1 else None
    else:
        utilisation, ends = expected_utilisation(accelerator, math.inf), LARGE_RUNS
        basis = "assumed, for none was stated and no run was timed on it: PaLM reached .46, others .21 to .33"
        if accelerator.platform == "cpu":
            basis, ends = "assumed, for none was stated and no run was timed on it", None
    usd, priced = (price, "as stated") if price is not None else _listed(accelerator, spot)
    return Cluster(
        accelerator=accelerator,
        chips=chips,
        utilisation=utilisation,
        basis=basis,
        utilisation_range=ends,
        measured_params=None if measured is None else measured.params,
        usd_per_chip_hour=usd,
        priced=priced,
        pue=pue,
    )


def _listed(accelerator: Accelerator, spot: bool) -> tuple[float | None, str | None]:
    if not spot:
        return accelerator.usd_per_chip_hour, accelerator.priced
    if accelerator.usd_per_chip_hour_spot is None:
        raise SpecError(f"--spot: no spot price is listed for {accelerator.name}; state one with --price")
    return accelerator.usd_per_chip_hour_spot, f"spot, {accelerator.priced}"
