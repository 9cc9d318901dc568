"""Tables of any origin: what is missing is derived or refused, what is broken is left out and said."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.fit import Columns, InputError, as_runs, fit
from nextscale.fit.laws.catalogue import law_named
from nextscale.fit.optimum.frontier import TokenCost
from nextscale.fit.optimum.isoflop import isoflops, optimum_law


def table(**columns):
    base = {"params": [1e6, 2e6], "tokens": [1e8, 1e8], "flops": [6e14, 1.2e15], "loss": [3.0, 2.9]}
    return pd.DataFrame(base | columns)


@pytest.mark.parametrize("missing", ["params", "tokens", "flops"])
def test_any_two_of_three_are_enough(missing):
    whole, derived = as_runs(table()), as_runs(table().drop(columns=missing))
    np.testing.assert_allclose(derived.table[missing], whole.table[missing])
    assert derived.notes == (f"{missing} follow from C = 6ND",)


def test_named_columns():
    renamed = table().rename(columns={"params": "Model Size", "flops": "C", "loss": "final"}).drop(columns="tokens")
    runs = as_runs(renamed, columns=Columns(params="Model Size", flops="C", loss="final"))
    np.testing.assert_allclose(runs.table["tokens"], 1e8)
    with pytest.raises(InputError, match="no column 'size' for params"):
        as_runs(renamed, columns=Columns(params="size"))


@pytest.mark.parametrize("column, values", [("params", [25.3, 84.4]), ("tokens", [6.59, 1.97])])
def test_counts_in_millions_or_billions_are_refused(column, values):
    """They would be taken for counts, and a forecast in FLOPs would be off by as much."""
    frame = table(**{column: values}).drop(columns="flops")
    with pytest.raises(InputError, match=rf"table\.eval\('{column}={column}\*1e\+0[69]'\)"):
        as_runs(frame)
    assert as_runs(frame, as_is=True).table[column].tolist() == values


@pytest.mark.parametrize("params", [[2560.0, 4992.0], [1.5e8 + 0.25, 2e8]])
def test_small_models_and_large_counts_by_formula_are_no_millions(params):
    assert as_runs(table(params=params).drop(columns="flops")).notes == ("flops follow from C = 6ND",)


def test_units_in_cells_are_read_and_said():
    runs = as_runs(table(params=["25.3M", "84.4M"]).drop(columns="flops"))
    assert runs.table["params"].tolist() == [25.3e6, 84.4e6]
    assert runs.notes[0] == "cells of 'params' such as '25.3M' are read as 2.53e+07"


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0, -1, None])
def test_rows_that_mean_nothing_are_left_out_and_counted(bad):
    runs = as_runs(table(loss=[bad, 2.9]))
    assert len(runs) == 1
    assert "1 of 2 rows left out" in runs.notes[0]


def test_duplicates_are_left_out_and_counted():
    runs = as_runs(pd.concat([table(), table()]))
    assert len(runs) == 2
    assert "duplicates" in runs.notes[0]


def test_largest_losses_are_left_out_only_when_asked():
    runs = as_runs(table(), drop_largest_losses=1)
    assert list(runs.table["loss"]) == [2.9]
    assert list(runs.dropped["loss"]) == [3.0]
    assert "left out as asked" in runs.notes[0]


def test_conventions_choose_the_column():
    runs = as_runs(table(params_non_embedding=[5e5, 6e5]), convention="non_embedding")
    assert list(runs.table["params"]) == [5e5, 6e5]
    assert runs.convention == "non_embedding"


def test_budgets_are_found_where_none_are_named():
    flops = [1e18, 1.02e18, 0.99e18, 3e18, 3.1e18]
    runs = as_runs(pd.DataFrame({"params": np.arange(1, 6) * 1e6, "flops": flops, "loss": np.arange(1, 6)}))
    assert runs.table.groupby("budget").size().tolist() == [3, 2]


@pytest.mark.parametrize("budget", [["small", "big"], [1.0, 2.0], [None, 6e15]])
def test_a_column_named_budget_is_believed_where_it_is_flops(budget):
    plain = as_runs(table())
    assert as_runs(table(budget=budget)).budgets == plain.budgets
    near = (plain.table["flops"] * 1.5).tolist()
    assert as_runs(table(budget=near)).budgets == near


@pytest.mark.parametrize("name", ["budget", "flops_budget", "isoFLOP budget", "compute_budget"])
def test_stated_budgets_are_the_compute_of_runs_that_state_no_other(name):
    """Embeddings take no FLOPs: 6ND is too many by a share that falls with the size."""
    share = np.array([0.8, 0.9, 0.8, 0.9])
    params, spent = np.array([1e8, 1e9, 1e8, 1e9]), np.array([1e18, 1e18, 1e19, 1e19])
    frame = pd.DataFrame({"params": params, "tokens": spent / (6 * params * share), "loss": [4.0, 3.9, 3.5, 3.2]})
    runs = as_runs(frame.assign(**{name: spent}))
    assert runs.table["flops"].tolist() == spent.tolist()
    assert runs.budgets == [1e18, 1e19]
    assert runs.notes == (f"flops are those that column '{name}' states, and C = 6ND up to 25% off",)
    own = as_runs(frame.assign(**{name: spent}, flops=spent * 1.2))
    assert own.table["flops"].tolist() == (spent * 1.2).tolist()
    assert own.budgets == [1e18, 1e19]
    assert "flops lie up to 20% off" in own.notes[0]


def test_budgets_that_runs_only_lie_near_are_not_their_compute():
    """One size takes the same FLOPs for every token: what is not is rounded."""
    frame = pd.DataFrame({"params": [1e8] * 4, "tokens": [1.0e9, 1.3e9, 2.6e9, 3.2e9], "loss": [4.0, 3.9, 3.5, 3.4]})
    runs = as_runs(frame.assign(budget=[7e17, 7e17, 1.8e18, 1.8e18]))
    assert runs.table["flops"].tolist() == (6 * frame.params * frame.tokens).tolist()
    assert runs.budgets == [7e17, 1.8e18]


def test_a_column_of_dollars_is_said_to_be_no_budget():
    assert as_runs(table(budget=[100.0, 200.0])).notes[-1].startswith("column 'budget' states no budgets here")


def test_runs_at_every_scale_are_not_one_budget():
    flops = np.geomspace(1e18, 1e21, 200)
    runs = as_runs(pd.DataFrame({"params": np.sqrt(flops), "flops": flops, "loss": 2 + flops**-0.05}))
    assert 10 <= len(runs.budgets) <= 14
    assert (runs.scale / runs.table["budget"]).between(10**-0.25, 10**0.25).all()


class TestNegativeLosses:
    @pytest.mark.parametrize("constant", [0.0, 1.0])
    def test_they_are_refused_with_the_least_that_mends_it(self, constant):
        says = r"2 of 2 losses lie below 0.*add_to_loss=5\.5 \(any more than 4\.5 can be fitted"
        with pytest.raises(InputError, match=says):
            as_runs(table(loss=[-4.5, -3.5]), add_to_loss=constant)

    def test_a_constant_is_added_to_every_loss_and_said(self):
        runs = as_runs(table(loss=[-4.5, -3.5]), add_to_loss=8)
        assert runs.table["loss"].tolist() == [3.5, 4.5]
        assert "8 added to every loss: losses and E are told with it" in runs.notes

    def test_a_few_are_runs_that_failed(self):
        good = pd.concat([table(loss=[3.0 + i, 2.9 + i]) for i in range(8)])
        runs = as_runs(pd.concat([good, table(loss=[-1, 0])]))
        assert len(runs) == len(good)
        assert "2 of 18 rows left out: a value is missing, infinite or not positive (loss in 2)" in runs.notes

    def test_what_is_added_is_a_number(self):
        with pytest.raises(InputError, match="should be a number, not nan"):
            as_runs(table(), add_to_loss=np.nan)

    def test_losses_of_vocabularies_are_fitted(self, published):
        """ScaleBench's best law of its task explains .93 of runs that it was not fitted to."""
        frame = published("scalebench_vocab_train.csv")
        others = {"params_non_vocab": "non_vocab_parameters", "params_vocab": "vocab_size"}
        columns = Columns(tokens="num_characters", loss="unigram_normalized_loss", others=others)
        law = law_named("vocabulary")
        with pytest.raises(InputError, match=r"1080 of 1080 losses lie below 0.*more than 5\.343"):
            as_runs(frame, columns=columns, variables=law.variables)
        runs = as_runs(frame, columns=columns, variables=law.variables, add_to_loss=10)
        assert len(runs) == 1080
        found = fit(runs, law, resamples=0, init="quick")
        assert found.parameters["E"] > 0
        losses = runs.table["loss"]
        predicted = np.exp(found.log_losses(found.theta[None], runs.table)[0])
        assert 1 - ((losses - predicted) ** 2).sum() / ((losses - losses.mean()) ** 2).sum() > 0.93


