"""What commands print in a terminal of 100 columns: every figure is there whole, and as people type it."""

import re

import numpy as np
import pandas as pd
import pytest

from nextscale.sweeps.terminal.console import screen

RUNS = {
    "fit": (),
    "backtest": (),
    "frontier": ("--flops", "1e22", "--known-models"),
    "forecast": ("--flops", "1e22", "--usd", "2e6", "--on", "h100x512", "--price", "2"),
    "next": ("--target", "1e22", "--budget", "1e21"),
    "inference": ("--loss", "2.1", "--served", "1e13"),
    "overtrain": ("--params", "1e9", "--tokens", "1e12"),
    "family": ("--loss", "2.2,2.1", "--served", "1e13,1e12"),
}
"""Commands on a table of runs, with what they are asked."""


def cells(text):
    """Of every table, its cells."""
    lines = [line for line in text.splitlines() if line[:1] in ("┃", "│")]
    return [cell.strip() for line in lines for cell in re.split("[┃│]", line)[1:-1]]


@pytest.fixture
def shown(called, monkeypatch):
    """What a command prints in a terminal of so many columns."""

    def run(width, *arguments):
        monkeypatch.setattr(screen, "_width", width)
        code, out, err = called(*arguments)
        assert code == 0, err
        return out

    return run


def held_against_a_wide_terminal(shown, *arguments):
    wide, narrow = shown(400, *arguments), shown(100, *arguments)
    assert max(len(line) for line in narrow.splitlines() if line[:1] in (*"┏┃┡│└",)) <= 100
    # Headings and words may go on in the next line, a figure may not.
    seen = set(cells(narrow)) | {word for cell in cells(narrow) for word in cell.split()}
    figures = [word for cell in cells(wide) for word in cell.split() if re.search(r"\d", word)]
    assert figures and not set(figures) - seen
    assert not re.search(r"\de[+-]0|\de\+|…", narrow), "1e12, not 1e+12"


@pytest.fixture
def csv(tmp_path):
    flops, params = np.repeat([1e19, 1e20, 1e21], 6), np.tile(np.geomspace(1 / 3, 3, 6), 3)
    params = params * np.sqrt(flops / 120)
    tokens = flops / 6 / params
    loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * np.exp(0.002 * np.random.default_rng(0).normal(size=18))
    runs = pd.DataFrame({"params": params, "tokens": tokens, "flops": flops, "loss": loss})
    runs.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_of_a_table_of_runs(shown, csv, command):
    held_against_a_wide_terminal(shown, command, csv, "--law", "chinchilla", *RUNS[command])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["runs", "status", "ledger", "fit"])
def test_of_a_sweep(shown, swept, command):
    held_against_a_wide_terminal(shown, command, swept[1])


def test_before_a_sweep(shown, spec_file):
    held_against_a_wide_terminal(shown, "plan", spec_file())
    held_against_a_wide_terminal(shown, "hardware")
