"""The commands `curve`: what they print is what the functions say, of files as logs have them and of a sweep."""

import json

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import collapse, curves_of, fit_curves, fit_rewards, schedule
from nextscale.fit.curves.schedule_laws import MomentumLaw

SPECS = {
    "cosine": "cosine:peak=3e-4,steps=4000,warmup=200,final=3e-5",
    "constant": "constant:peak=3e-4,steps=4000,warmup=200",
    "wsd": "wsd:peak=3e-4,steps=4000,warmup=200,decay=1000,final=3e-5",
}
UNSEEN = "linear:peak=3e-4,steps=5000,warmup=200,final=3e-5"
THETA = np.log([2.0, 0.5 * 3e-4**-0.5, 0.5 * 3e-4, 0.5])
"""E, A, C, alpha with rates in units of 3e-4: 2, 0.5, 0.5 and 0.5 as they are."""


def loss_at(rates, steps):
    law = MomentumLaw()
    return np.exp(law.expand(THETA, law.course(rates / 3e-4, np.asarray(steps)))[0])


@pytest.fixture(scope="module")
def table():
    """Logged every tenth step, from the first on."""
    rng, parts = np.random.default_rng(0), []
    for name, text in SPECS.items():
        rates = schedule(text)
        steps = np.concatenate([[1], np.arange(10, len(rates) + 1, 10)])
        losses = loss_at(rates, np.maximum(steps, 200)) * np.exp(1e-4 * rng.standard_normal(len(steps)))
        parts.append(pd.DataFrame({"run": name, "step": steps, "lr": rates[steps - 1], "loss": losses}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def file(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("curves") / "curves.csv"
    table.to_csv(path, index=False)
    return path


def told(called, *arguments):
    code, out, err = called("curve", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


class TestFit:
    def test_is_what_the_function_says(self, called, file, table, tmp_path):
        card = told(called, "fit", file, "--law", "momentum", "--level", "0.5", "--plot", tmp_path / "x.png")
        found = fit_curves(curves_of(table)[0], "momentum")
        assert {row["name"]: row["value"] for row in card["parameters"]} == pytest.approx(found.parameters)
        assert card["parameters"][0]["interval"] == pytest.approx(found.interval("E", 0.5))
        assert [row["curve"] for row in card["curves"]] == [*SPECS]
        assert card["r2"] == pytest.approx(found.scores["r2"].mean())
        assert card["notes"] == []
        assert found.parameters["E"] == pytest.approx(2, rel=1e-3)
        assert (tmp_path / "x.png").stat().st_size > 1e4

    def test_tables(self, called, file):
        code, out, _ = called("curve", "fit", file)
        assert code == 0
        assert "L = E + A/S1^alpha - B*sum_k" in out
        assert [word in out for word in ("gamma", "90% interval", "left out", "R² 1.0000 and MAE 0.000")] == [True] * 4

    def test_files_of_one_curve_each_and_columns_by_name(self, called, table, tmp_path):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
        paths = tmp_path / "a" / "one.jsonl", tmp_path / "b" / "one.parquet"
        for path, name in zip(paths, ("cosine", "wsd"), strict=True):
            rows = table[table["run"] == name].drop(columns="run")
            rows = rows.rename(columns={"lr": "rate", "step": "i"}).assign(other_loss=9.0)
            write = {
                ".jsonl": lambda p, r=rows: r.to_json(p, orient="records", lines=True),
                ".parquet": rows.to_parquet,
            }
            write[path.suffix](path)
        named = ("--lr-column", "rate", "--step-column", "i", "--loss-column", "loss", "--where", "i > 500")
        card = told(called, "fit", *paths, "--law", "momentum", *named)
        assert [row["curve"] for row in card["curves"]] == ["one", f"{paths[1]}: one"]
        assert all(row["losses"] == 350 for row in card["curves"])
        assert len(card["notes"]) == 2
        assert not told(called, "fit", *paths, "--law", "momentum", *named, "--warmup", "200")["notes"]

    @pytest.mark.slow
    def test_of_a_sweep(self, called, swept):
        """Trunks and branches that cool down: several schedules of one size."""
        _, out = swept
        code, _, err = called("curve", "fit", out)
        assert code == 2
        assert "its curves are of 2 kinds" in err
        choice = err.partition("--where '")[2].partition("'")[0]
        card = told(called, "fit", out, "--where", choice)
        assert len(card["curves"]) == 5
        assert all(row["warmup"] == 21 for row in card["curves"])


class TestForecast:
    def test_is_what_the_function_says_and_holds_what_comes(self, called, file, table, tmp_path):
        own = tmp_path / "planned.csv"
        pd.DataFrame({"step": np.arange(1, 5001), "lr": schedule(UNSEEN)}).to_csv(own, index=False)
        asked = ("--schedule", UNSEEN, "--schedule", own)
        answer = told(called, "forecast", file, *asked, "--law", "momentum", "--plot", tmp_path / "x.svg")
        value, *interval = fit_curves(curves_of(table)[0], "momentum").forecast(schedule(UNSEEN))
        for row in answer["forecasts"]:
            assert (row["steps"], row["loss"]) == (5000, pytest.approx(value))
            assert row["interval"] == pytest.approx(interval)
            assert row["interval"][0] < loss_at(schedule(UNSEEN), [5000])[0] < row["interval"][1]
        assert answer["fit"]["law"] == "momentum"
        assert (tmp_path / "x.svg").stat().st_size > 1e4

    def test_table_and_warnings(self, called, file):
        code, out, _ = called(
            "curve", "forecast", file, "--schedule", "constant:peak=1e-3,steps=9000", "--level", "0.8"
        )
        assert code == 0
        assert "80% interval" in out
        assert "warning: constant:peak=1e-3,steps=9000: its peak 0.001" in out

    def test_of_one_curve_has_no_interval(self, called, file):
        asked = ("--where", "run == 'wsd'", "--schedule", UNSEEN, "--law", "momentum")
        assert told(called, "forecast", file, *asked)["forecasts"][0]["interval"] is None
        code, out, _ = called("curve", "forecast", file, *asked)
        assert code == 0
        assert "of 1 curve\n" in out
        assert "warning: how far a forecast may be off is not known" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "{file}", "--law", "chinchilla"], "no law of curves 'chinchilla'"),
        (["fit", "{file}", "--lr-column", "rate"], "there is no column 'rate' for lr"),
        (["fit", "{file}", "--where", "run == 'constant'"], "none of them falls"),
        (["fit", "{file}", "--where", "run == 'x'"], "holds for no row"),
        (["fit", "absent.csv"], "there is no such file"),
        (["fit", "{file}", "--warmup", "-1"], "--warmup"),
        (["forecast", "{file}"], "--schedule"),
        (["forecast", "{file}", "--schedule", "cosine"], "needs peak and steps"),
        (["forecast", "{file}", "--schedule", "cosine:peak=x,steps=3"], "peak=x is no number"),
        (["forecast", "{file}", "--schedule", "plan.csv"], "plan.csv: there is no such file"),
        (["forecast", "{file}", "--schedule", "{file}"], "has 3 curves"),
    ],
)
def test_what_is_wrong_is_one_line(called, file, arguments, said):
    code, out, err = called("curve", *(argument.format(file=file) for argument in arguments))
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Four finished runs and one half-way, whose loss jumps at 0.4 of its training."""
    rng, parts = np.random.default_rng(0), []
    share = np.arange(1, 101) / 100
    for i in range(5):
        losses = 2 + 0.5**i * share**-0.3 + 1e-3 * rng.standard_normal(100)
        losses += 0.05 * (i == 4) * (share > 0.4)
        steps = (share * 1000 * (i + 1)).round().astype(int)
        own = pd.DataFrame({"run": f"r{i}", "params": 1e6 * (i + 1), "step": steps, "tokens": 2e7 * (i + 1) * share})
        parts.append(own.assign(lr=1e-3, loss=losses)[share <= (0.5 if i == 4 else 1)])
    folder = tmp_path_factory.mktemp("ladder")
    for part in parts:
        part.to_csv(folder / f"{part['run'].iloc[0]}.csv", index=False)
    pd.concat(parts).to_csv(folder / "all.csv", index=False)
    return folder


class TestCollapse:
    def test_is_what_the_function_says(self, called, ladder, tmp_path):
        card = told(called, "collapse", ladder / "all.csv", "--length", "r4=5000", "--plot", tmp_path / "x.png")
        found = collapse(pd.read_csv(ladder / "all.csv"), lengths={"r4": 5000})
        assert card["irreducible"] == pytest.approx(found.irreducible)
        assert [row["run"] for row in card["runs"]] == [f"r{i}" for i in range(5)]
        assert card["runs"][4]["left"] == pytest.approx(found.runs["left"][4])
        assert card["runs"][4]["left"] == pytest.approx(0.42, abs=0.03)
        assert card["runs"][0]["left"] is None
        assert card["alarms"] == found.alarms
        assert card["warnings"] == []
        assert (tmp_path / "x.png").stat().st_size > 1e4

    def test_table_of_several_files(self, called, ladder):
        code, out, err = called("curve", "collapse", *(ladder / f"r{i}.csv" for i in range(5)), "--length", "r4=5000")
        assert code == 0
        assert "5 curves above an irreducible loss of" in out
        assert "r4 leaves the others at 4" in out + err
        code, _, err = called("curve", "collapse", ladder / "all.csv", "--length", "r4")
        assert (code, "write it as RUN=STEPS" in err) == (2, True)

    @pytest.mark.slow
    def test_of_a_sweep_that_is_too_short(self, called, swept):
        _, out = swept
        code, _, err = called("curve", "collapse", out)
        assert code == 2
        assert "of training; take a later start" in err


class TestRewards:
    @pytest.mark.slow
    def test_is_what_the_function_says(self, called, tmp_path):
        hours = np.arange(0, 16_001, 200)
        rewards = 0.25 + 0.36 / (1 + (3500 / np.maximum(hours, 1)) ** 1.92)
        rewards += 0.005 * np.random.default_rng(0).standard_normal(len(hours))
        table = pd.DataFrame({"gpu_hours": hours, "pass_rate": 100 * rewards})
        table.to_csv(tmp_path / "rl.csv", index=False)
        card = told(called, "rl", tmp_path / "rl.csv", "--at", "1e5", "--plot", tmp_path / "x.png")
        found = fit_rewards(hours, rewards)
        assert {row["name"]: row["value"] for row in card["parameters"]} == pytest.approx(found.parameters, rel=1e-4)
        assert card["parameters"][1]["value"] == pytest.approx(0.61, abs=0.02)
        value, *interval = found.forecast(1e5)
        row = card["forecasts"][0]
        assert (row["compute"], row["reach"]) == (1e5, 6.25)
        assert [row["reward"], *row["interval"]] == pytest.approx([value, *interval], abs=1e-3)
        assert "read as percent" in card["notes"][0]
        assert (tmp_path / "x.png").stat().st_size > 1e4
        code, out, _ = called("curve", "rl", tmp_path / "rl.csv")
        assert (code, "expected to miss by" in out) == (0, True)
        code, _, err = called("curve", "rl", tmp_path / "rl.csv", "--where", "gpu_hours <= 2600")
        assert (code, "the asymptote is not identified" in err, len(err.splitlines())) == (2, True, 1)
