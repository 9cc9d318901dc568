"""Training and serving together: what the optimum must do whatever the law, and what others computed."""

import dataclasses

import numpy as np
import pytest

from nextscale.fit import fit
from nextscale.fit.errors import InputError
from nextscale.fit.estimate.published import DE_VRIES
from nextscale.fit.laws.formula_laws import CHINCHILLA_COUPLED
from nextscale.fit.optimum.frontier import TokenCost, frontier
from nextscale.fit.optimum.isoloss import Contours
from nextscale.fit.optimum.lifetime import Prices, Served, lifetime, lifetime_warnings
from nextscale.fit.optimum.overtrain import overtrained, smallest_sizes


@pytest.fixture(scope="module")
def found(isoflop_grid):
    return fit(isoflop_grid(noise=0.003), resamples=60)


@pytest.fixture(scope="module")
def laws(found):
    """A law of each kind of machinery: a sum of powers, and a formula of JAX (of the same constants, but bent)."""
    coupled = dataclasses.replace(found, law=CHINCHILLA_COUPLED, theta=bent(found.theta), level=0.8)
    return [found, dataclasses.replace(coupled, resamples=bent(found.resamples[:12]))]


def bent(theta):
    return np.concatenate([theta, np.full((*theta.shape[:-1], 1), np.log(0.8))], axis=-1)


@pytest.mark.parametrize("which", [0, 1])
def test_each_law_sees_rows_of_its_own_as_it_sees_them_one_by_one(laws, which):
    one = laws[which]
    rng = np.random.default_rng(0)
    sizes, tokens = (10 ** rng.uniform(8, 11, (len(one.resamples), 3)) for _ in range(2))
    each = one.law.log_losses_each(one.resamples, {"N": sizes, "D": tokens})
    for theta, N, D, got in zip(one.resamples, sizes, tokens, each, strict=True):
        np.testing.assert_allclose(one.law.log_losses(theta[None], {"N": N, "D": D})[0], got, rtol=1e-12)


class TestContours:
    def test_every_point_on_it_comes_to_the_loss(self, laws):
        for one in laws:
            contours = Contours.of(one, 2.3)
            sizes = contours.cheapest()[:, None] * np.geomspace(0.7, 3, 5)
            np.testing.assert_allclose(contours.losses_at(sizes, contours.tokens(sizes)), 2.3, rtol=1e-9)

    def test_the_cheapest_is_the_compute_optimal(self, found):
        flops = 3e21
        row = frontier(found, [flops]).iloc[0]
        contours = Contours.of(found, row["loss"])
        best = contours.cheapest()
        assert best[0] == pytest.approx(row["params"], rel=2e-3)
        assert contours.flops(best[:, None])[0, 0] == pytest.approx(flops, rel=1e-5)

    def test_no_size_is_cheaper(self, found):
        contours = Contours.of(found, 2.3)
        best = contours.cheapest()
        least = contours.flops(best[:, None])
        others = contours.flops(best[:, None] * np.geomspace(0.1, 10, 41))
        assert (others >= least * (1 - 1e-9)).all()

    def test_a_loss_that_is_not_reached_is_not(self, found):
        contours = Contours.of(found, found.parameters["E"] * 0.99)
        assert np.isnan(contours.cheapest()[0])
        assert np.isinf(contours.tokens(np.full((len(contours.thetas), 1), 1e12))[0, 0])

    def test_a_law_in_compute_alone_has_none(self, isoflop_grid):
        with pytest.raises(InputError, match="a law in N and D is needed"):
            Contours.of(fit(isoflop_grid(noise=0.003), "saturating", resamples=0), 2.0)


