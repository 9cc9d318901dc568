"""Verifies runs: every record against its config, curve, checkpoints and data."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from etils import epath

from nextscale.cluster.controller.lease import holder
from nextscale.model.accounting import parameters
from nextscale.model.config.data import TokenData, single_sources
from nextscale.model.config.external import ExternalRun
from nextscale.model.config.run import RunConfig
from nextscale.model.data import token_files
from nextscale.model.errors import InputError, first_line
from nextscale.model.record import Row, RunDirectory, read_lines
from nextscale.sweeps.errors import damaged_file_error
from nextscale.sweeps.store.faults import Fault, fault_of
from nextscale.sweeps.store.run_rows import RESULTS, config_columns

_CLOSE = 1e-9
_NAMED = 8
"""Runs in a line, at the most."""
_RECORDED = (
    *("run_id", "params", "params_non_embedding", "params_active", "tokens", "flops", "width", "depth", "steps"),
    *("batch_tokens", "lr", "seed"),
)
"""What every record says of what was asked."""


def run_faults(run: RunDirectory, *, deep: bool) -> Iterator[Fault]:
    """What is wrong in the directory of a run.

    Args:
        deep: whether each checkpoint is restored too; else its metadata is read.
    """
    again = f"delete {run.path} to have this run made again"
    if not run.started:
        if (run.path / "record.json").exists():
            yield Fault(str(run.path), "has a result, but no config that says of what", again)
        return
    try:
        config = run.config()
        run_id = config.run_id
    except ValueError as error:
        yield fault_of(damaged_file_error(Path(run.path / "config.json"), error))
        return
    if run_id != run.path.name:
        yield Fault(f"{run.path}/config.json", f"is that of another run, {run_id}", f"restore it, or {again}")
        return
    try:
        record = run.record()
    except ValueError as error:
        yield fault_of(damaged_file_error(Path(run.path / "record.json"), error))
        return
    if record is not None and record["status"] not in RESULTS:
        what = f"status is {record['status']!s:.40}, neither done nor diverged"
        mend = fault_of(damaged_file_error(Path(run.path / "record.json"))).mend
        yield Fault(f"{run.path}/record.json", what, mend)
        return
    if record is None and holder(Path(run.path)) is not None:
        return
    if isinstance(config, ExternalRun):
        yield from () if record is None else _external_faults(run, config, record)
        return
    if record is not None:
        yield from _record_faults(run, config, record)
    yield from _checkpoint_faults(run, config, record is not None, deep)


def _record_fault(run: RunDirectory, what: str) -> Fault:
    return Fault(f"{run.path}/record.json", what, "delete it to have this run's result made again")


def _external_faults(run: RunDirectory, config: ExternalRun, record: Row) -> Iterator[Fault]:
    """Of what its trainer says of itself, a size or a length may be another than was asked for."""
    for name, asked in (("run_id", config.run_id), ("seed", config.seed), ("steps", config.training.steps)):
        if record.get(name) != asked:
            yield _record_fault(run, f"{name} is {record.get(name)}, and its config says {asked}")
    done, loss = record["status"] == "done", record.get("loss")
    if done and not (_finite(loss) and loss > 0):
        yield _record_fault(run, f"the run is done, and its loss is {loss}, no number above 0")
    if not done and loss is not None:
        yield _record_fault(run, "the run diverged, and has a loss")
    positions = [row["tokens"] for row in run.metrics()]
    if positions != sorted(set(positions)):
        yield Fault(f"{run.path}/metrics.jsonl", "its positions do not rise", "do without its curve")


def _record_faults(run: RunDirectory, config: RunConfig, record: Row) -> Iterator[Fault]:
    expected: Row = config_columns(config) | {"run_id": run.path.name}
    for name in expected.keys() & record.keys():
        if record[name] != expected[name]:
            yield _record_fault(run, f"{name} is {record[name]}, and its config says {expected[name]}")
    if untold := [name for name in _RECORDED if name not in record]:
        yield _record_fault(run, f"does not say {', '.join(untold)}")
        return
    losses = ["loss", *(f"loss_{name}" for name in config.set_names)]
    if record["status"] == "done":
        for name in losses:
            if not _finite(record.get(name)):
                yield _record_fault(run, f"the run is done, and its {name} is {record.get(name)}, no number")
        yield from _position_faults(run, config, record)
    else:
        if any(record.get(name) is not None for name in losses):
            yield _record_fault(run, "the run diverged, and has a loss")
    tokens, unique, epochs = config.tokens, record.get("unique_tokens"), record.get("epochs")
    if not (_finite(unique) and _finite(epochs) and unique > 0):
        yield _record_fault(run, f"unique_tokens is {unique} and epochs is {epochs}: not both are numbers above 0")
    elif not math.isclose(tokens / unique, epochs, rel_tol=_CLOSE):
        yield _record_fault(run, f"epochs is {epochs}, and {tokens} of {unique} unique tokens are {tokens / unique}")
    yield from _curve_faults(run, config, record)


def _position_faults(run: RunDirectory, config: RunConfig, record: Row) -> Iterator[Fault]:
    """The loss, and what context was worth, follow from the losses by position."""
    positions = record.get("loss_by_position")
    if not isinstance(positions, list) or not positions or not all(map(_finite, positions)):
        yield _record_fault(run, "the run is done, and its loss_by_position no list of numbers")
        return
    mean, alike = _mean(positions), config.document_end is None  # else more is scored at some than at others
    if alike and _finite(record.get("loss")) and not math.isclose(mean, record["loss"], rel_tol=_CLOSE):
        yield _record_fault(run, f"loss is {record['loss']}, and its mean over the positions {mean}")
    eighth = max(1, len(positions) // 8)  # see `nextscale.model.training.evaluate.Evaluation.in_context_learning`
    gain, recorded = _mean(positions[-eighth:]) - _mean(positions[:eighth]), record.get("in_context_learning")
    if recorded is not None and not (
        _finite(recorded) and math.isclose(gain, recorded, rel_tol=_CLOSE, abs_tol=_CLOSE)
    ):
        yield _record_fault(run, f"in_context_learning is {recorded}, and its losses by position say {gain}")


def _curve_faults(run: RunDirectory, config: RunConfig, record: Row) -> Iterator[Fault]:
    retrain = f"delete {run.path} to have this run made again, or do without its curve"
    for name, rows in (("metrics.jsonl", run.metrics()), ("evaluations.jsonl", run.evaluations())):
        positions = [row["tokens"] for row in rows]
        last = positions[-1] if positions else 0
        required = name == "metrics.jsonl" or config.evaluation.points
        if (strange := len(read_lines(run.path / name)) - len(rows)) > 0:
            yield Fault(f"{run.path}/{name}", f"{strange} of its lines are no rows of a curve", retrain)
        elif positions != sorted(set(positions)):
            yield Fault(f"{run.path}/{name}", "its positions do not rise", retrain)
        elif record["status"] == "done" and required and last != config.tokens:
            yield Fault(f"{run.path}/{name}", f"ends at token {last}, and the run at {config.tokens}", retrain)
        elif last > config.tokens:
            yield Fault(f"{run.path}/{name}", f"goes on to token {last}, beyond the run's {config.tokens}", retrain)
        elif name == "metrics.jsonl" and (gap := _gap(config.start, positions)) is not None:
            yield Fault(f"{run.path}/{name}", f"rows between tokens {gap[0]} and {gap[1]} are not there", retrain)
    end = next((row for row in run.evaluations() if row["tokens"] == config.tokens), {})
    for column in end.keys() & record.keys() - {"tokens", "lr"}:
        if record["status"] == "done" and end[column] != record[column]:
            yield _record_fault(run, f"{column} is {record[column]}, and its evaluation at the end {end[column]}")


def _gap(start: int, positions: Sequence[int]) -> tuple[int, int] | None:
    """Between which positions rows of a curve are missing: all are as far apart, but for the last."""
    steps = list(itertools.pairwise([start, *positions]))
    apart = min((after - before for before, after in steps[:-1]), default=None)
    if apart is None:
        return None
    return next((step for step in steps if step[1] - step[0] > apart), None)


def _checkpoint_faults(run: RunDirectory, config: RunConfig, done: bool, deep: bool) -> Iterator[Fault]:
    mend = "delete it: the result does not need it" if done else "delete it: the run goes on from an older one"
    for path in sorted(Path(run.checkpoints).glob("*")):
        if not path.name.isdecimal():  # being saved, or deleted
            continue
        problem = _unfit(path, config)
        if problem is None and deep:
            try:
                problem = None if _restores(config, epath.Path(path)) else "does not read back as it was written"
            except OSError as error:
                yield Fault(str(path), f"cannot be read now ({first_line(error)})", "look again when it can be")
            except InputError as error:  # without the code that it was made by, no shape of it is known
                yield Fault(str(path), f"cannot be looked into now ({first_line(error)})", "look again when it can be")
        if problem is not None and path.exists():
            yield Fault(str(path), problem, mend)


def _unfit(checkpoint: Path, config: RunConfig) -> str | None:
    """What orbax's notes on a checkpoint say against it."""
    if not config.start < int(checkpoint.name) <= config.tokens:
        return f"is of token {checkpoint.name}, outside of this run"
    try:
        json.loads((checkpoint / "_CHECKPOINT_METADATA").read_text())
        tree = json.loads((checkpoint / "state" / "_METADATA").read_text())["tree_metadata"]
        arrays = [
            (tuple(part["key"] for part in leaf["key_metadata"]), leaf["value_metadata"].get("write_shape"))
            for leaf in tree.values()
        ]
        spread = "NamedSharding" in (checkpoint / "state" / "_sharding").read_text()
        complete = (checkpoint / "state" / "manifest.ocdbt").exists()
    except (OSError, ValueError, KeyError, TypeError):
        complete, spread, arrays = False, False, []
    if not complete:
        return "is not whole"
    if spread:  # the shapes noted are those of each device's part
        return None
    saved = sum(math.prod(shape) for key, shape in arrays if key[:2] == ("state", "params") and shape is not None)
    if saved != parameters(config.model):
        return f"holds {saved} parameters, and the model has {parameters(config.model)}"
    return None


