"""Sweeps without a cluster: their runs are trained in this process, one after another."""

import contextlib
import time
from unittest import mock

from nextscale.cluster.controller.backend import Ended, Slot
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.ray.worker import Worker
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.report.report import Report
from nextscale.sweeps.run import session
from nextscale.sweeps.run.loop import run_study


class InProcessBackend:
    """One worker, here; `before` sees each job as it starts and may end it."""

    before = staticmethod(lambda job: None)

    def __init__(self, address, pools="auto", *, sweep="", priority=0, **of_worker):
        self.worker, self.job = Worker(**of_worker), None

    def pools(self):
        return {"here": Pool(accelerator="cpu")}

    def slots(self):
        return [Slot("here", "here", ("here",))]

    def start(self, slot, job, seat):
        self.job, self.seat = job, seat

    def stop(self, slot):
        pass

    kill = renew = stop

    def wait(self, timeout):
        job, self.job = self.job, None
        return [Ended("here", job, self.before(job) or self.worker.run(job, self.seat, 1))] if job else []

    def now(self):
        return time.monotonic()

    def waiting(self, runs):
        pass

    def notices(self):
        return []

    def close(self):
        pass


def run_alone(spec, out, *, page=True):
    """Runs a sweep to its end, with or without its page; its summary."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(session, "RayBackend", InProcessBackend))
        if not page:
            stack.enter_context(mock.patch.object(Report, "write"))
        return run_study(load_spec(spec), out)
