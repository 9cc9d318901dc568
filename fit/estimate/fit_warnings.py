"""Warnings that a fit carries: doubtful exponents, an irreducible loss that is hardly known, shapes out of range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nextscale.fit.estimate.checks import correlation_of

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit

LOW_E_SHARE = 0.5
"""An irreducible loss below this share of the smallest loss measured lies far below what the runs show."""


def warnings_of(fit: Fit, variables: Mapping[str, np.ndarray]) -> list[str]:
    """What the fit alone shows to be wrong with itself, in words."""
    values = fit.parameters
    warnings = [] if fit.outliers is None else [fit.outliers.warning]
    if "N" in variables and "D" in variables:
        correlation = correlation_of(variables)
        if abs(correlation) > 0.995:
            warnings.append(
                f"N and D {'rise together' if correlation > 0 else 'trade off one for the other, as at one budget'} "
                f"(correlation of their logs {correlation:.3f}): these runs cannot tell the "
                "exponent of N from that of D; add runs of other tokens per parameter"
            )
    if "E" in values and "E" not in fit.fixed:
        smallest = fit.runs.table["loss"].min()
        if values["E"] < 1e-3 * smallest:
            warnings.append(
                "E is at zero: these runs do not show an irreducible loss; forecasts far out are unreliable"
            )
        elif values["E"] < LOW_E_SHARE * smallest:
            warnings.append(
                f"E = {values['E']:.3g} is {values['E'] / smallest:.0%} of the smallest loss measured: the irreducible "
                "loss lies far below anything seen, and a forecast far out leans on it"
            )
        low, high = fit.interval("E")
        if high - low > 0.5 * smallest:
            warnings.append(f"E is hardly known: its {fit.level:.0%} interval runs from {low:.3g} to {high:.3g}")
    if fit.minimum.agreement < 0.5:
        warnings.append(
            f"only {fit.minimum.agreement:.0%} of the starts end at the best minimum: the data leave several answers"
        )
    for name, shape in fit.law.shapes.items():
        if name not in fit.fixed and not shape.low < values[name] < shape.high:
            warnings.append(
                f"{name} = {values[name]:.3g} is outside its plausible range {shape.low:g} to {shape.high:g}"
            )
    return warnings
