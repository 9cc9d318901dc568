"""The gang lane on a real Ray cluster of TPU slices that are not: hosts are processes of this machine, each with two
devices of its CPU, and every run is trained by two of them."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath

from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.ray_backend import RayBackend
from nextscale.model.record import RunDirectory, read_rows

# Before Ray is imported.
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "180"}

import ray
from ray.cluster_utils import Cluster

SEATS = (Seat("tpu-v4", "data=2,fsdp=2"),)
TWO_HOSTS = {"two": Pool(accelerator="cpu", hosts=2)}
OVER_TWO = (Seat("two", "data=2"),)


def add_slice(cluster, name, hosts=2, chips=4):
    """A slice of TPU v4: its nodes, in the order of its workers."""
    pod, topology = f"v4-{hosts * chips * 2}", f"2x2x{hosts}"
    nodes = []
    for i in range(hosts):
        # A slice is reserved by a task on its first worker, which reads its name there.
        environment = {
            "TPU_NAME": name,
            "TPU_WORKER_ID": str(i),
            "TPU_ACCELERATOR_TYPE": pod,
            "TPU_TOPOLOGY": topology,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false",
        }
        labels = {
            "ray.io/tpu-slice-name": name,
            "ray.io/tpu-worker-id": str(i),
            "ray.io/tpu-topology": topology,
            "ray.io/tpu-pod-type": pod,
            "ray.io/accelerator-type": "TPU-V4",
        }
        resources = {"TPU": chips, name: 1, "accelerator_type:TPU-V4": 1}
        if i == 0:
            resources[f"TPU-{pod}-head"] = 1
        nodes.append(cluster.add_node(num_cpus=2, resources=resources, env_vars=environment, labels=labels))
    return nodes


@contextlib.contextmanager
def a_cluster(**slices):
    """A cluster of a head without work and slices of so many hosts; gives it and the nodes of each slice."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = {name: add_slice(cluster, name, hosts) for name, hosts in slices.items()}
        cluster.wait_for_nodes()
        yield cluster, nodes
    finally:
        cluster.shutdown()


def until(backend, condition, seconds=120):
    """Waits, and returns what ended by then."""
    ended, deadline = [], time.time() + seconds
    while not condition(ended):
        assert time.time() < deadline, backend.notices()
        ended += backend.wait(0.2)
    return ended


def attempts_of(job):
    return read_rows(epath.Path(job.directory) / "attempts.jsonl")


def newest(job):
    """Tokens in the newest checkpoint."""
    folder = Path(job.directory, "checkpoints")
    return max((int(p.name) for p in folder.glob("*") if p.name.isdecimal()), default=0)


def hosts_of(backend):
    return {slot.name: set(slot.hosts) for slot in backend.slots()}


@pytest.fixture
def two_slices():
    with a_cluster(one=2, other=2) as (cluster, nodes), contextlib.closing(RayBackend(cluster.address)) as backend:
        until(backend, lambda ended: len(backend.slots()) == 2)
        yield cluster, nodes, backend


