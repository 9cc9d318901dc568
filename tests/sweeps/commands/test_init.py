"""`nextscale init` writes specs that plan."""

import io
import json

import pytest

from nextscale.sweeps.commands.init import spec_text
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.spec_files import load_spec

ANSWERS = {"name": "mine", "data": "markov", "largest": 4e11, "budgets": 4, "sizes": 5, "beyond": 4}


@pytest.mark.parametrize(
    "answers",
    [{}, {"largest": 1e16, "data": "python-stdlib"}, {"largest": 1e21, "sizes": 7}, {"budgets": 2, "sizes": 6}],
)
def test_what_it_writes_is_a_spec_at_every_scale(tmp_path, answers):
    path = tmp_path / "x.yaml"
    answers = ANSWERS | answers
    path.write_text(spec_text("x.yaml", **answers))
    assert path.read_text().startswith("# yaml-language-server: $schema=nextscale.schema.json\n")
    for scale in [[], ["scale=large"]] if answers["largest"] < 1e20 else [[]]:
        runs = planned_runs(load_spec(path, scale))
        fitted = [run for run in runs if run.role == "fit"]
        assert len(fitted) == answers["budgets"] * answers["sizes"]
        assert len(runs) == len(fitted) + 3
        if not scale:
            assert max(run.budget for run in fitted) == pytest.approx(answers["largest"])


@pytest.mark.parametrize(
    "answers, says",
    [
        ({"name": "a b"}, "^name: string should match"),
        ({"largest": 1e9}, r"^design\.sizes: about .* there are only"),
        ({"budgets": 20}, r"^design\.sizes: about"),
        ({"sizes": 2, "budgets": 2}, "4 runs cannot fix the 5 parameters"),
        ({"data": "a\nb"}, None),
    ],
)
def test_answers_that_make_no_spec(answers, says):
    if says is None:
        assert spec_text("x.yaml", **ANSWERS | answers)
        return
    with pytest.raises(SpecError, match=says):
        spec_text("x.yaml", **ANSWERS | answers)


def test_the_command_asks_and_never_writes_over(nextscale, called, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = nextscale("init", "sweep.yaml", input="mine\n\n\n6\n\n\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    spec = load_spec(tmp_path / "sweep.yaml")
    assert (spec.name, spec.design.flops.count, spec.design.sizes) == ("mine", 6, 5)
    assert (tmp_path / "nextscale.schema.json").exists()
    text = (tmp_path / "sweep.yaml").read_text()
    code, _, refused = called("init", "sweep.yaml", "--yes", "--name", "other")
    assert code == 2
    assert "sweep.yaml: is there already; name another file, or say --force" in refused
    assert (tmp_path / "sweep.yaml").read_text() == text
    code, _, error = called("init", "sweep.yaml", "--yes", "--name", "other", "--force")
    assert code == 0, error
    assert called("plan", "sweep.yaml")[0] == 0
    wrong = nextscale("init", "new.yaml", input="\n\n\n0\n", cwd=tmp_path)
    assert wrong.returncode == 2 and "is from 2 to 20, not 0" in wrong.stderr
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.parametrize("data", ["markov", "python-stdlib"])
def test_the_defaults_plan_without_a_fault(called, tmp_path, data):
    """But that no run is repeated, which would double the price."""
    assert called("init", tmp_path / "x.yaml", "--yes", "--data", data)[0] == 0
    code, out, _ = called("plan", tmp_path / "x.yaml", "--json")
    (warning,) = json.loads(out)["warnings"]
    assert code == 0 and warning.startswith("no run is repeated with another seed")


@pytest.mark.parametrize(
    "pressed, code, says",
    [
        (EOFError, 2, "\nnextscale: init: its questions were not answered; say --yes to take the defaults\n"),
        (KeyboardInterrupt, 130, "\n"),
    ],
)
def test_questions_that_nobody_answers(called, monkeypatch, tmp_path, pressed, code, says):
    class Keyboard(io.StringIO):
        def readline(self, *_):
            raise pressed

    monkeypatch.setattr("sys.stdin", Keyboard())
    ended, _, err = called("init", tmp_path / "x.yaml")
    assert (ended, err) == (code, says)
    assert not (tmp_path / "x.yaml").exists()
