"""Has runs compiled in a process of its own: it sees the devices that it is told to, and gives back what it took."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any, NamedTuple

from nextscale.model.config.run import RunConfig
from nextscale.model.errors import InputError
from nextscale.model.external.asked import AskedProcess

TPUS = {"tpu-v4": ("v4", 3), "tpu-v5e": ("v5e", 2), "tpu-v5p": ("v5p", 3), "tpu-v6e": ("v6e", 2)}
"""Of the catalogue's TPUs the name that libtpu has for them, and the dimensions of their slices (Google Cloud's pages
"TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e")."""
_DESCRIBED = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
_DESCRIBED |= {"TPU_ACCELERATOR_TYPE": "v5litepod-8"}
"""What keeps libtpu from looking for TPUs, whichever it compiles for."""


class Target(NamedTuple):
    """What is compiled for.

    Attributes:
        topology: of each slice of TPUs, as libtpu reads it; None for CPUs.
        hosts: the shape of a host's chips, where a slice is smaller than a host of its kind.
        slices: that train one run together.
    """

    topology: str | None
    hosts: tuple[int, ...] | None = None
    slices: int = 1


def shape_of_slice(chips: int, dimensions: int) -> tuple[int, ...]:
    """The most cubic slice of so many chips, in powers of two, the smaller sides first, as Google Cloud has them.

    Raises:
        InputError: there is none of so many.
    """
    power = int(math.log2(chips)) if chips > 0 else 0
    if 2**power != chips:
        raise InputError(f"a slice of {chips} chips has no usual shape; state the pool's topology")
    sides = [2 ** (power // dimensions + (i >= dimensions - power % dimensions)) for i in range(dimensions)]
    # A slice of four is a square, one layer of it where there are three dimensions.
    return tuple(sorted(sides)) if dimensions == 2 or chips >= 8 else (*sorted(sides)[::-1],)


def target_of(accelerator: str, platform: str, chips: int, topology: str | None = None, slices: int = 1) -> Target:
    """What to compile for, for slices of so many chips.

    Args:
        topology: of a slice of TPUs, such as 4x4, where it is known.

    Raises:
        InputError: there is no compiler for it here.
    """
    if platform == "cpu":
        return Target(None)
    if accelerator not in TPUS:
        raise InputError(
            f"{accelerator}: programs for GPUs are compiled on them alone; ask there with --memory of "
            "`python -m nextscale.model`, or see what its first run says"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("libtpu is not installed; pip install 'nextscale[tpu]' (it needs no TPU)")
    name, dimensions = TPUS[accelerator]
    shape = shape_of_slice(chips, dimensions) if topology is None else tuple(map(int, topology.split("x")))
    hosts = (*shape, *[1] * (3 - len(shape))) if chips < 4 else None
    return Target(f"{name}:{'x'.join(map(str, shape))}", hosts, slices)


class Compiler:
    """A process that compiles, with so many CPUs as devices."""

    def __init__(self, devices: int = 1):
        # First: behind what is no flag XLA reads none.
        flags = f"--xla_force_host_platform_device_count={devices} {os.environ.get('XLA_FLAGS', '')}".strip()
        environment = _DESCRIBED | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        self._process = AskedProcess("nextscale.model.ahead.compiling", environment)

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.close(at_once=any(error))

    def ask(self, config: RunConfig, layout: str, micro_batches: int, recompute: str, target: Target) -> dict[str, Any]:
        """What the compiler says of a run (see `compiling.compiled`).

        Raises:
            InputError: it cannot be compiled.
        """
        asked = {"config": config.model_dump(mode="json"), "layout": layout, **target._asdict()}
        return self._process.ask(asked | {"micro_batches": micro_batches, "recompute": recompute}, "the compiler")
