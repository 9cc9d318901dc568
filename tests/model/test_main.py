"""The command line of one run: real processes, alone and together, and the signals they get."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from nextscale.model.__main__ import DONE, INPUT, STOPPED, main
from nextscale.model.config.data import TokenData
from nextscale.model.data.sources import resolve
from nextscale.model.record import RunDirectory
from nextscale.model.training.checkpoint import read_checkpoint
from nextscale.model.training.step import program_of, state_shapes

SECONDS_TO_STOP = 10
"""A dispatch is about a second of one core, and a tiny run saves in less; the rest is for a busy machine."""


@pytest.fixture(autouse=True)
def _signals_as_they_were():
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def started(tmp_path):
    """Starts a process of one run: `started(run, out, *options, devices=1)`."""
    processes = []

    def start(run, out, *options, devices=1):
        config = tmp_path / f"{run.run_id}.json"
        config.write_text(run.model_dump_json())
        flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_multi_thread_eigen=false"
        process = subprocess.Popen(
            [sys.executable, "-m", "nextscale.model", str(config), "--out", str(tmp_path / out), *options],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def at(tmp_path, out):
    return RunDirectory(epath.Path(tmp_path / out))


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def logged(directory, rows, *processes):
    """Waits until the curve is so long."""
    while len(directory.metrics()) < rows:
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.05)


def pair(started, run, out, *options):
    """Two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = ("--layout", "data=2,fsdp=2", "--coordinator", address, "--processes", "2", *options)
    return [started(run, out, *together, "--process", str(i), devices=2) for i in range(2)]


def test_data_that_changed_is_no_other_run_in_the_same_folder(tiny_run, tmp_path, capsys):
    """Whose checkpoints, and whose result, are of what was there before."""
    file, config, out = tmp_path / "x.bin", tmp_path / "config.json", str(tmp_path / "run")
    np.arange(5000, dtype=np.uint16).tofile(file)
    run = tiny_run(data=resolve(TokenData(source="tokens", path=str(file), vocab=5000)))
    config.write_text(run.model_dump_json())
    np.ones(5000, np.uint16).tofile(file)
    assert main([str(config), "--out", out]) == INPUT
    assert "has changed" in capsys.readouterr().err
    assert at(tmp_path, "run").record() is None


def weights(run, directory):
    return read_checkpoint(directory.checkpoint(run.tokens), state_shapes(program_of(run)))["params"]


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_saves_itself_and_goes_on_to_the_bit(tiny_run, tmp_path, started):
    run = tiny_run(steps=4000)
    cut, whole = at(tmp_path, "cut"), at(tmp_path, "whole")
    process = started(run, "cut", "--every", "3600")
    logged(cut, 2, process)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, out, err = ended(process)
    assert time.monotonic() - asked < SECONDS_TO_STOP
    assert (code, out) == (STOPPED, ""), err
    (saved,) = (int(path.name) for path in cut.checkpoints.iterdir())
    assert cut.metrics()[-1]["tokens"] == saved < run.tokens, "the step it was at"
    assert f"stopped at token {saved} of" in err
    assert main([str(tmp_path / f"{run.run_id}.json"), "--out", str(cut.path)]) == DONE
    assert main([str(tmp_path / f"{run.run_id}.json"), "--out", str(whole.path)]) == DONE
    assert cut.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
    straight, resumed = (weights(run, directory) for directory in (whole, cut))
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)


@pytest.mark.slow
def test_two_processes_are_one_run(tiny_run, tmp_path, started):
    run = tiny_run(steps=20, width=16, batch_tokens=64)
    first, second = map(ended, pair(started, run, "two", "--every", "0"))
    assert (first[0], second[0]) == (DONE, DONE), first[2] + second[2]
    assert "{" not in second[1], "the first alone tells the record"
    record = json.loads(first[1].splitlines()[-1])
    two, one = at(tmp_path, "two"), at(tmp_path, "one")
    assert record == two.record()
    assert main([str(tmp_path / f"{run.run_id}.json"), "--out", str(one.path)]) == DONE
    assert record["loss"] == pytest.approx(one.record()["loss"], rel=1e-5)
    assert [row["tokens"] for row in two.metrics()] == [run.tokens], "written once"
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, weights(run, two), weights(run, one))


