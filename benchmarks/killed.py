"""Ten thousand tiny runs, 30 % of whose attempts are killed: `python benchmarks/killed.py [RUNS]` (10,000).

Each run is some dozens of steps of linear regression, with curve and record left behind, by a trainer of one's own that
is a function here, and not a process apart: `orchestration.py` has runs of JAX, whose import alone takes hundreds of
times as long. By chance an attempt is ended by a timer of the kernel, at any instruction and as by SIGKILL, with the
worker that makes it, which is then forked anew. Until it is up that is left out of what a run takes, here and in the
bare loop that is killed in the same way. Ray is left out, too (`orchestration.py` and `storm.py` have it); all else is
a sweep as it is: controller, leases, accounts, journal, records, in two slots.

While the sweep is at work, `nextscale status`, `nextscale runs` and what `nextscale serve` answers are timed again and
again. In the end it is held against a sweep that nobody was killed in, to the bit. CPU is that of controller and
workers together, and says more than a clock does on a machine that others use.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from etils import epath
from rich.console import Console

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.job import Job
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.ray.hub import environment_of
from nextscale.cluster.ray.worker import Worker
from nextscale.model.config.external import ExternalRun
from nextscale.model.external import train as external
from nextscale.model.external.process import Exit
from nextscale.model.external.train import TOLD, Place
from nextscale.model.record import RunDirectory
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run import session
from nextscale.sweeps.run.loop import run_study
from nextscale.sweeps.show.tables import Table
from nextscale.sweeps.study.study import Study

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from aftermath import Records, faults
from forked import Crew, ForkedBackend

RUNS, LOOP, SLOTS, SHARE = 10_000, 1_000, 2, 0.3
"""Runs of the sweep, and of the bare loop, which is as quick for any number."""
COUNTED = 0.95
"""Of the runs: after those some slots have nothing to do but to wait until what was killed last may be tried again."""
BATCH = 20
"""Runs that the bare loop is told of at a time."""
LOOKS = 15.0
"""Seconds between two rounds of looks at the sweep."""
Looks = dict[str, list[tuple[float, float]]]
"""By what was looked at, seconds by the clock and of CPU."""
COMMAND = [sys.executable, "-c", "from nextscale.sweeps.commands.app import main; main()"]
SPEC = """\
name: many
model: {{kind: external, sizes: [{{params: 8, flops_per_token: 48}}, {{params: 16, flops_per_token: 96}}]}}
trainer: {{command: [python, killed.py, --train, "{{config}}", "{{dir}}"], source: [killed.py], folder: {folder}}}
training: {{batch_tokens: 32, lr: 0.05}}
design: {{kind: isoflop, flops: [1.0e+5, 2e5], seeds: {seeds}}}
forecast: {{law: none}}
"""


def train(config: Path, folder: Path) -> None:
    """The trainer: stochastic gradient descent on a linear regression."""
    told = json.loads(config.read_text())
    size, steps, batch = told["model"]["params"], told["steps"], told["batch_tokens"]
    chance = np.random.default_rng(told["seed"])
    truth, weights, loss = chance.normal(size=64), np.zeros(size), 0.0
    with (folder / "metrics.jsonl").open("w") as curve:
        for step in range(1, steps + 1):
            x = chance.normal(size=(batch, 64))
            error = x[:, :size] @ weights - x @ truth
            weights -= told["training"]["lr"] * x[:, :size].T @ error / batch
            loss = 1.0 + float(error @ error) / batch
            if step % 10 == 0 or step == steps:
                curve.write(json.dumps({"step": step, "loss": loss}) + "\n")
    (folder / "result.begun").write_text(json.dumps({"loss": loss}))
    (folder / "result.begun").rename(folder / "result.json")


class HereAtOnce(contextlib.AbstractContextManager):
    """In place of the trainer's process: a call of it here."""

    def __init__(self, config: ExternalRun, directory: RunDirectory, place: Place):
        self._given = Path(directory.path) / TOLD, Path(directory.trainer)

    def wait(self, seconds: float) -> Exit:
        train(*self._given)
        return Exit(0)

    def __exit__(self, *error: object) -> None:
        pass


