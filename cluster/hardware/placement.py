"""Placement of a run: the memory it needs, the mesh it fits with in each pool, its time there and its price.

Plain arithmetic, no jax and no ray: a plan is made before there is any device.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

from nextscale.cluster.hardware.catalogue import Accelerator, lookup
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.hardware.speed import Speed
from nextscale.model.accounting import parameter_groups, parameters, steps_per_row
from nextscale.model.config.external import AnyRun, ExternalRun
from nextscale.model.config.run import RunConfig
from nextscale.model.errors import InputError
from nextscale.model.network.kernels import kernel_for, query_blocks

USABLE_SHARE = 0.92
"""Share of a device's memory that a run is planned into: the rest is XLA's, the driver's, and what is in pieces."""
SLOWNESS_LIMIT = 100.0
"""A pool in which a run takes so many times as long as in the quickest is none of its seats: it would never end."""

_ACCELERATED = 0.4
"""Share of the peak that models of 100M parameters and more reach: PaLM reached .46, others .21 to .33 (Chowdhery et
al. 2022, table 3). Smaller ones wait for their kernels to be launched; for these it is a cautious guess, in proportion
to their size, that nobody has measured."""
_ACCELERATED_FROM = 1e8
_CPU, _CPU_FROM = 0.25, 1e6
"""The same for a core of a CPU, against `catalogue.core_flops`; falls with the root of the size. Where that is 207
GFLOP/s, the quickstart (9.4e12 FLOPs, models of 3k to 164k, four minutes on two cores) comes to .09."""
_RECOMPUTED = 4 / 3
"""What computing the blocks twice costs, of all FLOPs."""
_FLOAT32 = 4


