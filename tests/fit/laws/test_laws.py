"""The laws that ship: each finds its own parameters again, and says what its source says."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import as_runs, fit
from nextscale.fit.laws.catalogue import LAWS
from nextscale.fit.laws.formula_laws import FARSEER, broken_in, offset_in, sigmoidal_in
from nextscale.fit.table.columns import Columns, column_of

# About what each source found, where it told.
KNOWN = {
    "chinchilla": {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
    "chinchilla-tied": {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353},
    "chinchilla-coupled": {"E": 1.22, "A": 39.3, "B": 84.2, "alpha": 0.184, "beta": 0.195, "gamma": 0.452},
    "size-data": {"E": 1.8, "B": 2100.0, "G": 900.0, "beta": 0.37, "gamma": 0.2, "delta": 0.1},
    "data-size": {"E": 1.8, "A": 480.0, "G": 900.0, "alpha": 0.35, "beta": 0.2, "delta": 0.1},
    "saturating": {"E": 1.7, "K": 2000.0, "gamma": 0.16},
    "saturating-n": {"E": 1.8, "A": 480.0, "alpha": 0.35},
    "saturating-d": {"E": 1.8, "B": 2100.0, "beta": 0.37},
    "kaplan-n": {"K": 11.5, "alpha": 0.076},
    "kaplan-d": {"K": 20.2, "alpha": 0.095},
    "kaplan-c": {"K": 26.2, "alpha": 0.05},
    "kaplan-coupled": {"A": 11.2, "B": 23.1, "alpha": 0.076, "beta": 0.103},
    "over-training": {"E": 1.8366, "A": 212.0, "B": 366.7, "eta": 0.13643},
    "data-constrained": {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "R_N": 5.31, "R_D": 15.39},
    "farseer": {
        "E": 1.5,
        "A": 120.0,
        "beta": 0.25,
        "e": 0.02,
        "a": 0.1,
        "b": 0.01,
        "p": 0.17,
        "q": -0.1,
        "r": 0.12,
    },
    "m3": {"K": 29.7, "alpha": 0.05, "x_end": 1e22},
    "m4": {"E": 1.7, "A": 2000.0, "alpha": 0.16, "a": 0.6, "L_0": 11.0},
    "broken": {"E": 1.2, "A": 60.0, "alpha": 0.08, "change": 0.12, "x_break": 1e20, "width": 0.4},
    "moe": {"E": 1.6, "A": 43.0, "alpha": 0.2, "delta": 0.08},
    "moe-bilinear": {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104},
    "moe-saturating": {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104, "experts_min": 1.8, "experts_max": 314.0},
    "moe-joint": {
        "E": 1.3,
        "A": 1.1,
        "B": 0.6,
        "alpha": 0.19,
        "beta": 0.18,
        "a": 0.1,
        "b": -0.03,
        "c": 0.006,
        "d": 0.005,
    },
    "precision": {"E": 2.76, "A": 4299.0, "B": 18060.0, "alpha": 0.4965, "beta": 0.4976, "gamma": 2.6745},
    "sparsity": {"E": 0.65, "S": 16.8, "A": 70.0, "B": 1000.0, "alpha": 0.25, "gamma": 0.72, "beta": 0.37},
    "vocabulary": {"E": 5.0, "A": 400.0, "V": 30.0, "B": 2000.0, "alpha": 0.36, "nu": 0.2, "beta": 0.37},
    "parallel": {"E": 1.29, "A": 33.8, "alpha": 0.19, "k": 0.39},
    "critical-batch": {"D_min": 3e9, "B_crit": 1e6},
    # The optimum of Li et al. at 1e8 parameters and 1e10 tokens, batches in tokens; the rest about as their runs show.
    "lr-batch": {
        "E": 1.2,
        "A": 1.1,
        "B": 0.4,
        "alpha": 0.13,
        "beta": 0.29,
        "lr_opt": 1.797 * 1e8**-0.713 * 1e10**0.307,
        "lr_n": -0.713,
        "lr_d": 0.307,
        "lr_batch": 0.2,
        "lr_curve": 0.23,
        "batch_opt": 0.581 * 1e10**0.571,
        "batch_d": 0.571,
        "batch_curve": 0.16,
    },
    "distillation": {
        "A": 2243**0.764,
        "B": 24181**0.764,
        "alpha": 0.321 * 0.764,
        "beta": 0.637 * 0.764,
        "gamma": 0.764,
        "c_0": 2.5,
        "c_1": 20.0,
        "d_1": 1.3,
        "f_1": 0.1,
    },
}

SLOW = {"broken", "chinchilla-coupled", "data-constrained", "farseer", "kaplan-coupled", "moe-joint", "precision"}
SOAK = {"distillation", "lr-batch", "m4"}
"""Laws that take seconds to find again."""

RUNS = {
    "N": np.geomspace(1e7, 1e10, 6),
    "D": np.geomspace(1e9, 1e12, 6),
    "C": np.geomspace(1e17, 1e23, 24),
    "M": np.geomspace(5, 640, 6),
    "U": np.geomspace(1e8, 1e11, 4),
    "B": np.geomspace(1e4, 1e8, 12),
    "P": 2.0 ** np.arange(4),
    "experts": 2.0 ** np.arange(10),
    "bits": np.array([3.0, 4, 6, 8, 16]),
    "density": 0.5 ** np.arange(5),
    "params_non_vocab": np.geomspace(1e7, 1e10, 5),
    "params_vocab": np.geomspace(1e6, 1e9, 5),
    "lr": np.geomspace(2e-4, 2e-2, 4),
    "batch": np.geomspace(3e4, 2e6, 4),
    "teacher_loss": np.linspace(1.9, 3.1, 5),
    "supervised_loss": np.linspace(2.0, 3.6, 4),
}


GRID = dict(zip("ND", (grid.ravel() for grid in np.meshgrid(RUNS["N"], RUNS["D"])), strict=True))


def losses(law, variables, **parameters):
    """A law's loss at variables by name, at its known parameters or others."""
    arrays = np.broadcast_arrays(*(np.asarray(variables[name], float) for name in law.variables))
    theta = law.theta(KNOWN.get(law.name, {}) | parameters)
    return np.exp(law.log_losses(theta[None], dict(zip(law.variables, arrays, strict=True)))[0])


