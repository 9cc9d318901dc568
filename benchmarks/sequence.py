"""What a sequence of chosen runs is worth against a grid: `python benchmarks/sequence.py [SEED]... [--out DIR]`.

Of each source of tokens (`data.seed`) the ready spec `sequential` is trained to its end, then the grid of `quickstart`,
whose held-out runs are the same. Told are the FLOPs of the sequence / those of the grid; half the interval at the
target / the loss, of the grid also as the sequence's `forecast` makes it; how many of the held-out runs lie inside
their intervals; and by how much they lie off, measured / predicted - 1. It takes two minutes per source on two cores.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from nextscale.sweeps.design.sequential import forecast_half_width
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run.loop import run_study
from nextscale.sweeps.show.tables import Table
from nextscale.sweeps.spec.layers import ready_spec
from nextscale.sweeps.study.study import Study


def of_source(name, seed):
    """A ready spec on another source of the same kind."""
    spec = load_spec(ready_spec(name))
    return spec.model_copy(update={"data": spec.data.model_copy(update={"seed": seed})})


def forecast(spec, out):
    """FLOPs spent, half the interval at the target / the loss, and of each held-out run whether it lies inside its own
    interval, and measured / predicted - 1."""
    study = Study(spec, out)
    found, held = study.analyse(), study.table("holdout")
    how = {name: held[name].to_numpy(float) for name in ("params", "tokens", "flops")}
    low, high = found.fit.predict_interval(**how)
    measured = held["loss"].to_numpy(float)
    return {
        "flops": sum(run.flops for run in study.runs("fit")),
        "half": forecast_half_width(found.fit, spec.holdout.flops, found.cost),
        "inside": (low <= measured) & (measured <= high),
        "error": measured / found.fit.predict(how["params"], how["tokens"]) - 1,
    }


def compared(seed, folder):
    """One row of the table: of one source, the sequence and the grid."""
    sequence, grid = of_source("sequential", seed), of_source("quickstart", seed)
    run_study(sequence, folder)  # the first, for only its forecast is of held-out runs that nobody has seen
    run_study(grid.model_copy(update={"holdout": None}), folder)
    like = grid.model_copy(update={"forecast": sequence.forecast})
    return tuple(forecast(spec, folder) for spec in (sequence, grid, like))


def errors(one):
    return f"{one['error'].min():+.2%} to {one['error'].max():+.2%}"


def shown(seeds, rows):
    columns = "source", "FLOPs/grid's", "± sequence", "± grid", "± grid, so forecast"
    columns = *columns, "inside", "of the grid", "off by", "of the grid"
    told = []
    for seed, (sequence, grid, like) in zip(seeds, rows, strict=True):
        inside = [f"{one['inside'].sum()} of {one['inside'].size}" for one in (sequence, grid)]
        halves = [f"{one['half']:.2%}" for one in (sequence, grid, like)]
        share = f"{sequence['flops'] / grid['flops']:.1%}"
        told.append([str(seed), share, *halves, *inside, errors(sequence), errors(grid)])
    each = pd.DataFrame([[one["half"] for one in row] for row in rows])
    share = np.median([row[0]["flops"] / row[1]["flops"] for row in rows])
    inside = [[one["inside"] for one in which] for which in list(zip(*rows, strict=True))[:2]]
    total = [f"{np.concatenate(one).sum()} of {np.concatenate(one).size}" for one in inside]
    told.append(["median, sum", f"{share:.1%}", *each.median().map("{:.2%}".format), *total, "", ""])
    return Table("A sequence against a grid", columns, told)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", nargs="*", type=int)
    parser.add_argument("--out", type=Path, default=Path("out/sequence"))
    given = parser.parse_args()
    seeds = given.seeds or list(range(5, 15))
    rows = [compared(seed, given.out / f"seed-{seed}") for seed in seeds]
    Console(width=160).print(shown(seeds, rows).rich())
