"""A head that goes away: whoever can hear it is told, and nobody waits for ever."""

import re
import socket
import subprocess
import sys
import threading
import time

import pytest
from ray.cluster_utils import Cluster

from nextscale.cluster.controller.backend import LOST, ClusterLost
from nextscale.cluster.ray import head as heads
from nextscale.cluster.ray.head import SILENT, Head, named, stranger_at
from nextscale.cluster.ray.ray_backend import RayBackend
from nextscale.model.errors import InputError

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


def web(link):
    link.recv(1000)
    link.sendall(b"HTTP/1.0 400 Bad request\r\n\r\n")


STRANGERS = {
    "web": ("a web server, such as Ray's dashboard", web, InputError),
    "ssh": (
        "something that says b'SSH-2.0-",
        lambda link: link.sendall(b"SSH-2.0-OpenSSH\r\n") or link.recv(1000),
        InputError,
    ),
    # Either may be a head: one that ends just now, or that is stopped. A job system is to try again.
    "hangs up": (SILENT, lambda link: link.recv(1000), ClusterLost),
    "says nothing": (SILENT, lambda link: link.recv(1000) and link.recv(1000), ClusterLost),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_is_no_head_is_told_and_not_waited_for(monkeypatch, kind):
    what, answer, error = STRANGERS[kind]
    listener, address = listening()

    def serve():
        listener.accept()[0].close()  # whether anything answers at all
        link = listener.accept()[0]
        answer(link)
        link.close()

    thread = threading.Thread(target=serve)
    thread.start()
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(error, match=re.escape(f"RAY_ADDRESS {address}: no Ray head answers there, but {what}")):
        RayBackend(address)
    assert time.monotonic() - began < 8
    thread.join()
    listener.close()


def test_an_address_is_named_by_where_it_comes_from(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert named("h:1") == "--address h:1"
    monkeypatch.setenv("RAY_ADDRESS", "h:1")
    assert (named("h:1"), named("h:2")) == ("RAY_ADDRESS h:1", "--address h:2")


@pytest.mark.slow
def test_a_real_head_is_no_stranger():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        assert stranger_at(cluster.address) is None
    finally:
        cluster.shutdown()
