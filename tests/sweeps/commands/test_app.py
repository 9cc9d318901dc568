"""The command: instant where it can be, JSON where asked, one line and exit code 2 for what a user can mend."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def csv(tmp_path):
    rng = np.random.default_rng(0)
    budgets = np.repeat([1e19, 3e19, 1e20, 3e20, 1e21], 5)
    params = np.sqrt(budgets / 120) * np.tile(np.geomspace(1 / 3, 3, 5), 5)
    tokens = budgets / 6 / params
    loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * np.exp(0.002 * rng.standard_normal(25))
    path = tmp_path / "runs.csv"
    pd.DataFrame({"N": params, "C": budgets, "final loss": loss}).to_csv(path, index=False)
    return path


NAMED = ("--params-column", "N", "--flops-column", "C", "--loss-column", "final loss")
QUICK = ("--resamples", "100")


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["plan", "{spec}"], ["schema"]])
def test_light_commands_import_nothing_heavy(spec_file, arguments):
    arguments = [a.format(spec=spec_file()) for a in arguments]
    code = (
        "import sys\nfrom nextscale.sweeps.commands.app import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as e: assert e.code in (0, None), e.code\n"
        "heavy = {'jax', 'ray', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_title_is_not_broken_at_the_width_of_its_table(called, csv):
    _, out, _ = called("fit", csv, *NAMED, "--resamples", "100")
    assert out.startswith("L = E + A/N^alpha + B/D^beta, fitted to 25 runs from 1e19 FLOPs on\n")


def test_constants_where_runs_are_asked_for(called):
    code, _, err = called("forecast", "published:besiroglu", "--flops", "1e22")
    assert code == 2
    assert err.startswith("nextscale: published:besiroglu: is of constants without runs")


class TestPlan:
    def test_json(self, called, spec_file):
        code, out, _ = called("plan", spec_file(), "--json")
        planned = json.loads(out)
        assert code == 0
        assert len(planned["runs"]) == 15
        assert planned["total_flops"] == pytest.approx(sum(run["flops"] for run in planned["runs"]))
        assert {"run_id", "params", "tokens", "flops"} <= planned["runs"][0].keys()

    def test_of_a_mixture(self, called, spec_file, tmp_path):
        for name in ("web", "code"):
            (tmp_path / f"{name}.txt").write_text(name * 1000)
        parts = ", ".join(
            f"{name}: {{weight: {weight}, data: {{source: text, path: {tmp_path}/{name}.txt, vocab: 128}}}}"
            for name, weight in {"web": 7, "code": 3}.items()
        )
        mixture = {"{source: markov, vocab: 16, seed: 1}": f"{{source: mixture, sources: {{{parts}}}}}"}
        code, out, _ = called("plan", spec_file(mixture), "--json")
        _, other, _ = called("plan", spec_file(mixture), "--json", "--set", "data.sources.web.weight=8")
        ids = [{run["run_id"] for run in json.loads(text)["runs"]} for text in (out, other)]
        assert code == 0
        assert len(ids[0]) == 15
        assert not ids[0] & ids[1], "weights are part of what a run means"

    def test_table(self, called, spec_file):
        code, out, _ = called("plan", spec_file())
        assert code == 0
        assert "15 runs" in out


class TestChoices:
    def test_rows_are_chosen_by_condition(self, called, csv):
        code, out, _ = called("fit", csv, *NAMED, "--where", "C < 5e20", "--json")
        assert code == 0
        assert json.loads(out)["n"] == 20

    @pytest.mark.parametrize(
        "condition, says", [("C <", "cannot be used"), ("X > 3", "cannot be used"), ("C < 0", "no row")]
    )
    def test_a_condition_that_cannot_be_used(self, called, csv, condition, says):
        code, _, err = called("fit", csv, *NAMED, "--where", condition)
        assert code == 2
        assert says in err
        assert err.count("\n") == 1

    def test_a_pinned_parameter_stays(self, called, csv):
        code, out, _ = called("fit", csv, *NAMED, "--fix", "E=1.7", "--json")
        card = json.loads(out)
        assert code == 0
        assert card["parameters"]["E"] == pytest.approx(1.7)
        assert card["fixed"] == {"E": 1.7}

    @pytest.mark.parametrize(
        "options, says",
        [
            (["--fix", "E"], "write it as PARAMETER=VALUE"),
            (["--fix", "E=low"], "'low' is not a number"),
            (["--fix", "F=1"], "has no parameter 'F'"),
            (["--fix", "E=-1"], "E should be greater than 0"),
            (["--column", "X"], "write it as VARIABLE=NAME"),
            (["--column", "X=C"], "no law has a variable 'X'"),
            (["--column", "N=C"], "with --params-column"),
            (["--fix", "E=inf"], "E should be a number"),
            (["--fix", "E=1", "--fix", "E=2"], "given twice"),
            (["--level", ".999", "--resamples", "100"], "needs 2000 or more"),
            (["--objective", "l2"], "loss: 'l2' is not one of huber"),
            (["--bootstrap", "none"], "bootstrap: 'none' is not one of case"),
            (["--bootstrap", "cluster"], "which rows belong together"),
            (["--group-column", "g"], "there is no column 'g' for group"),
            (["--law", "chinchila"], "law: 'chinchila' is not one of"),
        ],
    )
    def test_options_that_cannot_be_meant(self, called, csv, options, says):
        code, _, err = called("fit", csv, *NAMED, *options)
        assert code == 2
        assert says in err
        assert err.count("\n") == 1

    def test_a_law_in_compute_alone_needs_no_sizes(self, called, csv):
        code, out, _ = called(
            "fit", csv, "--flops-column", "C", "--loss-column", "final loss", "--law", "saturating", "--json"
        )
        assert code == 0
        assert json.loads(out)["parameters"]["E"] == pytest.approx(1.8, rel=0.3)

    def test_laws_are_listed_with_their_sources(self, called):
        code, out, _ = called("laws", "--json")
        laws = {law["name"]: law for law in json.loads(out)["laws"]}
        assert code == 0
        assert "Hoffmann" in laws["chinchilla"]["source"]
        assert laws["chinchilla"]["variables"] == ["N", "D"]


class TestFit:
    def test_columns_of_usual_names_need_no_options(self, called, csv):
        code, out, _ = called("fit", csv, *QUICK, "--json")
        named = json.loads(called("fit", csv, *NAMED, *QUICK, "--json")[1])
        found = json.loads(out)
        assert code == 0
        assert found["parameters"] == named["parameters"]
        said = "taken by the names of columns: N for params, C for flops, final loss for loss"
        assert said in found["notes"] and said not in named["notes"]

    def test_json_has_the_promised_keys(self, called, csv):
        code, out, _ = called("fit", csv, *NAMED, "--json")
        card = json.loads(out)
        assert code == 0
        promised = {"law", "n", "objective", "parameters", "intervals", "level", "params_convention", "warnings"}
        assert promised | {"diagnostics"} <= card.keys()
        assert card["params_convention"] == "N"
        for name, value in {"E": 1.8, "alpha": 0.35, "beta": 0.37}.items():
            low, high = card["intervals"][name]
            assert low < card["parameters"][name] < high
            assert card["parameters"][name] == pytest.approx(value, rel=0.15)

    def test_two_columns_are_enough_and_the_third_is_said(self, called, csv):
        code, out, _ = called("fit", csv, *NAMED, *QUICK)
        assert code == 0
        assert "tokens follow from C = 6ND" in out
        assert "90% interval" in out

    def test_a_figure(self, called, csv, tmp_path):
        code, _, _ = called("fit", csv, *NAMED, *QUICK, "--plot", tmp_path / "fit.svg")
        assert code == 0
        assert (tmp_path / "fit.svg").read_text().lstrip().startswith("<?xml")

    def test_the_published_optimum_from_the_command_line(self, called, published_folder):
        code, out, _ = called(
            *("fit", published_folder / "chinchilla_epoch.csv", "--params-column", "Model Size"),
            *("--flops-column", "Training FLOP", "--drop-largest-losses", 5, *QUICK, "--json"),
        )
        card = json.loads(out)
        assert code == 0
        assert card["n"] == 240
        assert card["objective"] <= 0.0010182741

    def test_the_card_is_written_for_machines(self, called, csv, tmp_path):
        code, _, _ = called("fit", csv, *NAMED, *QUICK, "--card", tmp_path / "fit_card.json")
        card = json.loads((tmp_path / "fit_card.json").read_text())
        assert code == 0
        assert {"objective", "optimiser", "residuals", "profiles", "dropped"} <= card.keys()
        assert card["data"]["n"] == 25

    @pytest.mark.parametrize("law", ["saturating", "kaplan-n", "chinchilla-tied"])
    def test_laws_of_every_kind_are_drawn(self, called, csv, tmp_path, law):
        code, _, _ = called(
            "fit", csv, *NAMED, "--law", law, "--resamples", "100", "--plot", tmp_path / "law.svg", "--json"
        )
        assert code == 0
        assert (tmp_path / "law.svg").stat().st_size > 1000


class TestForecast:
    def test_json_has_the_promised_keys(self, called, csv):
        code, out, _ = called("forecast", csv, *NAMED, *QUICK, "--flops", "1e22", "--flops", "1e23", "--json")
        told = json.loads(out)
        assert code == 0
        keys = {"flops", "loss", "loss_interval", "params", "params_interval", "tokens", "tokens_interval"}
        assert all(keys | {"tokens_per_param"} <= target.keys() for target in told["targets"])
        assert [target["flops"] for target in told["targets"]] == [1e22, 1e23]
        assert any("times the largest run" in warning for warning in told["warnings"])

    def test_no_number_without_its_interval(self, called, csv):
        code, out, _ = called("forecast", csv, *NAMED, *QUICK, "--flops", "1e22")
        assert code == 0
        row = next(line for line in out.splitlines() if "│ 1e22 " in line)
        assert row.count("[") == 4

    @pytest.mark.parametrize(
        "law, loss", [("chinchilla", 1.99), pytest.param("consensus", 2.08, marks=pytest.mark.slow)]
    )
    def test_the_compute_that_a_loss_takes(self, called, csv, law, loss):
        words = ("forecast", csv, *NAMED, *QUICK, "--law", law, "--json")
        code, out, _ = called(*words, "--loss", str(loss), "--loss", "1.2")
        near, never = json.loads(out)["compute_for"]
        assert code == 0
        assert near["interval"][0] < near["flops"] < near["interval"][1]
        back = json.loads(called(*words, "--flops", str(near["flops"]))[1])
        assert back["targets"][0]["loss"] == pytest.approx(loss, abs=1e-4)
        assert never["flops"] is None
        assert "irreducible loss" in never["reason"]

    def test_a_law_in_compute_alone_tells_no_sizes(self, called, csv):
        code, out, _ = called(
            "forecast", csv, *NAMED, *QUICK, "--law", "saturating", "--flops", "1e22", "--loss", "2.05"
        )
        assert code == 0
        assert "The loss at each budget" in out
        assert "tokens/param" not in out

    def test_a_far_loss_warns_and_an_easy_one_is_no_number(self, called, csv):
        _, out, _ = called("forecast", csv, *NAMED, *QUICK, "--loss", "1.9", "--loss", "30", "--json")
        far, easy = json.loads(out)["compute_for"]
        assert any("times the largest run" in warning for warning in far["warnings"])
        assert (easy["flops"], easy["verdict"]) == (None, "reached")

    def test_headings_are_text(self, called, csv):
        table = pd.read_csv(csv).rename(columns={"N": "N [/b]"})
        table.to_csv(csv, index=False)
        code, out, _ = called("forecast", csv, "--params-column", "N [/b]", *NAMED[2:], *QUICK, "--flops", "1e22")
        assert code == 0
        assert "parameters (N [/b])" in out

    def test_of_nothing_is_a_mistake(self, called, csv):
        code, _, err = called("forecast", csv, *NAMED)
        assert code == 2
        assert "--flops or --loss" in err


class TestAnalyses:
    """Every one prints a table, one JSON object, and a figure; of a file of any kind."""

    COMMANDS = (
        ("frontier", "{runs}", "--flops", "1e21", *QUICK),
        ("backtest", "{runs}", "--law", "chinchilla", "--law", "saturating", "--objective", "huber"),
        ("compare", "{runs}", "{runs}", *QUICK),
        pytest.param(("trend", "{runs}", "--new", "{newer}"), marks=pytest.mark.slow, id="trend"),
        ("next", "{runs}", "--target", "1e22", "--runs", "1"),
    )

    @pytest.mark.parametrize("arguments", COMMANDS, ids=lambda a: a[0])
    def test_table_json_and_figure(self, called, csv, tmp_path, arguments):
        newer = tmp_path / "newer.csv"
        pd.read_csv(csv).tail(3).assign(C=3e21).to_csv(newer, index=False)
        filled = [text.format(runs=csv, newer=newer) for text in arguments]
        figure = tmp_path / "figure.svg"
        code, out, err = called(*filled, *NAMED)
        assert (code, err) == (0, "")
        assert "┃" in out
        code, out, _ = called(*filled, *NAMED, "--json", "--plot", figure)
        assert code == 0
        assert isinstance(json.loads(out), dict)
        assert figure.read_text().lstrip().startswith("<?xml")

    def test_recipes_that_are_the_same_are_not_told_apart(self, called, csv):
        _, out, _ = called("compare", csv, csv, *NAMED, *QUICK, "--json")
        assert json.loads(out)["verdict"] == "not distinguishable"

    @pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
    def test_of_any_file(self, called, csv, tmp_path, kind):
        table, path = pd.read_csv(csv), tmp_path / f"runs.{kind}"
        write = {
            "jsonl": lambda: table.to_json(path, orient="records", lines=True),
            "json": lambda: table.to_json(path, orient="records"),
            "parquet": lambda: table.to_parquet(path),
        }
        write[kind]()
        objectives = [json.loads(called("fit", p, *NAMED, *QUICK, "--json")[1])["objective"] for p in (csv, path)]
        assert objectives[0] == pytest.approx(objectives[1], rel=1e-6)


class TestMistakes:
    @pytest.mark.parametrize(
        "arguments, says",
        [
            (["fit", "missing.csv"], "missing.csv: there is no such file"),
            (["fit", "{csv}", "--count", "active"], "needs two of params, tokens and flops, and has flops; name them"),
            (["fit", "{csv}", "--params-column", "M"], "no column 'M' for params"),
            (["fit", "{csv}", *NAMED, "--law", "chinchila"], "'chinchila' is not one of chinchilla"),
            (["fit", "{csv}", *NAMED, "--plot", "x.docx"], "cannot draw a '.docx' file"),
            (["fit", "{csv}", *NAMED, "--plot", "x"], "cannot draw a '' file"),
            (["forecast", "{csv}", *NAMED, "--law", "over-training", "--loss", "2"], "is a law in C, M"),
            (["frontier", "{csv}", *NAMED, "--law", "saturating", "--flops", "1e21"], "is a law in C"),
            (["next", "{csv}", *NAMED, "--target", "1e22", "--budget", "1e3"], "less than a tenth of the dearest run"),
            (["backtest", "{csv}", *NAMED, "--delta", ".5"], "is that of an --objective"),
            (["trend", "{csv}", *NAMED, "--new", "{csv}"], "the law was fitted to every one of them"),
            (["fit", "{csv}", *NAMED, "--drop-largest-losses", "22"], "runs.csv: chinchilla has 5 parameters"),
            (["fit", "{folder}"], "holds no sweep"),
            (["runs", "{folder}"], "holds no sweep"),
            (["plan", "missing.yaml"], "missing.yaml: there is no such file"),
            (["plan", "{spec}", "--set", "model.dept=2"], "did you mean `depth`?"),
            (["run", "{spec}", "--out", "{csv}"], "cannot be written to"),
            (["run", "{spec}", "--out", "{csv}/below"], "cannot be written to"),
            (
                ["plan", "{spec}", "--set", "data={{source: text, path: /nowhere}}"],
                "there is no file or folder /nowhere",
            ),
            (["plan", "{spec}", "--set", "data={{source: tokens, path: {csv}, vocab: 9}}"], "is not whole: "),
        ],
    )
    def test_each_is_one_line_and_exit_code_2(self, called, spec_file, csv, tmp_path, arguments, says):
        folder = tmp_path / "empty"
        folder.mkdir()
        csv.write_text(csv.read_text() + "\n" * (csv.stat().st_size % 2 == 0))  # an odd number of bytes
        filled = [a.format(csv=csv, folder=folder, spec=spec_file()) if isinstance(a, str) else a for a in arguments]
        code, out, err = called(*filled)
        assert code == 2
        assert out == ""
        assert says in err
        assert len(err.strip().splitlines()) == 1
        assert "Traceback" not in err

    @pytest.mark.parametrize(
        "arguments, says",
        [
            (["fit", "x.csv", "--objectiv", "l1"], "no such option: --objectiv (did you mean --objective?)"),
            (["fit", "x.csv", "--xyzzy"], "no such option: --xyzzy"),
            (["forecast", "x.csv", "--usd", "2M"], "--usd 2M: is no number; write it out, as 2e6"),
            (["forecast", "x.csv", "--usd", "nan"], "--usd nan: is no number; write it out, as 2e6"),
            (["forecast", "x.csv", "--usd", "1e31"], "--usd 1e31: should be less than or equal to 1e30"),
            (["forecast", "x.csv", "--usd", "0"], "--usd 0: should be greater than or equal to 1e-9"),
            (["next", "x.csv", "--target", "1e9", "--runs", "2.5"], "--runs 2.5: is no whole number"),
            (["fit", "x.csv", "--resamples", "5"], "--resamples 5: should be greater than or equal to 100"),
            (["fit", "x.csv", "y.csv"], "got unexpected extra argument(s) (y.csv)"),
            (["fit", "x.csv\n", "--a\x1b[2J"], r"no such option: --a\x1b[2J"),
            (["fit"], "missing argument 'RUNS'"),
        ],
    )
    def test_misused_options_are_one_line_that_names_the_help(self, called, arguments, says):
        assert called(*arguments) == (2, "", f"nextscale: {says}; see `nextscale {arguments[0]} --help`\n")

    def test_what_no_command_is_asked_for(self, called):
        line = "nextscale: no such command 'fitt' (did you mean 'fit'?); see `nextscale --help`\n"
        assert called("fitt") == (2, "", line)
        assert called("fit", "x.csv", "--law") == (2, "", "nextscale: option '--law' requires an argument\n")

    def test_help_is_no_mistake(self, called):
        code, out, err = called()
        assert (code, err) == (2, "")
        assert "Usage: nextscale" in out and "quickstart" in out
