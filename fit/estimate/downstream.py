"""Downstream accuracy: a law forecasts the loss on a task, and a sigmoid the accuracy at that loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from nextscale.fit.estimate.fit import Fit
from nextscale.fit.intervals import interval_around
from nextscale.fit.laws.formula import Formula
from nextscale.fit.laws.law import Shape


def _sigmoid(task_loss: Any, floor: Any, gain: Any, slope: Any, middle: Any) -> Any:
    import jax.numpy as jnp

    return floor + gain / (1 + jnp.exp(slope * (task_loss - middle)))


SIGMOID = Formula.of(
    _sigmoid,
    "sigmoid",
    "accuracy = floor + gain/(1 + exp(slope*(task_loss - middle)))",
    "Bhagia et al. 2024 (OLMo ladder), eq. 3",
    coefficients=("floor", "gain"),
    shapes={"slope": Shape(0.1, 50, positive=True), "middle": Shape(0.1, 10)},
)
"""Accuracy by the loss on the task; fitted like a law, the accuracy in the column `loss`."""


def accuracy(loss: Fit, task: Fit, **at: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy in two steps, with the uncertainty of both (Bhagia et al. 2024).

    Args:
        loss: a law of the loss on the task.
        task: `SIGMOID` fitted to accuracies.
        at: where, as for `Fit.predict`: params, tokens, ...

    Returns:
        accuracy, and its prediction interval at the level of `loss`: low and high, n each.
    """
    expected = task.predict(task_loss=loss.predict(**at))
    draws = loss.predictive(**at)
    again = task.resamples[np.random.default_rng(1).integers(len(task.resamples), size=len(draws))]
    accuracies = np.stack([task.losses(theta[None], task_loss=row)[0] for theta, row in zip(again, draws, strict=True)])
    scatter = np.random.default_rng(2).choice(task.residuals - np.median(task.residuals), accuracies.shape)
    return expected, *interval_around(expected, accuracies * np.exp(scatter), loss.level)
