"""A head that goes away: whoever can hear it is told, and nobody waits for ever."""

import socket
import subprocess
import sys
import time

import pytest

from nextscale.cluster.controller.backend import LOST, ClusterLost
from nextscale.cluster.ray import head as heads
from nextscale.cluster.ray.head import Head

HANGS = """
import sys, time
from nextscale.cluster.ray import head
head._PAUSE, head._SILENCE, head._GRACE = 0.05, 0.2, 0.2
head.Head(sys.argv[1])
time.sleep(60)
"""


def listening():
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, f"127.0.0.1:{listener.getsockname()[1]}"


def test_one_that_does_not_answer_for_long_is_lost(monkeypatch):
    for name, seconds in {"_PAUSE": 0.02, "_SILENCE": 0.5, "_GRACE": 60.0}.items():
        monkeypatch.setattr(heads, name, seconds)
    listener, address = listening()
    head = Head(address)
    time.sleep(0.6)
    head.check()
    assert head.silent_for() < 0.5 and not head.lost
    listener.close()
    deadline = time.monotonic() + 10
    with pytest.raises(ClusterLost, match=f"{address}, has not answered .* the same command goes on from here"):
        while time.monotonic() < deadline:
            head.check()
            time.sleep(0.02)
    assert head.lost


def test_a_process_that_waits_for_it_ends_and_says_why():
    listener, address = listening()
    listener.close()
    ended = subprocess.run([sys.executable, "-c", HANGS, address], capture_output=True, text=True, timeout=50)
    assert ended.returncode == LOST
    assert ended.stderr.startswith(f"nextscale: the head of the Ray cluster, {address}, has not answered")
