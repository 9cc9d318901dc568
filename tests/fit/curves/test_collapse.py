"""Collapse: curves of one form lie on one another, a fault is named where it is, and nobody without one."""

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter

from nextscale.fit import InputError, collapse, plot

FLOOR = 1.8


def course(x):
    """A universal form: a power of the share of training, and a fall at the end as of a decay."""
    return x**-0.3 * (1 - 0.25 * np.clip((x - 0.8) / 0.2, 0, 1))


def ladder(seed=0, runs=6, rows=200, noise=0.003, alike=0.0, **drawn_in):
    """Sizes that double, at 20 tokens per parameter; errors that are as much alike from row to row.

    Args:
        drawn_in: of a run what its losses are multiplied by, given the share of training.
    """
    rng, parts = np.random.default_rng(seed), []
    x = np.arange(1, rows + 1) / rows
    for i in range(runs):
        params = 1e6 * 2**i
        errors = lfilter([np.sqrt(1 - alike**2)], [1, -alike], rng.standard_normal(rows))
        losses = FLOOR + 400 / params**0.34 * course(x) + noise * errors
        own = pd.DataFrame({"run": f"r{i}", "step": np.arange(1, rows + 1) * 10 * (i + 1), "loss": losses})
        own["loss"] *= drawn_in.get(f"r{i}", np.ones_like)(x)
        parts.append(own.assign(params=params, tokens=20 * params * x, lr=1e-3 * (1 - x)))
    return pd.concat(parts, ignore_index=True)


def cut(table, run, share):
    """A run that has come so far."""
    mine = table["run"] == run
    length = table.loc[mine, "step"].max()
    return table.assign(length=np.where(mine, length, np.nan))[~mine | (table["step"] <= share * length)]


def test_curves_of_one_form_collapse_and_tell_the_irreducible_loss():
    found = collapse(ladder(noise=0.0))
    assert found.irreducible == pytest.approx(FLOOR, abs=1e-3)
    assert found.tolerance < 1e-4
    assert found.alarms == []
    assert found.warnings == ()
    expected = found.spread["mean"] / found.spread["mean"].iloc[-1]
    shares = found.spread["share"]
    means = np.array([course(np.linspace(x - 0.01125, x + 0.01125, 101)).mean() for x in shares])
    np.testing.assert_allclose(expected, means / means[-1], rtol=2e-3)


def test_the_spread_is_the_noise():
    """Of l at a share it is that of the loss there and of the loss at the end, each a mean of 5 rows."""
    at_one_size = [ladder(seed, runs=1, rows=400, noise=0.02).assign(run=f"r{seed}") for seed in range(12)]
    found = collapse(pd.concat(at_one_size), irreducible=FLOOR, start=0.5)
    end = 400 / 1e6**0.34 * course(1.0)
    expected = 0.02 / np.sqrt(5) / end * np.sqrt(1 + np.mean(found.spread["mean"][:-1] ** -2))
    assert np.sqrt((found.spread["tolerance"][:-1] ** 2).mean()) == pytest.approx(expected, rel=0.2)


def test_without_an_irreducible_loss_it_is_the_loss_over_that_at_the_end():
    found = collapse(ladder(), irreducible=0.0)
    for _, rows in found.curves.groupby("run"):
        np.testing.assert_allclose(rows["normalised"], rows["loss"] / rows["loss"].iloc[-1])
    assert found.tolerance > 10 * collapse(ladder()).tolerance


@pytest.mark.parametrize(
    ("fault", "where", "sign"),
    [
        pytest.param(lambda x: 1 + 0.05 * ((x > 0.5) & (x < 0.53)), 0.51, 1, id="spike"),
        pytest.param(lambda x: np.where(x > 0.6, course(0.6) / course(x), 1) ** 0.5, 0.65, 1, id="plateau"),
        pytest.param(lambda x: 1 - 0.03 * (x > 0.4), 0.41, -1, id="too good: data seen before"),
    ],
)
def test_a_fault_is_named_at_its_share(fault, where, sign):
    found = collapse(ladder(r4=fault))
    runs = found.runs.set_index("run")
    assert runs["left"].notna().tolist() == [False] * 4 + [True, False]
    assert runs["left"]["r4"] == pytest.approx(where, abs=0.05)
    assert np.sign(runs["times"]["r4"]) == sign
    assert found.alarms[0].startswith("r4 leaves the others at ")
    assert found.irreducible == pytest.approx(FLOOR, abs=0.02)
    # What leaves is no part of the bundle.
    assert found.tolerance < 2 * collapse(ladder()).tolerance


def test_a_run_under_way_is_judged_by_what_is_seen_and_its_end_foretold():
    whole = ladder()
    end = collapse(whole).runs["final"].iloc[-1]
    run = collapse(cut(whole, "r5", 0.5)).runs.iloc[-1]
    assert (run["done"], run["left"]) == (pytest.approx(0.5), pytest.approx(np.nan, nan_ok=True))
    assert run["low"] < end < run["high"]
    assert run["high"] - run["low"] < 0.02
    faulty = ladder(r5=lambda x: np.maximum(1, 1 + (x - 0.4) / 2))
    found = collapse(cut(faulty, "r5", 0.55))
    assert 0.4 < found.runs["left"].iloc[-1] < 0.5
    assert found.runs["final"].iloc[-1] == pytest.approx(end, rel=0.01)
    # Seen later, it left there too.
    assert collapse(cut(faulty, "r5", 0.9)).runs["left"].iloc[-1] == pytest.approx(
        found.runs["left"].iloc[-1], abs=0.05
    )


