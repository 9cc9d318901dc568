"""The law of a sweep's runs, as its spec would have it."""

from __future__ import annotations

from nextscale.fit.estimate.fit import Fit
from nextscale.fit.laws.loss import Loss
from nextscale.fit.table.runs import Runs
from nextscale.fit.trust.forecaster import AUTO, chosen_law, fit_forecaster
from nextscale.sweeps.spec.sweep_spec import ForecastConfig


def law_of(runs: Runs, options: ForecastConfig) -> Fit:
    """What a forecast from these runs rests on (see `nextscale.fit.trust.forecaster.fit_forecaster`).

    Raises:
        InputError: no law, or not the one that is named, can be fitted to them.
    """
    how = options.model_dump(include={"level", "resamples", "bootstrap", "delta", "drift"})
    if options.law != AUTO:
        return fit_forecaster(runs, options.law, **how)
    chosen = chosen_law(runs, [Loss.of("huber", options.delta)], [{"N", "D"}])
    return fit_forecaster(runs, chosen.law, **how)
