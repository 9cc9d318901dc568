"""Repeated stretches: only what came before in the context tells the next token."""

import numpy as np

from nextscale.model.data.repeats import held_out, training

SHAPE = {"vocab": 16, "context": 32}


def test_each_sequence_repeats_a_stretch_of_its_own():
    batch = training(**SHAPE)[0]
    assert batch.shape == (1024, 33)
    lengths = set()
    for sequence in batch:
        length = next(n for n in range(1, 33) if (sequence[n:] == sequence[:-n]).all())
        lengths.add(length)
        assert length <= 16
    assert {8, 12, 16} < lengths


def test_the_stretch_is_uniform():
    first = np.concatenate([training(**SHAPE)[i][:, :8].ravel() for i in range(8)])
    shares = np.bincount(first, minlength=16) / len(first)
    assert np.abs(shares * 16 - 1).max() < 0.1


def test_batches_and_splits_differ_and_are_the_same_again():
    train, test = training(**SHAPE), held_out(**SHAPE)
    assert (train[3] == training(**SHAPE)[3]).all()
    assert (train[3] != train[4]).any()
    assert (train[3] != test[3]).any()
    assert (train[3] != training(**SHAPE, seed=1)[3]).any()
