"""Published laws, by the constants that their authors printed, for those who have no runs of their own yet.

They hold for the corpus, tokenizer and recipe of their authors. Of other data the exponents may serve as a guess;
the coefficients, and so losses, do not. Rounding matters: where more digits are known than the paper prints, these are
here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.laws.catalogue import CHINCHILLA, CHINCHILLA_TIED
from nextscale.fit.laws.law import Law

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit


@dataclasses.dataclass(frozen=True)
class Published:
    """A law in N (all parameters) and D, in nats per token.

    Attributes:
        parameters: by name.
        source: where these digits stand.
        furthest_runs: (N, D) of the runs behind it that went furthest: the cheapest, the dearest, the largest, and the
            one of most tokens per parameter.
    """

    name: str
    law: Law
    parameters: Mapping[str, float]
    source: str
    furthest_runs: tuple[tuple[float, float], ...]

    @property
    def fit(self) -> Fit:
        """The law as if it had been fitted, without intervals: nobody printed what they could be made of.

        Its `runs` are those of `furthest_runs`, each with the loss of the law, so that they say how far it reaches, and
        nothing of how well it fits.
        """
        # `nextscale plan` reads constants, and is instant.
        import pandas as pd

        from nextscale.fit.estimate.fit import Fit
        from nextscale.fit.estimate.solve import Minimum
        from nextscale.fit.laws.loss import Loss
        from nextscale.fit.table.runs import Runs

        theta = self.law.theta(self.parameters)
        params, tokens = np.array(self.furthest_runs).T
        losses = np.exp(self.law.log_losses(theta[None], {"N": params, "D": tokens})[0])
        columns = {"params": params, "tokens": tokens, "flops": 6 * params * tokens, "loss": losses}
        table = pd.DataFrame(columns).assign(budget=columns["flops"], run_id=self.name)
        return Fit(
            law=self.law,
            runs=Runs(table, "total", (f"constants of {self.source}",)),
            theta=theta,
            resamples=theta[None],
            loss=Loss(),
            level=0.9,
            minimum=Minimum(theta, 0.0, 0.0, np.nan, 0, np.nan, None, theta[None]),
            fixed=self.parameters,
            warnings=(f"{self.name}: constants as printed, of which there is no interval; fit runs to have one",),
        )


_MASSIVETEXT = ((7.4e7, 3.2e9), (6.8e9, 3.2e11), (1.6e10, 3.0e10), (7.4e7, 2.5e10))
"""Of fig. 4 of Hoffmann et al. 2022, as Epoch AI read it."""

HOFFMANN = Published(
    "hoffmann",
    CHINCHILLA,
    {"E": 1.6934, "A": 406.401, "B": 410.7228, "alpha": 0.33917084, "beta": 0.2849083},
    "Hoffmann et al. 2022 (arXiv 2203.15556), approach 3; the digits of its TeX source, from Besiroglu et al. 2024",
    _MASSIVETEXT,
)

DE_VRIES = Published(
    "de-vries",
    CHINCHILLA,
    {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.336, "beta": 0.283},
    "Hoffmann et al. 2022, approach 3, with the exponents that de Vries 2023 (harmdevries.com, Go smol or go home) and "
    "Sardana et al. 2024 (arXiv 2401.00448, app. A) use for its rounded .34 and .28",
    _MASSIVETEXT,
)

BESIROGLU = Published(
    "besiroglu",
    CHINCHILLA,
    {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    "Besiroglu et al. 2024 (arXiv 2404.10102), on the runs of Hoffmann et al. 2022",
    _MASSIVETEXT,
)

MUENNIGHOFF = Published(
    "muennighoff",
    CHINCHILLA_TIED,
    {"E": float(np.exp(0.62548)), "A": float(np.exp(6.2554)), "B": float(np.exp(7.3050)), "alpha": 0.35266},
    "Muennighoff et al. 2023 (arXiv 2305.16264), the first stage, of data that is not repeated",
    ((7.1e6, 1.0e8), (8.7e9, 1.8e11), (5.7e8, 1.7e11)),
)

PUBLISHED = {law.name: law for law in (BESIROGLU, HOFFMANN, DE_VRIES, MUENNIGHOFF)}

LLAMA_3_TOKENS = {"scale": 0.299, "exponent": 0.537}
"""D*(C) = scale · C^exponent: Llama 3 (arXiv 2407.21783), fig. 3. The text of sec. 3.2.1 cuts both off at two digits,
(0.53, 0.29), which make 10.5T tokens at 3.8e25 FLOPs of the 16.55T that it goes on to."""


def published(name: str) -> Published:
    """A published law by its name, one of `PUBLISHED`.

    Raises:
        InputError: none has that name.
    """
    if name not in PUBLISHED:
        raise InputError(f"published: '{name}' is not one of {', '.join(PUBLISHED)}")
    return PUBLISHED[name]
