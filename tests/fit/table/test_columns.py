"""Columns are found by their usual names, and said; what may be either is refused."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import Columns, InputError, as_runs
from nextscale.fit.table.names import loss_unit_of


def table(**columns):
    base = {"params": [1e6, 2e6], "tokens": [1e8, 1e8], "flops": [6e14, 1.2e15], "loss": [3.0, 2.9]}
    return pd.DataFrame(base | columns)


@pytest.mark.parametrize(
    "params, tokens, flops, loss",
    [
        ("N", "D", "C", "L"),
        ("n", "d", "c", "loss"),
        ("Model Size", "train-tokens", "Training FLOPs", "val_loss"),
        ("num_params", "tokens_seen", "compute", "Final Loss"),
    ],
)
@pytest.mark.parametrize("missing", [None, "params", "tokens", "flops"])
def test_usual_names_are_found_and_said(params, tokens, flops, loss, missing):
    names = {"params": params, "tokens": tokens, "flops": flops, "loss": loss}
    runs = as_runs(table().drop(columns=missing or []).rename(columns=names))
    for name in names:
        np.testing.assert_allclose(runs.table[name], table()[name])
    said = ", ".join(f"{names[key]} for {key}" for key in names if key != missing and key != names[key])
    assert runs.notes[0] == f"taken by the names of columns: {said}"


@pytest.mark.parametrize(
    "columns, says",
    [
        (
            {"loss": "val_loss", "tokens": "Train Loss"},
            "runs: Train Loss and val_loss may each be loss",
        ),
        ({"tokens": "D", "flops": "train_tokens"}, "and has params; D and train_tokens may each be tokens"),
    ],
)
def test_what_may_be_either_is_refused(columns, says):
    with pytest.raises(InputError, match=says) as error:
        as_runs(table().rename(columns=columns))
    assert "\n" not in str(error.value)


def test_what_may_be_either_is_left_alone_where_the_rest_is_enough():
    runs = as_runs(table(D=[1e8, 1e8]).rename(columns={"params": "N", "tokens": "model_size"}))
    assert runs.notes[1].startswith("N and model_size may each be params, so none is taken; name it with columns=")
    assert runs.convention == "total"
    np.testing.assert_allclose(runs.table["params"], table()["params"])


def test_words_are_no_quantity():
    words = table(C=["warm", "cold"]).drop(columns="flops").rename(columns={"params": "N"})
    assert as_runs(words).notes == as_runs(words.drop(columns="C")).notes


def test_no_name_is_guessed_where_nothing_is_wanting():
    plain = as_runs(table())
    assert as_runs(table(N=1.0, val_loss=9.0)).table.equals(plain.table)
    two = table().drop(columns="tokens")
    assert as_runs(two.assign(D=7e9)).notes == as_runs(two).notes
    stated = as_runs(table(N=[5e5, 6e5]).drop(columns="params"), columns=Columns(tokens="tokens", flops="flops"))
    assert stated.notes == ("params follow from C = 6ND",)


def test_no_name_says_that_embeddings_are_left_out():
    with pytest.raises(InputError, match="needs two of params, tokens and flops, and has tokens"):
        as_runs(table().rename(columns={"params": "N"}).drop(columns="flops"), convention="non_embedding")


@pytest.mark.parametrize(
    "name, unit",
    [
        ("c4_bpb", "bits/byte"),
        ("Bits per Byte (wikitext)", "bits/byte"),
        ("eval/paloma/bits-per-byte", "bits/byte"),
        ("wiki_bits_per_token", "bits/token"),
        ("c4.ppl", "perplexity"),
        ("eval/loss", "nats/token"),
        ("bpbloss", "nats/token"),
        ("loss_bits_and_pieces", "nats/token"),
    ],
)
def test_a_named_column_of_losses_says_its_unit(name, unit):
    assert loss_unit_of(name) == unit


def test_another_column_that_may_be_the_loss_is_named():
    """Many trainers log the loss of training as `loss`, and that of evaluation beside it."""
    note = "column 'loss' is taken, not eval_loss: columns={'loss': ...} takes another"
    assert note in as_runs(table(eval_loss=[3.1, 2.9])).notes
    assert note not in as_runs(table(eval_loss=[3.1, 2.9]), columns=Columns(loss="loss")).notes
