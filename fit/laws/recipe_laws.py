"""Laws of how a model is trained beside its size and data: learning rate and batch, a teacher, a mixture of domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nextscale.fit.errors import InputError
from nextscale.fit.laws.formula import Formula
from nextscale.fit.laws.law import EXPONENT, Shape

REFERENCE_SIZE, REFERENCE_TOKENS = 1e8, 1e10
"""The N and D at which the coefficients of `lr-batch` and its optimum are stated."""


def _lr_batch(
    N: Any, D: Any, lr: Any, batch: Any, E: Any, A: Any, B: Any, alpha: Any, beta: Any,
    lr_opt: Any, lr_n: Any, lr_d: Any, lr_batch: Any, lr_curve: Any, batch_opt: Any, batch_d: Any, batch_curve: Any,
) -> Any:  # fmt: skip
    import jax.numpy as jnp

    n, d = jnp.log(N / REFERENCE_SIZE), jnp.log(D / REFERENCE_TOKENS)
    off_batch = jnp.log(batch / batch_opt) - batch_d * d
    off_lr = jnp.log(lr / lr_opt) - lr_n * n - lr_d * d - lr_batch * off_batch
    # Limited, or starts of a search that lie far off would be no numbers.
    lost = jnp.minimum(lr_curve * off_lr**2 + batch_curve * off_batch**2, 40.0)
    return E + A * jnp.exp(-alpha * n) + B * jnp.exp(-beta * (d - lost))


LR_BATCH = Formula.of(
    _lr_batch,
    "lr-batch",
    "L = E + A/n^alpha + B/d'^beta, d' = d exp(-lr_curve u^2 - batch_curve v^2), n = N/1e8, d = D/1e10, "
    "v = log(batch/(batch_opt d^batch_d)), u = log(lr/(lr_opt n^lr_n d^lr_d)) - lr_batch v",
    # Off the optimum a run does as one on fewer tokens would: so the same step costs less loss where there are more of
    # them, as is measured (Filatov et al. 2024, arXiv 2410.05838). lr_opt is the best rate at the best batch;
    # at another it goes with the power lr_batch of that. Any unit of the batch will do: batch_opt is in the same.
    "Li et al. 2025 (arXiv 2503.04715), of the optimum; this project, of the loss around it",
    coefficients=("E", "A", "B"),
    shapes={
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "lr_opt": Shape(1e-4, 3e-2, positive=True),
        "lr_n": Shape(-1.0, 0.2),
        "lr_d": Shape(-0.3, 0.6),
        "lr_batch": Shape(0.0, 1.0),
        "lr_curve": Shape(0.02, 1.0, positive=True),
        "batch_opt": Shape(8.0, 8e6, positive=True),
        "batch_d": Shape(0.0, 1.0),
        "batch_curve": Shape(0.02, 1.0, positive=True),
    },
)


def _distillation(
    N: Any, D: Any, teacher_loss: Any, supervised_loss: Any,
    A: Any, B: Any, alpha: Any, beta: Any, gamma: Any, c_0: Any, c_1: Any, d_1: Any, f_1: Any,
) -> Any:  # fmt: skip
    import jax.numpy as jnp

    lag = jnp.log1p((teacher_loss / (d_1 * supervised_loss)) ** (1 / f_1))
    own = ((A / N**alpha) ** (1 / gamma) + (B / D**beta) ** (1 / gamma)) ** gamma
    return teacher_loss + teacher_loss**-c_0 * jnp.exp(-c_1 * f_1 * lag) * own


DISTILLATION = Formula.of(
    _distillation,
    "distillation",
    "L = T + T^-c_0 (1 + (T/(d_1 S))^(1/f_1))^(-c_1 f_1) ((A/N^alpha)^(1/gamma) + (B/D^beta)^(1/gamma))^gamma, "
    "T = teacher_loss, S = supervised_loss",
    # Of a student of N parameters that saw D tokens; S is what it would reach on these without a teacher. Their
    # (A/N^p + B/D^q)^gamma is written by its limits, as in chinchilla-coupled: alpha = p gamma, and so on.
    "Busbridge et al. 2025 (arXiv 2502.08606), eq. 8",
    coefficients=("A", "B"),
    shapes={
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "gamma": Shape(0.1, 2.0, positive=True),
        "c_0": Shape(0.0, 6.0),
        "c_1": Shape(0.5, 1000.0, positive=True),
        "d_1": Shape(0.5, 3.0, positive=True),
        "f_1": Shape(0.02, 1.0, positive=True),
    },
)


def mixture_law(domains: Sequence[str], variables: Sequence[str] = ("N", "D")) -> Formula:
    """The loss by the proportions of domains in the training data, beside size and tokens.

    Args:
        domains: the columns of the proportions, two or more.
        variables: which of N and D vary too.

    Raises:
        InputError: fewer than two domains, one twice, or one named as another variable.
    """
    names = [*variables, *domains]
    if len(domains) < 2 or len(set(names)) < len(names):
        raise InputError(f"domains: two or more of different names are needed; got {', '.join(domains) or 'none'}")
    terms = {"N": ("A", "alpha"), "D": ("B", "beta")}
    scale = {variable: terms[variable] for variable in variables}
    rates = {domain: (f"C[{domain}]", f"gamma[{domain}]") for domain in domains}

    def function(**given: Any) -> Any:
        import jax.numpy as jnp

        learnt: Any = 0.0
        for domain, (rate, exponent) in rates.items():
            share = given[domain]
            # Where there is none of a domain its power has no slope: so has that of the log of anything else.
            logs = jnp.log(jnp.where(share > 0, share, 1.0))
            learnt += jnp.where(share > 0, given[rate] * jnp.exp(given[exponent] * logs), 0.0)
        return given["E"] + 1 / learnt + sum(given[k] / given[v] ** given[power] for v, (k, power) in scale.items())

    tail = "".join(f" + {k}/{v}^{power}" for v, (k, power) in scale.items())
    return Formula(
        name="mixture",
        formula=f"L = E + 1/sum_i C_i h_i^gamma_i{tail}",
        source="Shukor et al. 2025 (arXiv 2507.09404), the additive law",
        variables=(*variables, *domains),
        coefficients=("E", *(k for k, _ in scale.values())),
        log_linear=(),
        shapes={
            **{power: EXPONENT for _, power in scale.values()},
            **{rate: Shape(0.05, 20.0, positive=True) for rate, _ in rates.values()},
            **{exponent: Shape(0.02, 2.0, positive=True) for _, exponent in rates.values()},
        },
        function=function,
    )
