"""When a sweep will be done, by its own pace."""

import pytest

from nextscale.sweeps.plan.time_left import AtWork, time_left


def left(sweep, slots, *, seconds=0.0):
    """As of so many seconds after the newest attempt was started."""
    rows, runs = sweep.accounts.rows, {run.config.run_id: run for run in sweep.runs}
    begun = {row["run_id"] for row in rows}
    at_work = [
        AtWork(one, seconds, max((row["tokens"] for row in sweep.store.run(one.run_id).metrics()), default=0))
        for one in sweep.accounts.open.values()
    ]
    up = [next(row for row in reversed(rows) if row["slot"] == slot) for slot in slots]
    waiting = [run_id for run_id in runs if run_id not in begun]
    return time_left(runs, waiting, at_work, up, rows, lambda run_id: runs[run_id].config)


def test_nobody_knows_before_a_run_has_told_its_pace(staged):
    sweep = staged()
    sweep.start(sweep.runs[0])
    assert left(sweep, ["here-0"]) is None


def test_before_any_has_ended_those_at_work_tell(staged):
    sweep = staged()
    first = sweep.runs[0]
    sweep.start(first)
    sweep.train(first, 0.5)
    found = left(sweep, ["here-0"], seconds=30.0)
    others = sum(run.own_flops for run in sweep.runs[1:])
    assert found.seconds == pytest.approx(30 + 60 * others / first.own_flops, rel=0.02)
    assert (found.timed, found.slots) == (0, 1)


def test_two_slots_share_what_is_left_and_the_held_out_runs_come_last(staged):
    sweep = staged()
    fitted = [run for run in sweep.runs if run.role == "fit"]
    held_out = [run for run in sweep.runs if run.role == "holdout"]
    for slot, run in enumerate(fitted):
        sweep.start(run, f"here-{slot % 2}")
        sweep.land(run)
    found = left(sweep, ["here-0", "here-1"])
    one = left(sweep, ["here-0"])
    assert len(held_out) == 2
    assert found.timed == len(fitted)
    assert one.seconds == pytest.approx(found.seconds * 2, rel=0.25), "two runs of much the same cost"
    sweep.start(held_out[0], "here-0")
    sweep.train(held_out[0], 0.5)
    later = left(sweep, ["here-0"], seconds=100.0)
    assert later.seconds == pytest.approx(100 + one.seconds / 2, rel=0.25), "half of the first, by its own pace"
    sweep.land(held_out[0])
    sweep.start(held_out[1], "here-0")
    sweep.land(held_out[1])
    assert left(sweep, ["here-0"]).seconds == 0.0


def test_a_branch_waits_for_its_trunk(staged):
    sweep = staged(
        training={"batch_tokens": 128, "schedule": "wsd", "warmup_tokens": 2560, "lr": 0.01},
        design={"kind": "wsd", "widths": [8], "tokens": [1.0e5, 4e5]},
        holdout=None,
    )
    branch, trunk = sorted(sweep.runs, key=lambda run: run.tokens)
    assert branch.trunk == trunk.config
    sweep.start(trunk, "here-0")
    sweep.train(trunk, 0.125)
    found = left(sweep, ["here-0"] * 2, seconds=100.0)
    to_branch = 100 / 0.125 * (branch.branches_at / trunk.tokens - 0.125)
    rest_of_trunk, own = 700.0, 800 * branch.own_flops / trunk.own_flops
    assert found.seconds == pytest.approx(max(rest_of_trunk, to_branch + own), rel=0.02)
