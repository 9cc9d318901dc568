"""Tables of any origin: what is missing is derived or refused, what is broken is left out and said."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.fit import Columns, InputError, as_runs


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
def test_counts_in_millions_or_billions_are_said(column, values):
    """They would be taken for counts, and a forecast in FLOPs would be off by as much."""
    (told,) = [note for note in as_runs(table(**{column: values})).notes if "millions or billions" in note]
    assert told.startswith(f"{column} is not in whole numbers")


@pytest.mark.parametrize("params", [[2560.0, 4992.0], [1.5e8 + 0.25, 2e8]])
def test_small_models_and_large_counts_by_formula_are_no_millions(params):
    assert as_runs(table(params=params)).notes == ()


def test_words_for_numbers_are_named():
    with pytest.raises(InputError, match=r"'params' holds no numbers, but '25\.3M'"):
        as_runs(table(params=["25.3M", "84.4M"]))


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
