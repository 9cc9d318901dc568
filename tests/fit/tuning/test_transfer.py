"""The best learning rate by width, found where it is known."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit.errors import InputError
from nextscale.fit.tuning.transfer import best_rates, rate_drift

RATES = np.geomspace(2**-9, 2**-3, 7)


def table(exponent, widths=(16, 32, 64, 128), at_16=2**-5.3):
    """Losses that are parabolas in log lr, whose lowest point falls with a power of the width."""
    rows = []
    for width in widths:
        best = at_16 * (width / 16) ** exponent
        rows += [{"width": width, "lr": lr, "loss": 2 + 0.02 * np.log(lr / best) ** 2} for lr in RATES]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("exponent", [-1.0, -0.4, 0.0])
def test_the_drift_is_recovered(exponent):
    found = best_rates(table(exponent, widths=(16, 32, 64)))
    moved = rate_drift(found)
    assert found["lr"].iloc[0] == pytest.approx(2**-5.3)
    assert found["loss"].to_numpy() == pytest.approx(2.0)
    assert moved.exponent == pytest.approx(exponent, abs=1e-6)
    assert moved.octaves == pytest.approx(2 * exponent, abs=1e-5)
    assert moved.stderr == pytest.approx(0, abs=1e-6)


def test_seeds_are_averaged():
    both = pd.concat(
        [table(0.0).assign(loss=lambda t: t["loss"] + 0.1), table(0.0).assign(loss=lambda t: t["loss"] - 0.1)]
    )
    assert best_rates(both)["loss"].to_numpy() == pytest.approx(2.0)


def test_an_optimum_at_the_end_of_the_rates_is_none():
    found = best_rates(table(-1.0, at_16=2**-8))
    assert found["problem"].notna().tolist() == [False, True, True, True]
    with pytest.raises(InputError, match="1 of 4 widths have a best learning rate"):
        rate_drift(found)


def test_a_diverged_run_is_worse_than_any():
    runs = table(0.0, widths=(16,))
    runs.loc[runs["lr"] > 2**-4.5, "loss"] = np.nan
    (row,) = best_rates(runs).to_dict("records")
    assert row["problem"] is None
    assert row["lr"] == row["tried"] == pytest.approx(2**-5)
