"""The noise of repeated runs is found, and weighs them."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import InputError, fit
from nextscale.fit.estimate.seed_noise import seed_noise
from nextscale.fit.table.columns import Columns


class TestSeeds:
    @staticmethod
    def repeated(noise, seeds=4, seed=0):
        rng = np.random.default_rng(seed)
        params = np.repeat(np.geomspace(1e7, 1e9, 40), seeds)
        scatter = np.repeat(np.broadcast_to(noise, 40), seeds)
        loss = (1.8 + 480 / params**0.35) * np.exp(scatter * rng.standard_normal(len(params)))
        return pd.DataFrame({"params": params, "tokens": 1e10, "loss": loss})

    def test_the_noise_of_a_run_is_found(self):
        told = seed_noise(self.repeated(0.004))
        assert told.noise == pytest.approx(0.004, rel=0.15)
        assert told.freedom == 120
        assert told.weights.max() / told.weights.min() < 6

    def test_quieter_configurations_count_more(self):
        told = seed_noise(self.repeated(np.repeat([0.001, 0.01], 20)))
        quiet, loud = told.weights[:80].median(), told.weights[80:].median()
        assert 20 < quiet / loud < 300

    def test_single_runs_take_the_pooled_noise_and_something_must_be_repeated(self):
        table = self.repeated(0.004).drop(index=[1, 2, 3])
        assert np.isfinite(seed_noise(table).weights).all()
        with pytest.raises(InputError, match="no two runs have the same params and tokens"):
            seed_noise(table.drop_duplicates("params"))

    def test_weights_narrow_the_interval(self, isoflop_grid):
        rng = np.random.default_rng(0)
        table = pd.concat([isoflop_grid(sizes=7)] * 4, ignore_index=True)
        scatter = np.where(table.groupby("params").ngroup() % 2, 0.02, 0.001)
        table["loss"] *= np.exp(scatter * rng.standard_normal(len(table)))
        table["weight"] = seed_noise(table).weights
        columns = Columns(weight="weight")
        plain, weighed = (fit(table, columns=c, loss="squared", resamples=200) for c in (Columns(), columns))
        assert np.ptp(weighed.interval("alpha")) < np.ptp(plain.interval("alpha"))
