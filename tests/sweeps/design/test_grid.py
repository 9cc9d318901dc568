"""Grids: any key of a spec as an axis."""

import itertools

import pytest

from nextscale.sweeps import SweepSpec
from nextscale.sweeps.design.expand import planned_runs, resolve_spec
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.spec_files import load_spec

GRID = """\
name: grid
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training: {batch_tokens: 128, schedule: linear, lr: 0.02}
design:
  kind: grid
  axes:
    model.width: [8, 16]
    tokens: [1.0e+6, 2.0e+6]
    training.lr: [0.01, 0.02, 0.04]
"""


@pytest.fixture
def grid(tmp_path):
    """`grid("more lines of the design", {"old": "new"})`."""

    def write(more="", changes=None):
        text = GRID + more
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "grid.yaml").write_text(text)
        return tmp_path / "grid.yaml"

    return write


def runs(path):
    return [run.config for run in planned_runs(load_spec(path))]


def test_axes_are_crossed(grid):
    found = {(run.model.width, run.training.lr, run.tokens) for run in runs(grid())}
    tokens = {tokens for *_, tokens in found}
    assert found == set(itertools.product([8, 16], [0.01, 0.02, 0.04], tokens))
    assert sorted(tokens) == pytest.approx([1e6, 2e6], rel=1e-3)


def test_axes_that_are_zipped_go_along_together(grid):
    path = grid(
        "    training.warmup: [0.1, 0.2, 0.3]\n    seed: [5, 6, 7]\n  zip: [[training.lr, training.warmup, seed]]\n"
    )
    found = {(run.training.lr, run.training.warmup, run.seed) for run in runs(path)}
    assert found == {(0.01, 0.1, 5), (0.02, 0.2, 6), (0.04, 0.3, 7)}
    assert len(runs(path)) == 2 * 2 * 3


def test_what_is_excluded_is_left_out(grid):
    path = grid("  exclude: [{model.width: 8, training.lr: 0.01}, {tokens: 2.0e+6, training.lr: 0.04}]\n")
    assert len(runs(path)) == 12 - 2 - 2 + 0
    assert not any(run.model.width == 8 and run.training.lr == 0.01 for run in runs(path))


@pytest.mark.parametrize(
    "axis, values, of",
    [
        ("model.depth", [1, 3], lambda run: run.model.depth),
        ("model.tied", [True, False], lambda run: run.model.tied),
        ("training.batch_tokens", [64, 128], lambda run: run.training.batch_tokens),
        ("training.parametrization", ["mup", "standard"], lambda run: run.training.parametrization),
        ("data.seed", [4, 5], lambda run: run.data.seed),
        ("data.vocab", [8, 16], lambda run: run.model.vocab),
        ("seed", [1, 2], lambda run: run.seed),
    ],
)
def test_any_key_of_the_spec_is_an_axis(grid, axis, values, of):
    path = grid(f"    {axis}: {values}\n".replace("True", "true").replace("False", "false"))
    assert {of(run) for run in runs(path)} == set(values)
    assert len(runs(path)) == 12 * 2


def test_rules_and_whole_sections_are_values_too(grid):
    path = grid("", {"[0.01, 0.02, 0.04]": "[0.01, {rule: horizon, base: 0.5, reference_steps: 7812.5, exponent: 0}]"})
    assert {run.training.lr for run in runs(path)} == {0.01, 0.5}
    path = grid("    data: [{source: markov, vocab: 8}, {source: markov, vocab: 16, zipf: 2}]\n")
    assert {run.data.zipf for run in runs(path)} == {1.2, 2}
    path = grid("", {"lr: 0.02": "lr: {rule: horizon, base: 1}", "training.lr: [": "training.lr.floor: [1.1, "})
    assert {run.training.lr for run in runs(path)} > {1.1}


def test_sizes_by_parameters_and_lengths_by_size(grid):
    path = grid(
        "", {"model.width: [8, 16]": "params: [1200, 4.0e+3]", "tokens: [1.0e+6, 2.0e+6]": "tokens_per_param: [300]"}
    )
    assert all(
        run.tokens / 300 == pytest.approx(planned.params, rel=0.01)
        for run, planned in zip(runs(path), planned_runs(load_spec(path)), strict=True)
    )


def test_the_same_config_is_one_run(grid):
    assert len(runs(grid("", {"[0.01, 0.02, 0.04]": "[0.01, 0.01, 0.02]"}))) == 8


def test_budgets_make_isoflop_curves_where_nothing_else_varies(grid):
    flops = {"tokens: [1.0e+6, 2.0e+6]": "flops: [1.0e+10, 2.0e+10]"}
    assert not any(run.isoflop for run in planned_runs(load_spec(grid("", flops))))
    alone = flops | {"    training.lr: [0.01, 0.02, 0.04]\n": "    seed: [0, 1]\n"}
    assert all(run.isoflop for run in planned_runs(load_spec(grid("", alone))))


