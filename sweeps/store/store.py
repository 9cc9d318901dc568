"""`Store`: an output folder; `load`: its runs as one table. Files are the only truth: a restart reads them, no more.

OUT/runs/<run_id>/      see `nextscale.model.record`
OUT/sweeps/<name>-<digest>.json  the spec of each sweep, as it was run; order.jsonl says which was run last
OUT/ledger.jsonl        forecasts and their scores, see `ledger.py`
OUT/index.parquet       the table as it was last read, see `index.py`; may be deleted
OUT/imports/            runs from elsewhere, see `imported_runs.py`
OUT/set-aside/<run_id>-<n>/  what a run was before it was done again
OUT/dropped.jsonl       runs that are not to be trained
OUT/summary.json, fit_card.json, report.html, figures/
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from etils import epath

from nextscale.cluster.hardware.catalogue import share_of_peak
from nextscale.model.config.external import AnyRun, ExternalRun
from nextscale.model.config.run import RunConfig
from nextscale.model.record import Row, RunDirectory, append_row, is_number, pattern_in, read_curve, write_atomically
from nextscale.model.storage.address import address_of
from nextscale.model.storage.sweep_copy import copy_of, original_of
from nextscale.sweeps.design.chosen_runs import dropped_runs
from nextscale.sweeps.errors import SpecError, damaged_file_error
from nextscale.sweeps.ledger import digest_of
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store import index
from nextscale.sweeps.store.imported_runs import STATUS as IMPORTED
from nextscale.sweeps.store.imported_runs import imported_rows
from nextscale.sweeps.store.run_rows import UNREADABLE, run_costs, untyped_table, with_standard_columns

SET_ASIDE = "set-aside"
_SPEED = ("seconds", "tokens_per_second", "flops_per_second", "memory_bytes", "data_seconds", "checkpoint_seconds")
_CURVES = {"evaluation": "evaluations.jsonl", "training": "metrics.jsonl"}


@dataclasses.dataclass(frozen=True)
class Store:
    """An output folder."""

    root: Path

    @classmethod
    def at(cls, root: str | Path) -> Store:
        """The store at a folder, which is made if need be.

        Raises:
            SpecError: nothing can be written there, or not be read back.
        """
        if (address := address_of(root)) is not None:
            raise SpecError(f"{address}: is in a bucket, and written to by `nextscale run` alone; name a folder")
        store = cls(Path(root).expanduser().absolute())
        if (problem := pattern_in(store.root)) is not None:
            raise SpecError(f"--out {root}: {problem}")
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
        """The store at a folder that a sweep has written to; of an address in a bucket, a copy of it as it is now.

        Raises:
            SpecError: there is none.
        """
        address = address_of(root) or original_of(Path(root))
        store = cls(Path(root).expanduser().absolute() if address is None else copy_of(address))
        if not (store.root / "runs").is_dir():
            raise no_sweep(root, address or store.root)
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
            raise damaged_file_error(self.root / "runs" / run_id / "record.json") from None

    def set_aside(self, run_id: str) -> list[RunDirectory]:
        """What a run was before it was done again, each time."""
        return [RunDirectory(epath.Path(path)) for path in sorted((self.root / SET_ASIDE).glob(f"{run_id}-*"))]

    def ever_started(self, run_id: str) -> bool:
        """Whether a run was begun, now or before it was done again: its loss may be known."""
        return self.run(run_id).started or bool(self.set_aside(run_id))

    def config(self, run_id: str) -> AnyRun:
        """What a run was asked to be.

        Raises:
            SpecError: the file cannot be read.
        """
        try:
            return self.run(run_id).config()
        except ValueError as error:
            raise damaged_file_error(self.root / "runs" / run_id / "config.json", error) from None

    def write_spec(self, spec: SweepSpec) -> Path:
        """Keeps a spec as it is run; tells where."""
        (self.root / "sweeps").mkdir(exist_ok=True)
        # With other gates it is the same sweep.
        digest = digest_of(spec.model_dump(mode="json", exclude_defaults=True, exclude={"gates"}))
        path = self._file_of(spec) or self.root / "sweeps" / f"{spec.name}-{digest}.json"
        write_atomically(epath.Path(path), spec.model_dump_json(indent=1) + "\n")
        append_row(epath.Path(self.root / "sweeps" / index.ORDER), {"spec": path.name})
        return path

    def _file_of(self, spec: SweepSpec) -> Path | None:
        """Where a spec was kept before, under whatever digest: options that were added since are at their default."""
        for path in sorted((self.root / "sweeps").glob(f"{spec.name}-*.json")):
            with contextlib.suppress(ValueError, FileNotFoundError):
                if SweepSpec.model_validate_json(path.read_text()) == spec:
                    return path
        return None

    def specs(self) -> list[SweepSpec]:
        """Of every sweep run here; one that this version cannot read is left out."""
        return self._readable(sorted((self.root / "sweeps").glob("*.json")))

    @property
    def newest_spec(self) -> SweepSpec | None:
        """Of the sweep that was run here last, as it was run; None where none was.

        Raises:
            SpecError: none can be read.
        """
        paths = [path for path, _ in index.spec_files(self.root / "sweeps")]
        found = self._readable(paths)
        if paths and not found:
            raise SpecError(
                f"{paths[-1]}: cannot be read by this version; run the sweep again, which trains nothing twice"
            )
        return found[-1] if found else None

    @staticmethod
    def _readable(paths: Iterable[Path]) -> list[SweepSpec]:
        found = []
        for path in paths:
            with contextlib.suppress(ValueError, FileNotFoundError):
                found.append(SweepSpec.model_validate_json(path.read_text()))
        return found


def no_sweep(root: str | Path, place: str | Path) -> SpecError:
    return SpecError(f"{root}: holds no sweep (there is no {place}/runs); name the --out of `nextscale run`")


def check_no_copy(store: Store) -> None:
    """
    Raises:
        SpecError: what is changed in there would be changed nowhere else.
    """
    if (address := original_of(store.root)) is not None:
        raise SpecError(f"{address}: this is a copy of it; in Python change what `sweeps.run.bucket.edited` gives")


def load(*roots: str | Path, sweep: str | None = None, unreadable: bool = False) -> pd.DataFrame:
    """All runs of one or more output folders, one row each, by rising cost.

    Columns are those of `run_rows.COLUMNS`, explained in docs/runs.md, with `status` one of done,
    diverged, failed, unfinished, dropped, imported; of runs from elsewhere what their file had (see
    `imported_runs.py`); and of each validation set and each source of a mixture `loss_<name>`,
    `bits_per_byte_<name>`, `epochs_<name>`.

    A run that several sweeps ask for is one row. All of them are in `sweeps`; `sweep`, `role` and `budget` are those of
    the one that was run last. A run that several folders have is that of the first in which it is done.

    Args:
        sweep: the runs that a sweep of this name asks for, and as what, alone.
        unreadable: whether a run that cannot be read is a row of that status, with the reason, and a damaged row of the
            accounts is left out and told in `attrs["problems"]`; else the first of them is an error.

    Raises:
        SpecError: a folder holds no sweep, a config or record is damaged, or there is no such sweep.
    """
    tables, plans, problems = [], [], list[str]()
    for root in roots:
        store, broken = Store.existing(root), dict[str, SpecError]()
        rows, its = index.read(store.root, broken.__setitem__)
        if broken and not unreadable:
            raise next(iter(broken.values()))
        rows = _with_dropped(rows, dropped_runs(store.root))
        costs = run_costs(store.root / "accounts.jsonl", problems.append if unreadable else None)
        tables.append(_with(rows, costs).assign(folder=str(root)))
        others = [{"run_id": name, "status": UNREADABLE, "reason": str(why)} for name, why in broken.items()]
        tables.append(untyped_table(others).assign(folder=str(root)))
        tables.append(untyped_table(imported_rows(store.root)).assign(folder=str(root)))
        plans += its
    table = index.concatenated(tables)
    if len(roots) > 1 and len(table):
        without = ~table["status"].isin(["done", "diverged", IMPORTED])
        table = table.loc[without.sort_values(kind="stable").index].drop_duplicates("run_id", ignore_index=True)
    names = {plan["sweep"] for plan in plans} - {None}
    if sweep is not None and sweep not in names:
        raise SpecError(f"sweep {sweep}: there is none of this name; there is {', '.join(sorted(names)) or 'none'}")
    wanted = _wanted([plan for plan in plans if sweep in (None, plan["sweep"])])
    begun = table["trunk"].tolist() if "trunk" in table else [None] * len(table)
    table = _with(table, wanted)
    if wanted:
        table["trunk"] = [
            one or None if isinstance(one, str) else as_planned
            for one, as_planned in zip(begun, table["trunk"], strict=True)
        ]
    if sweep is not None:
        table = table[table["sweep"].notna()]
    found = with_standard_columns(table).sort_values(["flops", "params", "run_id"], ignore_index=True)
    found.attrs |= {"counted": True} | ({"problems": problems} if unreadable else {})
    return found


def load_curves(*roots: str | Path, of: Literal["evaluation", "training"] = "evaluation") -> pd.DataFrame:
    """The losses along the runs of one or more output folders, one row per run and position.

    Columns are `run_id`; `params`; `tokens` and `flops` up to there; `loss`; and

    - of evaluations `lr`, of the last step before, `bits_per_byte`, and `loss_<name>` and `bits_per_byte_<name>` of
      each further validation set. A run has the rows that `evaluation.points` asks for, as far as it has come, and
      none without.
    - of training `gradient_norm` and whatever else its curve tells: means over the steps since the row before. Every
      run has them. And in a row about every ten seconds how fast the run was since the last of these: `seconds`,
      `tokens_per_second`, `flops_per_second`, `utilisation` (model FLOPs over the peak, where that is known),
      `memory_bytes`, the most so far, and of the seconds `data_seconds` and `checkpoint_seconds`, waited for these.

    Raises:
        SpecError: a folder holds no sweep, or what a run was asked to be is damaged.
    """
    from nextscale.model.accounting import flops_per_token, parameters

    curves: dict[str, list[dict[str, Any]]] = {}
    for root in roots:
        store = Store.existing(root)
        for file in sorted((store.root / "runs").glob(f"*/{_CURVES[of]}")):
            run_id = file.parent.name
            try:
                model = store.config(run_id).model
            except FileNotFoundError:  # deleted since it was listed
                continue
            run, cost = {"run_id": run_id, "params": parameters(model)}, flops_per_token(model)
            speed = {}
            if of == "training":
                speed = {row["tokens"]: speed_columns(row) for row in store.run(run_id).speed()}
            rows = [
                run | {"tokens": row["tokens"], "flops": cost * row["tokens"]} | row | speed.get(row["tokens"], {})
                for row in read_curve(epath.Path(file))
            ]
            curves[run_id] = max(rows, curves.get(run_id, []), key=len)
    return pd.DataFrame([row for rows in curves.values() for row in rows])


def speed_columns(row: Row) -> Row:
    """How fast a run was (see `load_curves`), of a row of its speed; None where that holds no number."""
    told = {name: value if is_number(value := row.get(name)) else None for name in _SPEED}
    return told | {"utilisation": share_of_peak(row)}


def own_run(store: Store, run_id: str) -> RunConfig:
    """The config of a run that nextscale trained itself.

    Raises:
        SpecError: another trainer did, and what it did on the way to its end is not known.
    """
    config = store.config(run_id)
    if isinstance(config, ExternalRun):
        raise SpecError(
            f"{store.root}: run {run_id} is an external trainer's, whose learning rate along the run is not known; "
            "give a table of curves with a column lr"
        )
    return config


def _wanted(plans: list[index.SweepPlan]) -> dict[str, dict[str, Any]]:
    """What sweeps want runs for, by run_id: the last of them says."""
    found: dict[str, dict[str, Any]] = {}
    for plan in plans:
        for run_id, role, budget, trunk in plan["runs"]:
            before = found.get(run_id, {"sweeps": ()})["sweeps"]
            names = before if plan["sweep"] in before else (*before, plan["sweep"])
            found[run_id] = {"sweep": plan["sweep"], "role": role, "budget": budget, "trunk": trunk, "sweeps": names}
    return {run_id: one | {"sweeps": ", ".join(one["sweeps"])} for run_id, one in found.items()}


def _with_dropped(table: pd.DataFrame, dropped: dict[str, Row]) -> pd.DataFrame:
    """The rows of runs with those that are dropped, told as such, whether they were begun or not."""
    begun = table["run_id"].isin(list(dropped))
    if begun.any():
        table = table.copy()
        table.loc[begun, "status"] = "dropped"
        table.loc[begun, "reason"] = [dropped[run_id]["reason"] for run_id in table.loc[begun, "run_id"]]
    names = ("run_id", "reason", "params", "tokens", "flops")
    others = dropped.keys() - set(table["run_id"])
    rows = [{name: dropped[run_id].get(name) for name in names} | {"status": "dropped"} for run_id in sorted(others)]
    return index.concatenated([table, untyped_table(rows)]) if rows else table


def _with(table: pd.DataFrame, columns_of: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A table with what is told of its runs, by run_id."""
    names = dict.fromkeys(name for one in columns_of.values() for name in one)
    of_runs = [columns_of.get(run_id, {}) for run_id in table["run_id"]] if columns_of else []
    columns = {name: pd.Series([one.get(name) for one in of_runs], dtype=object, index=table.index) for name in names}
    return table.assign(**columns)
