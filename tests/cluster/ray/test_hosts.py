"""Pools read off a cluster, and what Ray is asked for: no Ray is needed for either."""

import pytest

from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.ray.hosts import accelerator_of, hosts_of, kind_of, pools_of, slices_of
from nextscale.cluster.ray.hub import environment_of
from nextscale.cluster.ray.warm_slot import options_of


def node(number, *, alive=True, labels=None, **resources):
    node_id = f"{number:06d}" + "f" * 50
    named = {name.replace("__", ":"): count for name, count in resources.items()}
    return {
        "Alive": alive,
        "NodeID": node_id,
        "NodeManagerAddress": f"10.0.0.{number}",
        "Resources": named,
        "Labels": labels or {},
    }


def tpu(number, name, worker, topology="4x4", kind="TPU-V5LITEPOD", chips=4):
    labels = {"slice-name": name, "worker-id": str(worker), "topology": topology}
    labels = {f"ray.io/tpu-{key}": value for key, value in labels.items()} | {"ray.io/accelerator-type": kind}
    return node(number, labels=labels, TPU=chips, CPU=100)


def seen(*nodes):
    return {name: (p.accelerator, p.hosts, p.chips, p.slices, p.gang) for name, p in pools_of(hosts_of(nodes)).items()}


def test_cores_where_there_is_nothing_better():
    assert seen(node(1, CPU=8), node(2, CPU=8)) == {"cpu": ("cpu", 1, 8, 2, False)}
    assert seen(node(1, CPU=8), node(2, CPU=2)) == {"cpu-8": ("cpu", 1, 8, 1, False), "cpu-2": ("cpu", 1, 2, 1, False)}


def test_a_named_accelerator_is_asked_for_by_name_whatever_else_there_is():
    l4, a100 = node(1, GPU=8, accelerator_type__L4=1), node(2, GPU=8, accelerator_type__A100=1)
    assert kind_of("h100", hosts_of([l4])) == "H100", "an autoscaler may bring it"
    assert kind_of("h100", hosts_of([l4, node(3, GPU=8)])) is None, "it may be what does not tell"
    assert kind_of("a100", hosts_of([l4, a100])) == "A100"
    assert kind_of("my-card", hosts_of([l4])) is None
    assert kind_of("cpu", hosts_of([node(1, CPU=8)])) is None


def test_every_kind_of_gpu_is_a_pool():
    nodes = node(1, CPU=9), node(2, GPU=8, accelerator_type__H100=1), node(3, GPU=8, accelerator_type__H100=1)
    assert seen(*nodes) == {"h100": ("h100", 1, 8, 2, False)}
    assert seen(*nodes, node(4, GPU=4, accelerator_type__A100=1)) == {
        "h100": ("h100", 1, 8, 2, False),
        "a100-40gb": ("a100-40gb", 1, 4, 1, False),
    }
    assert kind_of("h100", hosts_of(nodes)) == "H100"


def test_slices_of_several_hosts_are_gangs_and_those_of_one_are_shared_out():
    whole = [tpu(i, "a", 3 - i) for i in range(4)]
    single = tpu(9, "one", 0, topology="2x4", chips=8)
    assert seen(*whole, single) == {
        "tpu-v5e-4x4": ("tpu-v5e", 4, 4, 1, True),
        "tpu-v5e-2x4": ("tpu-v5e", 1, 8, 1, False),
    }
    assert [host.worker for host in slices_of(hosts_of(whole))["a"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("left", [1, 3])
def test_a_slice_that_lacks_a_host_is_no_slice(left):
    broken = [tpu(i, "a", i) for i in range(left)]
    assert seen(*broken, node(9, CPU=1)).keys() == {"cpu-1", "cpu-100"}
    assert seen(*broken, *(tpu(10 + i, "b", i) for i in range(4))) == {"tpu-v5e": ("tpu-v5e", 4, 4, 1, True)}


def test_what_is_dead_is_none_and_what_drains_is_said():
    first, second = hosts_of([node(1, CPU=1), node(2, CPU=1), node(3, alive=False, CPU=1)], {node(2)["NodeID"]: 0})
    assert (first.draining, second.draining) == (False, True)
    assert first.name == "10.0.0.1-000001"


def test_names_of_accelerators():
    assert [accelerator_of(kind) for kind in ("TPU-V6E", "TPU-V5LITEPOD", "H100", "A100", None)] == [
        "tpu-v6e",
        "tpu-v5e",
        "h100",
        "a100-40gb",
        "gpu",
    ]


def test_a_share_of_a_gpu_has_its_share_of_the_memory():
    pool = Pool(accelerator="h100", chips=8, chips_per_run=0.25)
    assert pool.slots == 32
    options = options_of(pool, "H100")
    assert options["num_gpus"] == 0.25
    assert options["resources"] == {"accelerator_type:H100": 0.001}
    share = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    assert environment_of(pool) == {share: "0.230", "NPROC_PER_NODE": "1"}
    assert environment_of(Pool(accelerator="h100")) == {share: "0.920", "NPROC_PER_NODE": "1"}
    assert environment_of(Pool(accelerator="h100", hosts=2, chips=8)) == {share: "0.920", "NPROC_PER_NODE": "8"}


@pytest.mark.parametrize("chips", [1, 2, 4, 8])
def test_chips_of_a_tpu_host(chips):
    assert options_of(Pool(accelerator="tpu-v6e", chips=8, chips_per_run=chips), None)["resources"] == {"TPU": chips}


def test_chips_that_ray_does_not_share_out_are_refused():
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        options_of(Pool(accelerator="tpu-v6e", chips=8, chips_per_run=3), None)


def test_as_many_threads_as_cores():
    one, four = (environment_of(Pool(accelerator="cpu", chips=4, chips_per_run=n)) for n in (1, 4))
    assert one["OMP_NUM_THREADS"] == "1"
    assert "multi_thread_eigen=false" in one["XLA_FLAGS"]
    assert (four["OMP_NUM_THREADS"], four["NPROC"]) == ("4", "4")


def test_slices_that_train_one_run_together():
    pool = Pool(accelerator="tpu-v5p", hosts=2, chips=4, slices=5, slices_per_run=2)
    assert (pool.slots, pool.chips_per_slot) == (2, 16)
    with pytest.raises(ValueError, match="slices_per_run 2"):
        Pool(accelerator="h100", slices_per_run=2, slices=2)
