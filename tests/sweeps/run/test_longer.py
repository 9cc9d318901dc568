"""A finished wsd sweep goes on to more tokens: to the bit what it would have been, for the FLOPs of the difference."""

import json
import shutil
from pathlib import Path

import pytest
from etils import epath

from nextscale.model.record import RunDirectory
from nextscale.model.training.train import train
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.plan import plan_sweep
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run import session
from nextscale.sweeps.run.loop import run_study
from nextscale.sweeps.store.garbage import collect, garbage, kept_states
from nextscale.sweeps.store.store import load
from nextscale.sweeps.store.verify import verify
from nextscale.sweeps.study.study import Study
from nextscale.sweeps.watch.status import status

SPEC = """\
name: longer
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training: {batch_tokens: 128, schedule: wsd, warmup_tokens: 2560, lr: 0.01, keep_trunk: true}
design: {kind: wsd, widths: [8], tokens: [1.0e+4, 2e4, 4e4, 8e4]}
evaluation: {tokens: 512}
forecast: {law: none}
"""
LONGER = {"8e4]": "8e4, 1.2e+5]"}


@pytest.fixture
def spec(tmp_path):
    """`spec()` as it is, `spec({"old": "new"})` changed."""

    def write(changes=None):
        text = SPEC
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "spec.yaml").write_text(text)
        return load_spec(tmp_path / "spec.yaml")

    return write


@pytest.fixture(scope="module")
def swept(made_once, in_process_backend):
    """The sweep of four lengths, done."""

    def make(folder):
        (folder / "spec.yaml").write_text(SPEC)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "RayBackend", in_process_backend)
            assert run_study(load_spec(folder / "spec.yaml"), folder / "out")["runs"]["done"] == 4

    return made_once("longer", make) / "out"


@pytest.fixture
def out(swept, tmp_path):
    return Path(shutil.copytree(swept, tmp_path / "out"))


@pytest.fixture
def train_again(monkeypatch, in_process_backend):
    """Runs a spec in a folder, and gives the jobs that were started, and what was said."""

    def run(spec, out, before=lambda job: None):
        jobs, said = [], []
        look = staticmethod(lambda job: jobs.append(job) or before(job))
        monkeypatch.setattr(session, "RayBackend", type("Backend", (in_process_backend,), {"before": look}))
        run_study(spec, out, on_event=lambda event: said.append((event.kind, event.message)))
        return jobs, said

    return run


def without_seconds(record):
    return {key: value for key, value in record.items() if key != "seconds"}


def longest(spec, out):
    return max(Study(spec, out).planned, key=lambda run: run.tokens)


def spent(out):
    found = status(out).spent
    return found["flops_kept"], found["flops_lost"]


class TestOneLengthMore:
    def test_costs_the_flops_of_the_difference_and_is_the_same_to_the_bit(self, spec, out, train_again, tmp_path):
        before, alone = plan_sweep(spec(), out), plan_sweep(spec(LONGER), tmp_path / "none")
        assert spent(out) == (before.total_flops, 0)
        planned = plan_sweep(spec(LONGER), out)
        assert planned.left_flops == alone.total_flops - before.total_flops
        (row,) = [row for row in planned.runs if not row["done"]]
        assert planned.saved_flops["kept"] == row["flops"] - row["own_flops"] > 0
        (job,), _ = train_again(spec(LONGER), out)
        trunk = max((run for run in planned.runs if run["done"]), key=lambda run: run["tokens"])
        assert job.start.run_id == row["trunk"] == trunk["run_id"]
        assert spent(out) == (alone.total_flops, 0), "to the FLOP, as if all had been trained at once"
        run = longest(spec(LONGER), out)
        apart = RunDirectory(epath.Path(tmp_path / "apart" / run.config.run_id))
        record = train(run.config, apart)
        ours = RunDirectory(epath.Path(out / "runs" / run.config.run_id))
        assert without_seconds(ours.record()) == without_seconds(record)
        assert ours.metrics_file.read_bytes() == apart.metrics_file.read_bytes()
        assert verify(out) == (5, [])

    def test_is_told_the_same_once_it_is_done_and_what_it_began_from_is_freed(self, spec, out, train_again):
        told = plan_sweep(spec(LONGER), out)
        train_again(spec(LONGER), out)
        run = longest(spec(LONGER), out)
        trunk, at = run.trunk.run_id, run.branches_at
        assert [(one.run_id, one.tokens) for one in kept_states(out)] == [(run.config.run_id, run.config.stable_tokens)]
        assert [one.run_id for one in collect(out)] == [trunk]
        assert not (out / "runs" / trunk / "checkpoints" / str(at)).exists()
        again = plan_sweep(spec(LONGER), out)
        assert again.total_flops == told.total_flops
        assert again.left_flops == 0
        assert status(out).flops == (told.total_flops, told.total_flops)
        table = load(out).set_index("run_id")
        assert table.loc[run.config.run_id, "trunk"] == trunk
        assert table.loc[trunk, "trunk"] is None

    @pytest.mark.slow
    def test_goes_on_once_more(self, spec, out, train_again):
        train_again(spec(LONGER), out)
        middle = longest(spec(LONGER), out)
        further = spec({"8e4]": "8e4, 1.2e+5, 1.4e+5]"})
        (job,), _ = train_again(further, out)
        assert (job.start.run_id, job.start.tokens) == (middle.config.run_id, middle.config.stable_tokens)
        assert spent(out) == (plan_sweep(further, out).total_flops, 0)

    def test_a_length_between_is_a_branch_and_one_below_begins_at_its_first_token(self, spec, out, train_again):
        every = spec({"[1.0e+4, 2e4, 4e4, 8e4]": "[1.0e+4, 2e4, 3.2e+4, 4e4, 8e4, 1.0e+5, 1.2e+5]"})
        planned = plan_sweep(every, out)
        trunks = {round(row["tokens"], -3): row["trunk"] for row in planned.runs if not row["done"]}
        old, new = longest(spec(), out).config.run_id, longest(every, out).config.run_id
        assert trunks == {32_000: None, 100_000: new, 120_000: old}
        jobs, _ = train_again(every, out)
        assert sum(job.flops for job in jobs) == planned.left_flops
        assert spent(out) == (planned.total_flops, 0)


