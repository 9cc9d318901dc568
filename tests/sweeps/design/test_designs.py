"""Designs: which runs a spec comes to."""

import itertools
import json
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nextscale.model.accounting import flops_per_token, non_embedding_parameters, parameters
from nextscale.sweeps import SweepSpec
from nextscale.sweeps.design.expand import planned_runs, resolve_spec
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.plan import plan
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.spec.designs import Range
from nextscale.sweeps.spec.rules import HorizonRule

WINDOWS = {"[1.0e+9, 2e9, 4e9]": "{from: 1e10, to: 1e12, count: 4}", "1.2e10": "1e13"}
WIDTHS = "widths: [[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]"
LADDER = {
    "isoflop": "ladder",
    "flops: [1.0e+9, 2e9, 4e9]": "tokens_per_param: [20, 40, 80]",
    WIDTHS: "widths: [8, 12, 16]",
    "flops: 1.2e10": "flops: 1e11",
    "batch_tokens: 128": "batch_tokens: 32",
}


def fitted(spec):
    return [run for run in planned_runs(spec) if run.role == "fit"]


def by_budget(spec):
    runs = {}
    for run in fitted(spec):
        runs.setdefault(run.budget, []).append(run)
    return runs


class TestIsoFlop:
    def test_runs_cost_what_their_budget_says(self, spec_file):
        runs = planned_runs(load_spec(spec_file()))
        assert len(runs) == 15
        assert [run.role for run in runs].count("holdout") == 3
        assert all(run.flops == pytest.approx(run.budget, rel=0.01) for run in runs)
        assert len({run.config.run_id for run in runs}) == 15

    def test_seeds_repeat_every_fitted_run(self, spec_file):
        runs = planned_runs(load_spec(spec_file(), ["design.seeds=[0, 1]"]))
        assert len(runs) == 2 * 12 + 3

    def test_the_horizon_rule(self):
        rule = HorizonRule(rule="horizon", base=0.015, floor=0.008)
        assert rule(None, 500, 256) == 0.015
        assert rule(None, 500 * 16, 256) == 0.008
        assert rule(None, 1000, 256) == pytest.approx(0.015 * 0.5**0.25)

    def test_the_plan_adds_up_and_reviews(self, spec_file):
        runs = planned_runs(load_spec(spec_file(), ["holdout.flops=1e11"]))
        found = plan(runs)
        assert found.total_flops == sum(run.flops for run in runs)
        assert any("25 times the largest budget" in warning for warning in found.warnings)
        assert any("fewer than 400 steps" in warning for warning in found.warnings)


