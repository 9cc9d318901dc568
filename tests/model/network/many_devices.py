"""Trains runs on eight devices of one CPU, for the tests of this folder: a process has as many as it was started with.

Reads jobs, a JSON list, from its input; writes what came of each, a JSON list, to its output.
"""

import functools
import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from nextscale.model.config.run import RunConfig
from nextscale.model.network import kernels
from nextscale.model.network.attention import causal_attention, repeat_heads, splash_attention
from nextscale.model.network.sharding import Layout, mesh_of
from nextscale.model.record import RunDirectory
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.memory import bytes_needed
from nextscale.model.training.step import (
    MemorySaving,
    gradient_of,
    initial_state,
    numbers_of,
    program_of,
    state_shapes,
    train_steps,
)
from nextscale.model.training.train import train


class StoppedError(Exception):
    pass


def splash_error(layout):
    """How far the attention kernel of TPUs, spread over devices, is from that of one CPU."""
    q, k, v = (jax.random.normal(jax.random.key(i), (4, 128, n, 64)) for i, n in enumerate((4, 2, 2)))
    spread = jax.jit(functools.partial(splash_attention, scale=0.125, mesh=mesh_of(layout), interpret=True))
    here = causal_attention(q, repeat_heads(k, 4), repeat_heads(v, 4), np.zeros(1, np.float32))
    return float(abs(spread(q, k, v) - here).max())


def apart(config, layout, recompute, micro_batches):
    """How far the loss and the gradient of one batch, with logits in parts and blocks scanned, are from those of the
    plain program of one device: relative, the gradient's over all weights."""
    params = initial_state(program_of(config))(jax.random.key(0), numbers_of(config))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    batch = jax.random.randint(jax.random.key(1), (8, config.model.context + 1), 0, config.model.vocab)

    def found(mesh, saving):
        gradient, (loss, _) = jax.jit(functools.partial(gradient_of, program_of(config, mesh, saving)))(params, batch)
        return loss, gradient

    plain, gradient = found(None, MemorySaving())
    at_once, scanned = kernels._LOGITS, kernels.SCANNED_FROM
    kernels._LOGITS, kernels.SCANNED_FROM = 5 * config.model.vocab, 1
    same, ours = found(mesh_of(layout), MemorySaving(micro_batches, recompute))
    kernels._LOGITS, kernels.SCANNED_FROM = at_once, scanned
    norms = [optax.tree.norm(tree) for tree in (jax.tree.map(jnp.subtract, ours, gradient), gradient)]
    return [float(abs(same - plain) / plain), float(norms[0] / norms[1])]


def sums(config, layout, micro_batches):
    """How many sums over devices the program of a gradient has in its loops, and how many outside of them."""
    program = program_of(config, mesh_of(layout), MemorySaving(micro_batches))
    batch = jax.ShapeDtypeStruct((config.batch_sequences, config.model.context + 1), np.int32)
    lowered = jax.jit(functools.partial(gradient_of, program)).lower(state_shapes(program)["params"], batch)
    return [part.count(" all-reduce(") for part in lowered.compile().as_text().split("\nENTRY ")]


def done(job):
    config, layout = RunConfig.model_validate(job["config"]), Layout.parse(job["layout"])
    if job.get("splash"):
        return {"error": splash_error(layout)}
    if job.get("recompute"):
        return {"apart": apart(config, layout, job["recompute"], job.get("micro_batches", 1))}
    if job.get("sums"):
        return {"sums": sums(config, layout, job["sums"])}
    if job.get("plan"):
        return {"needed": bytes_needed(config, layout, MemorySaving())}
    pins = tuple(step * config.training.batch_tokens for step in (5, 10, 15))
    starts = []

    def on_progress(tokens):
        starts.append(tokens)
        if tokens == job.get("stop_at"):
            raise StoppedError

    try:
        directory = RunDirectory(epath.Path(job["out"]))
        policy = CheckpointPolicy(every_seconds=3600, pinned=pins)
        record = train(config, directory, checkpoint=policy, layout=layout, on_progress=on_progress)
    except StoppedError:
        return {}
    program = program_of(config, mesh_of(layout))
    state = initial_state(program)(jax.random.key(0), numbers_of(config))
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.addressable_shards[0].data.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    compiled = train_steps(program)._cache_size()
    return {"record": record, "start": starts[0], "shapes": shapes, "compiled": compiled}


if __name__ == "__main__":
    print(json.dumps([done(job) for job in json.load(sys.stdin)]))
