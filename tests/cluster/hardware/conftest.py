"""Runs of any size, for placement and memory."""

import pytest

from nextscale.model.config.data import TokenData
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.config.training import TrainingConfig


@pytest.fixture(scope="session")
def run():
    return _run


def _run(*, width=64, vocab=256, sequences=8, context=128, optimizer="adamw", dtype="float32", **family):
    training = {"optimizer": optimizer, "dtype": dtype, "parametrization": "standard"}
    return RunConfig(
        data=TokenData(source="tokens", path="x", vocab=vocab, fingerprint="0" * 16),
        model=ModelFamily(**{"depth": 2, "heads": 4, "context": context, **family}).at(width, vocab),
        training=TrainingConfig(batch_tokens=sequences * context, steps=100, lr=0.01, **training),
    )


@pytest.fixture(scope="session")
def large():
    """A run of 7e9 parameters."""
    return _large


def _large(**options):
    shape = {"width": 4096, "depth": 32, "heads": 32, "context": 2048, "sequences": 64, "dtype": "bfloat16"}
    return _run(**{**shape, **options})
