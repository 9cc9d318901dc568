"""The memory that a run needs, held against XLA's own plan: on the CPU here, and on TPUs as their compiler told it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nextscale.cluster.hardware.catalogue import CATALOGUE
from nextscale.cluster.hardware.memory import Split, bytes_needed
from nextscale.cluster.hardware.placement import seats
from nextscale.cluster.hardware.pool import Pool
from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.config.code import Code
from nextscale.model.config.data import MarkovData
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.model.errors import InputError
from nextscale.model.external import code
from nextscale.model.network.counts import counted
from nextscale.model.network.sharding import Layout
from nextscale.model.training import memory
from nextscale.model.training.step import MemorySaving

BLOCKS = {"width": 1024, "depth": 8, "heads": 16, "context": 2048, "vocab": 50304, "sequences": 8, "dtype": "bfloat16"}
LONG = {"width": 2048, "depth": 16, "heads": 16, "context": 4096, "vocab": 50304, "sequences": 256, "dtype": "bfloat16"}
LLAMA = {"mlp": "swiglu", "mlp_ratio": 3.5}
COMPILED = [
    (LONG, Split(fsdp=256), 11.514e9),
    (LONG | LLAMA | {"kv_heads": 8, "vocab": 131072, "sequences": 8}, Split(fsdp=8, recompute="full"), 4.664e9),
    (LONG | {"width": 2432, "depth": 48, "heads": 19}, Split(data=2, fsdp=128, recompute="full"), 2.725e9),
    (BLOCKS, Split(fsdp=8), 2.217e9),
    (BLOCKS, Split(fsdp=8, recompute="dots"), 1.143e9),
    (BLOCKS, Split(fsdp=8, recompute="full"), 0.806e9),
    (BLOCKS, Split(fsdp=8, recompute="offload"), 0.820e9),
    (BLOCKS | {"sequences": 32}, Split(fsdp=8, micro_batches=2, recompute="full"), 1.163e9),
    (BLOCKS | {"depth": 4}, Split(data=8), 2.771e9),
    (BLOCKS | {"width": 768, "depth": 12, "heads": 12, "sequences": 256}, Split(data=8, micro_batches=8), 10.059e9),
    (BLOCKS | {"sequences": 16}, Split(fsdp=4, tensor=2, recompute="dots"), 1.638e9),
    (
        BLOCKS | {"kv_heads": 4, "sequences": 16, "mlp": "swiglu", "mlp_ratio": 3},
        Split(data=2, fsdp=4, recompute="dots"),
        1.893e9,
    ),
    (
        LONG | LLAMA | {"width": 4096, "depth": 32, "heads": 32, "mlp_ratio": 2.6875, "vocab": 32000},
        Split(fsdp=256, recompute="full"),
        3.366e9,
    ),
    (
        LONG
        | LLAMA
        | {"width": 8192, "depth": 80, "heads": 64, "kv_heads": 8, "context": 8192, "vocab": 128256, "sequences": 512},
        Split(fsdp=64, micro_batches=4, recompute="full"),
        64.358e9,
    ),
    (LONG | LLAMA | {"depth": 8, "vocab": 32000, "sequences": 4}, Split(fsdp=4, recompute="dots"), 4.771e9),
]
"""Model, mesh and saving, and bytes of each device, state and all else, that libtpu 0.0.52 compiles them to for slices
of v5e (the last two for a v5p): `benchmarks/aot.py` shows more of it."""


@pytest.mark.parametrize(("options", "split", "theirs"), COMPILED, ids=str)
def test_the_estimate_is_within_15_per_cent_of_what_the_compiler_of_tpus_makes_of_it(run, options, split, theirs):
    ours = bytes_needed(run(**options), split, "tpu")
    assert ours == pytest.approx(theirs, rel=0.15), f"{ours / theirs - 1:+.1%}"


# Not one of these is among the runs that the arithmetic was fitted to.
@pytest.mark.parametrize(
    "options, saving",
    [
        ({"mlp": "swiglu", "qk_norm": True, "norm_scale": True}, MemorySaving()),
        *(
            pytest.param(*case, marks=pytest.mark.slow)  # seconds each, to compile
            for case in (
                ({"depth": 8, "context": 256, "kv_heads": 1}, MemorySaving(1, recompute="full")),
                ({}, MemorySaving()),
                ({"mlp": "relu2", "position": "alibi", "context": 64}, MemorySaving(2)),
                ({"vocab": 8192, "sequences": 4, "optimizer": "muon"}, MemorySaving()),
                ({"experts": 16, "experts_per_token": 4, "shared_experts": 1, "mlp": "swiglu"}, MemorySaving(2)),
            )
        ),
        *(
            pytest.param(*case, marks=[pytest.mark.slow, pytest.mark.soak])
            for case in (
                ({"context": 512, "sequences": 2, "dtype": "bfloat16"}, MemorySaving()),
                ({"width": 128, "sequences": 16}, MemorySaving(4)),
                ({"mlp": "none", "depth": 3, "tied": True}, MemorySaving()),
                ({"width": 512, "heads": 8, "sequences": 1, "context": 64, "optimizer": "sgd"}, MemorySaving()),
                ({"width": 384, "heads": 6, "kv_heads": 2, "sequences": 2, "context": 256}, MemorySaving()),
                ({"depth": 6, "dtype": "bfloat16", "mlp": "swiglu"}, MemorySaving(2, recompute="full")),
                ({"mlp_ratio": 2.0, "head_width": 32, "width": 96, "optimizer": "muon"}, MemorySaving()),
                ({"width": 256, "context": 1024, "sequences": 2, "dtype": "bfloat16"}, MemorySaving(2)),
                ({"width": 128, "experts": 8, "balance_rate": 0.001}, MemorySaving()),
            )
        ),
    ],
    ids=str,
)
def test_the_estimate_is_near_what_xla_plans(run, options, saving):
    config = run(**options)
    split = Split(micro_batches=saving.micro_batches, recompute=saving.recompute)
    ours, theirs = bytes_needed(config, split), memory.bytes_needed(config, Layout(), saving)
    print(f"{ours / 1e6:.1f} MB, by XLA {theirs / 1e6:.1f}: {ours / theirs - 1:+.1%}")
    assert 0.85 < ours / theirs < 1.15


MANY = """
import json, os, sys
os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
from nextscale.model.config.run import RunConfig
from nextscale.model.training.memory import bytes_needed
from nextscale.model.errors import InputError
from nextscale.model.network.sharding import Layout
from nextscale.model.training.step import MemorySaving
config = RunConfig.model_validate_json(sys.argv[1])
print(json.dumps([bytes_needed(config, Layout.parse(layout), MemorySaving()) for layout in sys.argv[2:]]))
"""


@pytest.mark.slow
@pytest.mark.soak
def test_so_it_is_on_many_devices(run):
    config = run(width=256, sequences=4, context=256, vocab=1024, depth=3)
    shapes = [Split(data=4), Split(fsdp=4), Split(tensor=2), Split(fsdp=2, tensor=2)]
    told = subprocess.run(
        [sys.executable, "-c", MANY, config.model_dump_json(), *(split.layout for split in shapes)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for split, theirs in zip(shapes, json.loads(told), strict=True):
        print(f"{split.layout}: {bytes_needed(config, split) / theirs - 1:+.1%}")
        assert 0.85 < bytes_needed(config, split) / theirs < 1.35


def test_more_devices_each_need_less(large):
    config = large()
    whole = bytes_needed(config, Split(), "tpu")
    assert bytes_needed(config, Split(data=4), "tpu") < whole
    assert bytes_needed(config, Split(fsdp=4), "tpu") < bytes_needed(config, Split(data=4), "tpu")
    assert bytes_needed(config, Split(tensor=4), "tpu") < 0.5 * whole
    assert bytes_needed(config, Split(data=4, micro_batches=16), "tpu") < bytes_needed(config, Split(data=4), "tpu")


def test_flash_kernels_keep_no_scores(large):
    config = large(context=8192, sequences=8)
    alibi = large(context=8192, sequences=8, position="alibi")
    assert bytes_needed(config, Split(), "cuda") < 0.5 * bytes_needed(alibi, Split(), "cuda")


POD = {"pod": Pool(accelerator="tpu-v5e", hosts=64, chips=4)}


@pytest.mark.parametrize(("width", "depth", "heads"), [(2048, 16, 16), (2432, 48, 19), (2688, 60, 21)])
def test_what_compiles_within_a_slice_is_not_refused_and_split_by_fsdp_alone(run, width, depth, heads):
    """Of 1.0, 3.7 and 5.5e9 parameters, whose widths 256 chips do not divide but for the first."""
    config = run(**{**LONG, "width": width, "depth": depth, "heads": heads})
    (seat,) = seats(config, flops_per_token(config.model) * 1e10, POD, CATALOGUE)
    layout = Layout.parse(seat.layout)
    assert (layout.tensor, seat.micro_batches) == (1, 1)
    assert layout.fsdp == (256 if width % 256 == 0 else 128)
    assert seat.bytes < CATALOGUE["tpu-v5e"].hbm_bytes


def test_a_run_whose_state_alone_is_larger_than_the_slice_is_refused_with_the_largest_slot(large):
    pools = {"one": Pool(accelerator="h100"), "eight": Pool(accelerator="tpu-v5e", chips=8, lane="gang")}
    config = large(width=8192, depth=64, heads=64)
    assert 12 * parameters(config.model) > 8 * CATALOGUE["tpu-v5e"].hbm_bytes
    with pytest.raises(InputError, match=r"the largest slot, 8 x tpu-v5e of pool eight, has 14\.7 of each"):
        seats(config, 1e20, pools, CATALOGUE)


@pytest.mark.slow
@pytest.mark.parametrize("saving", [MemorySaving(), pytest.param(MemorySaving(4), marks=pytest.mark.soak)], ids=str)
def test_of_a_module_a_little_more_is_planned_than_xla_takes(saving):
    """What its gradient keeps is stated by JAX, before XLA makes less of it."""
    folder = Path(__file__).parents[3] / "examples" / "own_model"
    found = code.resolve(Code(folder=str(folder)), ["nets:Mixer"])
    model = ModuleModel(kind="module", target="nets:Mixer", context=32, vocab=64, width=48, depth=2)
    run = RunConfig(
        data=MarkovData(source="markov", vocab=64),
        model=counted(model, found),
        training=TrainingConfig(batch_tokens=1024, steps=100, lr=0.01, parametrization="standard"),
        code=found,
    )
    ours = bytes_needed(run, Split(micro_batches=saving.micro_batches))
    assert 0.95 < ours / memory.bytes_needed(run, Layout(), saving) < 1.6
