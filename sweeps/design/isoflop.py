"""Runs of an isoFLOP design: several model sizes at each of several compute budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nextscale.model.config.external import AnyModel
from nextscale.sweeps.design.planned_run import Expansion, PlannedRun
from nextscale.sweeps.design.sizes import window_widths
from nextscale.sweeps.spec.designs import IsoFlop, IsoFlopDesign
from nextscale.sweeps.spec.documents import Key
from nextscale.sweeps.spec.external import ExternalIsoFlop, SizeName
from nextscale.sweeps.spec.module import ModuleIsoFlop
from nextscale.sweeps.spec.run_config import config_of, models_of, training_of
from nextscale.sweeps.spec.sweep_spec import SweepSpec


def isoflop_runs(spec: SweepSpec, design: IsoFlop, key: Key = ("design",)) -> Iterator[PlannedRun]:
    for i, (budget, models) in enumerate(zip(design.budgets, _models(spec, design, key), strict=True)):
        for model in models:
            training = training_of(spec, model, budget, (*key, "flops", i))
            for seed in design.seeds:
                yield PlannedRun(config_of(spec, model, training, seed), "fit", budget, isoflop=True)


def _models(spec: SweepSpec, design: IsoFlop, key: Key) -> Iterator[Iterator[AnyModel]]:
    """Of each budget."""
    if isinstance(design, ExternalIsoFlop | ModuleIsoFlop):
        sizes: Sequence[Sequence[SizeName] | None] = design.sizes or [None] * len(design.budgets)
        return (models_of(spec, names, (*key, "sizes", i)) for i, names in enumerate(sizes))
    assert isinstance(design, IsoFlopDesign)
    widths = design.widths or window_widths(spec, design)
    return (models_of(spec, names, (*key, "widths", i)) for i, names in enumerate(widths))


def isoflop_count(design: IsoFlop) -> int:
    if isinstance(design, ExternalIsoFlop | ModuleIsoFlop):
        return sum(map(len, design.sizes or ())) * len(design.seeds)
    assert isinstance(design, IsoFlopDesign)
    sizes = design.sizes and design.sizes * len(design.budgets)
    return (sizes or sum(map(len, design.widths or ()))) * len(design.seeds)


def isoflop_resolved(spec: SweepSpec, design: IsoFlop) -> IsoFlop:
    """The same design with the widths that it leaves open."""
    if not isinstance(design, IsoFlopDesign) or design.sizes is None:
        return design
    return IsoFlopDesign(kind="isoflop", seeds=design.seeds, flops=design.budgets, widths=window_widths(spec, design))


EXPANSION = Expansion(isoflop_runs, isoflop_count, isoflop_resolved)
