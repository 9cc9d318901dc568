"""Numbers as people write them: nothing that is read back is off by more than the digits shown."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.sweeps.show.formats import (
    count,
    duration,
    interval,
    interval_between,
    number,
    params_label,
    percent,
    power_of_ten,
    raised_powers,
    spelled,
    typed,
)
from nextscale.sweeps.show.tables import table_of

UNITS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@given(st.floats(1, 9e14))
def test_a_count_is_read_back_to_three_digits(value):
    text = count(value)
    read = float(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else float(text)
    assert math.isclose(read, value, rel_tol=0.0051)


@pytest.mark.parametrize(
    "value, text",
    [(28_700, "28.7k"), (3.53e6, "3.53M"), (70e9, "70B"), (1.4e12, "1.4T"), (999.6, "1k"), (999_999, "1M"), (12, "12")],
)
def test_counts_are_in_the_unit_that_people_use(value, text):
    assert count(value) == text


@given(st.floats(1e-30, 1e40))
def test_a_number_is_read_back_to_its_digits(value):
    assert math.isclose(float(number(value)), value, rel_tol=0.0051)


@pytest.mark.parametrize(
    "seconds, text", [(42, "42 s"), (450, "7.5 min"), (11_520, "3.2 h"), (12 * 86400, "12 d"), (1e12, "31,700 years")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_what_is_missing_is_a_dash_and_an_end_that_is_missing_is_open():
    assert count(None) == number(None) == percent(None) == interval(None) == interval_between(None, None) == "-"
    assert interval_between(None, 2.5) == "[open, 2.5000]"
    assert interval((1e9, 2e9), count) == "[1B, 2B]"


def test_a_table_has_a_row_for_each_record_and_a_column_for_each_name():
    table = table_of("runs", [{"n": 1e6, "more": 1}, {"n": 2e9}], ("size", "n", count))
    assert (table.columns, table.rows) == (["size"], [["1M"], ["2B"]])


@given(st.floats(1e-12, 1e40))
def test_compute_is_read_back_to_three_digits(value):
    text = power_of_ten(value).translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-"))
    if "×10" in text:
        text = text.replace("×10", "e")
    elif not 1e-3 <= value < 1e5:
        text = f"1e{text.removeprefix('10')}"
    assert math.isclose(float(text), value, rel_tol=0.0051)


@given(st.floats(1e-30, 1e40))
def test_text_has_powers_of_ten_as_they_are_typed_and_on_a_page_raised(value):
    for form in (number, power_of_ten):
        text = typed(f"at {form(value)}, [{form(value)}]")
        ends = [float(part) for part in text.removeprefix("at ").removesuffix("]").split(", [")]
        assert all(math.isclose(end, value, rel_tol=0.0051) for end in ends)
        assert text.isascii() and "e+" not in text and "e-0" not in text
        raised = raised_powers(f"at {number(value)}")
        assert typed(raised) == typed(f"at {number(value)}")
        assert "e" not in raised


@pytest.mark.parametrize("text", ["run 1a2e45b07c1d", "out/1e+12.csv", "v1.2e+3.x", "3b5e+07z"])
def test_what_is_part_of_a_name_is_no_number(text):
    assert typed(text) == raised_powers(text) == text


def test_signs_are_spelled_where_a_terminal_has_ascii_alone():
    assert spelled("2.35% ± 0.59%, 8 × H100 → 2×10³…") == "2.35% +- 0.59%, 8 x H100 -> 2e3..."


@pytest.mark.parametrize(
    "convention, label",
    [
        ("total", "parameters"),
        ("non_embedding", "non-embedding parameters"),
        ("parameters", "parameters"),
        ("model size", "parameters"),
        ("non_embedding_parameters", "non-embedding parameters"),
        ("body", "parameters (body)"),
    ],
)
def test_what_n_counts_is_said_once(convention, label):
    assert params_label(convention) == label
