"""A budget and a target instead of a grid: on surfaces of a known law, and once for real."""

import contextlib
import json
import math

import numpy as np
import pandas as pd
import pytest

from nextscale.fit.optimum.frontier import TokenCost, frontier
from nextscale.fit.table.runs import as_runs
from nextscale.model.accounting import flops_per_token
from nextscale.model.record import read_rows
from nextscale.sweeps import load
from nextscale.sweeps.design.chosen_runs import ChosenRuns, Progress, all_runs
from nextscale.sweeps.design.expand import planned_runs, run_of
from nextscale.sweeps.design.review import FEW_STEPS
from nextscale.sweeps.design.sequential import _place, choose_next
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run.loop import run_study
from nextscale.sweeps.spec.layers import ready_spec
from nextscale.sweeps.spec.sweep_spec import ForecastConfig, SweepSpec
from nextscale.sweeps.store.run_rows import config_columns
from nextscale.sweeps.study.law_of_runs import law_of
from nextscale.sweeps.study.study import Study

NOISE = 0.003
"""Of a run about a law, relative."""
SEEDS = 0.0013
"""What seeds of the quickstart differ by: two sizes at two budgets, four seeds each."""
TARGET = 1.5625e12
HOW = {"bootstrap": "residual", "delta": 0.01}
FAMILY = {
    "name": "known",
    "data": {"source": "markov", "vocab": 64, "seed": 0},
    "model": {"depth": 2, "heads": 4, "context": 64, "position": "alibi", "mlp": "relu2"},
    "training": {"batch_tokens": 256, "schedule": "linear", "lr": 0.01},
    "forecast": HOW,
    "holdout": {"flops": TARGET, "widths": [40, 48, 64, 80]},
}
START = {"kind": "isoflop", "flops": [1.25e10, 5e10], "widths": [[8, 16, 24], [12, 20, 32]]}


def law(params, tokens):
    """The surface that a quickstart was fitted by, to two digits."""
    return 2.188 + 45 * params**-0.55 + 290 * tokens**-0.55


def bent(params, tokens):
    """A surface that Chinchilla's law misses as it does the real one: a coupled law, by the same quickstart and its
    held-out runs."""
    return 1.998 + ((18.13 / params**0.3942) ** (1 / 0.5033) + (33.12 / tokens**0.3358) ** (1 / 0.5033)) ** 0.5033


def fitted(runs, seed, resamples=300, how=HOW, surface=law):
    scatter = NOISE if surface is law else SEEDS
    rows = []
    for run in runs:
        noise = np.random.default_rng([seed, int(run.config.run_id, 16)]).standard_normal()
        row = {"run_id": run.config.run_id, "params": run.params, "tokens": run.tokens, "flops": run.flops}
        rows.append(row | {"budget": run.budget, "loss": surface(run.params, run.tokens) * np.exp(scatter * noise)})
    return law_of(as_runs(pd.DataFrame(rows)), ForecastConfig(resamples=resamples, **how))


def sequential(**changes):
    design = {"kind": "sequential", "start": START, "widths": [8, 12, 16, 20, 24, 28, 32, 40, 48, 64]}
    return SweepSpec(**FAMILY | {"design": design | changes})


def cost_of(runs):
    models = [run.config.model for run in runs]
    return TokenCost.of([run.params for run in runs], [flops_per_token(model) for model in models])


def to_its_end(spec, seed, resamples=300, how=HOW, surface=law):
    """The runs of a sequence on the known surface, where it stood in the end, and the law fitted then."""
    cost, runs = cost_of(planned_runs(spec)), [run for run in planned_runs(spec) if run.role == "fit"]
    while True:
        found = fitted(runs, seed, resamples, how, surface)
        stands, chosen = choose_next(spec, found, cost, runs)
        if stands.ended:
            return runs, stands, found
        runs += chosen


def test_a_sequence_stays_within_its_compute_and_its_bounds():
    spec = sequential(flops=6e11, until=1e-6, at_once=4, largest=1.5e11)
    runs, stands, _ = to_its_end(spec, seed=0, resamples=100)
    start = [run for run in planned_runs(spec) if run.role == "fit"]
    chosen = runs[len(start) :]
    assert stands.spent == sum(run.flops for run in runs) <= 6e11
    assert "pays for no further run" in stands.ended
    assert len(chosen) > 4
    assert all(run.config.model.width in spec.design.widths for run in chosen)
    assert all(run.budget <= 1.5e11 and run.config.training.steps >= FEW_STEPS for run in chosen)
    assert len({run.config.run_id for run in runs}) == len(runs)


