"""Mixtures of domains: a law finds its own again, the best is where calculus puts it, odd tables are refused."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import Columns, InputError, as_runs, fit
from nextscale.fit.laws.recipe_laws import mixture_law
from nextscale.fit.tuning.mixtures import best_mixture, check_proportions

WEB_CODE = ["web", "code"]


def table_of(rates, shares=(0.05, 0.95, 9), sizes=(1e8, 3e8, 1e9), noise=0.0):
    """Runs of two domains, each helping its own loss and, by its rate, the other's; of the power 1/2."""
    web, params = (grid.ravel() for grid in np.meshgrid(np.linspace(*shares), sizes))
    table = pd.DataFrame({"params": params, "web": web, "code": 1 - web})
    scatter = np.exp(noise * np.random.default_rng(0).standard_normal((2, len(table))))
    for k, name in enumerate(("web_loss", "code_loss")):
        learnt = rates[k][0] * np.sqrt(table.web) + rates[k][1] * np.sqrt(table.code)
        table[name] = (1.5 + 200 / params**0.3 + 1 / learnt) * scatter[k]
    return table


def runs_of(table, *losses):
    return {name: as_runs(table, columns=Columns(loss=name), variables=("N", *WEB_CODE)) for name in losses}


class TestProportions:
    def test_of_a_row_that_do_not_sum_to_1_are_refused(self):
        table = pd.DataFrame({"web": [0.5, 0.6, 0.7], "code": [0.5, 0.3, 0.3]})
        with pytest.raises(InputError, match=r"row 2: the proportions of web, code sum to 0\.9, not 1"):
            check_proportions(table, WEB_CODE)

    @pytest.mark.parametrize("odd, said", [(-0.5, "below 0"), (np.nan, "missing")])
    def test_that_are_none_are_refused(self, odd, said):
        with pytest.raises(InputError, match=f"row 1: a proportion is {said}"):
            check_proportions(pd.DataFrame({"web": [odd], "code": [1.5]}), WEB_CODE)

    def test_that_are_rounded_sum_to_1_after(self):
        shares = check_proportions(pd.DataFrame({"a": [0.333], "b": ["0.333"], "c": [0.333]}), ["a", "b", "c"])
        np.testing.assert_allclose(shares, 1 / 3)

    def test_of_no_such_column(self):
        with pytest.raises(InputError, match="there is no column 'code'"):
            check_proportions(pd.DataFrame({"web": [1.0]}), WEB_CODE)


class TestMixture:
    def test_domains_are_two_or_more(self):
        for domains in ([], ["web"], ["web", "web"], ["N", "web"]):
            with pytest.raises(InputError, match="domains: two or more"):
                mixture_law(domains)

    def test_needs_more_mixtures_than_a_law_has_of_them(self):
        runs = runs_of(table_of([[1, 0.2], [0.2, 1]], shares=(0.2, 0.8, 4)), "web_loss")
        with pytest.raises(InputError, match="2 domains need 5 mixtures or more; got 4"):
            best_mixture(runs, WEB_CODE)

    @pytest.mark.slow
    def test_its_law_finds_its_parameters_again(self):
        table = table_of([[2.0, 0.5], [0.4, 1.5]])
        found = fit(runs_of(table, "web_loss")["web_loss"], mixture_law(WEB_CODE, ["N"]), resamples=0)
        known = {"E": 1.5, "A": 200.0, "alpha": 0.3, "C[web]": 2.0, "C[code]": 0.5}
        assert found.parameters == pytest.approx(known | {"gamma[web]": 0.5, "gamma[code]": 0.5}, rel=1e-4)

    @pytest.mark.slow
    @pytest.mark.soak
    def test_the_best_is_where_calculus_puts_it(self):
        """a sqrt(h) + b sqrt(1 - h) is largest at h = a^2 / (a^2 + b^2); for two losses that mirror each other a half
        is best; and one that weighs more pulls it over."""
        table = table_of([[2.0, 1.0], [1.0, 2.0]], noise=1e-4)
        alone = best_mixture(runs_of(table, "web_loss"), WEB_CODE, resamples=40)
        assert alone.proportions["web"] == pytest.approx(0.8, abs=0.01)
        low, high = alone.intervals["web"]
        assert low <= 0.8 <= high
        assert high - low < 0.05
        runs = runs_of(table, "web_loss", "code_loss")
        both = best_mixture(runs, WEB_CODE, resamples=20)
        assert both.proportions["web"] == pytest.approx(0.5, abs=0.01)
        assert not both.warnings
        assert (both.held_out.r2 > 0.99).all()
        weighed = best_mixture(runs, WEB_CODE, {"web_loss": 3}, resamples=20)
        assert weighed.weights == {"web_loss": 0.75, "code_loss": 0.25}
        assert 0.5 < weighed.proportions["web"] < 0.8

    @pytest.mark.slow
    def test_runs_of_one_size_need_not_tell_it(self):
        table = table_of([[2.0, 1.0], [1.0, 2.0]], sizes=(1e8,), noise=1e-4).drop(columns="params")
        runs = as_runs(table, columns=Columns(loss="web_loss"), variables=WEB_CODE)
        found = best_mixture({"web_loss": runs}, WEB_CODE, resamples=20)
        assert found.proportions["web"] == pytest.approx(0.8, abs=0.02)
        assert found.held_out.largest_error.isna().all()

    @pytest.mark.slow
    def test_one_beyond_what_was_tried_is_said_to_be(self):
        table = table_of([[2.0, 0.1], [0.1, 2.0]], shares=(0.1, 0.6, 9))
        found = best_mixture(runs_of(table, "web_loss"), WEB_CODE, resamples=20)
        assert found.proportions["web"] == pytest.approx(0.6)
        assert any("web: the best proportion is the largest that was tried, 0.6" in text for text in found.warnings)

    @pytest.mark.slow
    @pytest.mark.soak
    def test_five_domains_of_scalebench(self, published):
        """R² of .81 is what its paper reaches on other runs (arXiv 2604.22753); here of mixtures left out of these."""
        table = published("scalebench_domain_mixture_train.csv")
        domains = [f"proportion_domain_{i}" for i in range(1, 6)]
        runs = {
            name: as_runs(table, columns=Columns(params="group", loss=name), variables=("N", *domains))
            for name in (f"loss_domain_{i}" for i in range(1, 6))
        }
        found = best_mixture(runs, domains, resamples=20)
        assert found.held_out.r2.mean() > 0.9
        assert (found.held_out.largest_error < 0.015).all()
