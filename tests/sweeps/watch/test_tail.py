"""A file that grows is read as if it were read once."""

import json

from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from nextscale.model.record import append_row, read_rows
from nextscale.sweeps.watch.tail import Appended, Tail

ROWS = [{"i": i, "text": "é" * i} for i in range(12)]


@given(st.lists(st.integers(0, 400), max_size=8))
def test_wherever_the_writer_was_when_it_was_looked_at(tmp_path_factory, cuts):
    file = tmp_path_factory.mktemp("tail") / "rows.jsonl"
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    tail, found, written = Tail(file), [], 0
    for cut in [*sorted(cuts), len(whole)]:
        with file.open("ab") as writer:
            writer.write(whole[written:cut])
        written = max(written, min(cut, len(whole)))
        rows, restarted = tail.look()
        assert not restarted
        found += rows
    assert found == ROWS == read_rows(epath.Path(file))


def test_what_a_crash_cut_short_is_no_row(tmp_path):
    file = epath.Path(tmp_path / "rows.jsonl")
    append_row(file, {"i": 1})
    tail = Tail(tmp_path / "rows.jsonl")
    assert tail.look().rows == [{"i": 1}]
    with file.open("a") as writer:
        writer.write('{"i": 2')
    assert tail.look() == Appended([], False)
    append_row(file, {"i": 3})
    assert tail.look() == Appended([{"i": 3}], False)


def test_another_file_in_its_place_is_read_from_its_start(tmp_path):
    file, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    tail = Tail(file)
    assert tail.look() == Appended([], False), "it is not there yet"
    for row in ROWS[:4]:
        append_row(epath.Path(file), row)
    assert tail.look().rows == ROWS[:4]
    for row in ROWS:
        append_row(epath.Path(other), row)
    other.replace(file)
    assert tail.look() == Appended(ROWS, True)
    file.write_text(json.dumps(ROWS[0]) + "\n")
    assert tail.look() == Appended(ROWS[:1], True), "it was cut"
    file.unlink()
    assert tail.look() == Appended([], True)
    assert tail.look() == Appended([], False)
    append_row(epath.Path(file), ROWS[1])
    assert tail.look() == Appended([ROWS[1]], False)
