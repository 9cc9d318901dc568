import gc

import pytest
from etils import epath

from nextscale.model.config.data import MarkovData
from nextscale.model.config.run import ModelFamily, RunConfig, TrainingConfig
from nextscale.model.record import RunDirectory


@pytest.fixture
def tiny_run():
    """A run of a second: `tiny_run(steps=..., width=..., **training)`."""

    def build(*, width=8, steps=40, seed=0, data=None, family=None, **training):
        data = data or MarkovData(source="markov", vocab=16)
        family = family or ModelFamily(depth=1, heads=2, context=8)
        training = {"batch_tokens": 32, "lr": 0.02, **training}
        return RunConfig(
            data=data,
            model=family.at(width, data.vocab),
            training=TrainingConfig(steps=steps, **training),
            evaluation={"tokens": 512},
            seed=seed,
        )

    return build


@pytest.fixture
def run_directory(tmp_path):
    return RunDirectory(epath.Path(tmp_path / "run"))


@pytest.fixture
def _orbax_fails():
    """Where it does, orbax leaves coroutines behind that nobody awaits: found in the test that made them, which is to
    pass them over, and not in one after it."""
    yield
    gc.collect()
