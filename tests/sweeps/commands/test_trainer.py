"""The commands about a trainer of one's own: its contract checked, and what it printed."""

import json
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_trainer" / "sweep.yaml"


@pytest.fixture
def checked(called):
    def check(*options):
        code, said, error = called(
            "trainer", "check", EXAMPLE, "--set", f"trainer.command.0={sys.executable}", "--json", *options
        )
        return code, json.loads(said) if said else error

    return check


def test_the_example_keeps_its_contract(checked):
    code, told = checked("--steps", "300")
    assert code == 0
    assert told["size"] == "d 4"
    assert all(point["kept"] is not False for point in told["points"])
    assert {point["point"] for point in told["points"] if point["kept"]} >= {
        "writes its curve while it trains",
        "exits with 0, and leaves a result.json",
        "ends alike, killed or left alone",
    }


def test_what_is_not_kept_is_told_and_is_an_exit_code(checked):
    code, told = checked("--set", "trainer.command.1=-c", "--set", "trainer.command.2=raise SystemExit('no such key')")
    assert code == 1
    (point,) = told["points"]
    assert point["kept"] is False
    assert "no such key" in point["seen"]


def test_nextscale_itself_is_no_trainer_of_one_s_own(called, tiny_spec, tmp_path):
    (tmp_path / "spec.yaml").write_text(tiny_spec)
    code, _, error = called("trainer", "check", tmp_path / "spec.yaml")
    assert code == 2
    assert "is trained by nextscale itself" in error


def test_logs_show_what_a_trainer_printed(called, tmp_path):
    run = tmp_path / "runs" / "0123456789ab"
    run.mkdir(parents=True)
    (run / "output.log").write_text("".join(f"line {i}\n" for i in range(100)))
    code, said, _ = called("logs", tmp_path, "--run", run.name, "--lines", "3", "--json")
    assert code == 0
    assert json.loads(said)["output"] == ["line 97", "line 98", "line 99"]
    assert "line 99" in called("logs", tmp_path, "--run", run.name)[1]
    assert "output" not in json.loads(called("logs", tmp_path, "--json")[1])
