"""Files of every kind are read alike, and those that cannot be are refused in one line."""

import csv

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import InputError, as_runs, read_table


def table(**columns):
    base = {"params": [1e6, 2e6], "tokens": [1e8, 1e8], "flops": [6e14, 1.2e15], "loss": [3.0, 2.9]}
    return pd.DataFrame(base | columns)


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
    """They part thousands, and it is said."""
    path = tmp_path / "runs.csv"
    path.write_text("params;tokens;loss\n331,776;6.5e9;3.1\n616,320;6.5e9;2.9\n")
    table = read_table(path)
    assert list(table["params"]) == ["331,776", "616,320"]
    assert list(as_runs(table, as_is=True).table["params"]) == [331776, 616320]


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
        ("x.pickle", b"\x80", "cannot read '.pickle' files"),
        ("x.csv", b"", "x.csv: is empty"),
        ("x.tsv", b"params\tloss\n\0", "x.tsv: is no text"),
        ("x.jsonl", b"{broken", "is no JSON: line 1, column 2"),
        ("x.parquet", b"nope", "not a readable parquet table"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read_table(tmp_path / name)
    assert "\n" not in str(error.value)
