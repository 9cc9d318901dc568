"""Schedules, and what each number of the optimiser does."""

from typing import ClassVar

import jax
import numpy as np
import optax
import pytest

from nextscale.model.config.parametrization import Size
from nextscale.model.config.training import TrainingConfig
from nextscale.model.training.optimizer import hyperparameters, optimizer, unit_schedule

BASE = Size(1, 1, 1, 1)


def training(**options):
    return TrainingConfig(**{"batch_tokens": 8, "steps": 100, "lr": 0.1} | options)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
def test_schedules_warm_up_to_the_peak_and_end_where_they_say(schedule):
    course = unit_schedule(training(schedule=schedule, final_lr=0.1), np.arange(101))
    assert np.all(np.diff(course[:11]) > 0)
    assert course[10] == course.max() == 1
    assert np.all(np.diff(course[10:]) <= 0)
    assert course[100] == pytest.approx(1 if schedule == "constant" else 0.1)


def test_wsd_stays_at_the_peak_until_its_cooldown():
    course = unit_schedule(training(schedule="wsd", cooldown=0.2), np.arange(100))
    assert np.all(course[10:81] == 1)
    np.testing.assert_allclose(np.diff(course[80:]), -1 / 20, rtol=1e-5)


def test_first_steps_of_a_wsd_trunk_do_not_depend_on_its_length_after_warm_up():
    short, long = (training(schedule="wsd", steps=n, warmup=10 / n) for n in (100, 200))
    np.testing.assert_array_equal(unit_schedule(short, np.arange(80)), unit_schedule(long, np.arange(80)))


def step(config, params, gradient, groups, size=BASE, unit=1.0):
    numbers = hyperparameters(config, groups=groups, size=size)
    params, gradient = jax.tree.map(np.float32, (params, gradient))
    rule = optimizer(config.optimizer, groups, numbers, np.float32(unit))
    updates, _ = rule.update(gradient, rule.init(params), params)
    return optax.apply_updates(params, updates)


def test_each_parameter_learns_and_decays_by_its_multipliers():
    params = {"hidden": np.ones(3), "norm": np.ones(3)}
    gradient, groups = jax.tree.map(lambda p: np.full(3, 0.1), params), {name: name for name in params}
    config, half = training(parametrization="completep", weight_decay=0.1), Size(0.5, 1, 0.5, 0.5)
    moved = step(config, params, gradient, groups, half)
    np.testing.assert_allclose(moved["hidden"], 1 - 0.1 * 0.5 - 0.1, rtol=1e-4)
    np.testing.assert_allclose(moved["norm"], 1 - 0.1, rtol=1e-4)
    same = step(training(parametrization="standard"), params, gradient, groups, half)
    np.testing.assert_allclose(same["hidden"], 1 - 0.1, rtol=1e-4)


def test_epsilon_is_that_of_each_parameter():
    params, groups = {"hidden": np.zeros(1), "head": np.zeros(1)}, {"hidden": "hidden", "head": "head"}
    config, size = training(parametrization="completep", eps=0.1), Size(1, 0.25, 1, 1)
    moved = step(config, params, {"hidden": np.full(1, 0.1), "head": np.full(1, 0.1)}, groups, size)
    np.testing.assert_allclose(moved["hidden"], -0.1 * 0.1 / (0.1 + 0.1 * 0.25), rtol=1e-5)
    np.testing.assert_allclose(moved["head"], -0.1 * 0.1 / (0.1 + 0.1), rtol=1e-5)


