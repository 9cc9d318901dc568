"""The shipped laws that are no sums of powers, each as a Python function.

Where a law is linear in no parameter but nearly so in some, those are named as coefficients all the same: they only
start the search, and what ends it is the law itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from nextscale.fit.laws.formula import Formula
from nextscale.fit.laws.law import EXPONENT, Shape


def _kaplan_coupled(N: Any, D: Any, A: Any, B: Any, alpha: Any, beta: Any) -> Any:
    return ((A / N**alpha) ** (1 / beta) + (B / D**beta) ** (1 / beta)) ** beta


KAPLAN_COUPLED = Formula.of(
    _kaplan_coupled,
    "kaplan-coupled",
    "L = ((A/N^alpha)^(1/beta) + (B/D^beta)^(1/beta))^beta",
    # [(Nc/N)^(aN/aD) + Dc/D]^aD, written by L(N) and L(D), its limits: A = Nc^aN, B = Dc^aD.
    "Kaplan et al. 2020, eq. 1.5",
    coefficients=("A", "B"),
    shapes={"alpha": EXPONENT, "beta": EXPONENT},
)


def _chinchilla_coupled(N: Any, D: Any, E: Any, A: Any, B: Any, alpha: Any, beta: Any, gamma: Any) -> Any:
    return E + ((A / N**alpha) ** (1 / gamma) + (B / D**beta) ** (1 / gamma)) ** gamma


CHINCHILLA_COUPLED = Formula.of(
    _chinchilla_coupled,
    "chinchilla-coupled",
    "L = E + ((A/N^alpha)^(1/gamma) + (B/D^beta)^(1/gamma))^gamma",
    # Their E + (a/N^p + b/D^q)^gamma, written by its limits: A = a^gamma, alpha = p gamma; gamma = 1 is chinchilla.
    "Busbridge et al. 2025 (arXiv 2502.08606), the supervised law",
    coefficients=("E", "A", "B"),
    shapes={"alpha": EXPONENT, "beta": EXPONENT, "gamma": Shape(0.1, 2.0, positive=True)},
)


def _data_constrained(N: Any, D: Any, U: Any, E: Any, A: Any, B: Any, alpha: Any, R_N: Any, R_D: Any) -> Any:
    import jax.numpy as jnp

    # Compute-optimal for U tokens under C = 6ND. With A or B at zero, as starts have it, either extreme will do.
    U_N = jnp.clip((A / jnp.maximum(B, 1e-300)) ** (1 / alpha) * U, 1e-9 * N, N)
    return E + A / _repeated(N, U_N, R_N) ** alpha + B / _repeated(D, jnp.minimum(U, D), R_D) ** alpha


def _repeated(total: Any, unique: Any, R: Any) -> Any:
    """What a total is worth of which only a part is new: repeats lose worth at a rate of 1/R."""
    import jax.numpy as jnp

    return unique * (1 - R * jnp.expm1(-(total / unique - 1) / R))


DATA_CONSTRAINED = Formula.of(
    _data_constrained,
    "data-constrained",
    "L = E + A/N'^alpha + B/D'^alpha, D' = U + U R_D (1 - exp((1 - D/U)/R_D)), N' so with U_N = (A/B)^(1/alpha) U",
    # Staged: chinchilla-tied on the runs with D <= U, then this with its E, A, B and alpha fixed.
    "Muennighoff et al. 2023 (arXiv 2305.16264), sec. 3",
    coefficients=("E", "A", "B"),
    shapes={"alpha": EXPONENT, "R_N": Shape(0.5, 500.0, positive=True), "R_D": Shape(0.5, 500.0, positive=True)},
)

FARSEER_SIZE = 1e9
"""The N at which Farseer's E, A and beta are stated."""


def _farseer(N: Any, D: Any, E: Any, A: Any, beta: Any, e: Any, a: Any, b: Any, p: Any, q: Any, r: Any) -> Any:
    import jax.numpy as jnp

    exponent = beta * _stretched(N, b, r)
    return E * _stretched(N, e, p) + A * _stretched(N, a, q) * jnp.exp(-exponent * jnp.log(D))


def _stretched(N: Any, slope: Any, bend: Any) -> Any:
    """exp(-slope (n^bend - 1)/bend), n = N / `FARSEER_SIZE`: the power n^-slope, bent."""
    import jax.numpy as jnp

    bend = jnp.where(jnp.abs(bend) < 1e-9, 1e-9, bend)
    return jnp.exp(-slope * jnp.expm1(bend * jnp.log(N / FARSEER_SIZE)) / bend)


_BEND = Shape(-0.6, 0.6)