def _restores(config: RunConfig, checkpoint: epath.Path) -> bool:
    from nextscale.model.external.code import check_unchanged
    from nextscale.model.training.checkpoint import read_checkpoint
    from nextscale.model.training.step import program_of, state_shapes

    if config.code is not None:
        check_unchanged(config.code)
    return read_checkpoint(checkpoint, state_shapes(program_of(config))) is not None


def unit_faults(runs: Sequence[RunDirectory]) -> Iterator[Fault]:
    """Runs that were evaluated on the same data are of as many bits per byte for each nat per token."""
    rates: dict[str, dict[str, list[tuple[RunDirectory, str]]]] = {}
    for run in runs:
        try:
            config, record = run.config(), run.record()
        except (ValueError, FileNotFoundError):  # told of the run already
            continue
        if record is None or record["status"] != "done":
            continue
        if isinstance(config, ExternalRun):
            continue
        sets = {f"_{name}": data for name, data in config.evaluation.sets.items()}
        for name, data in {"": config.data, **sets}.items():
            loss, bits = record.get(f"loss{name}"), record.get(f"bits_per_byte{name}")
            rate = f"{bits / loss:.9e}" if _finite(loss) and _finite(bits) and loss else str(bits)
            rates.setdefault(data.model_dump_json(), {}).setdefault(rate, []).append((run, name))
    for found in rates.values():
        usual = max(found, key=lambda rate: len(found[rate]))
        for run, name in (one for rate, ones in found.items() if rate != usual for one in ones):
            yield _record_fault(
                run, f"bits_per_byte{name} does not follow from loss{name} as in other runs on its data"
            )


