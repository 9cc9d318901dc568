"""What is gained by several runs in one program: `python benchmarks/packing.py [WIDTH...]`.

Of each width: seconds per step and run, alone and with 2, 4 and 8 side by side, as `nextscale.model.training.pack`
trains them. Calls are timed in turn, so that a busy machine is busy for all. On a CPU it is one thread, as a worker of
a sweep has.
"""

import os
import sys
import time

if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import numpy as np
from rich.console import Console

from nextscale.model.accounting import steps_per_row
from nextscale.model.config.data import MarkovData
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.model.training import step
from nextscale.model.training.pack import execute_together
from nextscale.sweeps.show.tables import Table

SIDE_BY_SIDE, ROUNDS, STEPS = (1, 2, 4, 8), 4, 16
QUICKSTART = ModelFamily(depth=2, heads=4, context=64, position="alibi", mlp="relu2"), 64, 256
LARGER = ModelFamily(depth=4, heads=4, context=256), 256, 1024


def calls(run, n):
    """One call of each of n runs that differ in their seed."""
    K, B, T = steps_per_row(run), run.batch_sequences, run.model.context
    program, numbers = step.program_of(run), step.numbers_of(run)
    for seed in range(n):
        state = step.initial_state(program)(jax.random.key(seed), numbers)
        batches = np.random.default_rng(seed).integers(0, run.data.vocab, (K, B, T + 1), np.int32)
        steps, complete = np.array([min(STEPS, K)], np.int32), np.array([False])
        yield step.Call(program, state, step.Inputs(batches, np.ones(K, np.float32), steps, complete), numbers)


def row(width):
    """Milliseconds per step and run, and how much faster than alone."""
    family, vocab, batch_tokens = QUICKSTART if width < 64 else LARGER
    run = RunConfig(
        data=MarkovData(source="markov", vocab=vocab),
        model=family.at(width, vocab),
        training=TrainingConfig(batch_tokens=batch_tokens, steps=10**6, lr=0.01),
    )
    going, seconds = {n: list(calls(run, n)) for n in SIDE_BY_SIDE}, {n: [] for n in SIDE_BY_SIDE}
    for _ in range(ROUNDS + 1):  # the first compiles
        for n, asked in going.items():
            start = time.perf_counter()
            after = execute_together(asked, wait=True)
            seconds[n].append((time.perf_counter() - start) / n / asked[0].inputs.steps[0])
            going[n] = [call._replace(state=state) for call, (state, _) in zip(asked, after, strict=True)]
    best = {n: min(found[1:]) for n, found in seconds.items()}
    return [str(width), f"{best[1] * 1e3:.2f}", *(f"{best[1] / best[n]:.2f}" for n in SIDE_BY_SIDE[1:])]


if __name__ == "__main__":
    widths = [int(argument) for argument in sys.argv[1:]] or [8, 16, 32, 64, 128, 256, 512]
    columns = ["width", "alone, ms a step", *(f"{n} together" for n in SIDE_BY_SIDE[1:])]
    title = f"Times faster than alone, per run, on one {jax.devices()[0].device_kind}"
    Console(width=100).print(Table(title, columns, [row(width) for width in widths]).rich())
