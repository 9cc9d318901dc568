"""Data that was written to is noticed, before a run, while it reads and at its end; what was not is hashed once."""

import hashlib
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from nextscale.model.config.data import MixtureData, TextData, TokenData
from nextscale.model.data import token_files
from nextscale.model.data.sources import check_unchanged, open_sets, open_source, resolve
from nextscale.model.errors import InputError
from nextscale.model.storage.cache import cache_folder
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.train import train

VOCAB = 50
A_MINUTE = 60


def written(file, seed=0, count=20_000, age=A_MINUTE):
    """A token file that nobody has changed for so many seconds."""
    np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.uint16).tofile(file)
    aged(file, age)
    return file


def aged(file, seconds=A_MINUTE):
    then = time.time() - seconds
    os.utime(file, (then, then))


def tokens(path, **fields):
    return TokenData(source="tokens", path=str(path), vocab=VOCAB, **fields)


def overwrite(file):
    """In place: a size that stays, all tokens one."""
    content = np.memmap(file, np.uint16, "r+")
    content[:] = 7
    content.flush()


def rewrite(file):
    file.write_bytes(np.full(20_000, 7, np.uint16).tobytes())


def replace(file):
    written(file.with_name("new"), seed=1, age=A_MINUTE / 2).replace(file)


def append(file):
    with file.open("ab") as stream:
        stream.write(b"\7\0")


CHANGES = [overwrite, rewrite, replace, append]


class TestBeforeARun:
    def test_the_fingerprint_is_the_one_that_named_runs_before(self, tmp_path):
        files = [written(tmp_path / name, seed) for seed, name in enumerate(("a.bin", "b.bin", "val.bin"))]
        expected = hashlib.sha256()
        for file, split in zip(files, ("train", "train", "val"), strict=True):
            expected.update(f"{split}\0{file.stat().st_size}\0".encode() + file.read_bytes())
        assert resolve(tokens(tmp_path)).fingerprint == expected.hexdigest()[:16]

    @pytest.mark.parametrize("change", CHANGES)
    def test_what_a_process_has_open_already_is_looked_at_again(self, tmp_path, tiny_run, change):
        file = written(tmp_path / "x.bin")
        run = tiny_run(data=resolve(tokens(file)))
        before = open_source(run).sequences(0, 9)
        change(file)
        with pytest.raises(InputError, match=f"{file} has changed .*; restore it, or start a new sweep"):
            open_source(run)
        assert resolve(tokens(file)).fingerprint != run.data.fingerprint
        written(file)
        np.testing.assert_array_equal(open_source(run).sequences(0, 9), before)

    def test_content_is_read_once(self, tmp_path, tiny_run):
        """What stat cannot tell apart is not read again, by this process or one that was sent the config: only
        `nextscale verify --deep` does."""
        file = written(tmp_path / "x.bin")
        data = resolve(tokens(file))
        status = file.stat()
        overwrite(file)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert token_files.fingerprint(str(file)) != data.fingerprint
        assert resolve(tokens(file)).fingerprint == data.fingerprint
        kept = cache_folder() / "tokens"
        for record in kept.iterdir():
            record.unlink()
        open_source(tiny_run(data=pickle.loads(pickle.dumps(data))))
        with pytest.raises(InputError, match="has changed"):
            open_source(tiny_run(data=TokenData.model_validate_json(data.model_dump_json())))

    def test_data_that_was_copied_or_touched_is_the_same_data(self, tmp_path, tiny_run):
        file = written(tmp_path / "x.bin")
        run = tiny_run(data=resolve(tokens(file)))
        aged(file, A_MINUTE / 2)
        source = open_source(run)
        assert resolve(tokens(file)).semantic() == run.data.semantic()
        np.testing.assert_array_equal(source.sequences(0, 9), open_source(run).sequences(0, 9))

    def test_the_time_of_a_file_just_written_is_not_trusted(self, tmp_path, tiny_run):
        """Its next change may bear the same."""
        file = written(tmp_path / "x.bin", age=0)
        run, status = tiny_run(data=resolve(tokens(file))), file.stat()
        overwrite(file)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(InputError, match="has changed"):
            open_source(run)

    def test_it_does_without_a_place_to_keep_what_it_found(self, tmp_path, tiny_run, monkeypatch):
        (tmp_path / "no folder").write_bytes(b"")
        monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "no folder"))
        file = written(tmp_path / "x.bin")
        open_source(tiny_run(data=resolve(tokens(file))))


class TestWhileItReads:
    @pytest.fixture
    def run(self, tmp_path, tiny_run):
        return tiny_run(data=resolve(tokens(written(tmp_path / "x.bin"))), steps=300)

    def changing(self, change, after):
        """Changes the data once a run has come so far."""
        waiting = [change]

        def on_progress(done):
            if done >= after and waiting:
                waiting.pop()()

        return on_progress

    @pytest.mark.slow
    def test_what_it_read_is_not_kept_and_it_goes_on_to_the_bit(self, run, tmp_path, run_directory):
        undisturbed = train(run, run_directory.sibling("undisturbed"))
        file, policy = tmp_path / "x.bin", CheckpointPolicy(3600, pinned=(128 * 32, 256 * 32))
        change = self.changing(lambda: overwrite(file), 128 * 32 + 1)
        with pytest.raises(InputError, match=f"{file} was written to while it was read"):
            train(run, run_directory, checkpoint=policy, on_progress=change)
        assert run_directory.record() is None
        assert run_directory.checkpoint_positions == [128 * 32], "the last before it was written to"
        with pytest.raises(InputError, match="has changed"):
            train(run, run_directory)
        written(file)
        record = train(run, run_directory)
        assert {**record, "seconds": 0} == {**undisturbed, "seconds": 0}
        mine, theirs = run_directory, run_directory.sibling("undisturbed")
        assert mine.metrics_file.read_bytes() == theirs.metrics_file.read_bytes()

    @pytest.mark.slow
    def test_a_file_that_went_is_told_too(self, run, tmp_path, run_directory):
        with pytest.raises(InputError, match=r"x\.bin is gone; restore it"):
            train(run, run_directory, on_progress=self.changing((tmp_path / "x.bin").unlink, 1))
        assert run_directory.record() is None

    def test_so_is_a_validation_set_and_a_part_of_a_mixture(self, tmp_path, tiny_run):
        parts = {name: resolve(tokens(written(tmp_path / f"{name}.bin", i))) for i, name in enumerate("abc")}
        mixture = MixtureData(source="mixture", sources={n: {"weight": 1, "data": parts[n]} for n in "ab"})
        run = tiny_run(data=mixture)
        run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"sets": {"c": parts["c"]}})})
        for name in "abc":
            source = open_source(run)
            sources = [source, *open_sets(run, source).values()]
            check_unchanged(sources)
            append(tmp_path / f"{name}.bin")
            with pytest.raises(InputError, match=rf"{name}\.bin was written to"):
                check_unchanged(sources)
            written(tmp_path / f"{name}.bin", "abc".index(name))

    def test_so_are_the_kept_tokens_of_a_text(self, tmp_path, tiny_run):
        (tmp_path / "a.txt").write_text("to be or not to be " * 99)
        source = open_source(tiny_run(data=resolve(TextData(source="text", path=str(tmp_path / "a.txt"), vocab=128))))
        check_unchanged([source])
        append(Path(source.split.windows.shards[0].filename))
        with pytest.raises(InputError, match="was written to"):
            check_unchanged([source])
