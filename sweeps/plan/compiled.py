"""What compilers say of the sizes of a sweep, beside what its plan says. No Ray; devices need not be here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.cluster.hardware.catalogue import Accelerator
from nextscale.cluster.hardware.pool import Pool
from nextscale.model.ahead.compiler import Compiler, Target, target_of
from nextscale.model.config.external import AnyRun
from nextscale.model.config.run import RunConfig
from nextscale.model.errors import InputError
from nextscale.sweeps.design.chosen_runs import all_runs
from nextscale.sweeps.design.expand import resolve_spec
from nextscale.sweeps.plan.placement import pools_of_spec
from nextscale.sweeps.spec.site_file import load_site
from nextscale.sweeps.spec.sweep_spec import SweepSpec

if TYPE_CHECKING:
    from nextscale.sweeps.plan.plan import Plan

_HOW = ("pool", "layout", "micro_batches", "recompute")


def compile_plan(spec: SweepSpec, plan: Plan, out: str | Path | None = None) -> Iterator[dict[str, Any]]:
    """`compile_sizes` of the runs of a plan, which is that of a spec in a folder (see `plan_sweep`)."""
    spec = resolve_spec(spec)
    folder = Path(out).expanduser() if out is not None else Path("out") / spec.name
    configs = {run.run_id: run.config for run in all_runs(folder, spec)}
    pools, accelerators, _ = pools_of_spec(spec, load_site())
    return compile_sizes([configs[row["run_id"]] for row in plan.runs], plan.runs, pools, accelerators)


def compile_sizes(
    configs: Sequence[AnyRun],
    rows: Sequence[Mapping[str, Any]],
    pools: Mapping[str, Pool],
    accelerators: Mapping[str, Accelerator],
) -> Iterator[dict[str, Any]]:
    """Of each size, and way to train it, what the compiler of its accelerator says, the smallest first: `params`,
    `size`, `batch_tokens`, `pool`, `layout`, `micro_batches`, `recompute`, `planned_bytes` of each device, `bytes`,
    those of the compiled program, of these `state_bytes`, `compile_seconds` and `cpu_seconds`; and `why_not`, in
    words, where it could not be compiled.

    Args:
        configs, rows: the runs of a plan.
    """
    found: dict[Any, tuple[AnyRun, Mapping[str, Any]]] = {}
    for config, row in zip(configs, rows, strict=True):
        of_training = (getattr(config.training, name, None) for name in ("batch_tokens", "dtype", "optimizer"))
        shape = config.model, *of_training
        found.setdefault((shape, *(row[name] for name in _HOW)), (config, row))
    for config, row in sorted(found.values(), key=lambda one: one[1]["params"]):
        told = {name: row[name] for name in ("params", "size", "batch_tokens", *_HOW)}
        told |= {"planned_bytes": row["bytes"], "bytes": None, "why_not": None}
        try:
            yield told | _compiled(config, row, pools[row["pool"]], accelerators)
        except InputError as error:
            yield told | {"why_not": str(error)}


def _compiled(
    config: AnyRun, row: Mapping[str, Any], pool: Pool, accelerators: Mapping[str, Accelerator]
) -> dict[str, Any]:
    if not isinstance(config, RunConfig):
        raise InputError("an external trainer compiles its own programs")
    target = _target(pool, accelerators)
    sizes = (int(axis.partition("=")[2]) for axis in row["layout"].split(","))
    devices = math.prod(sizes) if target.topology is None else 1
    # A process for each: what a compiler took is given back before the next, larger size.
    with Compiler(devices) as compiler:
        answer = compiler.ask(config, row["layout"], row["micro_batches"], row["recompute"], target)
    return {
        "bytes": answer["state_bytes"] + answer["temporary_bytes"],
        "state_bytes": answer["state_bytes"],
        "compile_seconds": answer["seconds"],
        "cpu_seconds": answer["cpu_seconds"],
    }


def _target(pool: Pool, accelerators: Mapping[str, Accelerator]) -> Target:
    chips = pool.hosts * pool.chips if pool.gang else max(int(pool.chips_per_run), 1)
    topology, slices = (pool.topology, pool.slices_per_run) if pool.gang else (None, 1)
    return target_of(pool.accelerator, accelerators[pool.accelerator].platform, chips, topology, slices)