FARSEER = Formula.of(
    _farseer,
    "farseer",
    "L = E s(e, p) + A s(a, q) D^-(beta s(b, r)), s(k, m) = exp(-k (n^m - 1)/m), n = N/1e9",
    # Their exp(a3 N^g + b3) + exp(a2 N^h + b2) D^-exp(a1 N^f + b1), each factor written by its value and its slope at
    # one size, for the nine are too entangled otherwise: p = g, e = -a3 g 1e9^g, log E = a3 1e9^g + b3, and so on.
    "Li et al. 2025 (arXiv 2506.10972)",
    coefficients=("E", "A"),
    shapes={
        "beta": Shape(0.05, 1.5, positive=True),
        "e": Shape(-0.1, 0.4),
        "a": Shape(-1.0, 1.5),
        "b": Shape(-0.3, 0.4),
        "p": _BEND,
        "q": _BEND,
        "r": _BEND,
    },
)


def offset_in(variable: str) -> Formula:
    """A power law that levels off: M3 (M1 and M2 are `kaplan-c` and `saturating`), in the variable of your choice."""
    return _in_one_variable(
        variable,
        Formula.of(
            lambda x, K, alpha, x_end: K * (1 / x + 1 / x_end) ** alpha,
            "m3",
            "L = K (1/x + 1/x_end)^alpha",
            "Alabdulmohsin et al. 2022 (arXiv 2209.06640), M3; their gamma is 1/x_end",
            coefficients=("K",),
            shapes={"alpha": EXPONENT, "x_end": Shape(1e3, 1e30, positive=True)},
        ),
    )


def _sigmoidal(x: Any, E: Any, A: Any, alpha: Any, a: Any, L_0: Any) -> Any:
    import jax
    import jax.numpy as jnp

    # With L = E + (L_0 - E) sigmoid(z), the law is log sigmoid(z) - a log sigmoid(-z) = goal: the left side rises and
    # bends one way only, so Newton's method arrives from anywhere.
    goal = jnp.log(jnp.maximum(A, 1e-300)) - alpha * jnp.log(x) - jnp.log(L_0 - E)

    def newton(z: Any) -> Any:
        left = jax.nn.log_sigmoid(z) - a * jax.nn.log_sigmoid(-z)
        return z + (goal - left) / (jax.nn.sigmoid(-z) + a * jax.nn.sigmoid(z))

    z = jax.lax.fori_loop(0, 40, lambda _, z: newton(z), jnp.zeros_like(goal))
    # A step from the solution carries its first derivatives, a second step its second.
    return E + (L_0 - E) * jax.nn.sigmoid(newton(newton(jax.lax.stop_gradient(z))))


def sigmoidal_in(variable: str) -> Formula:
    """A power law between a worst and a best loss: M4, in the variable of your choice."""
    return _in_one_variable(
        variable,
        Formula.of(
            _sigmoidal,
            "m4",
            "(L - E) ((L_0 - E)/(L_0 - L))^a = A/x^alpha",
            # Their beta is A/(L_0 - E)^a: so written, A and E stay those of the saturating law while L is far from L_0.
            "Alabdulmohsin et al. 2022 (arXiv 2209.06640), M4",
            coefficients=("E", "A"),
            shapes={
                "alpha": EXPONENT,
                "a": Shape(0.1, 3.0, positive=True),
                "L_0": Shape(0.5, 30.0, positive=True),
            },
        ),
    )


def broken_in(variable: str) -> Formula:
    """A power law whose exponent changes once, in the variable of your choice."""
    return _in_one_variable(
        variable,
        Formula.of(
            lambda x, E, A, alpha, change, x_break, width: (
                E + A * x**-alpha * (1 + (x / x_break) ** (1 / width)) ** (-change * width)
            ),
            "broken",
            "L = E + A x^-alpha (1 + (x/x_break)^(1/width))^(-change width)",
            "Caballero et al. 2023 (arXiv 2210.14891), eq. 1, with one break",
            coefficients=("E", "A"),
            shapes={
                "alpha": Shape(-0.1, 1.5),
                "change": Shape(-1.0, 2.0),
                "x_break": Shape(1e3, 1e30, positive=True),
                "width": Shape(0.05, 2.0, positive=True),
            },
        ),
    )


def _in_one_variable(variable: str, law: Formula) -> Formula:
    """A law in x as the same law in N, D, C or another."""

    def function(**given: Any) -> Any:
        x = given.pop(variable)
        return law.function(x, **given)

    return dataclasses.replace(
        law,
        name=law.name if variable == "C" else f"{law.name}-{variable.lower()}",
        formula=f"{law.formula}, x = {variable}",
        variables=(variable,),
        function=function,
    )


OFFSET, SIGMOIDAL, BROKEN = offset_in("C"), sigmoidal_in("C"), broken_in("C")


