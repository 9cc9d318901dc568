"""A host that has yet to join the cluster whose head is named: it is waited for, and not for ever."""

import subprocess
import sys

import pytest

CONNECT = """
import sys
from nextscale.cluster.ray import ray_backend
ray_backend._COMING = float(sys.argv[2])
backend = ray_backend.RayBackend(sys.argv[1])
print(backend.pools())
backend.close()
"""


@pytest.mark.slow
def test_a_host_that_is_slow_to_join_is_waited_for_and_one_that_does_not_is_named(hosts):
    for k in (1, 2):
        hosts.boot(k)
    hosts.head(1)

    def connect(patience):
        given = [sys.executable, "-c", CONNECT, hosts.address(), str(patience)]
        short = {"RAY_gcs_server_request_timeout_seconds": "10"}  # that Ray itself waits, and gives up
        return hosts.start(2, *given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=short)

    refused = connect(1).communicate(timeout=120)[0]
    assert "10.77.0.1:6379: the head answers, but Ray is not up on this host; start it here too" in refused
    waiting = connect(300)
    hosts.worker(2)
    assert "accelerator='cpu'" in waiting.communicate(timeout=300)[0]
