"""Gates: what a sweep comes to is held against its limits before it is trained, and who let it through is on record."""

import json
import shutil
import types

import pytest

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.hardware.gates import Gates
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.hardware.site import Site
from nextscale.sweeps import load_spec, plan_sweep, planned_runs, run_study
from nextscale.sweeps.design.expand import resolve_spec
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.plan.gates import Approval, Gate, Gatekeeper, by_compute, by_forecast, gates_of
from nextscale.sweeps.report import report
from nextscale.sweeps.run import session
from nextscale.sweeps.spec.site_file import load_site

WHOLE = "max_flops_without_approval"
RUN = "max_run_flops_without_approval"
USD = "max_usd_without_approval"


@pytest.fixture
def spec_at(swept, tmp_path):
    """The spec of a small sweep, with gates: a file whose last line they are."""

    def write(gates=""):
        (tmp_path / "spec.yaml").write_text(swept[0].read_text() + (f"gates: {{{gates}}}\n" if gates else ""))
        return tmp_path / "spec.yaml"

    return write


@pytest.fixture
def costs(spec_at):
    """FLOPs of all runs, of those before the held-out ones, and of the largest of each."""
    runs = planned_runs(resolve_spec(load_spec(spec_at())))
    fitted = [run for run in runs if run.role == "fit"]
    return {
        "whole": sum(run.own_flops for run in runs),
        "early": sum(run.own_flops for run in fitted),
        "largest": max(run.flops for run in runs),
        "first": max(run.flops for run in fitted),
    }


@pytest.fixture
def ran(swept, tmp_path, monkeypatch, in_process_backend):
    """Runs a spec; tells the summary and what is in the ledger. A run that the small sweep has had is taken from it."""

    def trained_before(job):
        known = swept[1] / "runs" / job.run_id
        if known.exists():
            shutil.copytree(known, job.directory, dirs_exist_ok=True)

    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    monkeypatch.setattr(in_process_backend, "before", staticmethod(trained_before))
    monkeypatch.setattr(report.Report, "write", lambda *_: None)  # a second each, and of no matter here

    def run(spec, *overrides, approve=None, out="out"):
        approval = None if approve is None else Approval.of(approve)
        summary = run_study(load_spec(spec, overrides), tmp_path / out, site=Site(), approval=approval)
        return summary, Ledger(tmp_path / out / "ledger.jsonl").entries()

    return run


class TestWhatIsCrossed:
    @pytest.mark.parametrize("name, whole, early", [(WHOLE, "whole", "early"), (RUN, "largest", "first")])
    def test_compute_is_that_of_the_plan_to_the_last_flop(self, spec_at, costs, name, whole, early):
        for limit, crossed, at_once in (
            (costs[whole], False, False),
            (costs[whole] - 1, True, False),
            (costs[early], True, False),
            (costs[early] - 1, True, True),
        ):
            (told,) = plan_sweep(load_spec(spec_at(f"{name}: {limit!r}")), site=Site(), simulate=False).gates
            assert (told["value"], told["crossed"], told["at_once"]) == (costs[whole], crossed, at_once)

    def test_branches_count_what_is_trained_and_a_run_all_that_made_it(self, swept):
        spec, _ = swept
        found = plan_sweep(load_spec(spec, [f"gates.{WHOLE}=1", f"gates.{RUN}=1"]), site=Site(), simulate=False)
        whole, run = found.gates
        assert whole["value"] == found.total_flops < sum(row["flops"] for row in found.runs)
        assert run["value"] == max(row["flops"] for row in found.runs)

    def test_of_a_sequence_it_is_all_that_it_may_spend(self):
        spec = resolve_spec(load_spec("sequential"))
        planned = planned_runs(spec)
        held_out = sum(run.flops for run in planned if run.role == "holdout")
        gates = gates_of(spec.gates.model_copy(update={WHOLE: 1.0, RUN: 1.0}), spec.gates)
        whole, run = by_compute(gates, spec, planned)
        assert (whole.value, whole.early) == (spec.design.flops + held_out, spec.design.flops)
        assert run.early == (spec.design.largest or spec.holdout.flops / 4)
        assert whole.value == plan_sweep(spec, site=Site(), simulate=False).total_flops

    def test_dollars_are_those_of_the_plan(self, spec_at):
        pools = ["pools={lab: {accelerator: h100, usd_per_chip_hour: 3}}"]
        found = plan_sweep(load_spec(spec_at(f"{USD}: 1e-9"), pools), site=Site(), simulate=False)
        assert found.gates[0]["value"] == pytest.approx(sum(row["usd"] for row in found.runs))
        assert "the sweep costs about $" in found.warnings[0]

    def test_where_nothing_has_a_price_no_gate_in_dollars_can_hold(self, spec_at, ran):
        said = r"max_usd_without_approval: pool \w+ has no price"
        found = plan_sweep(load_spec(spec_at(f"{USD}: 5")), site=Site(), simulate=False)
        assert "has no price, so no gate in dollars can hold" in found.warnings[0]
        with pytest.raises(SpecError, match=said):
            ran(spec_at(f"{USD}: 5"))


