"""How fast models are trained, and how that compares with PyTorch: `python benchmarks/train_step.py [RUNG...]`.

Each rung of the ladder is measured in processes of their own: two of this package, of which the second finds what the
first compiled, and, where torch is installed, two of the same model in PyTorch between them: eager on a CPU, compiled
with flash attention on a GPU. The best of the two counts. On a CPU everything has one thread, as a worker of a sweep
has, and the peak is what a plain matrix product reaches in the same process; on a GPU or TPU it is the data sheet's.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time

if "--measure" in sys.argv and os.environ.get("JAX_PLATFORMS") == "cpu":
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["OMP_NUM_THREADS"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from nextscale.model.accounting import flops_per_token, parameters, steps_per_row
from nextscale.model.config.data import MarkovData
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.model.network.sharding import Layout
from nextscale.model.network.transformer import transformer_of
from nextscale.model.training import step, train
from nextscale.model.training.memory import bytes_needed
from nextscale.model.training.step import MemorySaving
from nextscale.sweeps.show.formats import count
from nextscale.sweeps.show.tables import Table

LADDER = {
    # name: width, depth, heads, context, sequences in a batch
    "64": (64, 4, 4, 256, 4),
    "128": (128, 4, 4, 256, 4),
    "256": (256, 4, 4, 256, 4),
    "512": (512, 6, 8, 256, 4),
    "125M": (768, 12, 12, 1024, 32),
    "350M": (1024, 24, 16, 1024, 16),
    "1.3B": (2048, 24, 16, 2048, 8),
    "2.7B": (2560, 32, 20, 2048, 4),
}
ON_CPU = ("64", "128", "256", "512")
ON_GPU = ("128", "256", "512", "125M", "350M", "1.3B")
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "TPU v4": 275e12, "TPU v5 lite": 197e12}
"""FLOP/s without sparsity, of the makers' data sheets, by part of JAX's name of the device."""
SECONDS, VOCAB = 3.0, 256


def config_of(rung, dtype):
    """The run of a rung."""
    width, depth, heads, context, sequences = LADDER[rung]
    model = ModelFamily(depth=depth, heads=heads, context=context, position="rope", mlp="gelu").at(width, VOCAB)
    training = TrainingConfig(batch_tokens=context * sequences, steps=10**6, lr=1e-3, dtype=dtype)
    return RunConfig(data=MarkovData(source="markov", vocab=VOCAB), model=model, training=training)


def best_of(seconds_of_one):
    """The shortest of as many calls as fit into a few seconds, three at least."""
    found, began = [], time.perf_counter()
    while len(found) < 3 or time.perf_counter() - began < SECONDS:
        found.append(seconds_of_one())
    return min(found)


def timed(function):
    """Seconds that a call takes, until what it returns is there."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def peak():
    """FLOP/s of the device: of its data sheet, or of one square float32 product."""
    kind = jax.devices()[0].device_kind
    if known := next((rate for name, rate in PEAK_BF16.items() if name in kind), None):
        return known
    square = jnp.ones((512, 512))
    product = jax.jit(lambda a: a @ a)
    timed(lambda: product(square))
    return 2 * 512**3 / min(timed(lambda: product(square)) for _ in range(20))


def measured(rung, dtype):
    """What this process finds of one rung."""
    train.enable_compilation_cache()
    run = config_of(rung, dtype)
    K, M, B, T = steps_per_row(run), step.stretches_per_call(run), run.batch_sequences, run.model.context
    batches = np.random.default_rng(0).integers(0, VOCAB, (M * K, B, T + 1), np.int32)
    inputs = step.Inputs(batches, np.ones(M * K, np.float32), np.full(M, K, np.int32), np.full(M, True))
    numbers, program = step.numbers_of(run), step.program_of(run)
    state = step.initial_state(program)(jax.random.key(0), numbers)

    def dispatch():
        nonlocal state
        state, _ = step.execute(step.Call(program, state, inputs, numbers))
        return state

    first = timed(dispatch)
    best = best_of(lambda: timed(dispatch))
    statistics = jax.local_devices()[0].memory_stats() or {}
    memory = statistics.get("peak_bytes_in_use") or bytes_needed(run, Layout(), MemorySaving())
    return {"compile": first - best, "step": best / (M * K), "peak": peak(), "memory": memory}


