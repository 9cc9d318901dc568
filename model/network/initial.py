"""First weights of the scales that a recipe states."""

from __future__ import annotations

import zlib
from typing import Any

import jax

from nextscale.model.config.initial import Initial
from nextscale.model.errors import InputError

PyTree = Any


def rescaled(init: Initial, params: PyTree, groups: PyTree, depth: int | None, key: jax.Array) -> PyTree:
    """The same weights, with the matrices of the groups that `init` names drawn anew: normal, of its standard
    deviations.

    Raises:
        InputError: a scale follows from a depth, and there is none.
    """

    def drawn(path: tuple[Any, ...], weight: jax.Array, group: Any) -> jax.Array:
        if weight.ndim < 2:
            return weight
        try:
            std = init.std(group, weight.shape[-2], depth)
        except ValueError as error:
            raise InputError(str(error)) from None
        if std is None:
            return weight
        of_its_own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        return std * jax.random.normal(of_its_own, weight.shape, weight.dtype)

    return jax.tree_util.tree_map_with_path(drawn, params, groups)
