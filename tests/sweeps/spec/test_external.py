"""A spec of an external trainer: what it may say, and that a mistake in it is one clear line."""

import jsonschema
import pytest

from nextscale.model.config.external import ExternalRun, read_run
from nextscale.sweeps import SweepSpec, load_spec, plan_sweep, planned_runs
from nextscale.sweeps.design.chosen_runs import ChosenRuns, Progress
from nextscale.sweeps.design.expand import resolve_spec
from nextscale.sweeps.errors import USER_ERRORS, SpecError
from nextscale.sweeps.plan.spec_files import located_errors
from nextscale.sweeps.spec import documents
from nextscale.sweeps.spec.schema import spec_schema
from nextscale.sweeps.spec.sweep_spec import ExternalSpec

SPEC = """\
name: mine
model:
  kind: external
  sizes:
    - {params: 1.2e6, flops_per_token: 7.2e6, n_layer: 4, n_embd: 128}
    - {params: 4.9e6, flops_per_token: 2.94e7, n_layer: 6, n_embd: 256}
    - {params: 4.9e6, flops_per_token: 2.94e7, n_layer: 12, n_embd: 180}
trainer:
  command: [sh, train.sh, "{config}", "{dir}"]
  source: [train.sh]
training: {batch_tokens: 4096, lr: 0.003}
design: {kind: isoflop, flops: [1.0e+13, 4.0e+13]}
"""


@pytest.fixture
def spec_at(tmp_path):
    """`spec_at("a.b=value")`: the file of the spec, and `--set` options."""
    (tmp_path / "train.sh").write_text("true")
    (tmp_path / "mine.yaml").write_text(SPEC)
    return tmp_path / "mine.yaml"


def planned(path, *overrides):
    return planned_runs(resolve_spec(load_spec(path, overrides)))


def test_every_size_is_trained_at_every_budget_where_none_is_named(spec_at):
    runs = planned(spec_at)
    assert [(run.params, run.budget) for run in runs] == [
        (params, budget) for budget in (1e13, 4e13) for params in (1.2e6, 4.9e6, 4.9e6)
    ]
    for run in runs:
        assert run.flops == pytest.approx(run.budget, rel=0.01)
        assert run.flops == run.config.model.flops_per_token * run.tokens
        assert run.tokens == run.config.training.steps * 4096
        assert run.config.told()["model"]["n_embd"] in (128, 256, 180)
        assert read_run(run.config.model_dump_json()) == run.config
    assert len({run.config.run_id for run in runs}) == 6


@pytest.mark.parametrize(
    "design, sizes",
    [
        ("{kind: isoflop, flops: [1e13, 2e13], sizes: [[1.2e6], [{n_layer: 6}, {n_layer: 12}]]}", [4, 6, 12]),
        ("{kind: ladder, sizes: [{n_embd: 180}, 1.2e6], tokens_per_param: [1, 2]}", [12, 12, 4, 4]),
        ("{kind: grid, axes: {params: [1.2e6, {n_layer: 6}], tokens: [1e6], training.lr: [1, 2]}}", [4, 4, 6, 6]),
        ("{kind: sequential, flops: 1e15, target: 1e14, start: {kind: isoflop, flops: [1e13]}}", [4, 6, 12]),
    ],
)
def test_designs_choose_among_sizes(spec_at, design, sizes):
    runs = planned(spec_at, f"design={design}")
    assert sorted(run.config.told()["model"]["n_layer"] for run in runs) == sorted(sizes)


def test_axes_of_a_grid_are_keys_of_training_and_data(spec_at):
    axes = "{params: [1.2e6], tokens: [1e6], training.lr: [0.1, 0.2], training.opt.beta: [1, 2], data.mix: [a, {b: 1}]}"
    told = [run.config.told() for run in planned(spec_at, f"design={{kind: grid, axes: {axes}}}")]
    found = {(one["training"]["lr"], one["training"]["opt"]["beta"], str(one["data"]["mix"])) for one in told}
    assert found == {(lr, beta, mix) for lr in (0.1, 0.2) for beta in (1, 2) for mix in ("a", "{'b': 1}")}


def test_it_is_one_from_wherever_it_is_read(spec_at):
    spec = load_spec(spec_at)
    assert isinstance(spec, ExternalSpec)
    assert SweepSpec.model_validate_json(spec.model_dump_json()) == spec
    assert SweepSpec(**spec.model_dump()) == spec
    assert spec.trainer.folder == str(spec_at.parent)


def test_the_folder_is_that_of_the_spec_that_names_the_command(spec_at, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "more.yaml").write_text("extends: ../mine.yaml\ntraining: {lr: 0.1}\n")
    assert [run.config.trainer.folder for run in planned(tmp_path / "below" / "more.yaml")] == [
        str(tmp_path / "below" / "..")
    ] * 6


def test_whole_numbers_are_the_same_with_a_point(spec_at):
    names = [[run.config.run_id for run in planned(spec_at, f"training.clip={clip}")] for clip in ("1", "1.0", "2")]
    assert names[0] == names[1]
    assert not set(names[0]) & set(names[2])