@pytest.mark.slow
def test_a_sequence_ends_when_its_interval_is_narrow_enough_and_not_before_it_could_be_backtested():
    runs, stands, _ = to_its_end(sequential(flops=1e12, until=0.5), seed=0, resamples=100)
    assert "narrow" in stands.ended
    assert fitted(runs, 0, 100).backtested
    assert not fitted(runs[:-1], 0, 100).backtested


def test_a_sequence_whose_drift_is_stated_ends_without_a_backtest():
    drift = {"drift": 0.002}
    spec = sequential(flops=1e12, until=0.5)
    spec = spec.model_copy(update={"forecast": ForecastConfig(**HOW | drift)})
    runs, stands, _ = to_its_end(spec, 0, resamples=100, how=HOW | drift)
    assert "narrow" in stands.ended
    assert not fitted(runs, 0, 100).backtested


def test_what_was_chosen_stands(tmp_path):
    spec = sequential(flops=4e11, at_once=2)
    runs = [run for run in planned_runs(spec) if run.role == "fit"]
    stands, chosen = choose_next(spec, fitted(runs, 0, 100), cost_of(planned_runs(spec)), runs)
    ChosenRuns(tmp_path, spec).add(chosen, stands)
    assert ChosenRuns(tmp_path, spec).runs() == chosen
    assert all_runs(tmp_path, spec) == [*planned_runs(spec), *chosen]
    assert ChosenRuns(tmp_path, spec).ended is None
    ChosenRuns(tmp_path, spec).end(Progress(0.01, 1e11, "it is enough"))
    assert ChosenRuns(tmp_path, spec).ended == "it is enough"
    other = sequential(flops=4e11, at_once=2, target=1.2e12)
    assert ChosenRuns(tmp_path, other).runs() == []
    assert ChosenRuns(tmp_path, other).ended is None


@pytest.mark.parametrize("more", [{"flops": 5e11}, {"until": 0.001}, {"at_once": 3}], ids=str)
def test_a_sequence_with_more_to_spend_goes_on_from_what_it_chose(tmp_path, more):
    spec = sequential(flops=4e11, at_once=2)
    runs = [run for run in planned_runs(spec) if run.role == "fit"]
    stands, chosen = choose_next(spec, fitted(runs, 0, 100), cost_of(planned_runs(spec)), runs)
    ChosenRuns(tmp_path, spec).add(chosen, stands)
    ChosenRuns(tmp_path, spec).end(Progress(0.01, 4e11, "the compute is spent"))
    richer = SweepSpec(**spec.model_dump() | {"design": spec.design.model_dump() | more})
    assert ChosenRuns(tmp_path, richer).runs() == chosen
    assert ChosenRuns(tmp_path, richer).ended is None
    assert ChosenRuns(tmp_path, spec).ended == "the compute is spent"


@pytest.mark.parametrize(
    ("key", "changes", "same"),
    [
        ("forecast", {"resamples": 2000}, True),
        ("forecast", {"level": 0.95}, True),
        ("forecast", {"params": "non_embedding"}, False),
        ("holdout", {"widths": [40, 48]}, True),
        ("holdout", {"flops": 2e12}, False),
        ("training", {"lr": 0.02}, False),
        ("evaluation", {"tokens": 512}, False),
    ],
    ids=str,
)
def test_choices_are_those_of_whoever_asks_the_same(tmp_path, key, changes, same):
    spec = sequential(flops=4e11, at_once=2)
    chosen = [run_of(spec, 12, 2e10, 0)]
    ChosenRuns(tmp_path, spec).add(chosen, Progress(0.01, 2e11, None))
    other = SweepSpec(**spec.model_dump() | {key: spec.model_dump()[key] | changes})
    assert [run.config.model.width for run in ChosenRuns(tmp_path, other).runs()] == ([12] if same else [])


def test_choices_do_not_depend_on_where_the_data_lies(tmp_path):
    """Nor on options that a later version adds, as long as they are at their default."""

    class Later(ForecastConfig):
        added: int = 3

    data = {"source": "text", "vocab": 256, "fingerprint": "0123456789abcdef"}
    here, there = (
        SweepSpec(**sequential(flops=4e11).model_dump() | {"data": data | {"path": path}}) for path in ("/a", "/b")
    )
    chosen = [run_of(here, 12, 2e10, 0)]
    ChosenRuns(tmp_path, here).add(chosen, Progress(0.01, 2e11, None))
    assert ChosenRuns(tmp_path, there).runs() == [run_of(there, 12, 2e10, 0)]
    later = here.model_copy(update={"forecast": Later(**here.forecast.model_dump())})
    assert ChosenRuns(tmp_path, later).runs() == chosen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flops": 1e11}, "design.flops: 1e.11 do not pay for the runs of design.start, 1.87e.11"),
        ({"flops": 1e12, "largest": 2e12}, "design.largest: 2e.12 FLOPs of one run reach the target"),
        ({"flops": 1e12, "target": 4e10}, "design.start.flops: 5e.10 FLOPs of one run reach the target"),
    ],
)
def test_a_sequence_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        planned_runs(sequential(**changes))


