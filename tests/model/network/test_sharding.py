"""One device or many, the same numbers: eight devices of one CPU, in a process of their own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nextscale.model.config.data import TokenData
from nextscale.model.config.run import ModelFamily
from nextscale.model.errors import InputError
from nextscale.model.network.kernels import RECOMPUTE
from nextscale.model.network.sharding import Layout
from nextscale.model.training.memory import sequences_per_device
from nextscale.model.training.train import train


@pytest.fixture
def small(tiny_run):
    """Twenty steps of a model that eight devices can share; `small(width=12)` is one that they cannot."""

    def build(*, width=16, depth=1, heads=2, **options):
        family = {key: options.pop(key) for key in list(options) if key in ModelFamily.model_fields}
        family = ModelFamily(depth=depth, heads=heads, context=8, norm_scale=True, **family)
        return tiny_run(family=family, width=width, steps=20, batch_tokens=64, **options)

    return build


def trained(tmp_path, *jobs):
    """What came of (run, layout, options) on eight devices, one after another, in directories of their own."""
    asked = [
        {"config": run.model_dump(mode="json"), "layout": layout, "out": str(tmp_path / str(i))} | options
        for i, (run, layout, options) in enumerate(jobs)
    ]
    script = Path(__file__).with_name("many_devices.py")
    ran = subprocess.run([sys.executable, script], input=json.dumps(asked), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.slow
def test_a_mix_of_all_axes_gives_the_loss_of_one_device_and_resumes_on_any(small, tmp_path, run_directory):
    run, out = small(), {"out": str(tmp_path / "cut")}
    one = train(run, run_directory)["loss"]
    _, resumed, mixed = trained(
        tmp_path,
        (run, "data=2,fsdp=2,tensor=2", out | {"stop_at": 10 * 64}),
        (run, "fsdp=4", out),
        (run, "data=2,fsdp=2,tensor=2", {}),
    )
    assert resumed["start"] == 5 * 64, "where its last checkpoint was saved, on another mesh"
    assert resumed["record"]["loss"] == pytest.approx(one, rel=1e-5)
    assert mixed["record"]["loss"] == pytest.approx(one, rel=1e-5)
    assert mixed["compiled"] == 1
    lies = mixed["shapes"]
    assert lies["params.embedding"] == [8, 8]
    assert lies["params.blocks.0.attention.query"] == [8, 8]
    assert lies["params.blocks.0.mlp.down"] == [32, 8]
    assert lies["params.head"] == [8, 8]
    assert lies["params.norm.scale"] == [16]
    moments = {name.split(".mu.")[1]: shape for name, shape in lies.items() if ".mu." in name}
    assert moments == {name.removeprefix("params."): s for name, s in lies.items() if name.startswith("params.")}


@pytest.mark.slow
def test_the_attention_kernel_of_tpus_is_spread_by_sequences_and_heads(small, tmp_path):
    splash = {"splash": True}
    for told in trained(tmp_path, *((small(), layout, splash) for layout in ("data=2,tensor=2", "data=8", "tensor=4"))):
        assert told["error"] < 1e-5


LAYOUTS = {
    "data=8": ([16, 16], [16, 64]),
    "fsdp=8": ([16, 2], [2, 64]),
    "tensor=2": ([8, 16], [16, 32]),
    "data=2,tensor=4": ([4, 16], [16, 16]),
}
"""What a device holds of the embedding, 16 x 16, and of the MLP's first matrix, 16 x 64."""


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "muon"}, {"parametrization": "completep", "kv_heads": 1}], ids=str
)
def test_every_axis_gives_the_loss_of_one_device(small, tmp_path, run_directory, options):
    run = small(**options)
    one = train(run, run_directory)["loss"]
    came = trained(tmp_path, *((run, layout, {}) for layout in LAYOUTS))
    for (embedding, up), found in zip(LAYOUTS.values(), came, strict=True):
        assert found["record"]["loss"] == pytest.approx(one, rel=1e-5)
        assert found["shapes"]["params.embedding"] == embedding
        assert found["shapes"]["params.blocks.0.mlp.up"] == up
        assert found["compiled"] == 1


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tied": True, "logit_cap": 3.0, "z_loss": 0.1},
        {"mlp": "swiglu", "kv_heads": 2, "heads": 4},
    ],
    ids=str,
)
def test_parts_of_logits_scans_and_what_is_computed_again_change_no_gradient_on_any_mesh(small, tmp_path, options):
    asked = [("fsdp=8", "none", 1), ("data=2,fsdp=2,tensor=2", "dots", 2), ("data=4,tensor=2", "full", 2)]
    asked += [("data=3", "none", 1), ("data=4", "none", 2), ("data=1", "none", 4)]
    asked += [("data=1", recompute, 1) for recompute in RECOMPUTE[:-1]]
    run = small(depth=2, **options)
    jobs = [(run, layout, {"recompute": recompute, "micro_batches": n}) for layout, recompute, n in asked]
    for found, case in zip(trained(tmp_path, *jobs), asked, strict=True):
        assert max(found["apart"]) < 1e-6, case