@pytest.mark.slow
@pytest.mark.soak
def test_a_run_whose_host_is_killed_finishes_on_another_slice_to_the_bit_and_the_other_run_is_not_disturbed(
    two_slices, job
):
    cluster, nodes, backend = two_slices
    (pool,) = backend.pools().values()
    assert (pool.accelerator, pool.hosts, pool.chips, pool.slices, pool.topology) == ("tpu-v4", 2, 4, 2, "2x2x2")

    def built(seed, name, steps):
        j = job(seed=seed, steps=steps, every_seconds=0.5, seats=SEATS)
        return type(j)(**{**vars(j), "directory": f"{j.directory}-{name}"})

    undisturbed = built(1, "undisturbed", 1200)
    assert run_all([undisturbed, built(5, "short", 20)], backend).failed == {}
    disturbed, bystander = built(1, "disturbed", 1200), built(2, "bystander", 1600)
    killed, least = [], []

    def watch(event):
        hosts = hosts_of(backend).values()
        assert sum(map(len, hosts)) == len(set().union(*hosts)), "a host is in two slots"
        if not killed and newest(disturbed):
            row = json.loads(max(Path(disturbed.directory, "leases").glob("*.json")).read_text())
            parent = int(Path(f"/proc/{row['pid']}/stat").read_text().rpartition(")")[2].split()[1])
            name = next(name for name, members in nodes.items() if parent in pids_of(members))
            killed.append((name, newest(disturbed), time.time()))
            cluster.remove_node(nodes[name][1], allow_graceful=False)
        if killed and len(attempts_of(disturbed)) > 0:
            rows = read_rows(epath.Path(disturbed.directory) / "metrics.jsonl")
            least.append(rows[-1]["tokens"] if rows else 0)

    report = run_all([disturbed, bystander], backend, watch)
    assert report.failed == {}
    assert killed
    assert [a["status"] for a in attempts_of(bystander)] == ["finished"]
    first, second = attempts_of(disturbed)
    assert (first["status"], second["status"]) == ("lost", "finished")
    assert not set(first["hosts"]) & set(second["hosts"])
    assert set(second["hosts"]) == set(attempts_of(bystander)[0]["hosts"])
    assert min(least) >= killed[0][1]
    one, other = (Path(j.directory, "metrics.jsonl").read_bytes() for j in (undisturbed, disturbed))
    assert one == other
    one, other = (RunDirectory(epath.Path(j.directory)).record() for j in (undisturbed, disturbed))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}
    # A new slice takes the place of the one that is broken.
    add_slice(cluster, "new")
    until(backend, lambda ended: len(backend.slots()) == 2)


def pids_of(nodes):
    """Of the raylets."""
    return {info.process.pid for node in nodes for info in node.all_processes["raylet"]}


@contextlib.contextmanager
def plain_hosts(n):
    """A backend of one slot over two of n hosts without accelerators."""
    with a_cluster() as (cluster, _):
        for _ in range(n):
            cluster.add_node(num_cpus=1, env_vars={"JAX_PLATFORMS": "cpu"})
        cluster.wait_for_nodes()
        with contextlib.closing(RayBackend(cluster.address, TWO_HOSTS)) as backend:
            yield backend


def trained_once(job, saved):
    """Whether a run went on from a position, and did nothing twice."""
    tokens = [row["tokens"] for row in read_rows(epath.Path(job.directory) / "metrics.jsonl")]
    return saved in tokens and tokens == sorted(set(tokens)) and tokens[-1] == job.config.tokens


@pytest.mark.slow
def test_a_run_over_two_hosts_is_stopped_saves_itself_and_goes_on_from_there(job):
    run = job(seed=1, steps=800, every_seconds=1e9, seats=OVER_TWO)
    with plain_hosts(2) as backend:
        first = run_all([run], backend, stop=lambda: 300.0 if Path(run.directory, "metrics.jsonl").exists() else None)
        saved = newest(run)
        second = run_all([run], backend)
    assert (first.left, second.finished) == ((run.run_id,), (run.run_id,))
    assert 0 < saved < run.config.tokens
    assert [(a["status"], a["processes"]) for a in attempts_of(run)] == [("stopped", 2), ("finished", 2)]
    assert trained_once(run, saved)


@pytest.mark.slow
def test_a_run_on_a_host_about_to_be_taken_away_is_saved_ahead_and_goes_on_over_others(job):
    run = job(seed=1, steps=1600, every_seconds=1e9, seats=OVER_TWO)
    drained, saved = [], []

    def drain_once(event):
        if not drained and Path(run.directory, "metrics.jsonl").exists():
            (slot,) = backend.slots()
            drained.append(slot.hosts[1])
            node = next(node["NodeID"] for node in ray.nodes() if slot.hosts[1].endswith(f"-{node['NodeID'][:6]}"))
            asked = ["drain-node", "--address", address, "--node-id", node, "--reason-message", "spot"]
            asked += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds", "600"]
            subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *asked], check=True, capture_output=True)
        if event.kind == "stopped":
            saved.append((newest(run), event.message))

    with plain_hosts(3) as backend:
        address = ray.get_runtime_context().gcs_address
        assert run_all([run], backend, drain_once).finished == (run.run_id,)
    first, second = attempts_of(run)
    assert (first["status"], second["status"]) == ("stopped", "finished")
    assert drained[0] in first["hosts"]
    assert drained[0] not in second["hosts"]
    ((position, message),) = saved
    assert message.startswith("its host is about to be taken away")
    assert 0 < position < run.config.tokens
    assert trained_once(run, position)
