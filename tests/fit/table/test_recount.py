"""isoFLOP curves under another account of FLOPs."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit.errors import InputError
from nextscale.fit.optimum.approaches import parabola
from nextscale.fit.table.recount import at_equal_flops

HEAD = 5e5
"""FLOPs per token and sixth of a head that one account leaves out."""


def table(budgets=(1e14, 1e15, 1e16), sizes=None):
    """Runs at equal FLOPs with the head counted, of a law whose optimum, with the head not counted, is N ∝ C^(1/2)."""
    rows = []
    for C in budgets:
        for N in np.geomspace(3e5, 3e8, 25) if sizes is None else sizes:
            D = C / (6 * (N + HEAD))
            rows.append({"N": N, "tokens": D, "C": 6 * N * D, "loss": 1.5 + 400 / N**0.4 + 400 / D**0.4})
    return pd.DataFrame(rows)


def test_the_exponent_is_that_of_the_account():
    runs = at_equal_flops(
        table(np.geomspace(1e13, 1e17, 60)), params="N", flops="C", convention="non_embedding", budgets=4
    )
    assert runs.convention == "non_embedding"
    assert (runs.table["flops"] / (6 * runs.table["params"] * runs.table["tokens"])).to_numpy() == pytest.approx(
        1, rel=1e-3
    )
    # At C = 6ND, with equal exponents and coefficients, the optimum is N = D.
    optimum = np.sqrt(runs.table["flops"] / 6)
    near = runs.where(runs.table["params"].between(optimum / 3, optimum * 3))
    law = parabola(near).law
    assert law.exponent == pytest.approx(0.5, abs=0.02)
    assert law(near.budgets) == pytest.approx(np.sqrt(np.array(near.budgets) / 6), rel=0.05)


def test_sizes_without_compute_in_common_are_refused():
    with pytest.raises(InputError, match="share no compute"):
        at_equal_flops(table((1e14, 1.1e14), (1e4, 1e8)), params="N", flops="C", convention="non_embedding")


def test_one_length_is_too_few():
    with pytest.raises(InputError, match="fewer than two lengths"):
        at_equal_flops(table((1e14,)), params="N", flops="C", convention="non_embedding")
