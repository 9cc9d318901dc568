"""The fit card: everything a reader needs, and nothing that JSON does not have."""

import json

import numpy as np
import pytest

from nextscale.fit import Columns, as_runs, fit
from nextscale.fit.laws.catalogue import CHINCHILLA, CHINCHILLA_TIED
from nextscale.fit.trust.card import at_a_bound, card, residuals_by
from nextscale.fit.trust.consensus import consensus


@pytest.fixture
def runs(isoflop_grid):
    return as_runs(isoflop_grid(noise=0.004), drop_largest_losses=2)


class TestCard:
    def test_it_is_json(self, runs):
        record = card(fit(runs, loss="squared", resamples=20))
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert record["objective"]["delta"] is None  # squared loss: infinite

    def test_it_says_what_the_checklist_asks(self, runs):
        found = fit(runs, resamples=50, level=0.8, seed=3, bootstrap="stratified")
        record = card(found)
        assert record["law"]["formula"] == found.law.formula and "Hoffmann" in record["law"]["source"]
        assert record["data"]["n"] == 23 and record["data"]["params_convention"] == "total"
        assert record["data"]["ranges"]["flops"] == pytest.approx([1e19, 1e21])
        assert record["optimiser"]["start_agreement"] == 1 and record["optimiser"]["starts_followed"] == 16
        assert record["optimiser"]["gradient_norm"] < 1e-6
        told = {"level": 0.8, "bootstrap": "stratified", "resamples": 50, "seed": 3, "extrapolation_error": 0}
        assert record["intervals"] == told
        assert record["parameters"]["alpha"] == {
            "value": found.parameters["alpha"],
            "interval": list(found.interval("alpha")),
        }
        assert set(record["profiles"]) == {"alpha", "beta"}
        assert record["irreducible_loss"]["share"] < 1
        assert record["version"]["nextscale"]

    def test_a_consensus_has_the_parameters_of_all_its_laws(self, runs):
        record = card(consensus(runs, [CHINCHILLA, CHINCHILLA_TIED], resamples=0), profiles=())["law"]
        each = {"chinchilla": 5, "chinchilla-tied": 4}  # E, A, B, alpha, beta; tied, alpha is beta
        assert record["parameters"] == sum(each[one["law"]] for one in record["members"]) > 5

    def test_what_was_dropped_is_put_back_in(self, published):
        columns = Columns(params="Model Size", flops="Training FLOP")
        runs = as_runs(published("chinchilla_epoch.csv"), columns=columns, drop_largest_losses=5)
        dropped = card(fit(runs, resamples=0), profiles=())["dropped"]
        assert dropped["n"] == 5
        again = dropped["with_them"]
        assert again["parameters"]["beta"] == pytest.approx(0.453, abs=5e-4)
        assert again["parameters"]["B"] == pytest.approx(12846, rel=5e-3)
        assert again["relative_change"]["beta"] == pytest.approx(0.453 / 0.36717 - 1, abs=2e-3)

    def test_nothing_dropped_and_no_intervals(self, isoflop_grid):
        record = card(fit(isoflop_grid(noise=0.004), resamples=0), profiles=())
        assert record["dropped"] == {"n": 0} and record["profiles"] == {}
        assert record["intervals"]["bootstrap"] is None and record["parameters"]["E"]["interval"] is None

    def test_residuals_are_told_by_budget_and_by_size(self, runs):
        found = fit(runs, resamples=0)
        for column in ("budget", "params"):
            groups = residuals_by(found, column)
            assert sum(group["n"] for group in groups) == len(runs)
            assert len(groups) <= 12
            squares = sum(group["n"] * group["rms"] ** 2 for group in groups)
            assert squares == pytest.approx(np.square(found.residuals).sum())
        assert len(residuals_by(found, "budget")) == 5

    def test_a_parameter_at_zero_is_at_a_bound(self, isoflop_grid):
        law = {"E": 1e-9, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
        assert "E" in at_a_bound(fit(isoflop_grid(law=law), resamples=0))
        assert at_a_bound(fit(isoflop_grid(), resamples=0)) == []
