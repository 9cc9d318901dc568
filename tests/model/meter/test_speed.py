"""What a run tells of its own speed adds up, and is of the times that passed."""

import io
import json

import pytest

from nextscale.model.accounting import flops_per_token
from nextscale.model.meter.speed import SpeedMeter, memory_high_water
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.train import train


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def metered():
    """A meter of a run of 1000 tokens at 6 FLOPs each on 4 devices, its clock and its rows; `idle` are the devices."""

    class Metered:
        clock, file, idle = Clock(), io.StringIO(), True

        def __init__(self):
            self.meter = SpeedMeter(self.file, 6.0, 4, 1000, lambda: self.idle, self.clock)

        @property
        def rows(self):
            return [json.loads(line) for line in self.file.getvalue().splitlines()]

        def pass_by(self, seconds):
            self.clock.now += seconds

    return Metered()


def test_speed_is_tokens_over_time_and_nothing_is_told_of_the_call_that_compiles(metered):
    for seconds, tokens in ((90, 100), (6, 200), (6, 300), (30, 900), (0.5, 1000)):
        metered.pass_by(seconds)
        metered.meter.reached(tokens)
    assert [(row["tokens"], row["seconds"]) for row in metered.rows] == [(300, 12), (900, 30), (1000, 0.5)]
    assert [row["tokens_per_second"] for row in metered.rows] == pytest.approx([200 / 12, 20, 200])
    assert all(row["flops_per_second"] == pytest.approx(6 * row["tokens_per_second"]) for row in metered.rows)
    assert {row["devices"] for row in metered.rows} == {4}


def test_waiting_counts_where_the_devices_had_nothing_to_do(metered):
    def batches():
        for busy in (True, False, False):
            metered.idle = not busy
            metered.pass_by(7)
            yield busy

    metered.meter.reached(0)
    assert [*metered.meter.reading(batches())] == [True, False, False]
    with metered.meter.saving():
        metered.pass_by(3)
    metered.meter.reached(500)
    metered.pass_by(20)
    metered.meter.reached(1000)
    first, second = metered.rows
    assert (first["data_seconds"], first["checkpoint_seconds"]) == (14, 3)
    assert (second["data_seconds"], second["checkpoint_seconds"]) == (0, 0), "each is of its own row"


def test_memory_is_at_least_what_an_array_takes():
    held = bytearray(2 * 10**8)
    assert memory_high_water() > len(held)


def test_a_run_says_how_fast_it_was_and_is_no_other_run(tiny_run, run_directory, monkeypatch):
    monkeypatch.setattr("nextscale.model.meter.speed._EVERY", 0.0)
    run = tiny_run(steps=400)
    train(run, run_directory, checkpoint=CheckpointPolicy(every_seconds=0))
    rows = run_directory.speed()
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in run_directory.metrics()][1:]
    for row in rows:
        assert row["flops_per_second"] / row["tokens_per_second"] == pytest.approx(flops_per_token(run.model))
    assert sum(row["checkpoint_seconds"] for row in rows) > 0
    assert all(row["data_seconds"] + row["checkpoint_seconds"] <= row["seconds"] + 1e-6 for row in rows)
    run_directory.cut_curves(rows[0]["tokens"])
    assert run_directory.speed() == rows[:1], "what is trained again is timed again"
