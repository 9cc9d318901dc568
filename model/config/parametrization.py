"""Parametrizations: how initial weights, learning rates and ε of each group of weights scale with the model's size.

Four parametrizations, which agree at `base_width`, `base_head_width` and `base_depth` (but that `completep` never
decays norm scales):

- `standard`: one learning rate for all.
- `mup`: Yang et al. 2022 (Tensor Programs V), table 3, Adam: a matrix that sums over the width learns at a rate
  inverse to it.
- `mup-1/d`: the same, with scores over the head width d rather than its root (ibid., definition 4.1).
- `completep`: Dey et al. 2025 (arXiv 2505.01618), table 1 with α = 1. It adds to mup the depth (without it, twice the
  blocks add twice as much to the residual stream), scores over the head width, and Adam's ε (their eq. 40).

| group        | weights                                     | initial std    |
|--------------|---------------------------------------------|----------------|
| `embedding`  | token embedding                             | 1              |
| `hidden`     | matrices that read the residual             | 1/sqrt(fan-in) |
| `output`     | of the MLP, the matrix that writes it       | 0              |
| `mixed`      | of attention, the matrix that writes it     | 0              |
| `norm`       | RMSNorm scales of the blocks                | 1 (constant)   |
| `final_norm` | RMSNorm scale before the head               | 1 (constant)   |
| `head`       | unembedding                                 | 0              |
| `router`     | of a mixture, what scores its experts       | 1/sqrt(fan-in) |
| `balance`    | of a mixture, biases of the router's choice | 0              |

`mixed` is as `output`, but learns at a rate inverse to its own fan-in, the heads' width together, which stays the same
where both their number and their width do.

Where these differ from the papers:

- Blocks start as the identity (zero `output`) and the head as the uniform distribution (zero `head`), under every
  parametrization.
- `head` learns at a rate inverse to the width; theirs at a constant one, under a multiplier inverse to the width and
  with ε inverse to it. From zero the two are the same to Adam. A tied head follows table 8 of Yang et al.: it learns
  as an embedding, and its logits are divided by the width.
- Weight decay here is not times the learning rate (see `optimizer.py`). Their decay of hidden matrices, which grows
  with the width as the learning rate falls, is then the same at every width.
- `mup` divides scores by the root of the head width, not by the head width; `mup-1/d` is theirs.

The weights of experts are `hidden` and `output` as those of one MLP are, each by its own fan-in, and a `router` is as a
head: it sums over the width and its outputs are of a number that does not grow (Malasnicki et al. 2025, arXiv
2508.09752, and Jiang et al. 2026, arXiv 2601.20205, for mixtures of experts). How many experts there are is in no rule:
a token passes as many however many there are, and Adam sees no scale of a gradient that fewer tokens add up to. A
router starts as hidden matrices do and not at zero, where it would send every token to the same experts. Its gradient
has no factor of the width, so that `completep` scales its ε with the depth alone. A `balance` is moved by no optimiser
(see `experts.py` of the network).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Group = Literal["embedding", "hidden", "output", "mixed", "norm", "final_norm", "head", "router", "balance", "other"]
"""`other` is of a module of one's own, whose weight names no group: it takes the optimiser's numbers as they are."""
Parametrization = Literal["standard", "mup", "mup-1/d", "completep"]
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


_FIXED = Rule(decay=0)
_MUP: dict[Group, Rule] = {
    **{group: Rule(lr=(1, 0)) for group in ("hidden", "output", "head", "router")},
    "balance": _FIXED,
}

RULES: dict[Parametrization, dict[Group, Rule]] = {
    "standard": {"balance": _FIXED},
    "mup": _MUP,
    "mup-1/d": _MUP,
    "completep": {
        "embedding": Rule(eps=(1, 0)),
        "hidden": Rule(lr=(1, 0), eps=(1, 1)),
        "output": Rule(lr=(1, 0), eps=(1, 1)),
        "norm": Rule(eps=(1, 1), decay=0),
        "final_norm": Rule(eps=(1, 0), decay=0),
        "head": Rule(lr=(1, 0)),
        "router": Rule(lr=(1, 0), eps=(0, 1)),
        "balance": _FIXED,
    },
}
"""A group that is not here takes the optimiser's numbers as they are; `mixed` has the rule of `output`."""

SCORES: dict[Parametrization, float] = {"standard": 0, "mup": 0, "mup-1/d": 0.5, "completep": 0.5}
"""Power of base head width / head width by which attention scores are multiplied, beside 1/sqrt(head width)."""

RESIDUAL: dict[Parametrization, Powers] = {"standard": _SAME, "mup": _SAME, "mup-1/d": _SAME, "completep": (0, 1)}
"""Multiplier of what a block adds to the residual stream."""


class Size(NamedTuple):
    """Base size / size of a model.

    Attributes:
        head_width: of one head.
        query_width: of all heads together.
    """

    width: float
    depth: float
    head_width: float
    query_width: float

    def __call__(self, powers: Powers) -> float:
        return self.width ** powers[0] * self.depth ** powers[1]


def initial_std(group: Group, fan_in: int) -> float:
    """Standard deviation of the initial weights."""
    return {"embedding": 1.0, "hidden": 1 / math.sqrt(fan_in), "router": 1 / math.sqrt(fan_in)}.get(group, 0.0)


def multipliers(group: Group, parametrization: Parametrization, size: Size) -> Multipliers:
    """What one group of weights takes of the optimiser's numbers at one size."""
    rule = RULES[parametrization].get("output" if group == "mixed" else group, Rule())
    fan_in = size._replace(width=size.query_width) if group == "mixed" else size
    return Multipliers(lr=fan_in(rule.lr), eps=size(rule.eps), decay=rule.decay)