def test_lengths_can_be_told_by_name():
    half = cut(ladder(), "r5", 0.5)
    told = collapse(half.drop(columns="length"), lengths={"r5": 12000})
    pd.testing.assert_frame_equal(told.runs, collapse(half).runs)
    with pytest.raises(InputError, match="no run of this name; there is r0, r1"):
        collapse(half, lengths={"r9": 12000})
    with pytest.raises(InputError, match="r5: its last step, 6000, is past its length, 5000"):
        collapse(half, lengths={"r5": 5000})


def test_nobody_without_a_fault_is_named():
    """At a chance of 5 % a table, no more than 2 of 12: 3 would come in one of 50 at most."""
    kinds = [{"alike": alike, "runs": runs} for alike in (0.0, 0.98) for runs in (4, 7)]
    named = [bool(collapse(ladder(seed, **kinds[seed % 4])).alarms) for seed in range(12)]
    assert sum(named) <= 2


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("alike", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("runs", [4, 6, 10])
def test_the_share_of_false_alarms_is_at_most_what_was_asked(runs, alike):
    named = [bool(collapse(ladder(seed, runs, alike=alike)).alarms) for seed in range(100)]
    ahead = [bool(collapse(cut(ladder(seed, runs, alike=alike), f"r{runs - 1}", 0.6)).alarms) for seed in range(100)]
    assert np.mean(named) < 0.12
    assert np.mean(ahead) < 0.12


def test_why_no_collapse_is_to_be_expected_is_said():
    table = ladder()
    ratios = table.assign(tokens=table["tokens"] * np.where(table["run"] == "r5", 4, 1))
    assert "tokens per parameter run from 20 to 80" in collapse(ratios).warnings[0]
    other = table.assign(lr=np.where(table["run"] == "r5", 1e-3, table["lr"]))
    assert "schedules differ, on average by 55% of the peak" in collapse(other).warnings[0]
    unknown = collapse(table[["run", "step", "loss"]]).warnings
    assert [text.partition(":")[2] for text in unknown] == [
        " whether tokens per parameter agree is not checked",
        " whether schedules agree is not checked",
    ]


def test_what_cannot_be_laid_on_one_another_is_said():
    table = ladder()
    two = table[table["run"].isin(["r0", "r1"])]
    for given, said in (
        (two, "2 of 2 runs are finished, and a bundle needs 3"),
        (table.drop(columns=["step", "tokens"]), "there is no column of steps or tokens"),
        (table.assign(loss=-1.0), "r0: losses should be numbers greater than 0"),
        (table[table.index % 40 == 39], "r0 has too few losses past 10% of training"),
        (table[(table["run"] != "r1") | (table["step"] > 1000)], "r1: begins at 26% of training"),
    ):
        with pytest.raises(InputError, match=said):
            collapse(given)
    with pytest.raises(InputError, match="irreducible loss 9 is not below every loss"):
        collapse(table, irreducible=9.0)


def test_a_run_whose_losses_end_in_nothing_is_not_finished():
    table = ladder()
    table.loc[(table["run"] == "r5") & (table["step"] > 6000), "loss"] = np.nan
    run = collapse(table).runs.iloc[-1]
    assert (run["done"], run["length"]) == (pytest.approx(0.5), 12000)


@pytest.mark.parametrize("share", [0.05, 0.15])
def test_a_run_that_has_just_begun_is_not_judged(share):
    found = collapse(cut(ladder(), "r5", share))
    assert found.warnings == ("r5: too little is seen to judge by; 5 points are needed",)
    assert found.runs[["times", "left"]].iloc[-1].isna().all()
    assert np.isfinite(found.runs["final"].iloc[-1]) == (share > 0.1)


def test_runs_at_one_length_do_not_collapse_and_it_is_said(published_folder):
    """Gemstones: 22 sizes from 48M to 2B, all at 100B tokens: the smaller fall less along the way than the larger."""
    gemstones_hot = pd.read_json(published_folder / "gemstones_hot.jsonl", lines=True)
    found = collapse(gemstones_hot, columns={"loss": "final_loss", "params": "params_active_precise"})
    assert "tokens per parameter run from 49.8 to 2.07e+03" in found.warnings[0]
    assert found.alarms == []
    drop = found.curves.groupby("run")["normalised"].first()
    params = gemstones_hot.groupby("run_name")["params_active_precise"].first()
    assert np.corrcoef(drop, np.log(params[drop.index]))[0, 1] > 0.9


def test_the_figures_show_every_run_and_where_one_left():
    from matplotlib.figure import Figure

    found = collapse(ladder(r4=lambda x: 1 + 0.1 * (x > 0.5)))
    left, right = Figure(layout="constrained").subplots(1, 2)
    plot.collapse(left, found)
    plot.tolerance(right, found)
    assert len(left.lines) == 7
    assert right.lines[0].get_ydata() == pytest.approx(100 * found.spread["tolerance"])
