"""Ten sweeps of three recipes, whose losses are such that what one recipe is worth over another is known."""

import contextlib
import shutil

import numpy as np
import pytest

from nextscale.cluster.controller.lease import Lease
from nextscale.sweeps.ledger import Ledger, score_of

HOSTILE = ("<img src=x onerror=window.hit=1>", "javascript:window.hit=1", 'a b#c%2e&amp;"')
RECIPES = {"base": (1.0, {}), "warm": (2.0, {"lr": 0.02}), "cosine": (0.5, {"schedule": "cosine"})}
"""Of each how many times the compute of `base` it is worth, and how its training differs."""
DESIGN = {
    "kind": "isoflop",
    "flops": [1.0e9, 2e9, 4e9],
    "widths": [[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]],
}
TRAINING = {"batch_tokens": 128, "schedule": "linear", "lr": 0.01}
FLOPS = 1.2e10
"""Held out."""


def loss_of(run, worth):
    """It falls with compute, and has its optimum where the size is the root of that; worth times the compute is as
    good."""
    tokens_per_param = run.tokens / run.params
    return 1.5 + 40 * (worth * run.flops) ** -0.18 * (1 + 0.02 * np.log(tokens_per_param / 30) ** 2)


def sweep_of(stack, staging, out, recipe, *, name, runs=None, missed=0.0, **changes):
    """Runs as they land, the held-out ones with a forecast before and a score after; `runs` of them alone."""
    worth, training = RECIPES[recipe]
    sweep = staging.Staged(out, name=name, training=TRAINING | training, design=DESIGN, **changes)
    stack.callback(sweep.close)
    fitted = [run for run in sweep.runs if run.role == "fit"]
    held_out = [run for run in sweep.runs if run.role == "holdout"]
    for run in fitted[:runs]:
        sweep.start(run)
        sweep.land(run, loss_of(run, worth))
    if runs is None:
        foretold(sweep, held_out, worth, missed)
    return sweep


def foretold(sweep, held_out, worth, missed):
    losses = [loss_of(run, worth) for run in held_out]
    targets = [
        {
            "run_id": run.config.run_id,
            "flops": run.flops,
            "params": run.params,
            "tokens": run.tokens,
            "reach": 3.0,
            "predicted": loss * (1 + missed),
            "interval": [loss * (1 + missed) - 0.01, loss * (1 + missed) + 0.01],
        }
        for run, loss in zip(held_out, losses, strict=True)
    ]
    ledger = Ledger(sweep.out / "ledger.jsonl")
    entry = {"sweep": sweep.spec.name, "inputs": "0", "law": "chinchilla", "level": 0.9, "started_before": []}
    entry = ledger.register(
        entry | {"parameters": {}, "params_convention": "total", "warnings": [], "targets": targets}
    )
    for run, loss in zip(held_out, losses, strict=True):
        sweep.start(run)
        sweep.land(run, loss)
    scores = [
        {"run_id": target["run_id"]} | score_of(target, loss) for target, loss in zip(targets, losses, strict=True)
    ]
    ledger.score(entry, scores)


@pytest.fixture(scope="session")
def ten(made_once, staging):
    """Their folder; to be copied by whoever changes it. `running` waits for its controller, `broken` is."""

    def make(folder):
        names = ("base-1", "base-2", "nested/warm-1", "warm-2", "cosine-1", *HOSTILE)
        kinds = ("base", "base", "warm", "warm", "cosine", "base", "warm", "cosine")
        with contextlib.ExitStack() as stack:

            def begun(place, kind, **how):
                return sweep_of(stack, staging, folder / place, kind, **how)

            for i, (place, kind) in enumerate(zip(names, kinds, strict=True)):
                begun(place, kind, name=f"study-{i}", missed=0.05 * (i == 1), data=data_of(i))
            running = begun("running", "base", name="running", runs=3)
            running.start(running.runs[5])
            running.train(running.runs[5], 0.5)
            begun("broken", "base", name="broken", runs=2)
        shutil.rmtree(folder / "broken" / "runs")

    return made_once("ten", make)


def data_of(i):
    """The last recipe of a hostile name is of data of its own."""
    return {"source": "markov", "vocab": 16, "seed": 2 if i == 7 else 1}


@pytest.fixture(scope="session")
def at_work(ten, tmp_path_factory):
    """A copy that nobody changes, while one of its sweeps is at work."""
    folder = shutil.copytree(ten, tmp_path_factory.mktemp("sweeps") / "all")
    with Lease(folder / "running" / "controller"):
        yield folder


@pytest.fixture
def hostile():
    return HOSTILE


@pytest.fixture
def worth():
    """Of each recipe how many times the compute of the first it is worth."""
    return {name: times for name, (times, _) in RECIPES.items()}