@pytest.mark.parametrize("damage", [shutil.rmtree, None], ids=["gone", "damaged"])
def test_without_the_state_all_of_it_is_trained_and_that_is_said(spec, out, train_again, damage):
    (state,) = kept_states(out)
    folder = out / "runs" / state.run_id / "checkpoints" / str(state.tokens)
    for file in [] if damage else [path for path in folder.rglob("*") if path.is_file()]:
        file.write_bytes(b"rot")
    if damage:
        damage(folder)
        (warning,) = [text for text in plan_sweep(spec(LONGER), out).warnings if "first token" in text]
        assert longest(spec(LONGER), out).config.run_id in warning
    before = spent(out)[0]
    _, said = train_again(spec(LONGER), out)
    run = longest(spec(LONGER), out)
    assert spent(out) == (before + run.flops, 0)
    told = [text for kind, text in said if kind == "retried"]
    assert ["is gone or damaged: this run is trained from its first token" in text for text in told] == [True] * (
        not damage
    )
    assert verify(out)[1] == [] or not damage


def test_a_larger_budget_of_any_design_goes_on_too(spec, tmp_path, train_again):
    design = {
        "kind: wsd": "kind: isoflop",
        "widths: [8], tokens: [1.0e+4, 2e4, 4e4, 8e4]": "flops: [2.0e+8], widths: [[8]]",
    }
    train_again(spec(design), tmp_path / "out")
    larger = spec(design | {"flops: [2.0e+8], widths: [[8]]": "flops: [2.0e+8, 4.0e+8], widths: [[8], [8]]"})
    left = [row for row in plan_sweep(larger, tmp_path / "out").runs if not row["done"]]
    assert [(row["trunk"] is not None, row["own_flops"] < 0.7 * row["flops"]) for row in left] == [(True, True)]


class TestKept:
    def test_it_is_no_garbage_until_the_spec_says_so(self, spec, out, train_again):
        (state,) = kept_states(out)
        assert state.bytes > 0
        assert garbage(out) == []
        train_again(spec({", keep_trunk: true": ""}), out)
        assert kept_states(out) == []
        assert [(one.run_id, [path.name for path in one.checkpoints]) for one in collect(out)] == [
            (state.run_id, [str(state.tokens)])
        ]

    def test_it_is_not_kept_unless_it_is_asked_for(self, spec, tmp_path, train_again):
        short = {", keep_trunk: true": "", "[1.0e+4, 2e4, 4e4, 8e4]": "[1.0e+4, 2e4]"}
        train_again(spec(short), tmp_path / "out")
        assert all(len(list(path.iterdir())) == 1 for path in tmp_path.glob("out/runs/*/checkpoints"))

    def test_gc_says_how_much_it_is(self, out, called):
        (state,) = kept_states(out)
        assert "held by the states of 1 trunks, for longer runs" in called("gc", out)[1]
        told = json.loads(called("gc", out, "--json")[1])["kept_trunks"]
        assert told == [{"run_id": state.run_id, "tokens": state.tokens, "bytes": state.bytes}]

    def test_it_names_no_run(self, spec):
        ids = [
            {run.config.run_id for run in Study(spec(changes), "unused").planned}
            for changes in ({}, {", keep_trunk: true": ""})
        ]
        assert ids[0] == ids[1]

    def test_it_is_of_wsd_runs(self, spec):
        with pytest.raises(SpecError, match=r"training: keep_trunk is of schedule wsd, not linear; leave it out"):
            spec({"wsd, warmup": "linear, warmup"})
