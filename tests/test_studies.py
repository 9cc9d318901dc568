"""The two studies that the README runs, held to what it says of them. Slow: twenty minutes on two cores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from nextscale.sweeps.commands.app import main; main()"]
SPECS = Path(__file__).resolve().parents[1] / "sweeps" / "specs"

pytestmark = [pytest.mark.slow, pytest.mark.soak]


def summary_of(*arguments):
    ended = subprocess.run([*COMMAND, *map(str, arguments), "--json"], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("seed", [23])
def test_the_quickstart_on_a_source_nobody_looked_at(tmp_path, seed):
    summary = summary_of("quickstart", "--out", tmp_path, "--set", f"data.seed={seed}")
    assert sum(summary["interior_minima"]) >= 3
    assert all(abs(row["error"]) < 0.015 for row in summary["holdout"])
    low, high = summary["irreducible"]["interval"]
    assert low <= summary["irreducible"]["true"] <= high
    optimal = summary["optimal_params"]
    assert optimal["predicted"] == pytest.approx(optimal["measured"], rel=0.25)


def test_the_same_loop_on_real_text(tmp_path):
    summary = summary_of("run", SPECS / "python_stdlib.yaml", "--out", tmp_path)
    assert all(abs(row["error"]) < 0.025 for row in summary["holdout"])
    optimal = summary["optimal_params"]
    assert optimal["predicted"] == pytest.approx(optimal["measured"], rel=0.2)
    assert summary["irreducible"]["true"] is None
    assert all(row["interval"][0] <= row["measured"] <= row["interval"][1] for row in summary["holdout"])
    one = ("--law", "chinchilla", "--where", "role == 'fit'", "--flops", "1e13")
    told = summary_of("forecast", tmp_path, *one)["warnings"]
    assert any("it is misspecified here" in text for text in told), "of one law, which misfits at this scale"
