"""How a gang's attempt ended, from how each of its processes did."""

from types import SimpleNamespace

import pytest

from nextscale.cluster.controller.job import Outcome
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.ray.gang import Gang
from nextscale.cluster.ray.hosts import Host
from nextscale.cluster.ray.slices import SliceLedger, topology_of

GONE = Outcome("lost", "process 1 is gone", hosts=("b",))
PEER = Outcome("error", "JaxRuntimeError: UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
ODD_PEER = Outcome("error", "ValueError: Gloo: connection closed")
OWN = Outcome("error", "ValueError: no such thing")


@pytest.fixture
def gang():
    gang = object.__new__(Gang)
    gang._hosts = [Host(name, name, name, {}, {}) for name in "ab"]
    gang._killed = SimpleNamespace(is_set=lambda: False)
    gang._mute = lambda indices: []
    return gang


@pytest.mark.parametrize(
    ("ends", "status", "hosts"),
    [
        ([PEER, GONE], "lost", ("b",)),
        ([ODD_PEER, GONE], "lost", ("b",)),
        ([OWN, GONE], "lost", ("b",)),
        ([OWN, OWN], "error", ()),
        ([OWN, PEER], "error", ("a",)),
        ([None, OWN], "error", ("b",)),
        ([PEER, ODD_PEER], "lost", ()),
        ([PEER, None], "lost", ()),
        ([Outcome("memory"), PEER], "memory", ()),
        ([Outcome("input"), Outcome("input")], "input", ()),
        ([Outcome("held"), None], "held", ()),
        ([Outcome("finished"), GONE], "finished", ()),
        ([Outcome("stopped"), PEER], "stopped", ()),
    ],
)
def test_verdicts(gang, ends, status, hosts):
    outcome = gang._verdict(ends)
    assert (outcome.status, outcome.hosts) == (status, hosts)


def test_a_process_that_does_not_answer_is_gone(gang):
    gang._mute = lambda indices: indices
    assert gang._verdict([PEER, None]).hosts == ("b",)


def test_one_that_is_killed_is_lost(gang):
    gang._killed.is_set = lambda: True
    assert gang._verdict([None, None]).status == "lost"


def test_a_slice_is_taken_once():
    ledger = SliceLedger()
    assert ledger.take(1, ["x", "y"]) == ("x",)
    assert ledger.take(2, ["x", "y"]) == ()
    assert ledger.take(1, ["x", "y"]) == ("y",)
    ledger.give_back(["x"])
    assert ledger.take(1, ["x", "y"]) == ("x",)


def test_topologies():
    def of(accelerator, hosts, chips=4):
        return topology_of(Pool(accelerator=accelerator, hosts=hosts, chips=chips))

    assert [of("tpu-v6e", n) for n in (2, 4, 8, 16, 64)] == ["2x4", "4x4", "4x8", "8x8", "16x16"]
    assert [of("tpu-v5p", n) for n in (2, 4, 8, 16)] == ["2x2x2", "2x2x4", "2x4x4", "4x4x4"]
    with pytest.raises(ValueError, match="name its topology"):
        of("tpu-v6e", 3)
