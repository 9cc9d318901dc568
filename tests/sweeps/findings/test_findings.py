"""What ready studies find on losses whose law is known: every run of the spec, none of them trained."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nextscale.model.accounting import active_parameters, non_embedding_parameters
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.findings import findings, over_training, summary_of
from nextscale.sweeps.findings.runs_table import config_columns
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.report.figures import finding_plots
from nextscale.sweeps.show.tables import Table

FEW = "forecast.resamples=100"


def row_of(run):
    """What a record would hold, but for what was measured."""
    config = run.config
    unique = min(run.tokens, getattr(config.data, "unique_tokens", None) or run.tokens)
    return config_columns(run) | {
        "run_id": config.run_id,
        "params": run.params,
        "params_non_embedding": non_embedding_parameters(config.model),
        "params_active": active_parameters(config.model),
        "tokens": run.tokens,
        "unique_tokens": unique,
        "epochs": run.tokens / unique,
        "flops": run.flops,
        "width": config.model.width,
        "depth": config.model.depth,
        "lr": config.training.lr,
        "batch_tokens": config.training.batch_tokens,
        "seed": config.seed,
        "curve": [],
    }


def found_of(name, loss, *overrides, **columns):
    """What a ready study finds where a run's loss is `loss(row)`."""
    spec = load_spec(name, [FEW, *overrides])
    rows = [row_of(run) for run in planned_runs(spec)]
    table = pd.DataFrame([row | {"loss": loss(row)} | {k: of(row) for k, of in columns.items()} for row in rows])
    found = findings(table, spec)
    json.dumps(summary_of(found), allow_nan=False)
    for plot in finding_plots(found):
        figure = plot.draw()
        assert isinstance(figure, Figure)
        figure.draw_without_rendering()
    (one,) = found.values()
    assert all(isinstance(table, Table) for table in one.tables)
    assert all(len(row) == len(table.columns) for table in one.tables for row in table.rows)
    return one


def chinchilla(row, alpha=0.4, beta=0.4):
    return 2.0 + 10 / row["params"] ** alpha + 40 / row["tokens"] ** beta


def test_three_approaches_agree_where_the_law_holds():
    one = found_of("chinchilla", chinchilla)
    last = [row for row in one.result["approaches"] if row["flops"] == 4e11]
    assert {row["approach"] for row in last} == {"envelope", "parabola", "akima", "parametric"}
    for row in last:
        # b/(a+b) under C = 6ND; true FLOPs per parameter fall with the size here, which raises it a little.
        assert row["exponent"] == pytest.approx(0.53, abs=0.08 if row["approach"] == "envelope" else 0.05)


class TestHyperparameters:
    def test_their_power_laws_are_recovered(self):
        def loss(row):
            best_lr = 0.012 * (row["params_non_embedding"] / 3000) ** -0.3 * (row["tokens"] / 1.3e5) ** 0.1
            best_batch = 45 * (row["tokens"] / 1.3e5) ** 0.4
            x, y = np.log(row["lr"] / best_lr), np.log(row["batch_tokens"] / best_batch)
            return 2.6 + 0.01 * x * x + 0.02 * y * y + 0.004 * x * y

        one = found_of("steplaw", loss)
        assert one.result["rules"]["lr"]["exponents"] == pytest.approx({"params": -0.3, "tokens": 0.1}, abs=1e-3)
        assert one.result["rules"]["batch"]["exponents"]["tokens"] == pytest.approx(0.4, abs=1e-3)
        # The lowest point along x at a given y: x = -0.004 y / (2 · 0.01), and y falls as D^-0.4.
        at_batch = one.result["rules"]["lr_at_batch"]["exponents"]
        assert at_batch == pytest.approx({"params": -0.3, "tokens": 0.1 + 0.2 * 0.4, "batch_tokens": -0.2}, abs=1e-3)
        assert len(one.tables) == 2 and len(one.panels) == 2 and not one.notes

    def test_cells_without_an_optimum_are_told(self):
        one = found_of("steplaw", lambda row: 3 - 0.001 * np.log(row["lr"]))
        assert all(row["problem"] for row in one.result["optima"])
        assert len(one.notes) == 3 and all("no power law: hyperparameters: 0 cells have" in note for note in one.notes)
        assert one.result["rules"] == {}


