"""What is asked of a model at the end of its run: scores beside the record, and a record where there can be none."""

import sys

import pytest

from nextscale.model.config.data import TextData
from nextscale.model.config.evaluation import EvaluationConfig
from nextscale.model.config.run import ModelFamily
from nextscale.model.data.sources import resolve, resolve_sets
from nextscale.model.errors import InputError, Stopped
from nextscale.model.record import RunDirectory
from nextscale.model.trained.at_end import asked_at_end
from nextscale.model.training.train import train
from tests.model.trained.test_tasks import CHOICE, ROLLING, files  # noqa: F401


@pytest.fixture
def of_text(tiny_run, tmp_path):
    """`of_text("task", ...)` is a run on text whose model is to be scored on tasks."""
    path = tmp_path / "text.txt"
    path.write_text("the red one, the blue one, and ten green ones. " * 400)
    data = resolve(TextData(source="text", path=str(path), vocab=256))

    def build(*tasks, **more):
        evaluation = resolve_sets(EvaluationConfig(tokens=512, tasks=tasks, **more))
        run = tiny_run(data=data, family=ModelFamily(depth=1, heads=2, context=16))
        return run.model_copy(update={"evaluation": evaluation})

    return build


@pytest.fixture
def trained_to_the_end(run_directory):
    def run(config, **options):
        return train(config, run_directory, ask=asked_at_end(config, run_directory), **options)

    return run


def test_tasks_are_no_part_of_what_a_run_means(of_text):
    assert of_text("arc_easy", few_shot=3).run_id == of_text().run_id
    assert asked_at_end(of_text(), None) is None


def test_a_task_of_ones_own_is_found_before_anything_is_trained(of_text, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text("task: own\n")
    monkeypatch.chdir(tmp_path)
    assert of_text("own.yaml", "arc_easy").evaluation.tasks == (str(tmp_path / "own.yaml"), "arc_easy")
    with pytest.raises(InputError, match=r"evaluation\.tasks: there is no file .*no\.yaml"):
        of_text("no.yaml")


@pytest.mark.slow
def test_without_the_harness_the_loss_is_there_and_a_note_says_what_is_not(
    of_text, trained_to_the_end, run_directory, monkeypatch
):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "nextscale.model.trained.tasks", raising=False)
    record = trained_to_the_end(of_text("arc_easy"))
    assert record["notes"] == [
        "evaluation.tasks arc_easy: not scored: needs lm_eval; pip install 'nextscale[examples]'; "
        f"`nextscale model evaluate {run_directory.path} --tasks arc_easy` asks again"
    ]
    plain = train(of_text(), RunDirectory(run_directory.path.parent / "plain"))
    assert "notes" not in plain
    assert plain["loss"] == record["loss"]


@pytest.mark.slow
def test_a_run_that_is_stopped_while_it_is_asked_goes_on_with_that(of_text, trained_to_the_end, run_directory):
    reached = []
    with pytest.raises(Stopped, match="before all was asked of its model"):
        # Asked to stop only once all tokens are done.
        trained_to_the_end(
            of_text("arc_easy"), on_progress=reached.append, stop=lambda: reached[-1:] == [of_text().tokens]
        )
    assert run_directory.record() is None
    began = len(reached)
    trained_to_the_end(of_text("arc_easy"), on_progress=reached.append)
    assert set(reached[began:]) == {of_text().tokens}, "not a step is made again"
    assert run_directory.record()["status"] == "done"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_the_finished_run(of_text, trained_to_the_end, run_directory, files):  # noqa: F811
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'nextscale[examples]'")
    from nextscale.model.trained.load import load_trained
    from nextscale.model.trained.tasks import score

    tasks = [files(CHOICE), files(ROLLING)]
    record = trained_to_the_end(of_text(*tasks, "no_such_task"))
    assert [note.split(":")[0] for note in record["notes"]] == ["evaluation.tasks no_such_task"]
    assert run_directory.task_scores() == score(load_trained(run_directory), tasks)["scores"]
