"""The specs that ship: each is planned at both of its scales, known by name, and three of them run to their finding."""

import json

import numpy as np
import pytest

from nextscale.sweeps.commands.specs import purpose
from nextscale.sweeps.design.expand import planned_runs, resolve_spec
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.plan import plan
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.spec.layers import ready_specs

STUDIES = {
    "chinchilla": "approaches",
    "data_constrained": "repetition",
    "induction": "induction",
    "kaplan": "power-laws",
    "moe": "leverage",
    "mup_transfer": "transfer",
    "overtraining": "over-training",
    "porian": "corrections",
    "steplaw": "hyperparameters",
    "wsd_ladder": "horizons",
}
LAPTOP, POD = 4e12, 1e20
"""FLOPs: of minutes on two cores at the most, and of days on one GPU at the least (an H100 does 4e19 in a day)."""


@pytest.fixture(scope="module")
def token_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "train.bin"
    np.random.default_rng(0).integers(0, 50257, 1_000_000).astype(np.uint16).tofile(path)
    return path


@pytest.mark.parametrize("name, finding", STUDIES.items())
def test_a_study_is_planned_at_both_scales(name, finding, token_file, monkeypatch):
    monkeypatch.delenv("TOKENS", raising=False)
    laptop = load_spec(name)
    assert laptop.findings == [finding]
    assert laptop.name == name.replace("_", "-")
    assert plan(planned_runs(resolve_spec(laptop))).total_flops < LAPTOP
    with pytest.raises(SpecError, match="the variable TOKENS is not set"):
        load_spec(name, ["scale=pod"])
    monkeypatch.setenv("TOKENS", str(token_file))
    pod = load_spec(name, ["scale=pod"])
    assert pod.findings == [finding]
    assert pod.data.source == "tokens"
    assert pod.training.dtype == "bfloat16"
    runs = planned_runs(resolve_spec(pod))
    assert plan(runs).total_flops > POD / (10 if name == "induction" else 1)
    assert min(run.config.training.steps for run in runs) >= 1000


@pytest.mark.parametrize("name", STUDIES)
def test_the_command_plans_it_where_pods_are(name, token_file, monkeypatch, called):
    monkeypatch.setenv("TOKENS", str(token_file))
    code, said, _ = called("plan", name, "--set", "scale=pod", "--json")
    assert code == 0
    found = json.loads(said)
    assert {row["pool"] for row in found["runs"]} == {"h100"}
    assert not [warning for warning in found["warnings"] if "fewer than" in warning or "whole steps" in warning]


def test_specs_are_listed_and_printed_to_be_copied(nextscale, tmp_path):
    known = json.loads(nextscale("specs", "--json").stdout)["specs"]
    assert set(known) == set(ready_specs()) > set(STUDIES)
    shown = nextscale("specs").stdout
    assert all(name in shown for name in known)
    copy = tmp_path / "mine.yaml"
    copy.write_text(nextscale("specs", "wsd-ladder").stdout)
    assert load_spec(copy) == load_spec("wsd_ladder")
    refused = nextscale("specs", "chinchila")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "nextscale: chinchila: there is no such file, nor ready spec; those are chinchilla,"
    )


def test_each_says_in_one_sentence_what_it_is_for():
    for name, path in ready_specs().items():
        said = purpose(path)
        assert said.endswith("."), name
        assert len(said) < 200, name


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_spec("trunks").name == "trunks"
    (tmp_path / "trunks").write_text("extends: quickstart\nname: mine\n")
    assert load_spec("trunks").name == "mine"
    with pytest.raises(SpecError, match=r"nope\.yaml: there is no such file"):
        load_spec("nope.yaml")


def test_a_holdout_needs_a_law(spec_file):
    with pytest.raises(SpecError, match=r":12: holdout: is forecast by a law, and forecast\.law is none"):
        load_spec(spec_file(), ["forecast.law=none"])


@pytest.mark.slow
@pytest.mark.soak
class TestForReal:
    """From the command line to the finding, at laptop scale."""

    @staticmethod
    def told(name, nextscale, out):
        ended = nextscale("run", name, "--out", out, timeout=900)
        assert ended.returncode == 0, ended.stderr
        summary = json.loads((out / "summary.json").read_text())
        assert (out / "figures" / f"{STUDIES[name]}.png").exists()
        assert (out / "report.html").read_text().count("<svg") >= 1
        found = summary["findings"][STUDIES[name]]
        for table in found["tables"]:
            assert table["title"].partition("(")[0].strip() in ended.stdout
        return found["told"]

    def test_kaplan(self, nextscale, tmp_path):
        laws = self.told("kaplan", nextscale, tmp_path)["laws"]
        assert set(laws) == {"N", "D", "C"}
        for law in laws.values():
            assert 0.03 < law["interval"][0] < law["alpha"] < law["interval"][1] < 0.09
            assert law["noise"] < 0.02
        assert laws["C"]["alpha"] < min(laws["N"]["alpha"], laws["D"]["alpha"]), "compute has to pay for both"
        assert (laws["N"]["runs"], laws["D"]["runs"]) == (5, 5)

    def test_mup_transfer(self, nextscale, tmp_path):
        told = self.told("mup_transfer", nextscale, tmp_path)
        assert told["standard"]["drift"]["exponent"] < -0.4
        assert abs(told["mup"]["drift"]["exponent"]) < 0.3

    def test_wsd_ladder(self, nextscale, tmp_path):
        told = self.told("wsd_ladder", nextscale, tmp_path)
        losses = {(cell["params"], cell["tokens"]): cell["loss"] for cell in told["losses"]}
        assert len(losses) == 12
        assert losses[max(losses)] == min(losses.values()) > 2.188
        (rung,) = told["next"]
        assert abs(rung["error"]) < 0.03
