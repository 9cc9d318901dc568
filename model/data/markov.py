"""An order-2 Markov chain as a source of tokens, whose irreducible loss is known exactly."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from nextscale.model.config.data import MarkovData

_CHAINS = 1024
"""Chains drawn together: sequences [1024·c, 1024·(c+1)) come from one generator keyed by (seed, c)."""


@dataclasses.dataclass(frozen=True)
class Markov:
    """An order-2 Markov chain over V tokens, in its stationary state.

    Attributes:
        conditional: V x V x V, P(next | token before last, last token).
        stationary: V x V, probability of each pair of neighbours.
        entropy: entropy rate in nats per token: the loss of a perfect model that sees two tokens or more.
    """

    conditional: np.ndarray
    stationary: np.ndarray
    entropy: float

    @property
    def vocab(self) -> int:
        return self.conditional.shape[0]

    @functools.cached_property
    def _alias(self) -> tuple[np.ndarray, np.ndarray]:
        return alias_tables(self.conditional.reshape(self.vocab**2, self.vocab))

    def sample(self, seed: tuple[int, ...], first: int, count: int, length: int) -> np.ndarray:
        """Sequences `first` to `first + count` of an endless supply named by `seed`.

        Returns:
            int32, count x length; each sequence is a chain of its own, started in the stationary state.
        """
        chunks = range(first // _CHAINS, (first + count - 1) // _CHAINS + 1)
        drawn = np.concatenate([self._chains((*seed, chunk), length) for chunk in chunks])
        offset = first - chunks[0] * _CHAINS
        return drawn[offset : offset + count]

    def _chains(self, seed: tuple[int, ...], length: int) -> np.ndarray:
        V = self.vocab
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
        keep, alias = self._alias
        tokens = np.empty((length, _CHAINS), np.int32)
        pair = np.searchsorted(np.cumsum(self.stationary), rng.random(_CHAINS), side="right")
        tokens[:2] = np.divmod(np.minimum(pair, V * V - 1), V)
        for t in range(2, length):
            row = tokens[t - 2] * V + tokens[t - 1]
            column = rng.integers(0, V, _CHAINS)
            tokens[t] = np.where(rng.random(_CHAINS) < keep[row, column], column, alias[row, column])
        return np.ascontiguousarray(tokens.T)


@functools.lru_cache(maxsize=4)
def markov(config: MarkovData) -> Markov:
    """The source that a configuration describes, with its stationary law by power iteration."""
    V = config.vocab
    rng = np.random.default_rng(config.seed)
    g1_VxV = rng.standard_normal((V, V))
    g2_VxVxV = rng.standard_normal((V, V, V))
    logits = -config.zipf * np.log(np.arange(V) + 1) + config.first * g1_VxV + config.second * g2_VxVxV
    conditional = np.exp(logits - logits.max(axis=-1, keepdims=True))
    conditional /= conditional.sum(axis=-1, keepdims=True)
    stationary = np.full((V, V), V**-2.0)
    for _ in range(10_000):
        previous, stationary = stationary, np.einsum("ij,ijk->jk", stationary, conditional)
        if np.abs(stationary - previous).sum() < 1e-14:
            break
    # Probabilities of a steep source underflow, and 0·log 0 is 0.
    rows = -(conditional * np.log(np.maximum(conditional, np.finfo(float).tiny))).sum(axis=-1)
    return Markov(conditional, stationary, float((stationary * rows).sum()))


def alias_tables(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's alias tables (Vose 1991), all rows at once: one draw costs two look-ups.

    Args:
        probabilities: R x V, each row sums to 1.

    Returns:
        keep, alias: R x V; draw a column uniformly, keep it with probability `keep`, else take its `alias`.
    """
    R, V = probabilities.shape
    keep, alias = np.ones((R, V)), np.tile(np.arange(V), (R, 1))
    mass = probabilities * V
    settled = np.zeros((R, V), bool)
    rows = np.arange(R)
    for _ in range(V - 1):
        # Settle each row's lightest open column with the surplus of its heaviest.
        small = np.where(settled, np.inf, mass).argmin(axis=1)
        large = np.where(settled, -np.inf, mass).argmax(axis=1)
        keep[rows, small], alias[rows, small] = np.minimum(mass[rows, small], 1), large
        mass[rows, large] -= 1 - keep[rows, small]
        settled[rows, small] = True
    return keep, alias