class TestLifetime:
    def test_with_nothing_served_it_is_the_training_optimum(self, found):
        for row in lifetime(found, Served(), losses=[2.3], budgets=[1e21]).to_dict("records"):
            assert row["params"] == pytest.approx(row["optimal_params"], rel=1e-6)
            assert [row["saving"], row["saving_low"], row["saving_high"]] == pytest.approx([0, 0, 0], abs=1e-9)
            assert row["serving"] == 0
            best = frontier(found, [row["flops"]]).iloc[0]
            assert row["params"] == pytest.approx(best["params"], rel=2e-3)
            assert row["loss"] == pytest.approx(best["loss"], rel=1e-6)

    @pytest.mark.slow
    def test_the_more_is_served_the_smaller_and_longer(self, laws):
        for one in laws:
            rows = [lifetime(one, Served.of(tokens), losses=[2.3]).iloc[0] for tokens in (0, 1e11, 1e13)]
            for name, sign in (("params", -1), ("tokens", 1), ("tokens_per_param", 1), ("saving", 1), ("total", 1)):
                for end in ("", "_low", "_high"):
                    assert (sign * np.diff([row[f"{name}{end}"] for row in rows]) > 0).all(), name + end

    def test_never_dearer_than_the_training_optimum(self, found):
        for tokens in (1e8, 1e10, 1e13):
            for row in lifetime(found, Served.of(tokens), losses=[2.1, 2.5], budgets=[1e22]).to_dict("records"):
                assert row["total"] <= row["optimal_total"]
                assert row["total"] == pytest.approx(row["training"] + row["serving"])
                assert row["saving"] == pytest.approx(1 - row["total"] / row["optimal_total"], abs=1e-9)

    def test_a_loss_and_the_budget_that_it_takes_are_one_answer(self, found):
        served = Served.of(1e12, prompt_share=0.4)
        by_loss = lifetime(found, served, losses=[2.2]).iloc[0]
        by_budget = lifetime(found, served, budgets=[by_loss["total"]]).iloc[0]
        for name in ("loss", "params", "tokens", "total", "optimal_total"):
            assert by_budget[name] == pytest.approx(by_loss[name], rel=1e-4), name

    def test_a_budget_is_spent_wholly_and_has_no_interval(self, found):
        row = lifetime(found, Served.of(1e12), budgets=[3e22]).iloc[0]
        assert row["total"] == row["total_low"] == row["total_high"] == 3e22
        assert row["training"] + row["serving"] == pytest.approx(3e22, rel=1e-6)
        assert row["training_low"] < row["training"] < row["training_high"]

    def test_only_the_ratio_of_prices_moves_the_model(self, found):
        served = Served(prefill=3e11, decode=1e12)
        flops = lifetime(found, served, losses=[2.2]).iloc[0]
        dollars = lifetime(found, served, losses=[2.2], prices=Prices(train=1e-18, prefill=1e-18, decode=1e-18)).iloc[0]
        assert dollars["params"] == pytest.approx(flops["params"])
        assert dollars["total"] == pytest.approx(1e-18 * flops["total"])
        dear = lifetime(found, served, losses=[2.2], prices=Prices(train=1e-18, prefill=1e-18, decode=5e-17)).iloc[0]
        assert dear["params"] < 0.7 * flops["params"]

    def test_what_is_served_costs_a_third_of_a_training_token(self, found):
        """2N FLOPs where that is 6N; where a size costs otherwise, a third of that."""
        row = lifetime(found, Served.of(5e11), losses=[2.2]).iloc[0]
        assert row["serving"] == pytest.approx(2 * row["params"] * 5e11)
        sizes = np.geomspace(1e7, 1e12, 30)
        steeper = TokenCost.of(sizes.tolist(), (6 * sizes * (sizes / 1e9) ** 0.1).tolist())
        row = lifetime(found, Served.of(5e11), losses=[2.2], cost=steeper).iloc[0]
        assert row["serving"] == pytest.approx(float(steeper(np.array(row["params"]))) / 3 * 5e11)

    def test_a_loss_below_the_irreducible_is_said_to_be_out_of_reach(self, found):
        table = lifetime(found, Served.of(1e12), losses=[found.parameters["E"] * 0.9])
        assert np.isnan(table["params"].iloc[0])
        assert any("does not come down to it" in warning for warning in lifetime_warnings(found, table))

    def test_extreme_ratios_are_warned_of(self, found):
        table = lifetime(found, Served.of(1e14), losses=[2.3])
        assert any("tokens per parameter, and no run fitted has more" in w for w in lifetime_warnings(found, table))

    @pytest.mark.parametrize("given", [{"losses": [-1.0]}, {"losses": [np.nan]}, {"budgets": [0.0]}])
    def test_what_cannot_be_meant(self, found, given):
        with pytest.raises(InputError, match="should be greater than 0"):
            lifetime(found, Served(), **given)

    def test_prices_and_tokens_that_cannot_be_meant(self):
        for wrong in ({"train": 0.0}, {"decode": -1.0}, {"prefill": np.nan}):
            with pytest.raises(InputError, match=next(iter(wrong))):
                Prices(**wrong)
        with pytest.raises(InputError, match="0 or more"):
            Served.of(1e12, prompt_share=1.5)

    @pytest.mark.slow
    @pytest.mark.soak
    def test_intervals_hold_the_truth(self, isoflop_grid):
        """Of the law that the runs were drawn from, over repetitions of the experiment: 90 % intervals, 24 tries."""
        truth = fit(isoflop_grid(noise=0.0), resamples=0)
        exact = lifetime(truth, Served.of(1e12), losses=[2.3]).iloc[0]
        inside = dict.fromkeys(("params", "tokens", "total", "saving"), 0)
        for seed in range(24):
            again = fit(isoflop_grid(noise=0.003, seed=seed), resamples=100)
            row = lifetime(again, Served.of(1e12), losses=[2.3]).iloc[0]
            for name in inside:
                inside[name] += row[f"{name}_low"] <= exact[name] <= row[f"{name}_high"]
        # Of 24 with .9 each, fewer than 17 come once in a thousand times.
        assert min(inside.values()) >= 17, inside


