"""YAML as people write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.sweeps.spec import documents


class TestNumbers:
    @pytest.mark.parametrize("text", ["1e18", "1E18", "1.0e18", "1.e+18", "1_000e15"])
    def test_exponents_are_numbers(self, text):
        assert documents.parse(f"x: {text}", "t").content == {"x": 1e18}

    @pytest.mark.parametrize("text", ["no", "on", "1e", "e5", "1.2.3", "2024-01-01", "2:08", "0x10"])
    def test_words_stay_words(self, text):
        assert documents.parse(f"x: {text}", "t").content == {"x": text}

    def test_leading_zeros_change_nothing(self):
        assert documents.parse("x: 0200", "t").content == {"x": 200}

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_every_float_survives(self, value):
        assert documents.parse(f"x: {value!r}", "t").content["x"] == value