class TestTransfer:
    @staticmethod
    def loss(row):
        best = 2**-6 if row["parametrization"] == "mup" else 2**-6 * (row["width"] / 32) ** -0.75
        return 2.5 - 0.1 * np.log2(row["width"]) + 0.02 * np.log(row["lr"] / best) ** 2

    def test_mup_stays_where_standard_moves(self):
        one = found_of("mup_transfer", self.loss)
        assert one.result["mup"]["drift"]["exponent"] == pytest.approx(0, abs=1e-6)
        assert one.result["mup"]["transfer_cost"] == pytest.approx(0)
        assert one.result["standard"]["drift"]["exponent"] == pytest.approx(-0.75, abs=1e-3)
        assert one.result["standard"]["transfer_cost"] > 0.02
        assert len(one.panels) == 2

    def test_a_diverged_run_is_the_worst(self):
        one = found_of("mup_transfer", lambda row: np.nan if row["lr"] > 0.1 else self.loss(row))
        assert one.result["mup"]["drift"]["exponent"] == pytest.approx(0, abs=1e-6)


def test_over_training_is_foretold():
    def gadre(row, eta=0.15):
        M = row["tokens"] / row["params"]
        return 2.0 + (30 * M**eta + 20 * M**-eta) * row["flops"] ** -eta

    one = found_of("overtraining", gadre)
    assert one.result["law"]["parameters"]["eta"] == pytest.approx(0.15, rel=1e-3)
    assert [row["tokens_per_param"] for row in one.result["held_out"]] == pytest.approx([320, 320], rel=0.01)
    assert one.result["mean_error"] < 1e-4


@pytest.mark.slow
@pytest.mark.soak
def test_experts_are_worth_what_the_law_that_made_the_losses_says():
    """Under L = E + A experts^-a N^-alpha + B D^-beta they multiply the compute of one MLP by experts^(a / alpha)."""

    def joint(row, a=0.1, alpha=0.4, beta=0.4):
        return 2.0 + 10 * row["experts"] ** -a / row["params_active"] ** alpha + 40 / row["tokens"] ** beta

    axes = "{model.experts: [1, 8], model.width: [8, 12, 16, 24], flops: [1.0e+10, 2.0e+10, 4.0e+10, 8.0e+10]}"
    one = found_of("moe", joint, f"design.axes={axes}")
    assert set(one.result["leverage"]) == {8}
    for experts, comparison in one.result["leverage"].items():
        assert comparison["multiplier"] == pytest.approx(experts ** (0.1 / 0.4), rel=0.1)
        assert comparison["verdict"] == "better"
    assert len(one.result["foretold"]) == 8
    assert max(abs(row["error"]) for row in one.result["foretold"]) < 0.002
    assert sum(row["within"] for row in one.result["foretold"]) >= 4


def test_without_a_dense_model_there_is_no_leverage():
    one = found_of("moe", chinchilla, "design.axes={model.experts: [4], model.width: [8, 12], flops: [1.0e+10]}")
    assert one.notes == (
        "leverage: not found: needs runs of 1 expert, and of more; give model.experts as an axis of a grid",
    )


def test_the_next_rung_is_forecast():
    one = found_of("wsd_ladder", chinchilla)
    assert len(one.result["losses"]) == 12 and all(cell["loss"] for cell in one.result["losses"])
    (rung,) = one.result["next"]
    assert abs(rung["error"]) < 1e-5
    assert len(one.tables[0].columns) == 4


def test_power_laws_are_recovered_where_nothing_else_limits():
    def kaplan(row):
        size, data = 20 / row["params_non_embedding"] ** 0.3, 25 / row["tokens"] ** 0.2
        return max(size, data)

    one = found_of("kaplan", kaplan)
    assert one.result["laws"]["D"]["alpha"] == pytest.approx(0.2, abs=0.01)
    assert set(one.result["laws"]) == {"N", "D", "C"}
    assert 0 < one.result["laws"]["C"]["alpha"] < 0.3


