"""What is read back from a folder of runs."""

import pytest
from etils import epath

from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.train import train
from nextscale.sweeps import load, load_curves
from nextscale.sweeps.design import planned_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.reading import load_spec
from nextscale.sweeps.store import Store

MEASURED = "evaluation: {tokens: 512, points: 4, sets: {other: {source: markov, vocab: 16, seed: 9}}}"


@pytest.fixture
def trained(spec_file, tmp_path):
    """Two runs of a sweep, and the folder that they are in."""
    store = Store.at(tmp_path / "out")
    spec = load_spec(spec_file({"evaluation: {tokens: 8192}": MEASURED}))
    runs = sorted((planned.config for planned in planned_runs(spec)), key=lambda run: run.tokens)[:2]
    for run in runs:
        train(run, store.run(run.run_id))
    return runs, store.root


def test_the_curves_of_a_sweep_are_one_tidy_table_that_ends_in_its_results(trained):
    runs, out = trained
    curves, table = load_curves(out), load(out).set_index("run_id")
    assert list(curves.columns) == [
        *("run_id", "params", "tokens", "flops", "lr"),
        *("loss", "bits_per_byte", "loss_other", "bits_per_byte_other"),
    ]
    assert {"loss_other", "bits_per_byte_other"} <= set(table.columns)
    assert (table["epochs"] == 1).all(), "a Markov source is fresh without end"
    assert (table["unique_tokens"] == table["tokens"]).all()
    for run in runs:
        curve = curves[curves["run_id"] == run.run_id]
        assert len(curve) > 4
        assert curve["tokens"].is_monotonic_increasing
        assert (curve["flops"] == flops_per_token(run.model) * curve["tokens"]).all()
        assert set(curve["params"]) == {parameters(run.model)}
        for column in ("tokens", "flops", "loss", "loss_other"):
            assert curve[column].iloc[-1] == table.loc[run.run_id, column]


def test_a_run_that_is_on_its_way_has_the_curve_so_far_and_counts_once(trained, tmp_path):
    runs, out = trained
    other = Store.at(tmp_path / "other").run(runs[0].run_id)
    other.write_config(runs[0])
    lines = (out / "runs" / runs[0].run_id / "evaluations.jsonl").read_text().splitlines(keepends=True)
    epath.Path(other.evaluations_file).write_text("".join(lines[:2]) + lines[2][:9])
    assert len(load_curves(tmp_path / "other")) == 2
    both = load_curves(tmp_path / "other", out)
    assert len(both) == len(load_curves(out))


def test_a_folder_without_curves_has_an_empty_table_and_one_without_a_sweep_none(tmp_path):
    assert load_curves(Store.at(tmp_path / "out").root).empty
    with pytest.raises(SpecError, match="holds no sweep"):
        load_curves(tmp_path / "nothing")
