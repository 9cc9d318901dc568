"""Sampling draws from the model's own distribution, and greedy sampling takes its argmax."""

import numpy as np
import pytest

from nextscale.model.errors import InputError
from nextscale.model.trained.sample import sample


def test_at_temperature_0_each_token_is_the_argmax_of_the_logits(untrained):
    trained = untrained(depth=1)
    told = [3, 1, 4]
    drawn = [*sample(trained, told, 20, temperature=0)]
    for token in drawn:  # also those beyond the context of 16: it sees the last 16
        seen = np.zeros((1, 16), int)
        seen[0, : len(told)] = told[-16:]
        logits = np.asarray(trained.logits(seen))[0, min(len(told), 16) - 1]
        assert token == logits.argmax()
        told.append(token)
    assert len(drawn) == 20


def test_draws_have_the_frequencies_of_the_softmax(untrained):
    trained = untrained(depth=1, vocab=4)
    logits = np.asarray(trained.logits(np.array([[2, 0, 1]])))[0, -1]
    drawn = np.array([next(sample(trained, [2, 0, 1], 1, temperature=2.0, seed=seed)) for seed in range(300)])
    p = np.exp(logits / 2) / np.exp(logits / 2).sum()
    found = np.bincount(drawn, minlength=4) / 300
    assert np.all(np.abs(found - p) < 4 * np.sqrt(p * (1 - p) / 300))


def test_top_k_draws_from_the_likeliest_alone(untrained):
    trained = untrained(depth=1)
    logits = np.asarray(trained.logits(np.array([[2, 0, 1]])))[0, -1]
    drawn = {next(sample(trained, [2, 0, 1], 1, temperature=5.0, top_k=3, seed=seed)) for seed in range(30)}
    assert drawn == {*np.argsort(logits)[-3:].tolist()}
    (first,) = sample(trained, [2, 0, 1], 1, temperature=5.0, top_k=1)
    assert first == logits.argmax()


def test_the_same_seed_draws_the_same_and_an_end_ends(untrained):
    trained = untrained(depth=1)
    one, same, other = ([*sample(trained, [1], 12, seed=seed)] for seed in (5, 5, 6))
    assert one == same != other
    end = one[7]
    assert [*sample(trained, [1], 12, seed=5, end=end)] == one[: one.index(end)]


@pytest.mark.parametrize(("prompt", "said"), [([], "is empty"), ([3, 40], "from 3 to 40"), ([-1], "from -1")])
def test_a_prompt_that_cannot_be_read(untrained, prompt, said):
    with pytest.raises(InputError, match=f"^--prompt: .*{said}"):
        next(sample(untrained(), prompt, 3))
