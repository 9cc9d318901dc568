"""How long runs take, by those that were timed."""

import numpy as np
import pytest

from nextscale.cluster.hardware.speed import Speed
from nextscale.model.accounting import flops_per_token
from nextscale.model.config.data import MarkovData
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.config.training import TrainingConfig


def config(width, steps=1000, sequences=4, context=64):
    return RunConfig(
        data=MarkovData(source="markov", vocab=64),
        model=ModelFamily(depth=2, heads=4, context=context, position="alibi").at(width, 64),
        training=TrainingConfig(batch_tokens=sequences * context, steps=steps, lr=0.01),
    )


def flops_of(run):
    return flops_per_token(run.model) * run.tokens


def truth(run):
    """Two seconds to start, a millisecond a step, 10 GFLOP/s."""
    return 2 + 1e-3 * run.training.steps + flops_of(run) / 1e10


def speed(runs, seconds, **other):
    return mixed([(run, took, other) for run, took in zip(runs, seconds, strict=True)])


def mixed(rows):
    """What is known of runs: each with its seconds, and what else its account says."""
    configs = {str(i): run for i, (run, _, _) in enumerate(rows)}
    told = [
        {
            "run_id": str(i),
            "accelerator": "cpu",
            "chips": 1,
            "seconds": took,
            "flops_kept": int(flops_of(run)),
            "utilisation": 0.1,
            "outcome": "finished",
            **other,
        }
        for i, (run, took, other) in enumerate(rows)
    ]
    return Speed.from_accounts(told, configs.get)


RUNS = [config(width, steps) for width in (16, 32, 64, 128) for steps in (500, 2000, 8000)]


def test_other_sizes_and_lengths_follow():
    found = speed(RUNS, map(truth, RUNS))
    for run in (config(24, 1000), config(96, 20_000), config(192, 300), config(48, 3000, sequences=8)):
        assert found.seconds(run, flops_of(run), "cpu", 1) == pytest.approx(truth(run), rel=0.02)


def test_some_that_were_disturbed_do_not_matter():
    seconds = np.array([truth(run) for run in RUNS])
    seconds[[1, 6, 10]] *= 5
    found, run = speed(RUNS, seconds), config(48, 4000)
    assert found.seconds(run, flops_of(run), "cpu", 1) == pytest.approx(truth(run), rel=0.15)


def test_what_those_of_like_shape_take_more_is_taken_too():
    small = [config(width, steps) for width in (8, 12) for steps in (300, 600, 1200, 2500, 5000)]
    large = [config(width, steps) for width in (128, 160) for steps in (300, 600, 1200, 2500, 5000)]
    found = speed([*small, *large], [truth(run) * (1 if run in small else 1.5) for run in (*small, *large)])
    for run, times in ((config(8, 2000), 1.0), (config(144, 2000), 1.5)):
        assert found.seconds(run, flops_of(run), "cpu", 1) == pytest.approx(times * truth(run), rel=0.15)


@pytest.mark.parametrize(
    "run, slot",
    [
        (config(1024), ("cpu", 1)),
        (config(32, context=1024), ("cpu", 1)),
        (config(32), ("h100", 1)),
        (config(32), ("cpu", 8)),
    ],
    ids=["too large", "too long a context", "elsewhere", "another slot"],
)
def test_nothing_is_said_of_what_is_unlike_all(run, slot):
    assert speed(RUNS, map(truth, RUNS)).seconds(run, flops_of(run), *slot) is None


@pytest.mark.parametrize("other", [{"outcome": "lost"}, {"utilisation": 3.0}, {"flops_kept": 0}])
def test_attempts_that_tell_nothing_are_left_out(other):
    assert not speed(RUNS, map(truth, RUNS), **other)


def test_one_timed_run_tells_of_its_like():
    found = speed(RUNS[:1], [10.0])
    assert found.seconds(RUNS[0], flops_of(RUNS[0]), "cpu", 1) == pytest.approx(10)


def test_runs_that_compute_their_blocks_twice_are_like_each_other():
    once = speed(RUNS, map(truth, RUNS))
    rows = [(run, truth(run), {}) for run in RUNS]
    rows += [(run, 1.3 * truth(run), {"recompute": i % 2 == 0 or "full"}) for i, run in enumerate(RUNS)]
    both = mixed(rows)
    run = config(48, 3000)
    alone = once.seconds(run, flops_of(run), "cpu", 1)
    assert both.seconds(run, flops_of(run), "cpu", 1) == pytest.approx(alone, rel=0.05)
    assert both.seconds(run, flops_of(run), "cpu", 1, recompute="full") == pytest.approx(1.3 * alone, rel=0.05)
