"""Collapse: training curves of several runs on one another, how closely they lie, and which run leaves the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.curves import departures
from nextscale.fit.curves.curve import numbers_of
from nextscale.fit.errors import InputError

POINTS, FEWEST_POINTS = 40, 8
"""Along a curve at most, and at least."""
_DONE = 0.99
_RATIOS, _RATES = 1.1, 0.05
"""Tokens per parameter, and learning rates as shares of the peak, that differ more are not the same."""


@dataclasses.dataclass(frozen=True, eq=False)
class Collapse:
    """Curves laid on one another.

    Attributes:
        curves: a row per run and point: `run`, `share` of training done, `loss`, and `normalised`, the loss above the
            irreducible one over the same at the end of the run; of a run under way, or one that left, over what that
            was to be by the bundle.
        spread: a row per point of the finished runs that stayed: `share`, the `mean` of their normalised losses, and
            `tolerance`, their standard deviation over that mean.
        runs: a row per run: `run`; `length`, in the table's unit; the share `done` of it; `tokens_per_param`; the
            `final` loss, the mean of the last part, which of a run under way is expected, between `low` and `high`; its
            largest departure in `times` the others' spread, positive where its loss is too high; the `limit` of these,
            see `nextscale.fit.curves.departures.limit`; and `left`, the share of training at which it was beyond it
            first. What is not known, or never was, is not a number.
        irreducible: L0, nats per token.
        false_alarms: the chance that a table without fault has a run that left.
        warnings: what a reader must know.
    """

    curves: pd.DataFrame
    spread: pd.DataFrame
    runs: pd.DataFrame
    irreducible: float
    false_alarms: float
    level: float
    warnings: tuple[str, ...]

    @property
    def tolerance(self) -> float:
        """The root of the mean square of the tolerances along the curve."""
        return float(np.sqrt(np.square(self.spread["tolerance"]).mean()))

    @property
    def alarms(self) -> list[str]:
        """A line for each run that left, the earliest first."""
        left = self.runs.dropna(subset="left").sort_values("left").to_dict("records")
        return [
            f"{run['run']} leaves the others at {run['left']:.0%} of training: its loss comes to be too "
            f"{'high' if run['times'] > 0 else 'low'} by {abs(run['times']):.1f} times their spread, and the limit is "
            f"{run['limit']:.1f}"
            for run in left
        ]

    def to_dict(self) -> dict[str, Any]:
        """What JSON and tables show."""
        return {
            "irreducible": self.irreducible,
            "tolerance": self.tolerance,
            "false_alarms": self.false_alarms,
            "level": self.level,
            "runs": self.runs.to_dict("records"),
            "spread": self.spread.to_dict("records"),
            "alarms": self.alarms,
            "warnings": list(self.warnings),
        }


def collapse(
    table: pd.DataFrame,
    *,
    lengths: Mapping[str, float] | None = None,
    irreducible: float | None = None,
    start: float = 0.1,
    false_alarms: float = 0.05,
    level: float = 0.9,
    columns: Mapping[str, str] | None = None,
    name: str = "curves",
) -> Collapse:
    """Lays the training curves of several runs on one another, and judges each by the others.

    The normalised loss is l(x) = (L(x T) - L0) / (L(T) - L0) at the share x of a training of length T, and the
    tolerance the standard deviation of l(x) over runs by its mean (Qiu et al. 2025, "Scaling Collapse"); with L0 = 0 it
    is L(x T) / L(T) (Bergsma et al. 2025, "Scaling with Collapse"). Losses are means over equal parts of training.

    A run under way has no L(T) yet: its scale is the one that lays the part seen on the bundle. It leaves where its
    newest point is too far from the scale of its own past, as `departures.limit` has it. A run that left is taken out,
    and the others are judged again.

    Args:
        table: a row per logged position: `run`; `step`, or else `tokens`; `loss`; and if it can be `params`, `tokens`,
            `lr`, by which is told whether a collapse is to be expected. A column `length` says for how many steps, or
            tokens, a run is planned; without, it is finished.
        lengths: the same by run.
        irreducible: L0; None: that by which the curves collapse best.
        start: the share of training that is left out at the start.
        false_alarms: the chance that a table without fault has a run that left.
        level: of the interval of what a run under way is expected to end with.
        columns: of `curve`, `step`, `loss`, `params` and so on those whose column is not called by a usual name.

    Raises:
        InputError: a column is missing, fewer than three runs are finished, or a curve has too few losses.
    """
    runs = _runs_of(table, lengths or {}, start, columns, name)
    finished = [run for run in runs if run.done >= 1]
    if len(finished) < departures.FEWEST:
        raise InputError(
            f"{name}: {len(finished)} of {len(runs)} runs are finished, and a bundle needs {departures.FEWEST}"
        )
    points = min(POINTS, *(int(run.count) for run in runs))
    if points < FEWEST_POINTS:
        fewest = min(runs, key=lambda run: run.count)
        raise InputError(
            f"{name}: {fewest.name} has too few losses past {start:.0%} of training: {FEWEST_POINTS} are needed"
        )
    edges = np.linspace(start, 1, points + 1)
    losses = np.stack([run.means(edges) for run in runs])
    if irreducible is not None and not irreducible < np.nanmin(losses):
        raise InputError(f"{name}: the irreducible loss {irreducible:g} is not below every loss, {np.nanmin(losses):g}")
    verdict = _judged(runs, losses, irreducible, false_alarms)
    return _told(runs, (edges[1:] + edges[:-1]) / 2, losses, verdict, false_alarms, level)


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """One run: `at` which shares of its length which losses were measured, and what the table tells of it."""

    name: str
    at: np.ndarray
    losses: np.ndarray
    length: float
    done: float
    count: float
    tokens_per_param: float
    rates: np.ndarray | None

    def means(self, edges: np.ndarray) -> np.ndarray:
        """The mean of the line through its losses over each part; not a number past what is done."""
        nodes = np.union1d(self.at, edges)
        line = np.interp(nodes, self.at, self.losses)
        whole = np.concatenate([[0], np.cumsum(np.diff(nodes) * (line[1:] + line[:-1]) / 2)])
        means = np.diff(np.interp(edges, nodes, whole)) / np.diff(edges)
        return np.where(edges[1:] <= self.done + 1e-9, means, np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class _Verdict:
    """What is said of n runs at G points.

    Attributes:
        logs: of the losses above the irreducible one, n x G.
        times: departures in units of the others' spread, n x (G - PAST); not a number where there are none.
        bundle: which runs are finished and did not leave, n.
        limits: of each run, n; not a number where it could not be judged.
    """

    irreducible: float
    logs: np.ndarray
    times: np.ndarray
    bundle: np.ndarray
    limits: np.ndarray

    def left(self, run: int) -> int | None:
        """The first point at which a run is beyond its limit."""
        beyond = np.abs(self.times[run]) > self.limits[run]
        return departures.PAST + int(beyond.argmax()) if beyond.any() else None


def _runs_of(
    table: pd.DataFrame, lengths: Mapping[str, float], start: float, columns: Mapping[str, str] | None, name: str
) -> list[_Run]:
    """Every run of a table, in its order."""
    rows = numbers_of(table, ("loss",), name, columns, optional=("step", "tokens", "params", "lr", "length"))
    if "step" not in rows and "tokens" not in rows:
        raise InputError(f"{name}: there is no column of steps or tokens; name it with --step-column")
    position = "step" if "step" in rows else "tokens"
    if unknown := sorted(set(lengths) - set(rows["curve"])):
        some = ", ".join(rows["curve"].unique()[:6])
        raise InputError(f"--length {unknown[0]}: there is no run of this name; there is {some}")
    found = []
    for label, own in rows.groupby("curve", sort=False):
        planned = float(own[position].max())
        own = own.dropna(subset=["loss", position]).groupby(position).last()
        where = f"{name}: {label}"
        if len(own) < 2 or own.index[0] < 0:
            raise InputError(f"{where}: needs two losses or more, each at a {position} of 0 or more")
        if not (np.isfinite(own["loss"]) & (own["loss"] > 0)).all():
            raise InputError(f"{where}: losses should be numbers greater than 0")
        last = float(own.index[-1])
        told = float(own["length"].max()) if _has(own, "length") else planned
        length = float(lengths.get(str(label), told))
        if last > length * (1 + 1e-6):
            raise InputError(f"{where}: its last {position}, {last:g}, is past its length, {length:g}")
        at = own.index.to_numpy(float) / length
        done = 1.0 if at[-1] >= _DONE else float(at[-1])
        if at[0] > start + (1 - start) / FEWEST_POINTS:
            raise InputError(f"{where}: begins at {at[0]:.0%} of training; take a later start")
        tokens = last if position == "tokens" else own["tokens"].max() if _has(own, "tokens") else np.nan
        params = own["params"].max() if _has(own, "params") else np.nan
        found.append(
            _Run(
                name=str(label),
                at=at,
                losses=own["loss"].to_numpy(float),
                length=length,
                done=done,
                count=float((at > start).sum()) if done >= 1 else len(at) / done * (1 - start),
                tokens_per_param=float(tokens / at[-1] / params),
                rates=_rates(own["lr"].dropna() / own["lr"].max(), length, start) if _has(own, "lr") else None,
            )
        )
    return found


def _has(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and bool(rows[column].notna().any())


def _rates(of_peak: pd.Series, length: float, start: float) -> np.ndarray:
    """The learning rate as a share of its peak at shares of training; not a number past what is told."""
    return np.interp(np.linspace(start, 1, POINTS), of_peak.index.to_numpy(float) / length, of_peak, right=np.nan)


def _judged(runs: Sequence[_Run], losses: np.ndarray, irreducible: float | None, false_alarms: float) -> _Verdict:
    """Every run by the others of the bundle of finished ones, of which the one that left furthest is taken out until
    none did. A run has no part in the irreducible loss that it is judged by, which would give way to its fault."""
    under_way = np.array([run.done < 1 for run in runs])
    points, width = losses.shape[1], losses.shape[1] // 8
    seen = np.isfinite(losses).sum(axis=1) > departures.PAST
    bundle = ~under_way
    times, limits = np.full((len(runs), points - departures.PAST), np.nan), np.full(len(runs), np.nan)
    while True:
        judged = (under_way & seen) | (bundle & (bundle.sum() > departures.FEWEST))
        if judged.any():
            limits[judged] = departures.limit(int(bundle.sum()), int(under_way.sum()), points, width, false_alarms)
        for i in np.flatnonzero(judged):
            others = bundle.copy()
            others[i] = False
            logs = np.log(losses - (_best_floor(losses, others) if irreducible is None else irreducible))
            rest, own = logs[others], logs[i : i + 1]
            times[i] = departures.times_the_bundle(
                departures.departures(rest),
                departures.roughness(rest, rest),
                departures.departures(own),
                departures.roughness(own, rest),
                width,
            )[0]
        furthest = np.where(bundle & judged, np.nan_to_num(np.abs(times)).max(axis=1), 0)
        if not (furthest > limits).any():
            floor = _best_floor(losses, bundle) if irreducible is None else irreducible
            return _Verdict(floor, np.log(losses - floor), times, bundle, limits)
        bundle[furthest.argmax()] = False


def _best_floor(losses: np.ndarray, bundle: np.ndarray) -> float:
    """The irreducible loss, 0 or more, by which the curves of the bundle differ least, beside how far they fall."""
    from scipy.optimize import minimize_scalar

    lowest = float(np.nanmin(losses))

    def apart(log_gap: float) -> float:
        logs = np.log(losses[bundle] - lowest + np.exp(log_gap))
        level = logs - logs.mean(axis=1, keepdims=True)
        return float(level.var(axis=0).sum() / np.square(level.mean(axis=0)).sum())

    gaps = np.linspace(np.log(lowest / 1000), np.log(lowest), 60)
    best = int(np.argmin([apart(gap) for gap in gaps]))
    around = gaps[max(best - 1, 0)], gaps[min(best + 1, len(gaps) - 1)]
    found = minimize_scalar(apart, bounds=around, method="bounded", options={"xatol": 1e-6})
    return max(lowest - float(np.exp(min(found.x, gaps[best], key=apart))), 0.0)


def _told(
    runs: Sequence[_Run], shares: np.ndarray, losses: np.ndarray, verdict: _Verdict, false_alarms: float, level: float
) -> Collapse:
    from scipy.stats import t

    logs, bundle = verdict.logs, verdict.bundle
    mean, n = logs[bundle].mean(axis=0), int(bundle.sum())
    rows, curves = [], []
    for i, run in enumerate(runs):
        left = verdict.left(i)
        seen = int(np.isfinite(logs[i]).sum())
        # The scale that lays the run on the bundle, by what is seen, and of one that left by what came before.
        before = slice(0, seen if left is None else left)
        expected = mean[-1] + (logs[i] - mean)[before].mean() if seen else np.nan
        end = logs[i, -1] if run.done >= 1 else expected
        error = np.nan
        if run.done < 1 and seen:
            off = (logs[bundle] - mean)[:, -1] - (logs[bundle] - mean)[:, before].mean(axis=1)
            error = t.ppf((1 + level) / 2, n - 1) * off.std(ddof=1) * np.sqrt(1 + 1 / n)
        final, low, high = (verdict.irreducible + np.exp(end + by) for by in (0, -error, error))
        times = verdict.times[i][np.isfinite(verdict.times[i])]
        row = {"run": run.name, "length": run.length, "done": run.done, "tokens_per_param": run.tokens_per_param}
        row |= {
            "final": final,
            "low": low,
            "high": high,
            "times": times[np.abs(times).argmax()] if len(times) else np.nan,
        }
        rows.append(row | {"limit": verdict.limits[i], "left": np.nan if left is None else shares[left]})
        normalised = np.exp(logs[i, :seen] - (end if left is None else expected))
        curves.append(
            pd.DataFrame({"run": run.name, "share": shares[:seen], "loss": losses[i, :seen], "normalised": normalised})
        )
    of_bundle = np.exp(logs[bundle] - logs[bundle, -1:])
    middle = of_bundle.mean(axis=0)
    spread = pd.DataFrame({"share": shares, "mean": middle, "tolerance": of_bundle.std(axis=0, ddof=1) / middle})
    warnings = tuple(_warnings(runs, verdict))
    every = pd.concat(curves, ignore_index=True)
    return Collapse(every, spread, pd.DataFrame(rows), verdict.irreducible, false_alarms, level, warnings)


def _warnings(runs: Sequence[_Run], verdict: _Verdict) -> Iterator[str]:
    ratios = np.array([run.tokens_per_param for run in runs])
    rates = [run.rates for run in runs if run.rates is not None]
    if np.isfinite(ratios).all():
        if ratios.max() > _RATIOS * ratios.min():
            yield (
                f"tokens per parameter run from {ratios.min():.3g} to {ratios.max():.3g}: curves collapse at one "
                "ratio, or where each size is trained compute-optimally; else what is seen here may be no fault"
            )
    else:
        yield "not every run has parameters and tokens: whether tokens per parameter agree is not checked"
    if len(rates) == len(runs):
        known = np.isfinite(rates).all(axis=0)
        apart = float((np.max(rates, axis=0) - np.min(rates, axis=0))[known].mean()) if known.any() else 0.0
        if apart > _RATES:
            yield (
                f"learning-rate schedules differ, on average by {apart:.0%} of the peak: curves collapse under one "
                "schedule; else what is seen here may be no fault"
            )
    else:
        yield "not every run has a learning rate: whether schedules agree is not checked"
    early = [
        run.name
        for run, times in zip(runs, verdict.times, strict=True)
        if run.done < 1 and not np.isfinite(times).any()
    ]
    if early:
        yield f"{', '.join(early)}: too little is seen to judge by; {departures.PAST + 1} points are needed"
    if verdict.bundle.sum() == departures.FEWEST:
        yield f"with {departures.FEWEST} finished runs these are not judged by one another; a fourth is needed"
