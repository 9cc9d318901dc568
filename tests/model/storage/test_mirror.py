"""What was pushed is what is pulled, on any machine, whatever happened in between, and whoever else was writing."""

import json
import random
import shutil

import pytest

from nextscale.model.storage import bucket as buckets
from nextscale.model.storage.bucket import Bucket, BucketError
from nextscale.model.storage.mirror import Mirror, newest_states


@pytest.fixture
def address(s3):
    return f"{s3.bucket()}/out"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(buckets, "RETRIES", {"max_retries": 0})
    buckets._opened.cache_clear()
    yield
    buckets._opened.cache_clear()


def written(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def pulled(address, folder, **options):
    shutil.rmtree(folder, ignore_errors=True)
    Mirror(address, folder, **options).pull()
    return read(folder)


LONG = bytes(range(256)) * 200
FILES = {"a.json": b'{"x": 1}', "deeper/b.bin": b"\xff\x00", "c.jsonl": b"row\n" * 9_000, "d.bin": LONG, "empty": b""}


class TestAFolder:
    def test_another_machine_makes_it_again(self, address, tmp_path):
        Mirror(address, written(tmp_path / "a", FILES), generation=1).push()
        assert pulled(address, tmp_path / "b") == FILES

    def test_and_follows_what_becomes_of_it(self, address, tmp_path):
        here, there = Mirror(address, written(tmp_path / "a", FILES), generation=1), Mirror(address, tmp_path / "b")
        here.push()
        assert there.pull()
        assert not there.pull()
        (tmp_path / "a/d.bin").unlink()
        files = {"a.json": b"{}", "c.jsonl": FILES["c.jsonl"] + b"more\n", "new": LONG}
        written(tmp_path / "a", files)
        here.push()
        assert there.pull()
        assert read(tmp_path / "b") == read(tmp_path / "a")

    def test_what_stays_here_does(self, address, tmp_path):
        written(tmp_path / "a", FILES | {"runs/x": b"1", "leases/1.json": b"", ".hidden": b""})
        Mirror(address, tmp_path / "a", left_out=lambda path: path.startswith("runs/"), generation=1).push()
        assert pulled(address, tmp_path / "b") == FILES

    def test_nothing_new_is_not_pushed_and_nothing_unused_is_kept(self, s3, address, tmp_path):
        mirror = Mirror(address, written(tmp_path / "a", FILES), generation=1)
        for round_ in range(5):
            written(tmp_path / "a", {"d.bin": LONG + bytes([round_]), "c.jsonl": b"row\n" * (9_000 + round_)})
            mirror.push()
        s3.log.clear()
        mirror.push()
        assert s3.log == []
        states, parts = Bucket(address).list("states/"), Bucket(address).list("parts/")
        (state,) = states
        files = json.loads(Bucket(address).get(state.name))
        used = [name for entry in files.values() if isinstance(entry, list) for name, _ in entry]
        assert sorted(used) == [one.name for one in parts]

    def test_what_grows_costs_what_it_grew(self, s3, address, tmp_path):
        """In bytes n log n, not n squared; in parts log n."""
        line, lines, sent = b"x" * 999 + b"\n", 24, 0
        mirror = Mirror(address, tmp_path / "a", generation=1)
        for i in range(lines):
            written(tmp_path / "a", {"a.jsonl": line * (i + 20)})
            before = {one.name for one in Bucket(address).list("parts/")}
            mirror.push()
            parts = Bucket(address).list("parts/")
            sent += sum(one.size for one in parts if one.name not in before)
        assert len(parts) <= 6
        assert sent < 10 * len(line) * (lines + 20)
        assert pulled(address, tmp_path / "b") == {"a.jsonl": line * (lines + 19)}

    def test_what_was_written_anew_is_not_taken_for_grown(self, address, tmp_path):
        mirror = Mirror(address, written(tmp_path / "a", {"a.jsonl": b"old\n" * 9_000}), generation=1)
        mirror.push()
        written(tmp_path / "a", {"a.jsonl": b"new\n" * 9_999})
        mirror.push()
        assert pulled(address, tmp_path / "b") == {"a.jsonl": b"new\n" * 9_999}

    def test_one_who_only_reads_has_no_checkpoints_but_knows_of_them(self, s3, address, tmp_path):
        files = {"config.json": b"{}", "checkpoints/64/x": LONG, "checkpoints/128/y": LONG}
        mirror = Mirror(address, written(tmp_path / "a", files), generation=1)
        mirror.push()
        s3.log.clear()
        reader = Mirror(address, tmp_path / "b", whole=False, remembers=True)
        reader.pull()
        stand_ins = {name: bytes(len(LONG)) for name in ("checkpoints/64/x", "checkpoints/128/y")}
        assert read(tmp_path / "b") == {"config.json": b"{}"} | stand_ins
        assert (tmp_path / "b/checkpoints/64/x").stat().st_blocks == 0
        assert sum("/parts/" in key for method, key in s3.log if method == "GET") == 0
        shutil.rmtree(tmp_path / "a/checkpoints/64")
        mirror.push()
        Mirror(address, tmp_path / "b", whole=False, remembers=True).pull()
        assert [path.name for path in (tmp_path / "b/checkpoints").iterdir()] == ["128"]

    def test_one_who_only_reads_may_delete_them_there(self, address, tmp_path):
        files = {"config.json": b"{}", "checkpoints/64/x": LONG, "checkpoints/128/y": LONG}
        Mirror(address, written(tmp_path / "a", files), generation=1).push()
        reader = Mirror(address, tmp_path / "b", whole=False)
        reader.pull()
        assert not reader.differs
        shutil.rmtree(tmp_path / "b/checkpoints/64")
        written(tmp_path / "b", {"new": b"1"})
        assert reader.differs
        reader.take(2, lambda: None)
        reader.push()
        left = {name: content for name, content in files.items() if "64" not in name} | {"new": b"1"}
        assert pulled(address, tmp_path / "c") == left
        assert len(Bucket(address).list("parts/")) == 1

    def test_a_later_process_reads_what_is_new_alone(self, s3, address, tmp_path):
        mirror = Mirror(address, written(tmp_path / "a", FILES), generation=1)
        mirror.push()
        Mirror(address, tmp_path / "b", remembers=True).pull()
        written(tmp_path / "a", {"new.bin": LONG})
        mirror.push()
        s3.log.clear()
        Mirror(address, tmp_path / "b", remembers=True).pull()
        assert read(tmp_path / "b") == FILES | {"new.bin": LONG}
        assert sum("/parts/" in key for _, key in s3.log) == 1
        (tmp_path / "b/d.bin").write_bytes(b"rot")
        Mirror(address, tmp_path / "b", remembers=True).pull()
        assert read(tmp_path / "b") == FILES | {"new.bin": LONG}

    def test_the_newest_of_many(self, address, tmp_path):
        for name, generation in (("x", 1), ("y", 3)):
            written(tmp_path / name, FILES)
            Mirror(f"{address}/runs/{name}", tmp_path / name, generation=generation).push()
        assert newest_states(address, "runs/") == {
            "x": "states/000001-00000001.json",
            "y": "states/000003-00000001.json",
        }


class TestCheckpoints:
    def test_one_that_is_being_written_or_deleted_is_none(self, address, tmp_path):
        files = {"checkpoints/64/x": LONG, "checkpoints/64/y": b"1", "checkpoints/128.tmp/x": b"1"}
        mirror = Mirror(address, written(tmp_path / "a", files), generation=1)
        mirror.push()
        whole = {name: content for name, content in files.items() if "128" not in name}
        assert pulled(address, tmp_path / "b") == whole
        (tmp_path / "a/checkpoints/64/x").unlink()
        mirror.push()
        assert pulled(address, tmp_path / "b") == {}

    def test_one_that_goes_while_it_is_read_is_none(self, address, tmp_path, monkeypatch):
        files = {"checkpoints/64/x": LONG, "checkpoints/64/y": LONG, "a": b"1"}
        mirror, put = Mirror(address, written(tmp_path / "a", files), generation=1), Bucket.put

        def putting(bucket, name, content, size=0):
            put(bucket, name, content, size)
            (tmp_path / "a/checkpoints/64/x").unlink(missing_ok=True)

        monkeypatch.setattr(Bucket, "put", putting)
        mirror.push()
        assert pulled(address, tmp_path / "b") == {"a": b"1"}


class Lost(Exception):
    pass


class TestTwoHolders:
    def test_a_zombie_writes_what_nobody_reads_and_deletes_nothing(self, address, tmp_path):
        """It was pushing while another took over: in whatever order their requests arrive."""
        files = {"a.bin": LONG, "b.bin": LONG + b"b"}
        owner = [1]

        def check():
            if owner[0] != 1:
                raise Lost

        zombie = Mirror(address, written(tmp_path / "a", files), generation=1, check=check)
        zombie.push()
        owner[0] = 2
        heir = Mirror(address, tmp_path / "b", generation=2)
        heir.pull()
        (tmp_path / "a/a.bin").unlink()
        written(tmp_path / "a", {"b.bin": b"of the zombie"})
        for _ in range(3):
            with pytest.raises(Lost):
                zombie.push()
        written(tmp_path / "b", {"c": b"of the heir"})
        heir.push()
        with pytest.raises(Lost):
            zombie.push()
        assert pulled(address, tmp_path / "c") == files | {"c": b"of the heir"}

    def test_what_was_pushed_before_another_took_over_is_found(self, address, tmp_path):
        first = Mirror(address, written(tmp_path / "a", FILES), generation=1)
        first.push()
        written(tmp_path / "a", {"d.bin": b"new"})
        first.push()
        assert pulled(address, tmp_path / "b", generation=2) == FILES | {"d.bin": b"new"}


class TestFaults:
    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize("request_", range(4))
    def test_a_push_that_fails_changes_nothing_and_the_next_has_it_all(self, s3, address, tmp_path, request_):
        mirror = Mirror(address, written(tmp_path / "a", FILES), generation=1)
        mirror.push()
        before = pulled(address, tmp_path / "b")
        written(tmp_path / "a", {"c.jsonl": FILES["c.jsonl"] * 2, "d.bin": LONG * 2, "e.bin": LONG})
        puts, real = iter(range(99)), Bucket.put
        with pytest.MonkeyPatch.context() as patch:

            def failing(bucket, name, content, size=0):
                if next(puts) >= request_:
                    s3.fail("PUT", name, "busy")
                real(bucket, name, content, size)

            patch.setattr(Bucket, "put", failing)
            with pytest.raises(BucketError):
                mirror.push()
        assert pulled(address, tmp_path / "b") == before
        s3.faults.clear()
        mirror.push()
        assert pulled(address, tmp_path / "b") == read(tmp_path / "a")

    @pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
    def test_at_random(self, s3, address, tmp_path, seed):
        dice, folder = random.Random(seed), tmp_path / "a"
        mirror = Mirror(address, written(folder, FILES), generation=1)
        follower = Mirror(address, tmp_path / "b")
        for _ in range(12):
            name = dice.choice(["x.jsonl", "y.jsonl", "z.bin", "deep/w.bin"])
            what = dice.choice(["grow", "write", "delete"])
            (folder / name).parent.mkdir(exist_ok=True)
            if what == "delete":
                (folder / name).unlink(missing_ok=True)
            else:
                with (folder / name).open("ab" if what == "grow" else "wb") as file:
                    file.write(dice.randbytes(dice.choice([10, 20_000])))
            for method, key in (("PUT", "out"), ("GET", "out"), ("POST", "?delete")):
                s3.fail(method, key, dice.choice(["busy", "lost"]), times=dice.randrange(2))
            mirror.push()
            follower.pull()
            assert read(tmp_path / "b") == read(folder)
