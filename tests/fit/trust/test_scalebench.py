"""ScaleBench (arXiv 2604.22753): of all quick laws that ship and all losses, the one that a backtest on the training
runs alone chooses, scored on the others. R² that others reached at best: .93, .91 and .83."""

import numpy as np
import pytest

from nextscale.fit import Columns, as_runs, fit
from nextscale.fit.trust.candidates import variables_in, weigh_repeats_as_one
from nextscale.fit.trust.choice import choose

COLUMNS = {
    "farseer": Columns(params="N", tokens="D"),
    "data_constrained": Columns(),
    "moe": Columns(params="dense_parameter_count", loss="loss_validation", others={"experts": "num_experts"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, bar",
    # On data_constrained no law forecasts the larger training runs to better than 9 %, and the rule takes the simplest
    # of those that are no worse: what it scores there is partly luck.
    [("farseer", 0.93), ("data_constrained", 0.95), ("moe", 0.88)],
)
def test_the_law_that_the_training_runs_choose_forecasts_the_others(published, name, bar):
    table, columns = published(f"scalebench_{name}.csv"), COLUMNS[name]
    variables = variables_in(table, columns)
    train, test = (
        as_runs(table[table["split"] == part], columns=columns, variables=variables) for part in ("train", "test")
    )
    best = choose(train).best
    found = fit(weigh_repeats_as_one(train), best.law, loss=best.loss, resamples=0)
    measured = test.table["loss"].to_numpy()
    predicted = np.exp(found.log_losses(found.theta[None], test.table)[0])
    assert 1 - np.square(predicted - measured).sum() / np.square(measured - measured.mean()).sum() >= bar