def _moe_bilinear(N: Any, experts: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    import jax.numpy as jnp

    size, number = jnp.log10(N), jnp.log10(experts)
    return 10 ** (a * size + b * number + c * size * number + d)


MOE_BILINEAR = Formula.of(
    _moe_bilinear,
    "moe-bilinear",
    "log10 L = a log10 N + b log10 experts + c log10 N log10 experts + d",
    "Clark et al. 2022 (arXiv 2202.01169), eq. 1 without saturation",
    log_linear=("a", "b", "c", "d"),
)


def _moe_saturating(N: Any, experts: Any, a: Any, b: Any, c: Any, d: Any, experts_min: Any, experts_max: Any) -> Any:
    effective = 1 / (1 / (experts - 1 + 1 / (1 / experts_min - 1 / experts_max)) + 1 / experts_max)
    return _moe_bilinear(N, effective, a, b, c, d)


MOE_SATURATING = Formula.of(
    _moe_saturating,
    "moe-saturating",
    "moe-bilinear in experts', 1/experts' = 1/(experts - 1 + 1/(1/experts_min - 1/experts_max)) + 1/experts_max",
    "Clark et al. 2022 (arXiv 2202.01169), eq. 1",
    log_linear=("a", "b", "c", "d"),
    shapes={"experts_min": Shape(1.0, 10.0, positive=True), "experts_max": Shape(20.0, 4000.0, positive=True)},
)


def _moe_joint(
    N: Any, D: Any, experts: Any, E: Any, A: Any, B: Any, alpha: Any, beta: Any, a: Any, b: Any, c: Any, d: Any
) -> Any:
    import jax.numpy as jnp

    number = jnp.log(experts)
    size = A * jnp.exp(-a * number - (alpha - c * number) * jnp.log(N / MOE_SIZE))
    return E + size + B * jnp.exp(-b * number - (beta - d * number) * jnp.log(D / MOE_TOKENS))


MOE_SIZE, MOE_TOKENS = 1e8, 1e10
"""The active parameters and tokens at which the coefficients of the joint law are stated."""
_WITH_EXPERTS = Shape(-0.06, 0.06)

MOE_JOINT = Formula.of(
    _moe_joint,
    "moe-joint",
    "L = E + A experts^-a n^(-alpha + c log experts) + B experts^-b d^(-beta + d log experts), n = N/1e8, d = D/1e10",
    # N counts the active parameters. Their transformed count of experts is `experts` where there are few to hundreds;
    # stated at one size and length, for there the coefficients are known and far away they are not.
    "Ludziejewski et al. 2025 (arXiv 2502.05172)",
    coefficients=("E", "A", "B"),
    shapes={
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "a": Shape(-0.3, 0.6),
        "b": Shape(-0.6, 0.3),
        "c": _WITH_EXPERTS,
        "d": _WITH_EXPERTS,
    },
)


def _precision(N: Any, D: Any, bits: Any, E: Any, A: Any, B: Any, alpha: Any, beta: Any, gamma: Any) -> Any:
    import jax.numpy as jnp

    return E + A / (-N * jnp.expm1(-bits / gamma)) ** alpha + B / D**beta


PRECISION = Formula.of(
    _precision,
    "precision",
    "L = E + A/(N (1 - exp(-bits/gamma)))^alpha + B/D^beta",
    "Kumar et al. 2024 (arXiv 2411.04330), sec. 4, of the weights' bits",
    coefficients=("E", "A", "B"),
    shapes={"alpha": EXPONENT, "beta": EXPONENT, "gamma": Shape(0.3, 12.0, positive=True)},
)


def _parallel(N: Any, P: Any, E: Any, A: Any, alpha: Any, k: Any) -> Any:
    import jax.numpy as jnp

    return E + A / (N * (1 + k * jnp.log(P))) ** alpha


PARALLEL = Formula.of(
    _parallel,
    "parallel",
    "L = E + A/(N (1 + k log P))^alpha",
    # P parallel streams. Their A is this one's to the power of 1/alpha.
    "Chen et al. 2025 (ParScale, arXiv 2505.10475)",
    coefficients=("E", "A"),
    shapes={"alpha": EXPONENT, "k": Shape(0.01, 5.0, positive=True)},
)

CRITICAL_BATCH = Formula.of(
    lambda B, D_min, B_crit: D_min * (1 + B / B_crit),
    "critical-batch",
    "D = D_min (1 + B/B_crit)",
    # What is fitted is no loss but D, the tokens that a batch of B takes to a target loss: name its column as `loss`.
    "McCandlish et al. 2018 (arXiv 1812.06162), eq. 2.11",
    coefficients=("D_min",),
    shapes={"B_crit": Shape(1.0, 1e9, positive=True)},
)
