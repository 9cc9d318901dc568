"""The catalogue of accelerators: what each can do, holds, draws and costs, and who says so.

Plain data: neither jax nor ray is imported. A site file extends it (see `site.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Mapping
from typing import Any, Literal

from nextscale.model.errors import InputError
from nextscale.model.record import Row, is_number

_TB, _GB, _T = 1e12, 1e9, 1e12
_PEAK_SECONDS = 0.03
"""A few tries, all while another process has the other cores, would make the peak ten times too low."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One kind of chip; on a CPU a core. What nobody has published, or nobody has measured, is None.

    Attributes:
        platform: what JAX computes with there.
        peak_flops: FLOP/s of products of bfloat16 matrices, without sparsity; of a CPU in float32.
        hbm_bytes: memory of one chip.
        hbm_bandwidth: bytes/s.
        chips_per_host: of the largest host that is offered.
        watts: of one chip, its board's limit where that is known.
        usd_per_chip_hour: list price on demand, with the share of the host that comes with a chip.
        usd_per_chip_hour_spot: the same for what may be taken away.
        priced: which price that is, and of when.
        device_kinds: as JAX calls it.
        ray_types: as Ray calls it.
        sources: where a figure is from, by the name of its field.
    """

    name: str
    platform: Literal["cuda", "tpu", "cpu"]
    peak_flops: float | None = None
    hbm_bytes: float | None = None
    hbm_bandwidth: float | None = None
    chips_per_host: int = 1
    watts: float | None = None
    usd_per_chip_hour: float | None = None
    usd_per_chip_hour_spot: float | None = None
    priced: str | None = None
    device_kinds: tuple[str, ...] = ()
    ray_types: tuple[str, ...] = ()
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


FIGURES = ("peak_flops", "hbm_bytes", "hbm_bandwidth", "chips_per_host", "watts", "usd_per_chip_hour")

_READ = "SkyPilot's catalogue v8, in a copy read 2026-11-23"
"""The listing itself bears no date."""
_AWS = f"AWS on demand, us-east-1, one chip's share of a host: {_READ}"
_GCP = f"Google Cloud, {{region}}: {_READ}"
_AWS_SOURCE = "https://github.com/skypilot-org/skypilot-catalog, catalogs/v8/aws/vms.csv at 00148f2a, {row}"
_GCP_SOURCE = "https://github.com/skypilot-org/skypilot-catalog, catalogs/v8/gcp/vms.csv at 8427bbff, {row}"
_RAY_TPU = "ray/_private/accelerators/tpu.py of Ray 2.60, DEFAULT_TPU_NUM_CHIPS_PER_HOST"


def _nvidia(page: str, row: str, hosts: str, **others: str) -> dict[str, str]:
    figures = dict.fromkeys(("peak_flops", "hbm_bytes", "hbm_bandwidth", "watts"), page)
    return figures | {"chips_per_host": hosts, "usd_per_chip_hour": _AWS_SOURCE.format(row=row)} | others


def _tpu(page: str, row: str, **others: str) -> dict[str, str]:
    figures = dict.fromkeys(("peak_flops", "hbm_bytes", "hbm_bandwidth", "chips_per_host"), page)
    price = _GCP_SOURCE.format(row=row)
    return figures | {"usd_per_chip_hour": price, "usd_per_chip_hour_spot": price} | others


_A100 = (
    "NVIDIA's data sheet nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf, as quoted by "
    "https://glennklockwood.com/garden/processors/A100"
)
_H200 = "https://itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html (without sparsity)"

_ALL = (
    Accelerator(
        name="tpu-v4",
        platform="tpu",
        peak_flops=275 * _T,
        hbm_bytes=32 * 2**30,
        hbm_bandwidth=1200 * _GB,
        chips_per_host=4,
        watts=192,
        usd_per_chip_hour=3.22,
        usd_per_chip_hour_spot=0.9215,
        priced=_GCP.format(region="us-central2"),
        device_kinds=("TPU v4",),
        ray_types=("TPU-V4",),
        sources=_tpu(
            "https://cloud.google.com/tpu/docs/v4",
            "tpu-v4-8 / 4",
            chips_per_host=_RAY_TPU,
            watts="https://cloud.google.com/tpu/docs/v4 (the largest measured)",
        ),
    ),
    Accelerator(
        name="tpu-v5e",
        platform="tpu",
        peak_flops=197 * _T,
        hbm_bytes=16 * _GB,
        hbm_bandwidth=819 * _GB,
        chips_per_host=8,
        usd_per_chip_hour=1.2,
        usd_per_chip_hour_spot=0.24493,
        priced=_GCP.format(region="us-central1"),
        device_kinds=("TPU v5 lite", "TPU v5e"),
        ray_types=("TPU-V5LITEPOD", "TPU-V5E"),
        sources=_tpu("https://docs.cloud.google.com/tpu/docs/v5e", "tpu-v5litepod-1"),
    ),
    Accelerator(
        name="tpu-v5p",
        platform="tpu",
        peak_flops=459 * _T,
        hbm_bytes=95 * _GB,
        hbm_bandwidth=2765 * _GB,
        chips_per_host=4,
        usd_per_chip_hour=4.2,
        usd_per_chip_hour_spot=0.92856,
        priced=_GCP.format(region="us-central1"),
        device_kinds=("TPU v5", "TPU v5p"),
        ray_types=("TPU-V5P",),
        sources=_tpu("https://docs.cloud.google.com/tpu/docs/v5p-training", "tpu-v5p-12288 / 6144"),
    ),
    Accelerator(
        name="tpu-v6e",
        platform="tpu",
        peak_flops=918 * _T,
        hbm_bytes=32 * _GB,
        hbm_bandwidth=1638 * _GB,
        chips_per_host=8,
        usd_per_chip_hour=2.7,
        usd_per_chip_hour_spot=0.57285,
        priced=_GCP.format(region="us-central1"),
        device_kinds=("TPU v6 lite", "TPU v6e"),
        ray_types=("TPU-V6E",),
        sources=_tpu("https://docs.cloud.google.com/tpu/docs/v6e.md.txt", "tpu-v6e-1"),
    ),
    Accelerator(
        name="a100",
        platform="cuda",
        peak_flops=312 * _T,
        hbm_bytes=80 * _GB,
        hbm_bandwidth=2.039 * _TB,
        chips_per_host=8,
        watts=400,
        usd_per_chip_hour=3.4309,
        priced=_AWS,
        device_kinds=("NVIDIA A100-SXM4-80GB",),
        ray_types=("A100-80G",),
        sources=_nvidia(_A100, "p4de.24xlarge / 8", "p4de.24xlarge"),
    ),
    Accelerator(
        name="a100-40gb",
        platform="cuda",
        peak_flops=312 * _T,
        hbm_bytes=40 * _GB,
        hbm_bandwidth=1.555 * _TB,
        chips_per_host=8,
        watts=400,
        usd_per_chip_hour=2.7447,
        priced=_AWS,
        device_kinds=("NVIDIA A100-SXM4-40GB",),
        ray_types=("A100-40G", "A100"),  # Ray calls both so of its own accord; this is the one that all fit on
        sources=_nvidia(_A100, "p4d.24xlarge / 8", "p4d.24xlarge"),
    ),
    Accelerator(
        name="h100",
        platform="cuda",
        peak_flops=989.4 * _T,
        hbm_bytes=80 * _GB,
        hbm_bandwidth=3.35 * _TB,
        chips_per_host=8,
        watts=700,
        usd_per_chip_hour=6.88,
        priced=_AWS,
        device_kinds=("NVIDIA H100 80GB HBM3",),
        ray_types=("H100",),
        sources=_nvidia("https://glennklockwood.com/garden/processors/h100 (SXM5)", "p5.48xlarge / 8", "p5.48xlarge"),
    ),
    Accelerator(
        name="h200",
        platform="cuda",
        peak_flops=989 * _T,
        hbm_bytes=141 * _GB,
        hbm_bandwidth=4.8 * _TB,
        chips_per_host=8,
        watts=700,
        usd_per_chip_hour=7.912,
        priced=_AWS,
        device_kinds=("NVIDIA H200",),
        ray_types=("H200",),
        sources=_nvidia(_H200, "p5en.48xlarge / 8", "p5en.48xlarge"),
    ),
    Accelerator(
        name="b200",
        platform="cuda",
        peak_flops=2250 * _T,
        hbm_bytes=180 * _GB,
        hbm_bandwidth=8 * _TB,
        chips_per_host=8,
        watts=1000,
        usd_per_chip_hour=14.2416,
        priced=_AWS,
        device_kinds=("NVIDIA B200",),
        ray_types=("B200",),
        sources=_nvidia(
            "https://glennklockwood.com/garden/processors/B200 (HGX, at 1000 W)",
            "p6-b200.48xlarge / 8",
            "p6-b200.48xlarge",
            hbm_bytes="https://www.server-parts.eu/post/nvidia-b200-gb200-blackwell-gpu-server-comparison (HGX)",
        ),
    ),
    Accelerator(
        name="l4",
        platform="cuda",
        peak_flops=121 * _T,
        hbm_bytes=24 * _GB,
        hbm_bandwidth=300 * _GB,
        chips_per_host=8,
        watts=72,
        usd_per_chip_hour=0.8048,
        priced=_AWS,
        device_kinds=("NVIDIA L4",),
        ray_types=("L4",),
        sources=_nvidia(
            "https://grokipedia.com/page/NVIDIA_L4_vs_L40S (24 GB, 300 GB/s, 72 W)",
            "g6.xlarge",
            _GCP_SOURCE.format(row="L4, 8"),
            peak_flops="https://grokipedia.com/page/NVIDIA_L4_vs_L40S (half of the 242 TFLOP/s with sparsity)",
        ),
    ),
    Accelerator(name="cpu", platform="cpu", device_kinds=("cpu",), ray_types=("CPU",)),
)

CATALOGUE: Mapping[str, Accelerator] = {accelerator.name: accelerator for accelerator in _ALL}


def lookup(name: str, accelerators: Mapping[str, Accelerator] = CATALOGUE) -> Accelerator:
    """The entry of a name, in whatever case it is written; exactly as written first, for a site may name its own.

    Raises:
        InputError: there is none.
    """
    alike = (one for known, one in accelerators.items() if known.casefold() == name.casefold())
    found = accelerators.get(name) or next(alike, None)
    if found is None:
        known = ", ".join(accelerators)
        raise InputError(f"accelerator {name!r} is not in the catalogue; take one of {known}, or add it to a site file")
    return found


def by_device_kind(kind: str, accelerators: Mapping[str, Accelerator] = CATALOGUE) -> Accelerator | None:
    """The entry of a device that JAX calls `kind`; None if there is none. Cards of one name differ: this is exact."""
    return next((one for one in accelerators.values() if kind in one.device_kinds), None)


def share_of_peak(row: Row) -> float | None:
    """Model-FLOP utilisation in a row of a run's speed (see `nextscale.model.meter.speed`): its FLOP/s over what its
    devices could do at their peak in bfloat16 (Chowdhery et al. 2022, appendix B). None where that is not known."""
    known = by_device_kind(str(row.get("device")))
    flops, devices = row.get("flops_per_second"), row.get("devices")
    if known is None or known.peak_flops is None or not is_number(flops) or not is_number(devices) or devices <= 0:
        return None
    return flops / (devices * known.peak_flops)


def by_ray_type(label: str, accelerators: Mapping[str, Accelerator] = CATALOGUE) -> Accelerator | None:
    """The entry of what Ray calls an accelerator, None if there is none.

    Args:
        label: an accelerator type such as `H100`; a resource such as `accelerator_type:TPU-V4` or
            `TPU-v5litepod-16-head`; or the type of a slice, `v5litepod-16`.
    """
    name = label.removeprefix("accelerator_type:").removesuffix("-head").upper()
    if slice_ := re.fullmatch(r"(?:TPU-)?(V\d+[A-Z]*)-\d+", name):
        name = f"TPU-{slice_[1]}"
    return next((one for one in accelerators.values() if name in one.ray_types), None)


@functools.lru_cache
def core_flops() -> float:
    """FLOP/s of one core of this machine, in products of float32 matrices: about a twentieth of a second, once."""
    import numpy as np

    best = 0.0
    for n, count in ((512, 1), (64, 128)):  # small ones are one thread's alone, and wait for no other
        a = np.ones((count, n, n), np.float32)
        product = np.empty_like(a)
        until = time.perf_counter() + _PEAK_SECONDS
        while time.perf_counter() < until:
            began = time.process_time()  # of all threads, so that it is of one core however many there are
            np.matmul(a, a, out=product)
            best = max(best, 2 * count * n**3 / max(time.process_time() - began, 1e-9))
    return best


def with_measured_cpu(accelerators: Mapping[str, Accelerator] = CATALOGUE) -> dict[str, Accelerator]:
    """The same, with the peak of a core of this machine where nothing else is said of it."""
    cpu = accelerators.get("cpu")
    if cpu is None or cpu.peak_flops is not None:
        return dict(accelerators)
    sources = {**cpu.sources, "peak_flops": "measured on this machine: products of float32 matrices, one core"}
    return {**accelerators, "cpu": dataclasses.replace(cpu, peak_flops=core_flops(), sources=sources)}
