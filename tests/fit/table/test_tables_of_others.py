"""Tables that other tools and people write: the law that is in them is found, or one line says what to mend.

The runs lie exactly on E 1.8, A 480, B 2100, alpha .35, beta .37; whatever is done to the table, no other law comes.
"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.fit import Columns, InputError, as_runs, fit

LAW = {"E": 1.8, "A": 480, "B": 2100, "alpha": 0.35, "beta": 0.37}
PARAMS = [2e7, 5e7, 1.25e8, 5e7, 1.25e8, 3.1e8, 1.25e8, 3.1e8, 7.75e8]
TOKENS = [2e9, 8e8, 3.2e8, 5e9, 2e9, 8e8, 1.25e10, 5e9, 2e9]


def law(params, tokens):
    return LAW["E"] + LAW["A"] / params ** LAW["alpha"] + LAW["B"] / tokens ** LAW["beta"]


def reference(**columns):
    """The nine runs, with further columns or others in their place."""
    table = pd.DataFrame({"params": PARAMS, "tokens": TOKENS})
    table = table.assign(loss=law(table["params"], table["tokens"]))
    return table.assign(**columns)


def renamed(**names):
    return reference(flops=6 * np.array(PARAMS) * TOKENS).rename(columns=names)


def is_the_law(table, **options):
    runs = as_runs(table, **options)
    found = fit(runs, resamples=0).parameters
    for name, value in LAW.items():
        assert found[name] == pytest.approx(value, rel=2e-3), (name, found)
    return runs


def curves(steps=4):
    """Each run at several steps: losses above the law until the last."""
    rows = [
        {"run": f"r{i}", "step": 100 * k, "params": n, "tokens": d * k / steps}
        | {"loss": law(n, d * k / steps) + 0.3 * (1 - k / steps)}
        for i, (n, d) in enumerate(zip(PARAMS, TOKENS, strict=True))
        for k in range(1, steps + 1)
    ]
    return pd.DataFrame(rows)


def tuned(**settings):
    """Each run at several learning rates and batches: losses above the law but for the best."""
    return pd.concat(
        reference(lr=lr, bs=bs, loss=law(np.array(PARAMS), np.array(TOKENS)) * (1 + off), **settings)
        for lr, bs, off in [(1e-3, 32, 0.04), (2e-3, 32, 0.0), (2e-3, 128, 0.02), (8e-3, 64, 0.09)]
    )


def with_states(name, bad, good="finished"):
    """Two runs that crashed, with losses a third too high, and their second try."""
    table = reference()
    crashed = table.iloc[[3, 6]].assign(loss=lambda rows: rows["loss"] * 1.3)
    return pd.concat([table.assign(**{name: good}), crashed.assign(**{name: bad})])


NAMES = [f"width {n:.0f}" for n in PARAMS]
MILLIONS, BILLIONS = np.array(PARAMS) / 1e6, np.array(TOKENS) / 1e9
FLOPS = 6 * np.array(PARAMS) * TOKENS
READ = {
    "units in headers": reference(params=MILLIONS, tokens=BILLIONS).set_axis(
        ["params (M)", "tokens (B)", "loss"], axis=1
    ),
    "units after names": reference(params=MILLIONS, tokens=BILLIONS).set_axis(["params_m", "tokens_b", "loss"], axis=1),
    "units as words": reference(params=MILLIONS).rename(columns={"params": "num_params_in_millions"}),
    "units as powers": reference(tokens=BILLIONS).rename(columns={"tokens": "Tokens [10^9]"}),
    "high powers": reference(tokens=BILLIONS).rename(columns={"tokens": "tokens (10\u2079)"}),
    "gflops": reference(total_gflops=FLOPS / 1e9).drop(columns="params"),
    "PF-days": reference(**{"compute (PF-days)": FLOPS / 8.64e19}).drop(columns="tokens"),
    "petaflop/s-days": reference(**{"petaflop/s-days": FLOPS / 8.64e19}).drop(columns="tokens"),
    "exaFLOPs": reference(exaflops=FLOPS / 1e18).drop(columns="tokens"),
    "cells M and B": reference(params=[f"{n / 1e6:g}M" for n in PARAMS], tokens=[f"{d / 1e9:g} B" for d in TOKENS]),
    "cells with nouns": reference(tokens=[f"{d / 1e9:g} billion tokens" for d in TOKENS]),
    "cells with commas": reference(params=[f"{n:,.0f}" for n in PARAMS], tokens=[f"{d:,.0f}" for d in TOKENS]),
    "cells with spaces": reference(tokens=[f"{d:,.0f}".replace(",", " ") for d in TOKENS]),
    "cells with powers": reference(params=[f"{n / 1e7:g}\u00d710^7" for n in PARAMS]),
    "cells with high powers": reference(params=[f"{n / 1e7:g}\u00b710\u2077" for n in PARAMS]),
    "some cells only": reference(tokens=[f"{d / 1e9:g}B" if d > 4e9 else f"{d:.0f}" for d in TOKENS]),
    "cells in PF-days": reference(flops=[f"{c / 8.64e19:.9g} PF-days" for c in FLOPS]).drop(columns="tokens"),
    "decimal commas": reference(loss=lambda rows: [f"{loss:.8f}".replace(".", ",") for loss in rows["loss"]]),
    "State": with_states("State", ["crashed", "failed"]),
    "run_state": with_states("run_state", ["running", "killed"]),
    "status of MLflow": with_states("status", ["FAILED", "RUNNING"], "FINISHED"),
    "status with a reason": with_states("status", ["Failed: OOM", "TIMEOUT (node 3)"], "COMPLETED"),
    "trial_status": with_states("trial_status", ["ERROR", "PENDING"], "TERMINATED"),
    "diverged": with_states("diverged", [True, True], False),
    "finished": with_states("finished", ["no", "no"], "yes"),
    "exit_code": with_states("exit_code", [1, 137], 0),
    "curves": curves(),
    "curves upside down": curves().iloc[::-1],
    "curves by tokens": curves().drop(columns="step"),
    "curves of W&B": curves().rename(columns={"run": "Name", "step": "_step"}),
    "curves of a logger": curves().rename(
        columns={"run": "run_id", "step": "trainer/global_step", "loss": "eval/loss"}
    ),
    "models and their lengths": reference(
        model=[f"{n:.0f}m" for n in MILLIONS], steps=[d / 5e5 for d in TOKENS], seed=0
    ),
    "names and seeds": pd.concat([reference(name=NAMES, step=1000, seed=seed) for seed in (0, 1)]),
    "checkpoints of models": curves(8).rename(columns={"run": "model"}),
    "curves logged in between": pd.concat([curves(), curves().assign(step=lambda r: r["step"] + 1, loss=np.nan)]),
    "learning rates": tuned(),
    "learning rates of a config": tuned().rename(columns={"lr": "config.learning_rate", "bs": "config.batch_size"}),
    "experts": reference(params_active=np.array(PARAMS) / 8),
    "experts, in letters": reference(params_active=np.array(PARAMS) / 8).rename(
        columns={"params": "N", "params_active": "Na", "tokens": "D"}
    ),
    "a run that diverged": pd.concat([reference(), reference().iloc[:1].assign(loss="diverged")]),
    "no numbers in a row": pd.concat([reference(), pd.DataFrame([{"params": "n/a", "tokens": "-", "loss": ""}])]),
    "names 1": renamed(params="params_total", tokens="tokens_trained", loss="final_loss"),
    "names 2": renamed(params="parameter_count", flops="total_flos", loss="eval/loss").drop(columns="tokens"),
    "names 3": renamed(params="non_embedding_params", flops="compute_budget", loss="valid_loss").drop(columns="tokens"),
    "names 4": renamed(tokens="train_tokens", flops="flops_budget", loss="summary.val/loss").drop(columns="params"),
    "names 5": renamed(params="config.num_params", tokens="train/num_input_tokens_seen", loss="test_nll"),
    "names 6": renamed(params="Model Size", flops="Training FLOP", loss="Final Loss").drop(columns="tokens"),
    "layers": reference(L=[2, 4, 6, 4, 6, 8, 6, 8, 12]).rename(columns={"loss": "val_loss"}),
    "a throughput": reference(tflops=[180.0, 190, 200, 190, 200, 210, 200, 210, 220]),
    "perplexities": reference(loss=lambda rows: np.exp(rows["loss"])).rename(columns={"loss": "val_ppl"}),
}
REFUSED = {
    "more active than all": (
        reference(params_active=np.array(PARAMS) * 2),
        r"in 9 rows the active parameters, column 'params_active', are more than all, column 'params', first in row 0",
    ),
    "GFLOP": (reference(flops=FLOPS / 1e9), r"flops are in GFLOP, .*'flops=flops\*1e\+09'"),
    "PF-days": (reference(flops=FLOPS / 8.64e19), r"in PF-days, .*'flops=flops\*8\.64e\+19'"),
    "EFLOP": (reference(flops=FLOPS / 1e18), r"in EFLOP, .*'flops=flops\*1e\+18'"),
    "another name": (renamed(flops="C").assign(C=FLOPS / 1e9).drop(columns="tokens"), r"'flops=C\*1e\+09'"),
    "GFLOP alone": (reference(flops=FLOPS / 1e9).drop(columns="tokens"), r"1\.6e-08 tokens per parameter.*GFLOP"),
    "PF-days alone": (reference(flops=FLOPS / 8.64e19).drop(columns="params"), "tokens per parameter.*PF-days"),
    "millions beside FLOPs": (reference(flops=FLOPS, params=MILLIONS), r"'params=params\*1e\+06'"),
    "both beside FLOPs": (
        reference(flops=FLOPS, params=MILLIONS, tokens=BILLIONS),
        r"params\*1e\+06'\) and .*tokens\*1e\+09",
    ),
    "millions and FLOPs": (reference(flops=FLOPS, params=MILLIONS).drop(columns="tokens"), r"'params=params\*1e\+06'"),
    "millions and billions": (reference(params=MILLIONS, tokens=BILLIONS), "params in millions .*tokens in billions"),
    "billions": (reference(params=[7, 13, 34, 70, 7, 13, 34, 70, 70], tokens=BILLIONS * 100), r"params=params\*1e\+09"),
    "tokens in billions": (reference(tokens=BILLIONS), r"'tokens=tokens\*1e\+09'"),
    "tokens in millions": (reference(tokens=BILLIONS * 1e3), r"'tokens=tokens\*1e\+06'"),
    "one row in millions": (reference(params=[20.0, *PARAMS[1:]]), r"in 1 row .*first in row 0"),
    "one row of FLOPs": (reference(flops=[FLOPS[0] / 1e3, *FLOPS[1:]]), r"in 1 row flops are more than 10 times off"),
    "no number": (
        reference(tokens=["about 2e9", *TOKENS[1:]]),
        "1 value of 'tokens' is no number, such as 'about 2e9'",
    ),
    "names of models": (
        reference(params=[f"pythia-{n:.0f}m" for n in MILLIONS]),
        "9 values of 'params' are no numbers",
    ),
    "commas of two kinds": (
        reference(loss=[f"{x:.3f}".replace(".", ",") for x in reference()["loss"]]),
        "may part thousands",
    ),
    "two losses": (reference(train_loss=1.0).rename(columns={"loss": "val_loss"}), "may each be loss"),
    "twice a loss": (reference().set_axis(["loss", "tokens", "loss"], axis=1), "two columns are called 'loss'"),
    "an accuracy": (reference(loss=lambda rows: 1 - rows["loss"] / 6), "rises with scale, as an accuracy"),
    "a score": (reference(loss=lambda rows: 100 - 10 * rows["loss"]), "rises with scale, as a score"),
    "perplexities as losses": (
        reference(loss=lambda rows: np.exp(rows["loss"])),
        r"perplexities, .*'loss=log\(loss\)'",
    ),
    "all crashed": (reference(State="crashed"), "no run is finished: 9 rows left out"),
    "steps twice": (pd.concat([curves(), curves().assign(loss=9.0)]), "run 'r0' has several rows at its last step"),
}


@pytest.mark.parametrize("name", READ)
def test_it_is_read(name):
    is_the_law(READ[name])


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_a_line_that_mends_it(name):
    table, says = REFUSED[name]
    with pytest.raises(InputError, match=says) as error:
        as_runs(table)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["GFLOP", "EFLOP", "millions beside FLOPs", "tokens in billions", "tokens in millions"]
)
def test_what_the_line_says_mends_it(name):
    import re

    table, _ = REFUSED[name]
    with pytest.raises(InputError) as error:
        as_runs(table)
    expression = re.search(r"table\.eval\('([^']*)'\)", str(error.value))[1]
    is_the_law(table.eval(expression))


class TestSaid:
    """What was guessed is said, with the option that overrules it."""

    @pytest.mark.parametrize(
        "table, says",
        [
            ("units in headers", "column 'params (M)' is in M: times 1e+06; as_runs(..., as_is=True)"),
            ("cells M and B", "cells of 'params' such as '20M' are read as 2e+07"),
            ("State", "2 rows left out as not finished by column 'State' (1 crashed, 1 failed); keep_unfinished=True"),
            ("curves", "36 rows are steps of 9 runs (by 'run', 'step'): the last of each counts; rows='all'"),
            ("learning rates", "36 rows are 9 cells of params and tokens tried at several 'lr' and 'bs': the best"),
            ("experts", "flops follow from C = 6ND, N the active parameters"),
            ("experts, in letters", "flops follow from C = 6ND, N the active parameters"),
            ("perplexities", "the loss is the logarithm of column 'val_ppl', a perplexity"),
            ("a run that diverged", "1 cell of 'loss' holds no number, but 'diverged'"),
            ("names 1", "taken by the names of columns: params_total for params, tokens_trained for tokens"),
        ],
    )
    def test_of_each(self, table, says):
        assert any(note.startswith(says) for note in as_runs(READ[table]).notes), as_runs(READ[table]).notes

    def test_what_reading_said_is_said_on(self):
        table = reference()
        table.attrs["notes"] = ("every row had a separator at its end",)
        assert as_runs(table).notes[0] == "every row had a separator at its end"

    def test_a_forward_pass_alone(self):
        (note,) = as_runs(reference(flops=FLOPS / 3)).notes
        assert note.startswith("flops are 0.333 times 6 · params · tokens in every run")

    def test_rows_of_one_size_at_even_distances_may_be_curves(self):
        notes = as_runs(curves(8).drop(columns=["run", "step"])).notes
        assert not any("even distances" in note for note in notes)  # of several lengths
        even = pd.concat(reference(params=n, tokens=np.arange(1, 10) * 1e9) for n in (1e8, 2e8))
        assert any("even distances of tokens" in note for note in as_runs(even).notes)


class TestOverruled:
    @pytest.mark.parametrize("rows, kept", [("last", 9), ("best", 9), ("all", 36), (None, 9)])
    def test_rows_of_curves(self, rows, kept):
        assert len(as_runs(curves(), rows=rows)) == kept

    def test_the_best_is_the_lowest_loss(self):
        spiked = curves()
        spiked.loc[spiked["step"] == 400, "loss"] += 1
        best = as_runs(spiked, rows="best").table.sort_values(["params", "tokens"])
        assert (
            best["loss"].tolist()
            == spiked.groupby("run", sort=False)["loss"].min().iloc[[0, 1, 3, 2, 4, 6, 5, 7, 8]].tolist()
        )

    def test_a_run_without_a_loss_at_its_end_diverged(self):
        spoilt = curves(20)
        spoilt.loc[(spoilt["run"] == "r3") & (spoilt["step"] == 2000), "loss"] = np.nan
        runs = as_runs(spoilt)
        assert len(runs) == 8
        assert any("as runs that diverged" in note for note in runs.notes)

    def test_groups_and_weights_take_every_row(self):
        assert len(as_runs(curves(), columns=Columns(group="run"))) == 36
        assert len(as_runs(tuned(weight=1.0), columns=Columns(weight="weight"))) == 36

    def test_unfinished_runs_are_kept(self):
        assert len(as_runs(READ["State"], keep_unfinished=True)) == 11

    def test_learning_rates_that_the_law_takes_are_no_tuning(self):
        assert len(as_runs(tuned(), variables=("N", "D", "lr", "bs"))) == 36

    def test_seeds_are_no_tuning(self):
        """Repeats of the best setting are kept: they say how much runs scatter."""
        table = pd.concat([tuned(seed=0), tuned(seed=1).assign(loss=lambda rows: rows["loss"] * 1.001)])
        assert len(as_runs(table)) == 18

    @pytest.mark.parametrize("name", [name for name, (_, says) in REFUSED.items() if "e\\+" in says or "rises" in says])
    def test_figures_as_they_are(self, name):
        assert len(as_runs(REFUSED[name][0], as_is=True)) == 9

    def test_units_of_headers(self):
        raw = as_runs(READ["units in headers"], as_is=True)
        assert raw.table["params"].tolist() == MILLIONS.tolist()


def test_models_of_one_size_are_cells_of_their_own(published):
    """Step-law's mixtures of experts: two of one size in all differ in what a token passes through, and the third is
    larger by a fifth of a percent; each was tried at 45 settings."""
    table = published("lr_batch_steplaw_moe.csv")
    runs = as_runs(table)
    assert "708 rows are 16 cells of params, tokens and params_active tried at several 'lr' and 'bs'" in runs.notes[1]
    lowest = table.groupby(["N", "Na", "D"])["loss"].min()
    assert sorted(runs.table["loss"]) == pytest.approx(sorted(lowest))
    assert sorted(runs.table["flops"]) == pytest.approx(sorted(6.0 * n * d for _, n, d in lowest.index))
    says = r"params is all but the same \(2\.151e\+09 to 2\.156e\+09\).*law='saturating-d'"
    with pytest.raises(InputError, match=says):
        fit(runs, resamples=0)


def test_sizes_to_rounding_are_one_cell():
    """As they come from `--with params=flops/(6*tokens)`."""
    table = tuned()
    noise = 1 + 1e-15 * np.random.default_rng(0).integers(-2, 3, len(table))
    assert len(as_runs(table.assign(params=table["params"] * noise))) == 9


class TestExperts:
    def test_flops_are_those_of_the_parameters_that_a_token_passes(self):
        runs = as_runs(READ["experts"])
        np.testing.assert_allclose(runs.table["flops"], FLOPS / 8)
        assert runs.convention == "total"

    def test_the_best_size_is_of_the_compute_that_is_taken(self):
        """A mixture that runs an eighth of itself buys as much for an eighth of the compute."""
        dense, sparse = fit(reference(), resamples=0), fit(READ["experts"], resamples=0)
        one, other = dense.frontier(1e21).iloc[0], sparse.frontier(1e21 / 8).iloc[0]
        for name in ("loss", "params", "tokens"):
            assert other[name] == pytest.approx(one[name], rel=1e-3)


def test_bits_per_byte_are_no_nats():
    runs = as_runs(
        reference(L=[2, 4, 6, 4, 6, 8, 6, 8, 12], val_bpb=lambda rows: rows["loss"] / 4).drop(columns="loss")
    )
    assert runs.loss_unit == "bits/byte"
    assert fit(runs, resamples=0).parameters["E"] == pytest.approx(0.45, rel=1e-3)


def test_tables_as_python_has_them(tmp_path):
    table = reference().rename(columns={"params": "size"})
    table.to_csv(tmp_path / "runs.csv", index=False)
    for form in (table.to_dict("list"), table.to_dict("records"), tmp_path / "runs.csv", str(tmp_path / "runs.csv")):
        is_the_law(form, columns={"N": "size"})
    with pytest.raises(InputError, match=r"cannot read a table from int; give a DataFrame, a path"):
        as_runs(3)
    with pytest.raises(InputError, match="columns of one length"):
        as_runs({"params": [1, 2], "loss": [1]})


# What people do to a table on its way from one tool to another.
units = st.sampled_from(
    [
        lambda table, rng: table,
        lambda table, rng: table.assign(params=table["params"] / 1e6),
        lambda table, rng: table.assign(tokens=table["tokens"] / 1e9),
        lambda table, rng: table.assign(params=table["params"] / 1e9, tokens=table["tokens"] / 1e9),
        lambda table, rng: table.assign(params=table["params"] / 1e6).rename(columns={"params": "params (M)"}),
        lambda table, rng: table.assign(tokens=table["tokens"] / 1e9).rename(columns={"tokens": "tokens_B"}),
        lambda table, rng: table.assign(flops=6 * table["params"] * table["tokens"]),
        lambda table, rng: table.assign(flops=6e-9 * table["params"] * table["tokens"]),
        lambda table, rng: table.assign(flops=6e-9 * table["params"] * table["tokens"]).drop(columns="tokens"),
        lambda table, rng: table.assign(gflops=6e-9 * table["params"] * table["tokens"]).drop(columns="tokens"),
        lambda table, rng: table.assign(params=[f"{n / 1e6:.10g}M" for n in table["params"]]),
        lambda table, rng: table.assign(tokens=[f"{d:,.0f}" for d in table["tokens"]]),
        lambda table, rng: table.assign(params=table["params"].where(table.index != 4, table["params"] / 1e6)),
    ]
)
changes = st.sampled_from(
    [
        lambda table, rng: table,
        lambda table, rng: table.sample(frac=1, random_state=rng),
        lambda table, rng: table[list(rng.permutation(table.columns))],
        lambda table, rng: table.rename(columns=str.upper),
        lambda table, rng: table.assign(loss=np.exp(table["loss"])),
        lambda table, rng: table.assign(loss=-table["loss"]),
        lambda table, rng: table.assign(loss=table["loss"].where(table.index != 2)),
        lambda table, rng: table.assign(
            State=np.where(table.index == 8, "failed", "finished"), loss=table["loss"] + 9 * (table.index == 8)
        ),
        lambda table, rng: pd.concat([table, table]),
        lambda table, rng: table.assign(lr=[f"{x:.1e}" for x in rng.uniform(1e-4, 1e-2, len(table))]),
        lambda table, rng: table.astype(str),
    ]
)


@given(units, st.lists(changes, max_size=2), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_never_another_law(unit, others, seed):
    rng = np.random.default_rng(seed)
    table = unit(reference(), rng)
    try:
        for change in others:
            table = change(table, rng)
    except (TypeError, ValueError, AttributeError, KeyError):
        return  # one change took what the next needs
    try:
        is_the_law(table)
    except InputError as error:
        assert "\n" not in str(error)
