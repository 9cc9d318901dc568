"""What is in a program for GPUs, and what logits in parts cost: `gpu_program.py [WIDTH DEPTH CONTEXT VOCAB]`.

Compiles the steps of one model in bfloat16 with logits whole and in parts, times them in turn, and counts in each
compiled program the calls of cuDNN's attention: asked for is not yet taken. On a CPU there are none.
"""

import sys
import time

import jax
import numpy as np
from rich.console import Console

from nextscale.model.accounting import flops_per_step, parameters, steps_per_row
from nextscale.model.config.data import TokenData
from nextscale.model.config.run import ModelConfig, RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.model.network import kernels
from nextscale.model.training import step
from nextscale.model.training.memory import lowered_steps
from nextscale.model.training.step import NO_SAVING
from nextscale.sweeps.show.formats import count
from nextscale.sweeps.show.tables import Table

SHAPE, SEQUENCES, ROUNDS = (768, 12, 1024, 50304), 16, 5
"""125M, a head of the usual size."""


def config_of(width, depth, context, vocab):
    """The run of a shape."""
    model = ModelConfig(width=width, depth=depth, heads=max(width // 64, 1), context=context, vocab=vocab)
    training = TrainingConfig(batch_tokens=context * SEQUENCES, steps=10**6, lr=1e-3, dtype="bfloat16")
    data = TokenData(source="tokens", path="none", vocab=vocab, fingerprint="0" * 16)
    return RunConfig(data=data, model=model, training=training)


def compiled(run, whole):
    """The steps with logits whole or in parts, what they hold, and a function that makes one call of a step."""
    kernels._LOGITS = 2**62 if whole else min(2**26, SEQUENCES * run.model.context * run.model.vocab // 4)
    step.train_steps.cache_clear()
    program = lowered_steps(run, None, NO_SAVING).compile()
    K, B, T1 = steps_per_row(run), run.batch_sequences, run.model.context + 1
    numbers = step.numbers_of(run)
    batches = np.random.default_rng(0).integers(0, run.model.vocab, (K, B, T1), np.int32)
    state = step.initial_state(step.program_of(run))(jax.random.key(0), numbers)

    def call():
        nonlocal state
        began = time.perf_counter()
        state = jax.block_until_ready(program(state, batches, np.ones(K, np.float32), 1, numbers))
        return time.perf_counter() - began

    return program, call


def main():
    """Measures and prints one table."""
    run = config_of(*map(int, sys.argv[1:]) if len(sys.argv) > 1 else SHAPE)
    made = {name: compiled(run, name == "whole") for name in ("whole", "in parts")}
    seconds = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, (_, call) in made.items():
            seconds[name].append(call())
    rows = []
    for name, (program, _) in made.items():
        best, memory = min(seconds[name][1:]), program.memory_analysis()
        cudnn = program.as_text().count("__cudnn$fmha")
        rate = flops_per_step(run) / best / 1e12
        rows.append([name, str(cudnn), f"{best * 1e3:.1f}", f"{rate:.3g}", f"{memory.temp_size_in_bytes / 1e9:.2f}"])
    columns = ["logits", "cuDNN's attention", "step ms", "TFLOP/s", "beside the state GB"]
    title = f"{count(parameters(run.model))} parameters on one {jax.devices()[0].device_kind}, bfloat16"
    Console(width=120).print(Table(title, columns, rows).rich())


if __name__ == "__main__":
    main()
