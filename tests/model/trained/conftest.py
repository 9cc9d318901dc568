import jax
import numpy as np
import pytest
from flax import nnx

from nextscale.model.config.data import MarkovData
from nextscale.model.network.transformer import Transformer
from nextscale.model.trained.load import TrainedModel


@pytest.fixture
def untrained(tiny_run):
    """A model with every weight drawn, also those that begin as ones or zeros: `untrained(mlp="swiglu", ...)`."""

    def build(*, width=24, vocab=40, data=None, training=None, **family):
        from nextscale.model.config.run import ModelFamily

        family = ModelFamily(**{"depth": 2, "heads": 4, "context": 16, **family})
        data = data or MarkovData(source="markov", vocab=vocab)
        run = tiny_run(width=width, data=data, family=family, **{"batch_tokens": 64, **(training or {})})
        shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Transformer(run.network, rngs=nnx.Rngs(0)))))
        draws = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: (0.6 * draws.normal(size=leaf.shape) + (leaf.ndim == 1)).astype("f4"), shapes
        )
        return TrainedModel(run, params)

    return build
