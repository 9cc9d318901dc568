"""How long a sweep is said to take, and how long it takes: `python benchmarks/planning.py`, three minutes or so.

A first sweep is trained; a second, of other sizes and budgets, is planned from what the first took, then trained. Hours
are the devices', from the accounts; wall-clock is from the first start to the last end. On a machine that does nothing
else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from nextscale.sweeps.show.formats import duration, percent
from nextscale.sweeps.show.tables import Table

os.environ.setdefault("JAX_PLATFORMS", "cpu")
SPEC = """\
name: {name}
data: {{source: markov, vocab: 64, seed: 0}}
model: {{depth: 2, heads: 4, context: 64, position: alibi, mlp: relu2}}
training: {{batch_tokens: 256, schedule: linear, lr: 0.01}}
design: {{kind: isoflop, flops: {flops}, widths: {widths}}}
"""
TIMED = {"flops": "[1.0e+10, 2.5e10, 6e10]", "widths": "[[8, 12, 16, 24], [12, 16, 24, 32], [16, 24, 32, 40]]"}
PLANNED = {"flops": "[3.5e+10, 1e11]", "widths": "[[12, 20, 28, 40], [20, 28, 48, 64]]"}


def nextscale(*arguments: object) -> Any:
    code = "from nextscale.sweeps.commands.app import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second, out = (Path(folder) / name for name in ("first.yaml", "second.yaml", "out"))
        first.write_text(SPEC.format(name="first", **TIMED))
        second.write_text(SPEC.format(name="second", **PLANNED))
        guessed = nextscale("plan", second, "--out", out)
        nextscale("run", first, "--out", out)
        planned = nextscale("plan", second, "--out", out)
        nextscale("run", second, "--out", out)
        rows = [json.loads(line) for line in (out / "accounts.jsonl").read_text().splitlines()]
    ids = {run["run_id"] for run in planned["runs"]}
    ended = [row for row in rows if row["kind"] == "settled" and row["run_id"] in ids]
    assert sum(row["flops_kept"] for row in ended) == planned["total_flops"]
    devices = sum(row["seconds"] * row["chips"] for row in ended)
    wall = max(row["started"] + row["seconds"] for row in ended) - min(row["started"] for row in ended)
    shown = []
    for what, plan in (("the catalogue", guessed), ("runs that were timed", planned)):
        told = 3600 * plan["pools"][0]["device_hours"], plan["wall_seconds"]
        for name, said, took in (("devices", told[0], devices), ("wall-clock", told[1], wall)):
            shown.append([what, name, duration(said), duration(took), percent(said / took - 1)])
    title = f"{len(ended)} runs, {planned['total_flops']:.3g} FLOPs, as planned to the FLOP"
    Console().print(Table(title, ["planned by", "", "planned", "took", "error"], shown, left=2).rich())


if __name__ == "__main__":
    main()
