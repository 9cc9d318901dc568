"""The choice of a law and a loss by backtests: all are fitted below rising cuts in scale and scored above them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.checks import variables_of
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.estimate.windows import fit_within
from nextscale.fit.table.columns import NOT_VARIABLES, Columns, column_of
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.table.sources import Table, as_table
from nextscale.fit.trust.candidates import Candidate, candidates_for, variables_in, weigh_repeats_as_one

REACH_BANDS = (1.0, 3.0, 10.0, 100.0, np.inf)
"""How far a run lies beyond the fitted ones, in steps."""
_ROUNDING = 1e-6
"""Two fits of one curve differ by so little: a power law in C by squared loss is the baseline of that name."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a backtest says.

    Attributes:
        best: the candidate to trust over all reaches that were tested.
        summary: `reach` (a band, or `all`), `law`, `loss`, `error` (mean absolute relative error, every cut alike),
            `se` and `bias` over the `cuts` it could be fitted at; `common_error` and `common_se`, the same over the
            cuts that all are compared at (missing of one that could not be fitted at each of these); `freedom`, and
            `chosen` (none in a band that a single cut reaches); the chosen of each band first.
        table: see `backtest_table`.
        notes: on the table of runs, and what was tried.
        warnings: what a reader of the choice must know, in words.
    """

    best: Candidate
    summary: pd.DataFrame
    table: pd.DataFrame
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def baselines(self) -> pd.DataFrame:
        """As `summary`, over all reaches and the cuts that laws are compared at, of what takes no law."""
        whole = self.table[self.table["band"] == "all"]
        naive = whole[(whole["loss"] == "-") & whole["cut"].isin(_common_cuts(whole))]
        rows = naive.groupby("law", sort=False).agg(
            error=("mean_error", "mean"), se=("se", "mean"), bias=("bias", "mean"), cuts=("cut", "size")
        )
        rows = rows.sort_values("error").reset_index()
        return rows.assign(reach="all", loss="-", freedom=0, chosen=False)

    @property
    def baseline_warning(self) -> str | None:
        """That what takes no law forecasts these runs better than the best law, in words; None where it does not, or
        not by more than chance: one standard error of the error of the law."""
        naive = self.baselines.iloc[0]
        best = self.summary[(self.summary["reach"] == "all") & self.summary["chosen"]].iloc[0]
        error = float(best["common_error"])
        # Where one run was scored, what chance does is not known: no verdict rests on that.
        if not error - naive["error"] > max(float(best["common_se"]), _ROUNDING * error):
            return None
        return (
            f"{self.best.law.name} misses by {error:.2%}, and '{naive['law']}', which takes no law, by "
            f"{naive['error']:.2%}: no law here forecasts these runs"
        )

    def to_dict(self) -> dict[str, Any]:
        best = {"law": self.best.law.name, "loss": self.best.loss.name, "delta": self.best.loss.delta}
        return {
            "best": best | {"tilt": self.best.loss.tilt},
            "summary": self.summary.to_dict("records"),
            "baselines": self.baselines.to_dict("records"),
            "table": self.table.to_dict("records"),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def __repr__(self) -> str:
        columns = ["reach", "law", "loss", "error", "se", "bias", "cuts"]
        return self.summary[self.summary["chosen"]][columns].to_string(index=False)


def backtest_table(
    runs: Table | Runs,
    candidates: Sequence[Candidate] | None = None,
    *,
    cuts: int | Sequence[float] = 5,
    columns: Columns | Mapping[str, str] = Columns(),
    params: str = "total",
    resamples: int = 0,
    level: float = 0.9,
) -> pd.DataFrame:
    """Fits every candidate to the runs up to each cut in scale, and scores it on those above, by how far above.

    Runs of one configuration count as one together: repeats are no further evidence on how a law extrapolates.

    Args:
        candidates: all that suit the table, by default.
        cuts: so many, from 40 % to 90 % of the budgets; or scales.
        resamples: for the coverage of intervals; none is given without.

    Returns:
        one row per candidate, cut and band of reach (`all`, then steps of `REACH_BANDS`): `law`, `loss`, `cut`, `band`,
        `reach` (of the band's median run), `furthest` (of its last), `n_fit`, `n_test`, `error` (median absolute
        relative error), `mean_error`, `se` of that mean, `bias` (mean, positive where runs come out above the law),
        `r2`, `coverage`. Baselines have no loss: the `last value` (loss of the largest run), a `power law` in scale,
        and one in every variable (`log-linear`).

    Raises:
        InputError: no cut leaves runs on both sides, or no candidate suits the table.
    """
    runs = weigh_repeats_as_one(_as_runs(runs, candidates, columns, params))
    candidates = candidates_for(runs) if candidates is None else candidates
    if not candidates:
        raise InputError("backtest: no law suits what varies in this table")
    parted = [(cut, (runs.scale <= cut).to_numpy()) for cut in _cuts(runs, cuts)]
    parted = [(cut, below) for cut, below in parted if below.any() and not below.all()]
    windows = [below for _, below in parted]
    thetas: dict[Candidate, list[np.ndarray | None]] = {}
    for law in dict.fromkeys(c.law for c in candidates):
        own = [c for c in candidates if c.law is law]
        thetas |= zip(own, fit_within(runs, law, windows, losses=[c.loss for c in own]), strict=True)
    rows: list[dict[str, object]] = []
    for i, (cut, rows_below) in enumerate(parted):
        below, above = (runs.where(pd.Series(here, runs.table.index)) for here in (rows_below, ~rows_below))
        scored = _Scored(below, above)
        for name, predicted in _baselines(below, above).items():
            rows += scored.rows({"law": name, "loss": "-", "cut": cut}, predicted)
        for candidate in candidates:
            law, theta = candidate.law, thetas[candidate][i]
            if theta is None or len(below) < 2 * len(law.parameters):
                continue  # what lies below this cut cannot show the law
            inside = None
            if resamples:
                options: dict[str, Any] = {"resamples": resamples, "level": level, "init": "quick"}
                inside = _inside(fit(below, law, loss=candidate.loss, **options), above)
            label = {"law": law.name, "loss": candidate.loss_label, "cut": cut}
            rows += scored.rows(label, law.log_losses(theta[None], variables_of(law, above))[0], inside)
    if not rows:
        raise InputError("backtest: no cut leaves runs on both sides of it")
    return pd.DataFrame(rows)


def choose(
    runs: Table | Runs,
    candidates: Sequence[Candidate] | None = None,
    *,
    cuts: int | Sequence[float] = 5,
    columns: Columns | Mapping[str, str] = Columns(),
    params: str = "total",
) -> Choice:
    """Which law and loss to trust for which reach, by a backtest on these runs alone.

    In each band the error is averaged over the cuts that all candidates could be fitted at, so that all have forecast
    the same runs from the same runs; where there is no such cut, over those that the most could be. Of all within one
    standard error of the least, the one of the fewest freedoms is chosen, and of these the best (the one-standard-error
    rule of Breiman et al. 1984, sec. 3.4.3).

    Raises:
        InputError: see `backtest_table`; or no candidate could be fitted below any cut.
    """
    runs = _as_runs(runs, candidates, columns, params)
    candidates = candidates_for(runs) if candidates is None else candidates
    table = backtest_table(runs, candidates, cuts=cuts)
    fitted = table[table["loss"] != "-"]
    if fitted.empty:
        raise InputError(f"backtest: {len(runs)} runs are too few to fit any of these laws below a cut")
    freedom = {(c.law.name, c.loss_label): c.freedom for c in candidates}
    parts = [_ranked(band, table[table["band"] == band], freedom) for band in fitted["band"].unique()]
    summary = pd.concat(parts, ignore_index=True)
    first = summary[(summary["reach"] == "all") & summary["chosen"]].iloc[0]
    best = next(c for c in candidates if (c.law.name, c.loss_label) == (first["law"], first["loss"]))
    laws = dict.fromkeys(c.law.name for c in candidates)
    notes = [*runs.notes, f"tried: {', '.join(laws)}"]
    if lacking := [law for law in laws if law not in {*fitted["law"]}]:
        notes.append(f"not fitted, for want of runs below any cut that show them: {', '.join(lacking)}")
    choice = Choice(best, summary, table, tuple(notes))
    tested = (
        f"each law alone was tested up to {float(table['furthest'].max()):.3g} times beyond the runs it was fitted to"
    )
    warnings = (f"{tested}: of a longer reach this says nothing", choice.baseline_warning)
    return dataclasses.replace(choice, warnings=tuple(filter(None, warnings)))


def _common_cuts(table: pd.DataFrame) -> set[float]:
    """The cuts of a band at which the most candidates could be fitted: all of them, wherever there is such a cut."""
    fitted = table[table["loss"] != "-"].groupby("cut").size()
    return {*fitted[fitted == fitted.max()].index}


def _ranked(band: str, table: pd.DataFrame, freedom: dict[tuple[str, str], int]) -> pd.DataFrame:
    fitted = table[table["loss"] != "-"]
    common = _common_cuts(table)
    # Cuts share the runs above them, so averaging over cuts makes the error no surer.
    means = {"error": ("mean_error", "mean"), "se": ("se", "mean")}
    each = fitted.groupby(["law", "loss"], sort=False).agg(**means, bias=("bias", "mean"), cuts=("cut", "size"))
    each.insert(3, "freedom", [freedom[key] for key in each.index])
    compared = fitted[fitted["cut"].isin(common)].groupby(["law", "loss"]).agg(**means, cuts=("cut", "size"))
    compared = compared[compared["cuts"] == len(common)].drop(columns="cuts").add_prefix("common_")
    summary = each.join(compared).reset_index().sort_values("common_error", ignore_index=True)
    summary.insert(0, "reach", band)
    least = summary["common_error"][0] + np.nan_to_num(summary["common_se"][0])
    within = summary[summary["common_error"] <= least]
    # What a single cut says of a reach is an anecdote.
    enough = band == "all" or len(common) > 1
    summary["chosen"] = (summary.index == within.sort_values(["freedom", "common_error"]).index[0]) & enough
    return summary.sort_values(["chosen", "common_error"], ascending=[False, True])


class _Scored:
    """Runs above a cut, and how far, by which every forecast of them is scored."""

    def __init__(self, below: Runs, above: Runs):
        self.below, self.weights = len(below), above.weights
        self.losses, reach = above.table["loss"].to_numpy(), (above.scale / below.scale.max()).to_numpy()
        bands = {"all": np.full(len(reach), True)}
        bands |= {f"{low:g}-{high:g}": (low < reach) & (reach <= high) for low, high in itertools.pairwise(REACH_BANDS)}
        self.bands = [
            (here, {"band": band, "reach": float(np.median(reach[here])), "furthest": float(reach[here].max())})
            for band, here in bands.items()
            if here.any()
        ]

    def rows(
        self, label: dict[str, object], predicted: np.ndarray, inside: np.ndarray | None = None
    ) -> Iterator[dict[str, object]]:
        error = 1 - np.exp(predicted) / self.losses
        for here, band in self.bands:
            e, w, y = error[here], self.weights[here] / self.weights[here].sum(), self.losses[here]
            size, count, spread = np.abs(e), 1 / np.square(w).sum(), np.square(y - w @ y)
            yield {
                **label,
                **band,
                "n_fit": self.below,
                "n_test": len(e),
                "error": float(np.median(size)),
                "mean_error": float(w @ size),
                "se": float(np.sqrt(w @ np.square(size - w @ size) / (count - 1))) if count > 1.5 else np.nan,
                "bias": float(w @ e),
                "r2": float(1 - w @ np.square(y - np.exp(predicted[here])) / (w @ spread)) if spread.any() else np.nan,
                "coverage": np.nan if inside is None else float(w @ inside[here]),
            }


def _inside(fit: Fit, above: Runs) -> np.ndarray:
    at: dict[str, Any] = {name: above.table[name] for name in {*map(column_of, fit.law.variables), above.scale_name}}
    low, high = fit.predict_interval(**at)
    return (low <= above.table["loss"].to_numpy()) & (above.table["loss"].to_numpy() <= high)


def _baselines(below: Runs, above: Runs) -> dict[str, np.ndarray]:
    """log L of the runs above by what takes no law."""
    variables = [str(name) for name in below.table if name not in NOT_VARIABLES and (below.table[name] > 0).all()]
    log_losses = np.log(below.table["loss"].to_numpy())

    def regression(names: list[str]) -> np.ndarray:
        x, x_above = (
            np.log(np.column_stack([np.full(len(r), np.e), *(r.table[n] for n in names)])) for r in (below, above)
        )
        root = np.sqrt(below.weights)
        solved = np.linalg.lstsq(x * root[:, None], log_losses * root, rcond=None)[0]
        return np.asarray(x_above @ solved)

    return {
        "last value": np.full(len(above), log_losses[int(below.scale.to_numpy().argmax())]),
        "power law": regression([below.scale_name]),
        "log-linear": regression(variables),
    }


def _cuts(runs: Runs, cuts: int | Sequence[float]) -> list[float]:
    if not isinstance(cuts, int):
        return list(cuts)
    budgets = np.array(runs.budgets)
    if len(budgets) < 3:
        return []
    chosen = np.unique(np.quantile(budgets, np.linspace(0.4, 0.9, cuts), method="lower"))
    # A cut lies above all runs of its budget, whose scales differ a little.
    return [float(runs.scale[runs.table["budget"] == budget].max()) for budget in chosen if budget < budgets[-1]]


def _as_runs(
    runs: Table | Runs, candidates: Sequence[Candidate] | None, columns: Columns | Mapping[str, str], params: str
) -> Runs:
    if isinstance(runs, Runs):
        return runs
    runs, columns = as_table(runs), Columns.of(columns)
    variables = variables_in(runs, columns, params)
    if candidates:
        variables = tuple(dict.fromkeys(variable for c in candidates for variable in c.law.variables))
    return as_runs(runs, columns=columns, convention=params, variables=variables)
