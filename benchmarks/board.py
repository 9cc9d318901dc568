"""How large the board of many sweeps is, and how long it takes: `python benchmarks/board.py [RUNS [SWEEPS]]`.

The sweeps are of three recipes, their numbers made up, each run as training leaves it behind (see `store.py`), each
sweep with a forecast of four runs and its score; 10 000 runs in ten sweeps unless given. Seconds are those of finding
and reading the sweeps, for the first time and again; of the board's page; and until Chromium has drawn it, the median
of five. Imports apart.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from page import opened
from rich.console import Console
from store import leave_behind, spec_of

from nextscale.cluster.controller.accounts import Accounts
from nextscale.sweeps.board.board import Board
from nextscale.sweeps.board.found import find_sweeps
from nextscale.sweeps.board.standing import standings
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.ledger import Ledger, score_of
from nextscale.sweeps.show.tables import Table
from nextscale.sweeps.store.store import Store

RUNS, SWEEPS, RECIPES = 10_000, 10, 3
_FORETOLD = 4


def leave_sweep(root: Path, runs: int, number: int) -> int:
    """A sweep that has ended; returns how many runs it has."""
    store, accounts, spec = Store.at(root), Accounts(), spec_of(runs)
    seeds = [number * runs + seed for seed in spec.design.seeds]
    training = spec.training.model_copy(update={"lr": 0.01 * (number % RECIPES + 1)})
    design = spec.design.model_copy(update={"seeds": seeds})
    spec = spec.model_copy(update={"training": training, "design": design})
    store.write_spec(spec)
    planned = planned_runs(spec)
    for run in planned:
        leave_behind(store, run.config, accounts)
    (root / "accounts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in accounts.rows))
    ledger, losses = Ledger(root / "ledger.jsonl"), [2.1, 2.2, 2.3, 2.4]
    targets = [
        {"run_id": run.config.run_id, "flops": run.flops, "params": 1.0, "tokens": run.tokens, "reach": 3.0}
        | {"predicted": loss, "interval": [loss - 0.01, loss + 0.01]}
        for run, loss in zip(planned[-_FORETOLD:], losses, strict=True)
    ]
    told = {"sweep": spec.name, "inputs": "0", "law": "chinchilla", "level": 0.9, "targets": targets}
    scores = [{"run_id": one["run_id"]} | score_of(one, one["predicted"]) for one in targets]
    ledger.score(ledger.register(told), scores)
    return len(planned)


def main(runs: int = RUNS, sweeps: int = SWEEPS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        n = sum(leave_sweep(root / f"sweep-{i}", runs // sweeps, i) for i in range(sweeps))
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            found = standings(find_sweeps(root))
            seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        page = root / "index.html"
        page.write_text(Board("board", lambda one: f"./{one.name}/index.html").page(found))
        writing, size = time.perf_counter() - began, page.stat().st_size / 1e6
        drawn = opened(page, "table[data-name=sweeps] tbody tr")
        row = [str(n), str(sweeps), f"{size:.2f}", *(f"{one:.1f}" for one in (*seconds, writing)), f"{drawn:.2f}"]
        columns = ["runs", "sweeps", "MB", "read in s", "read again in s", "written in s", "opened in s"]
        Console().print(Table("The board", columns, [row]).rich())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
