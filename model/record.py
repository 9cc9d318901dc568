"""The directory of a run, the only truth about it: which files it holds, and how they are read and written.

config.json      the run; written first
metrics.jsonl    the curve of training, appended to; a resumed run cuts it back to where it resumes
evaluations.jsonl  where it is asked for, the curve of held-out losses (see `evaluate.py`), kept in the same way
speed.jsonl      how fast it went, beside the curve (see `meter/speed.py`); kept in the same way
profile/         where it is asked for, a trace of some steps
checkpoints/     see `checkpoint.py`
attempts.jsonl   every attempt: where, on what, when, how long, how it ended
record.json      the result; written last, in one piece: its presence is "done"
tasks.json       where it was asked for after that, what the trained model scores on tasks (see `trained/tasks.py`)

Of a run that an external trainer trains, there are no checkpoints, but

trainer/         the folder that is the trainer's own, with all that it writes; metrics.jsonl above is made of its curve
trainer.json     what it is told
output.log       what it prints
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard

from etils import epath

if TYPE_CHECKING:
    from nextscale.model.config.external import AnyRun

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The directory of one run. Writes of whole files are atomic."""

    path: epath.Path

    @property
    def checkpoints(self) -> epath.Path:
        return self.path / "checkpoints"

    def checkpoint(self, tokens: int) -> epath.Path:
        """The checkpoint at a position; it is there, or it is not."""
        return self.checkpoints / str(tokens)

    @property
    def checkpoint_positions(self) -> list[int]:
        """The positions of its checkpoints."""
        try:
            names = [path.name for path in self.checkpoints.iterdir()]
        except FileNotFoundError:
            return []
        return [int(name) for name in names if name.isdecimal()]

    @property
    def saved(self) -> int:
        """Tokens of its newest state: a checkpoint, or what an external trainer said that it saved; 0 without one."""
        told = [row["saved"] for row in self.attempts() if type(row.get("saved")) is int]
        return max([0, *self.checkpoint_positions, *told])

    @property
    def trainer(self) -> epath.Path:
        """The folder of an external trainer, with all that it writes."""
        return self.path / "trainer"

    @property
    def output_file(self) -> epath.Path:
        """What an external trainer printed."""
        return self.path / "output.log"

    def sibling(self, run_id: str) -> RunDirectory:
        """The directory of another run of the same store."""
        return RunDirectory(self.path.parent / run_id)

    @property
    def metrics_file(self) -> epath.Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluations_file(self) -> epath.Path:
        return self.path / "evaluations.jsonl"

    @property
    def speed_file(self) -> epath.Path:
        return self.path / "speed.jsonl"

    @property
    def profile(self) -> epath.Path:
        """The folder of traces of its steps."""
        return self.path / "profile"

    def write_config(self, config: AnyRun) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "config.json", config.model_dump_json(indent=1) + "\n")

    @property
    def started(self) -> bool:
        return (self.path / "config.json").exists()

    @property
    def done(self) -> bool:
        return (self.path / "record.json").exists()

    def config(self) -> AnyRun:
        """The run's configuration.

        Raises:
            ValueError: the file is no config.
        """
        from nextscale.model.config.external import read_run  # a fifth of a second, which who reads rows alone saves

        return read_run(_text(self.path / "config.json"))

    def metrics(self) -> list[Row]:
        """The curve so far; a line cut short by a crash is left out."""
        return read_curve(self.metrics_file)

    def evaluations(self) -> list[Row]:
        """The held-out losses so far."""
        return read_curve(self.evaluations_file)

    def speed(self) -> list[Row]:
        """How fast it went so far."""
        return read_curve(self.speed_file)

    def cut_curves(self, position: int, trunk: RunDirectory | None = None) -> None:
        """Forgets both curves after `position` tokens, and how fast they were made. The files are new ones: a writer of
        the old ones, a worker that was thought dead, no longer reaches them.

        Args:
            trunk: another run, whose curves up to there are taken instead of this run's own.
        """
        source = trunk or self
        for file, rows in (
            (self.metrics_file, source.metrics()),
            (self.evaluations_file, source.evaluations()),
            (self.speed_file, self.speed()),
        ):
            kept = [row for row in rows if row["tokens"] <= position]
            if kept or file.exists():
                write_atomically(file, "".join(json.dumps(row) + "\n" for row in kept))

    def add_evaluation(self, row: Row) -> None:
        """Appends to the held-out losses; a position that is there stays as it is."""
        if all(known["tokens"] < row["tokens"] for known in self.evaluations()):
            append_row(self.evaluations_file, row)

    def attempts(self) -> list[Row]:
        return [row for row in read_rows(self.path / "attempts.jsonl") if "status" in row]

    def add_attempt(self, attempt: Row) -> None:
        append_row(self.path / "attempts.jsonl", attempt)

    def record(self) -> Row | None:
        """The result, or None while there is none.

        Raises:
            ValueError: the file is no record.
        """
        try:
            record = json.loads(_text(self.path / "record.json"))
        except FileNotFoundError:
            return None
        except RecursionError:
            raise ValueError("nested too deep for a record") from None
        if not isinstance(record, dict) or "status" not in record:
            raise ValueError("not a record")
        return record

    def task_scores(self) -> Row:
        """What its model scores on tasks, by column; none where nobody asked.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            found = json.loads(_text(self.path / "tasks.json"))
        except FileNotFoundError:
            return {}
        scores = found.get("scores") if isinstance(found, dict) else None
        if not isinstance(scores, dict) or not all(map(is_number, scores.values())):
            raise ValueError("no scores on tasks")
        return scores

    def write_tasks(self, tasks: Row) -> None:
        write_atomically(self.path / "tasks.json", json.dumps(tasks, indent=1, allow_nan=False) + "\n")

    def write_record(self, record: Row) -> None:
        write_atomically(self.path / "record.json", json.dumps(record, indent=1, allow_nan=False) + "\n")


def pattern_in(folder: epath.Path | Path) -> str | None:
    """What keeps runs from living in a folder; None where nothing does.

    Orbax looks for the files of a checkpoint by patterns, and escapes nothing in the path before them: below such a
    folder it writes what it cannot read back, or reads what lies in another.
    """
    found = sorted(set(str(folder.resolve())) & set("*?[]\\"))
    if not found:
        return None
    marks = " and ".join(found)
    return f"{marks} in its path would be read as a pattern, and no checkpoint read back; name another folder"


def write_atomically(path: epath.Path, text: str) -> None:
    """Whole or not at all, also when power fails."""
    with new_file(path, "w") as file:
        file.write(text)


@contextlib.contextmanager
def new_file(path: epath.Path | Path, mode: str) -> Iterator[IO]:
    """A file that appears at `path` when it is whole, or not at all, whoever else is writing it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with naming(path), temporary.open(mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: epath.Path | Path) -> Iterator[None]:
    """An error of what is written says to which file: a full disk tells of none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def append_row(path: epath.Path, row: Row) -> None:
    """Adds a line to a JSONL file, on a line of its own also where a crash cut the last one short."""
    torn = is_torn(path)
    with naming(path), path.open("a") as file:
        file.write("\n" * torn + json.dumps(row) + "\n")


def is_torn(path: epath.Path | Path) -> bool:
    """Whether the last line of a file was cut short; only its last byte is read, however long it is."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    return False


def read_lines(path: epath.Path) -> list[str]:
    """Lines of a JSONL file, whatever they hold; none when it is missing."""
    try:
        return path.read_bytes().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def read_rows(path: epath.Path) -> list[Row]:
    """Rows of a JSONL file; none when it is missing. A line that a crash cut short, or that holds no row, is none."""
    rows = []
    for line in read_lines(path):
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def read_curve(path: epath.Path) -> list[Row]:
    """The rows of a curve: those that say at which token they are."""
    return [row for row in read_rows(path) if is_curve_row(row)]


def is_curve_row(row: Row) -> bool:
    """Whether it says at which token it is, and its loss is a number or none."""
    tokens, loss = row.get("tokens"), row.get("loss")
    return type(tokens) is int and 0 <= tokens < 2**63 and (loss is None or is_number(loss))


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it can be computed with, as a float; it may be infinite, or NaN."""
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def _text(path: epath.Path) -> str:
    try:
        return path.read_text()
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder") from None
