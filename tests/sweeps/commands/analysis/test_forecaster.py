"""The laws that commands take: the consensus, the one that a backtest chooses, every objective, and other variables."""

import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def bent(published_folder, tmp_path):
    """Marin's runs on Comma, on which Chinchilla's law bends, as a file."""
    path = tmp_path / "comma.csv"
    table = pd.read_csv(published_folder / "isoflop_open_athena.csv")
    table[table["suite"] == "marin-comma"].to_csv(path, index=False)
    return path


@pytest.fixture
def known(tmp_path):
    flops = np.repeat(np.geomspace(1e18, 1e20, 5), 5)
    params = np.sqrt(flops / 120) * np.tile(np.geomspace(1 / 4, 4, 5), 5)
    loss = 1.8 + 480 / params**0.35 + 2100 / (flops / 6 / params) ** 0.37
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(25))
    path = tmp_path / "runs.csv"
    pd.DataFrame({"params": params, "flops": flops, "loss": loss * noise}).to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_what_backtest_trusts_is_run_as_it_is_printed(called, bent):
    code, out, _ = called("backtest", bent, "--law", "size-data", "--law", "chinchilla", "--json")
    told = json.loads(out)
    words = shlex.split(told["command"].replace("FLOPS", "1e21"))
    assert code == 0
    code, out, _ = called(*words[1:], "--json", "--resamples", "100")
    assert code == 0
    assert json.loads(out)["law"] == told["best"]["law"] == "size-data"


@pytest.mark.slow
def test_what_backtest_trusts_of_other_variables_is_run_as_it_is_printed(called, published_folder):
    """With the names of columns and the condition that the table needs."""
    table = published_folder / "scalebench_parallel_train.csv"
    words = ("--column", "P=parallel_size", "--params-column", "num_params", "--where", "group == 'pile'")
    code, out, _ = called("backtest", table, *words, "--law", "parallel", "--along", "P", "--json")
    told = json.loads(out)
    assert code == 0
    assert max(row["furthest"] for row in told["table"]) == 4
    again = shlex.split(told["command"].replace("params=VALUE", "params=1e9").replace("P=VALUE", "P=8"))
    code, out, err = called(*again[1:], "--json", "--resamples", "100")
    assert code == 0, err
    assert json.loads(out)["law"] == "parallel"


@pytest.mark.parametrize("command", ["fit", "forecast", "frontier", "next"])
def test_the_law_may_be_left_to_a_backtest(called, known, command):
    asked = {"fit": [], "next": ["--target", "1e21"]}.get(command, ["--flops", "1e21", "--resamples", "100"])
    code, out, err = called(command, known, "--law", "auto", "--json", *asked)
    assert code == 0, err
    assert "consensus" not in out


def test_an_objective_that_leans_leans_the_way_that_is_said(called, known):
    """Towards the upper runs lies higher than towards the lower."""
    losses = {}
    for tilt in ("0.2", "0.8"):
        words = ("--law", "chinchilla", "--objective", "asymmetric", "--delta", "0.01", "--tilt", tilt)
        _, out, _ = called("forecast", known, *words, "--flops", "1e20", "--resamples", "100", "--json")
        losses[tilt] = json.loads(out)["targets"][0]["loss"]
    assert losses["0.8"] > losses["0.2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tilt", "0.3"], "--tilt: is that of --objective asymmetric"),
        (["--fix", "E=1.8"], "a consensus is of several; name it with --law"),
        (["--fix", "E=1.8", "--law", "auto"], "is of one law; name it with --law"),
        (["--law", "moe"], "needs one in N and D or in C"),
        (["--at", "experts=64"], "--at: is a run by itself"),
    ],
)
def test_what_does_not_go_together_is_one_line(called, known, words, said):
    code, _, err = called("forecast", known, "--flops", "1e21", *words)
    assert code == 2
    assert said in " ".join(err.split())


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (["Q=3"], "no law has a variable 'Q'"),
        (["params=much"], "'much' is not a number"),
        (["params=-1"], "should be greater than 0"),
        (["params=1e9", "N=1e9"], "given twice"),
        (["params"], "write it as VARIABLE=VALUE"),
        (["params=1e9", "P=2", "density=0.5"], "no law is in params, P, density alone"),
    ],
)
def test_a_point_that_is_none_is_one_line(called, known, at, said):
    code, _, err = called("forecast", known, *(word for text in at for word in ("--at", text)))
    assert code == 2
    assert said in " ".join(err.split())