def test_a_sequence_needs_a_target():
    with pytest.raises(SpecError, match=r"design\.target: is missing"):
        planned_runs(SweepSpec(**{**FAMILY, "holdout": None, "design": sequential(flops=1e12).design}))


TINY = """\
name: tiny-sequence
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training: {batch_tokens: 128, schedule: linear, lr: {rule: horizon, base: 0.02, floor: 0.008}}
design:
  kind: sequential
  flops: 1.6e10
  until: 0.0001
  at_once: 2
  start: {kind: isoflop, flops: [5.0e+8, 1e9], widths: [[4, 8, 12], [4, 8, 16]]}
  widths: [4, 8, 12, 16, 20, 24]
holdout: {flops: 1.2e10, widths: [12, 16, 24]}
evaluation: {tokens: 8192}
forecast: {bootstrap: residual, delta: 0.01, resamples: 100}
"""


@pytest.mark.slow
@pytest.mark.soak
def test_a_sequence_is_trained_to_its_end_and_goes_on_where_it_was_stopped(tmp_path, nextscale):
    (tmp_path / "spec.yaml").write_text(TINY)
    out = tmp_path / "out"
    ended = nextscale("run", tmp_path / "spec.yaml", "--out", out, "--set", "caps.max_flops=9e9")
    assert ended.returncode == 3, ended.stderr
    before = read_rows(out / "sequence.jsonl")
    ended = nextscale("run", tmp_path / "spec.yaml", "--out", out)
    assert ended.returncode == 0, ended.stderr
    after = read_rows(out / "sequence.jsonl")
    assert after[: len(before)] == before
    assert "ended" in after[-1]
    table = load(out)
    chosen = {row["run_id"] for row in after if "run_id" in row}
    assert chosen <= set(table.loc[table.role == "fit", "run_id"])
    assert (table.status == "done").all()
    assert table.loc[table.role == "fit", "flops"].sum() <= 1.6e10
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["holdout"]) == 3
    again = nextscale("run", tmp_path / "spec.yaml", "--out", out, "--json")
    assert json.loads(again.stdout)["runs"] == {"done": len(table), "reused": len(table), "failed": 0}


SMALL = """\
name: two-shells
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training: {batch_tokens: 64, schedule: linear, lr: 0.01}
design:
  kind: sequential
  flops: 1.3e+9
  until: 0.0001
  at_once: 2
  largest: 2.0e+8
  start: {kind: isoflop, flops: [1.0e+8, 2e8], widths: [[4, 8, 12], [4, 8, 12]]}
  widths: [4, 8, 12]
  target: 1.2e10
evaluation: {tokens: 512}
forecast: {bootstrap: residual, delta: 0.01, resamples: 100}
loggers: []
"""


class Killed(BaseException):
    """What ends a shell at once."""


def test_budgets_that_come_to_the_same_steps_are_one_place():
    """A run that is there is never chosen again, but for another seed: it would be trained no second time."""
    spec = sequential(flops=4e11)
    one, other = (run_of(spec, 8, budget, 0) for budget in (2e10, math.nextafter(2e10, math.inf)))
    assert one.config == other.config
    assert one.budget != other.budget
    assert _place(one) == _place(other)


