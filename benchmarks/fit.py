"""How fast and how well Chinchilla's law is fitted: `python benchmarks/fit.py [--data RUNS.csv]`.

Without a file, on 240 runs of a known law; with one, on its runs less the five of the largest loss (as the published
fits of Epoch AI's digitised runs have it). One table, all in one process on one thread; seconds are of the processor.
What would take too long is timed on a part and scaled up, and says so.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import argparse
import importlib
import itertools
import time
import warnings

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from nextscale.fit import Columns, as_runs, fit, read_table

LITERAL, RESAMPLES, REFERENCE_RESAMPLES, DELTA = 40, 1000, 20, 1e-3
GRID = [(0, 5, 10, 15, 20, 25), (0, 5, 10, 15, 20, 25), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2)]
"""log A, log B, log E, alpha, beta: the 4500 starts of Hoffmann et al. 2022, app. D.3."""


def known_law(runs=240, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    flops = 10 ** rng.uniform(18, 21.5, runs)
    params = np.sqrt(flops / 120) * np.exp(rng.uniform(-1.5, 1.5, runs))
    tokens = flops / 6 / params
    loss = 1.8 + 480 / params**0.35 + 2100 / tokens**0.37
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss * np.exp(noise * rng.standard_normal(runs))})


class Reference:
    """The objective as one writes it for scipy: unprojected, uncentred, over (log A, log B, log E, alpha, beta)."""

    def __init__(self, table):
        self.n, self.d, self.y = (np.log(table[c].to_numpy()) for c in ("params", "tokens", "loss"))

    def value(self, theta, weights=1.0):
        return self.with_gradient(theta, weights)[0]

    def with_gradient(self, theta, weights=1.0):
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * self.n, b - beta * self.d, np.full_like(self.n, e)])
        top = terms.max(axis=0)
        share = np.exp(terms - top)
        total = share.sum(axis=0)
        residual = top + np.log(total) - self.y
        near = np.minimum(np.abs(residual), DELTA)
        share *= weights * np.clip(residual, -DELTA, DELTA) / total
        gradient = [*share.sum(axis=1), -(share[0] * self.n).sum(), -(share[1] * self.d).sum()]
        return (weights * near * (np.abs(residual) - near / 2)).sum(), np.array(gradient)


def timed(function):
    """What it returns, and seconds of this process's processor time."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def literal(reference, count=LITERAL):
    """scipy's own finite differences, over a part of the starts, spread evenly."""
    grid = list(itertools.product(*GRID))
    chosen = [grid[i] for i in np.linspace(0, len(grid) - 1, count).astype(int)]
    found, seconds = timed(lambda: min(minimize(reference.value, s, method="L-BFGS-B").fun for s in chosen))
    return found, seconds * len(grid) / count


def analytic(reference):
    def search():
        starts = itertools.product(*GRID)
        found = [minimize(reference.with_gradient, s, jac=True, method="L-BFGS-B").fun for s in starts]
        best = min(found)
        return best, np.mean(np.array(found) <= best * (1 + 1e-6))

    return timed(search)


def bfgs_bootstrap(reference, optimum, count=REFERENCE_RESAMPLES):
    rng, n = np.random.default_rng(0), len(reference.n)
    draws = rng.multinomial(n, np.full(n, 1 / n), size=count).astype(float)
    _, seconds = timed(
        lambda: [minimize(reference.with_gradient, optimum, (w,), jac=True, method="BFGS") for w in draws]
    )
    return seconds * RESAMPLES / count


def chinchilla_package(table):
    """Objective and seconds of PyPI's `chinchilla`, over the same starts; a word where it cannot be had."""
    try:
        module = importlib.import_module("chinchilla")
    except ImportError:
        return "not installed", None
    import tempfile

    names = dict(zip(("a", "b", "e", "alpha", "beta"), map(list, GRID), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        model = module.Chinchilla(folder, names, seed_ranges={"C": (1e18, 1e19), "N_to_D": (10, 100)})
        model.database.df = table.assign(C=6 * table.params * table.tokens, N=table.params, D=table.tokens)
        _, seconds = timed(lambda: model.fit(parallel=False))
        at = [np.log(model.A), np.log(model.B), np.log(model.E), model.alpha, model.beta]
    return Reference(table).value(at), seconds


def rows(table):
    runs = as_runs(table)
    fit(runs, resamples=20)  # imports
    found, seconds = min((timed(lambda: fit(runs, delta=DELTA, resamples=0)) for _ in range(5)), key=lambda r: r[1])
    yield "nextscale: one fit, global", f"{found.objective:.11g}", seconds, 1.0, f"starts agree {agree(found)}"
    grid, taken = timed(lambda: fit(runs, delta=DELTA, resamples=0, init="grid"))
    yield 'nextscale: init="grid", 4500 starts', f"{grid.objective:.11g}", taken, taken / seconds, agree(grid)
    reference = Reference(runs.table)
    (objective, share), taken = analytic(reference)
    yield "scipy L-BFGS-B, gradient, 4500 starts", f"{objective:.11g}", taken, taken / seconds, f"{share:.1%}"
    objective, taken = literal(reference)
    note = f"{LITERAL} starts timed, scaled to 4500"
    yield "scipy L-BFGS-B, finite differences", f"{objective:.11g}", taken, taken / seconds, note
    objective, taken = chinchilla_package(runs.table)
    if taken is None:
        yield "PyPI chinchilla, 4500 starts", "-", None, None, objective
    else:
        yield "PyPI chinchilla, 4500 starts", f"{objective:.11g}", taken, taken / seconds, ""
    both = timed(lambda: fit(runs, delta=DELTA, resamples=RESAMPLES))[1]
    ours = both - seconds
    yield f"nextscale: {RESAMPLES} bootstraps, global", "", ours, 1.0, "with the checks of a fit"
    p = found.parameters
    optimum = [*np.log([p["A"], p["B"], p["E"]]), p["alpha"], p["beta"]]
    taken = bfgs_bootstrap(reference, optimum)
    note = f"local, {REFERENCE_RESAMPLES} timed, scaled up"
    yield f"scipy BFGS: {RESAMPLES} bootstraps", "", taken, taken / ours, note


def agree(found):
    return f"{found.minimum.agreement:.1%} of {found.minimum.polished}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a CSV of runs: by default those of a known law")
    parser.add_argument("--params-column", default="Model Size")
    parser.add_argument("--flops-column", default="Training FLOP")
    parser.add_argument("--drop-largest-losses", type=int, default=5)
    options = parser.parse_args()
    if options.data:
        columns = Columns(params=options.params_column, flops=options.flops_column)
        read = read_table(options.data)
        data = as_runs(read, columns=columns, drop_largest_losses=options.drop_largest_losses).table
    else:
        data = known_law()
    warnings.simplefilter("ignore")
    shown = Table(title=f"Chinchilla's law on {len(data)} runs, Huber's loss with delta {DELTA:g}")
    for heading in ("method", "objective", "CPU s", "times ours", "starts at the best minimum"):
        shown.add_column(heading)
    for name, objective, seconds, ratio, note in rows(data):
        numbers = ["-" if x is None else f"{x:.3g}" if x < 100 else f"{x:.0f}" for x in (seconds, ratio)]
        shown.add_row(name, objective, *numbers, note)
    Console(width=130).print(shown)