@pytest.mark.slow
def test_however_many_micro_batches_devices_along_data_sum_their_gradient_once(small, tmp_path):
    (found,) = trained(tmp_path, (small(), "data=4", {"sums": 2}))
    in_loops, after = found["sums"]
    assert in_loops == 0 < after


@pytest.mark.slow
def test_documents_are_kept_apart_on_any_mesh(small, tmp_path):
    """However the sequences lie, and the ends of documents among them; `end` is one token in sixteen."""
    pack = {"mask": "documents", "end": 3}
    data = TokenData(source="tokens", path="none", vocab=16, fingerprint="0" * 16, pack=pack)
    asked = [("fsdp=8", "none", 1), ("data=2,fsdp=2,tensor=2", "dots", 2)]
    run = small(depth=2, z_loss=0.1, data=data)
    jobs = [(run, layout, {"recompute": recompute, "micro_batches": n}) for layout, recompute, n in asked]
    came = trained(tmp_path, *jobs)
    for found, case in zip(came, asked, strict=True):
        assert max(found["apart"]) < 1e-6, case


MIXTURE = {"experts": 4, "shared_experts": 1, "balance_rate": 0.01, "router": "sigmoid", "router_z_loss": 0.01}
MESHES = [("data=2,fsdp=2,tensor=2", "none", 2), ("fsdp=2,tensor=4", "full", 1), ("data=3", "none", 1)]
MESHES += [("tensor=2", "dots", 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, asked",
    [
        (MIXTURE, MESHES[:1]),
        pytest.param(MIXTURE, MESHES[1:], marks=pytest.mark.soak),
        pytest.param({"experts": 3, "mlp": "swiglu", "dense_layers": 1}, MESHES, marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_experts_are_spread_over_tensor_where_it_divides_them_and_change_no_gradient(small, tmp_path, options, asked):
    run = small(depth=2, **options)
    jobs = [(run, layout, {"recompute": recompute, "micro_batches": n}) for layout, recompute, n in asked]
    jobs += [(run, "fsdp=2,tensor=2", {})]
    *came, trained_there = trained(tmp_path, *jobs)
    for found, case in zip(came, asked, strict=True):
        assert max(found["apart"]) < 1e-6, case
    split = options["experts"] % 2 == 0
    width = trained_there["shapes"]["params.blocks.1.mlp.experts.up"]
    assert width[:2] == [2, 8] if split else [3, 8]


@pytest.mark.slow
def test_weights_that_are_split_take_less_memory_than_whole_ones(tiny_run, tmp_path):
    run = tiny_run(family=ModelFamily(depth=1, heads=2, context=32), width=32, batch_tokens=32 * 32)
    layouts = ("data=1", "data=8", "fsdp=8")
    came = trained(tmp_path, *((run, layout, {"plan": True}) for layout in layouts))
    one, data, fsdp = (plan["needed"] for plan in came)
    assert fsdp < data < one / 4, "each device computes its own sequences alone, whichever way the weights lie"


@pytest.mark.slow
def test_a_width_that_the_devices_do_not_divide_is_whole_on_each(small, tmp_path, run_directory):
    run = small(width=12)
    (found,) = trained(tmp_path, (run, "fsdp=8", {}))
    assert found["record"]["loss"] == pytest.approx(train(run, run_directory)["loss"], rel=1e-5)
    assert found["shapes"]["params.embedding"] == [16, 12]
    assert found["shapes"]["params.blocks.0.mlp.down"] == [48, 12]


def test_a_layout_reads_back_as_it_is_written():
    assert Layout.parse("fsdp=2,data=4") == Layout(data=4, fsdp=2) == Layout.parse(str(Layout(data=4, fsdp=2)))
    assert Layout(data=4, fsdp=2, tensor=3).devices == 24


@pytest.mark.parametrize("text", ["", "data", "data=x", "data=0", "pipe=2", "data=1,data=2", "data=-1"])
def test_what_is_no_layout_is_told_in_one_line(text):
    with pytest.raises(InputError, match=r"^layout .*$"):
        Layout.parse(text)


@pytest.mark.parametrize("layout", [Layout(data=2), Layout(tensor=64)])
def test_a_layout_of_more_devices_than_there_are_is_told(tiny_run, run_directory, layout):
    with pytest.raises(InputError, match=re.escape(str(layout)) + ".* see 1; take e.g. data=1$"):
        train(tiny_run(), run_directory, layout=layout)


def test_a_batch_that_the_devices_cannot_share_is_told(small):
    with pytest.raises(InputError, match="spreads a batch over data x fsdp = 3 devices, but it has 8 sequences"):
        sequences_per_device(small(), Layout(data=3))
