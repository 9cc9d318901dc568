"""The controller against scripted failures: every run done once, or failed with its reason; nobody works twice."""

import dataclasses
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.cluster import controller
from nextscale.cluster.backend import Ended, Slot
from nextscale.cluster.controller import RETRIES, run_all
from nextscale.cluster.job import Job, Outcome
from nextscale.model.config import Parent


@dataclasses.dataclass
class FakeBackend:
    """Workers that take as many waits as a job's FLOPs, and end as `script` says, attempt by attempt.

    A step of the script is a status, or a function of the worker and the job that returns one or an Outcome.
    """

    workers: tuple[str, ...]
    script: dict[str, list] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.free, self.running = list(self.workers), {}
        self.started, self.order, self.replaced, self.times = {}, [], [], {}

    def slots(self):
        return [Slot(worker, "fake") for worker in [*self.free, *self.running]]

    def start(self, worker, job, seat):
        assert worker in self.free, "a worker does one job at a time"
        assert job.run_id not in {j.run_id for j, _ in self.running.values()}, "a run has one worker at a time"
        self.free.remove(worker)
        self.started[job.run_id] = self.started.get(job.run_id, 0) + 1
        self.times.setdefault(job.run_id, []).append(time.monotonic())
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
                ends = ends(worker, job) if callable(ends) else ends
                if isinstance(ends, str):
                    ends = Outcome(ends, f"{ends} at attempt {self.started[job.run_id]}")
                finished.append(Ended(worker, job, ends))
                del self.running[worker]
                self.free.append(worker)
        return finished

    def renew(self, worker):
        self.replaced.append(worker)

    def notices(self):
        return []

    def close(self):
        pass


def fake_job(name, flops=1.0, shape="s", steps=1, directory=None):
    return Job(run_id=name, config=None, directory=str(directory or name), flops=flops, steps=steps, shape=shape)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(controller, "_HELD_AGAIN", 0.0)
    monkeypatch.setattr(controller, "_PAUSES", (0.0, 0.0, 0.0))


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


def test_a_retry_waits_longer_each_time_and_others_need_not(monkeypatch):
    pauses = (0.05, 0.1, 0.2)
    monkeypatch.setattr(controller, "_PAUSES", pauses)
    backend = FakeBackend(("a",), {"bad": ["error"] * 3})
    report = run_all([fake_job("bad", 5), fake_job("good")], backend)
    assert set(report.finished) == {"bad", "good"}
    times = backend.times["bad"]
    assert all(after - before >= pause for before, after, pause in zip(times, times[1:], pauses, strict=False))
    assert [job.run_id for _, job in backend.order][:2] == ["bad", "good"]


def test_the_worker_idle_longest_is_next():
    backend = FakeBackend(("a", "b", "c"))
    run_all([fake_job("long", 9)] + [fake_job(f"short{i}", 1, shape=str(i)) for i in range(4)], backend)
    assert [worker for worker, _ in backend.order] == ["a", "b", "c", "b", "c"]


def test_a_sick_worker_does_not_eat_the_sweep():
    """It fails at once, so it is the idle one whenever a run is to be tried again."""
    jobs = [fake_job(str(i), flops=10 + i) for i in range(12)]

    class SickBackend(FakeBackend):
        def start(self, worker, job, seat):
            super().start(worker, job, seat)
            if worker == "sick":
                self.running[worker][1] = 1

    sick = [lambda worker, job: "error" if worker == "sick" else "finished"] * 9
    backend = SickBackend(("sick", "a", "b"), {job.run_id: list(sick) for job in jobs})
    report = run_all(jobs, backend)
    assert report.failed == {}
    assert max(backend.started.values()) <= 2


def saving(position, ends):
    """A step of a script that leaves a checkpoint at a position, then ends so."""

    def step(worker, job):
        (Path(job.directory) / "checkpoints" / str(position)).mkdir(parents=True, exist_ok=True)
        return ends

    return step


def test_preemptions_do_not_count_while_the_run_gets_further(tmp_path):
    backend = FakeBackend(("a", "b"), {"r": [saving(1 + i, "lost") for i in range(50)]})
    assert run_all([fake_job("r", directory=tmp_path)], backend).finished == ("r",)
    assert backend.started == {"r": 51}


def test_a_run_that_kills_its_workers_and_gets_nowhere_comes_to_an_end(tmp_path):
    backend = FakeBackend(("a", "b"), {"r": [saving(7, "lost")] + ["lost"] * 50})
    assert set(run_all([fake_job("r", directory=tmp_path)], backend).failed) == {"r"}
    assert backend.started == {"r": 1 + 1 + RETRIES}


def test_errors_count_also_when_the_run_gets_further(tmp_path):
    backend = FakeBackend(("a",), {"r": [saving(1 + i, "error") for i in range(50)]})
    assert set(run_all([fake_job("r", directory=tmp_path)], backend).failed) == {"r"}
    assert backend.started == {"r": 1 + RETRIES}