def test_experts_are_forecast_at_the_next_size(called, published_folder):
    """The runs with 64 experts at the held-out size measured 2.054 to 2.112."""
    columns = ("--params-column", "dense_parameter_count", "--loss-column", "loss_validation")
    table = published_folder / "scalebench_moe.csv"
    where = ("--where", 'split == "train"', "--column", "experts=num_experts")
    at = ("--at", "experts=64", "--at", "params=1.308819e9")
    code, out, _ = called("forecast", table, *columns, *where, *at, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["loss_interval"][0] < 2.054 < 2.112 < told["loss_interval"][1]
    assert told["reach"]["params"] == pytest.approx(3.56, abs=0.01)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("group", ["pile", "stack"])
def test_reach_is_counted_along_what_goes_beyond(called, published_folder, group):
    """Runs of 4 parallel streams, by those of fewer (Chen et al. 2025 measured them)."""
    rows = pd.read_csv(published_folder / "scalebench_parallel_train.csv").query(
        "group == @group and parallel_size == 4"
    )
    given = (published_folder / "scalebench_parallel_train.csv", "--column", "P=parallel_size")
    given += ("--params-column", "num_params", "--where", f"group == '{group}' and parallel_size < 4")
    held = []
    for params, loss in rows[["num_params", "loss"]].itertuples(index=False):
        at = ("--at", "P=4", "--at", f"params={params}", "--json")
        _, out, _ = called("forecast", *given, *at)
        _, along_size, _ = called("forecast", *given, *at, "--along", "params")
        told, of_size = json.loads(out), json.loads(along_size)
        low, high = told["loss_interval"]
        held.append(low < loss < high)
        assert told["reach"]["P"] == 2
        assert any("too few budgets to backtest" in warning for warning in told["warnings"])
        assert low < of_size["loss_interval"][0] < of_size["loss_interval"][1] < high
    assert np.mean(held) > 0.8, held


def test_what_runs_cannot_be_ordered_along_is_one_line(called, known):
    code, _, err = called("backtest", known, "--along", "experts")
    assert code == 2
    assert "experts is no variable; runs can be ordered along params, flops, tokens" in " ".join(err.split())
    code, _, err = called("forecast", known, "--flops", "1e21", "--along", "params")
    assert code == 2
    assert "--along params: is of a run by the variables of its law; give these with --at" in " ".join(err.split())


class TestTasks:
    @pytest.fixture
    def gadre(self, published_folder):
        """Small runs on C4; of 7B parameters and 138B tokens there is one that scored .649 on ARC easy."""
        rows = ("--where", "dataset == 'c4_original' and N < 1e9", "--rows", "all", "--params-column", "N")
        return published_folder / "overtraining_gadre.csv", "--loss-column", "loss_c4_val", *rows

    @pytest.mark.slow
    def test_a_score_is_forecast_beside_the_loss(self, called, gadre):
        asked = ("--params", "6.889e9", "--tokens", "1.38e11", "--task", "acc_arc_easy", "--task", "acc_hellaswag")
        code, out, err = called("forecast", *gadre, *asked, "--json")
        assert code == 0, err
        easy, swag = json.loads(out)["tasks"]
        assert [easy["task"], swag["task"]] == ["acc_arc_easy", "acc_hellaswag"]
        assert easy["interval"][0] < 0.649 < easy["interval"][1]
        assert {*easy["tested"]} == {"loss", "compute", "newest"}
        assert any(
            "acc_arc_easy: 31 of 31 runs have a score, read as shares" in each for each in json.loads(out)["notes"]
        )
        assert easy["at"] == pytest.approx({"params": 6.889e9, "tokens": 1.38e11, "flops": 6 * 6.889e9 * 1.38e11})
        code, out, _ = called("forecast", *gadre, *asked)
        assert code == 0
        assert "acc_arc_easy" in out and "Tasks, with 90% intervals" in " ".join(out.split())

    @pytest.mark.parametrize(
        ("task", "said"),
        [
            ("acc_nothing", "there is no column 'acc_nothing'"),
            ("model", "values of 'model' are no numbers"),
            ("loss_openlm", "is no column of scores by its name"),
            ("acc_siqa", "acc_siqa does not scale in these"),
        ],
    )
    def test_what_cannot_be_forecast_is_one_line(self, called, gadre, task, said):
        code, _, err = called("forecast", *gadre, "--flops", "1e22", "--task", task)
        assert code == 2
        assert said in " ".join(err.split())


def test_a_frontier_far_beyond_the_runs_says_how_far(called, known):
    code, out, _ = called("frontier", known, "--flops", "1e30", "--resamples", "100", "--json")
    assert code == 0
    (warning,) = [text for text in json.loads(out)["warnings"] if "1e+30 FLOPs" in text]
    assert re.search(
        r"1e\+10 times the largest run fitted: a backtest of this forecast among these runs tests no more", warning
    )


def test_losses_below_zero_are_refused_with_the_constant_that_mends_it(called, published_folder):
    """Tao et al.'s losses are relative to a unigram model."""
    table = published_folder / "scalebench_vocab_train.csv"
    names = {"params": "non_vocab_parameters", "tokens": "num_characters", "loss": "unigram_normalized_loss"}
    columns = [word for name, column in names.items() for word in (f"--{name}-column", column)]
    code, _, err = called("forecast", table, *columns, "--flops", "1e20")
    assert code == 2
    assert "--add-to-loss 9.99 (any more than 5.343 can be fitted" in " ".join(err.split())
    smaller = ("--where", "num_characters < 1e10 and vocab_size == 4096", "--add-to-loss", "8")
    code, out, _ = called("fit", table, *columns, *smaller, "--json", "--resamples", "100")
    assert code == 0
    assert any("8 added to every loss" in note for note in json.loads(out)["notes"])
