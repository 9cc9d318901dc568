"""Each fault of a design is found where it is, told with a way to mend it, and not found where it is not."""

import re
from importlib import resources

import numpy as np
import pytest

from nextscale.model.accounting import flops_per_token, parameters
from nextscale.sweeps import load_spec, planned_runs
from nextscale.sweeps.design import review
from nextscale.sweeps.design.expand import resolve_spec
from nextscale.sweeps.design.prior import NOISE, PUBLISHED, Prior, prior_of_runs, published_prior

GOOD = """\
name: good
data: {source: markov, vocab: 64, seed: 0}
model: {depth: 2, heads: 4, context: 64, position: alibi, mlp: relu2}
training: {batch_tokens: 256, schedule: linear, lr: 0.01}
design:
  kind: isoflop
  flops: [2.5e+10, 6.25e10, 1.5625e11, 3.90625e11]
  widths: [[8, 12, 16, 24, 32], [12, 16, 24, 32, 40], [16, 24, 32, 40, 48], [24, 32, 40, 48, 64]]
  seeds: [0, 1]
holdout: {flops: 1.5625e12, widths: [40, 48, 64, 80]}
"""
WSD = {
    "design.kind": "wsd",
    "design.widths": "[8, 12, 16, 24]",
    "design.tokens": "[4e5, 6e5, 8e5]",
    "training.schedule": "wsd",
    "training.warmup_tokens": "25600",
    "holdout.flops": "5e11",
}


@pytest.fixture
def spec(tmp_path):
    """The spec of a design without faults, with other values of some keys."""

    def read(**changes):
        path = tmp_path / "spec.yaml"
        path.write_text(GOOD if "design.tokens" not in changes else re.sub(r"\n  flops.*", "", GOOD))
        return resolve_spec(load_spec(path, [f"{key}={value}" for key, value in changes.items()]))

    return read


def found(spec, prior=None):
    planned = planned_runs(spec)
    fitted = [run for run in planned if run.role == "fit"]
    N, D = (np.array([getattr(run, name) for run in fitted], float) for name in ("params", "tokens"))
    return review.review(planned, prior or published_prior(N, D))


def test_a_good_design_has_no_fault(spec):
    assert found(spec()) == []
    assert found(spec(**WSD)) == []


def test_of_the_quickstart_only_what_is_so():
    with resources.as_file(resources.files("nextscale.sweeps") / "specs" / "quickstart.yaml") as path:
        (only,) = found(load_spec(path))
    assert "another seed" in only


FAULTS = [
    ({"training.batch_tokens": 2048}, "shortest 66.*warm-up"),
    ({"design.widths": "[[8, 12, 16], [12, 16, 24, 32], [16, 24, 32, 40], [24, 32, 40, 48]]"}, "3 sizes at 2.5e.10"),
    ({"design.flops": "[1e11, 3e11]", "design.widths": "[[16, 24, 32, 40], [24, 32, 40, 48]]"}, "2 budgets: three"),
    ({"design.seeds": "[3]"}, "design.seeds"),
    ({"holdout.flops": "6e11"}, "only 1.54 times"),
    ({"holdout.flops": "6e12"}, "15.4 times the largest budget"),
    ({"training.batch_tokens": 5120, "holdout": "null"}, "miss a budget by up to"),
    ({**WSD, "design.widths": "[8, 12]", "holdout": "null"}, "2 sizes in all"),
    ({**WSD, "design.tokens": "[4e5, 8e5]"}, "2 lengths in all"),
    ({"training.parametrization": "standard"}, "one learning rate, 0.01, for widths 8 to 64.*mup"),
    ({"design.flops": "[2.5e13, 6e13, 2e14, 3.9e14]", "holdout": "null"}, "below the best one by the usual 20.*larger"),
]


@pytest.mark.parametrize("changes, says", FAULTS)
def test_a_fault_is_told(spec, changes, says):
    assert re.search(says, "\n".join(found(spec(**changes))))


def test_size_and_data_that_rise_together(spec):
    models = [run.config.model for run in planned_runs(spec()) if run.budget == 3.90625e11 and run.config.seed == 0]
    budgets = [40 * parameters(model) * flops_per_token(model) for model in models]
    alone = {"design.flops": budgets, "design.widths": [[model.width] for model in models], "holdout": "null"}
    (told,) = review.collinear(planned_runs(spec(**alone)))
    assert "rise together, as at one ratio" in told
    assert review.collinear(planned_runs(spec())) == []