def test_a_choice_of_a_sequence_is_read_back(spec_at, tmp_path):
    spec = resolve_spec(
        load_spec(
            spec_at, ["design={kind: sequential, flops: 1e15, target: 1e14, start: {kind: isoflop, flops: [1e13]}}"]
        )
    )
    run = planned_runs(spec)[2]
    chosen = ChosenRuns(tmp_path, spec)
    chosen.add([run], Progress(0.1, 1e13, None))
    assert [one.config for one in chosen.runs()] == [run.config]


WRONG = {
    "trainer.comand=[x]": "trainer.comand: unknown key; did you mean `command`?",
    "trainer.source=[nope.py]": "nope.py is not there",
    "trainer.command=[no-such-program]": "trainer.command.0: there is no program no-such-program",
    "trainer.command=[sh, '{confg}']": "did you mean {config}?",
    "trainer.stop_seconds=-1": "trainer.stop_seconds: should be greater than 0",
    "model.kind=externl": "model.kind: should be 'external', not 'externl'",
    "model={kind: external}": "model.sizes: is missing",
    "model.depth=2": "model.depth: unknown key",
    "model.sizes.0={flops_per_token: 6}": "model.sizes.0.params: is missing",
    "model.sizes.0={params: 6}": "model.sizes.0.flops_per_token: is missing",
    "model.sizes.0.params=1.5": "model.sizes.0.params: should be a valid integer",
    "model.sizes.0.params_active=1e9": "params_active 1000000000 is more than params 1200000",
    "model.sizes.1={params: 1.2e6, flops_per_token: 7.2e6, n_layer: 4, n_embd: 128}": "has the same keys as sizes.0",
    "training.steps=5": "steps: follows from the design",
    "training.batch_tokens=0": "training.batch_tokens: should be greater than or equal to 1",
    "training.batch_tokens=1e9": "for only 0 steps; raise it to",
    "design.widths=[[8], [8]]": "widths: is of nextscale's own model; `sizes` names those of model.sizes",
    "design.sizes=4": "design.sizes: should be a valid list",
    "design.sizes=[[1.2e6]]": "has 2 budgets and 1 lists of sizes",
    "design.sizes=[[1.2e6], [3e6]]": "design.sizes.1.0: no size of model.sizes has params 3e+06; name one by",
    "design.sizes=[[1.2e6], [4.9e6]]": "2 sizes of model.sizes have params 4.9e+06; name one by a key",
    "design={kind: grid, axes: {model.width: [8], tokens: [1e6]}}": "the axis of sizes is params",
    "design={kind: wsd, widths: [3], tokens: [1e6]}": "needs `kind` to be one of",
    "holdout={flops: 1.6e14, widths: [3]}": "widths: is of nextscale's own model",
    "holdout={flops: 1.6e14, sizes: [7]}": "holdout.sizes.0: no size of model.sizes has params 7",
    "findings=[transfer]": "findings.0: should be 'approaches'",
    "forecast.params=non_embedding": "params_non_embedding: is missing",
    "data.x=.nan": "data.x",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_mistake_is_one_clear_line(spec_at, override):
    with pytest.raises(USER_ERRORS) as raised, located_errors(spec_at, [override]):
        planned(spec_at, override)
    text = str(raised.value)
    assert WRONG[override] in text
    assert "\n" not in text
    assert text.startswith(("--set", str(spec_at)))


@pytest.mark.parametrize(
    "written, why",
    [
        ("  kind: external\n", "model.kind: is missing"),
        (SPEC[SPEC.index("trainer:") : SPEC.index("training:")], "trainer: is missing"),
        (SPEC[SPEC.index("training:") : SPEC.index("design:")], "training: is missing"),
        (SPEC[SPEC.index("design:") :], "design: is missing"),
    ],
)
def test_what_is_missing_is_named(spec_at, written, why):
    spec_at.write_text(SPEC.replace(written, ""))
    with pytest.raises(SpecError) as raised:
        load_spec(spec_at)
    assert why in str(raised.value)


def test_a_trainer_of_nextscale_itself_knows_no_command(tiny_spec, tmp_path):
    (tmp_path / "spec.yaml").write_text(tiny_spec + "trainer: {command: [x]}\n")
    with pytest.raises(SpecError, match=r"model\.kind: is missing|unknown key"):
        load_spec(tmp_path / "spec.yaml")


def test_the_schema_knows_its_keys():
    validator = jsonschema.Draft7Validator(spec_schema())
    content = documents.parse(SPEC, "spec").content
    validator.validate(content)
    for broken in ({"comand": ["x"]}, {"command": []}, {"command": ["x"], "stop_seconds": "no"}):
        assert [*validator.iter_errors(content | {"trainer": broken})], broken
    assert [*validator.iter_errors(content | {"design": {"kind": "wsd", "widths": [1], "tokens": [1]}})]


def test_a_plan_shows_sizes_by_the_trainer_s_own_keys(spec_at):
    plan = plan_sweep(load_spec(spec_at), simulate=False)
    assert {row["size"] for row in plan.runs} == {
        "n_layer 4, n_embd 128",
        "n_layer 6, n_embd 256",
        "n_layer 12, n_embd 180",
    }
    assert all(
        isinstance(run.config, ExternalRun) and row["seconds"] > 0
        for run, row in zip(planned(spec_at), plan.runs, strict=True)
    )
    assert not any("width" in warning for warning in plan.warnings)
