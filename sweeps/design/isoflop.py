"""Runs of an isoFLOP design: several model sizes at each of several compute budgets."""

from __future__ import annotations

from collections.abc import Iterator

from nextscale.sweeps.design.planned_run import Expansion, PlannedRun
from nextscale.sweeps.design.sizes import window_widths
from nextscale.sweeps.spec.designs import IsoFlopDesign
from nextscale.sweeps.spec.documents import Key
from nextscale.sweeps.spec.run_config import config_of, model_of, training_of
from nextscale.sweeps.spec.sweep_spec import SweepSpec


def isoflop_runs(spec: SweepSpec, design: IsoFlopDesign, key: Key = ("design",)) -> Iterator[PlannedRun]:
    for i, (budget, widths) in enumerate(
        zip(design.budgets, design.widths or window_widths(spec, design), strict=True)
    ):
        for j, width in enumerate(widths):
            model = model_of(spec, width, (*key, "widths", i, j))
            training = training_of(spec, model, budget, (*key, "flops", i))
            for seed in design.seeds:
                yield PlannedRun(config_of(spec, model, training, seed), "fit", budget, isoflop=True)


def isoflop_count(design: IsoFlopDesign) -> int:
    sizes = design.sizes and design.sizes * len(design.budgets)
    return (sizes or sum(map(len, design.widths or ()))) * len(design.seeds)


def isoflop_resolved(spec: SweepSpec, design: IsoFlopDesign) -> IsoFlopDesign:
    """The same design with the widths that it leaves open."""
    if design.sizes is None:
        return design
    return IsoFlopDesign(kind="isoflop", seeds=design.seeds, flops=design.budgets, widths=window_widths(spec, design))


EXPANSION = Expansion(isoflop_runs, isoflop_count, isoflop_resolved)
