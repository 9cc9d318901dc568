"""The steepest fall of a curve is found where it is known."""

import numpy as np
import pytest

from nextscale.fit.curves.emergence import steepest_fall
from nextscale.fit.errors import InputError

TOKENS = np.geomspace(1e4, 1e7, 60)


def test_a_step_is_found_where_it_is():
    fall = steepest_fall(TOKENS, -4 / (1 + np.exp(-8 * np.log(TOKENS / 4e5))))
    assert fall.tokens == pytest.approx(4e5, rel=0.02)
    assert fall.share > 0.85
    assert fall.whole == pytest.approx(4, rel=0.01)


def test_a_fall_within_a_point_of_the_curve_is_found_there():
    fall = steepest_fall(TOKENS, np.where(TOKENS < 4e5, 0.0, -1.0))
    first = TOKENS[TOKENS >= 4e5][0]
    assert first / fall.tokens == pytest.approx(np.sqrt(TOKENS[1] / TOKENS[0]), rel=0.01)
    assert fall.share == 1


def test_a_line_falls_nowhere_more_than_elsewhere():
    fall = steepest_fall(TOKENS, -np.log(TOKENS))
    assert fall.share == pytest.approx(np.log(2) / np.log(1e3), rel=0.01)


def test_what_never_falls_has_no_share():
    assert steepest_fall(TOKENS, np.log(TOKENS)).share == 0


def test_too_few_points_are_refused():
    with pytest.raises(InputError, match=r"raise evaluation\.points"):
        steepest_fall(TOKENS[:4], TOKENS[:4])