class TestSites:
    @pytest.fixture
    def site(self, tmp_path):
        def build(text):
            (tmp_path / "site.yaml").write_text(text)
            return load_site(tmp_path / "site.yaml")

        return build

    @pytest.mark.parametrize("of_spec, of_site, by", [(1e9, 2e9, "spec"), (2e9, 1e9, "site")])
    def test_the_stricter_of_spec_and_site_holds_and_says_where_it_is(self, spec_at, site, of_spec, of_site, by):
        spec = load_spec(spec_at(f"{WHOLE}: {of_spec}"))
        (gate,) = gates_of(spec.gates, site(f"gates:\n  {WHOLE}: {of_site}\n").gates)
        assert gate.limit == 1e9
        assert gate.written.endswith({"spec": "spec.yaml:9", "site": "site.yaml:2"}[by])

    def test_of_losses_the_higher_is_the_stricter(self, spec_at, site):
        spec, strict = load_spec(spec_at("loss_below: 1.5")), site("gates: {loss_below: 1.9}")
        assert [gate.limit for gate in gates_of(spec.gates, strict.gates)] == [1.9]

    def test_a_spec_cannot_lift_what_a_site_says(self, spec_at, site):
        spec = load_spec(spec_at(f"{WHOLE}: 1e30"), [f"gates.{WHOLE}=1e35"])
        (gate,) = gates_of(spec.gates, site(f"gates: {{{WHOLE}: 1e9}}").gates)
        assert gate.limit == 1e9

    def test_a_mistake_is_one_line_with_its_place(self, site):
        with pytest.raises(SpecError, match=r"site.yaml:1: gates.max_flop.*unknown key; did you mean"):
            site("gates: {max_flop_without_approval: 1e9}")


