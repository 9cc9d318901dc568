"""What the words of a page mean."""

from __future__ import annotations

import html

from nextscale.sweeps.show.summary_tables import RATE

_WORDS = {
    "compute, FLOPs": "the floating-point operations of training; about six for each parameter and token",
    "loss, nats per token": "how badly the next token is predicted: the mean negative logarithm of its probability",
    "bits per byte": "the same for each byte of text, so that models of different tokenizers can be compared",
    "tokens per parameter": "training tokens over parameters; Hoffmann et al. 2022 found about 20 compute-optimal, "
    "others on other data more or less",
    "compute-optimal": "of all sizes that a budget can train, the one of the lowest loss",
    "frontier": "that size, or its loss, along all budgets",
    "isoFLOP": "of one budget: small models on many tokens, large ones on few, and the lowest loss between them",
    "law": "a formula for the loss from size and tokens, fitted to the runs (approach 3 of Hoffmann et al. 2022)",
    "chinchilla, chinchilla-tied": "the usual law: a term that falls with size and one that falls with tokens",
    "size-data, data-size": "the same, but the term of size may also change with the tokens, or that of tokens with "
    "size",
    "interior minimum": "a lowest point between the sizes tried, not at the smallest or largest of them",
    "isoFLOP minima": "the lowest points of isoFLOP curves alone (approach 2)",
    "consensus": "a mean of several fits, of several laws or of one to all and to the larger runs, each "
    "weighed by how well such a fit foretold larger runs from smaller ones: one of half the error counts 32 times as "
    "much, or more",
    "huber, squared": "how a fit weighs misses: by their squares, or less of runs that lie far off",
    "interval": "at 90 %, a range that is to hold what is measured nine times of ten",
    "held out": "runs that the forecast was made without, to be measured after",
    "reach": "the compute of what is forecast over that of the largest run fitted",
    "backtest": "laws fitted to the smaller runs forecast the larger ones, which are known: how far they miss; one for "
    "each budget below which laws are fitted",
    "last value, log-linear, power law": "rules of compute alone: the lowest loss stays, or falls along a line or "
    "a power",
    "±": "one standard error, over the runs of a backtest",
    RATE: "what a fit missed by in its backtests, the newest counting most, carried to runs an e-fold (2.7 times) "
    "beyond: the root of the mean square, which is more than the mean",
    "measured minus forecast": "above 0 where laws forecast too low a loss, below 0 where too high: with its sign, "
    "misses to either side cancel",
    "tested, tested once": "two backtests or more, or one, of such a reach missed by less than half of the interval",
    "too narrow": "backtests of such a reach missed by more than half of the interval",
    "untested": "no backtest reached so far",
    "irreducible loss": "what no model of this kind would get below on this data; the reducible is what lies above it",
}


def glossary() -> str:
    """As HTML."""
    shown = "".join(f"<dt>{html.escape(word)}</dt><dd>{html.escape(meaning)}</dd>" for word, meaning in _WORDS.items())
    return f'<details><summary>Glossary</summary><dl class="card-list">{shown}</dl></details>\n'
