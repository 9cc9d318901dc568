"""Trainers of a few lines, and runs of theirs."""

import json
import sys
import textwrap

import pytest
from etils import epath

from nextscale.model.config.external import ExternalRun
from nextscale.model.external.source import resolve
from nextscale.model.record import RunDirectory

HEAD = """
import json, os, signal, sys, time
run, out = json.load(open(sys.argv[1])), sys.argv[2]
def result(**told):
    with open(os.path.join(out, "result.json"), "w") as file: json.dump(told, file)
def row(**told):
    with open(os.path.join(out, "metrics.jsonl"), "a") as file: file.write(json.dumps(told) + "\\n")
"""


@pytest.fixture
def trained_by(tmp_path):
    """`trained_by(text)`: a run whose trainer is a program of that text, after some lines that read what it is told,
    with `result(loss=...)` and `row(step=..., loss=...)`; and its directory."""

    def make(text, **trainer):
        (tmp_path / "train.py").write_text(HEAD + textwrap.dedent(text))
        given = {
            "trainer": {
                "command": [sys.executable, "-I", "-S", "train.py", "{config}", "{dir}"],
                "source": ["train.py"],
                "folder": str(tmp_path),
            }
            | trainer,
            "model": {"params": 1000, "flops_per_token": 6000.0, "layers": 2},
            "training": {"batch_tokens": 10, "steps": 20, "lr": 0.1},
        }
        run = ExternalRun.model_validate(given)
        run = run.model_copy(update={"trainer": resolve(run.trainer)})
        return run, RunDirectory(epath.Path(tmp_path / "runs" / run.run_id))

    return make


@pytest.fixture
def written():
    """What a trainer left, as JSON."""
    return lambda directory, name: json.loads((directory.trainer / name).read_text())