class Doom:
    """The timer that ends an attempt, with its process.

    Args:
        share: of attempts.
        seconds: that an attempt takes.
    """

    def __init__(self, share: float, seconds: float):
        self._share, self._seconds = share, seconds

    def set(self, run_id: str, attempt: int) -> None:
        chance = random.Random(f"{run_id} {attempt}")
        if chance.random() < self._share:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, self._seconds))

    def lift(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def brought_up(first: Job, share: float) -> Doom:
    """What a worker that is up knows of how long runs take."""
    external.start_trainer = HereAtOnce
    with tempfile.TemporaryDirectory() as folder:
        for i in range(3):
            began = time.perf_counter()
            train_job(first, Path(folder, str(i)))
    return Doom(share, time.perf_counter() - began)


def train_job(job: Job, directory: Path) -> None:
    """As a worker does, without a lease."""
    assert isinstance(job.config, ExternalRun)
    external.train_external(job.config, RunDirectory(epath.Path(directory)))


def serve_slot(pipe: Connection, first: Job, share: float) -> None:
    """A slot's process: trains what it is given."""
    doom, worker = brought_up(first, share), Worker(uses_jax=False)
    pipe.send((None, 0.0))
    began = time.process_time()
    while True:
        try:
            job, seat, number = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        doom.set(job.run_id, number)
        outcome = worker.run(job, seat, number)
        doom.lift()
        pipe.send((outcome, time.process_time() - began))


def serve_loop(pipe: Connection, first: Job, folder: Path, share: float) -> None:
    """The bare loop's process: trains one after another."""
    doom = brought_up(first, share)
    pipe.send((None, 0.0))
    began = time.process_time()
    while True:
        try:
            jobs = pipe.recv()
        except EOFError:
            return
        for job, attempt in jobs:
            doom.set(job.run_id, attempt)
            train_job(job, folder / job.run_id)
            doom.lift()
            pipe.send((job.run_id, time.process_time() - began))


def planned(spec: Path, out: Path, most: int | None = None) -> list[Job]:
    study = Study(load_spec(spec), out)
    return [study.job(run) for run in study.planned[:most]]


def bare(spec: Path, folder: Path, share: float) -> dict[str, float]:
    """The same runs by a loop in each slot, and nobody to know of it but whoever starts it again."""
    jobs = planned(spec, folder, LOOP)
    crew, enough, finished = Crew(SLOTS, "killed"), int(COUNTED * len(jobs)), 0
    left: dict[Connection, list[Job]] = {}
    tried: collections.Counter[str] = collections.Counter()

    def begin(todo: list[Job]) -> None:
        left[crew.start(serve_loop, jobs[0], folder, share)] = todo

    def hand_out(pipe: Connection) -> None:
        todo = left[pipe][: (len(left[pipe]) - 1) % BATCH + 1]
        pipe.send([(job, tried[job.run_id] + 1) for job in todo])

    for i in range(SLOTS):
        begin(jobs[i::SLOTS])
    while finished < enough:
        for pipe in wait(list(left)):
            assert isinstance(pipe, Connection)
            try:
                done = crew.heard(pipe)
            except EOFError:
                crew.gone(pipe)
                todo = left.pop(pipe)
                tried[todo[0].run_id] += 1
                begin(todo)
                continue
            if done is None:
                hand_out(pipe)
                continue
            finished += 1
            left[pipe].pop(0)
            if len(left[pipe]) % BATCH == 0:
                hand_out(pipe)
    told = crew.milliseconds(finished) | {"killed": crew.killed, "runs": finished}
    crew.close()
    return told


def swept(spec: Path, out: Path, share: float) -> dict[str, float]:
    """The same runs by the sweep, from wherever it stands."""
    jobs = planned(spec, out)
    enough, finished, crews = int(COUNTED * len(jobs)), 0, list[Crew]()

    def backend(*given: Any, **options: Any) -> ForkedBackend:
        crews.append(Crew(SLOTS, "killed"))
        return ForkedBackend(crews[-1], SLOTS, serve_slot, jobs[0], share)

    def seen(event: Event) -> None:
        nonlocal finished
        finished += event.kind == "finished"
        if finished == enough and not told:
            told.update(crews[0].milliseconds(finished))

    told: dict[str, float] = {}
    with mock.patch.object(session, "RayBackend", backend):
        summary = run_study(load_spec(spec), out, on_event=seen)
    told["failed"] = summary["runs"]["failed"]
    told |= {"killed": sum(crew.killed for crew in crews), "runs": len(jobs)}
    return told


def looks(out: Path, server: str, pid: int) -> Iterator[tuple[str, float, float]]:
    """How long each way to look at a sweep takes, by the clock and by CPU."""

    def of_children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def of_server() -> float:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    for name in ("status", "runs"):
        began, cpu = time.perf_counter(), of_children()
        ended = subprocess.run([*COMMAND, name, str(out), "--json"], capture_output=True, text=True)
        assert ended.returncode == 0 and json.loads(ended.stdout), ended.stderr
        yield f"nextscale {name}", time.perf_counter() - began, of_children() - cpu
    for path in ("/", "/api/status", "/runs.csv"):
        began, cpu = time.perf_counter(), of_server()
        assert urllib.request.urlopen(f"{server}{path}").read()
        yield f"serve {path}", time.perf_counter() - began, of_server() - cpu


def measured(way: str, spec: Path, out: Path, share: float) -> subprocess.Popen:
    """A way to do the runs, in a process of its own."""
    given = [sys.executable, __file__, "--do", way, str(spec), str(out), str(share)]
    return subprocess.Popen(given, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen) -> dict[str, float]:
    told = process.communicate()[0]
    assert process.returncode == 0
    return json.loads(told.splitlines()[-1])


def watched(process: subprocess.Popen, out: Path) -> tuple[dict[str, float], Looks]:
    """What the sweep told, and how long each look at it took while it was at work."""
    took: Looks = collections.defaultdict(list)
    records = Records(out)
    while not (out / "accounts.jsonl").exists():
        time.sleep(0.2)
    with subprocess.Popen(
        [*COMMAND, "serve", out, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True
    ) as served:
        assert served.stdout is not None
        try:
            server = json.loads("".join(iter(served.stdout.readline, "}\n")) + "}")["url"].rstrip("/")
            while process.poll() is None:
                for name, seconds, cpu in looks(out, server, served.pid):
                    took[name].append((seconds, cpu))
                records.look()
                time.sleep(LOOKS)
            records.look()
        finally:
            served.terminate()
    return result(process), took


def main(runs: int = RUNS) -> None:
    os.environ |= {"PYTHONPATH": str(Path(__file__).parent)} | environment_of(Pool(accelerator="cpu"))
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["NEXTSCALE_CACHE"] = str(folder / "cache")
        spec, out, undisturbed = folder / "many.yaml", folder / "out", folder / "undisturbed"
        spec.write_text(SPEC.format(seeds=list(range(runs // 4)), folder=Path(__file__).parent))
        rows, chance = [], SHARE * 1.8  # some attempts are done before their timer is

        def row(what: str, told: dict[str, float], base: dict[str, float] | None) -> dict[str, float]:
            attempts = told["runs"] + told["killed"]
            took = [f"{told[clock]:.1f}" for clock in ("slot", "cpu")]
            over = ["", ""] if base is None else [f"{told[clock] - base[clock]:.1f}" for clock in ("slot", "cpu")]
            rows.append([what, f"{told['killed'] / attempts:.0%}", *took, *over])
            print(f"# {rows[-1]}", file=sys.stderr, flush=True)
            return told

        calm = row("bare loop", result(measured("bare", spec, folder / "calm", 0.0)), None)
        row("nextscale", result(measured("swept", spec, undisturbed, 0.0)), calm)
        base = row("bare loop", result(measured("bare", spec, folder / "killed", chance)), None)
        told, took = watched(measured("swept", spec, out, chance), out)
        row("nextscale, looked at", told, base)
        starts, given_up = 1, int(told["failed"])
        while told["failed"]:  # what was killed six times in a row was given up
            told, starts = result(measured("swept", spec, out, 0.0)), starts + 1
        wrong = faults(out, undisturbed)
        attempts = Accounts(out / "accounts.jsonl").totals()["attempts"]
    columns = ["runs done by", "attempts killed", "ms of a slot", "ms of CPU", "overhead: slot", "CPU"]
    console.print(Table(f"{runs:,} runs in {SLOTS} slots", columns, rows).rich())
    shown = []
    for look, seen in took.items():
        seconds = [sorted(each) for each in zip(*seen, strict=True)]
        figures = [f"{each[at]:.2f}" for each in seconds for at in (len(each) // 2, -1)]
        shown.append([look, str(len(seen)), *figures])
    columns = ["look", "times", "seconds: median", "longest", "CPU: median", "longest"]
    console.print(Table("Looks at it while it is at work", columns, shown).rich())
    console.print(
        f"{attempts:,} attempts; {given_up} runs given up, and done by the same command again; starts: {starts}"
    )
    console.print(f"wrong: {'; '.join(wrong) or 'nothing'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*map(Path, sys.argv[2:]))
    elif sys.argv[1:2] == ["--do"]:
        way, spec, out, share = sys.argv[2:]
        print(json.dumps({"bare": bare, "swept": swept}[way](Path(spec), Path(out), float(share))))
    else:
        main(*map(int, sys.argv[1:]))
