"""A disk that is full: nothing new is started until there is room, what has ended is booked, and the file is named."""

import errno
import math
import re
import resource

import pytest
from etils import epath

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.controller.failures import Limits
from nextscale.cluster.hardware.seat import Seat
from nextscale.model.record import append_row, write_atomically

ROW = {"text": "x" * 10**5}


class Disk:
    """Of a file, which takes but a part of what is written while it is full."""

    def __init__(self, file, is_full):
        self._file, self._is_full = file, is_full

    def write(self, text):
        if self._is_full():
            self._file.write(text[: len(text) // 2])
            self._file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.write(text)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.fixture
def accounts_on(tmp_path, monkeypatch):
    """Accounts on a disk that is full whenever `is_full` says so."""

    def made(is_full, **options):
        path = tmp_path / "accounts.jsonl"
        opened = type(path).open

        def open_(self, mode="r", *arguments, **more):
            file = opened(self, mode, *arguments, **more)
            return Disk(file, is_full) if self == path and mode == "a" else file

        monkeypatch.setattr(type(path), "open", open_)
        return Accounts(path, **options)

    return made


@pytest.mark.parametrize(("begins", "ends"), [(150.0, 1e9), (50.0, 460.0), (0.0, 305.0)])
def test_no_run_is_started_until_there_is_room_and_all_is_booked(fake, tmp_path, accounts_on, begins, ends):
    ends = min(ends, 2000.0)
    world, events = fake.World({"p": fake.pool(2)}), []
    accounts = accounts_on(lambda: begins <= world.time < ends, clock=lambda: world.time)
    jobs = [fake.job(str(i), 1e5, seats=(Seat("p", seconds=100.0, usd_per_hour=3.6),)) for i in range(6)]
    runs, limits = fake.FakeRuns(world), Limits(poll=math.inf)
    report = run_all(jobs, fake.FakeBackend(world), events.append, accounts=accounts, runs=runs, limits=limits)
    accounts.close()
    assert len(report.finished) == 6 and report.failed == {}
    assert not [when for when, *_ in world.starts if begins <= when < ends]
    (said,) = [event.message for event in events if event.kind == "notice" and "room" in event.message]
    assert said.startswith(f"{tmp_path / 'accounts.jsonl'}: No space left on device: no run is started")
    again = Accounts(tmp_path / "accounts.jsonl")
    assert again.totals() == accounts.totals()
    assert (again.totals()["attempts"], again.totals()["open"], float(again.totals()["usd"])) == (6, 0, 0.6)
    assert max(when for when, *_ in world.starts) < ends + 211.0


def test_an_end_that_never_found_room_counts_as_reserved(fake, tmp_path, accounts_on):
    full = []
    accounts = accounts_on(lambda: bool(full))
    reservation = accounts.reserve("r", "s", Seat("p"), "h100", 0, 50.0, 7)
    full.append(True)
    accounts.settle(reservation, 20.0, kept=7, outcome="finished")
    assert accounts.totals()["seconds"] == 20.0
    accounts.close()
    again = Accounts(tmp_path / "accounts.jsonl")
    assert list(again.open) == [1]
    assert again.used == reservation.amount


@pytest.mark.parametrize(
    "write", [lambda path: write_atomically(path, "x" * 10**5), lambda path: append_row(path, ROW)]
)
def test_the_file_is_named(tmp_path, write):
    """As with a full disk, the system's own error of a file that may not grow tells of none."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))) as raised:
            write(epath.Path(tmp_path / "file"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.errno == errno.EFBIG
