"""What a plan says before anything starts, held against what is then so."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from nextscale.cluster.controller.accounts import Accounts
from nextscale.model.config.run import RunConfig
from nextscale.model.record import RunDirectory, append_row
from nextscale.model.training.train import train
from nextscale.sweeps import load, load_spec, plan_sweep, planned_runs
from nextscale.sweeps.commands.app import app
from nextscale.sweeps.design.chosen_runs import ChosenRuns, Progress
from nextscale.sweeps.design.expand import resolve_spec, run_of
from nextscale.sweeps.design.prior import prior_of_store
from nextscale.sweeps.plan import placement
from nextscale.sweeps.run import session
from nextscale.sweeps.run.loop import run_study
from nextscale.sweeps.store.store import Store
from nextscale.sweeps.watch.status import status

WSD = {
    "schedule: linear": "schedule: wsd\n  warmup_tokens: 2560",
    "kind: isoflop": "kind: wsd",
    "flops: [1.0e+9, 2e9, 4e9]": "tokens: [1.0e+4, 2e4, 4e4]",
    "[[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]": "[4, 8]",
    "holdout: {flops: 1.2e10, widths: [12, 16, 24]}\n": "",
}

_ALONE = {"holdout: {flops: 1.2e10, widths: [12, 16, 24]}\n": ""}
_DESIGN = """\
  kind: isoflop
  flops: [1.0e+9, 2e9, 4e9]
  widths: [[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]
"""
SEQUENCE = """\
name: sequence
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training: {batch_tokens: 128, schedule: linear, lr: 0.01}
design:
  kind: sequential
  flops: 1.0e+11
  start: {kind: isoflop, flops: [1.0e+9, 2e9], widths: [[4, 8, 12], [4, 8, 16]]}
  widths: [4, 8, 12, 16, 20, 24]
holdout: {flops: 3.0e+10, widths: [16]}
"""
LADDER = _ALONE | {_DESIGN: "  {kind: ladder, widths: [4, 8, 12], tokens_per_param: [20, 40]}\n"}
GRID = _ALONE | {
    _DESIGN: "  {kind: grid, axes: {model.width: [4, 8], tokens: [1.0e+4, 2e4, 4e4], training.lr: [0.01, 0.02]}}\n"
}


@pytest.fixture
def told(capsys):
    """What `nextscale plan ... --json` says."""

    def run(*arguments):
        app(args=["plan", *map(str, arguments), "--json"], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    return run


class TestRuns:
    def test_every_run_has_its_size_by_group_its_cost_and_its_seat(self, told, spec_file):
        found = told(spec_file())
        for run in found["runs"]:
            groups = [run[f"params_{name}"] for name in ("embedding", "position", "attention", "mlp", "norm", "head")]
            assert sum(groups) == run["params"]
            assert run["params_non_embedding"] == run["params_attention"] + run["params_mlp"] + run["params_norm"]
            assert run["steps"] * run["batch_tokens"] == run["tokens"]
            assert run["seconds"] > 0 and run["bytes"] > 0
            assert (run["pool"], run["speed"]) == ("cpu", "catalogue")
        assert found["total_flops"] == sum(run["own_flops"] for run in found["runs"])
        assert found["pools"][0]["device_hours"] == pytest.approx(sum(run["device_hours"] for run in found["runs"]))

    def test_as_a_frame(self, spec_file):
        found = plan_sweep(load_spec(spec_file()), simulate=False)
        assert list(found.frame()["run_id"]) == [run["run_id"] for run in found.runs]
        assert found.expected is None

    def test_a_long_table_is_by_budget_unless_all_is_asked_for(self, spec_file, capsys):
        path = spec_file({"[12, 16, 24]}": "[12, 16, 24]}\npools: {lab: {accelerator: h100, chips: 8}}"})
        many = ["plan", str(path), "--set", "design.seeds=[0, 1, 2, 3]"]
        run_id = planned_runs(load_spec(path))[0].config.run_id
        app(args=many, standalone_mode=False)
        short = capsys.readouterr().out
        assert run_id not in short
        assert "1e9" in short
        app(args=[*many, "--all"], standalone_mode=False)
        assert run_id in capsys.readouterr().out

    def test_power_and_carbon_where_they_are_known(self, told, spec_file):
        pools = "pools={a: {accelerator: h100, chips: 8}}"
        pool = told(spec_file(), "--set", pools, "--carbon", 400)["pools"][0]
        assert pool["kwh"] == pytest.approx(pool["device_hours"] * 0.7)
        assert pool["co2_kg"] == pytest.approx(pool["kwh"] * 0.4)
        assert pool["usd"] == pytest.approx(pool["device_hours"] * 6.88)
        cpu = told(spec_file(), "--carbon", 400)["pools"][0]
        assert cpu["kwh"] is cpu["co2_kg"] is cpu["usd"] is None

    def test_the_pools_of_this_machine_are_its_cards(self, told, spec_file, tmp_path, monkeypatch):
        for i, model in enumerate(["NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", "NVIDIA GeForce 256"]):
            (tmp_path / f"0000:0{i}:00.0").mkdir()
            text = f"Model: \t\t {model}\nIRQ:   \t\t 0\n"
            (tmp_path / f"0000:0{i}:00.0" / "information").write_text(text)
        monkeypatch.setattr(placement, "_NVIDIA", tmp_path)
        found = told(spec_file())
        (pool,) = found["pools"]
        assert (pool["accelerator"], pool["slots"]) == ("h100", 2)
        assert pool["usd"] > 0
        assert any("1 x NVIDIA GeForce 256" in warning for warning in found["warnings"])

    def test_branches_save_what_their_trunks_have_trained(self, told, spec_file):
        found = told(spec_file(WSD))
        alone = sum(run["flops"] for run in found["runs"])
        assert found["saved_flops"]["branching"] == alone - found["total_flops"] > 0
        trunk_seconds = {run["run_id"]: run["seconds"] for run in found["runs"] if run["trunk"] is None}
        assert found["critical_seconds"] >= max(trunk_seconds.values())


class TestStore:
    @pytest.mark.slow
    def test_what_is_done_is_not_counted_again(self, told, spec_file, tmp_path):
        spec, out = spec_file(), tmp_path / "out"
        run = min(planned_runs(load_spec(spec)), key=lambda run: run.tokens)
        train(run.config, RunDirectory(epath.Path(out / "runs" / run.config.run_id)))
        before, after = told(spec), told(spec, "--out", out)
        assert [row["run_id"] for row in after["runs"] if row["done"]] == [run.config.run_id]
        assert after["saved_flops"]["store"] == run.flops
        assert after["total_flops"] == before["total_flops"] == after["left_flops"] + run.flops
        assert after["pools"][0]["runs"] == before["pools"][0]["runs"] - 1

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({}, id="isoflop"),
            pytest.param(LADDER, id="ladder", marks=pytest.mark.slow),
            pytest.param(GRID, id="grid"),
        ],
    )
    def test_planned_flops_are_recorded_flops(self, spec_file, tmp_path, changes):
        run = min(planned_runs(load_spec(spec_file(changes))), key=lambda run: run.flops)
        directory = RunDirectory(epath.Path(tmp_path / "run"))
        train(run.config, directory)
        assert directory.record()["flops"] == run.flops

    def test_planned_flops_are_recorded_flops_of_trunks_and_branches(self, told, swept):
        spec, out = swept
        planned = {row["run_id"]: row["flops"] for row in told(spec)["runs"]}
        assert dict(load(out)[["run_id", "flops"]].to_numpy().tolist()) == planned

    @pytest.mark.slow
    def test_a_branch_whose_trunk_has_let_its_state_go_costs_all_of_it(
        self, told, swept, tmp_path, monkeypatch, in_process_backend
    ):
        spec, finished = swept
        out, longer = tmp_path / "out", "design.tokens=[1e4, 2e4, 3e4, 4e4, 8e4]"
        shutil.copytree(finished, out)
        found = told(spec, "--set", longer, "--out", out, "--no-expect")
        new = [run for run in found["runs"] if not run["done"]]
        assert len(new) == 2
        assert found["left_flops"] == sum(run["flops"] for run in new)
        monkeypatch.setattr(session, "RayBackend", in_process_backend)
        before = Accounts(out / "accounts.jsonl").totals()["flops_kept"]
        run_study(load_spec(spec, [longer, "holdout=null"]), out)
        assert Accounts(out / "accounts.jsonl").totals()["flops_kept"] - before == found["left_flops"]

    def test_a_branch_begins_from_a_state_that_is_there(self, told, swept, tmp_path):
        spec, finished = swept
        out, longer = tmp_path / "out", ["design.tokens=[1e4, 2e4, 3e4, 4e4, 8e4]", "holdout=null"]
        shutil.copytree(finished, out)
        wanted = load_spec(spec, longer)
        store, new = Store.at(out), [run for run in planned_runs(wanted) if abs(run.tokens - 3e4) < 128]
        one, other = (run.own_flops for run in new)
        store.write_spec(wanted)
        trunk = store.run(new[0].trunk.run_id).checkpoint(new[0].branches_at)
        trunk.mkdir(parents=True)
        arguments = [argument for change in longer for argument in ("--set", change)]
        assert told(spec, *arguments, "--out", out, "--no-expect")["left_flops"] == one + new[1].flops
        done, planned = status(out).flops
        assert planned - done == one + new[1].flops
        trunk.rmtree()
        store.run(new[1].config.run_id).checkpoint(new[1].branches_at + 128).mkdir(parents=True)
        assert told(spec, *arguments, "--out", out, "--no-expect")["left_flops"] == new[0].flops + other, "it has begun"

    def test_what_a_sequence_has_chosen_is_part_of_its_plan(self, told, tmp_path):
        (tmp_path / "spec.yaml").write_text(SEQUENCE)
        spec, out = resolve_spec(load_spec(tmp_path / "spec.yaml")), tmp_path / "out"
        start = told(tmp_path / "spec.yaml", "--out", out, "--no-expect")
        spent = sum(run["flops"] for run in start["runs"] if run["role"] == "fit")
        assert start["open_flops"] == pytest.approx(1e11 - spent)
        chosen = [run_of(spec, 8, 4e9, 0), run_of(spec, 12, 4e9, 0)]
        Store.at(out)
        ChosenRuns(out, spec).add(chosen, Progress(0.01, spent, None))
        found = told(tmp_path / "spec.yaml", "--out", out, "--no-expect")
        assert {run["run_id"] for run in found["runs"]} >= {run.config.run_id for run in chosen}
        assert found["open_flops"] == pytest.approx(start["open_flops"] - sum(run.flops for run in chosen))
        assert found["total_flops"] == pytest.approx(start["total_flops"])
        ChosenRuns(out, spec).end(Progress(0.001, spent, "it is narrow enough"))
        ended = told(tmp_path / "spec.yaml", "--out", out, "--no-expect")
        assert ended["open_flops"] == 0
        assert ended["total_flops"] == sum(run["own_flops"] for run in ended["runs"])

    def test_a_family_is_known_without_making_a_config_of_every_run(self, spec_file, tmp_path, monkeypatch):
        runs, made = planned_runs(load_spec(spec_file())), []
        for i, run in enumerate(runs):
            directory = RunDirectory(epath.Path(tmp_path / "runs" / run.config.run_id))
            directory.write_config(run.config)
            directory.write_record({"status": "done", "params": run.params, "tokens": run.tokens, "loss": 2 + i / 100})
        other = runs[0].config.model_copy(update={"data": runs[0].config.data.model_copy(update={"seed": 9})})
        for name, config in (("other", other.model_dump_json()), ("older", "{}"), ("damaged", "[")):
            RunDirectory(epath.Path(tmp_path / "runs" / name)).write_config(runs[0].config)
            (tmp_path / "runs" / name / "config.json").write_text(config)
            (tmp_path / "runs" / name / "record.json").write_text('{"status": "done", "loss": 9}')
        validated = RunConfig.model_validate_json
        monkeypatch.setattr(RunConfig, "model_validate_json", lambda text: made.append(text) or validated(text))
        prior = prior_of_store(tmp_path, runs[0].config, "params")
        assert f"the law of the {len(runs)} runs of this data and family" in prior.description
        assert len(made) <= 2

    def test_speed_is_that_of_runs_like_them(self, told, spec_file, tmp_path):
        """Accounts of runs that took a tenth of a second each and 3 ms a step."""
        spec, out = spec_file(), tmp_path / "out"
        runs = planned_runs(load_spec(spec))
        for number, run in enumerate(runs[::2]):
            RunDirectory(epath.Path(out / "runs" / run.config.run_id)).write_config(run.config)
            seconds = 0.1 + 0.003 * run.config.training.steps
            settled = {"run_id": run.config.run_id, "accelerator": "cpu", "pool": "cpu", "chips": 1, "seconds": seconds}
            settled |= {"attempt": number, "slot": "cpu-0", "started": 0.0, "device_us": int(seconds * 1e6), "usd": 0.0}
            row = {
                "kind": "settled",
                **settled,
                "flops_kept": int(run.flops),
                "flops_lost": 0,
                "utilisation": 0.1,
                "outcome": "finished",
            }
            append_row(epath.Path(out / "accounts.jsonl"), row)
        for row in told(spec, "--out", out)["runs"]:
            assert row["speed"] == "measured"
            assert row["seconds"] == pytest.approx(0.1 + 0.003 * row["steps"], rel=0.1)
        wide = told(spec, "--out", out, "--set", "model.context=128", "--set", "training.batch_tokens=1280")
        assert {row["speed"] for row in wide["runs"]} == {"catalogue"}


class TestCaps:
    @pytest.mark.parametrize(
        ("cap", "says"),
        [
            (
                "max_flops=1e9",
                "caps.max_flops: the sweep would stop there: what is left takes .* FLOPs, and 1e.09 FLOPs",
            ),
            ("max_usd=0.001", r"caps.max_usd: .*, and \$0.001000 are left; raise it"),
            ("max_device_hours=1e-6", "caps.max_device_hours: .* device-hours are left"),
            ("max_wall=1e-6", "caps.max_wall: .* hours are left"),
        ],
    )
    def test_where_a_cap_would_stop_the_sweep_is_said(self, told, spec_file, cap, says):
        spec = spec_file({"name: tiny": "name: tiny\npools: {lab: {accelerator: h100, usd_per_chip_hour: 1000}}"})
        assert not [text for text in told(spec, "--no-expect")["warnings"] if "caps." in text]
        (warning,) = [text for text in told(spec, "--no-expect", "--set", f"caps.{cap}")["warnings"] if "caps." in text]
        assert re.fullmatch(f"{says}.*", warning), warning

    def test_what_is_spent_counts(self, told, swept):
        spec, out = swept
        left = told(spec, "--no-expect")["left_flops"]
        assert not [
            text for text in told(spec, "--no-expect", "--set", f"caps.max_flops={left}")["warnings"] if "caps." in text
        ]
        more = ["--no-expect", "--set", f"caps.max_flops={left}", "--set", "design.seeds=[0, 1]", "--out", out]
        (warning,) = [text for text in told(spec, *more)["warnings"] if "caps." in text]
        assert "0 FLOPs are left" in warning


def test_a_thousand_runs_are_planned_without_what_is_slow_to_import(spec_file):
    seeds = f"design.seeds={list(range(85))}"
    code = (
        "import sys, json\nfrom nextscale.sweeps.commands.app import main\n"
        f"try: main(['plan', {str(spec_file())!r}, '--set', {seeds!r}])\nexcept SystemExit as e: assert not e.code\n"
        "assert not {'jax', 'ray', 'pandas', 'scipy'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "1023 runs" in ended.stdout


def test_a_run_of_its_own_pool_is_where_the_schedule_has_it(spec_file):
    spec = load_spec(spec_file(), ["pools={slow: {accelerator: l4}, fast: {accelerator: h100, slices: 2}}"])
    found = plan_sweep(spec, simulate=False)
    assert sum(pool["runs"] for pool in found.pools) == len(found.runs)
    assert all(pool["runs"] for pool in found.pools)
    alone = plan_sweep(spec.model_copy(update={"pools": {"slow": spec.pools["slow"]}}), simulate=False)
    assert found.wall_seconds < alone.wall_seconds
    assert np.isclose(alone.wall_seconds, sum(run["seconds"] for run in alone.runs))
    assert dataclasses.asdict(found)["name"] == "tiny"
