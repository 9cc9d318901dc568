"""Runs side by side: each is the run that it is alone, whatever happens to the others."""

import jax
import numpy as np
import pytest

from nextscale.model.data.sources import open_source
from nextscale.model.errors import Stopped
from nextscale.model.training import pack, step
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.dispatch import dispatches
from nextscale.model.training.pack import train_together
from nextscale.model.training.train import train, training

NEVER = CheckpointPolicy(every_seconds=3600)


def clock_of(speed):
    """A clock by which a call of n runs takes `speed(n)` seconds; told of each call by `watched`."""
    now = [0.0]

    def ticked(calls, *, wait, real=pack.execute_together):
        now[0] += speed(len(calls))
        return real(calls, wait=wait)

    return ticked, lambda: now[0]


@pytest.fixture
def together(monkeypatch, run_directory):
    """Trains runs side by side, where `speed` says how fast; returns what came of each and the sizes of the calls."""

    def run_all(runs, *, max_together=8, speed=lambda n: 1.0, name="together", options=lambda i: {}):
        ticked, clock = clock_of(speed)
        sizes = []

        def counted(calls, *, wait):
            sizes.append(len(calls))
            return ticked(calls, wait=wait)

        monkeypatch.setattr(pack, "execute_together", counted)
        directories = [type(run_directory)(run_directory.path.parent / name / str(i)) for i in range(len(runs))]
        started = [
            training(run, directory, **{"checkpoint": NEVER} | options(i))
            for i, (run, directory) in enumerate(zip(runs, directories, strict=True))
        ]
        return train_together(started, max_together=max_together, clock=clock), sizes, directories

    return run_all


@pytest.fixture
def alone(run_directory):
    def run_all(runs):
        return [train(r, type(run_directory)(run_directory.path.parent / "alone" / r.run_id)) for r in runs]

    return run_all


@pytest.fixture
def runs(tiny_run):
    """Four seeds and rates of one shape, of 700 steps, six calls each."""
    return [tiny_run(steps=700, seed=i, lr=0.003 + 0.001 * i) for i in range(4)]


@pytest.mark.slow
def test_a_call_of_four_runs_is_four_calls(runs):
    def calls():
        for run in runs:
            dispatch = next(dispatches(run, open_source(run), 0, ()))
            program, numbers = step.program_of(run), step.numbers_of(run)
            state = step.initial_state(program)(jax.random.key(run.seed), numbers)
            yield step.Call(program, state, dispatch.inputs._replace(steps=np.array([20])), numbers)

    apart = [step.execute(call) for call in calls()]
    for found, expected in zip(pack.execute_together([*calls()], wait=True), apart, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(np.ravel(a), np.ravel(b), rtol=1e-4, atol=1e-6), found, expected
        )
    assert len({float(sums["loss"]) for _, sums in apart}) == 4


@pytest.mark.slow
def test_each_run_is_what_it_is_alone(runs, together, alone):
    found, sizes, directories = together(runs, max_together=4)
    assert sizes[-1] == 4
    for record, expected, directory in zip(found, alone(runs), directories, strict=True):
        assert record["run_id"] == expected["run_id"]
        assert record["loss"] == pytest.approx(expected["loss"], rel=5e-3), "700 steps let the last bits grow"
        first, *_ = directory.metrics()
        assert first["tokens"] == 128 * 32
        assert directory.record() == record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("speed", "fastest"),
    [
        (lambda n: 1.0, 4),
        (lambda n: 1.0 if n < 4 else 2.0, 2),
        (float, 1),
    ],
)
def test_as_many_are_put_together_as_is_fastest(tiny_run, together, speed, fastest):
    runs = [tiny_run(steps=1200, seed=i) for i in range(4)]
    _, sizes, _ = together(runs, max_together=4, speed=speed)
    assert sizes[-1] == fastest
    assert sum(sizes) == 4 * 10


@pytest.mark.slow
def test_it_is_compiled_once_for_each_number_of_runs(runs, together):
    step.train_packed.cache_clear()
    together(runs, max_together=4)
    assert step.train_packed.cache_info().currsize == 1
    assert step.train_packed(step.program_of(runs[0]))._cache_size() == 2, "two and four"


def test_one_that_diverges_or_is_stopped_leaves_the_others_alone(tiny_run, together, alone):
    good, bad, halted = (tiny_run(steps=700, lr=lr, seed=i) for i, lr in enumerate((0.004, 1e5, 0.004)))
    found, _, directories = together([good, bad, halted], options=lambda i: {"stop": lambda: i == 2})
    assert found[0]["loss"] == pytest.approx(alone([good])[0]["loss"], rel=5e-3)
    assert found[1]["status"] == "diverged"
    assert isinstance(found[2], Stopped)
    assert directories[2].record() is None
    goes_on = train(halted, directories[2])
    assert goes_on["loss"] == pytest.approx(alone([halted])[0]["loss"], rel=5e-3)


@pytest.mark.slow
def test_runs_that_differ_take_turns(tiny_run, together, alone):
    runs = [tiny_run(lr=0.004, **{"steps": 700} | of) for of in ({}, {"width": 16}, {"steps": 500}, {"seed": 1})]
    found, sizes, _ = together(runs)
    assert [record["loss"] for record in found] == pytest.approx([record["loss"] for record in alone(runs)], rel=5e-3)
    assert max(sizes) == 2


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), ValueError("no")])
def test_too_many_for_the_memory_or_the_compiler_are_fewer(runs, together, monkeypatch, error):
    real = step.train_packed

    def train_packed(program):
        def steps(state, *rest):
            if len(jax.tree.leaves(state)[0]) == 4:
                raise error
            return real(program)(state, *rest)

        return steps

    monkeypatch.setattr(pack, "train_packed", train_packed)
    found, sizes, _ = together(runs, max_together=4)
    assert sizes[-1] == 2
    assert np.isfinite([record["loss"] for record in found]).all()
    assert {record["micro_batches"] for record in found} == {1}