@pytest.mark.slow
@pytest.mark.soak
def test_repeated_tokens_lose_their_worth():
    def repeated(row, R_D=8.0):
        U, D = row["unique_tokens"], row["tokens"]
        worth = U * (1 + R_D * (1 - np.exp(-(D / U - 1) / R_D)))
        # So few parameters for their data that none is too many.
        return 2.0 + 2 / row["params"] ** 0.4 + 90 / worth**0.4

    one = found_of("data_constrained", repeated)
    assert one.result["law"]["parameters"]["R_D"] == pytest.approx(8, rel=0.05)
    assert one.result["worth"]["4"] == pytest.approx(1 + 8 * (1 - np.exp(-3 / 8)), rel=0.02)
    assert all(row["above_fresh"] > 0 for row in one.result["harm"])


class TestCorrections:
    def test_each_recipe_moves_the_exponent(self):
        def loss(row):
            # A warm-up costs short runs most, and so the large models of a budget least: the optimum is drawn to them.
            lost = 1 + 3 * row["warmup_tokens"] / row["tokens"]
            return chinchilla(row | {"tokens": row["tokens"] / lost})

        one = found_of("porian", loss)
        steps = one.result["steps"]
        assert len(steps) == 5
        assert "embedding and head not counted" in steps[0]["step"]
        assert steps[1]["step"] == "+ embedding and head counted"
        assert steps[3]["step"] == "+ schedule linear"
        # Schedule and rate play no part in that law.
        assert steps[2]["exponent"] == steps[3]["exponent"] == steps[4]["exponent"] == pytest.approx(0.53, abs=0.08)
        assert steps[1]["exponent"] != pytest.approx(steps[2]["exponent"], abs=0.01)

    def test_another_design_has_no_recipes(self):
        with pytest.raises(SpecError, match="findings: corrections: needs a grid with axes below training"):
            found_of("chinchilla", chinchilla, "findings=[corrections]")


def test_a_model_that_learns_at_once_is_told_from_one_that_does_not():
    tokens = np.geomspace(1e4, 3e6, 50)

    def curve(row):
        score = -4 / (1 + np.exp(-8 * np.log(tokens / 4e5))) if row["depth"] == 2 else -0.1 * np.log(tokens / 1e4)
        return [{"tokens": t, "in_context_learning": s, "loss": 4 + s / 2} for t, s in zip(tokens, score, strict=True)]

    measured = {
        "curve": curve,
        "in_context_learning": lambda row: curve(row)[-1]["in_context_learning"],
        "loss_by_position": lambda row: [4.0, 3.0, 2.0],
    }
    one = found_of("induction", lambda row: 2.0, **measured)
    shallow, deep = one.result["runs"]
    assert deep["fall"]["tokens"] == pytest.approx(4e5, rel=0.02)
    assert deep["fall"]["share"] > 0.8 > 0.2 > shallow["fall"]["share"]


def test_a_finding_that_breaks_takes_no_other_with_it(monkeypatch):
    def breaks(runs, spec):
        raise np.linalg.LinAlgError("singular matrix")

    monkeypatch.setattr(over_training, "find", breaks)
    spec = load_spec("steplaw", ["findings=[over-training, hyperparameters]"])
    broken, other = findings(pd.DataFrame(), spec).values()
    told = "over-training: not found: it broke on these runs (LinAlgError: singular matrix)"
    assert broken.notes == (told,)
    assert other.notes == ("hyperparameters: not found: none of the runs has come to a loss",)


def test_a_sweep_without_results_is_told_so():
    spec = load_spec("steplaw")
    one = findings(pd.DataFrame(), spec)["hyperparameters"]
    assert one.notes == ("hyperparameters: not found: none of the runs has come to a loss",)
    assert not one.tables and not one.panels
