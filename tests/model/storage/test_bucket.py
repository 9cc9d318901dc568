"""What a bucket holds is what was written, whatever networks and services do in between."""

import datetime
import sys

import pytest

from nextscale.model.errors import InputError
from nextscale.model.storage import bucket as buckets
from nextscale.model.storage.address import absolute, address_of
from nextscale.model.storage.bucket import Bucket, BucketError
from nextscale.model.storage.cache import copied


@pytest.fixture
def bucket(s3):
    return Bucket(f"{s3.bucket()}/folder")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(buckets, "RETRIES", {"max_retries": 1, "retry_timeout": datetime.timedelta(seconds=5)})
    buckets._opened.cache_clear()
    yield
    buckets._opened.cache_clear()


class TestAddresses:
    @pytest.mark.parametrize("given", ["s3://b/x/y", "s3:/b/x/y", "s3://b/x/y/", "s3:/b/x/y/"])
    def test_one_place_has_one_address_also_after_pathlib(self, given):
        assert address_of(given) == absolute(given) == "s3://b/x/y"

    @pytest.mark.parametrize("given", ["b/x", "/s3://b", "s3:", "s3://", "s4://b", "~/gs:/b", "as3://b"])
    def test_what_is_none_is_a_path(self, given):
        assert address_of(given) is None


class TestABucket:
    def test_it_gives_back_what_was_put(self, bucket):
        large = bytes(range(256)) * (9 << 12)  # in parts
        bucket.put("a/small", b"one")
        bucket.put("a/large", iter([large[:1000], large[1000:]]), len(large))
        bucket.put("b", b"")
        assert bucket.get("a/small") == b"one"
        assert bucket.get("a/large") == large
        assert [(one.name, one.size) for one in bucket.list()] == [("a/large", len(large)), ("a/small", 3), ("b", 0)]
        assert [one.name for one in bucket.list("a/")] == ["a/large", "a/small"]
        assert b"".join(bucket.pieces(bucket.head("a/large"))) == large
        bucket.delete(["a/small", "a/none", "a/large"])
        assert [one.name for one in bucket.list()] == ["b"]
        assert bucket.head("a/small") is None

    def test_what_is_there_is_created_once(self, bucket):
        assert bucket.create("a", b"mine")
        assert not bucket.create("a", b"theirs")
        assert bucket.get("a") == b"mine"

    def test_an_object_is_read_in_the_state_that_was_listed(self, bucket):
        bucket.put("a", b"one")
        listed = bucket.head("a")
        assert bucket.read(listed, 1, 2) == b"ne"
        bucket.put("a", b"two")
        with pytest.raises(FileNotFoundError, match="has changed"):
            bucket.read(listed, 1, 2)


class TestFaults:
    @pytest.mark.parametrize("kind", ["busy", "slow", "lost", "cut"])
    def test_reading_outlasts_them(self, s3, bucket, kind):
        content = bytes(range(256)) * 4096
        bucket.put("a", content)
        s3.fail("GET", "folder/a", kind, times=2)
        s3.fail("GET", "prefix=folder", kind)
        assert b"".join(bucket.pieces(bucket.list()[0])) == content

    def test_what_is_overwritten_while_it_is_read_is_read_anew(self, s3, bucket):
        for name in ("a", "b"):
            bucket.put(name, bytes(1 << 20))
            s3.fail("GET", f"folder/{name}", "cut", then=lambda name=name: bucket.put(name, b"1" * (1 << 20)))
        assert bucket.get("a") == b"1" * (1 << 20)
        with pytest.raises(FileNotFoundError, match="has changed"):
            [*bucket.pieces(bucket.head("b"))]

    @pytest.mark.parametrize("kind", ["busy", "slow", "lost", "cut"])
    def test_folders_are_listed_though_the_answer_breaks_off(self, s3, bucket, kind):
        for name in ("a/1", "b/1"):
            bucket.put(name, b"1")
        s3.fail("GET", "delimiter", kind, times=2)
        assert bucket.folders() == ["a", "b"]

    @pytest.mark.parametrize("kind", ["busy", "slow", "lost"])
    def test_so_does_writing(self, s3, bucket, kind):
        s3.fail("PUT", "folder/a", kind, times=2)
        bucket.put("a", b"one")
        assert bucket.get("a") == b"one"

    @pytest.mark.parametrize("kind", ["busy", "slow", "lost", "cut"])
    def test_so_does_deleting(self, s3, bucket, kind):
        for name in ("a", "b"):
            bucket.put(name, b"1")
        s3.fail("POST", "delete", kind, times=2)  # S3's DeleteObjects
        bucket.delete(["a", "gone"])
        assert [one.name for one in bucket.list()] == ["b"]

    @pytest.mark.parametrize("kind", ["busy", "slow", "lost"])
    def test_what_was_created_is_known_to_be_ours(self, s3, bucket, kind):
        """Also where the answer was lost, and the second try finds the object there."""
        s3.fail("PUT", "folder/a", kind)
        assert bucket.create("a", b"mine")
        s3.fail("PUT", "folder/a", kind)
        assert not bucket.create("a", b"theirs")

    @pytest.mark.usefixtures("impatient")
    def test_one_that_stays_is_one_line(self, s3, bucket):
        s3.fail("PUT", "folder/a", "busy", times=99)
        with pytest.raises(BucketError) as error:
            bucket.put("a", b"one")
        assert error.value.filename == f"{bucket.address}/a"
        assert error.value.strerror == "the server says 503: SlowDown: Please reduce your request rate."

    @pytest.mark.usefixtures("impatient")
    def test_so_is_a_server_that_is_not_there(self, monkeypatch, s3):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(BucketError) as error:
            Bucket("s3://elsewhere/folder").list()
        assert error.value.filename == "s3://elsewhere/folder"
        assert len(error.value.strerror.splitlines()) == 1

    def test_so_is_a_bucket_that_is_not_there(self, s3):
        for ask in (Bucket.list, lambda one: one.get("a"), lambda one: one.put("a", b"one")):
            with pytest.raises(InputError, match="s3://no-such-bucket/folder: there is no such bucket; make it first"):
                ask(Bucket("s3://no-such-bucket/folder"))

    def test_without_obstore_it_is_said_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "obstore", None)
        with pytest.raises(InputError, match=r"pip install 'nextscale\[cloud\]'"):
            Bucket("s3://b").list()


class TestCopies:
    def test_what_was_copied_once_is_not_read_again(self, s3, bucket):
        bucket.put("a/one", b"1")
        bucket.put("a/two", b"22")
        found = bucket.list()
        folder = copied(bucket.address, found)
        assert {one.name: (folder / one.name).read_bytes() for one in found} == {"a/one": b"1", "a/two": b"22"}
        s3.log.clear()
        assert copied(bucket.address, found) == folder
        assert not s3.log

    def test_another_state_is_another_copy(self, bucket):
        bucket.put("a", b"1")
        before = copied(bucket.address, bucket.list())
        bucket.put("a", b"2")
        assert (copied(bucket.address, bucket.list()) / "a").read_bytes() == b"2"
        assert (before / "a").read_bytes() == b"1"
