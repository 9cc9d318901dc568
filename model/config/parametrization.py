"""Parametrizations: how initial weights, learning rates and ε of each group of weights scale with the model's size.

Three parametrizations, which agree at `base_width` and `base_depth` (but that `completep` never decays norm scales):

- `standard`: one learning rate for all.
- `mup`: Yang et al. 2022 (Tensor Programs V), table 3, Adam: a matrix that sums over the width learns at a rate
  inverse to it.
- `completep`: Dey et al. 2025 (arXiv 2505.01618), table 1 with α = 1. It adds to mup the depth (without it, twice the
  blocks add twice as much to the residual stream), scores over the head width rather than its root, and Adam's ε
  (their eq. 40).

| group        | weights                          | initial std    |
|--------------|----------------------------------|----------------|
| `embedding`  | token embedding                  | 1              |
| `hidden`     | matrices that read the residual  | 1/sqrt(fan-in) |
| `output`     | matrices that write the residual | 0              |
| `norm`       | RMSNorm scales of the blocks     | 1 (constant)   |
| `final_norm` | RMSNorm scale before the head    | 1 (constant)   |
| `head`       | unembedding                      | 0              |

Where these differ from the papers:

- Blocks start as the identity (zero `output`) and the head as the uniform distribution (zero `head`), under every
  parametrization.
- `head` learns at a rate inverse to the width; theirs at a constant one, under a multiplier inverse to the width and
  with ε inverse to it. From zero the two are the same to Adam. A tied head follows table 8 of Yang et al.: it learns
  as an embedding, and its logits are divided by the width.
- Weight decay here is not times the learning rate (see `optimizer.py`). Their decay of hidden matrices, which grows
  with the width as the learning rate falls, is then the same at every width.
- `mup` divides scores by the root of the head width, not by the head width.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Group = Literal["embedding", "hidden", "output", "norm", "final_norm", "head"]
Parametrization = Literal["standard", "mup", "completep"]
Powers = tuple[float, float]
"""Of base width / width, and of base depth / depth."""

_SAME: Powers = (0, 0)


class Rule(NamedTuple):
    """What a group takes of the optimiser's numbers, relative to the base size."""

    lr: Powers = _SAME
    eps: Powers = _SAME
    decay: float = 1


class Multipliers(NamedTuple):
    """A `Rule` at one size."""

    lr: float
    eps: float
    decay: float


RULES: dict[Parametrization, dict[Group, Rule]] = {
    "standard": {},
    "mup": {"hidden": Rule(lr=(1, 0)), "output": Rule(lr=(1, 0)), "head": Rule(lr=(1, 0))},
    "completep": {
        "embedding": Rule(eps=(1, 0)),
        "hidden": Rule(lr=(1, 0), eps=(1, 1)),
        "output": Rule(lr=(1, 0), eps=(1, 1)),
        "norm": Rule(eps=(1, 1), decay=0),
        "final_norm": Rule(eps=(1, 0), decay=0),
        "head": Rule(lr=(1, 0)),
    },
}
"""A group that is not here takes the optimiser's numbers as they are."""

SCORES: dict[Parametrization, Powers] = {"standard": _SAME, "mup": _SAME, "completep": (0.5, 0)}
"""Multiplier of attention scores beside 1/sqrt(head width). A family has as many heads at every width."""

RESIDUAL: dict[Parametrization, Powers] = {"standard": _SAME, "mup": _SAME, "completep": (0, 1)}
"""Multiplier of what a block adds to the residual stream."""


class Size(NamedTuple):
    """Base size / size of a model."""

    width: float
    depth: float

    def __call__(self, powers: Powers) -> float:
        return self.width ** powers[0] * self.depth ** powers[1]


def initial_std(group: Group, fan_in: int) -> float:
    """Standard deviation of the initial weights."""
    return {"embedding": 1.0, "hidden": 1 / math.sqrt(fan_in)}.get(group, 0.0)


def multipliers(group: Group, parametrization: Parametrization, size: Size) -> Multipliers:
    """What one group of weights takes of the optimiser's numbers at one size."""
    rule = RULES[parametrization].get(group, Rule())
    return Multipliers(lr=size(rule.lr), eps=size(rule.eps), decay=rule.decay)