def test_every_choice_of_data_is_named_by_its_content(grid, tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name * 100_000)
    text = {"{source: markov, vocab: 16, seed: 1}": f"{{source: text, path: '{tmp_path}/a'}}"}
    more = f"    data.path: ['{tmp_path}/a', '{tmp_path}/b']\n    data.vocab: [128, 256]\n"
    spec = resolve_spec(load_spec(grid(more, text)))
    found = planned_runs(spec)
    assert len({run.config.run_id for run in found}) == len(found) == 12 * 4
    assert len({run.config.data.fingerprint for run in found}) == 2
    alone = planned_runs(resolve_spec(load_spec(grid("", text), ["data.vocab=128"])))
    assert {run.config.run_id for run in alone} < {run.config.run_id for run in found}
    # What is kept of a sweep names its runs without the files.
    (tmp_path / "b").unlink()
    again = planned_runs(SweepSpec.model_validate_json(spec.model_dump_json()))
    assert [run.config.run_id for run in again] == [run.config.run_id for run in found]


@pytest.mark.parametrize(
    "more, changes, says",
    [
        ("    trainng.lr: [1]\n", {}, r":11: design\.axes\.trainng\.lr: is no axis; one is model\.width, params, "),
        ("    training.lrr: [1]\n", {}, r":11: design\.axes\.training\.lrr\.0: unknown key; did you mean `lr`"),
        (
            "    training.warmup: [0.1, 2]\n",
            {},
            r":11: design\.axes\.training\.warmup\.1: should be less than 1, not 2",
        ),
        ("    model.heads: [2, 3]\n", {}, r":8: design\.axes\.model\.width\.0: width 8 cannot be cut into 3"),
        ("    model.kv_heads: [1, 3]\n", {}, r":11: design\.axes\.model\.kv_heads\.1: model: heads 2 cannot share 3"),
        ("    training.lr.base: [1]\n", {}, r":11: design\.axes\.training\.lr\.base: training\.lr holds no keys"),
        ("    seed: [-1]\n", {}, r":11: design\.axes\.seed\.0: should be a whole number from 0"),
        ("    seed: [1]\n  seeds: [1]\n", {}, r":12: design\.seeds: is there, and an axis seed too"),
        ("    flops: [1.0e+9]\n", {}, r":7: design\.axes: one says how long .* here tokens and flops does"),
        ("", {"    tokens: [1.0e+6, 2.0e+6]\n": ""}, r":7: design\.axes: one says how long .* here none does"),
        ("", {"    model.width: [8, 16]\n": ""}, r":7: design\.axes: one says how large .* here none does"),
        ("", {"[8, 16]": "[8, x]"}, r":8: design\.axes\.model\.width\.1: should be a whole number from 1"),
        ("", {"[8, 16]": "{from: 8, to: 16, count: 3}"}, r":8: design\.axes\.model\.width: a range is of no multiples"),
        ("", {"[8, 16]": "[]"}, r":8: design\.axes\.model\.width: "),
        ("", {"[8, 16]": "8"}, r":8: design\.axes\.model\.width: should be a valid list"),
        ("", {"2.0e+6]": "-1]"}, r":9: design\.axes\.tokens\.1: should be a number above 0"),
        ("", {"1.0e+6": "1.0e+2"}, r":9: design\.axes\.tokens\.0: .* for only 1 steps"),
        (
            "  zip: [[training.lr, tokens]]\n",
            {},
            r":11: design\.zip\.0: needs axes of as many values each: training\.lr h",
        ),
        ("  zip: [[training.lr, x]]\n", {}, r":11: design\.zip\.0: x is none of design\.axes, model\.width, tokens"),
        ("  zip: [[tokens, tokens]]\n", {}, r":11: design\.zip\.0: tokens is there twice"),
        ("  zip: [[]]\n", {}, r":11: design\.zip\.0: needs axes of as many values each: it names no axis"),
        ("  exclude: [{tokens: 3}]\n", {}, r":11: design\.exclude\.0\.tokens: 3 is no value of that axis"),
        ("  exclude: [{x: 3}]\n", {}, r":11: design\.exclude\.0\.x: is none of design\.axes"),
        ("  exclude: [{}]\n", {}, r":11: design\.exclude\.0: names no axis"),
        ("  exclude: [{model.width: 8}, {model.width: 16}]\n", {}, r":11: design\.exclude: leaves no run"),
        ("    training.batch_tokens: [100]\n", {}, r":11: .*100 is not a whole number of sequences"),
        ("    data.vocab: [400]\n", {}, r":11: design\.axes\.data\.vocab\.0: should be less than or equal to 256"),
        ("    data.source: [x]\n", {}, r":11: design\.axes\.data\.source\.0: data: needs `source` to be one of"),
        ("    training.lr.: [1]\n", {}, r":11: design\.axes\.training\.lr\.: "),
    ],
)
def test_mistakes(grid, more, changes, says):
    with pytest.raises(SpecError, match=rf"grid\.yaml{says}") as error:
        load_spec(grid(more, changes))
    assert "\n" not in str(error.value)
