"""The laws that ship. Each is data: add one of your own with `SumOfPowers.of` or `Formula.of`."""

from __future__ import annotations

from nextscale.fit.errors import InputError
from nextscale.fit.law import Law
from nextscale.fit.powers import SumOfPowers, Term

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
    "Muennighoff et al. 2023, sec. 3 (alpha = beta)",
    Term("E"),
    Term("A", {"N": "alpha"}),
    Term("B", {"D": "alpha"}),
)

SATURATING = SumOfPowers.of(
    "saturating",
    "L = E + K/C^gamma",
    "Henighan et al. 2020, eq. 1",
    Term("E"),
    Term("K", {"C": "gamma"}),
)

LAWS: dict[str, Law] = {law.name: law for law in (CHINCHILLA, CHINCHILLA_TIED, SATURATING)}


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
