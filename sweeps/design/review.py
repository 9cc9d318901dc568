"""Reviews a design: each fault that would spoil its forecast, in plain words and with a way to mend it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nextscale.model.config.data import DatasetData, MarkovData, single_sources
from nextscale.model.config.run import RunConfig
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.design.prior import Cost, Prior
from nextscale.sweeps.spec.designs import TOKENS_PER_PARAM

FEW_STEPS = 400
"""Below this, warm-up and the learning rate's course weigh more than the model does."""
FEW_SIZES, FEW_LENGTHS, FEW_BUDGETS = 4, 3, 3
MANY_EPOCHS = 4.0
"""Repeated so often, tokens are nearly worth new ones: Muennighoff et al. 2023 (arXiv 2305.16264), sec. 5."""
NEAR, FAR = 2.0, 10.0
"""Held-out compute / the largest fitted: nearer it tests nothing, farther no backtest within the runs reaches."""
ALIKE = 0.995
"""A correlation of log N and log D, either way, from which a fit cannot tell their exponents apart."""
_UNKNOWN = 3.0
"""By how much the best tokens per parameter of an unknown family may be off the published 20, either way."""
_EDGE = 0.15
"""Of a window's length in log N: an optimum so near its end has next to nothing on that side."""
_ONE_RATE = 4.0


def review(planned: Sequence[PlannedRun], prior: Prior, convention: str = "total") -> list[str]:
    """All of it.

    Args:
        prior: what is taken for true of the loss.
        convention: what N counts in the fit.
    """
    fitted = [run for run in planned if run.role == "fit"]
    held_out = [run for run in planned if run.role == "holdout"]
    found = [
        *short_runs(planned),
        *few_sizes(fitted),
        *few_budgets(fitted),
        *off_centre(fitted, prior, convention),
        *collinear(fitted, convention),
        *repeated_data(planned),
        *no_replicates(fitted),
        *many_recipes(fitted),
        *holdout_reach(fitted, held_out),
        *missed_budgets(planned),
        *one_learning_rate(fitted),
    ]
    return _named(found, planned)


def review_runs(planned: Sequence[PlannedRun]) -> list[str]:
    """Of runs that no law, or no law alone, is fitted to: the start of a sequential design, or a grid of recipes."""
    found = [*short_runs(planned), *repeated_data(planned), *missed_budgets(planned), *one_learning_rate(planned)]
    return _named(found, planned)


def _named(found: Sequence[str], planned: Sequence[PlannedRun]) -> list[str]:
    """The same, by what sizes are chosen by in such a sweep."""
    return [text.replace("widths", planned[0].config.model.named_by) for text in found]


def short_runs(planned: Sequence[PlannedRun]) -> list[str]:
    """Runs of too few steps."""
    few = [run.config.training.steps for run in planned if run.config.training.steps < FEW_STEPS]
    if not few:
        return []
    return [
        f"fewer than {FEW_STEPS} steps in {len(few)} of {len(planned)} runs (the shortest {min(few)}): their losses "
        "say more of warm-up than of size; raise the budgets, or take smaller widths or training.batch_tokens"
    ]


def few_sizes(fitted: Sequence[PlannedRun]) -> list[str]:
    """Budgets with too few sizes to have a minimum; where runs share no budgets, too few sizes or lengths in all."""
    curves = _curves(fitted)
    if curves:
        counts = {budget: len({run.params for run in runs}) for budget, runs in curves.items()}
        return [
            f"{count} sizes at {budget:.3g} FLOPs: a minimum needs {FEW_SIZES} or more to be told from noise"
            for budget, count in counts.items()
            if count < FEW_SIZES
        ]
    found = []
    sizes, lengths = len({run.params for run in fitted}), len({run.tokens for run in fitted})
    if sizes < FEW_SIZES:
        found.append(f"{sizes} sizes in all: the exponent of N rests on them; take {FEW_SIZES} or more widths")
    if lengths < FEW_LENGTHS:
        found.append(f"{lengths} lengths in all: the exponent of D rests on them; take {FEW_LENGTHS} or more")
    return found


