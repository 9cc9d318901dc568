"""Live progress of a sweep: runs done, FLOPs done, time left, losses of what is running."""

from __future__ import annotations

import time

from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.job import Job
from nextscale.model.record import RunDirectory
from nextscale.sweeps.design.planned_run import Role

_TITLES: dict[Role, str] = {"fit": "training the sweep", "holdout": "training the held-out scale"}
_REFRESH = 1.0


class Reporter:
    """Shows a study as it goes: a live bar on a terminal, else one line per event."""

    def __init__(self, console: Console):
        self.console = console
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[runs]} runs  {task.fields[flops]} FLOPs"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[losses]}"),
            console=console,
            transient=False,
        )
        self._task: TaskID | None = None
        self._todo: list[Job] = []
        self._running: dict[str, Job] = {}
        self._finished: list[Job] = []
        self._read_at = 0.0

    def __enter__(self) -> Reporter:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def phase(self, role: Role, done: list[Job], todo: list[Job]) -> None:
        """Begins a round of training."""
        if self._task is not None:
            self._progress.update(self._task, losses="")
        self._todo, self._running, self._finished = todo, {}, []
        total = sum(job.flops for job in todo)
        reused = f", {len(done)} done before" if done else ""
        self._say(f"{_TITLES[role]}: {len(todo)} runs, {total:.3g} FLOPs to train{reused}")
        self._task = None
        if todo:
            self._task = self._progress.add_task(
                _TITLES[role], total=total, runs=f"0/{len(todo)}", flops=f"0/{total:.2g}", losses=""
            )

    def event(self, event: Event) -> None:
        """Shows what happened to a run."""
        job = event.job
        if event.kind == "notice":
            self.console.print(f"  {event.message}", style="yellow", markup=False)
        if job is not None:
            if event.kind == "started":
                self._running[job.run_id] = job
            else:
                self._running.pop(job.run_id, None)
            if event.kind in ("finished", "failed"):
                self._finished.append(job)
            if event.kind == "finished":
                record = RunDirectory(epath.Path(job.directory)).record() or {}
                value = record.get("loss")
                ended = f"loss {value:.4f}" if value is not None else f"diverged: {record.get('reason')}"
                self._say(
                    f"  {len(self._finished)}/{len(self._todo)}  {job.run_id}  {job.config.model.label:<11} "
                    f"{job.flops:.3g} FLOPs  {ended}"
                )
            elif event.kind in ("failed", "retried", "stopped"):
                self.console.print(f"  {job.run_id} {event.kind}: {event.message}", style="yellow", markup=False)
            elif event.kind == "held":
                self._say(f"  {job.run_id} is being trained by another process; waiting for it")
        if self._task is not None and (job is not None or time.monotonic() - self._read_at > _REFRESH):
            self._update(self._task)

    def _update(self, task: TaskID) -> None:
        self._read_at = time.monotonic()
        done = sum(job.flops for job in self._finished)
        losses = []
        for job in self._running.values():
            curve = RunDirectory(epath.Path(job.directory)).metrics() if self._live else []
            if curve:
                begun = 0 if job.start is None else job.start.tokens
                done += job.flops * max(curve[-1]["tokens"] - begun, 0) / (job.config.tokens - begun)
                losses += [f"{row['loss']:.3f}" for row in curve[-1:] if row["loss"] is not None]
        total = sum(job.flops for job in self._todo)
        self._progress.update(
            task,
            completed=done,
            runs=f"{len(self._finished)}/{len(self._todo)}",
            flops=f"{done:.2g}/{total:.2g}",
            losses=f"loss {' '.join(losses)}" if losses else "",
        )

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)
