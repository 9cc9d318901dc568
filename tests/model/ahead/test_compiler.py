"""Runs compiled for devices that are not here: what they are told to be, and one line where they cannot be."""

import importlib.util
import math

import pytest

from nextscale.model.accounting import parameters
from nextscale.model.ahead.compiler import Compiler, Target, shape_of_slice, target_of
from nextscale.model.errors import InputError


@pytest.mark.parametrize(
    "dimensions, shapes",
    [
        (2, ["1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"]),
        (3, ["2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"]),
    ],
)
def test_slices_have_the_shapes_that_can_be_rented(dimensions, shapes):
    """Google Cloud's pages of TPU v5e and v5p, 2026; larger ones of v5p come in other shapes too."""
    for shape in shapes:
        sides = tuple(map(int, shape.split("x")))
        assert shape_of_slice(math.prod(sides), dimensions) == sides


def test_what_cannot_be_compiled_here_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^libtpu is not installed; pip install .*$"):
        target_of("tpu-v5e", "tpu", 8)
    with pytest.raises(InputError, match=r"^h100: programs for GPUs are compiled on them alone; .*$"):
        target_of("h100", "cuda", 8)
    assert target_of("cpu", "cpu", 8) == Target(None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert target_of("tpu-v5p", "tpu", 64, slices=2) == Target("v5p:4x4x4", None, 2)
    assert target_of("tpu-v5e", "tpu", 16, topology="2x8") == Target("v5e:2x8")
    with pytest.raises(InputError, match="a slice of 6 chips has no usual shape"):
        target_of("tpu-v5e", "tpu", 6)


@pytest.mark.slow
def test_a_process_compiles_for_as_many_cpus_as_it_is_told(tiny_run):
    run = tiny_run(width=32)
    state = 3 * 4 * parameters(run.model)
    with Compiler(devices=2) as compiler:
        whole = compiler.ask(run, "data=2", 1, "none", Target(None))
        split = compiler.ask(run, "fsdp=2", 1, "none", Target(None))
        with pytest.raises(InputError, match="layout data=4,fsdp=1,tensor=1 is of 4 devices"):
            compiler.ask(run, "data=4", 1, "none", Target(None))
    assert state <= whole["state_bytes"] < 2 * state
    assert 0.5 * state <= split["state_bytes"] < whole["state_bytes"]
    assert min(whole["seconds"], whole["cpu_seconds"], whole["temporary_bytes"]) > 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install '.[tpu]'")
def test_a_process_compiles_for_tpus_that_are_not_here(tiny_run):
    with Compiler() as compiler:
        found = compiler.ask(tiny_run(width=128), "fsdp=4", 1, "none", target_of("tpu-v5e", "tpu", 4))
    assert found["state_bytes"] > 0
