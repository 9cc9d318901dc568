"""Weights kept in bfloat16: rounded after each step, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.step import initial_state, numbers_of, program_of, train_steps
from nextscale.model.training.train import train


def stepped(run, state):
    batch_1xBxT1 = np.random.default_rng(0).integers(0, 16, (1, 4, 9), np.int32)
    return train_steps(program_of(run))(state, batch_1xBxT1, np.ones(1, np.float32), 1, numbers_of(run))


@pytest.mark.slow
def test_a_step_is_that_of_float32_from_the_same_weights_with_matrices_rounded_after_it(tiny_run):
    whole, kept = tiny_run(), tiny_run(param_dtype="bfloat16")
    start = initial_state(program_of(kept))(jax.random.key(0), numbers_of(kept))
    same = start | {"params": jax.tree.map(lambda weight: weight.astype(jnp.float32), start["params"])}
    ours, theirs = stepped(kept, jax.tree.map(jnp.copy, start)), stepped(whole, jax.tree.map(jnp.copy, same))
    for weight, exact in zip(jax.tree.leaves(ours["params"]), jax.tree.leaves(theirs["params"]), strict=True):
        assert weight.dtype == (jnp.bfloat16 if weight.ndim == 2 else jnp.float32)
        np.testing.assert_allclose(weight.astype(jnp.float32), exact, rtol=2**-8)
    for moment, exact in zip(jax.tree.leaves(ours["optimizer"]), jax.tree.leaves(theirs["optimizer"]), strict=True):
        assert moment.dtype == exact.dtype
        np.testing.assert_allclose(moment, exact, rtol=1e-5, atol=1e-12)


@pytest.mark.slow
def test_it_resumes_to_the_bit_and_is_a_run_of_its_own(tiny_run, tmp_path, run_directory):
    run = tiny_run(param_dtype="bfloat16")
    assert run.run_id != tiny_run().run_id == tiny_run(param_dtype="float32").run_id

    def stop(tokens):
        if tokens == 20 * 32:
            raise KeyboardInterrupt

    policy = CheckpointPolicy(every_seconds=3600, pinned=(20 * 32,))
    with pytest.raises(KeyboardInterrupt):
        train(run, run_directory, checkpoint=policy, on_progress=stop)
    resumed = train(run, run_directory, checkpoint=policy)
    whole = train(run, run_directory.sibling("whole"), checkpoint=policy)
    assert resumed["loss"] == whole["loss"]
