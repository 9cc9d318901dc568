"""Runs on documents that are kept apart: told by the spec, the same in parts, and evaluated on what is scored."""

import math
import os

import numpy as np
import pytest
from pydantic import ValidationError

from nextscale.model.config.data import Pack, TextData, TokenData
from nextscale.model.data.sources import open_source, resolve
from nextscale.model.errors import InputError
from nextscale.model.training.evaluate import evaluate
from nextscale.model.training.step import MemorySaving, initial_state, numbers_of, program_of
from nextscale.model.training.train import train

V, END = 16, 0
PACK = {"mask": "documents", "end": END}


@pytest.fixture
def data(tmp_path):
    """Documents of three to eight tokens, each a run of one token: what comes next is known but where one begins."""
    rng, written = np.random.default_rng(0), []
    while len(written) < 40_000:
        written += [int(rng.integers(1, V))] * int(rng.integers(3, 9)) + [END]
    np.array(written, np.uint16).tofile(tmp_path / "x.bin")
    os.utime(tmp_path / "x.bin", (1e9, 1e9))

    def build(**fields):
        return resolve(TokenData(source="tokens", path=str(tmp_path / "x.bin"), vocab=V, **fields))

    return build


@pytest.mark.slow
def test_a_run_is_scored_where_it_was_trained(data, tiny_run, run_directory):
    plain, run = tiny_run(data=data()), tiny_run(data=data(pack=PACK), steps=300)
    assert run.run_id != tiny_run(data=data(), steps=300).run_id
    assert plain.network.document_end is None
    record = train(run, run_directory)
    tokens = open_source(run).held_out(record["evaluation_tokens"])[:, :-1]
    assert record["evaluation_tokens"] == pytest.approx((tokens != END).mean() * 512, rel=0.2)
    assert record["loss"] < 1, "but for when a document ends, all that is scored follows"
    assert record["loss"] < math.log(V) / 2


@pytest.mark.slow
def test_one_batch_in_parts_has_the_gradient_of_the_whole(data, tiny_run):
    """Parts that hold more ends than others count for less."""
    import jax

    from nextscale.model.training.step import Inputs, train_steps

    run = tiny_run(data=data(pack=PACK), batch_tokens=64, steps=40, clip=1e9)
    batches = open_source(run).sequences(0, 8)[None]
    found = []
    for parts in (1, 4):
        program = program_of(run, None, MemorySaving(micro_batches=parts))
        state = initial_state(program)(jax.random.key(0), numbers_of(run))
        inputs = Inputs(batches, np.full(1, 0.5, np.float32), np.ones(1, np.int32), np.zeros(1, bool))
        found.append(train_steps(program)(state, inputs.batches, inputs.schedule, 1, numbers_of(run)))
    whole, parts = found
    assert float(parts["sums"]["loss"]) == pytest.approx(float(whole["sums"]["loss"]), rel=1e-6)
    assert float(parts["sums"]["gradient_norm"]) == pytest.approx(float(whole["sums"]["gradient_norm"]), rel=1e-5)


def test_the_loss_is_the_mean_over_what_is_scored(data, tiny_run):
    import jax

    run = tiny_run(data=data(pack=PACK))
    params = initial_state(program_of(run))(jax.random.key(0), numbers_of(run))["params"]
    found = evaluate(run, params, open_source(run))()
    assert found.loss == pytest.approx(math.log(V), rel=1e-5), "a head of zeros knows nothing"
    assert found.loss_by_position == pytest.approx([math.log(V)] * 8, rel=1e-5)


def test_a_text_says_itself_where_documents_end(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text("abc " * 99)
    data = resolve(TextData(source="text", path=str(tmp_path), vocab=128, pack={"mask": "documents"}))
    assert data.pack == Pack(mask="documents", end=0)
    assert resolve(data).pack == data.pack
    with pytest.raises(InputError, match=r"data.pack.end: is 7, and documents of this text end with 0"):
        resolve(TextData(source="text", path=str(tmp_path), vocab=128, pack={"mask": "documents", "end": 7}))


def test_what_cannot_be_kept_apart_is_refused(data, tiny_run, own_run):
    for pack, says in (({"mask": "documents"}, "name its number"), (PACK | {"end": V}, "no token of a vocab of 16")):
        with pytest.raises(ValidationError, match=says):
            TokenData(source="tokens", path="x", vocab=V, pack=pack)
    with pytest.raises(ValidationError, match="sees no documents; leave it out"):
        own_run(data=data(pack=PACK))
    run, other = tiny_run(data=data(pack=PACK)), data(pack=PACK).model_copy(update={"fingerprint": "0" * 16})
    with pytest.raises(ValidationError, match=r"evaluation.sets.x: pack: is that of the data"):
        run.model_validate(run.model_dump() | {"evaluation": {"sets": {"x": other}}})