class TestRuns:
    def test_nothing_is_trained_until_it_is_approved_and_then_all_of_it_once(self, spec_at, ran, costs):
        spec = spec_at(f"{WHOLE}: 10")
        summary, entries = ran(spec)
        assert summary["runs"]["done"] == 0 and entries == []
        assert summary["waits_for_approval"] and summary["problem"] is None
        assert f"spec.yaml:9: gates.{WHOLE}: the sweep takes" in summary["stopped_by"]
        assert "\n" not in summary["stopped_by"]
        summary, entries = ran(spec, approve="the board asked for it")
        assert summary["runs"] == {"done": 10, "reused": 0, "failed": 0}
        assert not summary["waits_for_approval"] and summary["stopped_by"] is None
        approval, forecast, _ = entries
        assert [entry["kind"] for entry in entries] == ["approval", "forecast", "score"]
        assert (approval["value"], approval["limit"]) == (costs["whole"], 10)
        assert approval["reason"] == "the board asked for it"
        assert "@" in approval["by"]
        assert forecast["previous"] == approval["hash"], "in the chain like every entry"

    @pytest.mark.slow
    def test_the_forecast_comes_first_where_only_the_held_out_scale_crosses(self, spec_at, ran, costs):
        spec = spec_at(f"{RUN}: {costs['first']!r}")
        summary, entries = ran(spec)
        assert summary["runs"]["done"] == 8 and summary["waits_for_approval"]
        assert "the held-out runs are not trained until" in summary["stopped_by"]
        assert [entry["kind"] for entry in entries] == ["forecast"]
        assert summary["holdout"][0]["predicted"] and summary["holdout"][0]["measured"] is None
        summary, entries = ran(spec, approve="seen, and expected")
        assert [entry["kind"] for entry in entries] == ["forecast", "approval", "score"]
        assert summary["runs"] == {"done": 10, "reused": 8, "failed": 0}

    @pytest.mark.slow
    def test_a_loss_is_held_against_the_forecast_that_was_written_down(self, spec_at, swept, ran):
        known, _ = Ledger(swept[1] / "ledger.jsonl").entries()
        low = min(target["interval"][0] for target in known["targets"])
        for limit, crossed in ((low * 0.999, False), (low * 1.001, True)):
            spec = spec_at(f"loss_below: {limit!r}")
            (gate,) = by_forecast(gates_of(load_spec(spec).gates, Gates()), known)
            assert gate.crossed is crossed
        summary, entries = ran(spec)
        assert [entry["kind"] for entry in entries] == ["forecast"]
        assert f"interval [{low:.4f}, " in summary["stopped_by"]
        assert summary["runs"]["done"] == 8
        _, entries = ran(spec, approve="read it")
        forecast, approval, _ = entries
        assert (approval["value"], approval["forecast"]) == (low, forecast["hash"])
        assert approval["forecast_seen"]

    @pytest.mark.slow
    def test_going_on_asks_no_second_time_and_a_larger_plan_does(
        self, spec_at, ran, tmp_path, monkeypatch, in_process_backend
    ):
        spec = spec_at(f"{WHOLE}: 10")

        def pulled(job):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(in_process_backend, "before", staticmethod(pulled))
            ran(spec, approve="a try")
        summary, entries = ran(spec)
        assert summary["runs"]["done"] == 10
        assert [entry["kind"] for entry in entries] == ["approval", "forecast", "score"]
        path = tmp_path / "out" / "ledger.jsonl"
        path.write_text((kept := path.read_text()).replace('"reason": "a try"', '"reason": "an order"'))
        with pytest.raises(SpecError, match="is not as it was written"):
            ran(spec)
        path.write_text(kept)
        larger, _ = ran(spec, "design.seeds=[0, 1]")
        assert larger["waits_for_approval"] and larger["runs"]["done"] == 10

    @pytest.mark.parametrize(
        "name, value, covered",
        [
            *((WHOLE, 1e20, True), (WHOLE, 1.01e20, False), (RUN, 1.01e20, False)),
            *((USD, 1.09e20, True), (USD, 1.11e20, False)),
            *(("loss_below", 1e20, True), ("loss_below", 0.99e20, False)),
        ],
    )
    def test_an_approval_covers_what_was_approved_and_dollars_as_their_estimate_moves(self, name, value, covered):
        assert Gate(name, 1.0, "here", value=value).covered_by({"value": 1e20}) is covered

    def test_what_is_done_is_not_asked_for(self, spec_at, swept, ran, tmp_path):
        shutil.copytree(swept[1], tmp_path / "out")
        summary, _ = ran(spec_at(f"{WHOLE}: 10"))
        assert not summary["waits_for_approval"] and summary["runs"]["reused"] == 10

    def test_gates_change_neither_runs_nor_sweep(self, spec_at, ran, tmp_path):
        plain, gated = (load_spec(spec_at(gates)) for gates in ("", f"{WHOLE}: 1e30"))
        names = [[run.config.run_id for run in planned_runs(resolve_spec(spec))] for spec in (plain, gated)]
        assert names[0] == names[1]
        ran(spec_at(f"{WHOLE}: 10"))
        ran(spec_at(f"{WHOLE}: 20"))
        (kept,) = (tmp_path / "out" / "sweeps").glob("*.json")
        assert json.loads(kept.read_text())["gates"][WHOLE] == 20