def few_budgets(fitted: Sequence[PlannedRun]) -> list[str]:
    count = len(_curves(fitted))
    if not 0 < count < FEW_BUDGETS:
        return []
    return [f"{count} budgets: three or more are needed to backtest a forecast within the runs; add one below"]


def off_centre(fitted: Sequence[PlannedRun], prior: Prior, convention: str = "total") -> list[str]:
    """Budgets whose sizes do not surround the best one, by the law of earlier runs where there is one; by 20 tokens per
    parameter else, and then only if no ratio from 7 to 60 lies within."""
    found: dict[str, list[float]] = {"small": [], "large": [], "edge": []}
    curves = _curves(fitted)
    if not curves:
        return []
    cost = cost_of(fitted, convention)
    for budget, runs in curves.items():
        sizes = np.array([run.size(convention) for run in runs], float)
        low, high = sizes.min(), sizes.max()
        if low == high:
            continue
        if prior.from_own_runs:
            best = prior.best_size(budget, cost)
            place = np.log(best / low) / np.log(high / low)
        else:
            ratios = np.array([run.tokens for run in runs]) / sizes
            least, most = TOKENS_PER_PARAM / _UNKNOWN, TOKENS_PER_PARAM * _UNKNOWN
            # The largest has the fewest tokens per parameter.
            place = -1.0 if ratios.max() < least else 2.0 if ratios.min() > most else 0.5
        if place < 0:
            found["large"].append(budget)
        elif place > 1:
            found["small"].append(budget)
        elif not _EDGE <= place <= 1 - _EDGE:
            found["edge"].append(budget)
    by = "the runs in the store" if prior.from_own_runs else f"the usual {TOKENS_PER_PARAM:.0f} tokens per parameter"
    warnings = []
    for side, word, other in (("small", "below", "larger"), ("large", "above", "smaller")):
        if budgets := found[side]:
            warnings.append(
                f"all sizes at {_listed(budgets)} FLOPs lie {word} the best one by {by}: no minimum will show; add "
                f"{other} widths there"
            )
    if budgets := found["edge"]:
        warnings.append(
            f"the best size at {_listed(budgets)} FLOPs, by {by}, is at the end of the sizes there: move these, or the "
            "minimum will have one side"
        )
    return warnings


def collinear(fitted: Sequence[PlannedRun], convention: str = "total") -> list[str]:
    """N and D that move together, so that either could be what lowers the loss."""
    if len(fitted) < 3:
        return []
    logs = np.log([[run.size(convention), run.tokens] for run in fitted]).T
    spread = np.ptp(logs, axis=1)
    if spread.min() < 1e-9:
        same = ["sizes", "lengths"][int(spread.argmin())]
        return [f"{same} are all the same: what they do to the loss cannot be seen; vary them"]
    correlation = float(np.corrcoef(logs)[0, 1])
    if abs(correlation) <= ALIKE:
        return []
    how = "rise together, as at one ratio of tokens to parameters" if correlation > 0 else "trade off, as at one budget"
    return [
        f"N and D {how} (correlation of their logarithms {correlation:.4f}): the exponent of one cannot be told from "
        "that of the other; add runs of other tokens per parameter"
    ]


def repeated_data(planned: Sequence[PlannedRun]) -> list[str]:
    """Data that is read so often that more of it would be worth more; only where its size is known."""
    most = max(planned, key=lambda run: run.tokens)
    unique = unique_tokens(most)
    if unique is None:
        return []
    many = [run for run in planned if run.tokens > MANY_EPOCHS * unique]
    if not many:
        return []
    return [
        f"{len(many)} of {len(planned)} runs read the data more than {MANY_EPOCHS:g} times over, the longest "
        f"{most.tokens / unique:.3g} times its {unique:.3g} tokens: from there on a "
        "repeated token is worth less than a new one, and a law in N and D does not know; take more "
        "data or smaller budgets"
    ]


