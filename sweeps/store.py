"""The directory of a sweep's runs, as one tidy table. Files are the only truth; reading them is all a restart takes.

OUT/runs/<run_id>/      see `nextscale.model.record`
OUT/sweeps/<name>-<digest>.json  the spec of each sweep, as it was run
OUT/ledger.jsonl        forecasts and their scores, see `ledger.py`
OUT/summary.json, fit_card.json, report.html, figures/
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import pandas as pd
from etils import epath

from nextscale.model.config import RunConfig
from nextscale.model.record import Row, RunDirectory, read_rows, write_atomically
from nextscale.sweeps.design import planned_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import digest_of
from nextscale.sweeps.spec import SweepSpec

_NOT_COLUMNS = ("loss_by_position", "versions")


@dataclasses.dataclass(frozen=True)
class Store:
    """An output folder."""

    root: Path

    @classmethod
    def at(cls, root: str | Path) -> Store:
        """The store at a folder, which is made if need be.

        Raises:
            SpecError: nothing can be written there.
        """
        store = cls(Path(root).expanduser().absolute())
        try:
            (store.root / "runs").mkdir(parents=True, exist_ok=True)
            probe = store.root / f".writable-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise SpecError(f"--out {root}: cannot be written to ({error.strerror}); name another folder") from None
        return store

    @classmethod
    def existing(cls, root: str | Path) -> Store:
        """The store at a folder that a sweep has written to.

        Raises:
            SpecError: there is none.
        """
        store = cls(Path(root).expanduser().absolute())
        if not (store.root / "runs").is_dir():
            raise SpecError(
                f"{root}: holds no sweep (there is no {store.root / 'runs'}); name the --out of `nextscale run`"
            )
        return store

    def run(self, run_id: str) -> RunDirectory:
        return RunDirectory(epath.Path(self.root / "runs" / run_id))

    def record(self, run_id: str) -> Row | None:
        """The result of a run, None while there is none.

        Raises:
            SpecError: the file is there but cannot be read.
        """
        try:
            return self.run(run_id).record()
        except ValueError:
            path = self.root / "runs" / run_id / "record.json"
            raise SpecError(f"{path}: is damaged; delete it to have this run's result made again") from None

    def config(self, run_id: str) -> RunConfig:
        """What a run was asked to be.

        Raises:
            SpecError: the file cannot be read.
        """
        try:
            return self.run(run_id).config()
        except ValueError:
            path = self.root / "runs" / run_id / "config.json"
            raise SpecError(f"{path}: is damaged; delete {path.parent} to have this run made again") from None

    def write_spec(self, spec: SweepSpec) -> Path:
        """Keeps a spec as it is run; tells where."""
        (self.root / "sweeps").mkdir(exist_ok=True)
        path = self.root / "sweeps" / f"{spec.name}-{digest_of(spec.model_dump(mode='json'))}.json"
        write_atomically(epath.Path(path), spec.model_dump_json(indent=1) + "\n")
        return path

    def specs(self) -> list[SweepSpec]:
        """Of every sweep run here; one that this version cannot read is left out."""
        found = []
        for path in sorted((self.root / "sweeps").glob("*.json")):
            with contextlib.suppress(ValueError):
                found.append(SweepSpec.model_validate_json(path.read_text()))
        return found


def load(*roots: str | Path) -> pd.DataFrame:
    """All runs of one or more output folders, one row each, by rising cost.

    Columns are those of a run's record (`nextscale.model.train.record_of`), with `status` one of done, diverged,
    failed, unfinished; `reason`; `attempts`; `data`, what it was trained on, in words; and, for runs of a sweep, its
    `sweep`, `role` and `budget`.

    Raises:
        SpecError: a folder holds no sweep, or a record is damaged.
    """
    rows: dict[str, dict[str, Any]] = {}
    for root in roots:
        store = Store.existing(root)
        for directory in sorted((store.root / "runs").iterdir()):
            if (directory / "config.json").exists():
                rows.setdefault(directory.name, _row(store, directory.name))
        for spec in store.specs():
            for planned in planned_runs(spec):
                row = rows.get(planned.config.run_id)
                if row is not None:
                    row |= {"sweep": spec.name, "role": planned.role, "budget": planned.budget}
    table = pd.DataFrame(rows.values())
    return table if table.empty else table.sort_values(["flops", "params"], ignore_index=True)


def load_curves(*roots: str | Path) -> pd.DataFrame:
    """The held-out losses along the runs of one or more output folders, one row per run and position.

    Columns are `run_id`; `params`; `tokens` and `flops` up to there; `lr`, of the last step before; `loss` and
    `bits_per_byte`; and `loss_<name>` and `bits_per_byte_<name>` of each further validation set. A run has the rows
    that `evaluation.points` asks for, as far as it has come, and none without.

    Raises:
        SpecError: a folder holds no sweep, or what a run was asked to be is damaged.
    """
    from nextscale.model.accounting import flops_per_token, parameters

    curves: dict[str, list[dict[str, Any]]] = {}
    for root in roots:
        store = Store.existing(root)
        for file in sorted((store.root / "runs").glob("*/evaluations.jsonl")):
            run_id = file.parent.name
            model = store.config(run_id).model
            run, cost = {"run_id": run_id, "params": parameters(model)}, flops_per_token(model)
            rows = [run | {"tokens": row["tokens"], "flops": cost * row["tokens"]} | row for row in read_rows(file)]
            curves[run_id] = max(rows, curves.get(run_id, []), key=len)
    return pd.DataFrame([row for rows in curves.values() for row in rows])


def _row(store: Store, run_id: str) -> dict[str, Any]:
    attempts = store.run(run_id).attempts()
    record, config = store.record(run_id), store.config(run_id)
    if record is None:
        failed = bool(attempts) and attempts[-1]["status"] not in ("lost", "stopped")
        record = _expected(config, store.run(run_id).metrics()) | {
            "status": "failed" if failed else "unfinished",
            "reason": attempts[-1]["message"] if attempts else None,
        }
    known = {k: v for k, v in record.items() if k not in _NOT_COLUMNS}
    return known | {"attempts": len(attempts), "data": " ".join(f"{k}={v}" for k, v in config.data.semantic().items())}


def _expected(config: RunConfig, curve: list[Row]) -> dict[str, Any]:
    """What is known of a run before it is done."""
    from nextscale.model.accounting import flops_per_token, parameters

    return {
        "run_id": config.run_id,
        "params": parameters(config.model),
        "tokens": config.tokens,
        "flops": flops_per_token(config.model) * config.tokens,
        "tokens_done": curve[-1]["tokens"] if curve else 0,
    }