class TestCommand:
    def test_a_refusal_is_one_line_and_exit_code_3(self, called, spec_at, tmp_path):
        code, out, err = called("run", spec_at(f"{WHOLE}: 10"), "--out", tmp_path / "o", "--json")
        assert code == 3
        assert err.strip().startswith("nextscale: ") and err.strip().count("\n") == 0
        assert json.loads(out)["waits_for_approval"]
        code, _, left = called("run", spec_at(f"{WHOLE}: 10"), "--out", tmp_path / "o", "--detach")
        assert (code, left.strip()) == (3, err.strip()), "asked before it is left alone"
        assert not (tmp_path / "o" / "controller.log").exists()

    def test_status_names_the_gates_that_it_waits_at_until_they_are_approved(
        self, called, spec_at, ran, tmp_path, costs
    ):
        spec, out = spec_at(f"{WHOLE}: 10, {RUN}: 20"), tmp_path / "out"
        refused, _ = ran(spec)
        told = json.loads(called("status", out, "--json")[1])["waits_for"]
        assert [name in text for name, text in zip((WHOLE, RUN), told, strict=True)] == [True, True]
        assert all(text in refused["stopped_by"] for text in told), "both are named there too"
        _, said, _ = called("status", out)
        for figure in (f"takes {costs['whole']:.4g} FLOPs in all, more than 10", f"takes {costs['largest']:.4g} FLOPs"):
            assert figure.replace("e+0", "e") in said
        assert f"nextscale run SPEC --out {out} --approve REASON" in said
        gates = [Gate.from_dict(gate) for gate in refused["waiting_gates"]]
        shutil.copytree(out, tmp_path / "went on")
        accounts = Accounts(tmp_path / "went on" / "accounts.jsonl", clock=lambda: 0.0)
        accounts.reserve("r", "s", Seat("p"), "cpu", 0, 1.0, 1)
        accounts.close()
        (tmp_path / "went on" / "summary.json").touch()
        assert json.loads(called("status", tmp_path / "went on", "--json")[1])["waits_for"] == []
        Gatekeeper(Ledger(out / "ledger.jsonl"), "swept", Approval.of("fine")).waiting(gates, "fit")
        assert json.loads(called("status", out, "--json")[1])["waits_for"] == []

    def test_an_approval_needs_a_reason(self, called, spec_at):
        code, _, err = called("run", spec_at(f"{WHOLE}: 10"), "--approve", " ")
        assert code == 2
        assert "say why" in err and err.count("\n") == 1

    def test_what_is_left_alone_carries_its_approval(self, called, spec_at, tmp_path, monkeypatch):
        started = []
        process = types.SimpleNamespace(pid=1)
        monkeypatch.setattr("subprocess.Popen", lambda command, **_: started.append(command) or process)
        out = tmp_path / "o"
        code, _, err = called("run", spec_at(f"{WHOLE}: 10"), "--out", out, "--detach", "--approve", "night shift")
        assert code in (0, None), err
        (command,) = started
        assert command[command.index("--approve") + 1] == "night shift"
        (approval,) = Ledger(out / "ledger.jsonl").entries()
        assert command[command.index("--approved-by") + 1] == approval["by"]

    def test_the_plan_warns_and_the_ledger_shows(self, called, spec_at, ran, tmp_path):
        spec = spec_at(f"{WHOLE}: 10, loss_below: 100")
        _, text, _ = called("plan", spec, "--out", tmp_path / "out", "--no-expect", "--json")
        whole, loss = json.loads(text)["gates"]
        assert whole["crossed"] and whole["at_once"] and whole["approved"] is None
        assert loss["value"] is None and not loss["crossed"]
        _, entries = ran(spec, approve="for the paper")
        assert [entry["kind"] for entry in entries] == ["approval", "forecast", "approval", "score"]
        assert [entries[i]["forecast_seen"] for i in (0, 2)] == [None, False], "approved before there was a forecast"
        _, text, _ = called("plan", spec, "--out", tmp_path / "out", "--no-expect", "--json")
        whole, loss = json.loads(text)["gates"]
        assert whole["approved"] == entries[0]["hash"]
        assert loss["approved"] == entries[2]["hash"]
        _, text, _ = called("ledger", tmp_path / "out", "--json")
        shown, _ = json.loads(text)["approvals"]
        assert (shown["reason"], shown["gate"]) == ("for the paper", WHOLE)
        _, text, _ = called("ledger", tmp_path / "out")
        assert "for the paper" in text and "not yet seen" in text
