"""Imported runs, kept beside a folder's own together with where they come from.

OUT/imports/<digest>.json holds what one file gave: the file and its sha256, when it was read, what its columns were
taken for, what was left out, and each run with its row as it was found. To delete it is to take the import back.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from etils import epath

from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.jsonable import jsonable
from nextscale.fit.table.runs import Runs
from nextscale.model.record import Row, write_atomically
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.store.foreign_tables import ForeignTable

FOLDER = "imports"
STATUS = "imported"
Change = Literal["new", "same", "replaced"]
_OURS = ("params", "tokens", "flops", "loss", "run_id", "status", "reason", "attempts", "data", "sweep", "role")
"""Columns that a file's own of that name do not fill: they may mean something else."""


@dataclasses.dataclass(frozen=True)
class ImportResult:
    """What came of reading a file.

    Attributes:
        runs: that it gave.
        known: of them that another file had given before; they count once.
        change: that it made: `new`; `same`, nothing was written: the file had been read with these options before; or
            `replaced`, it had been read with others.
        notes: what was derived or left out, in words.
    """

    source: str
    data: str
    runs: int
    known: int
    change: Change
    notes: tuple[str, ...]


def write_import(
    out: Path, path: Path, foreign: ForeignTable, runs: Runs, meaning: Mapping[str, Any], data: str | None
) -> ImportResult:
    """Writes the runs of a file down, in place of what the same file gave before.

    Args:
        runs: of `foreign.table`, whose run_id is the row there.
        meaning: what was taken for what.
        data: what they were trained on, in words; the file's name if it is not said.
    """
    source = str(path.expanduser().absolute())
    counted = {"params": CONVENTIONS[meaning["params"]]}
    kept = []
    for row in runs.table.drop(columns="budget").to_dict("records"):
        number = int(row.pop("run_id"))
        original = {str(k): _json(v) for k, v in foreign.table.loc[number].to_dict().items()}
        named = {counted.get(str(name), str(name)): value for name, value in row.items()}
        kept.append(jsonable({"run_id": _name(original), "row": number, **named, "original": original}))
    once = {row["run_id"]: row for row in reversed(kept)}
    notes = [*foreign.notes, *runs.notes]
    if len(once) < len(kept):
        notes.append(f"{len(kept) - len(once)} rows left out: exact duplicates of another")
    content = {
        "source": source,
        "sha256": foreign.digest,
        "kind": foreign.kind,
        "imported": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
        "data": data,
        "columns": dict(meaning),
        "original_columns": list(map(str, foreign.table.columns)),
        "notes": notes,
        "runs": [row for row in kept if once[row["run_id"]] is row],
    }
    file = out / FOLDER / f"{foreign.digest[:16]}.json"
    known = {row["run_id"] for other in _files(out) if other != file for row in _read(other)["runs"]}
    change: Change = "new" if not file.exists() else "same" if _same(_read(file), content) else "replaced"
    if change != "same":
        file.parent.mkdir(exist_ok=True)
        write_atomically(epath.Path(file), json.dumps(content, indent=1, allow_nan=False) + "\n")
    return ImportResult(source, _data(content), len(once), len(known & once.keys()), change, tuple(notes))


def imported_rows(root: Path) -> list[Row]:
    """The imported runs of an output folder, as rows of its table: what the file had, then what is known of each.

    `imported_from` and `imported_row` say where a run comes from. Of two files that have it, the one that was imported
    first counts.

    Raises:
        SpecError: a file is damaged.
    """
    rows: dict[str, Row] = {}
    for content in sorted(map(_read, _files(root)), key=lambda content: str(content.get("imported"))):
        unknown = dict.fromkeys(("params", "tokens", "flops", "loss"))
        from_here = {"status": STATUS, "reason": None, "data": _data(content), "imported_from": content["source"]}
        for run in content["runs"]:
            known = {name: value for name, value in run.items() if name not in ("row", "original")}
            had = {name: value for name, value in run["original"].items() if name not in _OURS}
            rows.setdefault(run["run_id"], unknown | had | known | from_here | {"imported_row": run["row"]})
    return list(rows.values())


def _name(original: Mapping[str, Any]) -> str:
    """What a run is called: `i` and 11 hex digits of its row."""
    text = json.dumps(original, sort_keys=True, separators=(",", ":"))
    return "i" + hashlib.sha256(text.encode()).hexdigest()[:11]


def _data(content: Row) -> str:
    """What the runs of a file were trained on, in words: data of their own if nobody said."""
    return content["data"] or f"imported from {Path(content['source']).name} ({content['sha256'][:8]})"


def _json(value: Any) -> Any:
    value = jsonable(value)
    return value if value is None or isinstance(value, bool | int | float | str | list | dict) else str(value)


def _same(a: Row, b: Row) -> bool:
    return {**a, "imported": None, "source": None} == {**b, "imported": None, "source": None}


def _files(out: Path) -> list[Path]:
    return sorted((out / FOLDER).glob("*.json"))


def _read(file: Path) -> Row:
    try:
        content = json.loads(file.read_text())
        content["runs"], _data(content)
    except (ValueError, KeyError, TypeError):
        raise SpecError(f"{file}: is damaged; delete it, and import its file again") from None
    return dict(content)
