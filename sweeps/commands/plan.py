"""The command `plan`: the runs of a sweep, their cost, and the faults of the design."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.sweeps.show.formats import count, duration, in_bytes, number, three_digits
from nextscale.sweeps.show.tables import Table
from nextscale.sweeps.terminal.console import Json, Set, Spec, note, print_json, screen, warn

if TYPE_CHECKING:
    from nextscale.sweeps.design.simulate import ExpectedInterval
    from nextscale.sweeps.plan.plan import Plan
    from nextscale.sweeps.spec.sweep_spec import SweepSpec

app = typer.Typer()

_SAVED = {
    "branching": "by branching",
    "kept": "by going on from states that finished runs kept",
    "store": "by runs that are done",
}
MANY = 40
"""Runs from which on a table has a row for each budget."""


@app.command()
def plan(
    spec: Spec,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="where it is run: what is done there is not counted again, and tells how fast the rest will be "
            "\\[default: out/NAME]",
        ),
    ] = None,
    set_: Set = None,
    all_: Annotated[
        bool, typer.Option("--all", help=f"a row for every run, also where there are more than {MANY}")
    ] = False,
    carbon: Annotated[
        float | None,
        typer.Option(min=0, metavar="GRAMS_PER_KWH", help="of your grid: tells the CO2 of pools whose power is known"),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=0.5,
            help="relative scatter of a run about the law, for the expected interval \\[default: that of the runs in "
            "DIR, else .003]",
        ),
    ] = None,
    expect: Annotated[bool, typer.Option(help="simulate the design for the expected interval of the forecast")] = True,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="have the steps of each size compiled, for its TPUs by libtpu or for the CPUs here: what memory they "
            "take, beside what the plan says; takes seconds to minutes a size",
        ),
    ] = False,
    json_: Json = False,
) -> None:
    """Tells what a sweep would train and cost, how sure its forecast will be, and what is wrong with its design.

    Starts nothing: needs no Ray, no cluster and no device.
    """
    from nextscale.sweeps.plan.plan import plan_sweep
    from nextscale.sweeps.plan.spec_files import load_spec, located_errors

    read = load_spec(spec, set_ or ())
    with located_errors(spec, set_ or ()):
        found = plan_sweep(read, out, carbon=carbon, noise=noise, simulate=expect)
    sizes = _compiled(read, found, out) if compile_ else None
    if json_:
        print_json(found.to_dict() | ({} if sizes is None else {"compiled": sizes}))
        return
    for table in _tables(found, every=all_ or len(found.runs) <= MANY):
        screen.print(table.rich())
    note(_times(found))
    if found.open_flops:
        note([f"{found.open_flops:.3g} FLOPs of them are for runs that are chosen as results land"])
    if found.expected is not None:
        note(in_words(found.expected))
    if sizes:
        screen.print(_sizes(sizes).rich())
        note([*dict.fromkeys(f"not compiled: {size['why_not']}" for size in sizes if size["why_not"])])
    warn(found.warnings)


def _compiled(spec: SweepSpec, found: Plan, out: Path | None) -> list[dict[str, Any]]:
    from nextscale.sweeps.plan.compiled import compile_plan
    from nextscale.sweeps.terminal.console import aside

    sizes = []
    with aside.status("compiling") as status:
        for size in compile_plan(spec, found, out):
            sizes.append(size)
            status.update(f"compiling: {len(sizes)} done, the last of {count(size['params'])} parameters")
    return sizes


def _sizes(sizes: list[dict[str, Any]]) -> Table:
    rows = []
    for size in sizes:
        planned, needed = size["planned_bytes"], size["bytes"]
        rows.append(
            [
                *(count(size["params"]), size["pool"], size["layout"] or "-", str(size["micro_batches"])),
                *(size["recompute"], in_bytes(planned) if planned else "-"),
                *(["-"] * 4 if needed is None else [in_bytes(needed), f"{planned / needed - 1:+.0%}"]),
                *([] if needed is None else [in_bytes(size["state_bytes"]), f"{size['cpu_seconds']:.1f} s"]),
            ]
        )
    columns = ["params", "pool", "layout", "micro-batches", "recompute", "plan", "compiled", "plan off by"]
    return Table("Memory of each device, as compiled", [*columns, "of it state", "CPU time"], rows, left=3)


def _tables(found: Plan, *, every: bool) -> list[Table]:
    title = f"{found.name}: {len(found.runs)} runs, {found.total_flops:.3g} FLOPs"
    if done := sum(run["done"] for run in found.runs):
        title += f"; {done} are done, {found.left_flops:.3g} FLOPs are left"
    shown = [_runs(found, title), _seats(found)] if every else [_budgets(found, title)]
    return [*shown, _pools(found)]


def _runs(found: Plan, title: str) -> Table:
    own = all(run["width"] is not None for run in found.runs)
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("run", lambda run: run["run_id"]),
        ("for", lambda run: run["role"] + (", done" if run["done"] else "")),
        ("budget", lambda run: number(run["budget"])),
        ("width", lambda run: str(run["width"])) if own else ("size", lambda run: run["size"]),
        ("params", lambda run: count(run["params"])),
        ("non-emb.", lambda run: "-" if run["params_non_embedding"] is None else count(run["params_non_embedding"])),
        ("tokens", lambda run: count(run["tokens"])),
        ("tokens/param", lambda run: three_digits(run["tokens_per_param"])),
        ("steps", lambda run: str(run["steps"])),
        ("batch", lambda run: count(run["batch_tokens"])),
        ("lr", lambda run: "-" if run["lr"] is None else three_digits(run["lr"])),
        ("FLOPs", lambda run: number(run["own_flops"])),
    ]
    return Table(title, [name for name, _ in columns], [[form(run) for _, form in columns] for run in found.runs])


def _seats(found: Plan) -> Table:
    rows = [
        [
            *(run["run_id"], run["pool"], run["layout"] or "-", str(run["micro_batches"])),
            *(run["recompute"], in_bytes(run["bytes"]) if run["bytes"] else "-"),
            duration(run["seconds"]),
            *(run["speed"], number(run["usd"], 3)),
        ]
        for run in found.runs
    ]
    columns = ["run", "pool", "layout", "micro-batches", "recompute", "memory", "expected", "by", "$"]
    return Table("where they would go", columns, rows, left=3)


def _budgets(found: Plan, title: str) -> Table:
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for run in found.runs:
        groups.setdefault((run["role"], run["budget"]), []).append(run)
    rows = []
    for (role, budget), runs in groups.items():
        left = [run for run in runs if not run["done"]]
        known = [run["usd"] for run in left if run["usd"] is not None]
        rows.append(
            [
                *(number(budget), role, str(len(runs)), str(len(runs) - len(left))),
                *(_range((run[key] for run in runs), count) for key in ("params", "tokens")),
                *(_range((run[key] for run in runs), three_digits) for key in ("tokens_per_param", "steps")),
                number(sum(run["own_flops"] for run in runs)),
                duration(3600 * sum(run["device_hours"] for run in left)),
                number(sum(known), 3) if known else "-",
            ]
        )
    columns = [
        "budget",
        "for",
        "runs",
        "done",
        "params",
        "tokens",
        "tokens/param",
        "steps",
        "FLOPs",
        "device time",
        "$",
    ]
    return Table(title, columns, rows)


def _pools(found: Plan) -> Table:
    rows = [
        [
            *(pool["pool"], _slots(pool), str(pool["runs"])),
            *(number(pool[key], 3) for key in ("device_hours", "usd", "kwh", "co2_kg")),
        ]
        for pool in found.pools
    ]
    columns = ["pool", "slots", "runs", "device-hours", "$", "kWh", "kg CO2"]
    if all(pool["co2_kg"] is None for pool in found.pools):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("What is left takes", columns, rows, left=2)


def _slots(pool: dict[str, Any]) -> str:
    chips = "" if pool["chips_per_slot"] == 1 else f"{pool['chips_per_slot']:g} x "
    return f"{pool['slots']} x {chips}{pool['accelerator']}"


def _times(found: Plan) -> list[str]:
    lines = []
    left = [run for run in found.runs if not run["done"]]
    if left and found.wall_seconds is not None and found.critical_seconds is not None:
        timed = sum(run["speed"] == "measured" for run in left)
        basis = f"{timed} of {len(left)} runs by the speed of runs like them" if timed else "by the catalogue's speed"
        lines.append(
            f"{duration(found.wall_seconds)} on these pools, {duration(found.critical_seconds)} with all the slots one "
            f"could use ({basis})"
        )
    for what, why in _SAVED.items():
        if saved := found.saved_flops[what]:
            whole = found.total_flops + (0 if what == "store" else saved)
            lines.append(f"{saved:.3g} FLOPs are saved {why}, {saved / whole:.0%}")
    return lines


def in_words(expected: ExpectedInterval) -> list[str]:
    """What to expect of the forecast."""
    target = expected.target
    where = f"at {target['flops']:.3g} FLOPs, {count(target['params'])} parameters"
    if expected.half_width is None:
        return [f"no forecast {where}: {expected.problem}"]
    lines = [
        f"the {expected.level:.0%} interval of the forecast {where} will be about ±{expected.half_width:.2%} of the "
        f"loss; of {expected.simulations} simulations {expected.coverage:.0%} measured a loss within it",
        f"simulated on {expected.prior}, with runs that scatter by {expected.noise:.2%}",
    ]
    for one in expected.improvements:
        lines.append(f"with {one['what']}: ±{one['half_width']:.2%}, for {one['flops']:.3g} FLOPs more")
    return lines


def _range(values: Iterable[float], form: Callable[[float], str]) -> str:
    known = sorted(values)
    low, high = form(known[0]), form(known[-1])
    return low if low == high else f"{low}-{high}"
