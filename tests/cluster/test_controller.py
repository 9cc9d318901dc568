"""The controller against scripted failures: every run done once, or failed with its reason; nobody works twice."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.cluster import controller
from nextscale.cluster.backend import Finished
from nextscale.cluster.controller import RETRIES, run_all
from nextscale.cluster.worker import Job, Outcome


@dataclasses.dataclass
class FakeBackend:
    """Workers that take as many waits as a job's FLOPs, and end as `script` says, attempt by attempt."""

    workers: tuple[str, ...]
    script: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.running = {}
        self.started, self.order, self.replaced = {}, [], []

    def start(self, worker, job):
        assert worker not in self.running, "a worker does one job at a time"
        assert job.run_id not in {j.run_id for j, _ in self.running.values()}, "a run has one worker at a time"
        self.started[job.run_id] = self.started.get(job.run_id, 0) + 1
        self.order.append((worker, job))
        self.running[worker] = [job, job.flops]

    def wait(self, timeout):
        finished = []
        for worker, entry in list(self.running.items()):
            entry[1] -= 1
            if entry[1] <= 0:
                job = entry[0]
                script = self.script.get(job.run_id, [])
                ends = script.pop(0) if script else "finished"
                finished.append(Finished(worker, job, Outcome(ends, f"{ends} at attempt {self.started[job.run_id]}")))
                del self.running[worker]
        return finished

    def replace(self, worker):
        self.replaced.append(worker)

    def close(self):
        pass


def fake_job(name, flops=1.0, shape="s", steps=1):
    return Job(run_id=name, config=None, directory=name, flops=flops, steps=steps, shape=shape)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(controller, "_HELD_AGAIN", 0.0)


def test_longest_first():
    backend = FakeBackend(("a", "b"))
    run_all([fake_job(str(i), flops=i + 1, shape=str(i)) for i in range(6)], backend)
    assert [job.flops for _, job in backend.order] == [6, 5, 4, 3, 2, 1]


def test_of_equal_cost_the_one_of_most_steps_goes_first():
    backend = FakeBackend(("a",))
    run_all([fake_job(str(n), flops=100 + 0.1 * n, shape=str(n), steps=s) for n, s in enumerate((5, 9, 7))], backend)
    assert [job.steps for _, job in backend.order] == [9, 7, 5]


def test_equal_shapes_stay_on_a_worker_while_nearly_as_long():
    jobs = [fake_job(f"{shape}{i}", flops, shape) for i, flops in enumerate((10, 9, 8)) for shape in "xy"]
    backend = FakeBackend(("a", "b"))
    run_all(jobs, backend)
    shapes = {worker: {job.shape for w, job in backend.order if w == worker} for worker in "ab"}
    assert sorted(map(sorted, shapes.values())) == [["x"], ["y"]]


def test_a_failing_run_is_tried_again_three_times_on_fresh_workers_and_the_rest_goes_on():
    backend = FakeBackend(("a",), {"bad": ["error"] * 9})
    events = []
    report = run_all([fake_job("bad", 5), fake_job("good")], backend, events.append)
    assert backend.started == {"bad": 1 + RETRIES, "good": 1}
    assert len(backend.replaced) == 1 + RETRIES
    assert report.finished == ("good",)
    assert report.failed == {"bad": f"error at attempt {1 + RETRIES}"}
    assert not report.mendable
    assert [e.kind for e in events if e.job and e.job.run_id == "bad"].count("retried") == RETRIES == 3


def test_what_a_person_must_mend_is_not_tried_again():
    backend = FakeBackend(("a",), {"bad": ["input"]})
    report = run_all([fake_job("bad")], backend)
    assert backend.started == {"bad": 1}
    assert report.mendable


def test_a_run_held_by_another_process_is_asked_for_until_it_is_free():
    backend = FakeBackend(("a",), {"r": ["held"] * 7})
    assert run_all([fake_job("r")], backend).finished == ("r",)
    assert backend.started == {"r": 8}


@given(
    st.lists(st.lists(st.sampled_from(["finished", "error", "lost", "held", "input"]), max_size=6), max_size=40),
    st.integers(1, 5),
)
@settings(deadline=None, max_examples=60)
def test_whatever_happens_every_run_ends_once(scripts, workers):
    jobs = [fake_job(str(i), flops=1 + i % 7, shape=str(i % 3)) for i in range(len(scripts))]
    backend = FakeBackend(tuple(map(str, range(workers))), {str(i): list(s) for i, s in enumerate(scripts)})
    events = []
    report = run_all(jobs, backend, events.append)
    assert set(report.finished) | set(report.failed) == {job.run_id for job in jobs}
    assert len(report.finished) == len(set(report.finished))
    assert not set(report.finished) & set(report.failed)
    for i, script in enumerate(scripts):
        failures = [s for s in script if s in ("error", "lost")]
        ends = [s for s in script if s in ("finished", "input")]
        if not ends and len(failures) <= RETRIES:
            assert str(i) in report.finished
    ended = [e.job.run_id for e in events if e.kind in ("finished", "failed")]
    assert sorted(ended) == sorted(job.run_id for job in jobs)
