"""Specs: read as people write them, refused in one line that names the line and the way out."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import nextscale.sweeps
from nextscale.model import rules
from nextscale.model.accounting import non_embedding_parameters, parameters
from nextscale.model.branch import same_until
from nextscale.sweeps import documents
from nextscale.sweeps.design import planned_runs
from nextscale.sweeps.errors import MENDABLE, SpecError
from nextscale.sweeps.plan import plan
from nextscale.sweeps.reading import load_spec
from nextscale.sweeps.rules import HorizonRule
from nextscale.sweeps.spec import SweepSpec

MARKOV = "{source: markov, vocab: 16}"
BROKEN = {
    "unknown key": ({"depth: 1": "dept: 1"}, r":3: model\.dept: unknown key; did you mean `depth`\?"),
    "unknown key at the top": ({"training:": "trainning:"}, r":4: trainning: unknown key; did you mean `training`\?"),
    "unknown key of a source": ({"vocab: 16": "vocb: 16"}, r":2: data\.vocb: unknown key; did you mean `vocab`\?"),
    "unknown key of a rule": (
        {"base: 0.02": "bse: 0.02"},
        r":7: training\.lr\.bse: unknown key; did you mean `base`\?",
    ),
    "unknown key of a holdout": ({"{flops: 1.2e10": "{flps: 1"}, r":12: holdout\.flps: unknown key; did you mean `fl"),
    "nothing like a key": ({"heads: 2": "qq: 2"}, r"model\.qq: unknown key; known here: depth, heads"),
    "missing key": ({"  batch_tokens: 128\n": ""}, r":4: training\.batch_tokens: is missing; add it"),
    "missing section": ({"data: {source: markov, vocab: 16, seed: 1}\n": ""}, r"data: is missing; add it"),
    "text for a number": (
        {"batch_tokens: 128": "batch_tokens: many"},
        r":5: training\.batch_tokens: .*integer.*'many'",
    ),
    "a fraction for a count": ({"depth: 1": "depth: 1.5"}, r":3: model\.depth: .*integer.*1\.5"),
    "a list for a number": ({"depth: 1": "depth: [1]"}, r":3: model\.depth: .*integer"),
    "a number for a mapping": (
        {"{depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}": "3"},
        r":3: model: ",
    ),
    "negative": ({"[1.0e+9,": "[-1.0e+9,"}, r":10: design\.flops\.0: should be greater than 0"),
    "not a number": ({"[1.0e+9,": "[.nan,"}, r":10: design\.flops\.0: "),
    "infinite": ({"[1.0e+9,": "[.inf,"}, r":10: design\.flops\.0: "),
    "unknown choice": ({"linear": "liner"}, r":6: training\.schedule: should be 'linear', .* not 'liner'"),
    "unknown source": ({"source: markov": "source: markof"}, r":2: data: needs `source` to be one of"),
    "no source": ({"source: markov, ": ""}, r":2: data: needs `source` to be one of"),
    "unknown rule": (
        {"rule: horizon": "rule: horizn"},
        r":7: training\.lr: needs to be a number, or `rule` to be one of 'horizon', 'square_root', 'steplaw', 'deep",
    ),
    "no rule": ({"rule: horizon, ": ""}, r":7: training\.lr: needs to be a number, or `rule` to be one of 'horizon'"),
    "unknown batch rule": (
        {"batch_tokens: 128": "batch_tokens: {rule: steplw}"},
        r":5: training\.batch_tokens\.rule: should be 'steplaw', 'deepseek' or 'power_lines', not 'steplw'",
    ),
    "a rate for another parametrization": (
        {"{rule: horizon, base: 0.02, floor: 0.008}": "{rule: steplaw}"},
        r":4: training: lr\.rule steplaw gives the rate .* use parametrization standard",
    ),
    "a rate for another optimizer": (
        {
            "linear": "linear\n  optimizer: sgd\n  parametrization: standard",
            "{rule: horizon, base: 0.02, floor: 0.008}": "{rule: deepseek}",
        },
        r":4: training: lr\.rule deepseek is for adamw or muon",
    ),
    "bad rate": (
        {"{rule: horizon, base: 0.02, floor: 0.008}": "0"},
        r":7: training\.lr: should be greater than 0, not 0",
    ),
    "unknown design": ({"kind: isoflop": "kind: grid"}, r":8: design: needs `kind` to be one of 'isoflop', 'wsd'"),
    "unknown key of a design": ({"widths:": "wdths:"}, r":11: design\.wdths: unknown key; did you mean `widths`"),
    "falling budgets": ({"2e9, 4e9]": "4e9, 2e9]"}, r":10: design\.flops: must rise"),
    "uneven design": (
        {"[8, 12, 16, 24], [8, 12, 16, 24]]": "[8, 12, 16, 24]]"},
        r":8: design: has 3 budgets and 2 lists",
    ),
    "no widths": ({"[[4, 8, 12, 16],": "[[],"}, r":11: design\.widths\.0: "),
    "odd heads": ({"[[4, 8": "[[5, 8"}, r":11: design\.widths\.0\.0: width 5 cannot be cut into 2 equal heads"),
    "odd pairs": (
        {"position: alibi": "position: rope", "[[4, 8": "[[6, 8"},
        r":11: design\.widths\.\d\.\d: position rope turns pairs",
    ),
    "a set of another vocabulary": (
        {"{tokens: 8192}": "{sets: {code: {source: markov, vocab: 17}}}"},
        r":13: evaluation\.sets\.code: vocab 17 is not that of the data trained on, 16",
    ),
    "the data as a set": (
        {"{tokens: 8192}": "{sets: {code: {source: markov, vocab: 16, seed: 1}}}"},
        r":13: evaluation\.sets\.code: is the data trained on",
    ),
    "unknown key of a set": (
        {"{tokens: 8192}": "{sets: {code: {source: markov, vocb: 16}}}"},
        r":13: evaluation\.sets\.code\.vocb: unknown key; did you mean `vocab`\?",
    ),
    "unknown source of a set": (
        {"{tokens: 8192}": "{sets: {code: {source: marcov, vocab: 16}}}"},
        r":13: evaluation\.sets\.code: needs `source` to be one of 'dataset', 'markov', 'text', 'tokens'",
    ),
    "a set without a name": (
        {"{tokens: 8192}": "{sets: {'': {source: markov}}}"},
        r":13: evaluation\.sets\.: string should match",
    ),
    "odd key heads": ({"heads: 2": "heads: 4, kv_heads: 3"}, r":3: model: heads 4 cannot share 3 kv_heads equally"),
    "no key heads": (
        {"heads: 2": "heads: 2, kv_heads: 0"},
        r":3: model\.kv_heads: should be greater than or equal to 1",
    ),
    "odd heads of pairs": (
        {"position: alibi": "position: rope, head_width: 5"},
        r":3: model: position rope turns pairs of features, and head_width 5 is odd; make it even",
    ),
    "a cap of nothing": ({"depth: 1": "logit_cap: 0"}, r":3: model\.logit_cap: should be greater than 0"),
    "a negative z-loss": ({"depth: 1": "z_loss: -1e-4"}, r":3: model\.z_loss: should be greater than or equal to 0"),
    "unknown parametrization": (
        {"schedule: linear": "parametrization: mu"},
        r":6: training\.parametrization: should be 'standard', 'mup' or 'completep'",
    ),
    "too small a budget": (
        {"[1.0e+9,": "[1.0e+7,"},
        r":10: design\.flops\.0: 1e\+07 FLOPs train width \d+ for only \d+ steps",
    ),
    "too near a holdout": ({"1.2e10": "3e9"}, r":12: holdout\.flops: must lie above every budget"),
    "uneven batch": ({"128": "130"}, r":5: training\.batch_tokens 130 is not a whole number of sequences"),
    "too few runs": (
        {"[[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]": "[[4], [8], [8]]"},
        r"3 runs cannot fix the 5",
    ),
    "bad name": ({"name: tiny": "name: a/b"}, r":1: name: "),
    "empty name": ({"name: tiny": "name: ''"}, r":1: name: "),
    "a key twice": ({"name: tiny": "name: tiny\nname: other"}, r":2: name: is here twice; keep one"),
    "a nested key twice": ({"heads: 2,": "heads: 2, heads: 4,"}, r":3: model\.heads: is here twice"),
    "unclosed": ({"name: tiny": "name: [tiny"}, r":\d+: not valid YAML"),
    "a tab": ({"  kind": "\tkind"}, r":9: not valid YAML"),
    "a python object": ({"name: tiny": "name: !!python/object:os.system {}"}, r"not valid YAML"),
    "a list for a key": ({"name: tiny": "name: tiny\n? [a]\n: b"}, r":2: a key is a word"),
    "aliases of aliases": (
        {
            "name: tiny": "a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
            "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\nname: tiny"
        },
        r"more than 100000 keys",
    ),
    "a depth of no model": ({"depth: 1": f"depth: {'9' * 400}"}, r":3: model\.depth: should be less than or equal"),
    "a ratio of no model": ({"depth: 1": "mlp_ratio: 1e308"}, r":3: model\.mlp_ratio: should be less than or equal"),
    "endless runs": (
        {"2e9, 4e9]": "2e9, 4e30]", "1.2e10": "1e31"},
        r":10: design\.flops\.2: .* steps, more than 21474",
    ),
    "a loop": ({"name: tiny": "name: &a [*a]"}, r":1: an alias that contains itself|:1: "),
    "a level beyond one": (
        {"evaluation:": "forecast: {level: 1.5}\nevaluation:"},
        r":13: forecast\.level: should be less than 1",
    ),
    "few resamples": ({"evaluation:": "forecast: {resamples: 3}\nevaluation:"}, r":13: forecast\.resamples: "),
    "no evaluation": ({"tokens: 8192": "tokens: 0"}, r":13: evaluation\.tokens: "),
    "large vocabulary": ({"vocab: 16": "vocab: 300"}, r":2: data\.vocab: should be less than or equal to 256"),
    "text of another vocabulary": (
        {"{source: markov, vocab: 16, seed: 1}": "{source: text, path: x, vocab: 99}"},
        r":2: data\.vocab: should be 128 or 256",
    ),
    "text without a path": ({"{source: markov, vocab: 16, seed: 1}": "{source: text}"}, r":2: data\.path: is missing"),
    "text of a tokenizer's end without a tokenizer": (
        {"{source: markov, vocab: 16, seed: 1}": "{source: text, path: x, end: </s>}"},
        r":2: data\.end: is a token of a `tokenizer`, and none is named",
    ),
    "a mixture in a mixture": (
        {
            "{source: markov, vocab: 16, seed: 1}": "{source: mixture, sources: {a: {weight: 1, data: "
            "{source: mixture}}}}"
        },
        r":2: data\.sources\.a\.data: needs `source` to be one of 'dataset', 'markov', 'text', 'tokens'",
    ),
    "a misspelt key of a mixture": (
        {"{source: markov, vocab: 16, seed: 1}": f"{{source: mixture, sources: {{a: {{wieght: 1, data: {MARKOV}}}}}}}"},
        r":2: data\.sources\.a\.wieght: unknown key; did you mean `weight`",
    ),
    "a mixture without weights": (
        {"{source: markov, vocab: 16, seed: 1}": f"{{source: mixture, sources: {{a: {{data: {MARKOV}}}}}}}"},
        r":2: data\.sources\.a\.weight: is missing",
    ),
    "a mixture of two vocabularies": (
        {
            "{source: markov, vocab: 16, seed: 1}": f"{{source: mixture, sources: {{a: {{weight: 1, data: {MARKOV}}}, "
            "b: {weight: 1, data: {source: markov, vocab: 8}}}}"
        },
        r":2: data: sources\.b\.data\.vocab: is 8, and that of a 16",
    ),
    "a factory that is no function": (
        {
            "{source: markov, vocab: 16, seed: 1}": "{source: dataset, factory: mine, held_out: a:b, "
            "fingerprint: v, vocab: 9}"
        },
        r":2: data\.factory: write it as package\.module:function, not 'mine'",
    ),
    "tokens without vocabulary": (
        {"{source: markov, vocab: 16, seed: 1}": "{source: tokens, path: x}"},
        r":2: data\.vocab: is missing",
    ),
}


@pytest.mark.parametrize("changes, says", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_spec_is_one_line_with_its_place_and_a_way_out(spec_file, changes, says):
    with pytest.raises(SpecError) as error:
        load_spec(spec_file(changes))
    message = str(error.value)
    assert re.search(says, message), message
    assert "spec.yaml" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "content, says",
    [(b"", "a spec is a mapping"), (b"- a", "a spec is a mapping"), (b"\xff\xfe\x00", "not UTF-8|not valid YAML")],
)
def test_files_that_are_no_spec(tmp_path, content, says):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=says):
        load_spec(tmp_path / "x.yaml")
    with pytest.raises(SpecError, match="no such file"):
        load_spec(tmp_path / "missing.yaml")


class TestOverrides:
    def test_they_replace_and_add(self, spec_file):
        spec = load_spec(spec_file(), ["data.seed=7", "forecast.level=0.8", "holdout.widths=[16, 24]"])
        assert (spec.data.seed, spec.forecast.level, spec.holdout.widths) == (7, 0.8, [16, 24])

    @pytest.mark.parametrize(
        "override, says",
        [
            ("model.depth=x", r"^--set model\.depth=x: model\.depth: .*integer"),
            ("model.dpth=2", r"^--set model\.dpth=2: model\.dpth: unknown key; did you mean `depth`"),
            ("model.depth", "write it as key.key=value"),
            ("=3", "write it as key.key=value"),
            ("model.depth.x=3", "model.depth holds no keys"),
            ("name=[", "not valid YAML"),
        ],
    )
    def test_a_wrong_one_is_named(self, spec_file, override, says):
        with pytest.raises(SpecError, match=says):
            load_spec(spec_file(), [override])


class TestNumbers:
    @pytest.mark.parametrize("text", ["1e18", "1E18", "1.0e18", "1.e+18", "1_000e15"])
    def test_exponents_are_numbers(self, text):
        assert documents._parse(f"x: {text}", "t").content == {"x": 1e18}

    @pytest.mark.parametrize("text", ["no", "on", "1e", "e5", "1.2.3", "2024-01-01", "2:08", "0x10"])
    def test_words_stay_words(self, text):
        assert documents._parse(f"x: {text}", "t").content == {"x": text}

    def test_leading_zeros_change_nothing(self):
        assert documents._parse("x: 0200", "t").content == {"x": 200}

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_every_float_survives(self, value):
        assert documents._parse(f"x: {value!r}", "t").content["x"] == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.data(), JSON | st.integers(-(10**400), 10**400) | st.floats(min_value=1e200))
@settings(max_examples=300, deadline=None)
def test_no_value_of_any_key_gives_anything_but_a_spec_or_one_line(tmp_path_factory, tiny_spec, data, value):
    content = documents._parse(tiny_spec, "tiny").content
    keys = [(key,) for key in SweepSpec.model_fields]
    keys += [(key, inner) for key, held in content.items() if isinstance(held, dict) for inner in held]
    key, inside = data.draw(st.sampled_from(keys)), content
    for part in key[:-1]:
        inside = inside[part]
    inside[key[-1]] = value
    path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        planned_runs(load_spec(path))
    except MENDABLE as error:
        assert "\n" not in str(error).strip()
        assert "data: is missing" not in str(error)


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_bytes_give_a_traceback(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(MENDABLE):
        load_spec(path)


class TestDesign:
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


class TestSchema:
    def test_it_takes_every_spec_that_runs(self, tiny_spec):
        schema = SweepSpec.model_json_schema()
        specs = [*Path(nextscale.sweeps.__path__[0]).glob("specs/*.yaml")]
        assert specs
        for text in (tiny_spec, *(spec.read_text() for spec in specs)):
            jsonschema.validate(documents._parse(text, "spec").content, schema)

    @pytest.mark.parametrize("old, new", [("depth", "dept"), ("[1.0e+9,", "[-1,"), ("linear", "liner")])
    def test_it_refuses_what_the_spec_refuses(self, tiny_spec, old, new):
        content = documents._parse(tiny_spec.replace(old, new), "spec").content
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content, SweepSpec.model_json_schema())


WSD = {
    "linear": "wsd\n  warmup_tokens: 12800",
    "kind: isoflop": "kind: wsd",
    "[1.0e+9, 2e9, 4e9]": "1",
    "flops: 1\n": "tokens: [1.0e+5, 2e5, 4e5]\n",
    "[[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]": "[8, 16]",
}


class TestWsd:
    def test_the_longest_run_of_a_width_is_the_trunk_of_the_others(self, spec_file):
        runs = [run for run in planned_runs(load_spec(spec_file(WSD))) if run.role == "fit"]
        assert len(runs) == 6
        for width in (8, 16):
            *branches, trunk = [run for run in runs if run.config.model.width == width]
            assert trunk.trunk is None and trunk.start is None
            assert trunk.own_flops == trunk.flops
            for run, tokens in zip(branches, (1e5, 2e5), strict=True):
                assert run.trunk == trunk.config
                assert run.tokens == pytest.approx(tokens, rel=1e-3)
                assert run.start.tokens == pytest.approx(0.8 * tokens, rel=1e-2)
                assert run.own_flops == pytest.approx(0.2 * run.flops, rel=1e-2)
                assert same_until(run.config, trunk.config, run.start.tokens)

    @pytest.mark.parametrize("ratio, share", [(2, 0.61), (2**0.5, 0.48)])
    def test_a_trunk_saves_what_is_promised(self, spec_file, ratio, share):
        """Five lengths, a fifth of each cooled: 0.8 of the longest once and 0.2 of each, over the whole of each."""
        lengths = [2e6 * ratio**i for i in range(5)]
        changes = WSD | {"[1.0e+5, 2e5, 4e5]": str(lengths), "1.2e10": "1e14"}
        runs = [run for run in planned_runs(load_spec(spec_file(changes))) if run.role == "fit"]
        found = sum(run.own_flops for run in runs) / sum(run.flops for run in runs)
        assert share <= found < share + 0.01

    def test_what_depends_on_the_length_is_that_of_the_trunk(self, spec_file):
        runs = planned_runs(load_spec(spec_file(WSD)))
        rates = {run.config.training.lr for run in runs if run.role == "fit"}
        assert rates == {HorizonRule(rule="horizon", base=0.02, floor=0.008)(None, 3125, 128)}

    def test_every_seed_has_its_trunk(self, spec_file):
        runs = planned_runs(load_spec(spec_file(WSD), ["design.seeds=[0, 1]"]))
        assert all(run.trunk is None or run.trunk.seed == run.config.seed for run in runs)
        assert len({run.trunk.run_id for run in runs if run.trunk is not None}) == 4

    def test_a_run_that_only_cools_down_has_no_trunk(self, spec_file):
        runs = planned_runs(load_spec(spec_file(WSD | {"12800": "0"}), ["training.cooldown=1"]))
        assert all(run.trunk is None for run in runs)

    def test_the_plan_counts_what_is_trained(self, spec_file):
        runs = planned_runs(load_spec(spec_file(WSD)))
        found = plan(runs)
        assert found.total_flops == sum(run.own_flops for run in runs) < sum(run.flops for run in runs)
        assert [row["trunk"] for row in found.runs if row["role"] == "fit"].count(None) == 2
        assert not any("sizes at" in warning for warning in found.warnings)

    @pytest.mark.parametrize(
        "changes, says",
        [
            ({"\n  warmup_tokens: 12800": ""}, r":4: training\.warmup_tokens: is missing; .* 10000 tokens, say"),
            ({"wsd\n  w": "linear\n  w"}, r":6: training\.schedule: is wsd where design\.kind is; set it"),
            ({"12800": "90000"}, r":7: training\.warmup_tokens 90000 leave no room in a run of .* lower one"),
            ({"1.0e+5": "1.0e+3"}, r":11: design\.tokens\.0: .* for only 8 steps"),
            ({"2e5, 4e5": "4e5, 2e5"}, r":11: design\.tokens: must rise"),
            ({"1.2e10": "1e9"}, r":13: holdout\.flops: must lie above every run of design, the largest of"),
            ({"[8, 16]": "[9, 16]"}, r":12: design\.widths\.0: width 9 cannot be cut"),
        ],
    )
    def test_mistakes(self, spec_file, changes, says):
        with pytest.raises(SpecError, match=says):
            load_spec(spec_file(WSD | changes))


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


def test_every_source_in_the_documentation_is_one(tiny_spec):
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    written = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    content = documents._parse(tiny_spec, "tiny").content
    sources = [SweepSpec.model_validate(content | documents._parse(text, "page").content).data for text in written]
    assert {data.source for data in sources} == {"tokens", "text", "mixture", "dataset"}
