"""How far forecasts miss runs that they have not seen: `python benchmarks/forecasts.py [--data ../shared/data]`.

The default of `nextscale forecast`, the same for every suite of published runs, beside plain Chinchilla (of a law in C
alone, the saturating law) fitted to the same runs. Of each suite the largest one, two and three budgets
are held out in turn; where authors forecast a run of their own, that alone is. One table, and the sum over all.
"""

import argparse
import dataclasses
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nextscale.fit import Columns, Runs, as_runs, fit, read_table
from nextscale.fit.trust.backtest import parts_of
from nextscale.fit.trust.consensus import consensus

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
HELD_OUT = (1, 2, 3)
BENT = ("marin", "farseer", "porian long", "porian const")
"""Suites on which the plain law's residuals bend."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Runs that are known, and those that are forecast."""

    suite: str
    known: Runs
    unseen: pd.DataFrame
    published: str = ""


def splits(data: Path) -> Iterator[Split]:
    """Every suite, split at each of its largest budgets."""
    table = read_table(data / "isoflop_open_athena.csv")
    for suite, rows in table.groupby("suite"):
        yield from by_budget(str(suite), rows)
    table = read_table(data / "isoflop_porian_refinedweb.csv").assign(params=lambda rows: rows["n"])
    names = {"kaplan": "long", "standard": "long", "const": "const", "chinchilla": "decayed"}
    for keys, rows in table.groupby(["hparams", "warmup", "decay", "param_count"]):
        _, warmup, decay, count = map(str, keys)
        kind = "long" if warmup == "long" else names.get(decay, decay)
        suite = f"porian {kind} {'' if kind in ('const', 'decayed') else count}".strip()
        suite = suite if (warmup, decay) != ("short", "kaplan") else "porian short"
        yield from by_budget(suite, rows[["params", "tokens", "flops", "loss"]])
    columns = Columns(params="Model Size", flops="Training FLOP", loss="loss")
    rows = read_table(data / "chinchilla_epoch.csv")
    yield from by_budget("chinchilla (Epoch)", rows, columns, drop_largest_losses=5)
    yield from by_budget("farseer", read_table(data / "scalebench_farseer.csv"), Columns("N", "D"))
    table = read_table(data / "overtraining_gadre.csv")
    for (dataset, loss), rows in {
        (dataset, loss): table[(table["dataset"] == dataset) & table[loss].notna()]
        for dataset in table["dataset"].unique()
        for loss in ("loss_c4_val", "loss_openlm")
    }.items():
        if len(rows) > 20:
            yield from by_budget(f"gadre {dataset.split('_')[0]} {loss[5:]}", rows, Columns("N", "D", loss=loss))
    gemstones = Columns("params_active_precise", loss="final_loss")
    # Each row is the end of a cool-down of its own, though several branch off one run.
    yield from by_budget("gemstones", read_table(data / "gemstones_cool_end.jsonl"), gemstones, rows="all")
    rows = read_table(data / "marin_moe_minima.csv")
    runs = as_runs(rows[rows["held_out"] == 0], variables=("C",))
    unseen = rows[rows["held_out"] == 1]
    yield Split("marin minima (MoE)", runs, unseen, "1e23: 2.252, +.81 %")
    rows, columns = read_table(data / "olmo_ladder_c4.csv"), Columns("N", "D", loss="c4_ma5")
    runs = as_runs(rows[rows["mode"] == "train"], columns=columns)
    unseen = rows[rows["mode"] != "train"].rename(columns={"N": "params", "D": "tokens", "c4_ma5": "loss"})
    yield Split("OLMo ladder, c4", runs, unseen.assign(flops=6.0 * unseen.params * unseen.tokens), "13B: -3.83 %")


def by_budget(suite: str, table: pd.DataFrame, columns: Columns | None = None, **options: Any) -> Iterator[Split]:
    """Of isoFLOP runs by their own budgets; of others by groups of runs of rising compute."""
    runs = as_runs(table, columns=columns or Columns(), **options)
    each = runs.table.groupby("budget").size()
    part = runs.table["budget"].rank(method="dense") if each.min() >= 3 and len(each) > 3 else parts_of(runs)
    for count in HELD_OUT:
        below = part <= part.max() - count
        if part[below].nunique() > 1:
            yield Split(suite, runs.where(below), runs.table[~below])


def scored(split: Split) -> pd.DataFrame:
    """Each run that was not seen, by the default and by the plain law."""
    sized = "params" in split.known.table
    at = {name: split.unseen[name].to_numpy(float) for name in ("params", "tokens", "flops") if name in split.unseen}
    found = consensus(split.known)
    plain = fit(split.known, "chinchilla" if sized else "saturating", resamples=300)
    losses = split.unseen["loss"].to_numpy(float)
    result = {"suite": split.suite, "published": split.published, "reach": np.exp(found.reach(at))}
    result["laws"] = ", ".join(dict.fromkeys(member.law for member in found.members if member.weight > 0.1))
    for name, fitted in (("", found), ("plain_", plain)):
        low, high = fitted.predict_interval(**at)
        result[f"{name}error"] = fitted.predict(**at) / losses - 1
        result[f"{name}inside"] = (low <= losses) & (losses <= high)
        result[f"{name}half"] = (high - low) / 2 / losses
    return pd.DataFrame(result)


def row_of(name: str, runs: pd.DataFrame) -> list[str]:
    miss, plain = runs["error"].abs().median(), runs["plain_error"].abs().median()
    laws = runs["laws"].str.split(", ").explode().value_counts()
    return [
        name,
        str(len(runs)),
        f"{runs['reach'].min():.2g}-{runs['reach'].max():.3g}",
        f"{plain:.2%}",
        f"{miss:.2%}",
        f"{miss / plain:.2f}",
        f"{runs['error'].mean():+.2%}",
        f"{runs['plain_inside'].mean():.0%}",
        f"{runs['inside'].mean():.0%}",
        f"{runs['plain_half'].mean():.2%}",
        f"{runs['half'].mean():.2%}",
        ", ".join(laws.index[:2]),
        next((text for text in runs["published"] if text), ""),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of published runs")
    warnings.simplefilter("ignore")
    every = [*splits(parser.parse_args().data)]
    runs = pd.concat([scored(split) for split in track(every, "forecasting", transient=True)], ignore_index=True)
    table = Table(title="Runs that were not seen, 90 % intervals")
    for heading in ("suite", "runs", "times beyond", "plain", "default", "ratio", "bias"):
        table.add_column(heading, justify="left" if heading == "suite" else "right")
    for heading in ("plain holds", "default holds", "plain ±", "default ±", "laws", "the authors' own"):
        table.add_column(heading, justify="left" if heading in ("laws", "the authors' own") else "right")
    for suite, group in runs.groupby("suite", sort=False):
        table.add_row(*row_of(str(suite), group))
    table.add_section()
    bent = runs["suite"].str.startswith(BENT)
    table.add_row(*row_of("bent suites", runs[bent]))
    table.add_row(*row_of("all", runs))
    Console(width=200).print(table)
    spread = runs["half"].mean() / runs["error"].abs().median()
    print(
        f"mean half-width / median |error| {spread:.1f}; misses: {(~runs['inside']).sum()}, "
        f"{((runs['error'] > 0) & ~runs['inside']).sum()} of them below the interval"
    )