class TestWindows:
    @given(
        st.floats(1e11, 1e24),
        st.integers(1, 7),
        st.sampled_from([2.0, 3.0, 6.0]),
        st.sampled_from(["rope", "alibi"]),
        st.sampled_from([{}, {"heads": 6}, {"rule": 16}, {"rule": 128, "kv_heads": 2}]),
    )
    @settings(max_examples=40, deadline=None)
    def test_sizes_hit_their_budget_about_the_centre(self, budget, sizes, span, position, heads):
        big = budget > 1e17
        model = {"position": position, "context": 1024 if big else 64, "depth": {"rule": "aspect", "ratio": 32}}
        if "rule" in heads:
            model["heads"] = {"rule": "head_width", "width": heads["rule"]}
        model |= {name: heads[name] for name in ("heads", "kv_heads") if name in heads}
        try:
            spec = SweepSpec(
                name="windows",
                data={"source": "markov", "vocab": 64},
                model=model,
                training={"batch_tokens": 2**15 if big else 64, "lr": 0.01},
                design={"kind": "isoflop", "flops": [budget], "sizes": sizes, "span": span},
            )
            runs = fitted(spec)
        except SpecError as error:
            assert "there are only" in str(error) or "for only" in str(error)
            assume(False)
        assert len({run.config.model.width for run in runs}) == len(runs) == sizes
        for run in runs:
            one = run.config.model
            assert one.width % one.heads == 0
            assert one.heads % (one.kv_heads or 1) == 0
            if position == "rope":
                assert one.width // one.heads % 2 == 0
            if run.config.training.steps >= 50:
                assert abs(run.flops / budget - 1) <= 0.01
        middle = math.exp(sum(math.log(run.params) for run in runs) / sizes)
        # Where widths lie close, and one in the middle: those of wide heads lie 128 or 256 apart.
        if budget > (1e19 if heads.get("rule") == 128 else 1e17) and sizes in (3, 5, 7):
            assert middle * 20 == pytest.approx(budget / flops_per_token(runs[sizes // 2].config.model), rel=0.6)
            assert runs[-1].params / runs[0].params < span**2 * 2

    def test_each_budget_has_its_own_and_the_spacing_is_even(self, spec_file):
        changes = WINDOWS | {WIDTHS: "sizes: 5", "heads: 2": "heads: 1", "depth: 1": "depth: 2"}
        groups = by_budget(load_spec(spec_file(changes)))
        assert list(groups) == [1e10, pytest.approx(4.64159e10), pytest.approx(2.15443e11), 1e12]
        optima = []
        for budget, runs in groups.items():
            sizes = [math.log(run.params) for run in runs]
            gaps = [b - a for a, b in itertools.pairwise(sizes)]
            assert max(gaps) < 2 * min(gaps)
            assert sizes[-1] - sizes[0] == pytest.approx(2 * math.log(3), rel=0.15)
            optima.append(sizes[2])
            assert runs[2].tokens / runs[2].params == pytest.approx(20, rel=0.35), budget
        assert optima == sorted(optima)

    @pytest.mark.parametrize("members", [1, 2])
    def test_a_law_fitted_before_says_where(self, spec_file, tmp_path, members):
        """N* of L = E + A/N^α + B/D^β, found on a fine grid of the true costs; and of a consensus of it with itself."""
        law = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
        card = tmp_path / "card.json"
        changes = WINDOWS | {WIDTHS: f"sizes: 5\n  centre: {{law: '{card}'}}"}
        for convention, count in (("total", parameters), ("non_embedding", non_embedding_parameters)):
            told = {
                "law": {"name": "chinchilla"},
                "data": {"params_convention": convention},
                "parameters": {name: {"value": value, "interval": None} for name, value in law.items()},
            }
            if members > 1:
                one = {"law": "chinchilla", "weight": 1 / members, "parameters": law}
                told |= {"law": {"name": "consensus", "members": [one] * members}, "parameters": {}}
            card.write_text(json.dumps(told))
            spec = load_spec(spec_file(changes))
            for budget, runs in by_budget(spec).items():
                models = [spec.model.at(width, 16) for width in range(2, 400, 2)]
                best = min(
                    models,
                    key=lambda m: 400 / count(m) ** 0.34 + 410 / (budget / flops_per_token(m)) ** 0.28,
                )
                assert 0.7 < runs[2].config.model.width / best.width < 1.4

    def test_a_power_of_compute_says_where(self, spec_file):
        text = "sizes: 3\n  span: 1.5\n  centre: {params: 2e4, flops: 1e11, exponent: 0.6}"
        for budget, (_, run, _) in by_budget(load_spec(spec_file(WINDOWS | {WIDTHS: text}))).items():
            assert run.params == pytest.approx(2e4 * (budget / 1e11) ** 0.6, rel=0.15)

    def test_what_is_run_does_not_change_with_the_card(self, spec_file, tmp_path):
        """A sweep goes on as it began, whatever became of what it was centred on."""
        card = tmp_path / "card.json"
        told = {"law": {"name": "chinchilla"}, "data": {"params_convention": "total"}}
        values = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
        card.write_text(json.dumps(told | {"parameters": {k: {"value": v} for k, v in values.items()}}))
        spec = resolve_spec(load_spec(spec_file(WINDOWS | {WIDTHS: f"sizes: 5\n  centre: {{law: '{card}'}}"})))
        before = [run.config.run_id for run in planned_runs(spec)]
        card.unlink()
        again = SweepSpec.model_validate_json(spec.model_dump_json())
        assert [run.config.run_id for run in planned_runs(again)] == before

    @pytest.mark.parametrize(
        "content, says",
        [
            (None, r"card\.json: cannot be read \(No such file"),
            ("{", "is no fit card"),
            ("[]", "is no fit card"),
            ('{"law": {"name": "chinchilla"}, "data": {"params_convention": "total"}, "parameters": {}}', "its law is"),
            ('{"law": {"name": "kaplan-n"}, "data": {"params_convention": "total"}, "parameters": {}}', "its law is k"),
            (
                '{"law": {"name": "chinchilla"}, "data": {"params_convention": "total"}, "parameters": '
                '{"E": {"value": 1}, "A": {"value": 0}, "B": {"value": 1}, "alpha": {"value": 1}, '
                '"beta": {"value": 1}}}',
                "zero or no number",
            ),
        ],
    )
    def test_a_card_that_is_none(self, spec_file, tmp_path, content, says):
        card = tmp_path / "card.json"
        if content is not None:
            card.write_text(content)
        path = spec_file(WINDOWS | {WIDTHS: f"sizes: 5\n  centre: {{law: '{card}'}}"})
        with pytest.raises(SpecError, match=rf"spec\.yaml:12: design\.centre\.law: .*{says}"):
            load_spec(path)


class TestRanges:
    @given(st.floats(1e-6, 1e20), st.floats(1.1, 1e12), st.integers(2, 50))
    def test_they_rise_evenly_in_log_from_end_to_end(self, start, ratio, count):
        values = Range(**{"from": start, "to": start * ratio, "count": count}).values
        assert (len(values), values[0], values[-1]) == (count, start, start * ratio)
        step = ratio ** (1 / (count - 1))
        assert all(b / a == pytest.approx(step, rel=3e-5) for a, b in itertools.pairwise(values))

    def test_decades_are_round(self):
        assert Range(**{"from": 1e18, "to": 1e21, "count": 4}).values == [1e18, 1e19, 1e20, 1e21]


class TestLadder:
    def test_every_size_at_every_ratio(self, spec_file):
        runs = fitted(load_spec(spec_file(LADDER)))
        assert {run.config.model.width for run in runs} == {8, 12, 16}
        assert sorted(round(run.tokens / run.params) for run in runs) == [20] * 3 + [40] * 3 + [80] * 3
        assert not any(run.isoflop for run in runs)
        assert not any("sizes at" in warning for warning in plan(runs).warnings)

    def test_sizes_by_parameters(self, spec_file):
        spec = load_spec(spec_file(LADDER | {"widths: [8, 12, 16]": "params: {from: 1e3, to: 1e4, count: 4}"}))
        sizes = sorted({run.params for run in fitted(spec)})
        assert len(sizes) == 4
        assert all(0.6 < size / target < 1.6 for size, target in zip(sizes, (1e3, 2154, 4641, 1e4), strict=True))

    def test_seeds(self, spec_file):
        runs = fitted(load_spec(spec_file(LADDER), ["design.seeds=[3, 4]"]))
        assert [run.config.seed for run in runs].count(4) == len(runs) / 2 == 9


class TestHoldout:
    def test_by_tokens_per_parameter(self, spec_file):
        path = spec_file(LADDER | {"flops: 1e11, widths: [12, 16, 24]": "tokens_per_param: 40, widths: [24, 32]"})
        runs = [run for run in planned_runs(load_spec(path)) if run.role == "holdout"]
        assert [run.config.model.width for run in runs] == [24, 32]
        assert all(run.tokens / run.params == pytest.approx(40, rel=0.01) for run in runs)

    def test_a_larger_model_is_a_next_scale_though_it_costs_less(self, spec_file):
        path = spec_file(LADDER | {"flops: 1e11, widths: [12, 16, 24]": "tokens_per_param: 20, widths: [18]"})
        *_, last = planned_runs(load_spec(path))
        assert last.role == "holdout"
        assert last.budget < max(run.budget for run in fitted(load_spec(path)))


@pytest.mark.parametrize(
    "design",
    [
        "kind: isoflop\n  sizes: 100\n  flops: {from: 1e9, to: 1e30, count: 1000}\n  seeds: [0, 1]",
        "kind: ladder\n  params: {from: 1e3, to: 1e9, count: 1000}\n  tokens_per_param: {from: 1, to: 9, count: 1000}",
        "kind: grid\n  axes: {model.width: [8], tokens: {from: 1, to: 2, count: 1000}, training.lr: {from: 1, to: 2, "
        "count: 1000}, training.warmup: {from: 0.1, to: 0.2, count: 1000}}",
        "kind: grid\n  axes:\n    model.width: [8]\n    tokens: [1]\n"
        + "".join(f"    training.x{i}: {{from: 1, to: 2, count: 1000}}\n" for i in range(120)),
    ],
)
def test_more_runs_than_anybody_trains_are_refused_at_once(spec_file, design):
    path = spec_file({f"kind: isoflop\n  flops: [1.0e+9, 2e9, 4e9]\n  {WIDTHS}": design})
    with pytest.raises(SpecError, match=r"spec\.yaml:8: design: is of .* runs, more than 100000; take fewer values"):
        load_spec(path)
