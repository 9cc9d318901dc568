"""What it costs to have runs done by somebody: `python benchmarks/orchestration.py [RUNS [SIMULATED...]]`.

Real: so many tiny runs (200), each five steps of a model of a few hundred weights with its record left behind, one
after another on one core: in a bare loop, through the controller on a warm worker, and by Ray Tune where that is
installed (`pip install "ray[tune]"`). What comes up once, Ray and the first worker, is not counted; all share one
compilation cache. Ray Tune is given a tenth of them: each takes it seconds, however many there are.
Overhead is what a run takes beyond the bare loop's.

Simulated: so many runs through the controller on 64 slots in virtual time, with accounts on disk and, of every hundred
attempts, one error and five preemptions. Seconds are the controller's and the simulation's together; MiB are the most
that Python held.

Each row is a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["RAY_AUTH_MODE"] = "disabled"

from etils import epath
from rich.console import Console

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.caps import Caps
from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.controller.failures import Limits
from nextscale.cluster.controller.job import Job
from nextscale.cluster.hardware.pool import Pool
from nextscale.model.config.data import MarkovData
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.model.record import RunDirectory
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.sweeps.show.tables import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
import fake

RUNS, SIMULATED, SLOTS = 200, (100, 1_000, 10_000), 64
FIRST = 1_000_000
"""The seed of the run that compiles, and is not counted."""


def job(root: Path, seed: int) -> Job:
    """Nothing is kept of it but the record."""
    config = RunConfig(
        data=MarkovData(source="markov", vocab=16),
        model=ModelFamily(depth=1, heads=2, context=8).at(8, 16),
        training=TrainingConfig(batch_tokens=32, steps=5, lr=0.02),
        evaluation={"tokens": 256},
        seed=seed,
    )
    return Job(config.run_id, config, str(root / config.run_id), flops=1.0, steps=5, shape="one", final=False)


def train_job(job: Job) -> None:
    from nextscale.model.training.train import train

    policy = CheckpointPolicy(job.every_seconds, job.keep, job.final, job.pinned)
    train(job.config, RunDirectory(epath.Path(job.directory)), checkpoint=policy)


def bare(root: Path, n: int) -> float:
    """Seconds of n runs in a loop in this process."""
    from nextscale.model.training.train import enable_compilation_cache

    enable_compilation_cache()
    train_job(job(root, FIRST))
    start = time.perf_counter()
    for seed in range(n):
        train_job(job(root, seed))
    return time.perf_counter() - start


def warm(root: Path, n: int) -> float:
    """Seconds of n runs that the controller hands to a worker of the warm lane, leases and accounts included."""
    from nextscale.cluster.ray.ray_backend import RayBackend

    accounts = Accounts(root / "accounts.jsonl")
    with contextlib.closing(RayBackend(pools={"cpu": Pool(accelerator="cpu")})) as backend:
        run_all([job(root, FIRST)], backend, accounts=accounts)
        start = time.perf_counter()
        report = run_all([job(root, seed) for seed in range(n)], backend, accounts=accounts)
        seconds = time.perf_counter() - start
    assert len(report.finished) == n, report.failed
    return seconds


def ray_tune(root: Path, n: int, *, reuse_actors: bool) -> float:
    """Seconds of n trials of Ray Tune, one at a time, from the start of the second on."""
    import ray
    from ray import tune

    def trial(config: dict[str, int]) -> None:
        from nextscale.model.training.train import enable_compilation_cache

        enable_compilation_cache()
        train_job(job(root, config["seed"]))
        tune.report({"at": time.time()})

    ray.init(address="local", num_cpus=1, log_to_driver=False, include_dashboard=False)
    try:
        tuner = tune.Tuner(
            trial,
            param_space={"seed": tune.grid_search(list(range(n + 1)))},
            tune_config=tune.TuneConfig(reuse_actors=reuse_actors, max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=str(root), verbose=0),
        )
        results = tuner.fit()
        assert not results.errors, results.errors
        return time.time() - min(result.metrics["at"] for result in results)
    finally:
        ray.shutdown()


def simulated(n: int) -> float:
    """Seconds of n runs of ten minutes or so, under a cap that is never reached."""

    def fate(run_id, attempt, slot):
        roll = (int(run_id) * 7919 + attempt * 104729) % 100
        return fake.Fate("error" if roll == 0 else "lost", 90.0) if roll < 6 and attempt < 3 else None

    world = fake.World({"p": fake.pool(SLOTS)}, per_host=8, fates=fate)
    jobs = [fake.job(str(i), 6e5 + 1e3 * (i % 977), shape=str(i % 16)) for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
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
    return seconds


def measure(way: str, n: int) -> float:
    """Seconds or, of `traced`, MiB."""
    if way == "simulated":
        return simulated(n)
    if way == "traced":
        tracemalloc.start()
        simulated(n)
        return tracemalloc.get_traced_memory()[1] / 2**20
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if way == "bare":
            return bare(root, n)
        return warm(root, n) if way == "warm" else ray_tune(root, n, reuse_actors=way == "reused")


def measure_in_process(way: str, n: int) -> float:
    """The same in a process of its own."""
    output = subprocess.check_output([sys.executable, __file__, "--measure", way, str(n)], text=True)
    return float(json.loads(output.splitlines()[-1]))


def rows(n: int, sizes: Sequence[int]) -> list[list[str]]:
    """Of the whole table."""
    ways = {"bare": "bare loop", "warm": "nextscale"}
    if find_spec("ray.tune") and find_spec("tensorboardX"):
        ways |= {"tune": "Ray Tune", "reused": "Ray Tune, reuse_actors"}
    counts = {way: n if way in ("bare", "warm") else max(n // 10, 1) for way in ways}
    seconds = {way: measure_in_process(way, count) / count for way, count in counts.items()}
    over = {way: seconds[way] - seconds["bare"] for way in ways}
    found = []
    for way, name in ways.items():
        overhead = "" if way == "bare" else f"{over[way] * 1e3:.1f}"
        times = f"{over[way] / over['warm']:.0f}" if way != "bare" else ""
        count = counts[way]
        found.append(
            [name, f"{count:,}", f"{seconds[way] * count:.2f}", f"{seconds[way] * 1e3:.2f}", overhead, times, ""]
        )
    for size in sizes:
        took, mib = measure_in_process("simulated", size), measure_in_process("traced", size)
        found.append(["simulated", f"{size:,}", f"{took:.2f}", f"{took / size * 1e3:.2f}", "", "", f"{mib:.1f}"])
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        runs, *sizes = [int(argument) for argument in sys.argv[1:]] or [RUNS]
        columns = ["runs done by", "runs", "seconds", "ms a run", "overhead, ms", "times ours", "MiB"]
        table = Table("One core, one run at a time; and simulated on 64 slots", columns, rows(runs, sizes or SIMULATED))
        Console(width=110).print(table.rich())
