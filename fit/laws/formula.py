"""`Formula`: a scaling law given as a Python function of its variables and parameters, differentiated by JAX."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.laws.law import Expansion, Law, Problem, Shape
from nextscale.fit.laws.loss import Loss

_FEW, _BATCH = 16, 128
"""Parameter vectors at once: more are done in turns, fewer are padded to one of these, so that little compiles."""
_SEVERAL_RUNS, _MANY_RUNS, _FEWEST = 64, 300, 2
"""Of several runs, code that takes long to compile is worth it, up to tenfold in speed; of many, a further size is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Formula(Law):
    """A law as a function, called with arrays by name; written with operators and, where needed, `jax.numpy`."""

    function: Callable[..., Any]

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        name: str,
        formula: str,
        source: str,
        *,
        coefficients: tuple[str, ...] = (),
        log_linear: tuple[str, ...] = (),
        shapes: Mapping[str, Shape | tuple[float, float]] | None = None,
    ) -> Formula:
        """A law from a function whose arguments are its variables and parameters.

        Args:
            function: the loss, from keyword arguments; those that are not parameters are variables.
            coefficients: parameters > 0 in which it is linear.
            log_linear: parameters in which its logarithm is linear.
            shapes: the others, each with its plausible range.

        Raises:
            InputError: a parameter is no argument of the function, or it has both linear and log-linear ones.
        """
        arguments = tuple(inspect.signature(function).parameters)
        ranges = {k: v if isinstance(v, Shape) else Shape(*v) for k, v in (shapes or {}).items()}
        parameters = (*coefficients, *log_linear, *ranges)
        if unknown := [p for p in parameters if p not in arguments]:
            raise InputError(f"law {name}: {', '.join(unknown)} is no argument of its function")
        if coefficients and log_linear:
            raise InputError(
                f"law {name}: has linear and log-linear parameters; name one kind and give the rest a range"
            )
        return cls(
            name=name,
            formula=formula,
            source=source,
            variables=tuple(a for a in arguments if a not in parameters),
            coefficients=coefficients,
            log_linear=log_linear,
            shapes=ranges,
            function=function,
        )

    def log_losses(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        return _batched(_compiled(self).values, np.asarray(theta, float), _float64(self, variables))

    def log_losses_each(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        at = _float64(self, variables)

        def values(theta: np.ndarray, _: None, *rows: np.ndarray) -> Any:
            return _compiled(self).values_each(theta, dict(zip(at, rows, strict=True)))

        return _batched(values, np.asarray(theta, float), None, *at.values())

    def problem(
        self, variables: Mapping[str, np.ndarray], losses: np.ndarray, loss: Loss, fixed: Mapping[str, float]
    ) -> FormulaProblem:
        return FormulaProblem(self, np.log(losses), loss, fixed, _float64(self, variables))


@dataclasses.dataclass(frozen=True)
class FormulaProblem(Problem):
    """A formula on n runs.

    Attributes:
        variables: n values of each.
    """

    law: Formula
    variables: Mapping[str, np.ndarray]

    @property
    def at_once(self) -> int:
        """As many as are not padded."""
        return _FEW

    def values(self, theta: np.ndarray) -> np.ndarray:
        return _batched(_compiled(self.law).values, theta, self.variables)

    def expand(self, theta: np.ndarray) -> Expansion:
        both = _batched(_compiled(self.law).expansions, theta, self.variables)
        return Expansion(both[..., -1], both[..., :-1].transpose(0, 2, 1))

    def hessian(self, theta: np.ndarray, at: Expansion, pull: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
        outer = np.matmul(at.slope * stiffness[:, None], at.slope.transpose(0, 2, 1))
        return outer + _batched(_compiled(self.law).curvatures, theta, self.variables, pull)

    def basis(self, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        linear = len(self.law.coefficients) + len(self.law.log_linear)
        theta = np.zeros((len(shapes), len(self.law.parameters)))
        theta[:, linear:] = shapes
        if self.law.log_linear:
            zero = self.values(theta)
            columns = []
            for k in range(linear):
                theta[:, :linear] = np.eye(linear)[k]
                columns.append(self.values(theta) - zero)
            return np.stack(columns, axis=1) if columns else np.zeros((len(zero), 0, zero.shape[1])), zero
        at = functools.partial(_batched, _compiled(self.law).losses)
        parameters = self.law.natural(theta)
        parameters[:, :linear] = 0
        relative = np.exp(-self.target)
        zero = at(parameters, self.variables) * relative
        columns = []
        for k in range(linear):
            parameters[:, :linear] = np.eye(linear)[k]
            columns.append(at(parameters, self.variables) * relative - zero)
        return np.stack(columns, axis=1) if columns else np.zeros((len(zero), 0, zero.shape[1])), zero


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """Of S parameter vectors: losses (natural parameters) and log L (theta), S x n; its slopes and then itself,
    S x n x (P + 1); the Hessian of Σ pull · log L, S x P x P."""

    losses: Callable[..., Any]
    values: Callable[..., Any]
    values_each: Callable[..., Any]
    expansions: Callable[..., Any]
    curvatures: Callable[..., Any]


@functools.cache
def _compiled(law: Formula) -> _Compiled:
    import jax
    import jax.numpy as jnp

    names, on_log_scale = law.parameters, law.on_log_scale

    def losses(parameters: Any, variables: Mapping[str, Any]) -> Any:
        given = dict(zip(names, parameters, strict=True))
        return jnp.broadcast_to(law.function(**variables, **given), next(iter(variables.values())).shape)

    def value(theta: Any, variables: Mapping[str, Any]) -> Any:
        return jnp.log(losses(jnp.where(on_log_scale, jnp.exp(jnp.where(on_log_scale, theta, 0)), theta), variables))

    def expansion(theta: Any, variables: Mapping[str, Any]) -> Any:
        slopes, at = jax.jacfwd(lambda theta: (value(theta, variables),) * 2, has_aux=True)(theta)
        return jnp.concatenate([slopes, at[:, None]], axis=1)

    def pulled(theta: Any, variables: Mapping[str, Any], pull: Any) -> Any:
        return jnp.sum(pull * value(theta, variables))

    def compiled(function: Callable[..., Any], *axes: int | None) -> Callable[..., Any]:
        batched = jax.vmap(function, in_axes=axes)
        # For a few parameter vectors compiling takes longer than running what it would speed up.
        few = jax.jit(batched, compiler_options={"xla_backend_optimization_level": 0})
        many = jax.jit(batched, compiler_options={"xla_backend_optimization_level": 2})

        def run(theta: Any, *others: Any) -> Any:
            return (few if len(theta) <= _FEW and _runs(*others) < _SEVERAL_RUNS else many)(theta, *others)

        return run

    return _Compiled(
        losses=compiled(losses, 0, None),
        values=compiled(value, 0, None),
        values_each=compiled(value, 0, 0),
        expansions=compiled(expansion, 0, None),
        curvatures=compiled(jax.hessian(pulled), 0, None, 0),
    )


def _float64(law: Law, variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(variables[name], float) for name in law.variables}


def _batched(function: Callable[..., Any], theta: np.ndarray, variables: Any, *others: np.ndarray) -> np.ndarray:
    parts = []
    sizes = (_FEWEST, _FEW, _BATCH) if _runs(variables, *others) >= _MANY_RUNS else (_FEW, _BATCH)
    with _double_precision_on_the_cpu():
        for start in range(0, len(theta), _BATCH):
            arrays = [array[start : start + _BATCH] for array in (theta, *others)]
            count = len(arrays[0])
            size = next(size for size in sizes if count <= size)
            padded = [_padded(array, size) for array in arrays]
            with np.errstate(all="ignore"):
                parts.append(np.array(function(padded[0], variables, *padded[1:]))[:count])
    return np.concatenate(parts)


def _runs(variables: Mapping[str, np.ndarray] | None, *others: np.ndarray) -> int:
    """How many there are."""
    return int(next(iter((variables or {}).values()), *others[:1]).shape[-1])


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


@contextlib.contextmanager
def _double_precision_on_the_cpu() -> Iterator[None]:
    import jax

    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield
