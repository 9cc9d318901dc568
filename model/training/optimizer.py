"""Optimisers, as one optax chain, and learning-rate schedules.

Learning rate and weight decay are arguments, never constants of the compiled program: a grid of rates or of
lengths compiles once per shape.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from nextscale.model.config.code import Function
from nextscale.model.config.parametrization import Group, Multipliers, Size, multipliers
from nextscale.model.config.training import OptimizerName, TrainingConfig
from nextscale.model.errors import InputError, describe_error
from nextscale.model.external.code import check_call, load

PyTree = Any

_OFFERED = ("weight_decay", "beta1", "beta2", "eps", "momentum")
"""What an optimiser of one's own is given by name, if it takes it."""
_ADAM_RMS = 0.2
"""Root mean square of the entries of an Adam update, as Muon's updates are scaled to (Liu et al. 2025, sec. 2.2)."""


class Hyperparameters(NamedTuple):
    """Every number of the optimiser but the schedule; each may be traced."""

    lr: ArrayLike
    beta1: ArrayLike
    beta2: ArrayLike
    eps: ArrayLike
    momentum: ArrayLike
    clip: ArrayLike
    weight_decay: ArrayLike
    multipliers: PyTree
    """Learning rate of each parameter / `lr`, shaped as the parameters."""
    decay_multipliers: PyTree
    """Weight decay of each parameter / `weight_decay`, shaped as the parameters."""
    eps_multipliers: PyTree | None
    """ε of each parameter / `eps`, shaped as the parameters; None where all are 1."""
    skip_spikes: ArrayLike | None
    """How many times the usual gradient norm is too much (see `spikes.py`); None where every step is taken."""


def hyperparameters(config: TrainingConfig, *, groups: PyTree, size: Size) -> Hyperparameters:
    """The numbers of a config, as float32, for parameters of the given parametrization groups."""
    of_each = jax.tree.map(lambda group: _multipliers(config, group, size), groups)

    def tree(of: Callable[[Multipliers], float]) -> PyTree:
        return jax.tree.map(of, of_each, is_leaf=lambda x: isinstance(x, Multipliers))

    eps = tree(lambda m: m.eps)
    return jax.tree.map(
        np.float32,
        Hyperparameters(
            lr=config.lr,
            beta1=config.beta1,
            beta2=config.beta2,
            eps=config.eps,
            momentum=config.momentum,
            clip=config.clip,
            weight_decay=config.weight_decay,
            multipliers=tree(lambda m: m.lr),
            decay_multipliers=tree(lambda m: m.decay),
            eps_multipliers=None if set(jax.tree.leaves(eps)) == {1.0} else eps,
            skip_spikes=config.skip_spikes,
        ),
    )


def _multipliers(config: TrainingConfig, group: Group, size: Size) -> Multipliers:
    found = multipliers(group, config.parametrization, size)
    if not orthogonalised(config.optimizer, group):
        return found
    # An Adam update sums over the width coherently, so that its effect grows with the width; an orthogonal matrix
    # of the same entries only grows with its root (Yang et al. 2023, "A spectral condition for feature learning").
    return found._replace(lr=math.sqrt(found.lr))


def orthogonalised(name: str, group: Group) -> bool:
    """Whether an optimiser's updates of a group are orthogonal matrices: Muon's, inside the blocks.

    Embedding and head are matrices by their shape alone: each token has a row of its own (Jordan et al. 2024).
    """
    return name == "muon" and group in ("hidden", "output", "mixed")


def optimizer(
    name: OptimizerName | Function, groups: PyTree, h: Hyperparameters, unit_schedule: ArrayLike
) -> optax.GradientTransformation:
    """An optimiser whose weight decay is independent of the learning rate (Loshchilov & Hutter 2019, algorithm 2); or
    one of one's own, after the clipping (see `_own`).

    It decays every weight that its parametrization does not exempt, embeddings and the scales of norms too.

    Args:
        groups: the parametrization group of each parameter, shaped as the parameters.
        unit_schedule: learning rate of this step / the peak; may be traced.
    """
    if isinstance(name, Function):
        return optax.chain(optax.clip_by_global_norm(h.clip), _own(name, h, unit_schedule))
    # Adam sees a gradient and ε in ratio: to divide the one is to multiply the other; Muon sees no scale at all. A
    # division by 1 is left out, for it would change how XLA fuses what follows, and so the last bit of every run.
    eps = h.eps_multipliers
    scaled = optax.stateless(lambda updates, _: jax.tree.map(jnp.divide, updates, eps))
    return optax.chain(
        optax.clip_by_global_norm(h.clip),
        *([] if eps is None else [scaled]),
        _direction(name, groups, h),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, h.multipliers)),
        optax.scale(h.lr),
        optax.stateless(
            lambda updates, params: jax.tree.map(
                lambda u, p, m: u + h.weight_decay * m * p, updates, params, h.decay_multipliers
            )
        ),
        optax.scale_by_learning_rate(unit_schedule),
    )