class TestPublishedBudgets:
    """Open-Athena's four suites, which state budgets and no FLOPs."""

    def test_llama_3_follows_its_own_law(self, published):
        """Grattafiori et al. 2024, sec. 3.2.1: 16.55T tokens and 402B at 3.8e25, and an exponent of tokens of .537; the
        runs here are read off their figure."""
        suites = published("isoflop_open_athena.csv")
        curves = isoflops(as_runs(suites[suites["suite"] == "llama-3"]))
        assert len(curves) == 10
        tokens, params = optimum_law(curves, "tokens"), optimum_law(curves)
        assert tokens.exponent == pytest.approx(0.537, abs=0.002)
        assert float(tokens(3.8e25)) == pytest.approx(16.55e12, rel=0.05)
        assert float(params(3.8e25)) == pytest.approx(402e9, rel=0.05)

    @pytest.mark.parametrize("suite", ["marin-comma", "marin-dclm", "marin-nemotron"])
    def test_the_compute_of_a_budget_buys_the_tokens_that_runs_had(self, published, suite):
        """By 6ND it would buy six hundredths more than they had at the best size."""
        suites = published("isoflop_open_athena.csv")
        frame = suites[suites["suite"] == suite]
        runs = as_runs(frame)
        assert runs.budgets == sorted(frame["budget"].unique())
        curves = isoflops(runs)
        params, tokens = optimum_law(curves), optimum_law(curves, "tokens")
        per_token = TokenCost.of_runs(runs)(np.array([float(params(3e20))]))[0]
        assert 3e20 / per_token == pytest.approx(float(tokens(3e20)), rel=0.02)
        assert 3e20 / (6 * params(3e20)) > 1.06 * tokens(3e20)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8))
def test_any_numbers_are_taken_or_refused_in_one_line(values):
    frame = pd.DataFrame({"params": values, "tokens": values, "loss": values})
    try:
        runs = as_runs(frame)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert 0 < len(runs) <= len(values)
        assert np.isfinite(runs.table.drop(columns="run_id").to_numpy(float)).all()


def test_compute_alone_is_refused_with_the_law_that_takes_it():
    table = pd.DataFrame({"flops": [1e18, 1e19, 1e20], "loss": [3.5, 3.2, 2.9]})
    with pytest.raises(InputError, match="law='saturating'"):
        as_runs(table)
