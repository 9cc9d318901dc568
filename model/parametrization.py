"""How each group of weights starts and learns, so that what is tuned at one width holds at another.

| group     | weights                              | initial std            | lr, standard | lr, mup            |
|-----------|--------------------------------------|------------------------|--------------|--------------------|
| embedding | token embedding                      | 1                      | 1            | 1                  |
| hidden    | matrices that read the residual      | 1/sqrt(fan-in)         | 1            | base width / width |
| output    | matrices that write the residual     | 0                      | 1            | base width / width |
| head      | unembedding                          | 0                      | 1            | base width / width |
| norm      | RMSNorm scale                        | 1 (constant)           | 1            | 1                  |

`mup` is the learning-rate rule of Yang et al. 2022 (Tensor Programs V), table 8, for Adam: a matrix that sums over
the width learns at a rate inverse to it.
Blocks start as the identity (zero `output`), the head as the uniform distribution (zero `head`).
"""

from __future__ import annotations

import math
from typing import Literal

Group = Literal["embedding", "hidden", "output", "head", "norm"]
Parametrization = Literal["standard", "mup"]


def initial_std(group: Group, fan_in: int) -> float:
    """Standard deviation of the initial weights."""
    return {"embedding": 1.0, "hidden": 1 / math.sqrt(fan_in), "output": 0.0, "head": 0.0, "norm": 0.0}[group]


def learning_rate_multiplier(group: Group, parametrization: Parametrization, width: int, base_width: int) -> float:
    """Learning rate of a group / that of the base width."""
    grows = parametrization == "mup" and group in ("hidden", "output", "head")
    return base_width / width if grows else 1.0
