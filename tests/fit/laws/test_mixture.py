"""Several laws as one: with one weight it is that law, with several their weighted geometric mean."""

import numpy as np
import pytest

from nextscale.fit.errors import InputError
from nextscale.fit.laws.catalogue import CHINCHILLA, SATURATING, SIZE_DATA
from nextscale.fit.laws.loss import Loss
from nextscale.fit.laws.mixture import Mixture

THETAS = [
    CHINCHILLA.theta({"E": 1.8, "A": 480, "B": 2100, "alpha": 0.35, "beta": 0.37}),
    SIZE_DATA.theta({"E": 1.5, "B": 40, "G": 600, "beta": 0.14, "gamma": 0.51, "delta": -0.13}),
]
AT = {"N": np.array([1e8, 1e9, 1e10]), "D": np.array([2e9, 2e10, 2e11])}


@pytest.fixture(scope="module")
def mixture():
    return Mixture.of([CHINCHILLA, SIZE_DATA])


@pytest.mark.parametrize("place, law", [(0, CHINCHILLA), (1, SIZE_DATA)])
def test_of_one_weight_it_is_that_law_to_the_bit(mixture, place, law):
    theta = mixture.vector({place: 1.0}, THETAS)[None]
    assert np.array_equal(mixture.log_losses(theta, AT), law.log_losses(THETAS[place][None], AT))
    assert mixture.natural(theta)[0, 0] == pytest.approx(law.natural(THETAS[place])[0], rel=1e-14)


def test_of_two_it_is_their_weighted_geometric_mean(mixture):
    theta = mixture.vector({0: 0.25, 1: 0.75}, THETAS)[None]
    each = [law.log_losses(own[None], AT)[0] for law, own in zip((CHINCHILLA, SIZE_DATA), THETAS, strict=True)]
    assert mixture.log_losses(theta, AT)[0] == pytest.approx(0.25 * each[0] + 0.75 * each[1], rel=1e-14)
    assert mixture.natural(theta)[0, 0] == pytest.approx(1.8**0.25 * 1.5**0.75, rel=1e-14)


def test_each_vector_may_have_points_of_its_own(mixture):
    thetas = np.array([mixture.vector({0: 1.0}, THETAS), mixture.vector({0: 0.5, 1: 0.5}, THETAS)])
    each = {name: np.stack([values, values[::-1]]) for name, values in AT.items()}
    apart = mixture.log_losses_each(thetas, each)
    for row in range(2):
        own = {name: values[row] for name, values in each.items()}
        assert apart[row] == pytest.approx(mixture.log_losses(thetas[row : row + 1], own)[0], rel=1e-12)


def test_laws_in_other_variables_are_no_mixture():
    with pytest.raises(InputError, match="different variables"):
        Mixture.of([CHINCHILLA, SATURATING])


def test_it_is_not_fitted_itself(mixture):
    with pytest.raises(InputError, match="name one of these with --law"):
        mixture.problem(AT, np.ones(3), Loss(), {})