def test_weight_decay_does_not_depend_on_the_learning_rate():
    params, nothing, groups = {"w": np.ones(2)}, {"w": np.zeros(2)}, {"w": "hidden"}
    for lr in (0.1, 0.001):
        decayed = step(training(lr=lr, weight_decay=0.01), params, nothing, groups, unit=0.5)
        np.testing.assert_allclose(decayed["w"], 1 - 0.01 * 0.5, rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    params, groups = {"a": np.zeros(1), "b": np.zeros(1)}, {"a": "norm", "b": "norm"}
    large = {"a": np.array([30.0]), "b": np.array([40.0])}
    scaled = {"a": np.array([0.6]), "b": np.array([0.8])}
    config = training(eps=1.0)  # an epsilon this large lets the size of a gradient through Adam
    for name in params:
        np.testing.assert_allclose(
            step(config, params, large, groups)[name], step(config, params, scaled, groups)[name], rtol=1e-5
        )


class TestMuon:
    GROUPS: ClassVar = {"embedding": "embedding", "hidden": "hidden", "output": "output", "head": "head"}

    def moved(self, size=BASE, **options):
        """By how much each group moves in the first step, from zero, 12 x 48."""
        rng = np.random.default_rng(0)
        params = {name: np.zeros((12, 48)) for name in self.GROUPS}
        gradient = {name: rng.standard_normal((12, 48)) for name in self.GROUPS}
        return step(training(optimizer="muon", clip=1e6, **options), params, gradient, self.GROUPS, size)

    def test_the_matrices_inside_the_blocks_move_by_orthogonal_ones_the_rest_by_adam(self):
        moved = self.moved(parametrization="standard")
        for name in ("hidden", "output"):
            singular = np.linalg.svd(moved[name], compute_uv=False)
            # Five iterations bring singular values near one, not to it (Jordan et al. 2024: 0.7 to 1.2).
            assert np.all((singular / (0.1 * 0.2 * 48**0.5) > 0.6) & (singular / (0.1 * 0.2 * 48**0.5) < 1.3))
        for name in ("embedding", "head"):
            np.testing.assert_allclose(np.abs(moved[name]), 0.1, rtol=1e-3)

    def test_its_entries_are_as_large_as_adam_s_are_at_their_rms(self):
        moved = self.moved(parametrization="standard")
        rms = np.sqrt(np.square(moved["hidden"]).mean())
        assert rms == pytest.approx(0.1 * 0.2, rel=0.15)

    def test_under_mup_the_rate_of_a_matrix_falls_with_the_root_of_the_width(self):
        standard, mup = (self.moved(Size(1 / 4, 1, 1 / 4, 1 / 4), parametrization=name) for name in ("standard", "mup"))
        np.testing.assert_allclose(mup["hidden"], standard["hidden"] / 2, rtol=1e-5)
        np.testing.assert_allclose(mup["head"], standard["head"] / 4, rtol=1e-5)

    def test_its_decay_is_that_of_adamw(self):
        params, groups = {"w": np.ones((4, 4))}, {"w": "hidden"}
        nothing = {"w": np.zeros((4, 4))}
        for lr in (0.1, 0.001):
            config = training(optimizer="muon", lr=lr, weight_decay=0.01)
            np.testing.assert_allclose(step(config, params, nothing, groups)["w"], 0.99, rtol=1e-5)


def test_sgd_keeps_its_momentum():
    config = training(optimizer="sgd", parametrization="standard", momentum=0.5, clip=100)
    numbers = hyperparameters(config, groups={"w": "hidden"}, size=BASE)
    params, gradient = {"w": np.zeros(1, np.float32)}, {"w": np.ones(1, np.float32)}
    rule = optimizer("sgd", {"w": "hidden"}, numbers, np.float32(1))
    state, walked = rule.init(params), []
    for _ in range(3):
        updates, state = rule.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        walked.append(float(params["w"][0]))
    np.testing.assert_allclose(np.diff([0, *walked]), [-0.1, -0.15, -0.175], rtol=1e-6)


def test_a_cooldown_by_one_less_the_root_falls_fast_first():
    course = unit_schedule(training(schedule="wsd", cooldown=0.25, cooldown_shape="1-sqrt"), np.arange(101))
    assert np.all(course[10:76] == 1)
    # Haegele et al. 2024: 1 - sqrt((n - (N - cooldown)) / cooldown)
    np.testing.assert_allclose(course[[76, 84, 91, 100]], 1 - np.sqrt([1 / 25, 9 / 25, 16 / 25, 1]), atol=1e-7)


def test_a_warm_up_in_tokens_is_the_same_for_every_length():
    short, long = (training(schedule="wsd", steps=n, warmup_tokens=80) for n in (100, 1000))
    np.testing.assert_array_equal(unit_schedule(short, np.arange(80)), unit_schedule(long, np.arange(80)))
    assert unit_schedule(short, np.arange(12))[9:].tolist() == pytest.approx([10 / 11, 1, 1])
