"""What a spec is put together from: others that it extends, scales, overrides, the environment."""

import re
from types import SimpleNamespace

import pytest

from nextscale.sweeps.design.expand import planned_runs, resolve_spec
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run import detach
from nextscale.sweeps.spec.layers import ready_specs
from nextscale.sweeps.store.store import Store


@pytest.fixture
def extending(tmp_path, spec_file):
    """A spec that extends the tiny one, `spec.yaml`: `extending("name: mine")`."""
    spec_file()

    def write(text="", name="mine.yaml", base="spec.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"extends: {base}\n{text}", encoding="utf-8")
        return path

    return write


def says(path, pattern, *overrides):
    with pytest.raises(SpecError) as error:
        load_spec(path, overrides)
    assert re.search(pattern, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


def ids(spec):
    return [run.config.run_id for run in planned_runs(spec)]


class TestExtends:
    def test_what_is_not_said_anew_stays(self, extending, spec_file):
        spec = load_spec(extending("name: mine\nmodel: {depth: 3}\nholdout: null\n"))
        base = load_spec(spec_file())
        assert (spec.name, spec.model.depth, spec.model.heads, spec.holdout) == ("mine", 3, base.model.heads, None)
        assert spec.design == base.design

    def test_it_is_no_part_of_what_runs_mean(self, extending, spec_file):
        assert ids(load_spec(extending("name: mine\n"))) == ids(load_spec(spec_file()))

    def test_a_ready_spec_by_its_name(self, extending):
        quickstart = load_spec(ready_specs()["quickstart"])
        assert ids(load_spec(extending("name: mine\n", base="quickstart"))) == ids(quickstart)
        assert load_spec(extending(base="python-stdlib")).data.path == "python-stdlib"

    def test_a_file_is_looked_for_beside_the_one_that_names_it(self, extending):
        extending("name: middle\n", "deeper/middle.yaml", base="../spec.yaml")
        assert load_spec(extending("", base="deeper/middle.yaml")).name == "middle"

    def test_a_mapping_of_another_kind_takes_the_place_of_the_whole(self, extending):
        text = "design: {kind: ladder, widths: [8, 16], tokens_per_param: [500, 900]}\nholdout: null\n"
        assert len(planned_runs(load_spec(extending(text)))) == 4
        spec = load_spec(extending("training: {lr: {rule: square_root, base: 0.1, reference_batch_tokens: 64}}\n"))
        assert spec.training.lr.rule == "square_root"

    def test_a_rule_is_changed_key_by_key(self, extending):
        spec = load_spec(extending("training: {lr: {base: 0.5}}\n"))
        assert (spec.training.lr.base, spec.training.lr.floor) == (0.5, 0.008)

    def test_what_an_alias_shares_is_changed_in_one_place(self, tmp_path, spec_file):
        path = spec_file(
            {"evaluation: {tokens: 8192}": "evaluation: {sets: {a: &a {source: markov, vocab: 16}, b: *a}}"}
        )
        spec = load_spec(path, ["evaluation.sets.a.seed=7"])
        assert (spec.evaluation.sets["a"].seed, spec.evaluation.sets["b"].seed) == (7, 0)

    def test_merge_keys_of_yaml(self, spec_file):
        path = spec_file(
            {
                "{tokens: 8192}": "\n  tokens: 8192\n  sets:\n    a: &a {source: markov, vocab: 16}\n"
                "    b: {<<: *a, seed: 3, zip: 2}"
            }
        )
        says(path, r"spec.yaml:17: evaluation\.sets\.b\.zip: unknown key; did you mean `zipf`")

    @pytest.mark.parametrize(
        "text, pattern",
        [
            ("model: {dept: 3}\n", r"mine\.yaml:2: model\.dept: unknown key; did you mean `depth`"),
            (
                "training: {lr: {floor: -1}}\n",
                r"mine\.yaml:2: training\.lr\.floor: should be greater than or equal to 0",
            ),
            ("design: {flops: [1e3, 2e9, 4e9]}\n", r"mine\.yaml:2: design\.flops\.0: 1e\+03 FLOPs train width"),
            ("data: {vocab: 1}\n", r"mine\.yaml:2: data\.vocab: "),
            ("model: {heads: 3}\n", r"spec\.yaml:11: design\.widths\.0\.0: width 4 cannot be cut into 3"),
            ("holdout: {widths: [13]}\n", r"mine\.yaml:2: holdout\.widths\.0: width 13"),
        ],
    )
    def test_mistakes_are_named_where_they_stand(self, extending, text, pattern):
        says(extending(text), pattern)

    def test_mistakes_of_the_one_extended_are_named_there(self, extending, spec_file):
        spec_file({"depth: 1": "depth: x"})
        says(extending("name: mine\nmodel: {heads: 4}\n"), r"/spec\.yaml:3: model\.depth: .*integer")

    def test_circles(self, extending, tmp_path):
        says(extending(base="mine.yaml"), r"mine\.yaml:1: extends: goes in a circle, .*mine\.yaml → .*mine\.yaml")
        extending(name="spec.yaml", base="mine.yaml")
        says(extending(), r"spec\.yaml:1: extends: goes in a circle, .*mine\.yaml → .*spec\.yaml → .*mine\.yaml")

    @pytest.mark.parametrize("base", ["nothing.yaml", "[a]", "''", "3", "null", "a" * 5000, '"\\0"', "{a: b}"])
    def test_nothing_to_extend(self, extending, base):
        says(extending(base=base), r"mine\.yaml:1: extends: .*quickstart")

    def test_what_is_extended_cannot_be_read(self, extending, tmp_path):
        (tmp_path / "bad.yaml").write_text("a: [")
        says(extending(base="bad.yaml"), r"mine\.yaml:1: extends: .*bad\.yaml:1: not valid YAML")
        says(extending(base="."), r"mine\.yaml:1: extends: .*cannot be read \(Is a directory\)")

    def test_it_is_written_in_a_file(self, extending):
        says(extending(), r"--set extends=quickstart: what a spec extends is written in its file", "extends=quickstart")


class TestScales:
    SCALES = "scale: small\nscales:\n  small: {model: {depth: 3}}\n  large: {model: {depth: 5}, data: {seed: 9}}\n"

    def test_one_key_takes_a_spec_from_one_to_another(self, extending):
        path = extending(self.SCALES)
        assert load_spec(path).model.depth == 3
        spec = load_spec(path, ["scale=large"])
        assert (spec.model.depth, spec.data.seed, spec.model.heads) == (5, 9, 2)

    def test_without_one_chosen_the_spec_is_as_it_stands(self, extending):
        assert load_spec(extending(self.SCALES.replace("scale: small\n", ""))).model.depth == 1

    def test_overrides_go_before_the_scale(self, extending):
        path = extending(self.SCALES)
        assert load_spec(path, ["model.depth=7", "scale=large"]).model.depth == 7
        assert load_spec(path, ["scales.large.model.depth=8", "scale=large"]).model.depth == 8

    def test_a_spec_has_more_to_say_than_the_scales_of_what_it_extends(self, extending):
        extending(self.SCALES, "middle.yaml")
        assert load_spec(extending("model: {depth: 6}\n", base="middle.yaml")).model.depth == 6
        path = extending("scale: large\nscales: {large: {model: {heads: 1}}}\n", base="middle.yaml")
        spec = load_spec(path)
        assert (spec.model.depth, spec.model.heads, spec.data.seed) == (5, 1, 9)

    @pytest.mark.parametrize(
        "text, pattern",
        [
            ("scale: huge\nscales: {a: {}, b: {}}\n", r"mine\.yaml:2: scale: 'huge' is none of `scales`, a, b"),
            ("scale: huge\n", r"mine\.yaml:2: scale: 'huge' is chosen, and there are no `scales`"),
            ("scale: [a]\nscales: {a: {}}\n", r"mine\.yaml:2: scale: \['a'\] is none of `scales`, a"),
            ("scales: [a]\n", r"mine\.yaml:2: scales: holds names"),
            ("scales:\n  a: 3\n", r"mine\.yaml:3: scales\.a: holds what it changes"),
            ("scales: {a: {extends: b}}\n", r"mine\.yaml:2: scales\.a\.extends: belongs to the top"),
            (
                "scale: a\nscales:\n  a:\n    model: {dpth: 3}\n",
                r"mine\.yaml:5: model\.dpth: unknown key; did you mean",
            ),
        ],
    )
    def test_mistakes(self, extending, text, pattern):
        says(extending(text), pattern)


class TestEnvironment:
    def data(self, spec_file, path):
        return spec_file({"{source: markov, vocab: 16, seed: 1}": f"{{source: text, vocab: 128, path: '{path}'}}"})

    def test_variables_are_put_in(self, spec_file, monkeypatch):
        monkeypatch.setenv("TEXTS", "/texts")
        monkeypatch.delenv("NOTHING", raising=False)
        for written, meant in {
            "${TEXTS}/a": "/texts/a",
            "${NOTHING:-there}/${TEXTS}": "there//texts",
            "${TEXTS:-there}": "/texts",
            "$TEXTS $${TEXTS} $": "$TEXTS ${TEXTS} $",
        }.items():
            assert load_spec(self.data(spec_file, written)).data.path == meant

    def test_in_what_a_spec_extends(self, extending, tmp_path, monkeypatch):
        monkeypatch.setenv("SPECS", str(tmp_path))
        assert load_spec(extending(base="${SPECS}/spec.yaml")).name == "tiny"

    @pytest.mark.parametrize("path", ["${NOTHING}", "a/${NOTHING}/b", "${TEXTS", "${}", "${a-b}", "${:-x}"])
    def test_mistakes(self, spec_file, monkeypatch, path):
        monkeypatch.delenv("NOTHING", raising=False)
        pattern = "the variable NOTHING is not set; set it" if "NOTHING" in path else "write a variable as"
        says(self.data(spec_file, path), rf"spec\.yaml:2: data\.path: {pattern}")

    def test_one_of_a_scale_that_is_not_chosen_is_not_asked_for(self, extending):
        assert load_spec(extending("scales: {pod: {name: '${NOTHING}'}}\n")).name == "tiny"


class TestOverrides:
    def test_they_replace_and_add(self, spec_file):
        spec = load_spec(spec_file(), ["data.seed=7", "forecast.level=0.8", "holdout.widths=[16, 24]"])
        assert (spec.data.seed, spec.forecast.level, spec.holdout.widths) == (7, 0.8, [16, 24])

    def test_they_reach_into_lists(self, spec_file):
        spec = load_spec(spec_file(), ["design.flops.0=1.5e9", "design.widths.1.0=4"])
        assert spec.design.flops == [1.5e9, 2e9, 4e9]
        assert spec.design.widths[1] == [4, 12, 16, 24]

    def test_they_reach_keys_with_dots(self, extending):
        text = "design: {kind: grid, axes: {model.width: [8], tokens: [1e6, 2e6], training.lr: [0.1]}}\nholdout: null\n"
        spec = load_spec(extending(text), ["design.axes.training.lr=[0.1, 0.2]", "design.axes.training.lr.0=0.3"])
        assert spec.design.axes["training.lr"] == [0.3, 0.2]

    @pytest.mark.parametrize(
        "override, pattern",
        [
            ("model.depth=x", r"^--set model\.depth=x: model\.depth: .*integer"),
            ("model.dpth=2", r"^--set model\.dpth=2: model\.dpth: unknown key; did you mean `depth`"),
            ("model.depth", "write it as key.key=value"),
            ("=3", "write it as key.key=value"),
            ("model.depth.x=3", "model.depth holds no keys"),
            ("name=[", "not valid YAML"),
            ("design.flops.3=1e9", r"design\.flops has 3 items, numbered from 0"),
            ("design.flops.x=1e9", r"design\.flops has 3 items, numbered from 0"),
            ("design.flops.0.x=1e9", r"design\.flops\.0 holds no keys"),
            ("design.flops.0=-1", r"^--set design\.flops\.0=-1: design\.flops\.0: should be greater than 0"),
        ],
    )
    def test_a_wrong_one_is_named(self, spec_file, override, pattern):
        says(spec_file(), pattern, override)


def test_a_sweep_that_is_left_at_work_is_read_as_it_was_meant(tmp_path, monkeypatch, spec_file):
    """A path may hold what begins a variable in a spec."""
    texts = tmp_path / "${x}-$${y}"
    texts.mkdir()
    (texts / "a.txt").write_text("some text, and some more of it\n" * 1000)
    data = f"{{source: text, path: '{str(texts).replace('${', '$${')}'}}"
    meant = resolve_spec(load_spec(spec_file({"{source: markov, vocab: 16, seed: 1}": data})))
    assert meant.data.path == str(texts)
    started = []
    monkeypatch.setattr(
        detach.subprocess, "Popen", lambda command, **_: started.append(command) or SimpleNamespace(pid=1)
    )
    detach.detach(meant, tmp_path / "out", None)
    ((*_, file, _, _),) = started
    assert resolve_spec(load_spec(file)) == meant
    assert Store.existing(tmp_path / "out").specs() == [meant]
