"""A model as it is built, whichever it is: our Transformer, or a `flax.nnx` module of one's own.

A module of one's own is called tokens → logits (B x T → B x T x V), and made by its name with the arguments that the
spec gives it and, of `vocab`, `context`, `dtype` and `rngs`, those that it takes. Its `nnx.Param`s are trained. What
other arrays it holds are constants, made anew wherever they are needed, with the same keys for every seed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nextscale.model.config.module import NO_GROUP, ModuleNetwork
from nextscale.model.config.parametrization import Group
from nextscale.model.config.run import Network
from nextscale.model.errors import InputError, describe_error
from nextscale.model.external.code import load
from nextscale.model.network import transformer
from nextscale.model.network.kernels import Recompute
from nextscale.model.network.sharding import AnyMesh
from nextscale.model.network.transformer import Transformer

PyTree = Any

_TARGET = "model.target"
_GROUPS = typing.get_args(Group)
_OFFERED = ("vocab", "context", "dtype", "rngs")


class SplitGroup(str):
    """A group, of a weight that says itself along which axis of the mesh each of its dimensions is split."""

    axes: tuple[str | None, ...]


class OwnModule:
    """A module of one's own, called as a `Transformer` is."""

    def __init__(self, network: ModuleNetwork, dtype: str, module: nnx.Module):
        self.network, self.dtype, self.module = network, jnp.dtype(dtype), module

    def __call__(
        self, tokens_BxT: jax.Array, mesh: AnyMesh | None = None, *, recompute: Recompute = "none"
    ) -> jax.Array:
        """Float32 logits, B x T x V. XLA places what is computed on a mesh, and keeps what a gradient needs.

        Raises:
            InputError: the module fails, changes itself, or gives something else.
        """
        name, before = self.network.function.target, _arrays(self.module)
        exact = jax.default_matmul_precision("float32") if self.dtype == jnp.float32 else contextlib.nullcontext()
        try:
            with exact:
                logits: Any = self.module(tokens_BxT)
        except InputError:
            raise
        except Exception as error:
            raise _wrong(
                name, f"fails when called with tokens of shape {tokens_BxT.shape}: {describe_error(error)}"
            ) from error
        wanted = (*tokens_BxT.shape, self.network.vocab)
        if not isinstance(logits, jax.Array):
            raise _wrong(name, f"gives a {type(logits).__name__}; give logits, an array of shape {wanted}")
        if logits.shape != wanted or not jnp.issubdtype(logits.dtype, jnp.floating):
            raise _wrong(name, f"gives {logits.dtype} of shape {logits.shape}; give logits of shape {wanted}")
        if changed := [path for path, array in _arrays(self.module).items() if before.get(path) is not array]:
            raise _wrong(name, f"changes {', '.join(changed)} when called, which is not kept; leave out such state")
        return logits.astype(jnp.float32)


