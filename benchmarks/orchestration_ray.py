"""What it costs to have a run done by somebody: many tiny runs on a warm worker, by Ray Tune, and in a bare loop.

    python benchmarks/orchestration_ray.py

Each way trains the same runs, one at a time, one core each, and leaves the same records.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["RAY_AUTH_MODE"] = "disabled"

from etils import epath

from nextscale.cluster.job import Job, Seat
from nextscale.cluster.pool import Pool
from nextscale.cluster.ray_backend import RayBackend
from nextscale.model.checkpoint import CheckpointPolicy
from nextscale.model.config import MarkovData, ModelFamily, RunConfig, TrainingConfig
from nextscale.model.record import RunDirectory
from nextscale.model.train import enable_compilation_cache, train

Row = dict[str, Any]
RUNS = 200
TUNED = 20
"""Ray Tune is given fewer runs where it takes seconds for each: the time of one does not depend on it."""


def job(root: Path, seed: int) -> Job:
    """Five steps of a model of a few hundred weights; nothing is kept but the record."""
    config = RunConfig(
        data=MarkovData(source="markov", vocab=16),
        model=ModelFamily(depth=1, heads=2, context=8).at(8, 16),
        training=TrainingConfig(batch_tokens=32, steps=5, lr=0.02),
        evaluation={"tokens": 256},
        seed=seed,
    )
    return Job(config.run_id, config, str(root / config.run_id), flops=1.0, steps=5, shape="one", final=False)


def trained(job: Job) -> None:
    policy = CheckpointPolicy(job.every_seconds, job.keep, job.final, job.pinned)
    train(job.config, RunDirectory(epath.Path(job.directory)), checkpoint=policy)


def bare(root: Path, runs: int) -> float:
    """Seconds per run of a loop in this process."""
    enable_compilation_cache()
    trained(job(root, 1_000_000))  # compiles
    started = time.perf_counter()
    for seed in range(runs):
        trained(job(root, seed))
    return (time.perf_counter() - started) / runs


def warm(root: Path, runs: int) -> float:
    """Seconds per run of one worker of the warm lane, given a run when it has done the last."""
    pool = Pool(accelerator="cpu")
    with contextlib.closing(RayBackend(pools={"cpu": pool})) as backend:
        while not backend.slots():
            backend.wait(1.0)
        (slot,) = backend.slots()

        def done(job: Job) -> None:
            backend.start(slot.name, job, Seat("cpu"))
            while not (ended := backend.wait(1.0)):
                pass
            assert ended[0].outcome.status == "finished", ended[0].outcome.message

        done(job(root, 1_000_000))
        started = time.perf_counter()
        for seed in range(runs):
            done(job(root, seed))
        return (time.perf_counter() - started) / runs


def tuned(root: Path, runs: int, *, reuse_actors: bool) -> float | None:
    """Seconds per run of Ray Tune, one trial at a time; None where it is not installed."""
    try:
        from ray import tune
    except ImportError:
        return None
    import ray

    def trial(config: Row) -> None:
        enable_compilation_cache()
        trained(job(root, config["seed"]))
        tune.report({"loss": 0.0})

    ray.init(address="local", num_cpus=1, log_to_driver=False, include_dashboard=False)
    try:
        tuner = tune.Tuner(
            trial,
            param_space={"seed": tune.grid_search(list(range(runs)))},
            tune_config=tune.TuneConfig(reuse_actors=reuse_actors, max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=str(root), verbose=0),
        )
        started = time.perf_counter()
        results = tuner.fit()
        assert not results.errors, results.errors
        return (time.perf_counter() - started) / runs
    finally:
        ray.shutdown()


def rows(runs: int = RUNS, tuned_runs: int = TUNED) -> Iterator[Row]:
    """Seconds per run of each way, and beyond the bare loop's."""
    ways: dict[str, tuple[int, Callable[[Path, int], float | None]]] = {
        "bare loop": (runs, bare),
        "warm worker": (runs, warm),
        "Ray Tune": (tuned_runs, lambda root, n: tuned(root, n, reuse_actors=False)),
        "Ray Tune, reuse_actors": (tuned_runs, lambda root, n: tuned(root, n, reuse_actors=True)),
    }
    least: float | None = None
    for way, (n, measure) in ways.items():
        with tempfile.TemporaryDirectory() as root:
            seconds = measure(Path(root), n)
        row: Row = {"way": way, "runs": n, "seconds_per_run": seconds}
        if seconds is None:
            row["note"] = 'not installed: pip install "ray[tune]"'
        elif least is None:
            least = seconds
        else:
            row["overhead_seconds"] = seconds - least
        yield row


if __name__ == "__main__":
    for row in rows(*map(int, sys.argv[1:])):
        print(json.dumps(row), flush=True)
