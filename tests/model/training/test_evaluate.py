"""Evaluation: on sets of one's own, and along a run without a trace in its training."""

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from nextscale.model.config.data import MarkovData, TextData, TokenData
from nextscale.model.config.evaluation import EvaluationConfig
from nextscale.model.config.run import Parent
from nextscale.model.data.sources import open_sets, resolve, resolve_sets
from nextscale.model.errors import InputError
from nextscale.model.training import attempt
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.evaluate import evaluation_points
from nextscale.model.training.train import train

OTHER = {"source": "markov", "vocab": 16, "seed": 7}


class StoppedError(Exception):
    pass


def measured(run, **evaluation):
    return run.model_copy(update={"evaluation": EvaluationConfig(tokens=512, **evaluation)})


def without_seconds(record):
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.fixture
def folder(run_directory):
    return lambda name: type(run_directory)(run_directory.path.parent / name)


class TestPoints:
    def test_they_are_whole_steps_evenly_spaced_in_log_tokens_up_to_the_end(self, tiny_run):
        run = measured(tiny_run(steps=40_000), points=3)
        points = evaluation_points(run)
        assert all(point % 32 == 0 and 0 < point < run.tokens for point in points)
        late = np.log10([point for point in points if point > 10_000])
        assert np.diff(late) == pytest.approx(1 / 3, abs=2e-3)
        assert 100_000 in points, "powers of ten are among them"
        assert evaluation_points(measured(run)) == []

    def test_they_are_the_same_for_runs_of_every_length(self, tiny_run):
        long, short = (evaluation_points(measured(tiny_run(steps=steps), points=5)) for steps in (3000, 700))
        assert short == [point for point in long if point < 700 * 32]

    def test_many_in_the_first_decade_are_one_a_step(self, tiny_run):
        assert evaluation_points(measured(tiny_run(steps=10), points=1000)) == [32 * step for step in range(1, 10)]

    def test_a_branch_with_a_parent_has_those_after_it(self, tiny_run):
        run = measured(tiny_run(steps=100), points=10)
        branch = run.model_copy(update={"parent": Parent(run_id="0" * 12, tokens=8)})
        points = evaluation_points(branch)
        assert min(points) == 8 + 32
        assert all((point - 8) % 32 == 0 and point < branch.tokens for point in points)


class TestCurve:
    @pytest.fixture
    def run(self, tiny_run):
        return measured(tiny_run(steps=600, schedule="linear"), points=4, sets={"other": OTHER})

    def test_it_changes_nothing_of_training_and_ends_in_the_record(self, run, tiny_run, folder):
        record, plain = train(run, folder("points")), train(tiny_run(steps=600, schedule="linear"), folder("plain"))
        assert folder("points").metrics_file.read_bytes() == folder("plain").metrics_file.read_bytes()
        assert record["loss"] == plain["loss"]
        assert not folder("plain").evaluations_file.exists()
        rows = folder("points").evaluations()
        assert [row["tokens"] for row in rows] == [*evaluation_points(run), run.tokens]
        assert {key: rows[-1][key] for key in ("loss", "loss_other")} == {
            key: record[key] for key in ("loss", "loss_other")
        }
        assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
        assert rows[-1]["lr"] == pytest.approx(0.02 / (600 - 60), rel=1e-5), "of the last step taken"

    def test_what_it_measures_is_a_run_s_loss_there(self, tiny_run, folder):
        """Under a constant rate a run is, up to any step, a shorter run."""
        long, short = (measured(tiny_run(steps=s, schedule="constant", warmup=0), points=4) for s in (600, 312))
        train(long, folder("long"))
        record = train(short, folder("short"))
        row = next(row for row in folder("long").evaluations() if row["tokens"] == short.tokens)
        assert row["loss"] == record["loss"]

    @pytest.mark.slow
    def test_resumed_and_uninterrupted_curves_are_the_same_to_the_bit(self, run, folder, monkeypatch):
        monkeypatch.setattr(attempt, "_PROGRESS_SECONDS", 0)
        straight, cut = train(run, folder("straight")), folder("cut")
        for tokens, every_seconds in ((3_000, 0), (9_000, 3600), (run.tokens, 0)):

            def stop(done, tokens=tokens):
                if done >= tokens and cut.evaluations() and cut.evaluations()[-1]["tokens"] >= min(tokens, 17_000):
                    raise StoppedError

            with pytest.raises(StoppedError):
                train(run, cut, checkpoint=CheckpointPolicy(every_seconds=every_seconds), on_progress=stop)
        assert without_seconds(train(run, cut)) == without_seconds(straight)
        assert cut.evaluations_file.read_bytes() == folder("straight").evaluations_file.read_bytes()

    def test_a_crash_after_the_last_row_does_not_write_it_twice(self, run, folder):
        train(run, folder("run"))
        whole = folder("run").evaluations_file.read_bytes()
        (folder("run").path / "record.json").unlink()
        train(run, folder("run"))
        assert folder("run").evaluations_file.read_bytes() == whole

    @pytest.mark.slow
    def test_a_branch_takes_over_that_of_its_trunk(self, tiny_run, folder):
        wsd = {"schedule": "wsd", "warmup_tokens": 640, "cooldown": 0.25}
        trunk, branch = (measured(tiny_run(steps=steps, **wsd), points=4) for steps in (600, 300))
        train(trunk, folder(trunk.run_id), checkpoint=CheckpointPolicy(pinned=(225 * 32,)))
        train(branch, folder("branch"), trunk=Parent(run_id=trunk.run_id, tokens=225 * 32))
        train(branch, folder("alone"))
        assert folder("branch").evaluations_file.read_bytes() == folder("alone").evaluations_file.read_bytes()
        other = branch.model_copy(update={"evaluation": EvaluationConfig(tokens=512, points=5)})
        with pytest.raises(InputError, match="is no trunk of run"):
            train(other, folder("other"), trunk=Parent(run_id=trunk.run_id, tokens=225 * 32))