def _arrays(module: nnx.Module) -> dict[str, Any]:
    """All that a module holds, by where."""
    state = nnx.to_pure_dict(nnx.state(module))
    return {_place(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _place(path: tuple[Any, ...]) -> str:
    return ".".join(str(getattr(key, "key", key)) for key in path)


def initial_params(network: Network | ModuleNetwork, dtype: str, rngs: nnx.Rngs) -> PyTree:
    """The weights that a run begins with."""
    if isinstance(network, Network):
        return nnx.to_pure_dict(nnx.state(Transformer(network, dtype=dtype, rngs=rngs)))
    return nnx.to_pure_dict(nnx.state(_made(network, dtype, rngs), nnx.Param))


def groups_of(network: Network | ModuleNetwork, dtype: str) -> PyTree:
    """The parametrization group of each weight."""
    return transformer.structure(network, dtype)[1] if isinstance(network, Network) else _groups(network, dtype)


def model_of(network: Network | ModuleNetwork, dtype: str, params: PyTree) -> Transformer | OwnModule:
    """The model that `params` are the weights of."""
    params = in_float32(params)
    if isinstance(network, Network):
        return transformer.transformer_of(network, dtype, params)
    graph, own, *constants = nnx.split(_made(network, dtype, nnx.Rngs(0)), nnx.Param, ...)
    nnx.replace_by_pure_dict(own, params)
    return OwnModule(network, dtype, nnx.merge(graph, own, *constants))


def in_float32(params: PyTree) -> PyTree:
    """Weights as they are computed with, whatever they are kept in (see `kept_in`)."""
    return jax.tree.map(lambda weight: weight.astype(jnp.float32), params)


def kept_in(param_dtype: str, groups: PyTree, params: PyTree) -> PyTree:
    """Weights in the dtype that a run keeps them in: matrices, but for a router, which is small and decides."""

    def kept(group: Group, weight: jax.Array) -> jax.Array:
        return weight.astype(param_dtype) if weight.ndim >= 2 and group != "router" else weight

    return jax.tree.map(kept, groups, params)


@functools.lru_cache
def _groups(network: ModuleNetwork, dtype: str) -> PyTree:
    """
    Raises:
        InputError: a weight is of a group that is none, or not of float32.
    """
    name = network.function.target
    abstract = nnx.eval_shape(lambda: _made(network, dtype, nnx.Rngs(0)))
    state = nnx.state(abstract, nnx.Param)

    def group_of(path: tuple[Any, ...], weight: nnx.Param) -> str:
        where, told = f"{name}: {_place(path)}", weight.get_metadata()
        group, split = told.get("group", NO_GROUP), told.get("split")
        if group not in _GROUPS:
            raise _wrong(where, f"is of group {group!r}; groups are {', '.join(_GROUPS)}")
        if weight.dtype != jnp.float32:
            raise _wrong(where, f"is of {weight.dtype}; weights are float32 (dtype is of the matrix products)")
        if split is None:
            return str(group)
        if len(split) != weight.ndim or not set(split) <= {"fsdp", "tensor", None}:
            raise _wrong(where, f"has split {split!r}; name fsdp, tensor or None for each of {weight.ndim} dimensions")
        placed = SplitGroup(group)
        placed.axes = tuple(split)
        return placed

    def is_variable(x: Any) -> bool:
        return isinstance(x, nnx.Variable)

    found = jax.tree_util.tree_map_with_path(group_of, state, is_leaf=is_variable)
    if not jax.tree.leaves(found):
        raise _wrong(name, "has no nnx.Param to train")
    return nnx.to_pure_dict(found)


def _made(network: ModuleNetwork, dtype: str, rngs: nnx.Rngs) -> nnx.Module:
    """
    Raises:
        InputError: it cannot be made with these arguments, or is no module.
    """
    name, model = network.function.target, network.model
    make = load(network.function, _TARGET)
    offered = {"vocab": model.vocab, "context": model.context, "dtype": jnp.dtype(dtype), "rngs": rngs}
    taken, given = _parameters(make, name), model.arguments
    if taken is not None:
        if unknown := [key for key in given if key not in taken]:
            known = ", ".join(key for key in taken if key not in _OFFERED) or "none"
            raise _wrong(name, f"takes no argument {unknown[0]}; its own are {known}")
        if "rngs" not in taken:
            raise _wrong(name, "takes no rngs, so its first weights would not follow the seed; take rngs: nnx.Rngs")
        missing = [key for key, p in taken.items() if p.default is p.empty and key not in given and key not in offered]
        if missing:
            raise _wrong(name, f"needs {', '.join(missing)}; give it under model, or as a size of the design")
        offered = {key: value for key, value in offered.items() if key in taken}
    try:
        module = make(**given, **offered)
    except InputError:
        raise
    except Exception as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise _wrong(name, f"cannot be made with {shown or 'no argument'}: {describe_error(error)}") from error
    if not isinstance(module, nnx.Module) or not callable(module):
        raise _wrong(name, f"gives a {type(module).__name__}; give a flax.nnx.Module that is called tokens → logits")
    return module


def takes_dtype(network: ModuleNetwork) -> bool:
    """Whether a module is told the dtype of its matrix products."""
    taken = _parameters(load(network.function, _TARGET), network.function.target)
    return taken is None or "dtype" in taken


def _parameters(make: Any, name: str) -> dict[str, inspect.Parameter] | None:
    """What it takes by name; None where that is anything."""
    try:
        # Of a module the class itself says that it takes anything.
        found = [*inspect.signature(make.__init__ if inspect.isclass(make) else make).parameters.values()]
    except (TypeError, ValueError):
        raise _wrong(name, "does not say what it takes; wrap it in a function that does") from None
    found = found[1:] if inspect.isclass(make) else found
    if any(p.kind is p.VAR_KEYWORD for p in found):
        return None
    return {p.name: p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _wrong(name: str, what: str) -> InputError:
    return InputError(f"{_TARGET}: {name} {what}")