def runs_of(law, **parameters):
    """Every combination of the variables, without noise."""
    grid = np.meshgrid(*(RUNS[name] for name in law.variables), indexing="ij")
    variables = {name: values.ravel() for name, values in zip(law.variables, grid, strict=True)}
    table = pd.DataFrame({column_of(name): values for name, values in variables.items()})
    table["loss"] = losses(law, variables, **parameters)
    return table[table.tokens >= table.unique_tokens] if "U" in variables else table


def test_no_law_is_without_them():
    assert {*KNOWN} == {*LAWS}


class TestKnownParameters:
    @pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW | SOAK) + [pytest.mark.soak] * (name in SOAK))
            for name in KNOWN
        ],
    )
    def test_are_found_again(self, name):
        found = fit(runs_of(LAWS[name]), name, resamples=0)
        assert found.parameters == pytest.approx(KNOWN[name], rel=1e-6)

    def test_a_pinned_asymptote_stays(self):
        table = runs_of(LAWS["saturating"])
        found = fit(table, "saturating", fixed={"E": 1.7}, resamples=0)
        assert found.parameters == pytest.approx(KNOWN["saturating"], rel=1e-6)
        elsewhere = fit(table, "saturating", fixed={"E": 1.5}, resamples=0).parameters
        assert elsewhere["E"] == 1.5
        assert elsewhere["gamma"] < KNOWN["saturating"]["gamma"]

    @pytest.mark.slow
    def test_repeated_data_in_stages(self):
        """First the runs that repeat nothing and are no larger than their data deserve, then R_N and R_D alone."""
        law = LAWS["data-constrained"]
        table = runs_of(law)
        deserved = (KNOWN[law.name]["A"] / KNOWN[law.name]["B"]) ** (1 / KNOWN[law.name]["alpha"])
        fresh = pd.DataFrame({"params": RUNS["N"], "tokens": RUNS["N"] / deserved * np.array([1, 3, 1, 9, 3, 1])})
        fresh["unique_tokens"] = fresh.tokens
        fresh["loss"] = losses(law, {"N": fresh.params, "D": fresh.tokens, "U": fresh.unique_tokens})
        first = fit(fresh, "chinchilla-tied", resamples=0).parameters
        second = fit(table, law, fixed=first, resamples=0)
        assert second.parameters == pytest.approx(KNOWN[law.name], rel=1e-6)

    def test_units_do_not_matter(self):
        table = runs_of(LAWS["chinchilla-coupled"])
        table["loss"] *= np.exp(0.003 * np.random.default_rng(0).standard_normal(len(table)))
        one = fit(table, "chinchilla-coupled", resamples=0)
        table = table.assign(tokens=table.tokens / 1e9, params=table.params / 1e6)
        other = fit(as_runs(table, variables=one.law.variables, as_is=True), one.law, resamples=0)
        assert other.objective == pytest.approx(one.objective, rel=1e-6)
        assert other.parameters["gamma"] == pytest.approx(one.parameters["gamma"], rel=1e-3)

    def test_batches_to_a_target_go_by_their_own_column_names(self):
        table = runs_of(LAWS["critical-batch"]).rename(columns={"B": "batch_tokens", "loss": "tokens_to_target"})
        columns = Columns(loss="tokens_to_target", others={"B": "batch_tokens"})
        found = fit(table, "critical-batch", columns=columns, resamples=0)
        assert found.parameters["B_crit"] == pytest.approx(1e6)


