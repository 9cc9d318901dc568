"""Tables in a terminal: whatever its width, no cell is cut."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nextscale.sweeps.show.tables import Screen, Table

HEADS = ["FLOPs", "parameters of the best", "tokens", "loss (nats/token)", "largest run fitted", "why"]
ROW = ["1.02e20", "1.23B [1.1B, 2B]", "28.7B", "2.1234 [2.1123, 2.2123]", "3.8e25 times", "too few sizes to tell"]


def printed(table, width):
    screen = Console(width=width, file=io.StringIO(), legacy_windows=False)
    screen.print(table.rich())
    return screen.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("wraps", [False, True])
def test_no_number_is_cut_in_a_narrow_terminal(width, wraps):
    lines = printed(Table("found", HEADS, [ROW, ROW], wraps=wraps), width)
    text = "\n".join(lines)
    assert "…" not in text and max(map(len, lines)) <= width
    whole = ROW if not wraps else [word for cell in ROW for word in cell.split()]
    assert all(text.count(cell) >= 2 for cell in whole)


def test_what_does_not_fit_goes_below_beside_the_first_column():
    lines = printed(Table("found", HEADS, [ROW]), 60)
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) > 1 and all("1.02e20" in line for line in rows)


def test_what_fits_is_one_table_as_wide_as_it_is():
    lines = printed(Table("found", HEADS, [ROW]), 200)
    assert len(lines) == 6
    assert len(lines[1]) == 1 + sum(3 + max(map(len, pair)) for pair in zip(HEADS, ROW, strict=True))


@given(st.integers(20, 100), st.lists(st.lists(st.text("ab1. é", max_size=30), min_size=3, max_size=3), max_size=3))
def test_every_character_is_shown_at_any_width(width, rows):
    lines = printed(Table("", ["a", "b", "c"], rows), width)
    assert max(map(len, lines)) <= width
    cells = "".join(cell for row in rows for cell in row)
    shown = "".join(line for line in lines if line.startswith("│"))
    assert all(shown.count(letter) >= cells.count(letter) for letter in "ab1.é")


def test_a_plain_screen_has_every_cell_after_what_it_is_and_no_boxes():
    screen = Screen(width=40, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    screen.be_plain()
    screen.print(Table("found", HEADS, [ROW]).rich(), soft_wrap=True)
    text = screen.file.getvalue()
    for head, cell in zip(HEADS, ROW, strict=True):
        assert f"{head}: {cell}" in text
    assert text.isascii(), "boxes are drawn with other letters"
