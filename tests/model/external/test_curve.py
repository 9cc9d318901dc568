"""The curve of a run is the trainer's, whatever the trainer does to its file: rising positions, each a row."""

import json

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from nextscale.model.external.curve import TrainerCurve
from nextscale.model.record import RunDirectory

BATCH = 10


@pytest.fixture
def followed(tmp_path):
    directory = RunDirectory(epath.Path(tmp_path))
    directory.trainer.mkdir()
    return TrainerCurve(directory, BATCH), directory, tmp_path / "trainer" / "metrics.jsonl"


def rows(*steps):
    return "".join(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\n" for step in steps)


def seen(directory):
    return [row["tokens"] for row in directory.metrics()]


def test_steps_are_tokens_and_other_numbers_stay(followed):
    curve, directory, file = followed
    file.write_text('{"step": 3, "loss": 2, "lr": 0.1, "note": "x", "bad": NaN}\n{"tokens": 40.0, "step": 9}\n')
    curve.look()
    first, second = directory.metrics()
    assert first == {"tokens": 30, "loss": 2.0, "step": 3, "lr": 0.1}
    assert second == {"tokens": 40, "loss": None, "step": 9}
    assert curve.position == 40


def test_a_row_is_taken_when_it_is_whole(followed):
    curve, directory, file = followed
    file.write_text(rows(1) + rows(2)[:-5])
    curve.look()
    assert seen(directory) == [10]
    with file.open("a") as more:
        more.write(rows(2)[-5:] + rows(3).rstrip())
    curve.look()
    assert seen(directory) == [10, 20]
    curve.look(ended=True)
    assert seen(directory) == [10, 20, 30]


@pytest.mark.parametrize("how", ["appended", "cut back", "written anew", "replaced"])
def test_what_is_trained_again_counts_once(followed, how):
    curve, directory, file = followed
    file.write_text(rows(1, 2, 3, 4))
    curve.look()
    if how == "appended":
        with file.open("a") as more:
            more.write(rows(3, 4, 5))
    elif how == "cut back":
        file.write_text(rows(1, 2))
        curve.look()
        assert seen(directory) == [10, 20]
        with file.open("a") as more:
            more.write(rows(3, 4, 5))
    else:
        new = file.with_name("new")
        new.write_text(rows(1, 2, 3, 4, 5))
        new.replace(file) if how == "replaced" else file.write_text(new.read_text())
    curve.look(ended=True)
    assert seen(directory) == [10, 20, 30, 40, 50]


def test_an_attempt_begins_with_what_the_trainer_has(followed):
    curve, directory, file = followed
    file.write_text(rows(1, 2, 3))
    curve.look()
    file.write_text(rows(1))
    again = TrainerCurve(directory, BATCH)
    again.look()
    assert seen(directory) == [10]
    assert again.fresh is None
    with file.open("a") as more:
        more.write(rows(2))
    again.look()
    assert again.fresh == 20


BAD = {
    "is no JSON": "{half",
    "is no object of names and values": "[1]",
    "says neither `tokens` nor `step`, as a whole number": '{"loss": 1}',
    "has a `loss` that is no number": '{"step": 1, "loss": "2.0"}',
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_row_is_left_out_and_told(followed, what):
    curve, directory, file = followed
    file.write_text(rows(1) + BAD[what] + "\n" + rows(2))
    curve.look()
    assert seen(directory) == [10, 20]
    assert curve.bad == {what: BAD[what]}


@given(st.lists(st.one_of(st.integers(0, 30), st.text(max_size=8)), max_size=30), st.integers(1, 40))
def test_positions_rise_whatever_is_written(tmp_path_factory, steps, piece):
    directory = RunDirectory(epath.Path(tmp_path_factory.mktemp("run")))
    directory.trainer.mkdir()
    curve, file = TrainerCurve(directory, BATCH), directory.trainer / "metrics.jsonl"
    text = "".join(rows(one) if isinstance(one, int) else one.replace("\n", "") + "\n" for one in steps)
    for i in range(0, len(text), piece):
        with file.open("a") as more:
            more.write(text[i : i + piece])
        curve.look()
    curve.look(ended=True)
    positions, numbers = seen(directory), [BATCH * one for one in steps if isinstance(one, int)]
    assert positions == sorted(set(positions))
    assert positions[-1:] == numbers[-1:]
