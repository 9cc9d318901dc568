"""Calibration of forecasts: hits, misses, bias, and whether intervals hold as often as they claim."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.show import formats, tables

CONFIDENCE = 0.95
"""Of the intervals around what is counted here."""
_BANDS = (1.0, 2.0, 4.0, 10.0, 100.0)
_COLUMNS = (
    *("ledger", "forecast", "time", "sweep", "law", "run_id", "flops", "params", "tokens", "reach", "level"),
    *("predicted", "low", "high", "measured", "error", "verdict"),
)


def outcomes(ledgers: Sequence[Ledger]) -> pd.DataFrame:
    """Every run that was ever foretold in some ledgers, one row each, in the order they were.

    Columns are `ledger`, its path; `forecast`, the hash of the entry; `time`; `sweep`, None of a forecast that was
    registered by itself; `law`; `run_id`, None while none has it; `flops`, `params`, `tokens`; `reach`, FLOPs over
    those of the largest run fitted; `level` of the interval `low` to `high` about `predicted`; `measured`; `error`,
    predicted / measured - 1; and `verdict`: hit, miss, waiting, diverged, or late, of what was computed only when the
    run had begun, and is no forecast.

    Raises:
        SpecError: a ledger is damaged.
    """
    rows = []
    for ledger in ledgers:
        entries = ledger.entries()
        scores = {entry["forecast"]: entry["targets"] for entry in reversed(entries) if entry["kind"] == "score"}
        for entry in entries:
            if entry["kind"] != "forecast":
                continue
            scored = scores.get(entry["hash"], [None] * len(entry["targets"]))
            for target, score in zip(entry["targets"], scored, strict=True):
                common = {name: entry.get(name) for name in ("time", "sweep", "law", "level")}
                common |= {name: target.get(name) for name in ("flops", "params", "tokens", "reach", "predicted")}
                low, high = target["interval"]
                rows.append(
                    common
                    | {"ledger": str(ledger.path), "forecast": entry["hash"], "low": low, "high": high}
                    | {"run_id": target["run_id"] if score is None else score["run_id"]}
                    | {name: None if score is None else score[name] for name in ("measured", "error")}
                    | {"verdict": _verdict(entry, score)}
                )
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _verdict(entry: dict[str, Any], score: dict[str, Any] | None) -> str:
    if entry.get("started_before", entry.get("done_before")):  # as earlier versions called it
        return "late"
    if score is None:
        return "waiting"
    return "diverged" if score["inside"] is None else "hit" if score["inside"] else "miss"


def calibration(table: pd.DataFrame) -> dict[str, Any]:
    """What the outcomes say together.

    Args:
        table: as `outcomes` returns it.

    Returns:
        `verdicts`, how many there are of each; `scored`, those that came to a loss, from `forecasts` forecasts;
        `levels`, one per level claimed, and `reach`, one per range of it, each with `n`, `inside`, `share`,
        `share_interval` (Clopper & Pearson 1934), `error` (signed, its mean), `error_interval` (Student's) and
        `absolute_error`; the same of `all`; and `notes`. Runs count as independent of each other in these intervals.
    """
    scored = table[table["verdict"].isin(["hit", "miss"])].astype({"error": float, "reach": float})
    notes = []
    forecasts = int(scored["forecast"].nunique())
    if forecasts < len(scored):
        notes.append(
            f"the {len(scored)} runs were foretold by {forecasts} forecast{'s' * (forecasts > 1)}, and runs of one "
            "forecast miss together: the intervals here are too narrow"
        )
    bands = pd.cut(scored["reach"], [0, *_BANDS, np.inf], labels=_labels())
    reach = bands.astype(object).where(bands.notna(), "not recorded")
    order = [*_labels(), "not recorded"]
    return {
        "verdicts": {name: int(count) for name, count in table["verdict"].value_counts(sort=False).items()},
        "scored": len(scored),
        "forecasts": forecasts,
        "confidence": CONFIDENCE,
        "all": _summed(scored),
        "levels": [{"level": level} | _summed(rows) for level, rows in scored.groupby("level")],
        "reach": [{"reach": name} | _summed(scored[reach == name]) for name in order if (reach == name).any()],
        "notes": notes,
    }


def calibration_tables(table: pd.DataFrame, summary: dict[str, Any]) -> list[tables.Table]:
    """Every run foretold, and what came of them together.

    Args:
        table: as `outcomes` returns it.
        summary: as `calibration` does.
    """
    shown = [
        row
        | {"interval": (row["low"], row["high"]), "of": row["sweep"] or "-", "made": row["time"][:16].replace("T", " ")}
        for row in table.astype(object).where(table.notna(), None).to_dict("records")
    ]
    columns = (
        ("made (UTC)", "made", formats.text),
        ("forecast", "forecast", lambda text: text[:8]),
        ("sweep", "of", formats.text),
        ("run", "run_id", formats.text),
        ("FLOPs", "flops", formats.three_digits),
        ("reach", "reach", formats.three_digits),
        ("predicted", "predicted", formats.loss),
        ("level", "level", lambda level: f"{level:.0%}"),
        ("interval", "interval", formats.interval),
        ("measured", "measured", formats.loss),
        ("error", "error", formats.percent),
        ("", "verdict", formats.text),
    )
    foretold = tables.table_of(f"{len(shown)} runs foretold (nats/token)", shown, *columns)
    if not summary["scored"]:
        return [foretold]
    sums = [{"of": f"{one['level']:.0%} intervals"} | one for one in summary["levels"]]
    sums += [{"of": f"reach {one['reach']}"} | one for one in summary["reach"]]
    sums += [{"of": "all"} | summary["all"]]
    wide = f"{CONFIDENCE:.0%} interval"
    summed = (
        ("", "of", formats.text),
        ("scored", "n", formats.text),
        ("inside", "inside", formats.text),
        ("share", "share", lambda share: f"{share:.0%}"),
        (wide, "share_interval", lambda ends: formats.interval(ends, lambda end: f"{end:.0%}")),
        ("mean error", "error", formats.percent),
        (wide, "error_interval", lambda ends: formats.interval(ends, formats.percent)),
        ("mean |error|", "absolute_error", lambda error: f"{error:.2%}"),
    )
    return [foretold, tables.table_of("What came of them", sums, *summed)]


def _labels() -> list[str]:
    ends = [f"{end:g}" for end in _BANDS]
    return [f"up to {ends[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(ends)), f"over {ends[-1]}"]


def _summed(rows: pd.DataFrame) -> dict[str, Any]:
    from scipy import stats

    n, inside = len(rows), int((rows["verdict"] == "hit").sum())
    if not n:
        return {"n": 0, "inside": 0, "share": None, "share_interval": None, "error": None} | {
            "error_interval": None,
            "absolute_error": None,
        }
    share = stats.binomtest(inside, n).proportion_ci(CONFIDENCE, method="exact")
    errors = rows["error"].to_numpy()
    mean = float(errors.mean())
    spread = None
    if n > 1:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * errors.std(ddof=1) / np.sqrt(n))
        spread = [mean - half, mean + half]
    return {
        "n": n,
        "inside": inside,
        "share": inside / n,
        "share_interval": [float(share.low), float(share.high)],
        "error": mean,
        "error_interval": spread,
        "absolute_error": float(np.abs(errors).mean()),
    }