class TestOvertrained:
    def test_at_the_optimum_nothing_is_lost(self, found):
        best = frontier(found, [1e21]).iloc[0]
        row = overtrained(found, best["params"], tokens=best["tokens"])
        assert row["overhead"] == pytest.approx(0, abs=1e-5)
        assert row["optimal_params"] == pytest.approx(best["params"], rel=1e-2)

    def test_overhead_rises_on_either_side(self, found):
        best = frontier(found, [1e21]).iloc[0]
        sizes = best["params"] * np.array([0.2, 0.5, 1, 2, 5])
        overheads = [overtrained(found, float(size), loss=best["loss"])["overhead"] for size in sizes]
        assert (np.diff(overheads[:3]) < 0).all() and (np.diff(overheads[2:]) > 0).all()
        assert min(overheads) >= 0

    def test_tokens_flops_and_loss_are_three_ways_to_one_answer(self, found):
        by_tokens = overtrained(found, 5e8, tokens=1e11)
        by_flops = overtrained(found, 5e8, flops=by_tokens["flops"])
        by_loss = overtrained(found, 5e8, loss=by_tokens["loss"])
        for name in ("tokens", "flops", "loss", "optimal_params", "optimal_flops", "overhead"):
            assert by_flops[name] == pytest.approx(by_tokens[name], rel=1e-6), name
            assert by_loss[name] == pytest.approx(by_tokens[name], rel=1e-6), name

    def test_it_is_what_the_closed_form_says(self):
        """De Vries 2023: k_D = (1 - (k_N^-α - 1) β/α)^(-1/β) times the tokens at k_N times the size."""
        found = DE_VRIES.fit
        alpha, beta = DE_VRIES.parameters["alpha"], DE_VRIES.parameters["beta"]
        best = overtrained(found, 7e10, tokens=1.4e12)
        for share in (0.3, 0.5, 0.75, 2.0):
            more = (1 - (share**-alpha - 1) * beta / alpha) ** (-1 / beta)
            row = overtrained(found, share * best["optimal_params"], loss=best["loss"])
            assert row["tokens"] == pytest.approx(more * best["optimal_tokens"], rel=1e-5)
            assert row["overhead"] == pytest.approx(share * more - 1, rel=1e-5)

    def test_smaller_turns_it_round(self, found):
        table = smallest_sizes(found, 2.3, [0.0, 0.1, 0.5, 2.0])
        assert (np.diff(table["params"]) < 0).all() and (np.diff(table["tokens"]) > 0).all()
        assert table["share"].iloc[0] == pytest.approx(1, abs=1e-3)
        for row in table.iloc[1:].to_dict("records"):
            back = overtrained(found, row["params"], loss=2.3)
            assert back["overhead"] == pytest.approx(row["overhead"], rel=1e-6)
            assert row["params_low"] <= row["params"] <= row["params_high"]

    def test_a_size_that_never_gets_there_needs_endless_tokens(self, found):
        row = overtrained(found, 1e6, loss=2.0)
        assert np.isinf(row["tokens"]) and np.isinf(row["overhead"])

    @pytest.mark.parametrize("given", [{}, {"tokens": 1e10, "loss": 2.0}])
    def test_one_thing_says_how_long(self, found, given):
        with pytest.raises(InputError, match="needs one of tokens, flops and loss"):
            overtrained(found, 1e9, **given)

    def test_without_resamples_there_are_no_intervals(self):
        row = overtrained(DE_VRIES.fit, 7e9, tokens=1e12)
        assert np.isfinite(row["loss"]) and np.isfinite(row["overhead"])
        assert all(np.isnan(value) for name, value in row.items() if name.endswith(("_low", "_high")))
