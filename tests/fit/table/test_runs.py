"""Tables of any origin: what is missing is derived or refused, what is broken is left out and said."""

import csv

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.fit import Columns, InputError, as_runs, read_table


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


@pytest.mark.parametrize(
    "params, tokens, flops, loss",
    [
        ("N", "D", "C", "L"),
        ("n", "d", "c", "loss"),
        ("Model Size", "train-tokens", "Training FLOPs", "val_loss"),
        ("num_params", "tokens_seen", "compute", "Final Loss"),
    ],
)
@pytest.mark.parametrize("missing", [None, "params", "tokens", "flops"])
def test_usual_names_are_found_and_said(params, tokens, flops, loss, missing):
    names = {"params": params, "tokens": tokens, "flops": flops, "loss": loss}
    runs = as_runs(table().drop(columns=missing or []).rename(columns=names))
    for name in names:
        np.testing.assert_allclose(runs.table[name], table()[name])
    said = ", ".join(f"{names[key]} for {key}" for key in names if key != missing and key != names[key])
    assert runs.notes[0] == f"taken by the names of columns: {said}"


@pytest.mark.parametrize(
    "columns, says",
    [
        (
            {"loss": "val_loss", "tokens": "Train Loss"},
            "runs: Train Loss and val_loss may each be loss",
        ),
        ({"tokens": "D", "flops": "train_tokens"}, "and has params; D and train_tokens may each be tokens"),
    ],
)
def test_what_may_be_either_is_refused(columns, says):
    with pytest.raises(InputError, match=says) as error:
        as_runs(table().rename(columns=columns))
    assert "\n" not in str(error.value)


def test_what_may_be_either_is_left_alone_where_the_rest_is_enough():
    runs = as_runs(table(D=[1e8, 1e8]).rename(columns={"params": "N", "tokens": "model_size"}))
    assert runs.notes[1] == "N and model_size may each be params, so none is taken; name it with --params-column"
    assert runs.convention == "total"
    np.testing.assert_allclose(runs.table["params"], table()["params"])


def test_words_are_no_quantity():
    words = table(C=["warm", "cold"]).drop(columns="flops").rename(columns={"params": "N"})
    assert as_runs(words).notes == as_runs(words.drop(columns="C")).notes


def test_no_name_is_guessed_where_nothing_is_wanting():
    plain = as_runs(table())
    assert as_runs(table(N=1.0, val_loss=9.0)).table.equals(plain.table)
    two = table().drop(columns="tokens")
    assert as_runs(two.assign(D=7e9)).notes == as_runs(two).notes
    stated = as_runs(table(N=[5e5, 6e5]).drop(columns="params"), columns=Columns(tokens="tokens", flops="flops"))
    assert stated.notes == ("params follow from C = 6ND",)


def test_no_name_says_that_embeddings_are_left_out():
    with pytest.raises(InputError, match="needs two of params, tokens and flops, and has tokens"):
        as_runs(table().rename(columns={"params": "N"}).drop(columns="flops"), convention="non_embedding")


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


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_files_of_every_kind(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    {
        ".csv": lambda: table().to_csv(path, index=False),
        ".tsv": lambda: table().to_csv(path, index=False, sep="\t"),
        ".jsonl": lambda: table().to_json(path, orient="records", lines=True),
        ".json": lambda: table().to_json(path, orient="records"),
        ".parquet": lambda: table().to_parquet(path),
    }[suffix]()
    np.testing.assert_allclose(as_runs(read_table(path)).table["loss"], [3.0, 2.9])


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("separator, decimal", [(",", "."), (";", "."), ("\t", "."), (";", ","), ("\t", ",")])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_what_separates_values_and_decimals_is_seen(tmp_path, suffix, separator, decimal, quoting):
    path = tmp_path / f"runs{suffix}"
    written = table(loss=[3.125, 2.75], note=["a, b", "1,5 or 2"], exact=["1.5e-7", "-2.25"]).assign(n=[1, 2])
    written["exact"] = written["exact"].str.replace(".", decimal)
    written.to_csv(path, index=False, sep=separator, decimal=decimal, quoting=quoting, encoding="utf-8-sig")
    read = read_table(path)
    assert list(read) == list(written)
    pd.testing.assert_frame_equal(read.drop(columns="exact"), written.drop(columns="exact"), check_dtype=False)
    np.testing.assert_allclose(read["exact"], [1.5e-7, -2.25])


def test_commas_beside_decimal_points_are_not_decimals(tmp_path):
    """They may part thousands."""
    path = tmp_path / "runs.csv"
    path.write_text("params;tokens;loss\n331,776;6.5e9;3.1\n616,320;6.5e9;2.9\n")
    with pytest.raises(InputError, match="column 'params' holds no numbers, but '331,776'; write them out, as 1e9"):
        as_runs(read_table(path))


def test_one_column_has_no_separator(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("loss\n3.1\n2.9\n")
    assert list(read_table(path)["loss"]) == [3.1, 2.9]


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        (pd.Index([7, 7]), {}),
        (pd.Index(["a", "b"]), {"index": ["a", "b"]}),
        (pd.Index([3, 3], name="run"), {"run": [3, 3]}),
        (pd.Index([3, 4], name="loss"), {}),
        (pd.MultiIndex.from_tuples([("a", 0), ("a", 1)], names=["sweep", None]), {"sweep": ["a", "a"]}),
    ],
)
def test_labels_of_rows_are_columns_if_they_say_something(tmp_path, index, kept):
    path = tmp_path / "runs.parquet"
    table().set_axis(index).to_parquet(path)
    read = read_table(path)
    assert list(read.index) == [0, 1]
    assert {name: list(read[name]) for name in read.columns if name not in table()} == kept
    np.testing.assert_allclose(read["loss"], table()["loss"])


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("x.csv", None, "no such file"),
        ("runs", None, "no such file"),
        ("x.xlsx", b"", "cannot read '.xlsx' files"),
        ("x.csv", b"", "not a readable csv table"),
        ("x.tsv", "params\tloss".encode("utf-16"), "x.tsv: is not text in UTF-8; save it as that"),
        ("x.jsonl", b"{broken", "not a readable jsonl table"),
        ("x.parquet", b"nope", "not a readable parquet table"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read_table(tmp_path / name)
    assert "\n" not in str(error.value)


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
