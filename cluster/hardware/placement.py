"""Placement of a run: the mesh it fits with in each pool, its time there and its price.

Plain arithmetic, no jax and no ray: a plan is made before there is any device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence

from nextscale.cluster.hardware.catalogue import Accelerator, lookup
from nextscale.cluster.hardware.memory import ONE_DEVICE, Split, bytes_needed
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.hardware.speed import Speed
from nextscale.model.accounting import parameters
from nextscale.model.config.external import AnyRun, ExternalRun
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import ModelConfig, RunConfig
from nextscale.model.errors import InputError
from nextscale.model.network.kernels import RECOMPUTE, RECOMPUTED

USABLE_SHARE = 0.92
"""Share of a device's memory that a run is planned into: the rest is XLA's, the driver's, and what is in pieces."""
_OFF = 1.22
"""What a run is said to need / a device's memory, up to which it may fit in truth: the one is off by up to 15 %, and of
the other there is 6 % more where the maker means GiB (of a v5e XLA uses 15.75 GiB)."""
SLOWNESS_LIMIT = 100.0
"""A pool in which a run takes so many times as long as in the quickest is none of its seats: it would never end."""

LARGE_RUNS = 0.21, 0.46
"""Shares of the peak that published runs of large models reached (Chowdhery et al. 2022, table 3)."""
_ACCELERATED = 0.4
"""Share of the peak that models of 100M parameters and more reach: PaLM reached .46, others .21 to .33 (Chowdhery et
al. 2022, table 3). Smaller ones wait for their kernels to be launched; for these it is a cautious guess, in proportion
to their size, that nobody has measured."""
_ACCELERATED_FROM = 1e8
_CPU, _CPU_FROM = 0.25, 1e6
"""The same for a core of a CPU, against `catalogue.core_flops`; falls with the root of the size. Where that is 207
GFLOP/s, the quickstart (9.4e12 FLOPs, models of 3k to 164k, four minutes on two cores) comes to .09."""

