"""examples/huggingface: transformers and PyTorch as a trainer, for real."""

import json
import sys
from pathlib import Path

import pytest

from nextscale.sweeps import load

EXAMPLE = Path(__file__).parents[3] / "examples" / "huggingface" / "sweep.yaml"
OURS = ("--set", f"trainer.command.0={sys.executable}")


@pytest.fixture(autouse=True)
def _needs_the_extras():
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'nextscale[examples]'")
    pytest.importorskip("transformers", reason="needs transformers: pip install 'nextscale[examples]'")


@pytest.mark.slow
def test_it_keeps_the_contract(nextscale):
    ended = nextscale("trainer", "check", EXAMPLE, "--steps", "60", "--json", *OURS)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["size"] == "n_layer 1, n_embd 8, n_head 1"
    assert len(told["points"]) == 6
    assert all(point["kept"] for point in told["points"]), told


@pytest.mark.slow
@pytest.mark.soak
def test_its_sweep_ends_in_a_forecast_that_is_scored(nextscale, tmp_path):
    out = tmp_path / "out"
    ended = nextscale("run", EXAMPLE, "--out", out, "--json", *OURS, timeout=3000)
    assert ended.returncode == 0, ended.stderr
    table = load(out)
    assert (table["status"] == "done").all()
    # What is stated of a size is what PyTorch counts, tied head and learned positions with it.
    planned = {22176, 35712, 14952, 8432, 5748, 3448}
    assert {*table["params"]} <= planned
    assert not [note for record in out.glob("runs/*/record.json") for note in json.loads(record.read_text())["notes"]]
    # More compute, less loss; and a law of text has bytes of less than eight bits.
    best = table.groupby("budget")["loss"].min()
    assert best.is_monotonic_decreasing
    assert (table["bits_per_byte"] < 8).all()
    held_out = json.loads((out / "summary.json").read_text())["holdout"]
    assert len(held_out) == 3
    assert min(run["measured"] for run in held_out) == pytest.approx(best.iloc[-1])
    assert all(run["interval"][0] <= run["measured"] <= run["interval"][1] for run in held_out)
