"""The findings that a spec may ask for: each name is a module of `nextscale.sweeps.findings`, with `_` for `-`."""

from __future__ import annotations

from typing import Literal

FindingName = Literal[
    "approaches",
    "corrections",
    "horizons",
    "hyperparameters",
    "induction",
    "leverage",
    "over-training",
    "power-laws",
    "repetition",
    "transfer",
]
ModuleFindingName = Literal["approaches", "horizons", "hyperparameters", "over-training", "power-laws", "repetition"]
"""Of a module: the others go by a Transformer's width and depth, or count its FLOPs as others do."""