def data_faults(runs: Sequence[RunDirectory]) -> Iterator[Fault]:
    """What token files hold that is not what runs were planned on. Files that are gone are no fault: results do not
    need them."""
    planned: dict[tuple[str, str], list[RunDirectory]] = {}
    for run in runs:
        try:
            config = run.config()
        except (ValueError, FileNotFoundError):  # told of the run already
            continue
        if isinstance(config, ExternalRun):
            continue
        for data in (*single_sources(config.data).values(), *config.evaluation.sets.values()):
            if isinstance(data, TokenData) and data.fingerprint is not None and Path(data.path).exists():
                planned.setdefault((data.path, data.fingerprint), []).append(run)
    for (path, fingerprint), of in planned.items():
        try:
            found = token_files.fingerprint(path)
        except InputError as error:
            what, _, mend = str(error).removeprefix("data.path: ").partition("; ")
            yield Fault(path, what, mend)
            continue
        if found != fingerprint:
            changed = max(int(changed) for _, _, changed in token_files.manifest(path).entries)
            later = [run.path.name for run in of if _finished_after(run, changed)]
            named = ", ".join(later[:_NAMED]) + f" and {len(later) - _NAMED} more" * (len(later) > _NAMED)
            yield Fault(
                path,
                f"is no longer the data of {len(of)} run{'s' * (len(of) > 1)} ({found}, was {fingerprint})",
                "restore it" + f", and delete the folders of {named}, which ended since" * bool(later),
            )


def _finished_after(run: RunDirectory, nanoseconds: int) -> bool:
    try:
        return Path(run.path, "record.json").stat().st_mtime_ns > nanoseconds
    except FileNotFoundError:
        return False


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
