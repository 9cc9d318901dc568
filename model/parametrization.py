"""How each group of weights starts and learns, so that what is tuned at one width holds at another.

| group     | weights                              | initial std            | lr, standard | lr, mup            |
|-----------|--------------------------------------|------------------------|--------------|--------------------|
| embedding | token embedding                      | 1                      | 1            | 1                  |
| hidden    | matrices that read the residual      | 1/sqrt(fan-in)         | 1            | base width / width |
| output    | matrices that write the residual     | 0                      | 1            | base width / width |
| head      | unembedding                          | 0                      | 1            | base width / width |
| norm      | RMSNorm scale                        | 1 (constant)           | 1            | 1                  |

`mup` takes its learning rates from Yang et al. 2022 (Tensor Programs V), table 3, Adam: a matrix that sums over the
width learns at a rate inverse to it. A tied head follows their table 8 instead: it learns as an embedding, and its
logits are divided by the width. The rest is not theirs: scores are divided by the square root of the head width, not
by the head width, and the blocks start as the identity (zero `output`), the head as the uniform distribution (zero
`head`), under either parametrization.
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