def measured_torch(rung, dtype):
    """The same in PyTorch."""
    import torch
    import torch_model

    check_it_is_the_same_model(torch_model)
    run = config_of(rung, dtype)
    B, T = run.batch_sequences, run.model.context
    _, train_step = torch_model.build(run, dtype)
    batch = torch.randint(0, VOCAB, (B, T + 1), device=torch_model.DEVICE)

    def one():
        start = time.perf_counter()
        train_step(batch).item()
        return time.perf_counter() - start

    first = one()
    best = best_of(one)
    return {"compile": first - best, "step": best}


def check_it_is_the_same_model(torch_model):
    """Stops unless the smallest rung gives the same logits in both, from the same weights."""
    import torch

    run, rng = config_of(next(iter(LADDER)), "float32"), np.random.default_rng(0)
    params = step.initial_state(step.program_of(run))(jax.random.key(0), step.numbers_of(run))["params"]
    params = jax.tree.map(lambda w: np.asarray(w) + 0.1 * rng.standard_normal(w.shape).astype(np.float32), params)
    theirs, _ = torch_model.build(run, "float32")
    torch_model.load(theirs, params)
    tokens = rng.integers(0, VOCAB, (2, run.model.context))
    with torch.no_grad():
        found = theirs(torch.tensor(tokens, device=torch_model.DEVICE)).cpu().numpy()
    ours = transformer_of(run.network, "float32", params)(jnp.asarray(tokens))
    tolerance = 1e-4 if torch_model.DEVICE == "cpu" else 0.05  # a GPU rounds float32 products to TF32
    np.testing.assert_allclose(found, ours, atol=tolerance * float(jnp.abs(ours).max()))


def child(rung, dtype, cache, what):
    """Runs one of the functions above in a process of its own."""
    command = [sys.executable, __file__, rung, "--dtype", dtype, "--measure", what]
    ran = subprocess.run(command, env=os.environ | {"NEXTSCALE_CACHE": cache}, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{rung}, {what}: {ran.stderr[-2000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def row(rung, dtype, torch, times):
    """One rung, from two processes of each, or as many as are asked for."""
    run = config_of(rung, dtype)
    with tempfile.TemporaryDirectory() as cache:
        ours, theirs = [], []
        for _ in range(times):
            ours.append(child(rung, dtype, cache, "nextscale"))
            theirs += [child(rung, dtype, cache, "torch")] if torch else []
    seconds = min(found["step"] for found in ours)
    rate = flops_per_token(run.model) * run.training.batch_tokens / seconds
    ratio = f"{min(found['step'] for found in theirs) / seconds:.2f}" if theirs else "-"
    return [
        rung,
        count(parameters(run.model)),
        f"{seconds * 1e3:.1f}",
        count(run.training.batch_tokens / seconds),
        f"{rate / max(found['peak'] for found in ours):.0%}",
        *[f"{found['compile']:.1f}" for found in ours[:2]] + ["-"] * (2 - len(ours[:2])),
        f"{max(found['memory'] for found in ours) / 1e6:,.0f}",
        ratio,
    ]


def main():
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rungs", nargs="*", metavar="RUNG", help=f"of {', '.join(LADDER)}")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the matrix products")
    parser.add_argument("--times", type=int, default=2, help="processes of each; %(default)s")
    parser.add_argument("--measure", choices=["nextscale", "torch"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.rungs) - set(LADDER):
        parser.error(f"there is no rung {', '.join(sorted(unknown))}; take {', '.join(LADDER)}")
    if arguments.measure:
        found = (measured if arguments.measure == "nextscale" else measured_torch)(*arguments.rungs, arguments.dtype)
        print(json.dumps(found))
        return
    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    if on_cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    dtype = arguments.dtype or ("float32" if on_cpu else "bfloat16")
    kind, torch = device.device_kind, importlib.util.find_spec("torch") is not None
    del device
    jax.clear_caches()
    rungs = arguments.rungs or (ON_CPU if on_cpu else ON_GPU)
    columns = ["rung", "params", "step ms", "tokens/s", "of peak", "compile s", "again s", "memory MB", "x PyTorch"]
    rows = [row(rung, dtype, torch, arguments.times) for rung in rungs]
    Console(width=120).print(Table(f"One {kind}{', one thread' if on_cpu else ''}, {dtype}", columns, rows).rich())


if __name__ == "__main__":
    main()
