"""Tables as people have them: each is handled, or refused in one line."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.fit import InputError, as_runs, fit

CELL = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(1e6, 1e12),
    st.sampled_from(["", "n/a", "1e9", "1,000", "-3", None, True, 0]),
)


def same(one, other, scale):
    assert one.objective == pytest.approx(other.objective, rel=1e-6)
    assert one.parameters["alpha"] == pytest.approx(other.parameters["alpha"], rel=1e-4)
    assert one.parameters["E"] == pytest.approx(other.parameters["E"] * scale, rel=1e-4)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(("params", "tokens", "flops", "loss"), CELL)), max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_cells_are_a_fit_or_one_line(rows):
    """Whatever is in the cells; a fit that comes of it says only finite numbers, and is JSON."""
    try:
        with np.errstate(all="ignore"):
            found = fit(pd.DataFrame(rows), resamples=0)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        json.dumps(found.to_dict())
        assert all(np.isfinite(value) for value in found.parameters.values())


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_broken_rows_change_nothing(isoflop_grid, data):
    clean = isoflop_grid(noise=0.003)
    broken = clean.sample(4, random_state=data.draw(st.integers(0, 9)))
    column = data.draw(st.sampled_from(["params", "tokens", "flops", "loss"]))
    broken = broken.assign(**{column: data.draw(st.sampled_from([np.nan, np.inf, -1.0, 0.0]))})
    both = pd.concat([clean, broken, clean.iloc[:3]]).sample(frac=1, random_state=1)
    one, other = fit(clean, resamples=0), fit(both, resamples=0)
    assert len(other.runs) == len(clean)
    assert len(other.runs.notes) == 2
    same(other, one, 1)


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-10, 10))
@settings(max_examples=15, deadline=None)
def test_units_over_forty_decades_do_not_matter(isoflop_grid, params, tokens, loss):
    table = isoflop_grid(noise=0.003).drop(columns=["flops", "budget"])
    scaled = table.assign(
        params=table.params * 10.0**params, tokens=table.tokens * 10.0**tokens, loss=table.loss * 10.0**loss
    )
    same(fit(as_runs(scaled, as_is=True), resamples=0), fit(table, resamples=0), 10.0**loss)


def test_three_points_are_too_few(isoflop_grid):
    with pytest.raises(InputError, match="has 5 parameters and needs 6 runs or more; got 3"):
        fit(isoflop_grid().iloc[:3])


def test_a_million_rows_are_not_finished_runs():
    n = 1_000_000
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.uniform(1e6, 1e9, n) for name in ("params", "tokens", "loss")})
    with pytest.raises(InputError, match="1000000 rows, and a law is fitted to finished runs, 5000 at most"):
        fit(table)


def test_all_the_same_loss(isoflop_grid):
    with pytest.raises(InputError, match="every loss is the same"):
        fit(isoflop_grid().assign(loss=2.0), resamples=0)


@pytest.mark.parametrize("word", ["mean", "Average", "TOTAL"])
def test_a_row_that_sums_up_the_others_is_no_run(isoflop_grid, word):
    table = isoflop_grid(noise=0.003).reset_index(drop=True)
    named = table.assign(run=[f"r{i}" for i in range(len(table))])
    with_sum = pd.concat([named, pd.DataFrame([{**table.mean(), "run": word}])], ignore_index=True)
    runs = as_runs(with_sum)
    assert len(runs) == len(table)
    assert any(note == f"1 row left out, called '{word.casefold()}'" for note in runs.notes)
    # What every row is called says nothing.
    assert len(as_runs(table.assign(over_seeds=word))) == len(table)


def test_what_counts_can_be_computed_of_is_told_and_gives_the_counts(isoflop_grid):
    table = isoflop_grid(noise=0.003)
    kept = table[["params", "loss"]]
    shapes = {
        "tokens=train_steps*global_batch_size*seq_len": kept.assign(
            train_steps=table.tokens / 64 / 1024, global_batch_size=64, seq_len=1024
        ),
        "tokens=step*batch_tokens": kept.assign(step=table.tokens / 65536, batch_tokens=65536),
        "tokens=`D/N`*params": kept.assign(**{"D/N": table.tokens / table.params}),
        "tokens=10**log10_tokens": kept.assign(log10_tokens=np.log10(table.tokens)),
        "tokens=exp(log_tokens)": kept.assign(log_tokens=np.log(table.tokens)),
    }
    for expression, lacking in shapes.items():
        with pytest.raises(InputError, match="compute them") as caught:
            as_runs(lacking)
        assert f"table.eval('{expression}')" in str(caught.value)
        runs = as_runs(lacking.eval(expression, engine="python"))
        assert runs.table["tokens"].to_numpy() == pytest.approx(table["tokens"].to_numpy())


def test_one_column_in_two_units_is_refused_and_said(isoflop_grid):
    table = isoflop_grid(noise=0.003)
    texts = [f"{n / 1e6:.3f}M" if i % 3 else f"{n / 1e6:.3f}" for i, n in enumerate(table.params)]
    with pytest.raises(InputError) as caught:
        as_runs(table.assign(params=texts).drop(columns="flops"))
    assert "of ;" not in str(caught.value)
