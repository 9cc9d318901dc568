"""Registers forecasts of runs that have no run_id yet (`nextscale forecast --register`), and scores them.

Such a forecast is of a size and a number of tokens. Of the runs of its folder it is of the first that was begun after
it, on the same data, whose size and tokens lie within `TOLERANCE` of those; a run from elsewhere is scored by hand.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.table.runs import Runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Entry, Ledger, digest_of, score_of
from nextscale.sweeps.store.index import read_row
from nextscale.sweeps.store.store import SET_ASIDE, Store, load

TOLERANCE = 0.05
"""Relative, of parameters and of tokens each. A loss has some hundredths that fall with a power of about a third of
either: 5 % of both move it by about a thousandth."""


def ledger_of(runs: Path, file: Path | None = None) -> Ledger:
    """The ledger for forecasts from some runs: that of a folder, else `ledger.jsonl` beside the table, unless named."""
    if file is not None:
        return Ledger(file)
    return Ledger((runs if runs.is_dir() else runs.parent) / "ledger.jsonl")


def register(
    ledger: Ledger, source: Path, runs: Runs, fit: Fit, forecast: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Entry]:
    """Writes one entry per target, or returns those that stand from the same inputs.

    Of a run that is in the folder already the forecast that was made before stands; without one an entry is made that
    names the run in `started_before`: it is no forecast.

    Args:
        source: where the runs were read from; if it is a folder, runs in it are looked for.
        runs: all that the forecast rests on, those that the law's window leaves out too.
        forecast: what `nextscale.fit.optimum.forecast.forecast` returned.
        options: of the fit.

    Raises:
        SpecError: the ledger is damaged, or cannot be written to.
    """
    known = load(source) if source.is_dir() else None
    seen = [] if known is None else [*known.to_dict("records"), *_set_aside(Store.existing(source))]
    fitted = set(runs.table["run_id"])
    data = None if known is None else sorted(known.loc[known["run_id"].isin(fitted), "data"].unique())
    rows = runs.table[[name for name in ("run_id", "params", "tokens", "flops", "loss") if name in runs.table]]
    inputs = digest_of([rows.to_dict("records"), fit.law.name, runs.convention, dict(options)])
    entries = []
    for target in forecast["targets"]:
        foretold = {
            "run_id": None,
            **{name: target[name] for name in ("flops", "params", "tokens", "reach")},
            "predicted": target["loss"],
            "interval": target["loss_interval"],
        }
        entry = {
            "sweep": None,
            "source": str(source),
            "inputs": inputs,
            "runs": sorted(fitted),
            "data": data,
            "law": fit.law.name,
            "parameters": fit.parameters,
            "params_convention": runs.convention,
            "level": fit.level,
            "targets": [foretold],
            "warnings": list(forecast["warnings"]),
        }
        there = [] if known is None else [row["run_id"] for row in _landed(entry, seen)]
        entries.append(_registered(ledger, entry | {"started_before": there}))
    return entries


def _registered(ledger: Ledger, entry: Entry) -> Entry:
    late = entry["started_before"]
    try:
        if late and (earlier := ledger.registered(entry)) is not None:
            return earlier
        if late:
            warning = f"run {late[0]} of this size was there when this was computed: it is no forecast"
            entry = entry | {"warnings": [*entry["warnings"], warning]}
        return ledger.register(entry)
    except OSError as error:
        raise SpecError(f"{ledger.path}: cannot be written to ({error.strerror}); name another with --ledger") from None


def score_landed(store: Store, ledger: Ledger) -> list[Entry]:
    """Scores the forecasts of runs without a name whose runs have finished since; returns the new scores."""
    waiting = [forecast for forecast in _waiting(ledger.entries()) if forecast["data"] is not None]
    if not waiting:
        return []
    done = [row for row in load(store.root).to_dict("records") if row["status"] in ("done", "diverged")]
    scores = []
    for forecast in waiting:
        registered = datetime.datetime.fromisoformat(forecast["time"]).timestamp()
        begun = [(_begun(store, row["run_id"]), row["run_id"], row) for row in _landed(forecast, done)]
        if not forecast["started_before"]:  # what was there before is no test of a forecast
            begun = [one for one in begun if one[0] > registered]
        if begun:
            _, run_id, row = min(begun, key=lambda one: one[:2])
            loss = None if row["status"] == "diverged" else row["loss"]
            scores.append(_score(ledger, forecast, run_id, loss, row))
    return scores


def score_by_hand(
    ledger: Ledger,
    loss: float,
    *,
    run_id: str,
    params: float | None = None,
    tokens: float | None = None,
    prefix: str | None = None,
    tolerance: float = TOLERANCE,
) -> list[Entry]:
    """Scores the forecasts of a run that was trained elsewhere; returns the scores.

    Args:
        params: in the convention of the forecasts.
        prefix: of the hash of the one forecast that is meant; else all of that size and tokens.

    Raises:
        SpecError: there is no such forecast, or more than one, or it was scored by another run or with another loss;
            or the loss is no number.
    """
    if not 0 < loss < math.inf:
        raise SpecError(f"--loss {loss}: is no loss; give nats per token")
    entries = ledger.entries()
    if prefix is not None:
        meant = [entry for entry in entries if entry["kind"] == "forecast" and entry["hash"].startswith(prefix)]
        if len(meant) != 1:
            raise SpecError(f"--forecast {prefix}: {len(meant)} forecasts of {ledger.path} begin so; give more of it")
        if len(meant[0]["targets"]) != 1 or meant[0]["targets"][0]["run_id"] is not None:
            raise SpecError(f"--forecast {prefix}: is of runs of a sweep; `nextscale run` scores it when they are done")
        if earlier := [e for e in entries if e["kind"] == "score" and e["forecast"] == meant[0]["hash"]]:
            before = earlier[0]["targets"][0]
            by, measured = before["run_id"], before["measured"]
            if by != run_id or measured != loss:
                raise SpecError(f"--forecast {prefix}: was scored before, by run {by} with {measured}; a score stands")
    else:
        if params is None or tokens is None:
            raise SpecError("ledger score: say which run it is, with --params and --tokens, or with --forecast")
        at = {"params": params, "tokens": tokens}
        meant = [entry for entry in _waiting(entries) if _near(entry["targets"][0], at, tolerance)]
        if not meant:
            raise SpecError(
                f"{ledger.path}: no forecast that waits for its run is of {params:.3g} parameters and {tokens:.3g} "
                f"tokens, within {tolerance:.0%} of each; name one with --forecast, or allow more with --tolerance"
            )
    row = {"params": params, "tokens": tokens}
    return [_score(ledger, forecast, run_id, loss, row, by_hand=True) for forecast in meant]


def _score(
    ledger: Ledger, forecast: Entry, run_id: str, loss: float | None, row: Mapping[str, Any], *, by_hand: bool = False
) -> Entry:
    target = forecast["targets"][0]
    column = "params" if by_hand else CONVENTIONS.get(forecast["params_convention"], "params")
    run = {"run_id": run_id, "params": row[column], "tokens": row["tokens"], "by_hand": by_hand}
    return ledger.score(forecast, [run | score_of(target, loss)])


def _waiting(entries: Sequence[Entry]) -> list[Entry]:
    """The forecasts of runs without a name that have no score yet."""
    done = {entry["forecast"] for entry in entries if entry["kind"] == "score"}
    return [
        entry
        for entry in entries
        if entry["kind"] == "forecast" and entry["hash"] not in done and entry["targets"][0]["run_id"] is None
    ]


def _landed(forecast: Entry, rows: Iterable[Mapping[Any, Any]]) -> list[Mapping[Any, Any]]:
    """The runs that a forecast is of, not those that it rests on."""
    target, column = forecast["targets"][0], CONVENTIONS.get(forecast["params_convention"], "params")
    found = []
    for row in rows:
        same_data = forecast["data"] is None or row["data"] in forecast["data"]
        at = {"params": row[column], "tokens": row["tokens"], "flops": row["flops"]}
        if same_data and row["run_id"] not in forecast["runs"] and _near(target, at, TOLERANCE):
            found.append(row)
    return found


def _near(target: Mapping[str, Any], at: Mapping[str, Any], tolerance: float) -> bool:
    """Whether a run is the one that is meant; of a law in C alone, by its FLOPs."""
    names = ("flops",) if target["params"] is None else ("params", "tokens")
    return all(name in at and abs(at[name] / target[name] - 1) <= tolerance for name in names)


def _set_aside(store: Store) -> list[Mapping[Any, Any]]:
    """The runs of a folder as they were before they were done again: their losses were known then."""
    paths = sorted((store.root / SET_ASIDE).glob("*-*"))
    rows = [(path.name.partition("-")[0], read_row(path)) for path in paths]
    return [row | {"run_id": run_id} for run_id, row in rows if row is not None]


def _begun(store: Store, run_id: str) -> float:
    """When a run was first begun, before it was done again too, in seconds since the epoch."""
    runs = [store.run(run_id), *store.set_aside(run_id)]
    config = min(Path(run.path / "config.json").stat().st_mtime for run in runs)
    started = [attempt["started"] for run in runs for attempt in run.attempts() if "started" in attempt]
    return min(started, default=config)
