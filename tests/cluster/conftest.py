import importlib.util
import sys
from pathlib import Path

import pytest

from nextscale.cluster.controller.job import Job
from nextscale.model.config.data import MarkovData
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.config.training import TrainingConfig


@pytest.fixture
def job(tmp_path):
    """A job of a second: `job(seed=..., width=..., steps=...)`."""

    def build(*, seed=0, width=8, steps=40, lr=0.02, **options):
        run = RunConfig(
            data=MarkovData(source="markov", vocab=16),
            model=ModelFamily(depth=1, heads=2, context=8).at(width, 16),
            training=TrainingConfig(batch_tokens=32, steps=steps, lr=lr),
            evaluation={"tokens": 256},
            seed=seed,
        )
        return Job(
            run_id=run.run_id,
            config=run,
            directory=str(tmp_path / "runs" / run.run_id),
            flops=float(width * steps),
            steps=steps,
            shape=str(width),
            **options,
        )

    return build


@pytest.fixture(scope="session")
def fake():
    """The simulated cluster of `fake.py`."""
    spec = importlib.util.spec_from_file_location("fake_cluster", Path(__file__).with_name("fake.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
