"""What routing costs: a step of a mixture of experts against one of a dense model of equal active FLOPs.

`python benchmarks/experts.py [WIDTH...]`, on one thread of a CPU, as a worker of a sweep has, or on the accelerator
that is there. All are timed by turns in one process, and the best of each counts; on a CPU in its own time, which what
else is at work takes little part in.
"""

import os
import sys
import time

if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import numpy as np
from rich.console import Console

from nextscale.model.accounting import active_parameters, flops_per_token, parameters, steps_per_row
from nextscale.model.config.data import MarkovData
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.model.training import step
from nextscale.sweeps.show.formats import count
from nextscale.sweeps.show.tables import Table

WIDTHS = (64, 128, 256)
KINDS = {
    "dense": {},
    "8 experts, 2 a token": {"experts": 8, "experts_per_token": 2},
    "32 experts, 4 a token": {"experts": 32, "experts_per_token": 4},
}
CLOCK = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
DEPTH, HEADS, CONTEXT, SEQUENCES, VOCAB, TURNS = 4, 4, 256, 4, 256, 5


def calls_of(width, kind):
    """A run, its steps a call, and what makes a call and gives the seconds it took."""
    family = ModelFamily(depth=DEPTH, heads=HEADS, context=CONTEXT, **KINDS[kind])
    training = TrainingConfig(batch_tokens=CONTEXT * SEQUENCES, steps=10**6, lr=1e-3)
    data = MarkovData(source="markov", vocab=VOCAB)
    run = RunConfig(data=data, model=family.at(width, VOCAB), training=training)
    K, M = steps_per_row(run), step.stretches_per_call(run)
    batches = np.random.default_rng(0).integers(0, VOCAB, (M * K, SEQUENCES, CONTEXT + 1), np.int32)
    inputs = step.Inputs(batches, np.ones(M * K, np.float32), np.full(M, K, np.int32), np.full(M, True))
    numbers, program = step.numbers_of(run), step.program_of(run)
    state = step.initial_state(program)(jax.random.key(0), numbers)

    def call():
        nonlocal state
        start = CLOCK()
        state, _ = step.execute(step.Call(program, state, inputs, numbers))
        jax.block_until_ready(state)
        return (CLOCK() - start) / (M * K)

    return run, call


def main():
    rows = []
    for width in [int(word) for word in sys.argv[1:]] or WIDTHS:
        made = {kind: calls_of(width, kind) for kind in KINDS}
        first = {kind: call() for kind, (_, call) in made.items()}
        best = dict.fromkeys(KINDS, np.inf)
        for _ in range(TURNS):
            best = {kind: min(best[kind], call()) for kind, (_, call) in made.items()}
        for kind, (run, _) in made.items():
            counts = [count(counted(run.model)) for counted in (parameters, active_parameters, flops_per_token)]
            compiled = (first[kind] - best[kind]) * steps_per_row(run) * step.stretches_per_call(run)
            times = [f"{compiled:.1f}", f"{1e3 * best[kind]:.1f}", f"{best[kind] / best['dense']:.2f}"]
            rows.append([f"{width}, {kind}", *counts, *times])
    columns = ["width", "params", "active", "FLOPs a token", "compile s", "step ms", "x dense"]
    title = f"One step of {SEQUENCES} x {CONTEXT} tokens, {DEPTH} blocks, one {jax.devices()[0].device_kind}"
    Console(width=120).print(Table(title, columns, rows).rich())


if __name__ == "__main__":
    main()