def test_one_budget_is_a_trade(spec):
    runs = [run for run in planned_runs(spec()) if run.budget == 3.90625e11]
    assert "trade off" in review.collinear(runs)[0]


def test_data_read_more_than_four_times(spec, tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat; " * 20_000)
    text = f"{{source: text, path: {tmp_path}/text.txt, vocab: 128}}"
    runs = planned_runs(spec(data=text))
    (told,) = review.repeated_data(runs)
    most = max(run.tokens for run in runs) / (480_000 * 31 / 32)
    assert float(re.search(r"the longest (\S+) times", told)[1]) == pytest.approx(most, rel=0.05)
    assert review.repeated_data(planned_runs(spec())) == [], "a source without end"
    small = {"design.flops": "[2.5e9, 6.25e9, 1.5625e10, 3.90625e10]", "holdout": "null"}
    assert review.repeated_data(planned_runs(spec(data=text, **small))) == []


def test_two_recipes_are_no_seeds(spec):
    runs = [run for name in (0.01, 0.02) for run in planned_runs(spec(**{"training.lr": name}))]
    assert "more than their seed" in review.many_recipes(runs)[0]
    assert review.many_recipes(planned_runs(spec())) == []


class TestWindows:
    """By the law of runs in the store."""

    def law(self, tokens_per_param):
        """Of which that is best at 1e11 FLOPs."""
        size = np.sqrt(1e11 / 6 / tokens_per_param)
        A, B = 0.1 * size**0.5, 0.1 * (size * tokens_per_param) ** 0.5
        return Prior({"E": 1, "A": A, "B": B, "alpha": 0.5, "beta": 0.5}, NOISE, "", from_own_runs=True)

    @pytest.mark.parametrize(
        "ratio, says", [(40, None), (0.5, "below the best"), (5000, "above the best"), (6.5, "end of")]
    )
    def test_best_sizes_are_within(self, spec, ratio, says):
        told = review.off_centre([run for run in planned_runs(spec()) if run.role == "fit"], self.law(ratio))
        assert told == [] if says is None else any(says in one and "runs in the store" in one for one in told)


class TestPrior:
    def test_large_runs_take_the_published_law(self):
        assert published_prior(np.array([1e8, 1e9]), np.array([1e9, 2e10])).parameters == PUBLISHED

    def test_small_ones_its_exponents_and_what_holds_across_scales(self):
        N, D = np.geomspace(3e3, 1e5, 9), np.geomspace(3e6, 1e5, 9)
        prior = published_prior(N, D)
        size = np.sqrt(np.exp(np.mean(np.log(N * D))) / 20)
        sizes = np.geomspace(size / 4, size * 4, 801)
        losses = prior.log_losses(sizes, 20 * size**2 / sizes)
        assert sizes[losses.argmin()] == pytest.approx(size, rel=0.02)
        assert np.exp(losses.min()) == pytest.approx(1)
        assert prior.parameters["E"] == pytest.approx(0.8)
        assert (prior.parameters["alpha"], prior.parameters["beta"]) == (PUBLISHED["alpha"], PUBLISHED["beta"])

    def test_runs_in_the_store_tell_their_own(self, spec):
        runs, law = planned_runs(spec()), {"E": 2.0, "A": 40.0, "B": 90.0, "alpha": 0.55, "beta": 0.48}
        true, rng = Prior(law, 0.002, ""), np.random.default_rng(0)
        records = [{"params": run.params, "tokens": run.tokens} for run in runs]
        losses = true.log_losses(*np.array([[r["params"], r["tokens"]] for r in records], float).T)
        for record, loss in zip(records, np.exp(losses + 0.002 * rng.standard_normal(len(runs))), strict=True):
            record["loss"] = loss
        prior = prior_of_runs(records, "params")
        assert prior.from_own_runs
        assert prior.noise == pytest.approx(0.002, rel=0.3)
        assert prior.parameters["E"] == pytest.approx(2.0, rel=0.03)
        assert prior_of_runs(records, "params", 0.01).noise == 0.01
        assert prior_of_runs([*records, {"loss": 2.0}], "params") == prior, (
            "a record that does not say of what is left out"
        )
        assert prior_of_runs(records[:9], "params") is None, "too few"
        one_ratio = [{"params": n, "tokens": 20 * n, "loss": 2 + 1 / n} for n in np.geomspace(1e3, 1e6, 20)]
        assert prior_of_runs(one_ratio, "params") is None