def no_replicates(fitted: Sequence[PlannedRun]) -> list[str]:
    """All runs of one seed."""
    if len({run.config.seed for run in fitted}) > 1:
        return []
    return [
        "no run is repeated with another seed: the noise of a run can then only be judged by how far the law misses; "
        "design.seeds: [0, 1] tells it"
    ]


def many_recipes(fitted: Sequence[PlannedRun]) -> list[str]:
    """Runs that differ in what no law in N and D knows of."""
    found: dict[tuple[int, int], set[str]] = {}
    for run in fitted:
        recipe = run.config.model_copy(update={"seed": 0}).model_dump_json()
        found.setdefault((run.params, run.tokens), set()).add(recipe)
    if all(len(recipes) == 1 for recipes in found.values()):
        return []
    return [
        "runs of one size and length differ in more than their seed: a law over all takes what that makes of the loss "
        "for noise; fit each recipe by itself"
    ]


def holdout_reach(fitted: Sequence[PlannedRun], held_out: Sequence[PlannedRun]) -> list[str]:
    """A held-out scale that tests nothing, or more than these runs can say."""
    if not held_out or not fitted:
        return []
    times = max(run.budget for run in held_out) / max(run.budget for run in fitted)
    if times > FAR:
        return [f"the holdout is {times:.3g} times the largest budget: no backtest here reaches that far; lower it"]
    if times < NEAR:
        return [
            f"the holdout is only {times:.3g} times the largest budget: a forecast so near tests little; raise it to "
            f"{NEAR:g} to {FAR:g} times"
        ]
    return []


def missed_budgets(planned: Sequence[PlannedRun]) -> list[str]:
    """Steps so large that a whole number of them is not the budget."""
    off = max((abs(run.flops / run.budget - 1) for run in planned), default=0.0)
    if off <= 0.01:
        return []
    return [f"whole steps miss a budget by up to {off:.1%}: take smaller training.batch_tokens"]


def one_learning_rate(fitted: Sequence[PlannedRun]) -> list[str]:
    """One learning rate for widths far apart, where nothing else scales it."""
    own = [run.config for run in fitted if isinstance(run.config, RunConfig)]
    widths = [config.model.width for config in own if config.model.width is not None]
    if len(widths) < len(fitted):  # how the rate of somebody else's model goes with size is its own matter
        return []
    trainings = [config.training for config in own]
    plain = all(t.parametrization == "standard" and t.optimizer == "adamw" for t in trainings)
    if not plain or len({t.lr for t in trainings}) > 1 or max(widths) < _ONE_RATE * min(widths):
        return []
    return [
        f"one learning rate, {trainings[0].lr:g}, for widths {min(widths)} to {max(widths)}: it cannot be right for "
        "all, and what that costs some bends the law; take training.parametrization mup, or a rule for training.lr"
    ]


def cost_of(runs: Sequence[PlannedRun], convention: str) -> Cost:
    return Cost.of([run.size(convention) for run in runs], [run.flops / run.tokens for run in runs])


def unique_tokens(run: PlannedRun) -> int | None:
    """How much different data a run reads at most; None where it is without end or only its author knows."""
    if not isinstance(run.config, RunConfig):
        return None
    if any(isinstance(part, MarkovData | DatasetData) for part in single_sources(run.config.data).values()):
        return None
    from nextscale.model.data.sources import open_source

    return open_source(run.config).unique_tokens(run.tokens)


def _curves(fitted: Sequence[PlannedRun]) -> dict[float, list[PlannedRun]]:
    """The runs of each budget that are to have a minimum together."""
    found: dict[float, list[PlannedRun]] = {}
    for run in fitted:
        if run.isoflop:
            found.setdefault(run.budget, []).append(run)
    return dict(sorted(found.items()))


def _listed(budgets: Sequence[float]) -> str:
    return ", ".join(f"{budget:.3g}" for budget in budgets)
