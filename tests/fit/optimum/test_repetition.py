"""What repeated data is worth, from runs that follow the law."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import fit
from nextscale.fit.laws.formula_laws import DATA_CONSTRAINED
from nextscale.fit.optimum.repetition import PUBLISHED_WORTH, Worth, best_on_limited_data, price_of_repeats, repetition

E, A, B, ALPHA, R_D = 1.8, 60.0, 180.0, 0.35, 12.0


def table(limits=(None, 2e6, 1e6)):
    """Runs of the law, with sizes small enough for their data that none is too many parameters (N' = N)."""
    rows = []
    for N in (1e4, 3e4, 1e5):
        for D in (1e6, 4e6, 1.6e7, 6.4e7):
            for limit in limits:
                U = min(D, limit or D)
                worth = U * (1 + R_D * (1 - np.exp(-(D / U - 1) / R_D)))
                loss = E + A / N**ALPHA + B / worth**ALPHA
                rows.append({"params": N, "tokens": D, "unique_tokens": U, "flops": 6 * N * D, "loss": loss})
    return pd.DataFrame(rows).drop_duplicates(ignore_index=True)


@pytest.mark.slow
def test_R_D_is_recovered():
    found = repetition(table(), resamples=20)
    assert found.fresh.parameters["alpha"] == pytest.approx(ALPHA, rel=1e-3)
    assert found.law.parameters["R_D"] == pytest.approx(R_D, rel=0.02)
    assert found.worth([1, 4]) == pytest.approx([1, 1 + R_D * (1 - np.exp(-3 / R_D))], rel=0.01)
    assert found.worth(1000) == pytest.approx(1 + R_D, rel=0.02)


def test_without_repeats_there_is_nothing_to_find():
    with pytest.raises(InputError, match="no run saw its data more than once"):
        repetition(table(limits=(None,)))


@pytest.fixture(scope="module")
def found(isoflop_grid):
    tied = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.36, "beta": 0.36}
    return fit(isoflop_grid(noise=0.001, law=tied), "chinchilla-tied", resamples=100)


class TestWhereThereIsNotDataEnough:
    """Held against the law of repeated data as it ships, of which this is the same but for what N and D it takes."""

    UNIQUE, BUDGET = 2e9, 5e20

    def test_the_best_is_where_the_law_of_repeated_data_is_lowest(self, found):
        own = {name: found.parameters[name] for name in ("E", "A", "B", "alpha")}
        growth = (own["A"] / own["B"]) ** (1 / own["alpha"])
        told = best_on_limited_data(found, self.BUDGET, self.UNIQUE, growth * self.UNIQUE, PUBLISHED_WORTH)
        sizes = np.geomspace(1e8, 1e12, 20_001)
        at = {"N": sizes, "D": self.BUDGET / 6 / sizes, "U": np.full(len(sizes), self.UNIQUE)}
        whole = own | {"R_N": PUBLISHED_WORTH.R_N, "R_D": PUBLISHED_WORTH.R_D}
        values = np.array([whole[name] for name in DATA_CONSTRAINED.parameters])
        theta = np.where(DATA_CONSTRAINED.on_log_scale, np.log(values), values)
        losses = np.exp(DATA_CONSTRAINED.log_losses(theta[None], at)[0])
        assert told.loss == pytest.approx(losses.min(), rel=1e-6)
        assert told.params == pytest.approx(sizes[losses.argmin()], rel=2e-3)
        assert told.epochs == pytest.approx(self.BUDGET / 6 / told.params / self.UNIQUE)
        assert told.loss_interval[0] < told.loss < told.loss_interval[1]
        assert told.params_interval[0] < told.params < told.params_interval[1]
        assert told.tokens_interval[0] < told.tokens < told.tokens_interval[1]

    @pytest.mark.parametrize("worthless", [0.0, 1e-9])
    def test_what_repeats_cannot_buy_is_not_spent(self, found, worthless):
        """Each token and parameter is worth itself once: any size from the optimum of what there is comes to the same
        loss with the rest of the budget, and the one that takes no more than that is told."""
        own = {name: found.parameters[name] for name in ("A", "B", "alpha")}
        size = (own["A"] / own["B"]) ** (1 / own["alpha"]) * self.UNIQUE
        told = best_on_limited_data(found, 1e24, self.UNIQUE, size, Worth(worthless, worthless, "nothing"))
        alone = float(found.predict([size], [self.UNIQUE])[0])
        assert alone * 0.999 <= told.loss <= alone * 1.0011
        assert told.flops < 1.2 * 6 * size * self.UNIQUE < 1e24
        assert told.flops == pytest.approx(6 * told.params * told.tokens)
        assert told.epochs <= 1.05
        low, high = told.params_interval
        assert 0.5 * size < low <= told.params <= high < 2 * size

    def test_a_budget_that_buys_something_is_spent(self, found):
        assert best_on_limited_data(found, self.BUDGET, self.UNIQUE, 1e9, PUBLISHED_WORTH).flops == self.BUDGET

    def test_a_budget_beyond_all_repeats_comes_to_the_same_model_as_one_less_far_beyond(self, found):
        far, farther = (best_on_limited_data(found, flops, 1e8, 1e8, PUBLISHED_WORTH) for flops in (1e24, 1e26))
        assert farther.params == pytest.approx(far.params, rel=0.01)
        assert farther.flops == pytest.approx(far.flops, rel=0.01)

    def test_repeats_cost_nothing_where_there_are_none(self, found):
        price, (low, high) = price_of_repeats(found, 1e9, self.UNIQUE, self.UNIQUE, 1e9, PUBLISHED_WORTH)
        assert (price, low, high) == pytest.approx((0, 0, 0), abs=1e-12)

    def test_the_price_rises_with_the_epochs(self, found):
        told = [price_of_repeats(found, 1e9, n * 2e9, 2e9, 1e9, PUBLISHED_WORTH) for n in (2, 4, 16, 100)]
        prices = [price for price, _ in told]
        assert prices == sorted(prices)
        assert all(low < price < high for price, (low, high) in told)
