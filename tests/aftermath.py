"""What a sweep has left behind after whatever befell it, against one that was left alone."""

import pandas as pd

from nextscale.cluster.controller.accounts import Accounts
from nextscale.model.record import read_rows
from nextscale.sweeps.store.store import load
from nextscale.sweeps.store.verify import verify

DIFFERS = {
    *("folder", "attempts", "seconds", "device_hours", "device_hours_wasted", "usd", "usd_wasted", "flops_lost"),
    *("flops_kept", "utilisation", "pool"),
}
"""Columns: where a run lies, and what it took to get there. A run may have come to its end in a worker whose own end
was all that was heard of it: its accounts then call the attempt lost."""


class Records:
    """The records of a sweep at work, looked at again and again: each is written once."""

    def __init__(self, out):
        self.out, self.written = out, {}

    def look(self):
        """How many there are.

        Raises:
            AssertionError: one was written again.
        """
        for path in self.out.glob("runs/*/record.json"):
            written = path.stat().st_mtime_ns
            assert self.written.setdefault(path, written) == written, f"{path} was written twice"
        return len(self.written)


def faults(out, undisturbed):
    """What a sweep that has come to its end left otherwise than one that nothing befell, in words."""
    expected, found = load(undisturbed), load(out)
    _, told = verify(out, deep=True)
    wrong = [str(fault) for fault in told]
    same = [column for column in expected if column not in DIFFERS and column in found]
    try:
        pd.testing.assert_frame_equal(found[same], expected[same], check_exact=True)
    except AssertionError as error:
        wrong.append(f"the table is another: {error}")
    if not (found["flops_kept"] <= expected["flops_kept"]).all():
        wrong.append("something is kept twice")
    for path in sorted(out.glob("runs/*")):
        ends = [attempt["status"] for attempt in read_rows(path / "attempts.jsonl")].count("finished")
        if ends > 1:
            wrong.append(f"{path.name} was finished {ends} times")
        if (path / "metrics.jsonl").read_bytes() != (undisturbed / "runs" / path.name / "metrics.jsonl").read_bytes():
            wrong.append(f"{path.name} has another curve")
    if left := Accounts(out / "accounts.jsonl").open:
        wrong.append(f"{len(left)} attempts were never settled")
    return wrong