class TestSets:
    def test_each_is_a_column_of_the_record_and_part_of_the_name(self, tiny_run, folder):
        plain = measured(tiny_run())
        run = measured(tiny_run(), sets={"other": OTHER})
        assert run.run_id != plain.run_id
        assert run.run_id != measured(tiny_run(), sets={"another": OTHER}).run_id
        record, alone = train(run, folder("run")), train(plain, folder("plain"))
        assert record["loss"] == alone["loss"]
        assert record["loss_other"] > record["loss"] + 0.01, "it was trained on another source"
        assert record["bits_per_byte_other"] is None

    @pytest.mark.slow
    def test_a_set_of_text_is_read_whole_and_has_bits_per_byte(self, tiny_run, folder, tmp_path):
        for name, text in (("seen", "the cat sat on the mat. "), ("unseen", "colourless green ideas ")):
            (tmp_path / f"{name}.txt").write_text(text * (200 if name == "seen" else 4))
        seen, unseen = (TextData(source="text", path=str(tmp_path / f"{n}.txt"), vocab=128) for n in ("seen", "unseen"))
        run = measured(tiny_run(data=resolve(seen), steps=200), sets={"unseen": unseen})
        run = run.model_copy(update={"evaluation": resolve_sets(run.evaluation)})
        assert len(open_sets(run)["unseen"].held_out(1000)) == (4 * 23 - 1) // 8
        record = train(run, folder("run"))
        assert record["loss_unseen"] > record["loss"] + 1
        assert record["bits_per_byte_unseen"] == pytest.approx(record["loss_unseen"] / math.log(2))

    def test_a_folder_with_held_out_files_is_read_by_those(self, tiny_run, tmp_path):
        np.zeros(400, np.uint16).tofile(tmp_path / "train.bin")
        np.ones(81, np.uint16).tofile(tmp_path / "val.bin")
        run = measured(tiny_run(), sets={"mine": TokenData(source="tokens", path=str(tmp_path), vocab=16)})
        held_out = open_sets(run)["mine"].held_out(100)
        assert held_out.shape == (10, 9)
        assert (held_out == 1).all()

    def test_what_is_wrong_with_one_is_said_of_it(self, tiny_run, tmp_path):
        (tmp_path / "short.txt").write_text("short")
        sets = {"mine": TextData(source="text", path=str(tmp_path / "none"), vocab=128)}
        with pytest.raises(InputError, match=r"^evaluation\.sets\.mine\.path: there is no file or folder"):
            resolve_sets(EvaluationConfig(sets=sets))
        data = MarkovData(source="markov", vocab=128)
        short = TextData(source="text", path=str(tmp_path / "short.txt"), vocab=128)
        with pytest.raises(InputError, match=r"^evaluation\.sets\.mine\.path: .* holds not one sequence"):
            open_sets(measured(tiny_run(data=data), sets={"mine": short}))

    def test_one_that_was_not_resolved_cannot_name_a_run(self, tiny_run):
        data = MarkovData(source="markov", vocab=128)
        run = measured(tiny_run(data=data), sets={"mine": TextData(source="text", path="a", vocab=128)})
        with pytest.raises(ValueError, match="fingerprint"):
            run.run_id  # noqa: B018

    @pytest.mark.parametrize(
        "sets, says",
        [
            ({"other": OTHER | {"vocab": 17}}, r"evaluation\.sets\.other: vocab 17 is not that of the data .*16"),
            ({"same": OTHER | {"seed": 0}}, r"evaluation\.sets\.same: is the data trained on"),
            ({"By Position": OTHER}, "match pattern"),
            ({"by_position": OTHER}, "name it otherwise"),
        ],
    )
    def test_one_that_says_nothing_is_refused(self, tiny_run, sets, says):
        run = tiny_run().model_dump()
        with pytest.raises(ValidationError, match=says):
            type(tiny_run())(**run | {"evaluation": {"tokens": 512, "sets": sets}})

    def test_the_data_trained_on_is_known_by_its_content(self, tiny_run):
        here, there = (TextData(source="text", path=path, vocab=128, fingerprint="x") for path in "ab")
        run = tiny_run(data=here).model_dump()
        with pytest.raises(ValidationError, match="is the data trained on"):
            type(tiny_run())(**run | {"evaluation": {"sets": {"same": json.loads(there.model_dump_json())}}})
