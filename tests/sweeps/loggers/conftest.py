"""A run whose files are written by the test, and exported by a logger."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from nextscale.model.record import append_row
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.loggers.base import LoggedRun
from nextscale.sweeps.loggers.exporter import Exporter
from nextscale.sweeps.loggers.tensorboard import TensorBoardLogger
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.spec.loggers import TensorBoard
from nextscale.sweeps.store import event_files
from nextscale.sweeps.store.store import Store


class Run:
    """A run whose worker is this test: it writes what a worker writes, when the test says so."""

    def __init__(self, out, config):
        self.store, self.config = Store.at(out), config
        self.directory = self.store.run(config.run_id)
        self.directory.write_config(config)
        self.followed = LoggedRun("tiny", config.run_id, self.directory)
        self.rng = np.random.default_rng(0)

    def train(self, *tokens):
        for position in tokens:
            loss, norm = self.rng.uniform(1, 3, 2)
            append_row(self.directory.metrics_file, {"tokens": position, "gradient_norm": norm, "loss": loss})

    def evaluate(self, tokens):
        loss = self.rng.uniform(1, 3)
        append_row(self.directory.evaluations_file, {"tokens": tokens, "lr": 0.01, "loss": loss, "bits_per_byte": None})

    def finish(self):
        tokens = self.directory.metrics()[-1]["tokens"]
        self.directory.write_record({"run_id": self.config.run_id, "status": "done", "tokens": tokens, "loss": 1.5})

    def exported(self, *, forget=False):
        """Another process's look at the files."""
        if forget:
            shutil.rmtree(self.store.root / "tensorboard" / ".exported")
        exporter = Exporter(TensorBoardLogger(TensorBoard(), self.store.root), self.store.root, pytest.fail)
        exporter.follow(self.followed)
        return exporter.export()

    @property
    def event_file(self):
        (file,) = (self.store.root / "tensorboard" / "tiny" / self.config.run_id).iterdir()
        return file

    def exported_steps(self):
        """Every step of the training curve that is in the event file, as often as it is there."""
        events = [event for _, event in event_files.events(self.event_file)]
        return [event.step for event in events for value in event.summary.value if value.tag == "train/loss"]

    def exported_events(self):
        return event_files.read_run([self.event_file])

    def curve(self, name, kind="train"):
        """A column as it was written, to 32 bits."""
        rows = self.directory.metrics() if kind == "train" else self.directory.evaluations()
        return [(row["tokens"], float(np.float32(row[name]))) for row in rows]

    def exporter_killed(self, logger, seen):
        """An exporter that follows a growing run is killed, twice, once it has exported something.

        Args:
            logger: makes it, as Python says it.
            seen: tells how many bytes it has written.
        """
        program = textwrap.dedent(f"""\
            from nextscale.sweeps.loggers.exporter import Exporter
            from nextscale.sweeps.spec.loggers import TensorBoard, WeightsAndBiases
            from nextscale.sweeps.loggers.base import LoggedRun
            from nextscale.sweeps.loggers.tensorboard import TensorBoardLogger
            from nextscale.sweeps.loggers.wandb import WeightsAndBiasesLogger
            from nextscale.sweeps.store.store import Store
            store = Store.at({str(self.store.root)!r})
            exporter = Exporter({logger}, store.root, print, every=0.001)
            exporter.follow(LoggedRun("tiny", {self.config.run_id!r}, store.run({self.config.run_id!r})))
            exporter.start()
            exporter._thread.join()
        """)
        tokens = iter(range(128, 10**9, 128))
        for _ in range(2):
            child = subprocess.Popen([sys.executable, "-c", program])
            deadline, before = time.time() + 60, seen()
            while seen() < before + 2000:
                assert time.time() < deadline
                assert child.poll() is None
                self.train(next(tokens))
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        self.train(next(tokens))
        self.finish()


@pytest.fixture
def config(spec_file):
    return planned_runs(load_spec(spec_file()))[0].config


@pytest.fixture
def run(tmp_path, config):
    return Run(tmp_path / "out", config)


@pytest.fixture
def run_at():
    """Makes a run of a config in an output folder: `run_at(out, config)`."""
    return Run
