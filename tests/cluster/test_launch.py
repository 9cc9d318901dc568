"""The files that start clusters, as far as they can be held against anything without one."""

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from nextscale.cluster.hardware.catalogue import by_ray_type

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "cluster" / "launch"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RAY = re.search(r"ARG RAY=(\S+)", (LAUNCH / "Dockerfile").read_text())[1]

# Of KubeRay's ray-operator/apis/ray/v1: raycluster_types.go and rayjob_types.go; True where a field must be there.
JOB = {
    "entrypoint": True,
    "rayClusterSpec": True,
    **dict.fromkeys(("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "runtimeEnvYAML"), False),
}
CLUSTER = {"headGroupSpec": True, "workerGroupSpecs": False, "rayVersion": False, "enableInTreeAutoscaling": False}
HEAD = {"rayStartParams": True, "template": True, "serviceType": False}
WORKERS = {
    **dict.fromkeys(("groupName", "rayStartParams", "template", "minReplicas", "maxReplicas"), True),
    **dict.fromkeys(("replicas", "numOfHosts"), False),
}
# Of Kubernetes' core/v1.
POD = {"containers": True, **dict.fromkeys(("volumes", "nodeSelector", "tolerations", "restartPolicy"), False)}
CONTAINER = {
    "name": True,
    "image": True,
    **dict.fromkeys(("resources", "env", "ports", "volumeMounts", "command", "args"), False),
}
QUANTITY = re.compile(r"^\d+(\.\d+)?(m|[kMGTPE]|[KMGTPE]i)?$")


def holds(where, given, fields):
    assert set(given) <= set(fields), f"{where}: {set(given) - set(fields)} is not a field"
    missing = {name for name, must in fields.items() if must} - set(given)
    assert not missing, f"{where}: lacks {missing}"


def holds_pod(where, template):
    holds(where, template, {"spec": True, "metadata": False})
    pod = template["spec"]
    holds(where, pod, POD)
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for container in pod["containers"]:
        holds(where, container, CONTAINER)
        assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
        limits, requests = (container["resources"][key] for key in ("limits", "requests"))
        assert all(isinstance(value, str) and QUANTITY.match(value) for value in [*limits.values(), *requests.values()])
        # Devices cannot be overcommitted: their requests are their limits.
        assert all(requests[name] == limits[name] for name in limits if "/" in name)
        assert all(isinstance(each["value"], str) for each in container.get("env", ()))
    assert all(isinstance(value, str) for value in pod.get("nodeSelector", {}).values())


@pytest.mark.parametrize("kind, resource", [("gpu", "nvidia.com/gpu"), ("tpu", "google.com/tpu")])
def test_manifests_have_the_fields_of_kuberay(kind, resource):
    job = yaml.safe_load((LAUNCH / f"kuberay-{kind}.yaml").read_text())
    holds("manifest", job, {"apiVersion": True, "kind": True, "metadata": True, "spec": True})
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    holds("RayJob", job["spec"], JOB)
    cluster = job["spec"]["rayClusterSpec"]
    holds("RayCluster", cluster, CLUSTER)
    assert cluster["rayVersion"] == RAY
    holds("head", cluster["headGroupSpec"], HEAD)
    holds_pod("head", cluster["headGroupSpec"]["template"])
    for group in cluster["workerGroupSpecs"]:
        holds("workers", group, WORKERS)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        holds_pod("workers", group["template"])
        (container,) = group["template"]["spec"]["containers"]
        chips = int(container["resources"]["limits"][resource])
        if kind == "tpu":
            selector = group["template"]["spec"]["nodeSelector"]
            topology = selector["cloud.google.com/gke-tpu-topology"]
            x, y = map(int, topology.split("x"))
            assert x * y == chips * group["numOfHosts"], "all chips of the slice"
            assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_manifests_can_be_queued_with_kueue(kind):
    """It takes RayJobs that have a label and end with their cluster, and counts what all their pods request."""
    text = (LAUNCH / f"kuberay-{kind}.yaml").read_text().replace("  # labels:", "  labels:")
    job = yaml.safe_load(text)
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "YOUR-QUEUE"}
    assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_ray_accepts_the_cluster_file():
    config = yaml.safe_load((LAUNCH / "gcp-tpu.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    node = config["available_node_types"]["slice"]
    accelerator = by_ray_type(node["node_config"]["acceleratorType"])
    assert accelerator is not None
    assert node["resources"]["TPU"] <= accelerator.chips_per_host
    assert all(RAY in command for command in config["head_setup_commands"] + config["worker_setup_commands"])


def test_commands_of_the_cluster_file_are_shell():
    config = yaml.safe_load((LAUNCH / "gcp-tpu.yaml").read_text())
    commands = [command for key, value in config.items() if key.endswith("commands") for command in value]
    assert commands
    subprocess.run(["bash", "-n"], input="\n".join(commands), text=True, check=True)


def test_the_batch_script_is_sound():
    script = LAUNCH / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    checker = Path(sys.executable).with_name("shellcheck")
    if not checker.exists():
        pytest.skip("shellcheck is not installed")
    subprocess.run([checker, script], check=True)


@pytest.fixture
def batch(tmp_path):
    """Runs `slurm.sh SPEC ...` with a Slurm, a Ray and a nextscale of a line each: the process. What it started lives
    no longer than the test, as it lives no longer than a job."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begun = []

    def run(*given, sweep="exit 0", ray='exec python3 -m http.server "$PORT" --bind 127.0.0.1', **environment):
        for name, body in {
            "scontrol": 'if [ "$1" = requeue ]; then echo "$2" > requeued; else printf "127.0.0.1\\nnode-b\\n"; fi',
            "srun": 'echo "$@" > step; while [ "$1" != bash ]; do shift; done\n'
            'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" & done; wait',
            "ray": f'echo "$@" > ray-$SLURM_NODEID; if [ $SLURM_NODEID = 1 ]; then exec sleep 60; fi; {ray}',
            "nextscale": f'echo "$@" "$RAY_AUTH_MODE" > begun; {sweep}',
        }.items():
            (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
            (tmp_path / name).chmod(stat.S_IRWXU)
        slurm = {
            "SLURM_JOB_NODELIST": "a,b",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_GPUS_ON_NODE": "8",
            "SLURM_JOB_ID": "7",
        }
        path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(tmp_path), "PORT": str(port), **slurm, **environment}
        with (tmp_path / "said").open("w") as said:
            command = ["bash", LAUNCH / "slurm.sh", *given]
            options = {"env": environment, "cwd": tmp_path, "stdout": said, "stderr": said}
            begun.append(subprocess.Popen(command, start_new_session=True, **options))
        return begun[-1]

    yield run
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(there):
    deadline = time.monotonic() + 30
    while not there.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_the_batch_script_starts_ray_once_a_node_and_then_the_sweep(batch, tmp_path):
    assert batch("my/sweep.yaml").wait(30) == 0
    address = (tmp_path / "begun").read_text().split()[5]
    assert (tmp_path / "begun").read_text() == f"run my/sweep.yaml --out out/sweep --address {address} disabled\n"
    assert {"--nodes=2", "--ntasks-per-node=1"} <= set((tmp_path / "step").read_text().split())
    wait_until(tmp_path / "ray-1")
    head, worker = (set((tmp_path / f"ray-{n}").read_text().split()) for n in (0, 1))
    assert head - worker == {"--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"}
    assert worker - head == {f"--address={address}"}
    assert "--num-gpus=8" in head & worker


def test_the_batch_script_wants_a_spec(batch, tmp_path):
    assert batch().wait(30) == 1
    assert "usage: sbatch" in (tmp_path / "said").read_text()


@pytest.mark.parametrize("ray", ["exit 1", "exec sleep 60"])
def test_the_batch_script_does_not_wait_for_ever_for_a_head(batch, tmp_path, ray):
    assert batch("s.yaml", ray=ray, WAIT="2").wait(30) == 1
    assert "no head of Ray answers at 127.0.0.1:" in (tmp_path / "said").read_text()
    assert not (tmp_path / "begun").exists() and not (tmp_path / "requeued").exists()


UNTIL_ASKED = "trap 'echo TERM > asked' TERM; until [ -e asked ]; do sleep 0.1; done"


@pytest.mark.parametrize(
    ("sweep", "signalled", "code", "requeued"),
    [
        ("exit 0", False, 0, False),
        ("exit 2", False, 2, False),
        ("exit 75", False, 75, True),
        (f"{UNTIL_ASKED}; exit 3", True, 3, True),
        (f"{UNTIL_ASKED}; exit 0", True, 0, False),
    ],
)
def test_the_batch_script_saves_the_sweep_before_its_time_is_over_and_is_put_back(
    batch, tmp_path, sweep, signalled, code, requeued
):
    job = batch("s.yaml", "the out", sweep=sweep)
    wait_until(tmp_path / "begun")
    if signalled:
        job.send_signal(signal.SIGTERM)
    assert job.wait(30) == code
    assert (tmp_path / "requeued").exists() == requeued


def test_ray_has_the_options_that_the_batch_script_gives():
    ray = shutil.which("ray", path=Path(sys.executable).parent)
    told = subprocess.run([ray, "start", "--help"], capture_output=True, text=True, check=True).stdout
    lines = [line for line in (LAUNCH / "slurm.sh").read_text().splitlines() if "$ray " in line or "ray start" in line]
    given = set(re.findall(r"--[a-z-]+", " ".join(lines)))
    assert len(given) == 7 and given <= set(re.findall(r"--[a-z-]+", told))


@pytest.fixture(scope="module")
def sky():
    return yaml.safe_load((LAUNCH / "sky.yaml").read_text())


def test_skypilot_accepts_its_task(monkeypatch):
    skypilot = pytest.importorskip("sky", reason="SkyPilot is not installed: pip install skypilot")
    task = skypilot.Task.from_yaml(str(LAUNCH / "sky.yaml"))
    (resources,) = task.resources
    assert (task.num_nodes, resources.use_spot, resources.accelerators) == (2, True, {"H100": 8})


@pytest.mark.parametrize("part", ["setup", "run"])
def test_commands_of_the_skypilot_task_are_sound(sky, part):
    checker = Path(sys.executable).with_name("shellcheck")
    if not checker.exists():
        pytest.skip("shellcheck is not installed")
    subprocess.run([checker, "--shell=bash", "-"], input=sky[part], text=True, check=True)


def test_the_skypilot_task_starts_ray_on_every_host_and_the_sweep_on_the_first(sky, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, body in {
        "ray": 'echo "$@" >> ray-$SKYPILOT_NODE_RANK; if [[ $1$2$3$4 != *--head* ]]; then exit 1; fi\n'
        f"exec python3 -m http.server {port} --bind 127.0.0.1",
        "nextscale": 'echo "$@" > begun; until [ -e ray-1 ]; do sleep 0.1; done; exit 75',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    text = sky["run"].replace("port=6379", f"port={port}").replace("wait_for_head 30", "wait_for_head 2")
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path), "SPEC": "my/sweep.yaml"}
    environment |= {"SKYPILOT_NODE_IPS": "127.0.0.1\nb", "SKYPILOT_NUM_GPUS_PER_NODE": "8"}
    hosts = [
        subprocess.Popen(["bash", "-c", text], env=environment | {"SKYPILOT_NODE_RANK": rank}, cwd=tmp_path)
        for rank in "01"
    ]
    assert [host.wait(60) for host in hosts] == [75, 0]
    address = f"127.0.0.1:{port}"
    told = f"run my/sweep.yaml --out /mnt/shared/sweep --address {address} --stopped-ok\n"
    assert (tmp_path / "begun").read_text() == told
    assert f"--address={address}" in (tmp_path / "ray-1").read_text()
    assert f"--head --port={port}" in (tmp_path / "ray-0").read_text()


def test_the_image_is_of_what_the_project_says():
    lines = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    assert steps[0][0] == "FROM"
    assert {step for step, _ in steps} <= {"FROM", "ARG", "RUN", "COPY", "WORKDIR", "ENV", "USER"}
    minor = int(re.match(r"python:3\.(\d+)", steps[0][1])[1])
    assert minor >= int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    copied = {name for step, rest in steps if step == "COPY" for name in rest.split()[:-1]}
    project = {"pyproject.toml", "setup.py", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert project | {"cluster", "fit", "model", "sweeps"} <= copied
    assert all((ROOT / name).exists() for name in copied)
    extra = next(rest for step, rest in steps if rest.startswith("EXTRA="))
    assert extra.removeprefix("EXTRA=") in PROJECT["project"]["optional-dependencies"]
    (install,) = (rest for step, rest in steps if "pip install" in rest)
    assert '".[${EXTRA}]" "ray[default]==${RAY}"' in install
    least = next(each for each in PROJECT["project"]["dependencies"] if each.startswith("ray"))
    assert tuple(map(int, RAY.split("."))) >= tuple(map(int, least.removeprefix("ray>=").split(".")))


def test_the_files_are_packaged_and_listed():
    from nextscale.sweeps.commands.hardware import _LAUNCH

    assert set(_LAUNCH) == {file.name for file in LAUNCH.iterdir()}
    assert "launch/*" in PROJECT["tool"]["setuptools"]["package-data"]["nextscale.cluster"]


def commands_in(page):
    for block in re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL):
        yield from re.findall(r"nextscale ([a-z]+)", block)


def test_every_command_that_the_page_names_exists():
    from nextscale.sweeps.commands.app import app

    page = (ROOT / "docs" / "clusters.md").read_text()
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    for group in app.registered_groups:
        known |= {each.name or each.callback.__name__ for each in group.typer_instance.registered_commands}
    named = set(commands_in(page))
    assert {"run", "plan", "launch", "hardware"} <= named <= known
    files = set(re.findall(r"nextscale launch (\S+)", page))
    assert files - {"NAME"} <= {file.name for file in LAUNCH.iterdir()}
