"""The runs that an output folder adds to those of a spec, as a sequential design chose them (`OUT/sequence.jsonl`), and
those that it takes from them, as somebody dropped them (`OUT/dropped.jsonl`)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from etils import epath

from nextscale.model.config.run import ModelConfig
from nextscale.model.record import Row, append_row, read_rows
from nextscale.sweeps.design.expand import planned_runs, run_of
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.ledger import digest_of
from nextscale.sweeps.spec.designs import SequentialDesign
from nextscale.sweeps.spec.sweep_spec import ExternalSpec, SweepSpec

SEQUENCE, DROPPED = "sequence.jsonl", "dropped.jsonl"
_BOUNDS = {"flops", "until", "at_once"}
"""Of the design: how far a sequence goes, not where."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a sequence has come.

    Attributes:
        half_width: half the interval of the best loss at the target / that loss.
        spent: FLOPs of its runs.
        ended: why no further run is chosen; None while it goes on.
    """

    half_width: float
    spent: float
    ended: str | None


class ChosenRuns:
    """The choices of a spec, in order.

    Each is written down before it starts: a restart goes on with it, and never chooses in its place.
    """

    def __init__(self, root: Path, spec: SweepSpec):
        self._file = epath.Path(root / SEQUENCE)
        self._spec = spec
        self._of = _meaning(spec)

    def runs(self) -> list[PlannedRun]:
        """Each once, also where two processes wrote it down."""
        rows = {row["run_id"]: row for row in self.rows() if "run_id" in row}
        return [
            run_of(self._spec, row["width"] if "width" in row else row["size"], row["budget"], row["seed"])
            for row in rows.values()
        ]

    def rows(self) -> list[Row]:
        """One per run: `run_id`, `width` (`size` of an external trainer), `budget`, `seed`; `half_width`, `spent` and
        `time` when it was chosen.
        One more when it is over, with the reason as `ended`, and under which bounds."""
        return [row for row in read_rows(self._file) if row.get("of") == self._of]

    @property
    def ended(self) -> str | None:
        """Why no further run is chosen; None again where the design has been given more compute, or a narrower goal."""
        return next((row["ended"] for row in self.rows() if "ended" in row and row.get("under") == self._bounds), None)

    def add(self, runs: Sequence[PlannedRun], progress: Progress) -> None:
        """Writes runs down before they start."""
        for run in runs:
            model = run.config.model
            chosen = {"run_id": run.run_id, "width" if isinstance(model, ModelConfig) else "size": model.name}
            self._note(progress, chosen | {"budget": run.budget, "seed": run.config.seed})

    def end(self, progress: Progress) -> None:
        """Writes down why it is over."""
        self._note(progress, {"ended": progress.ended, "under": self._bounds})

    @property
    def _bounds(self) -> Row:
        assert isinstance(self._spec.design, SequentialDesign)
        return self._spec.design.model_dump(include=_BOUNDS)

    def _note(self, progress: Progress, row: Row) -> None:
        known = {"of": self._of, "time": time.time(), "half_width": progress.half_width, "spent": progress.spent}
        append_row(self._file, known | row)


def all_runs(root: Path, spec: SweepSpec) -> list[PlannedRun]:
    """Every run of a sweep in an output folder: those that its spec names, and those chosen since.

    Raises:
        SpecError: see `planned_runs`.
    """
    planned = planned_runs(spec)
    if not isinstance(spec.design, SequentialDesign):
        return planned
    known = {run.run_id for run in planned}
    return planned + [run for run in ChosenRuns(root, spec).runs() if run.run_id not in known]


def dropped_runs(root: Path) -> dict[str, Row]:
    """The runs that are not to be trained, and have no result: of each `reason`, `params`, `tokens`, `flops`."""
    newest = {row["run_id"]: row for row in read_rows(epath.Path(root / DROPPED)) if "run_id" in row}
    return {
        run_id: row
        for run_id, row in newest.items()
        if row.get("dropped") and not (root / "runs" / run_id / "record.json").exists()
    }


def without_dropped(planned: Iterable[PlannedRun], root: Path) -> list[PlannedRun]:
    """Those that are to be trained."""
    dropped = dropped_runs(root)
    return [run for run in planned if run.run_id not in dropped]


def left_out(planned: Iterable[PlannedRun], root: Path) -> list[str]:
    """What to know of planned runs that are dropped."""
    dropped = dropped_runs(root)
    found = [run.run_id for run in planned if run.run_id in dropped]
    return [f"{len(found)} runs are dropped, and nothing here counts them: {', '.join(found)}"] if found else []


def _meaning(spec: SweepSpec) -> str:
    """Names what the choices of a spec depend on, so that one with another target chooses for itself. What only says
    when to end is left out: with more compute a sequence goes on. So are where the data lies, how intervals are drawn,
    and defaults: a new option changes no old choice.
    """
    assert isinstance(spec.design, SequentialDesign)
    design = {key: value for key, value in spec.design.semantic().items() if key not in _BOUNDS}
    named = ("data", "model", "training", "evaluation", *(("trainer",) if isinstance(spec, ExternalSpec) else ()))
    parts = {name: getattr(spec, name).semantic() for name in named}
    target = spec.design.target or (spec.holdout and spec.holdout.flops)
    law = [spec.forecast.law, spec.forecast.params]
    return digest_of(parts | {"design": design | {"target": target}, "law": law})
