"""What the controller costs: `python benchmarks/orchestration.py [RUNS...]`.

Simulated: so many runs through the controller on 64 slots in virtual time, with accounts on disk and, of every
hundred attempts, one error and five preemptions. Seconds are the controller's and the simulation's together; MiB are
the most that Python held. Each line is a process of its own.
"""

import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from rich.console import Console

from nextscale.cluster.accounts import Accounts
from nextscale.cluster.caps import Caps
from nextscale.cluster.controller import run_all
from nextscale.cluster.failures import Limits
from nextscale.sweeps.tables import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
import fake

RUNS, SLOTS = (100, 1_000, 10_000), 64


def simulated(n, traced):
    """Seconds (or, traced, MiB) of n runs of ten minutes or so, under a cap that is never reached."""

    def fate(run_id, attempt, slot):
        roll = (int(run_id) * 7919 + attempt * 104729) % 100
        return fake.Fate("error" if roll == 0 else "lost", 90.0) if roll < 6 and attempt < 3 else None

    world = fake.World({"p": fake.pool(SLOTS)}, per_host=8, fates=fate)
    jobs = [fake.job(str(i), 6e5 + 1e3 * (i % 977), shape=str(i % 16)) for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        if traced:
            tracemalloc.start()
        start = time.perf_counter()
        accounts = Accounts(Path(folder) / "accounts.jsonl", clock=lambda: world.time)
        report = run_all(
            jobs,
            fake.FakeBackend(world),
            caps=Caps(max_device_hours=1e6),
            accounts=accounts,
            runs=fake.FakeRuns(world),
            limits=Limits(poll=1e9),
        )
        accounts.close()
        seconds = time.perf_counter() - start
    assert len(report.finished) == n, report.failed
    return tracemalloc.get_traced_memory()[1] / 2**20 if traced else seconds


def row(n):
    """Of the simulated part."""
    seconds, mib = (
        json.loads(subprocess.check_output([sys.executable, __file__, f"--{how}", str(n)], text=True))
        for how in ("timed", "traced")
    )
    return [f"{n:,}", f"{seconds:.2f}", f"{mib:.1f}", f"{seconds / n * 1e3:.2f}"]


# On real Ray, the overhead per tiny run against Ray Tune and against a bare loop: its rows come here.


if __name__ == "__main__":
    if sys.argv[1:2] in (["--timed"], ["--traced"]):
        print(json.dumps(simulated(int(sys.argv[2]), sys.argv[1] == "--traced")))
    else:
        sizes = [int(argument) for argument in sys.argv[1:]] or RUNS
        columns = ["simulated runs", "seconds", "MiB", "ms a run"]
        title = f"The controller on {SLOTS} slots, in virtual time"
        Console(width=100).print(Table(title, columns, [row(n) for n in sizes]).rich())