class Split(NamedTuple):
    """How a run lies on its devices, as `nextscale.model.network.sharding.Layout`, and what is done to save memory."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    micro_batches: int = 1
    recompute: bool = False

    @property
    def layout(self) -> str:
        return f"data={self.data},fsdp={self.fsdp},tensor={self.tensor}"

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor


ONE_DEVICE = Split()

FitCache = dict[Hashable, tuple[Split | None, float]]
"""By pool and shape of a run, how it fits there and what it needs; see `_fitted`."""


def bytes_needed(config: RunConfig, split: Split = ONE_DEVICE, platform: str = "cpu") -> float:
    """Bytes of each device that the steps of a run take, within some 15 % of what XLA plans for them on a CPU.

    State (weights and moments, in float32) and the batches of a call, and what is largest beside them: the gradient
    with all that is kept for it, or, when that is done, the gradient with the update it becomes.
    """
    model, training = config.model, config.training
    groups = parameter_groups(model)
    # A dimension that an axis does not divide is whole along it.
    vocab_ways = split.tensor if model.vocab % split.tensor == 0 else 1
    matrices = _FLOAT32 * (groups["attention"] + groups["mlp"]) / split.tensor
    weights = matrices + _FLOAT32 * (groups["embedding"] + groups["head"]) / vocab_ways + _FLOAT32 * groups["norm"]
    own = weights / split.fsdp
    moments = {"adamw": 2 * own, "muon": 2 * own - matrices / split.fsdp, "sgd": own}[training.optimizer]
    rows = config.batch_sequences / (split.data * split.fsdp)
    batches = steps_per_row(config) * rows * (model.context + 1) * _FLOAT32

    half = training.dtype == "bfloat16"
    item = 2 if half and platform != "cpu" else _FLOAT32
    # Each device gathers the weights that others hold as it uses them; XLA keeps them until the backward pass.
    gathered = (weights - own) * item / _FLOAT32
    cast = weights / 2 if half else 0.0
    summed = own if split.micro_batches > 1 else 0.0
    block = _block(config, split, platform) * rows / split.micro_batches
    # A CPU multiplies bfloat16 as float32: of the block at hand the scores are there once more.
    turned = _scores(config) / split.tensor * rows / split.micro_batches * _FLOAT32 if half and platform == "cpu" else 0
    kept = model.depth * block + turned
    if split.recompute:
        residual = rows / split.micro_batches * model.context * model.width * item
        stacked = matrices * item / _FLOAT32
        kept = block + turned + model.depth * residual + stacked
    logits = 2 * rows / split.micro_batches * model.context * model.vocab / vocab_ways * _FLOAT32
    backward = own + summed + gathered + cast + kept + logits
    return own + moments + batches + max(backward, 2 * own)


def _block(config: RunConfig, split: Split, platform: str) -> float:
    """Bytes that one block keeps of one sequence for the backward pass.

    In tensors of T tokens: of the width, the residual stream and the norm's output, twice; of the queries, they, keys
    and values as projected, turned and transposed, and the mixture of values; of the MLP, what each of its products
    and its activation's derivative need. Counted in what XLA plans; see `tests/cluster/hardware/test_placement.py`.
    """
    model, T = config.model, config.model.context
    half = config.training.dtype == "bfloat16" and platform != "cpu"
    item = 2 if half else _FLOAT32
    kernel = kernel_for(model, config.training.dtype, T, platform)
    # Products of the blocks kernel are with the keys and values of every head; a flash kernel has them shared.
    keys = model.query_width if kernel == "blocks" else model.key_width
    whole = 3.5 * model.width
    parts = 4 * model.query_width + 4 * keys + 0.5 * model.width
    norms = 2 * model.width * (_FLOAT32 - item)  # computed in float32
    if model.qk_norm:
        parts += 2 * (model.query_width + keys)
    mlp = {"gelu": 3, "relu2": 2, "swiglu": 5, "none": 0}[model.mlp] * model.hidden_width
    if kernel == "blocks":
        # In float32, and in the dtype of the product with the values where that is another.
        scored = _scores(config) * (_FLOAT32 + (2 if config.training.dtype == "bfloat16" else 0))
    else:
        scored = model.heads * T * _FLOAT32  # the logarithm of each softmax's sum
    return T * (item * (whole + (parts + mlp) / split.tensor) + norms) + scored / split.tensor


def _scores(config: RunConfig) -> int:
    """How many scores of one sequence the blocks kernel computes in a block."""
    return config.model.heads * sum((end - start) * end for start, end in query_blocks(config.model.context))


def utilisation(accelerator: Accelerator, params: float) -> float:
    """The share of its peak that a model of this size is expected to reach on a device."""
    if accelerator.platform == "cpu":
        return _CPU * min(1.0, math.sqrt(params / _CPU_FROM))
    return _ACCELERATED * min(1.0, params / _ACCELERATED_FROM)


def price(pool: Pool, accelerator: Accelerator) -> tuple[float | None, str]:
    """Dollars per chip-hour of a pool, None where nobody says, and where that is from."""
    if pool.usd_per_chip_hour is not None:
        return pool.usd_per_chip_hour, "the pool's own"
    if pool.spot and accelerator.usd_per_chip_hour_spot is not None:
        return accelerator.usd_per_chip_hour_spot, f"spot, {accelerator.priced}"
    if accelerator.usd_per_chip_hour is None:
        return None, "no price is known; set usd_per_chip_hour"
    note = ", the price on demand: none is listed for spot" if pool.spot else ""
    return accelerator.usd_per_chip_hour, f"{accelerator.priced}{note}"


def candidate_splits(config: RunConfig, pool: Pool) -> Iterator[Split]:
    """The meshes of a slot, the preferred first: `data` before `fsdp`, and `tensor` last.

    Processes of a gang have one mesh together, so it is of all devices; a lone process may leave some idle. `tensor`
    stays within a host, for it talks in every block, and divides the heads.
    """
    model, sequences = config.model, config.batch_sequences
    # A process sees a CPU as one device, however many cores it has.
    chips = 1 if pool.accelerator == "cpu" else (pool.chips if pool.gang else max(int(pool.chips_per_run), 1))
    devices = (pool.hosts * pool.slices_per_run if pool.gang else 1) * chips
    heads = math.gcd(model.heads, model.kv_heads or model.heads)
    found = [
        Split(n // tensor // fsdp, fsdp, tensor)
        for n in ((devices,) if pool.gang else _divisors(devices)[::-1])
        for tensor in _divisors(math.gcd(n, chips))
        if heads % tensor == 0 and model.hidden_width % tensor == 0 and sequences % (n // tensor) == 0
        for fsdp in _divisors(n // tensor)
        if model.width % fsdp == 0
    ]
    return iter(sorted(found, key=lambda split: (-split.devices, split.tensor, split.fsdp)))


def _divisors(n: int) -> list[int]:
    return [i for i in range(1, n + 1) if n % i == 0]


def _fitted(config: RunConfig, pool: Pool, accelerator: Accelerator) -> tuple[Split | None, float]:
    """The first mesh of a pool that a run fits with, None if none; and the least that it needs on any of them.

    With micro-batches, before weights are split further; blocks are computed twice only where nothing else helps.
    """
    room, least = _room(pool, accelerator), math.inf
    for recompute in (False, True):
        for split in candidate_splits(config, pool):
            own = config.batch_sequences // (split.data * split.fsdp)
            for parts in _divisors(own):
                tried = split._replace(micro_batches=parts, recompute=recompute)
                need = bytes_needed(config, tried, accelerator.platform)
                least = min(least, need)
                if need <= room:
                    return tried, need
    return None, least


def _split(
    config: AnyRun, name: str, pool: Pool, accelerator: Accelerator, fits: FitCache
) -> tuple[Split | None, float]:
    """How a run fits into a pool, and what it needs; of what an external trainer needs nothing is known, so it has the
    whole of a slot."""
    if isinstance(config, ExternalRun):
        return ONE_DEVICE._replace(data=max(int(pool.chips_per_slot), 1)), 0.0
    shape = (name, config.model, config.training.batch_tokens, config.training.optimizer, config.training.dtype)
    if shape not in fits:
        fits[shape] = _fitted(config, pool, accelerator)
    return fits[shape]


def _room(pool: Pool, accelerator: Accelerator) -> float:
    """Bytes of a device that a run in a pool may take; of a CPU, whose memory nobody states, all it likes."""
    share = min(pool.chips_per_run, 1.0) if not pool.gang else 1.0
    return math.inf if accelerator.hbm_bytes is None else USABLE_SHARE * share * accelerator.hbm_bytes


def seats(
    config: AnyRun,
    flops: float,
    pools: Mapping[str, Pool],
    accelerators: Mapping[str, Accelerator],
    speed: Speed | None = None,
    fits: FitCache | None = None,
) -> tuple[Seat, ...]:
    """Where a run can be trained: in the smallest slot first, then the cheapest for the run, then the quickest.

    Args:
        flops: that are left of it.
        accelerators: with a peak for each; `catalogue.with_measured_cpu` gives the CPU one.
        speed: what is known of runs that were timed; where there are none like this, the catalogue tells its time.
        fits: kept from one call to the next with the same pools, it saves looking again for runs of one shape.

    Raises:
        InputError: nowhere; or a pool's accelerator is not known, or no peak of it.
    """
    params, found, lacks = parameters(config.model), [], []
    fits = {} if fits is None else fits
    for name, pool in pools.items():
        accelerator = lookup(pool.accelerator, accelerators)
        if accelerator.peak_flops is None:
            raise InputError(f"pool {name}: no peak_flops of {pool.accelerator} is known; state it in a site file")
        split, need = _split(config, name, pool, accelerator, fits)
        if split is None:
            lacks.append((need, _room(pool, accelerator), name, pool))
            continue
        chips = pool.chips_per_slot
        # Devices beside the mesh are paid for, and do nothing. A lone CPU worker has one thread, a gang's all cores.
        used = min(chips, split.devices) if accelerator.platform != "cpu" else (chips if pool.gang else min(chips, 1))
        work = flops * (_RECOMPUTED if split.recompute else 1)
        rate = used * accelerator.peak_flops * utilisation(accelerator, params)
        timed = (
            None if speed is None else speed.seconds(config, flops, pool.accelerator, chips, recompute=split.recompute)
        )
        usd, _ = price(pool, accelerator)
        seat = Seat(
            pool=name,
            layout="" if isinstance(config, ExternalRun) else split.layout,
            seconds=work / rate if timed is None else timed,
            usd_per_hour=chips * (usd or 0.0),
            chips=chips,
            micro_batches=split.micro_batches,
            recompute=split.recompute,
            bytes=need,
            measured=timed is not None,
        )
        found.append(((chips, usd is None, seat.usd_per_hour * seat.seconds, seat.seconds), seat))
    if not found:
        raise InputError(_nowhere(config, lacks))
    quickest = min(seat.seconds for _, seat in found)
    return tuple(
        seat for _, seat in sorted(found, key=lambda each: each[0]) if seat.seconds <= SLOWNESS_LIMIT * quickest
    )


def _nowhere(config: AnyRun, lacks: list[tuple[float, float, str, Pool]]) -> str:
    """Why a run fits nowhere."""
    if not lacks:
        return "there is no pool to train in; name one"
    need, room, name, pool = min(lacks, key=lambda lack: lack[0] / lack[1])
    what = f"a run of {parameters(config.model):.3g} parameters"
    if math.isinf(need) and not isinstance(config, ExternalRun):
        return (
            f"{what} cannot be spread over {pool.hosts} x {pool.chips} chips of pool {name}: a batch of "
            f"{config.batch_sequences} sequences does not divide over them; change training.batch_tokens"
        )
    return (
        f"{what} needs {need / 1e9:.3g} GB of each device at the least, and the largest slot, of pool {name}, has "
        f"{room / 1e9:.3g}; name a pool of more or larger devices, or take a smaller context or width"
    )
