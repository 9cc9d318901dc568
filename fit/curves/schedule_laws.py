"""Laws of the training curve under a learning-rate schedule: fitted on one schedule, they forecast another."""

from __future__ import annotations

from typing import Any

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.laws.formula import Formula
from nextscale.fit.laws.law import EXPONENT, Shape

_SEGMENTS = 256
"""Falls of the learning rate are gathered into so many at most."""


def annealing(schedule: np.ndarray, *, decay: float = 0.999) -> Formula:
    """L(step) = E + A·S1^(-alpha) - C·S2 (Tissue et al. 2024, eq. 1), in the variable `step`.

    S1 is the sum of the learning rates so far; S2 that of the momentum of its falls,
    Σ_i Σ_(k≤i) (η_(k-1) - η_k)·decay^(i-k).

    Args:
        schedule: the learning rate of every step.
        decay: λ of the paper, how long a fall is felt.

    Raises:
        InputError: the schedule is not one of positive rates.
    """
    rates = _checked(schedule)
    area = np.cumsum(rates)
    falls = -np.diff(rates, prepend=rates[0])
    falls[: rates.argmax() + 1] = 0  # the paper's curves begin after warm-up
    momentum, felt = np.empty_like(rates), 0.0
    for i, fall in enumerate(falls):
        felt = felt * decay + fall
        momentum[i] = felt
    annealed = np.cumsum(momentum)

    def law(step: Any, E: Any, A: Any, C: Any, alpha: Any) -> Any:
        import jax.numpy as jnp

        at = _index(step, len(rates))
        return E + A * jnp.asarray(area)[at] ** -alpha - C * jnp.asarray(annealed)[at]

    return Formula.of(
        law,
        "annealing",
        "L = E + A/S1^alpha - C*S2",
        "Tissue et al. 2024, eq. 1",
        coefficients=("E", "A", "C"),
        shapes={"alpha": EXPONENT},
    )


def multi_power(schedule: np.ndarray) -> Formula:
    """L(step) = E + A·S1^(-alpha) - B·Σ_k (η_(k-1) - η_k)·(1 - (1 + C·η_k^(-gamma)·S_k)^(-beta)), in `step`.

    S1 is the sum of the learning rates so far, S_k that since step k (Luo et al. 2025, "A Multi-Power Law for Loss
    Curve Prediction Across Learning Rate Schedules", eq. 6; warm-up is part of the schedule here).

    Args:
        schedule: the learning rate of every step.

    Raises:
        InputError: the schedule is not one of positive rates.
    """
    rates = _checked(schedule)
    area = np.cumsum(rates)
    edges = np.unique(np.linspace(0, len(rates) - 1, min(len(rates), _SEGMENTS + 1)).astype(int))
    # A rising rate, warm-up, takes nothing off the loss.
    falls = np.maximum(rates[edges[:-1]] - rates[edges[1:]], 0)
    ends = edges[1:][falls > 0]
    falls = falls[falls > 0]

    def law(step: Any, E: Any, A: Any, B: Any, C: Any, alpha: Any, beta: Any, gamma: Any) -> Any:
        import jax.numpy as jnp

        at = _index(step, len(rates))
        base = E + A * jnp.asarray(area)[at] ** -alpha
        since = jnp.maximum(jnp.asarray(area)[at][:, None] - area[ends - 1], 0)
        felt = 1 - (1 + C * rates[ends] ** -gamma * since) ** -beta
        return base - B * jnp.sum(jnp.where(since > 0, falls * felt, 0), axis=1)

    return Formula.of(
        law,
        "multi-power",
        "L = E + A/S1^alpha - B*sum_k (eta_(k-1) - eta_k)*(1 - (1 + C*S_k/eta_k^gamma)^-beta)",
        "Luo et al. 2025, eq. 6",
        coefficients=("E", "A", "B"),
        shapes={
            "C": Shape(0.01, 100, positive=True),
            "alpha": EXPONENT,
            "beta": Shape(0.05, 2, positive=True),
            "gamma": Shape(0.05, 1.5),
        },
    )


def _index(step: Any, length: int) -> Any:
    """Rows of the schedule: step 1 is its first."""
    import jax.numpy as jnp

    return jnp.clip(step.astype(int) - 1, 0, length - 1)


def _checked(schedule: np.ndarray) -> np.ndarray:
    rates = np.asarray(schedule, float)
    if rates.ndim != 1 or len(rates) < 2 or not (np.isfinite(rates) & (rates > 0)).all():
        raise InputError("schedule: should be the learning rate of each of two or more steps, all greater than 0")
    return rates