FitCache = dict[Hashable, tuple[Split | None, float]]
"""By pool and shape of a run, how it fits there and what it needs; see `_fitted`."""


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
    """The meshes of a slot, the preferred first: all its devices, `tensor` last, and `fsdp` not at all or as far as
    it goes, since a gradient that is gathered and one that is summed cost about the same messages.

    Processes of a gang have one mesh together, so it is of all devices; a lone process may leave some idle. `tensor`
    stays within a host, for it talks in every block, and divides the heads; between slices there is `data` alone.
    """
    model, sequences = config.model, config.batch_sequences
    heads, hidden, width, experts = _divided(model)
    # A process sees a CPU as one device, however many cores it has.
    chips = 1 if pool.accelerator == "cpu" else (pool.chips if pool.gang else max(int(pool.chips_per_run), 1))
    slices = pool.slices_per_run if pool.gang else 1
    devices = (pool.hosts * slices if pool.gang else 1) * chips
    found = [
        Split(n // tensor // fsdp, fsdp, tensor)
        for n in ((devices,) if pool.gang else _divisors(devices)[::-1])
        for tensor in _divisors(math.gcd(n, chips))
        if heads % tensor == 0 and hidden % tensor == 0 and sequences % (n // tensor) == 0
        # Experts that are not spread over `tensor` would all be computed by each of its devices.
        if experts == 1 or experts % tensor == 0
        for fsdp in _divisors(n // tensor)
        if width % fsdp == 0 and n // tensor // fsdp % slices == 0
    ]
    return iter(sorted(found, key=lambda split: (-split.devices, split.tensor, split.fsdp > 1, -split.fsdp)))


def _divided(model: ModelConfig | ModuleModel) -> tuple[int, int, int, int]:
    """Heads and hidden width, which `tensor` divides, the width, which `fsdp` does, and experts. Of a module they are
    not known: it is split along `fsdp` alone, and a weight whose dimension that does not divide is whole."""
    if isinstance(model, ModuleModel):
        return 1, 1, 0, 1
    return math.gcd(model.heads, model.kv_heads or model.heads), model.hidden_width, model.width, model.experts


def _divisors(n: int) -> list[int]:
    return [i for i in range(1, n + 1) if n % i == 0]


def _fitted(config: RunConfig, pool: Pool, accelerator: Accelerator) -> tuple[Split | None, float]:
    """The first mesh of a pool that a run fits with, None if none; and what it needs there, or at the least.

    The fewest micro-batches with which it fits on any mesh, and blocks that are computed again only where nothing else
    helps. An estimate is too high now and then: where none is low enough, the lowest counts as it may be at best.
    """
    room, splits = _room(pool, accelerator), list(candidate_splits(config, pool))
    least, best = math.inf, None
    for tried in _with_savings(config, splits, accelerator.platform):
        need = bytes_needed(config, tried, accelerator.platform)
        if need <= room:
            return tried, need
        if need < least:
            least, best = need, tried
    return (best if least <= room / USABLE_SHARE * _OFF else None), least


def _with_savings(config: RunConfig, splits: Sequence[Split], platform: str) -> Iterator[Split]:
    """Meshes with all that can be done to save memory, the preferred first."""
    for _, alike in itertools.groupby(splits, key=lambda split: (split.devices, split.tensor)):
        meshes = list(alike)
        known = RECOMPUTE if platform != "cpu" else RECOMPUTE[:-1]
        for recompute in known if isinstance(config.model, ModelConfig) else known[:1]:
            for parts in _divisors(config.batch_sequences * meshes[0].tensor // meshes[0].devices):
                yield from (split._replace(micro_batches=parts, recompute=recompute) for split in meshes)


def _split(
    config: AnyRun, name: str, pool: Pool, accelerator: Accelerator, fits: FitCache
) -> tuple[Split | None, float]:
    """How a run fits into a pool, and what it needs; of what an external trainer needs nothing is known, so it has the
    whole of a slot."""
    if isinstance(config, ExternalRun):
        return ONE_DEVICE._replace(data=max(int(pool.chips_per_slot), 1)), 0.0
    training = config.training
    shape = (name, config.model, training.batch_tokens, training.optimizer, training.dtype, training.param_dtype)
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
        work = flops * (1 + RECOMPUTED[split.recompute])
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


def _undivided(config: RunConfig, name: str, pool: Pool) -> str:
    """Why the sequences of a batch cannot be spread over a gang, and which batch could."""
    heads, hidden, _, experts = _divided(config.model)
    devices, T = int(pool.chips_per_slot), config.model.context
    shared = math.gcd(math.gcd(heads, hidden), math.gcd(devices, pool.chips))
    tensor = max(n for n in _divisors(shared) if experts == 1 or experts % n == 0)
    ways, had = devices // tensor, config.batch_sequences
    near = sorted({max(had // ways, 1) * ways, -(-had // ways) * ways})
    fewer = tensor * math.gcd(had, ways)
    return (
        f"cannot be spread over {devices} chips ({pool.slices_per_run} x {pool.hosts} x {pool.chips}) of pool {name}: "
        f"a batch has {had} sequences of {T} tokens, none of which is spread over devices, and {ways} devices or more "
        f"share them (tensor, which divides heads, hidden width and a host's chips, takes {tensor} at the most); give "
        f"training.batch_tokens a multiple of {ways} x {T} = {ways * T}, such as "
        f"{' or '.join(str(n * T) for n in near)}, or take {fewer} chips"
    )


def _nowhere(config: AnyRun, lacks: list[tuple[float, float, str, Pool]]) -> str:
    """Why a run fits nowhere."""
    if not lacks:
        return "there is no pool to train in; name one"
    # Of those that the run can be spread over, the one whose devices have most together.
    need, room, name, pool = max(lacks, key=lambda lack: (lack[0] < math.inf, lack[1] * lack[3].chips_per_slot))
    what, chips = f"a run of {parameters(config.model):.3g} parameters", pool.chips_per_slot
    if math.isinf(need) and not isinstance(config, ExternalRun):
        return f"{what} {_undivided(config, name, pool)}"
    return (
        f"{what} needs {need / 1e9:.3g} GB of each device at the least, and the largest slot, {chips:g} x "
        f"{pool.accelerator} of pool {name}, has {room / 1e9:.3g} of each; name a pool of more or larger devices, or "
        "take a smaller context or width"
    )
