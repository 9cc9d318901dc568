"""The laws that ship, by name. Each is data: add one of your own with `SumOfPowers.of` or `Formula.of`.

Here are the sums of powers; `formula_laws.py` has those that bend otherwise, `recipe_laws.py` those of how a model is
trained.
"""

from __future__ import annotations

from nextscale.fit.errors import InputError
from nextscale.fit.laws import formula_laws, recipe_laws
from nextscale.fit.laws.law import Law, Shape
from nextscale.fit.laws.sum_of_powers import SumOfPowers, Term

KAPLAN = tuple(
    SumOfPowers.of(
        f"kaplan-{variable.lower()}",
        f"L = K/{variable}^alpha",
        # Kaplan's constants follow: Nc = K^(1/alpha), and so for D and C.
        f"Kaplan et al. 2020, eq. {equation}",
        Term("K", {variable: "alpha"}),
    )
    for variable, equation in {"N": "1.1", "D": "1.2", "C": "1.3"}.items()
)

CHINCHILLA = SumOfPowers.of(
    "chinchilla",
    "L = E + A/N^alpha + B/D^beta",
    "Hoffmann et al. 2022, eq. 2",
    Term("E"),
    Term("A", {"N": "alpha"}),
    Term("B", {"D": "beta"}),
)

CHINCHILLA_TIED = SumOfPowers.of(
    "chinchilla-tied",
    "L = E + A/N^alpha + B/D^alpha",
    "Muennighoff et al. 2023 (arXiv 2305.16264), sec. 3; Gadre et al. 2024 (arXiv 2403.08540) in N and D",
    Term("E"),
    Term("A", {"N": "alpha"}),
    Term("B", {"D": "alpha"}),
)

SIZE_DATA = SumOfPowers.of(
    "size-data",
    "L = E + B/D^beta + G/(N^gamma D^delta)",
    # The interaction may take either sign: data worth more, or less, to the larger model.
    "this project; eq. 2 of Hoffmann et al. 2022 where the worth of size changes with the data",
    Term("E"),
    Term("B", {"D": "beta"}),
    Term("G", {"N": "gamma", "D": "delta"}),
    delta=Shape(-0.5, 0.5),
)

DATA_SIZE = SumOfPowers.of(
    "data-size",
    "L = E + A/N^alpha + G/(D^beta N^delta)",
    # The mirror of size-data.
    "this project; eq. 2 of Hoffmann et al. 2022 where the worth of data changes with the size",
    Term("E"),
    Term("A", {"N": "alpha"}),
    Term("G", {"D": "beta", "N": "delta"}),
    delta=Shape(-0.5, 0.5),
)

OVER_TRAINING = SumOfPowers.of(
    "over-training",
    "L = E + (A M^eta + B M^-eta) C^-eta, M = D/N",
    # At C = 6ND it is chinchilla-tied with alpha = 2 eta.
    "Gadre et al. 2024 (arXiv 2403.08540), eq. 4",
    Term("E"),
    Term("A", {"C": "eta", "M": ("eta", -1)}),
    Term("B", {"C": "eta", "M": "eta"}),
    eta=Shape(0.015, 1.25),
)

SATURATING = SumOfPowers.of(
    "saturating",
    "L = E + K/C^gamma",
    "Henighan et al. 2020, eq. 1",
    Term("E"),
    Term("K", {"C": "gamma"}),
)

SATURATING_N, SATURATING_D = (
    SumOfPowers.of(
        f"saturating-{variable.lower()}",
        f"L = E + {coefficient}/{variable}^{exponent}",
        f"Henighan et al. 2020, eq. 1, in {variable}",
        Term("E"),
        Term(coefficient, {variable: exponent}),
    )
    for variable, coefficient, exponent in (("N", "A", "alpha"), ("D", "B", "beta"))
)
"""Of runs that vary in size alone, or in tokens alone."""

MOE = SumOfPowers.of(
    "moe",
    "L = E + A/(N^alpha experts^delta)",
    "Clark et al. 2022 (arXiv 2202.01169) without interaction, above an irreducible loss",
    Term("E"),
    Term("A", {"N": "alpha", "experts": "delta"}),
    delta=Shape(0.005, 1.0),
)

SPARSITY = SumOfPowers.of(
    "sparsity",
    "L = E + (S density^gamma + A)/N^alpha + B/D^beta",
    # density is 1 - sparsity, N counts the parameters that are not zero.
    "Frantar et al. 2023 (arXiv 2309.08520)",
    Term("E"),
    Term("S", {"N": "alpha", "density": ("gamma", -1)}),
    Term("A", {"N": "alpha"}),
    Term("B", {"D": "beta"}),
)

VOCABULARY = SumOfPowers.of(
    "vocabulary",
    "L = E + A/params_non_vocab^alpha + V/params_vocab^nu + B/D^beta",
    # Tao's loss is unigram-normalised and negative, so that vocabularies compare: `as_runs(..., add_to_loss=)` one
    # constant to every run's, such as the unigram entropy of a reference vocabulary; it is added to E.
    "Tao et al. 2024 (arXiv 2407.13623), approach 3",
    Term("E"),
    Term("A", {"params_non_vocab": "alpha"}),
    Term("V", {"params_vocab": "nu"}),
    Term("B", {"D": "beta"}),
)

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        CHINCHILLA,
        CHINCHILLA_TIED,
        formula_laws.CHINCHILLA_COUPLED,
        SIZE_DATA,
        DATA_SIZE,
        SATURATING,
        SATURATING_N,
        SATURATING_D,
        *KAPLAN,
        formula_laws.KAPLAN_COUPLED,
        OVER_TRAINING,
        formula_laws.DATA_CONSTRAINED,
        formula_laws.FARSEER,
        formula_laws.OFFSET,
        formula_laws.SIGMOIDAL,
        formula_laws.BROKEN,
        MOE,
        formula_laws.MOE_BILINEAR,
        formula_laws.MOE_SATURATING,
        formula_laws.MOE_JOINT,
        SPARSITY,
        VOCABULARY,
        formula_laws.PRECISION,
        formula_laws.PARALLEL,
        formula_laws.CRITICAL_BATCH,
        recipe_laws.LR_BATCH,
        recipe_laws.DISTILLATION,
    )
}


def law_named(law: str | Law) -> Law:
    """A law that ships by its name; a law as it is.

    Raises:
        InputError: none has that name.
    """
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise InputError(f"law: '{law}' is not one of {', '.join(LAWS)}")
    return LAWS[law]
