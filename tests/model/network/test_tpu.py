"""On TPUs that are not here, by their own compiler: a mesh over several slices, and what devices exchange."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DESCRIBED = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
DESCRIBED |= {"JAX_PLATFORMS": "cpu", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'nextscale[tpu]'"
)

MESH = """
import json, sys
from jax.experimental import topologies
from nextscale.model.errors import InputError
from nextscale.model.network.sharding import Layout, mesh_on
devices = topologies.get_topology_desc("v5e:2x4", "tpu", num_slices=2).devices
try:
    mesh = mesh_on(Layout.parse(sys.argv[1]), devices)
    print(json.dumps([[[device.slice_index for device in row] for row in rows] for rows in mesh.devices.tolist()]))
except InputError as error:
    print(json.dumps(str(error)))
"""


def told(*command):
    """What a command prints last, as JSON."""
    ran = subprocess.run([sys.executable, *command], env=os.environ | DESCRIBED, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_data_alone_reaches_over_slices():
    rows = told("-c", MESH, "data=4,fsdp=2,tensor=2")
    assert rows == [[[0, 0], [0, 0]]] * 2 + [[[1, 1], [1, 1]]] * 2


def test_a_mesh_whose_data_cannot_be_spread_over_slices_is_told():
    assert told("-c", MESH, "fsdp=16") == (
        "layout data=1,fsdp=16,tensor=1 is of 2 slices of TPUs, and only data reaches over several; take a multiple of "
        "2 for data"
    )


@pytest.mark.slow
def test_devices_that_share_a_matrix_exchange_sums_alone_and_no_whole_logits_are_there():
    """Queries, keys and values joined along the axis that `tensor` splits took permutes and all-to-alls as well."""
    found = told(ROOT / "benchmarks" / "aot.py", "25M@v5e-8", "--layout", "data=2,tensor=4", "--json")
    assert set(found["collectives"]) == {"all-reduce"}
    assert not found["whole_logits"]


@pytest.mark.slow
def test_a_small_model_on_two_slices_compiles_within_what_the_plan_says():
    found = told(ROOT / "benchmarks" / "aot.py", "25M@2xv5e-8", "--json")
    assert found["layout"] == "data=16,fsdp=1,tensor=1"
    assert found["planned_bytes"] == pytest.approx(found["state_bytes"] + found["temporary_bytes"], rel=0.15)
    bytes_of = {kind: size for kind, (_, size) in found["collectives"].items()}
    assert bytes_of["send"] == pytest.approx(bytes_of["reduce-scatter"] / 8, rel=1e-3)  # its share each, and the loss
    assert bytes_of["all-gather"] == bytes_of["reduce-scatter"]