def taken_by(make: Function) -> Sequence[str]:
    """Of the numbers that an optimiser of one's own is offered beside the learning rate, those that it takes.

    Raises:
        InputError: it takes no learning rate.
    """
    taken = inspect.signature(load(make, "training.optimizer")).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in taken):
        return _OFFERED
    names = [p.name for p in taken]
    if not names or names[0] in _OFFERED:
        raise InputError(f"training.optimizer: {make.target} takes no learning rate; let that be its first argument")
    return [name for name in _OFFERED if name in names]


def _own(make: Function, h: Hyperparameters, unit_schedule: ArrayLike) -> optax.GradientTransformation:
    """What a function of one's own returns for this step's learning rate and, of the optimiser's other numbers, those
    that it takes by name: all may be traced. Its updates are added to the weights as they are.

    Raises:
        InputError: it takes no learning rate, fails, or returns no optax transformation.
    """
    what, function, taken = f"training.optimizer: {make.target}", load(make, "training.optimizer"), taken_by(make)
    offered = {name: getattr(h, name) for name in _OFFERED if name in taken}
    called = f"the learning rate, and of {', '.join(_OFFERED)} those that it takes, to return an optax transformation"
    check_call(function, what, called, h.lr, **offered)
    try:
        found = function(jnp.multiply(h.lr, unit_schedule), **offered)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} fails: {describe_error(error)}") from error
    if not (callable(getattr(found, "init", None)) and callable(getattr(found, "update", None))):
        raise InputError(f"{what} returns a {type(found).__name__}; return an optax.GradientTransformation")
    transformation: optax.GradientTransformation = found

    def init(params: PyTree) -> PyTree:
        try:
            return transformation.init(params)
        except Exception as error:
            raise InputError(f"{what}: its init fails: {describe_error(error)}") from error

    def update(gradient: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        try:
            updates, after = transformation.update(gradient, state, params)
            misfit = jax.tree.map(jnp.shape, updates) != jax.tree.map(jnp.shape, gradient)
        except Exception as error:
            raise InputError(f"{what}: its update fails: {describe_error(error)}") from error
        if misfit:
            raise InputError(f"{what}: its updates are not shaped as the weights; give one of each")
        if _shapes(after) != _shapes(state):
            raise InputError(f"{what}: its update changes the shapes of its state; give a state like that of init")
        return updates, after

    return optax.GradientTransformation(init, update)


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def _direction(name: OptimizerName, groups: PyTree, h: Hyperparameters) -> optax.GradientTransformation:
    """Where a step goes, at a rate of one.

    `adamw` is Kingma & Ba 2015. `muon` (Jordan et al. 2024) replaces the momentum of a matrix by the nearest
    orthogonal one, scaled to entries as large as Adam's, so that one rate and decay serve all groups. `sgd` is heavy
    ball momentum (Polyak 1964).
    """
    if name == "sgd":
        return optax.trace(h.momentum)
    adam = optax.scale_by_adam(h.beta1, h.beta2, h.eps)
    if name == "adamw":
        return adam

    def dimensions(updates: PyTree) -> PyTree:
        # Of experts, each has a matrix of its own: the last two axes.
        return jax.tree.map(lambda matrix: MuonDimensionNumbers(matrix.ndim - 2, matrix.ndim - 1), updates)

    def as_large_as_adams(updates: PyTree) -> PyTree:
        return jax.tree.map(lambda matrix: _ADAM_RMS * math.sqrt(max(matrix.shape[-2:])) * matrix, updates)

    muon = optax.chain(
        scale_by_muon(beta=h.momentum, weight_dimension_numbers=dimensions),
        optax.stateless(lambda updates, _: as_large_as_adams(updates)),
    )
    labels = jax.tree.map(lambda group: "muon" if orthogonalised(name, group) else "adam", groups)
    return optax.partition({"muon": muon, "adam": adam}, labels)


def unit_schedule(config: TrainingConfig, steps: np.ndarray) -> np.ndarray:
    """Learning rate / peak at each of `steps` (counted from 0): warm-up, then the schedule's own course.

    `linear` and `cosine` fall to `final_lr` over the whole run (Loshchilov & Hutter 2017); `wsd` stays at the
    peak and falls over its last `cooldown` share (Hu et al. 2024), linearly or as 1 - √x, x the share of the
    cooldown that is over (Hägele et al. 2024, sec. 3.2); `constant` stays.

    Returns:
        float32, as many as `steps`.
    """
    total = config.steps
    # The first step after warm-up is at the peak, and the last step of all is one short of `final_lr`.
    warmup_steps = config.warmup_steps
    warmup = (steps + 1) / (warmup_steps + 1)
    progress = np.clip((steps - warmup_steps) / max(total - warmup_steps, 1), 0, 1)
    if config.schedule == "cosine":
        shape = (1 + np.cos(np.pi * progress)) / 2
    elif config.schedule == "linear":
        shape = 1 - progress
    elif config.schedule == "wsd":
        shape = np.clip((total - steps) / config.cooldown_steps, 0, 1)
        if config.cooldown_shape == "1-sqrt":
            shape = 1 - np.sqrt(1 - shape)
    else:
        shape = np.ones(len(steps))
    course = config.final_lr + (1 - config.final_lr) * shape
    return np.where(steps < warmup_steps, warmup, course).astype(np.float32)
