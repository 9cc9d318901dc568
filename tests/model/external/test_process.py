"""A trainer's processes never outlive whoever answers for them, and two never work in one folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nextscale.model.external import process as processes
from nextscale.model.external.process import TrainerProcess

SLEEPS = "sleep 100 & (setsid sleep 100 &) ; sleep 100"
"""A shell that has one below it, one in a session of its own whose parent is gone, and waits for a third."""


@pytest.fixture
def at_work(tmp_path):
    """Starts a command; gives the process and those of its folder."""
    begun = []

    def start(*command, folder=tmp_path):
        begun.append(TrainerProcess(command, str(tmp_path), folder, tmp_path / "output.log", {}))
        return begun[-1]

    yield start
    for one in begun:
        one.close()


def left(folder):
    return processes._strays(f"{folder} 0 ")


def wait_for(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def ended(process, seconds=5.0):
    until = time.monotonic() + seconds
    while (found := process.wait(0.1)) is None:
        assert time.monotonic() < until
    return found


@pytest.mark.parametrize("code", [0, 1, 75])
def test_its_exit_code_and_the_last_lines_of_its_stderr_are_told(at_work, tmp_path, code):
    found = ended(at_work("sh", "-c", f"echo out; for i in $(seq 50); do echo line $i >&2; done; exit {code}"))
    assert found.code == code
    assert found.stderr[-1] == "line 50"
    assert (tmp_path / "output.log").read_text().splitlines()[:2] == ["out", "line 1"]


def test_what_a_shell_ran_and_somebody_killed_was_killed(at_work):
    assert ended(at_work("sh", "-c", "sh -c 'kill -9 $$'; exit $?")).killed


def test_a_program_that_is_not_there_is_told(at_work):
    with pytest.raises(OSError, match="no-such-program: No such file"):
        at_work("no-such-program")


def test_sigterm_goes_to_the_trainer_alone(at_work, tmp_path):
    """A launcher passes it on as it likes; the data loaders of a trainer must not be ended before it has saved."""
    inner = f"trap 'echo heard; exit' TERM; echo up > {tmp_path}/up; while true; do sleep .05; done"
    process = at_work("sh", "-c", f"trap 'exit 75' TERM; sh -c \"{inner}\" & while true; do sleep .05; done")
    wait_for((tmp_path / "up").exists)
    process.terminate()
    assert ended(process).code == 75
    assert "heard" not in (tmp_path / "output.log").read_text()


@pytest.mark.parametrize("how", ["closed", "trainer killed", "guard killed", "ended"])
def test_all_that_it_started_goes_with_it(at_work, tmp_path, how):
    process = at_work("sh", "-c", SLEEPS if how != "ended" else "(setsid sleep 100 &) ; sleep .1; exit 3")
    wait_for(lambda: len(left(tmp_path)) >= 4 - 2 * (how == "ended"))
    if how == "trainer killed":
        os.kill(process.pid, signal.SIGKILL)
        assert ended(process).code == -signal.SIGKILL
    elif how == "guard killed":
        (guard,) = (pid for pid in left(tmp_path) if b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(guard, signal.SIGKILL)
        found = ended(process)
        assert found.code is None
        assert found.killed
    elif how == "ended":
        assert ended(process).code == 3
    process.close()
    assert left(tmp_path) == []


def test_it_ends_when_its_worker_is_killed(tmp_path):
    worker = f"""
import time
from pathlib import Path
from nextscale.model.external.process import TrainerProcess
folder = Path({str(tmp_path)!r})
with TrainerProcess(["sh", "-c", {SLEEPS!r}], str(folder), folder, folder / "output.log", {{}}) as process:
    print("up", flush=True)
    while process.wait(1) is None: pass
"""
    with subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE) as asked:
        asked.stdout.readline()
        wait_for(lambda: len(left(tmp_path)) >= 4)
        asked.kill()
    wait_for(lambda: left(tmp_path) == [])


def test_it_ends_when_its_worker_falls_silent(at_work, tmp_path, monkeypatch):
    """A worker that stands still loses its lease: by then its trainer must be gone."""
    from nextscale.cluster.controller.lease import BEAT, TIME_TO_LIVE
    from nextscale.model.external import guard

    assert guard.SILENCE + BEAT < TIME_TO_LIVE
    quick = tmp_path / "guard.py"
    quick.write_text(Path(guard.__file__).read_text().replace(f"SILENCE = {guard.SILENCE}", "SILENCE = 0.3"))
    monkeypatch.setattr(guard, "__file__", str(quick))
    process = at_work("sleep", "100")
    process.wait(0.0)
    wait_for(lambda: left(tmp_path) == [])
    assert process.wait(1.0).code is None


def test_whoever_works_in_a_folder_is_ended_before_another_begins(at_work, tmp_path):
    first = at_work("sleep", "100")
    wait_for(lambda: len(left(tmp_path)) == 2)
    elsewhere = at_work("sleep", "100", folder=tmp_path / "other")
    second = at_work("sleep", "100")
    assert ended(first).killed
    assert second.wait(0.0) is None
    assert elsewhere.wait(0.0) is None
