"""How models and training follow from size: depth and heads, learning rate, batch and decay."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.model import rules
from nextscale.model.accounting import non_embedding_parameters, parameters
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.spec.sweep_model import SweepModel


class TestModelOptions:
    def test_they_reach_every_run(self, spec_file):
        options = {"kv_heads": 1, "head_width": 6, "qk_norm": True, "logit_cap": 30.0, "z_loss": 1e-4, "depth": 3}
        overrides = [f"model.{name}={json.dumps(value)}" for name, value in options.items()]
        spec = load_spec(spec_file(), [*overrides, "training.parametrization=completep"])
        for run in planned_runs(spec):
            assert {name: getattr(run.config.model, name) for name in options} == options
            assert run.config.network.residual_multiplier == pytest.approx(2 / 3)

    def test_heads_of_a_width_of_their_own_need_not_divide_the_model(self, spec_file):
        spec = load_spec(spec_file({"[[4, 8": "[[5, 8"}), ["model.head_width=4"])
        assert min(run.config.model.width for run in planned_runs(spec)) == 5


class TestRules:
    def planned(self, spec_file, *overrides):
        spec = load_spec(spec_file(), ["training.parametrization=standard", *overrides])
        return [run.config for run in planned_runs(spec) if run.role == "fit"]

    @pytest.mark.parametrize("name", ["steplaw", "deepseek"])
    def test_published_rates_and_batches_are_those_of_each_run(self, spec_file, name):
        for run in self.planned(spec_file, f"training.lr={{rule: {name}}}", f"training.batch_tokens={{rule: {name}}}"):
            batch, tokens = run.training.batch_tokens, run.tokens
            assert batch % run.model.context == 0
            if name == "steplaw":
                assert run.training.lr == rules.steplaw_lr(non_embedding_parameters(run.model), tokens)
                assert batch == pytest.approx(rules.steplaw_batch(tokens), rel=0.01, abs=run.model.context)
            else:
                compute = rules.deepseek_compute(run.model, tokens)
                assert run.training.lr == rules.deepseek_lr(compute)
                assert batch == pytest.approx(rules.deepseek_batch(compute), rel=0.01, abs=run.model.context)

    def test_the_square_root_rule(self, spec_file):
        (run, *_) = self.planned(spec_file, "training.lr={rule: square_root, base: 0.01, reference_batch_tokens: 32}")
        assert run.training.lr == 0.02

    def test_power_lines_decay_what_the_timescale_says(self, spec_file):
        for run in self.planned(spec_file, "training.weight_decay={rule: power_lines}"):
            remembered = 1 / (run.training.weight_decay * run.training.steps)
            assert remembered == pytest.approx(rules.power_lines_timescale(run.tokens / parameters(run.model)))
        (run, *_) = self.planned(spec_file, "training.weight_decay=0.1")
        assert run.training.weight_decay == 0.1


class TestHeadsOfOneWidth:
    """What follows from a head width that does not grow is told to each run whose numbers it changes, and to no other:
    those keep the names that they had."""

    BY_RULE, THEIR_OWN = 'model.heads={"rule": "head_width", "width": 4}', "model.head_width=4"

    def configs(self, spec_file, parametrization, *model):
        spec = load_spec(spec_file(), [f"training.parametrization={parametrization}", *model])
        return [run.config for run in planned_runs(spec)]

    @pytest.mark.parametrize("model", [BY_RULE, THEIR_OWN])
    @pytest.mark.parametrize("parametrization", ["mup-1/d", "completep"])
    def test_their_scores_are_multiplied_by_one(self, spec_file, parametrization, model):
        configs = self.configs(spec_file, parametrization, model)
        assert len({config.model.width for config in configs}) > 3
        assert {config.network.scores_multiplier for config in configs} == {1.0}

    @pytest.mark.parametrize(
        "parametrization, model",
        [
            ("standard", BY_RULE),
            ("standard", THEIR_OWN),
            ("mup", BY_RULE),
            ("mup", "model.heads=2"),
            ("mup-1/d", "model.heads=2"),
            ("completep", "model.heads=2"),
        ],
    )
    def test_other_runs_keep_their_names(self, spec_file, parametrization, model):
        configs = self.configs(spec_file, parametrization, model)
        assert {config.training.base_head_width for config in configs} == {None}

    def test_what_the_spec_says_comes_first(self, spec_file):
        configs = self.configs(spec_file, "completep", "model.heads=2", "training.base_head_width=16")
        for config in configs:
            assert config.network.scores_multiplier == pytest.approx((16 / (config.model.width / 2)) ** 0.5)


class TestFamily:
    @given(
        st.integers(1, 500),
        st.integers(1, 256),
        st.sampled_from([None, 1, 2, 3]),
        st.sampled_from(["rope", "alibi"]),
        st.floats(0.5, 1000),
    )
    @settings(deadline=None)
    def test_rules_give_models_that_hardware_likes(self, several, head, kv_heads, position, ratio):
        if position == "rope":
            head *= 2
        shape = {"heads": {"rule": "head_width", "width": head}, "depth": {"rule": "aspect", "ratio": ratio}}
        family = SweepModel(kv_heads=kv_heads, position=position, **shape)
        asked = head * (kv_heads or 1)
        for width in (several * asked, several):
            try:
                model = family.at(width, 16)
            except ValueError:
                assert width % asked or max(width / ratio, width / head) > 10_000
                continue
            assert width % model.heads == 0
            assert model.heads % (kv_heads or 1) == 0
            assert position != "rope" or width // model.heads % 2 == 0
            assert model.depth == max(round(width / ratio), 1)
            if width % asked == 0:
                assert width // model.heads == head

    def test_of_a_width_that_no_such_heads_divide_the_nearest_do(self):
        family = SweepModel(heads={"rule": "head_width", "width": 64}, position="alibi")
        assert {width: family.at(width, 16).heads for width in (64, 96, 128, 160, 1000)} == {
            64: 1,
            96: 2,
            128: 2,
            160: 2,
            1000: 20,
        }

    @pytest.mark.parametrize("heads", [3, 4, {"rule": "head_width", "width": 64}])
    def test_friendly_widths_rise_finely_and_are_round_where_they_are_wide(self, heads):
        family = SweepModel(heads=heads)
        widths = family.friendly_widths()
        unit = widths[0]
        assert all(width % unit == 0 for width in widths)
        for a, b in itertools.pairwise(widths):
            assert b - a == unit or 1 / 70 < (b - a) / a < 1 / 31
        wide = [width for width in widths if width > 100 * unit]
        assert all(width % (2 * unit) == 0 for width in wide)

    def test_they_reach_every_run(self, spec_file):
        changes = {"depth: 1, heads: 2": "depth: {rule: aspect, ratio: 8}, heads: {rule: head_width, width: 4}"}
        for run in planned_runs(load_spec(spec_file(changes))):
            width = run.config.model.width
            assert (run.config.model.depth, run.config.model.heads) == (max(round(width / 8), 1), width // 4)

    def test_a_model_by_rule_is_the_model_by_number(self, spec_file):
        """Rules are no part of what a run means."""
        whole = "[[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]"
        one = {whole: "[[16], [16], [16]]", "holdout: {flops: 1.2e10, widths: [12, 16, 24]}\n": ""}
        rules_ = one | {"depth: 1, heads: 2": "depth: {rule: aspect, ratio: 16}, heads: {rule: head_width, width: 8}"}
        by_number, by_rule = (planned_runs(load_spec(spec_file(changes))) for changes in (one, rules_))
        assert [run.config.run_id for run in by_rule] == [run.config.run_id for run in by_number]
