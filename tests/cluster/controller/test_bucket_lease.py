"""Leases in a bucket are leases: one holder at a time, also where answers are lost; a worker's run is kept there."""

import dataclasses
import os

import pytest
from etils import epath

from nextscale.cluster.controller.job import Outcome
from nextscale.cluster.controller.lease import Lease, LeaseHeld, LeaseLost, holder, life
from nextscale.cluster.controller.run_directories import RunDirectories
from nextscale.cluster.ray.rank import Rank
from nextscale.cluster.ray.worker import Worker
from nextscale.model.record import RunDirectory
from nextscale.model.storage.bucket import Bucket
from nextscale.model.storage.mirror import Mirror
from nextscale.model.training import train as training


@pytest.fixture
def place(s3):
    return f"{s3.bucket()}/runs/x"


def sign_of(place):
    with pytest.raises(LeaseHeld) as held:
        Lease(place)
    return held.value.heartbeat


class TestALease:
    def test_a_living_holder_keeps_its_run(self, place):
        with Lease(place) as lease:
            assert holder(place) == sign_of(place)
            assert life(place).pid == os.getpid()
            lease.check_now()

    def test_a_run_given_back_is_free_and_generations_rise(self, place):
        with Lease(place) as first:
            pass
        assert holder(place) is None
        with Lease(place) as second:
            assert (first.generation, second.generation, second.replaced) == (1, 2, None)
        assert [one.name for one in Bucket(place).list()] == ["leases/000002.json"]

    def test_a_silent_holder_is_replaced_and_finds_out(self, place):
        zombie = Lease(place)
        with Lease(place, silent=sign_of(place)) as heir:
            assert heir.replaced["pid"] == os.getpid()
            with pytest.raises(LeaseLost):
                zombie.check_now()
            zombie.close()
            heir.check_now()

    def test_of_two_that_take_it_at_once_one_has_it(self, place, monkeypatch):
        with Lease(place):
            monkeypatch.setattr(Bucket, "list", lambda *arguments: [])
            with pytest.raises(LeaseHeld, match="at the same moment"):
                Lease(place)

    @pytest.mark.parametrize("kind", ["busy", "lost", "slow"])
    def test_a_lease_whose_answer_was_lost_is_ours(self, s3, place, kind):
        s3.fail("PUT", "leases", kind)
        with Lease(place) as lease:
            lease.check_now()


class TestARun:
    @pytest.fixture
    def worker(self, monkeypatch):
        monkeypatch.setattr(training, "enable_compilation_cache", lambda: None)
        return Worker()

    @pytest.fixture
    def here_and_there(self, s3, job, tmp_path):
        """A job in a folder, and the same in a bucket, as two machines see it."""
        here = job(steps=60, pinned=(640,))
        address = f"{s3.bucket()}/out/runs/{here.run_id}"
        there = [
            dataclasses.replace(here, directory=str(tmp_path / name / "runs" / here.run_id), bucket=address)
            for name in "ab"
        ]
        return here, *there

    @pytest.mark.slow
    def test_it_is_stopped_and_goes_on_elsewhere_to_the_bit(self, worker, here_and_there, s3, monkeypatch, tmp_path):
        here, there, elsewhere = here_and_there
        runs = RunDirectories()
        assert worker.run(here) == Outcome("finished")
        assert (runs.done(there), runs.saved(there), runs.holder(there)) == (False, 0, None)
        for method in ("GET", "PUT", "DELETE"):
            s3.fail(method, here.run_id, "busy", times=9, every=4)
            s3.fail(method, here.run_id, "lost", times=9, every=5)
        worker.stop(1)
        assert worker.run(there, number=1).status == "stopped"
        assert not runs.done(there)
        assert 0 < runs.saved(there) < here.config.tokens
        monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "another machine"))
        assert worker.run(elsewhere) == Outcome("finished")
        assert runs.done(there)
        assert runs.holder(there) is None
        Mirror(elsewhere.bucket, tmp_path / "whole").pull()
        mine, theirs = (RunDirectory(epath.Path(one)) for one in (here.directory, tmp_path / "whole"))
        assert {**mine.record(), "seconds": 0} == {**theirs.record(), "seconds": 0}
        assert mine.metrics_file.read_bytes() == theirs.metrics_file.read_bytes()
        assert [row["status"] for row in theirs.attempts()] == ["stopped", "finished"]
        assert sorted(theirs.checkpoint_positions)[-1] == here.config.tokens

    @pytest.mark.slow
    def test_what_another_took_over_is_not_finished_twice(self, worker, here_and_there, monkeypatch):
        _, there, elsewhere = here_and_there
        real = training.train

        def fall_silent(config, directory, **options):
            monkeypatch.setattr(training, "train", real)
            heir = dataclasses.replace(elsewhere, silent=sign_of(there.bucket))
            assert worker.run(heir).status == "finished"
            return real(config, directory, **options)

        monkeypatch.setattr(training, "train", fall_silent)
        assert worker.run(there).status == "held"
        directory = RunDirectory(epath.Path(there.directory))
        assert RunDirectories().done(there)
        assert [row["status"] for row in directory.attempts()] == ["lost", "finished"]

    def test_over_several_hosts_is_refused_in_one_line(self, here_and_there):
        outcome = Rank().begin(here_and_there[1], 0.0)
        assert outcome.status == "input"
        assert "into no bucket; name such a folder as --out" in outcome.message