@pytest.mark.slow
@pytest.mark.soak
def test_two_processes_stop_at_one_step_when_either_is_told_and_go_on(tiny_run, tmp_path, started):
    run = tiny_run(steps=1000)
    cut, whole = at(tmp_path, "cut"), at(tmp_path, "whole")
    processes = pair(started, run, "cut", "--every", "3600")
    logged(cut, 2, *processes)
    asked = time.monotonic()
    processes[1].send_signal(signal.SIGTERM)
    codes = [ended(process)[0] for process in processes]
    assert time.monotonic() - asked < 3 * SECONDS_TO_STOP, (
        "two dispatches of 128 steps, each with its messages, and a save"
    )
    assert codes == [STOPPED, STOPPED]
    (saved,) = (int(path.name) for path in cut.checkpoints.iterdir())
    assert cut.metrics()[-1]["tokens"] == saved < run.tokens
    assert [ended(process)[0] for process in pair(started, run, "cut")] == [DONE, DONE]
    assert [ended(process)[0] for process in pair(started, run, "whole")] == [DONE, DONE]
    assert cut.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
    assert cut.record()["loss"] == whole.record()["loss"]


@pytest.mark.slow
def test_who_loses_the_other_process_does_not_wait_for_long(tiny_run, tmp_path, started):
    run = tiny_run(steps=100_000)
    processes = pair(started, run, "run")
    logged(at(tmp_path, "run"), 2, *processes)
    processes[1].kill()
    killed = time.monotonic()
    code, _, _ = ended(processes[0])
    assert code not in (DONE, STOPPED, INPUT)
    assert time.monotonic() - killed < 90


@pytest.mark.parametrize(
    "text, told",
    [(None, "No such file"), ("{}", "data: Field required"), ("no", "Invalid JSON")],
)
def test_a_config_that_cannot_be_used_is_told_in_one_line(tmp_path, capsys, text, told):
    if text is not None:
        (tmp_path / "c.json").write_text(text)
    assert main([str(tmp_path / "c.json"), "--out", str(tmp_path / "run")]) == INPUT
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "options, told",
    [(["--layout", "pipe=2"], "write it as data=4"), (["--trunk", "x"], "RUN_ID:TOKENS"), (["--help"], "SIGTERM")],
)
def test_options_that_cannot_be_read_are_told(capsys, options, told):
    with pytest.raises(SystemExit) as end:
        main(["c.json", "--out", "run", *options])
    assert end.value.code == (0 if options == ["--help"] else 2)
    said = capsys.readouterr()
    assert told in said.err + said.out


def test_a_process_of_several_must_know_which_it_is(tiny_run, tmp_path, capsys):
    (tmp_path / "c.json").write_text(tiny_run().model_dump_json())
    options = ["--out", str(tmp_path / "run"), "--coordinator", "localhost:1", "--processes", "2"]
    assert main([str(tmp_path / "c.json"), *options]) == INPUT
    assert "--process" in capsys.readouterr().err


def test_several_configs_are_trained_in_one_process(tiny_run, tmp_path, capsys):
    runs, files = [tiny_run(seed=seed) for seed in range(3)], []
    for run in runs:
        files.append(str(tmp_path / f"{run.run_id}.json"))
        (tmp_path / f"{run.run_id}.json").write_text(run.model_dump_json())
    assert main([*files, "--out", str(tmp_path / "out")]) == DONE
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["run_id"] for record in told] == [run.run_id for run in runs]
    assert told == [at(tmp_path, f"out/{run.run_id}").record() for run in runs]
    assert main([*files, "--out", str(tmp_path / "out"), "--layout", "data=1"]) == INPUT
    assert capsys.readouterr().err.startswith("several configs are trained on one device")
