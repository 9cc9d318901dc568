"""Loss functions of a fit: Huber, squared, absolute (L1) and asymmetric."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nextscale.fit.errors import InputError

_L1_DELTA = 1e-8
"""Small against any residual: Huber's loss is then the absolute value, still smooth at zero."""


class _Huber:
    """The formulas, of one loss or of several side by side."""

    delta: Any
    tilt: Any
    scale: Any

    def __call__(self, residual: np.ndarray) -> np.ndarray:
        size = np.abs(residual)
        near = np.minimum(size, self.delta)
        return np.asarray(self._side(residual) * (near * (size - near / 2)))

    def pull(self, residual: np.ndarray) -> np.ndarray:
        """The first derivative."""
        return np.asarray(self._side(residual) * np.clip(residual, -self.delta, self.delta))

    def stiffness(self, residual: np.ndarray) -> np.ndarray:
        """The second derivative."""
        return np.asarray(self._side(residual) * (np.abs(residual) <= self.delta))

    def weight(self, residual: np.ndarray) -> np.ndarray:
        """`pull / residual`: of the parabola through zero that touches the loss here, for reweighted least squares."""
        return np.asarray(self._side(residual) * np.minimum(1, self.delta / np.maximum(np.abs(residual), 1e-300)))

    def _side(self, residual: np.ndarray) -> Any:
        if np.all(self.tilt == 0.5):
            return self.scale
        return self.scale * 2 * np.where(residual < 0, self.tilt, 1 - self.tilt)


@dataclasses.dataclass(frozen=True)
class Loss(_Huber):
    """Huber's loss of r = log predicted - log measured (Huber 1964): r²/2 within delta, delta·(|r| - delta/2) beyond.

    Attributes:
        delta: infinity for squared loss.
        tilt: share of the weight on runs above the law; .5 treats both sides alike, more leans towards the upper runs.
        scale: of the sum.
        name: what a user calls it.
    """

    delta: float = 1e-3
    tilt: float = 0.5
    scale: float = 1.0
    name: str = "huber"

    @classmethod
    def of(cls, name: str, delta: float = 1e-3, tilt: float = 0.9) -> Loss:
        """`huber`, `l1` (sum of |r|), `squared` (sum of r²/2) or `asymmetric` (Huber with a tilt).

        Raises:
            InputError: none of these, or delta or tilt out of range.
        """
        if not delta > 0:
            raise InputError(f"delta: should be greater than 0, not {delta}")
        if not 0 < tilt < 1:
            raise InputError(f"tilt: should lie between 0 and 1, not {tilt}")
        known = {
            "huber": cls(delta),
            "l1": cls(_L1_DELTA, scale=1 / _L1_DELTA, name="l1"),
            "squared": cls(np.inf, name="squared"),
            "asymmetric": cls(delta, tilt, name="asymmetric"),
        }
        if name not in known:
            raise InputError(f"loss: '{name}' is not one of {', '.join(known)}")
        return known[name]

    def __str__(self) -> str:
        return f"{self.name}, delta {self.delta:g}" if self.name in ("huber", "asymmetric") else self.name

    def rows(self, rows: np.ndarray) -> Loss:
        """Of every row it is the same; see `Losses`."""
        return self

    def wider(self, times: float) -> Loss:
        """With a delta so many times as large, whatever its scale."""
        return dataclasses.replace(self, delta=self.delta * times, scale=1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Losses(_Huber):
    """One loss for each row of residuals: all S x 1."""

    delta: np.ndarray
    tilt: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, each: Sequence[Loss]) -> Losses:
        return cls(*(np.array([[getattr(loss, f.name)] for loss in each], float) for f in dataclasses.fields(cls)))

    def rows(self, rows: np.ndarray) -> Losses:
        """Those of some rows."""
        return Losses(self.delta[rows], self.tilt[rows], self.scale[rows])

    def wider(self, times: float) -> Losses:
        """With deltas so many times as large, whatever their scales."""
        return Losses(self.delta * times, self.tilt, np.ones_like(self.scale))