@pytest.fixture
def shell(tmp_path, monkeypatch, in_process_backend):
    """Runs a small sequence: `shell()` to its end; `shell(runs)` until so many have begun."""
    from nextscale.sweeps.run import session

    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    (tmp_path / "spec.yaml").write_text(SMALL)
    spec = load_spec(tmp_path / "spec.yaml")

    def run(runs=None, **options):
        begun = []

        def watch(event):
            begun.extend([event.job.run_id] if event.kind == "started" else [])
            if len(begun) == runs:
                raise Killed

        return run_study(spec, tmp_path / "out", on_event=watch, **options)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "lives_for", [pytest.param(None, marks=pytest.mark.soak, id="done"), pytest.param(9, id="killed")]
)
def test_a_shell_that_waited_for_another_goes_on_from_what_that_one_chose(tmp_path, shell, lives_for):
    def first_another(role, done, todo):
        if not read_rows(tmp_path / "out" / "sequence.jsonl"):
            with contextlib.suppress(Killed):
                shell(lives_for)
            chosen.append(read_rows(tmp_path / "out" / "sequence.jsonl"))

    chosen = []
    summary = shell(on_phase=first_another)
    rows = read_rows(tmp_path / "out" / "sequence.jsonl")
    names = [row["run_id"] for row in rows if "run_id" in row]
    assert 2 <= len([row for row in chosen[0] if "run_id" in row]) <= len(names)
    assert rows[: len(chosen[0])] == chosen[0]
    assert len(set(names)) == len(names)
    table = load(tmp_path / "out")
    assert set(names) < set(table["run_id"])
    assert summary["runs"]["done"] == summary["law"]["n"] == len(table) == 6 + len(names)
    assert rows[-1]["spent"] == table["flops"].sum()
    assert "pays for no further run" in rows[-1]["ended"]


def test_what_another_process_chose_since_comes_before_what_is_chosen_next(tmp_path):
    def finish(study):
        for run in study.missing("fit"):
            loss = {"status": "done", "loss": law(run.params, run.tokens)}
            directory = study.store.run(run.config.run_id)
            directory.write_config(run.config)
            directory.write_record({"run_id": run.config.run_id} | config_columns(run.config) | loss)

    spec = sequential(flops=4e11, at_once=2)
    spec = spec.model_copy(update={"forecast": spec.forecast.model_copy(update={"resamples": 100})})
    one, other = Study(spec, tmp_path), Study(spec, tmp_path)
    finish(one)
    assert one.choose() is None
    chosen = one.missing("fit")
    assert chosen
    assert other.choose() is None
    assert other.missing("fit") == chosen == ChosenRuns(tmp_path, one.spec).runs()
    finish(other)
    one.choices.end(Progress(0.1, 1e11, "it is enough"))
    assert other.choose() == "it is enough"
    assert other.missing("fit") == []


def test_a_choice_that_was_written_twice_counts_once(tmp_path):
    spec = sequential(flops=4e11, at_once=2)
    runs = [run for run in planned_runs(spec) if run.role == "fit"]
    stands, chosen = choose_next(spec, fitted(runs, 0, 100), cost_of(planned_runs(spec)), runs)
    for _ in "ab":
        ChosenRuns(tmp_path, spec).add(chosen, stands)
    assert ChosenRuns(tmp_path, spec).runs() == chosen
    assert all_runs(tmp_path, spec) == [*planned_runs(spec), *chosen]


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize(
    "surface, share, named",
    [(law, 0.5, True), (bent, 0.35, True), (law, 1, False), (bent, 1, False)],
    ids=["a law that holds", "one that does not", "consensus", "consensus, bent"],
)
def test_a_sequence_is_as_sure_as_a_grid_of_far_more_compute(surface, share, named):
    """By the same forecast, median over five seeds; and what it forecasts holds.
    Where the law is right, from cheap runs and without allowance for a drift; where it is not, by the ready spec. A
    consensus of few, chosen runs is not to be sure too early."""
    ready = load_spec(ready_spec("sequential"))
    spec = sequential(flops=1e12) if surface is law else ready
    spec = spec if named else spec.model_copy(update={"forecast": ForecastConfig()})
    how = spec.forecast.model_dump(include={"law", "bootstrap", "delta", "drift"}) | (
        {"law": "chinchilla"} if named else {}
    )
    planned = planned_runs(load_spec(ready_spec("quickstart")))
    grid, cost = [run for run in planned if run.role == "fit"], cost_of(planned)
    total = sum(run.flops for run in grid)
    widths, shares, inside = [], [], []
    for seed in range(5):
        row = frontier(fitted(grid, seed, 1000, how, surface), [TARGET], cost).iloc[0]
        widths.append((row.loss_high - row.loss_low) / 2 / row.loss)
    bounds = {"flops": total, "until": float(np.median(widths))}
    spec = spec.model_copy(update={"design": spec.design.model_copy(update=bounds)})
    for seed in range(5):
        _, stands, found = to_its_end(spec, seed, how=how, surface=surface)
        shares.append(stands.spent / total)
        row = frontier(found, [TARGET], cost).iloc[0]
        inside.append(row.loss_low <= surface(row.params, row.tokens) <= row.loss_high)
    assert np.median(shares) <= share
    assert sum(inside) >= (3 if named else 4)