class TestForms:
    """That each law, however it is written here, is the one of its source."""

    def test_every_law_says_where_it_comes_from(self):
        for name, law in LAWS.items():
            assert law.name == name
            assert law.formula
            assert any(str(year) in law.source for year in range(2018, 2027))

    def test_kaplan(self):
        Nc, Dc, aN, aD = 6.4e13, 1.8e13, 0.076, 0.103
        source = ((Nc / GRID["N"]) ** (aN / aD) + Dc / GRID["D"]) ** aD
        here = losses(LAWS["kaplan-coupled"], GRID, A=Nc**aN, B=Dc**aD, alpha=aN, beta=aD)
        np.testing.assert_allclose(here, source, rtol=1e-12)

    def test_busbridge_and_chinchilla(self):
        law, N, D = LAWS["chinchilla-coupled"], *GRID.values()
        source = 1.22 + (3355 / N**0.408 + 18186 / D**0.431) ** 0.452
        bent = {"A": 3355**0.452, "B": 18186**0.452, "alpha": 0.408 * 0.452, "beta": 0.431 * 0.452, "gamma": 0.452}
        np.testing.assert_allclose(losses(law, GRID, E=1.22, **bent), source, rtol=1e-12)
        straight = losses(law, GRID, **KNOWN["chinchilla"], gamma=1.0)
        np.testing.assert_allclose(straight, losses(LAWS["chinchilla"], GRID), rtol=1e-12)

    def test_busbridge_of_a_student(self):
        """Eq. 8 as it is written there."""
        N, D = GRID.values()
        T, S, c0, c1, d1, f1 = 2.4, 2.0 + 900 / N**0.4, 2.5, 20.0, 1.3, 0.1
        lag = (1 + (T / (S * d1)) ** (1 / f1)) ** (-c1 * f1)
        source = T + 1 / T**c0 * lag * (2243 / N**0.321 + 24181 / D**0.637) ** 0.764
        here = losses(LAWS["distillation"], GRID | {"teacher_loss": T, "supervised_loss": S})
        np.testing.assert_allclose(here, source, rtol=1e-12)

    def test_a_rate_or_batch_beside_the_best_costs_tokens(self):
        known = KNOWN["lr-batch"]
        plain = {"E": 1.2, "A": 1.1 * 1e8**0.13, "B": 0.4 * 1e10**0.29, "alpha": 0.13, "beta": 0.29}
        N, D = GRID.values()
        rate, batch = 1.797 * N**-0.713 * D**0.307, 0.581 * D**0.571
        best = losses(LAWS["lr-batch"], GRID | {"lr": rate, "batch": batch})
        np.testing.assert_allclose(best, losses(LAWS["chinchilla"], GRID, **plain), rtol=1e-12)
        lost = np.exp(-known["lr_curve"] * np.log(4) ** 2)
        fewer = losses(LAWS["chinchilla"], {"N": N, "D": D * lost}, **plain)
        for off in (4, 1 / 4):
            np.testing.assert_allclose(losses(LAWS["lr-batch"], GRID | {"lr": off * rate, "batch": batch}), fewer)
        # Of another batch the best rate is another too.
        other = {"batch": 8 * batch, "lr": 8 ** known["lr_batch"] * rate}
        lost = np.exp(-known["batch_curve"] * np.log(8) ** 2)
        fewer = losses(LAWS["chinchilla"], {"N": N, "D": D * lost}, **plain)
        np.testing.assert_allclose(losses(LAWS["lr-batch"], GRID | other), fewer)

    def test_farseer(self):
        a3, g, b3 = -0.021, 0.169, 1.091
        a2, h, b2 = 88.01, -0.1, -5.8287
        a1, f, b1 = -0.124, 0.123, 0.424
        N, D = GRID.values()
        exponent = np.exp(a1 * N**f + b1)
        source = np.exp(a3 * N**g + b3) + np.exp(a2 * N**h + b2) * D**-exponent
        n = 1e9
        parameters = {"E": np.exp(a3 * n**g + b3), "A": np.exp(a2 * n**h + b2), "beta": np.exp(a1 * n**f + b1)}
        parameters |= {"e": -a3 * g * n**g, "a": -a2 * h * n**h, "b": -a1 * f * n**f, "p": g, "q": h, "r": f}
        np.testing.assert_allclose(losses(FARSEER, GRID, **parameters), source, rtol=1e-10)

    def test_over_training_is_the_tied_law_at_its_compute(self):
        A, B, alpha = 166.2, 366.7, 0.27285
        variables = {"C": 6 * GRID["N"] * GRID["D"], "M": GRID["D"] / GRID["N"]}
        there = losses(LAWS["over-training"], variables, A=A * 6 ** (alpha / 2), B=B, eta=alpha / 2)
        here = losses(LAWS["chinchilla-tied"], GRID, E=1.8366, A=A, B=B * 6 ** (-alpha / 2), alpha=alpha)
        np.testing.assert_allclose(there, here, rtol=1e-12)

    def test_fresh_data_are_not_constrained_and_repeated_ones_saturate(self):
        law, tied = LAWS["data-constrained"], LAWS["chinchilla-tied"]
        plenty = losses(law, GRID | {"U": 1e14})
        np.testing.assert_allclose(plenty, losses(tied, GRID), rtol=1e-12)
        few = {"N": 1e6, "U": 1e9}
        endless = losses(law, few | {"D": [1e13]})
        np.testing.assert_allclose(endless, losses(tied, {"N": 1e6, "D": [1e9 * (1 + 15.39)]}), rtol=1e-9)
        # A published constant: what U tokens deserve is .051 parameters each.
        larger, smaller = (losses(law, {"N": [size], "D": 1e11, "U": 1e11}) for size in (0.06e11, 0.05e11))
        assert smaller == losses(tied, {"N": [0.05e11], "D": 1e11})
        assert larger > losses(tied, {"N": [0.06e11], "D": 1e11})

    def test_sigmoidal_solves_its_equation_and_saturates_far_from_the_worst_loss(self):
        law, C = LAWS["m4"], RUNS["C"]
        E, A, alpha, a, worst = KNOWN["m4"].values()
        L = losses(law, {"C": C})
        np.testing.assert_allclose((L - E) * ((worst - E) / (worst - L)) ** a, A / C**alpha, rtol=1e-9)
        assert np.all(losses(law, {"C": np.geomspace(1, 1e12, 9)}) < worst)
        far = losses(law, {"C": C}, L_0=1e9)
        np.testing.assert_allclose(far, losses(LAWS["saturating"], {"C": C}), rtol=1e-6)

    def test_sigmoidal_knows_its_derivatives(self):
        """Newton's steps carry them, not the loop."""
        law = LAWS["m4"]
        table = runs_of(law)
        problem = law.problem({"C": table.flops.to_numpy()}, table.loss.to_numpy(), None, {})
        theta, step = law.theta(KNOWN["m4"]), 1e-5
        pull = np.ones((1, len(table)))
        at = problem.expand(theta[None])
        hessian = problem.hessian(theta[None], at, pull, 0 * pull)[0]
        for p in range(len(theta)):
            up, down = (problem.expand((theta + sign * step * np.eye(len(theta))[p])[None]) for sign in (1, -1))
            np.testing.assert_allclose((up.value - down.value)[0] / (2 * step), at.slope[0, p], rtol=1e-5, atol=1e-8)
            moved = (up.slope - down.slope).sum(axis=2)[0] / (2 * step)
            np.testing.assert_allclose(moved, hessian[:, p], rtol=1e-4, atol=1e-5)

    def test_broken_and_offset_follow_one_power_on_either_side(self):
        x = np.array([1e10, 1e11, 1e29, 1e30])
        L = losses(LAWS["broken"], {"C": x}, E=1e-9)
        slopes = np.diff(np.log(L - 1e-9))[[0, 2]] / np.log(10)
        np.testing.assert_allclose(slopes, [-0.08, -0.2], rtol=1e-3)
        offset = losses(LAWS["m3"], {"C": x})
        np.testing.assert_allclose(offset[:2], 29.7 * x[:2] ** -0.05, rtol=1e-6)
        np.testing.assert_allclose(offset[2:], 29.7 * 1e22**-0.05, rtol=1e-6)

    def test_one_expert_one_stream_and_full_density_are_dense(self):
        N, D = RUNS["N"], RUNS["D"]
        one = losses(LAWS["moe-saturating"], {"N": N, "experts": 1})
        np.testing.assert_allclose(one, losses(LAWS["moe-bilinear"], {"N": N, "experts": 1.8}), rtol=1e-12)
        many = losses(LAWS["moe-saturating"], {"N": N, "experts": 1e9})
        np.testing.assert_allclose(many, losses(LAWS["moe-bilinear"], {"N": N, "experts": 314}), rtol=1e-6)
        np.testing.assert_allclose(losses(LAWS["parallel"], {"N": N, "P": 1}), 1.29 + 33.8 / N**0.19, rtol=1e-12)
        dense = losses(LAWS["sparsity"], {"N": N, "D": D, "density": 1})
        np.testing.assert_allclose(
            dense, losses(LAWS["chinchilla"], {"N": N, "D": D}, E=0.65, A=86.8, B=1000, alpha=0.25), rtol=1e-12
        )

    @pytest.mark.parametrize("factory", [offset_in, sigmoidal_in, broken_in])
    def test_laws_of_one_variable_take_any(self, factory):
        law = factory("D")
        known = KNOWN[factory("C").name]
        there = losses(law, {"D": RUNS["C"]}, **known)
        np.testing.assert_array_equal(there, losses(factory("C"), {"C": RUNS["C"]}))
        assert law.name == f"{factory('C').name}-d"
        assert law.variables == ("D",)
