"""How fast a table of runs is read: `python benchmarks/store.py [RUNS]` (10 000).

So many runs of one sweep are written as they are left behind by training, with their curves, attempts and accounts,
their numbers made up. The table is then read in a process of its own each time: without an index; with one; when one
run has changed; when one was added and one removed. Seconds are those of `load`; imports take .8 s more or so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.hardware.seat import Seat
from nextscale.model.config.run import RunConfig
from nextscale.model.record import append_row
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.show.tables import Table
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.run_rows import config_columns
from nextscale.sweeps.store.store import Store

RUNS = 10_000
_LOAD = """
import sys, time, json
from nextscale.sweeps import load
import nextscale.sweeps.store.index
began = time.perf_counter()
table = load(sys.argv[1])
print(json.dumps([time.perf_counter() - began, len(table), float(table.loss.sum())]))
"""


def spec_of(runs: int) -> SweepSpec:
    """A sweep of so many runs: ten sizes at ten budgets, of as many seeds as it takes."""
    return SweepSpec.model_validate(
        {
            "name": "many",
            "data": {"source": "markov", "vocab": 64},
            "model": {"position": "alibi"},
            "training": {"batch_tokens": 256, "schedule": "linear", "lr": 0.01},
            "design": {
                "kind": "isoflop",
                "flops": [1e11 * 2**i for i in range(10)],
                "widths": [[16, 20, 24, 28, 32, 40, 48, 56, 64, 80]] * 10,
                "seeds": list(range(max(runs // 100, 1))),
            },
        }
    )


def leave_behind(store: Store, config: RunConfig, accounts: Accounts) -> None:
    """What a run leaves, but for its checkpoints."""
    run, told = store.run(config.run_id), config_columns(config)
    run.path.mkdir()
    (run.path / "config.json").write_text(config.model_dump_json(indent=1))
    noise = np.random.default_rng(int(config.run_id, 16)).normal(0, 0.01, 65).tolist()
    loss = 2.1 + 30 / told["params"] ** 0.5 + 200 / config.tokens**0.5 + noise[0]
    curve = [
        {"tokens": config.tokens * i // 64, "gradient_norm": 0.5, "loss": loss + 0.5 * (64 / i - 1) ** 0.3 + noise[i]}
        for i in range(1, 65)
    ]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in curve))
    append_row(run.path / "attempts.jsonl", {"host": "host", "device": "cpu", "started": 0.0, "status": "finished"})
    names = ("params", "params_non_embedding", "params_active", "tokens", "flops", "width", "depth", "steps", "lr")
    record = {"run_id": config.run_id, "status": "done", "reason": None, "loss": loss, "bits_per_byte": None}
    record |= {name: told[name] for name in (*names, "batch_tokens", "seed")} | {"unique_tokens": config.tokens}
    record |= {"epochs": 1.0, "loss_by_position": [loss] * 63, "in_context_learning": 0.0, "evaluation_tokens": 64512}
    record |= {"skipped_steps": 0, "device": "cpu", "versions": {"nextscale": "0.1.0", "jax": "0.10.2"}}
    record |= {"micro_batches": 1, "recompute": "none", "seconds": 7.0}
    (run.path / "record.json").write_text(json.dumps(record, indent=1))
    reservation = accounts.reserve(config.run_id, "cpu-0", Seat("cpu"), "cpu", 0, 9.0, int(told["flops"]))
    accounts.settle(reservation, 7.0, kept=int(told["flops"]), outcome="finished", peak=1e11)


def measured(root: Path) -> tuple[float, int, float]:
    told = subprocess.run([sys.executable, "-c", _LOAD, str(root)], check=True, capture_output=True, text=True)
    seconds, rows, losses = json.loads(told.stdout)
    return seconds, rows, losses


def main(runs: int = RUNS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store, accounts = Store.at(root), Accounts()
        spec = spec_of(runs)
        store.write_spec(spec)
        planned = planned_runs(spec)
        for run in planned:
            leave_behind(store, run.config, accounts)
        (root / "accounts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in accounts.rows))
        rows = []

        def row(name: str) -> float:
            seconds, found, losses = measured(root)
            size = (root / "index.parquet").stat().st_size / 2**20
            rows.append([name, str(found), f"{seconds:.2f}", f"{size:.1f}"])
            return losses

        first = row("cold: no index")
        for name in ("indexed", "indexed, again"):
            assert row(name) == first
        one = store.run(planned[0].config.run_id)
        one.write_record((one.record() or {}) | {"loss": 99.0})
        assert row("one run changed") > first
        shutil.rmtree(one.path)
        other = store.run("copy")
        shutil.copytree(store.run(planned[1].config.run_id).path, other.path)
        row("one removed, one added")
        Console().print(Table(f"{len(planned)} runs", ["", "rows", "seconds", "index MiB"], rows).rich())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
