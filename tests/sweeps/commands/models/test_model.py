"""The commands on the trained model of a run."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from etils import epath

from nextscale.model.accounting import parameters
from nextscale.model.config.data import MarkovData, TextData, TokenData
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.model.data import sources
from nextscale.model.record import RunDirectory
from nextscale.model.trained.load import load_trained
from nextscale.model.training.train import train
from nextscale.sweeps import load

TEXT = "".join(f"{i} plus {i + 1} is {2 * i + 1}; größer → {i + 2}.\n" for i in range(300))


def run_on(data, seed=0):
    return RunConfig(
        data=data,
        model=ModelFamily(depth=1, heads=2, context=16, mlp="swiglu").at(16, data.vocab),
        training=TrainingConfig(steps=20, batch_tokens=128, lr=0.02),
        evaluation={"tokens": 256},
        seed=seed,
    )


@pytest.fixture(scope="session")
def trained_runs(made_once):
    """An output folder with a run on text, one on tokens, one that diverged, one whose model is gone, one that is not
    done; and their names."""

    def make(folder):
        (folder.parent / "told.txt").write_text(TEXT)
        np.random.default_rng(0).integers(0, 16, 4000).astype(np.uint16).tofile(folder.parent / "told.bin")
        text = sources.resolve(TextData(source="text", path=str(folder.parent / "told.txt"), vocab=128))
        tokens = sources.resolve(TokenData(source="tokens", path=str(folder.parent / "told.bin"), vocab=128))
        runs = {"text": run_on(text), "tokens": run_on(tokens)}
        runs |= {name: run_on(text, seed=i) for i, name in enumerate(("lost", "begun", "diverged"), 1)}
        directories = {
            name: RunDirectory(epath.Path(folder / "out" / "runs" / run.run_id)) for name, run in runs.items()
        }
        for name, directory in directories.items():
            if name in ("text", "tokens"):
                train(runs[name], directory)
            else:
                directory.write_config(runs[name])
        directories["lost"].write_record(directories["text"].record())
        directories["diverged"].write_record({"status": "diverged", "reason": "the loss was nan at step 7"})
        (folder / "names.json").write_text(json.dumps({name: run.run_id for name, run in runs.items()}))

    folder = made_once("trained-runs", make)
    return folder / "out", json.loads((folder / "names.json").read_text())


@pytest.mark.slow
def test_export_writes_what_was_trained(called, trained_runs, tmp_path):
    from safetensors.numpy import load_file

    out, names = trained_runs
    run = out / "runs" / names["text"]
    code, told, _ = called("model", "export", run, tmp_path / "hf", "--to", "hf", "--json")
    trained = load_trained(RunDirectory(epath.Path(run)))
    count = parameters(trained.config.model)
    norms = 3 * 16
    assert code == 0
    told = json.loads(told)
    assert told["architecture"] == "LlamaForCausalLM"
    assert told["parameters"] == count + norms  # of norms without a scale: ones
    assert told["tokenizer"] is True
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"], trained.params["embedding"])
    assert {file.name for file in (tmp_path / "hf").iterdir()} == {
        *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    }
    code, said, _ = called("model", "export", out, "--run", names["tokens"], tmp_path / "other", "--to", "hf")
    assert (code, "no tokenizer" in said) == (0, True)


@pytest.mark.slow
def test_sample_goes_on_with_a_prompt(called, trained_runs):
    out, names = trained_runs
    run = out / "runs" / names["text"]
    code, said, _ = called("model", "sample", run, "--prompt", "7 plus", "--tokens", "30", "--seed", "3")
    told = json.loads(
        called("model", "sample", run, "--prompt", "7 plus", "--tokens", "30", "--seed", "3", "--json")[1]
    )
    assert code == 0
    assert told["prompt"] == "7 plus"
    assert len(told["tokens"]) == 30
    assert said.startswith("7 plus")
    code, said, _ = called("model", "sample", out, "--run", names["tokens"], "--prompt", "3 14,15", "--tokens", "5")
    assert code == 0
    words = said.split()
    assert (words[:2], len(words[2:])) == (["3", "14,15"], 5)
    assert all(0 <= int(word) < 128 for word in words[2:])


def test_what_cannot_be_done_is_one_line(called, tmp_path):
    data = MarkovData(source="markov", vocab=16)
    runs = {name: run_on(data, seed=i) for i, name in enumerate(("begun", "diverged", "lost"))}
    folders = {name: tmp_path / "out" / "runs" / run.run_id for name, run in runs.items()}
    for name, folder in folders.items():
        RunDirectory(epath.Path(folder)).write_config(runs[name])
    RunDirectory(epath.Path(folders["diverged"])).write_record({"status": "diverged", "reason": "the loss was nan"})
    RunDirectory(epath.Path(folders["lost"])).write_record({"status": "done"})
    for run, said in {
        folders["begun"]: "is not trained to its end",
        folders["diverged"]: "diverged (the loss was nan)",
        folders["lost"]: "its trained model was not kept",
        tmp_path / "nowhere": "holds no run",
        tmp_path / "out": "name one with --run",
    }.items():
        code, _, error = called("model", "sample", run)
        assert (code, error.count("\n")) == (2, 1), error
        assert said in error
        assert str(run) in error
    code, _, error = called("model", "export", folders["lost"], tmp_path / "x", "--to", "onnx")
    assert (code, "--to onnx: is none of hf" in error) == (2, True)


@pytest.mark.slow
def test_a_prompt_of_a_run_on_tokens_is_of_numbers(called, trained_runs):
    out, names = trained_runs
    code, _, error = called("model", "sample", out, "--run", names["tokens"], "--prompt", "once")
    assert (code, "not on text" in error) == (2, True)


class TestEvaluate:
    """The task of a test is a file, and its questions are files too: nothing is asked of a network."""

    @pytest.fixture(autouse=True)
    def _needs_the_extras(self):
        pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'nextscale[examples]'")

    @pytest.fixture
    def ours(self, trained_runs, tmp_path):
        """A copy of the folder, the names of its runs, and a task."""
        out, names = trained_runs
        shutil.copytree(out, tmp_path / "out")
        rows = [{"text": f"{i} plus {i + 1} is {2 * i + 1}"} for i in range(8)]
        (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "sums.yaml").write_text(
            f"task: sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/sums.jsonl}}}}\n"
            "test_split: test\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
            "metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]\n"
        )
        return tmp_path / "out", names, tmp_path / "sums.yaml"

    @pytest.mark.slow
    def test_scores_become_columns(self, nextscale, ours, tmp_path):
        out, names, task = ours
        offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        before = load(out)
        ended = nextscale("model", "evaluate", out, "--tasks", task, "--json", env=offline)
        assert ended.returncode == 0, ended.stderr
        told = json.loads(ended.stdout)
        assert told["runs"].keys() == {names["text"]}
        score = told["runs"][names["text"]]["bits_per_byte_sums"]
        passed = " ".join(told["passed_over"])
        assert len(told["passed_over"]) == 3
        assert all(names[name] in passed for name in ("tokens", "lost", "diverged"))
        table = load(out)
        column = table.set_index("run_id")["bits_per_byte_sums"]
        assert column[names["text"]] == score
        assert column.drop(names["text"]).isna().all()
        assert table.drop(columns="bits_per_byte_sums").equals(before)

        kept = out / "runs" / names["text"] / "tasks.json"
        first = kept.read_text()
        again = nextscale("model", "evaluate", out / "runs" / names["text"], "--tasks", task, env=offline)
        assert (again.returncode, kept.read_text()) == (0, first)
        assert "bits_per_byte_sums" in again.stdout
        assert "were longer than the context" not in again.stdout  # texts are read in windows

        kept.write_text('{"scores": {"acc": "high"}}')
        for command in (["model", "evaluate", out / "runs" / names["text"], "--tasks", task], ["fit", out]):
            ended = nextscale(*command, env=offline)
            assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
            assert f"{kept}: is damaged; delete it" in ended.stderr


def test_without_lm_eval_it_says_what_to_install(called, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "nextscale.model.trained.tasks", raising=False)
    code, _, error = called("model", "evaluate", tmp_path, "--tasks", "arc_easy")
    assert (code, error) == (2, "nextscale: evaluate: needs lm_eval; pip install 'nextscale[examples]'\n")
