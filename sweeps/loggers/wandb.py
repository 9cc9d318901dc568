"""Weights & Biases: one run there per run, of the same id, in the group of its sweep; its step is tokens.

It takes steps in order and forgets none: a curve that turned out otherwise after a restart stays as it was first told.

Its client is a process of its own, which dies with this one and with what it has not written yet: so after a crash the
service is asked what came to it or, offline, the files are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nextscale.model.record import Row
from nextscale.sweeps.loggers.base import LoggedRun, hparams, results
from nextscale.sweeps.loggers.curve import Point
from nextscale.sweeps.spec.loggers import WeightsAndBiases
from nextscale.sweeps.store.wandb_files import SUFFIX, read_runs

_PATIENCE = 20.0
"""Seconds that a run may take to be made; a service that is down is asked again later."""


class WeightsAndBiasesLogger:
    """A project."""

    kind = "wandb"
    client = "wandb"

    def __init__(self, config: WeightsAndBiases, out: Path):
        self._config, self._out = config, out
        self.place = f"{config.entity or ''}/{config.project}"
        self.folder = out / "wandb"

    def open(self, run: LoggedRun) -> _WandbRun:
        import wandb

        settings = wandb.Settings(
            init_timeout=_PATIENCE, silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True
        )
        begun = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            mode=self._config.mode,
            id=run.run_id,
            name=run.run_id,
            group=run.sweep,
            config=hparams(run.config()),
            dir=self._out,
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        return _WandbRun(begun, self._kept(run) if begun.offline else begun.step - 1)

    def _kept(self, run: LoggedRun) -> int | None:
        """The last step that is in the files of sessions before; None without any."""
        files = sorted(self.folder.glob(f"offline-run-*-{run.run_id}/*{SUFFIX}"))
        steps = [row["_step"] for one in read_runs(files) if one.project == self._config.project for row in one.history]
        return max(steps, default=None)


class _WandbRun:
    ended = False
    """It cannot be asked, and a result told again is the same result."""

    def __init__(self, run: Any, last: int | None):
        self._run, self.last = run, last
        self._code = 1

    def rewind(self, tokens: int) -> bool:
        return False

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log(point.values, step=point.tokens, commit=True)
            self.last = point.tokens

    def end(self, record: Row) -> None:
        self._run.summary.update(results(record) | {"status": record["status"]})
        self._code = 0 if record["status"] == "done" else 1

    def close(self) -> None:
        self._run.finish(exit_code=self._code)


LOGGER = WeightsAndBiasesLogger