def test_a_holder_is_silent_when_its_sign_has_not_changed_for_long(monkeypatch):
    monkeypatch.setattr(controller, "TIME_TO_LIVE", 0.05)
    seen = []

    def held(beats):
        def step(worker, job):
            seen.append(job.silent)
            if job.silent is not None:
                return "finished"
            time.sleep(0.02)
            return Outcome("held", sign=("000001.json", min(len(seen), beats)))

        return step

    backend = FakeBackend(("a", "b"), {"r": [held(beats=10)] * 99})
    assert run_all([fake_job("r")], backend).finished == ("r",)
    assert seen[:-1] == [None] * (len(seen) - 1)
    assert seen[-1] == ("000001.json", 10)
    assert len(seen) >= 12, "while it beats it is never silent"


def test_without_a_worker_that_is_said_once_and_the_sweep_goes_on_when_one_comes(monkeypatch):
    monkeypatch.setattr(controller, "_PATIENCE", 0.05)

    class LateBackend(FakeBackend):
        def slots(self):
            return super().slots() if time.monotonic() > self.up else []

        def wait(self, timeout):
            time.sleep(0.01)
            return super().wait(timeout)

    backend = LateBackend(("a",))
    backend.up = time.monotonic() + 0.3
    events = []
    assert run_all([fake_job("r")], backend, events.append).finished == ("r",)
    assert ["no worker" in e.message for e in events if e.kind == "notice"] == [True]


def test_what_the_backend_has_to_say_is_passed_on():
    class TalkingBackend(FakeBackend):
        def notices(self):
            return ["a GPU is left out"]

    events = []
    run_all([fake_job("r")], TalkingBackend(("a",)), events.append)
    assert "a GPU is left out" in [e.message for e in events if e.kind == "notice"]


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


class TestBranches:
    """Jobs that begin from the state of another: `trunk` at token 7."""

    @pytest.fixture
    def jobs(self, tmp_path):
        def job(name, flops, start=None):
            return dataclasses.replace(fake_job(name, flops, directory=tmp_path / name), start=start)

        start = Parent.model_construct(run_id="trunk", tokens=7)
        return [job("branch", 9, start), job("trunk", 5), job("other", 1)]

    def test_they_wait_for_their_trunk(self, jobs):
        backend = FakeBackend(("a", "b"))
        assert set(run_all(jobs, backend).finished) == {"branch", "trunk", "other"}
        assert [job.run_id for _, job in backend.order] == ["trunk", "other", "branch"]

    def test_they_begin_while_it_is_at_work_once_it_is_far_enough(self, jobs, tmp_path):
        class SavingBackend(FakeBackend):
            def wait(self, timeout):
                saving(7, "finished")("a", jobs[1])
                return super().wait(timeout)

        backend = SavingBackend(("a", "b"))
        assert len(run_all(jobs, backend).finished) == 3
        trunk = next(i for i, (_, job) in enumerate(backend.order) if job.run_id == "trunk")
        branch = next(i for i, (_, job) in enumerate(backend.order) if job.run_id == "branch")
        assert branch > trunk
        assert backend.order[branch][0] != backend.order[trunk][0], "the trunk was still at work on its own worker"

    def test_they_do_not_wait_for_a_trunk_that_is_done_before(self, jobs):
        backend = FakeBackend(("a",))
        branch, _, other = jobs
        assert len(run_all([branch, other], backend).finished) == 2
        assert [job.run_id for _, job in backend.order] == ["branch", "other"]

    def test_they_wait_while_their_trunk_is_tried_again(self, jobs):
        backend = FakeBackend(("a", "b"), {"trunk": ["error", "lost", "held"]})
        assert len(run_all(jobs, backend).finished) == 3
        assert [job.run_id for _, job in backend.order if job.run_id != "other"] == ["trunk"] * 4 + ["branch"]

    @pytest.mark.parametrize("ends", ["input", "error"])
    def test_they_fail_with_their_trunk_in_one_line(self, jobs, ends):
        backend, events = FakeBackend(("a",), {"trunk": [ends] * 9}), []
        report = run_all(jobs, backend, events.append)
        assert report.finished == ("other",)
        assert "branch" not in backend.started
        assert report.failed["branch"] == f"its trunk trunk failed: {report.failed['trunk']}"
        assert [e.job.run_id for e in events if e.kind == "failed"] == ["trunk", "branch"]

    def test_they_go_on_when_their_trunk_fails_after_where_they_begin(self, jobs):
        backend = FakeBackend(("a",), {"trunk": [saving(7, "input")]})
        report = run_all(jobs, backend)
        assert set(report.finished) == {"branch", "other"}
        assert set(report.failed) == {"trunk"}

    def test_one_that_had_begun_needs_no_trunk(self, jobs):
        saving(8, "finished")("a", jobs[0])
        backend = FakeBackend(("a",))
        run_all(jobs, backend)
        assert [job.run_id for _, job in backend.order] == ["branch", "trunk", "other"]
