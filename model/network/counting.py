"""Counts of a module of one's own, by `jax.eval_shape`, by itself and by XLA. Nothing of it is computed, but for a
small one's first logits, which tell whether it looks ahead.

`python -m nextscale.model.network.counting` counts those whose lines it is sent (see `counts.py`): in a process of its
own that sees CPUs alone, so that a plan takes no accelerator from the runs, and loads nobody's code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.flatten_util import ravel_pytree

from nextscale.model.config.code import Function
from nextscale.model.config.module import Counts, ModuleModel, ModuleNetwork
from nextscale.model.errors import InputError, describe_error
from nextscale.model.external.asked import answer_lines
from nextscale.model.network.modules import OwnModule, groups_of, initial_params, model_of, takes_dtype

PyTree = Any

_CALLED_FLOPS = 1e11
"""Of a forward pass that is computed to see whether a module looks ahead: some seconds of a CPU."""
_LEAK = 1e-3
"""What a change of a later token may move the logits before it, against those after it: rounding, of an FFT say."""
_causal: set[Function] = set()
"""Those whose module was seen not to look ahead."""


def count(network: ModuleNetwork) -> Counts:
    """
    Raises:
        InputError: the module cannot be made or called, looks ahead, or its FLOPs cannot be told.
    """
    groups = groups_of(network, "float32")
    params = jax.eval_shape(lambda: initial_params(network, "float32", nnx.Rngs(0)))
    B, T, stated = 2, network.context, list[float]()

    def forward(params: PyTree, tokens_BxT: jax.Array) -> jax.Array:
        model = model_of(network, "float32", params)
        assert isinstance(model, OwnModule)
        stated.extend(_stated_flops(network, model.module))
        return model(tokens_BxT)

    traced = jax.make_jaxpr(forward)(params, jax.ShapeDtypeStruct((B, T), jnp.int32))
    flops = stated[0] if stated else 3 * _flops(traced, network) / (B * T)
    _check_causal(network, _least_flops(traced))
    weights, tokens = traced.in_avals[:-1], traced.in_avals[-1]
    kept = jax.eval_shape(lambda w, t: jax.vjp(lambda w: jaxpr_as_fun(traced)(*w, t), w)[1], weights, tokens)
    own, by_group = sum(weight.size * weight.dtype.itemsize for weight in weights), dict[str, int]()
    for group, weight in zip(jax.tree.leaves(groups), jax.tree.leaves(params), strict=True):
        by_group[str(group)] = by_group.get(str(group), 0) + weight.size
    return Counts(
        params=sum(by_group.values()),
        groups=dict(sorted(by_group.items())),
        flops_per_token=flops,
        flops_by="module" if stated else "xla",
        bytes_per_sequence=max(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept)) - own, 0) / B,
        takes_dtype=takes_dtype(network),
    )


def _stated_flops(network: ModuleNetwork, module: nnx.Module) -> list[float]:
    """Training FLOPs per token as the module itself counts them; empty where it does not."""
    if (tell := getattr(module, "flops_per_token", None)) is None:
        return []
    what = f"model.target: flops_per_token() of {network.function.target}"
    try:
        found = tell()
    except Exception as error:
        raise InputError(f"{what} fails: {describe_error(error)}") from error
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise InputError(f"{what} gives a {type(found).__name__}; give training FLOPs, a number above 0")
    if not (math.isfinite(found) and found > 0):
        raise InputError(f"{what} gives {found:g}; training FLOPs are above 0")
    return [float(found)]


def _flops(traced: ClosedJaxpr, network: ModuleNetwork) -> float:
    """FLOPs of a program, by XLA's analysis of it before it is compiled.

    That counts what is in a loop once. The loops of known length are found in the program, and each is counted by
    itself as often as it runs.
    """
    total = _least_flops(traced)
    for loop in _loops(traced.jaxpr):
        if loop.primitive.name == "while":
            raise InputError(
                f"model.target: {network.function.target} holds a loop of which nobody knows how long it is (a while "
                "loop), so its FLOPs cannot be counted; give it a method flops_per_token(), of training FLOPs"
            )
        body = loop.params["jaxpr"]
        total += loop.params["length"] * _flops(body, network) - _least_flops(body)
    return total


def _least_flops(traced: ClosedJaxpr) -> float:
    """With what is in a loop counted once."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in traced.in_avals]
    found = jax.jit(jaxpr_as_fun(traced)).lower(*shapes).cost_analysis()
    return max(float((found or {}).get("flops", 0.0)), 0.0)


def _loops(jaxpr: Any) -> Iterator[Any]:
    """The loops of a program that are in no other loop."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("scan", "while"):
            yield equation
            continue
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _loops(inner)


def _check_causal(network: ModuleNetwork, flops: float) -> None:
    """Of the first of a function's modules that is small.

    Raises:
        InputError: a token changes the logits before it: the loss would be of a text that is known already. Or its
            first logits are no numbers.
    """
    if network.function in _causal or flops > _CALLED_FLOPS:
        return
    T, V = network.context, network.vocab

    def apart(key: jax.Array, noise: float) -> jax.Array:
        """How far a change of the second half of the tokens moves the logits at each position."""
        for_tokens, for_weights = jax.random.split(key)
        flat, build = ravel_pytree(initial_params(network, "float32", nnx.Rngs(0)))
        params = build(flat + noise * jax.random.normal(for_weights, flat.shape))
        tokens = jax.random.randint(for_tokens, (1, T), 0, V)
        other = tokens.at[:, T // 2 :].set((tokens[:, T // 2 :] + 1) % V)
        first, second = model_of(network, "float32", params)(jnp.concatenate([tokens, other]))
        return jnp.abs(first - second).max(axis=-1)

    for noise in (0.1, 0.0):  # weights that begin at zero would hide all that is behind them
        moved = jax.jit(apart)(jax.random.key(1), noise)
        if jnp.isfinite(moved).all():
            break
    else:
        raise InputError(f"model.target: {network.function.target} gives logits that are no numbers, untrained")
    before, after = float(moved[: T // 2].max()), float(moved[T // 2 :].max())
    if before > _LEAK * after:
        raise InputError(
            f"model.target: {network.function.target} looks ahead: with other tokens from position {T // 2} on, its "
            f"logits before it change by {before:.2g}; logits at a position may follow from the tokens up to it alone"
        )
    _causal.add(network.function)


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    """`{counts}` or `{error}`, to `{function, model}`."""
    try:
        network = ModuleNetwork(Function(*asked["function"]), ModuleModel.model_validate(asked["model"]))
        return {"counts": count(network).model_dump()}
    except InputError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"model.target: {asked['function'][0]} cannot be counted: {describe_error(error)}"}


if __name__ == "__main__":
    answer_lines(_answer)
