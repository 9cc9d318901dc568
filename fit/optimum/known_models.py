"""Sizes and tokens of dense language models that were published, to lie beside a frontier."""

from __future__ import annotations

from importlib import resources

import pandas as pd


def known_models() -> pd.DataFrame:
    """By date: `name`, `date`, `params` (all that are counted in the model's name or table), `tokens`, `flops` (6ND,
    Kaplan et al. 2020, for few publish more) and `source`, where the figures were printed.

    They were trained on other data than the runs of a frontier: where they lie tells how large and how long their
    authors chose to train, and nothing of their loss. Mixtures of experts are not among them: of those N is no one
    number.
    """
    with (resources.files("nextscale.fit.optimum") / "known_models.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    return table.assign(flops=6 * table["params"] * table["tokens"])
