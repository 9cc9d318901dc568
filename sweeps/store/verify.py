"""Whether what a folder holds is what it says it is: every record against its config, curve and checkpoints, the
ledger against the records, the accounts against themselves."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from etils import epath

from nextscale.cluster.controller.lease import holder
from nextscale.model.accounting import parameters
from nextscale.model.config.run import RunConfig
from nextscale.model.record import Row, RunDirectory, read_lines, read_rows
from nextscale.sweeps.design.chosen_runs import SEQUENCE
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Ledger, scored
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.faults import Fault
from nextscale.sweeps.store.imported_runs import imported_rows
from nextscale.sweeps.store.run_rows import described
from nextscale.sweeps.store.store import Store
from nextscale.sweeps.store.verify_accounts import account_faults

Restores = Callable[[RunConfig, epath.Path], bool]
"""Whether a checkpoint of a run reads back whole."""
_CLOSE = 1e-9
_RECORDED = (
    *("run_id", "params", "params_non_embedding", "params_active", "tokens", "flops", "width", "depth", "steps"),
    *("batch_tokens", "lr", "seed"),
)
"""What every record says of what was asked."""
_CHOSEN = ("run_id", "width", "budget", "seed")


def verify(out: str | Path, *, deep: bool = False) -> tuple[int, list[Fault]]:
    """How many runs there are, and what is wrong with them, with the ledger, the accounts, the specs, the choices and
    the imports of a folder.

    Runs that are being trained are looked at no further than their config.

    Args:
        deep: whether each checkpoint is restored too; else its metadata is read.

    Raises:
        SpecError: the folder holds no sweep.
    """
    store, restores = Store.existing(out), _restores if deep else None
    directories = sorted(path for path in (store.root / "runs").iterdir() if path.is_dir())
    runs = [RunDirectory(epath.Path(directory)) for directory in directories]
    faults: list[Fault] = []
    for run in runs:
        try:
            faults += _of_run(run, restores)
        except FileNotFoundError:  # deleted meanwhile
            continue
    faults += [*_of_units(runs), *_of_ledger(store), *account_faults(store.root, runs), *_of_specs(store.root)]
    return len(directories), [*faults, *_of_choices(store.root), *_of_imports(store.root)]


def _of_run(run: RunDirectory, restores: Restores | None) -> Iterator[Fault]:
    again = f"delete {run.path} to have this run made again"
    if not run.started:
        if (run.path / "record.json").exists():
            yield Fault(str(run.path), "has a result, but no config that says of what", again)
        return
    try:
        config = run.config()
        run_id = config.run_id
    except ValueError:
        yield Fault(f"{run.path}/config.json", "is damaged", again)
        return
    if run_id != run.path.name:
        yield Fault(f"{run.path}/config.json", f"is that of another run, {run_id}", f"restore it, or {again}")
        return
    try:
        record = run.record()
    except ValueError:
        yield _of_record(run, "is damaged")
        return
    if record is None and holder(Path(run.path)) is not None:
        return
    if record is not None:
        yield from _record_faults(run, config, record)
    yield from _checkpoint_faults(run, config, record is not None, restores)


def _of_record(run: RunDirectory, what: str) -> Fault:
    return Fault(f"{run.path}/record.json", what, "delete it to have this run's result made again")


def _record_faults(run: RunDirectory, config: RunConfig, record: Row) -> Iterator[Fault]:
    asked: Row = described(config) | {"run_id": run.path.name}
    for name in asked.keys() & record.keys():
        if record[name] != asked[name]:
            yield _of_record(run, f"{name} is {record[name]}, and its config says {asked[name]}")
    if untold := [name for name in _RECORDED if name not in record]:
        yield _of_record(run, f"does not say {', '.join(untold)}")
        return
    losses = ["loss", *(f"loss_{name}" for name in config.set_names)]
    if record["status"] == "done":
        for name in losses:
            if not _finite(record.get(name)):
                yield _of_record(run, f"the run is done, and its {name} is {record.get(name)}, no number")
        yield from _position_faults(run, record)
    elif record["status"] == "diverged":
        if any(record.get(name) is not None for name in losses):
            yield _of_record(run, "the run diverged, and has a loss")
    else:
        yield _of_record(run, f"status is {record['status']}, neither done nor diverged")
    tokens, unique, epochs = config.tokens, record.get("unique_tokens"), record.get("epochs")
    if not (_finite(unique) and _finite(epochs) and unique > 0):
        yield _of_record(run, f"unique_tokens is {unique} and epochs is {epochs}: not both are numbers above 0")
    elif not math.isclose(tokens / unique, epochs, rel_tol=_CLOSE):
        yield _of_record(run, f"epochs is {epochs}, and {tokens} of {unique} unique tokens are {tokens / unique}")
    yield from _curve_faults(run, config, record)


def _position_faults(run: RunDirectory, record: Row) -> Iterator[Fault]:
    """The loss, and what context was worth, follow from the losses by position."""
    positions = record.get("loss_by_position")
    if not isinstance(positions, list) or not positions or not all(map(_finite, positions)):
        yield _of_record(run, "the run is done, and its loss_by_position no list of numbers")
        return
    mean = _mean(positions)
    if _finite(record.get("loss")) and not math.isclose(mean, record["loss"], rel_tol=_CLOSE):
        yield _of_record(run, f"loss is {record['loss']}, and its mean over the positions {mean}")
    eighth = max(1, len(positions) // 8)  # see `nextscale.model.training.evaluate.Evaluation.in_context_learning`
    gain, told = _mean(positions[-eighth:]) - _mean(positions[:eighth]), record.get("in_context_learning")
    if told is not None and not (_finite(told) and math.isclose(gain, told, rel_tol=_CLOSE, abs_tol=_CLOSE)):
        yield _of_record(run, f"in_context_learning is {told}, and its losses by position say {gain}")


def _curve_faults(run: RunDirectory, config: RunConfig, record: Row) -> Iterator[Fault]:
    retrain = f"delete {run.path} to have this run made again, or do without its curve"
    for name, rows in (("metrics.jsonl", run.metrics()), ("evaluations.jsonl", run.evaluations())):
        positions = [row["tokens"] for row in rows]
        last = positions[-1] if positions else 0
        asked = name == "metrics.jsonl" or config.evaluation.points
        if (strange := len(read_lines(run.path / name)) - len(rows)) > 0:
            yield Fault(f"{run.path}/{name}", f"{strange} of its lines are no rows of a curve", retrain)
        elif positions != sorted(set(positions)):
            yield Fault(f"{run.path}/{name}", "its positions do not rise", retrain)
        elif record["status"] == "done" and asked and last != config.tokens:
            yield Fault(f"{run.path}/{name}", f"ends at token {last}, and the run at {config.tokens}", retrain)
        elif last > config.tokens:
            yield Fault(f"{run.path}/{name}", f"goes on to token {last}, beyond the run's {config.tokens}", retrain)
        elif name == "metrics.jsonl" and (gap := _gap(config.start, positions)) is not None:
            yield Fault(f"{run.path}/{name}", f"rows between tokens {gap[0]} and {gap[1]} are not there", retrain)
    end = next((row for row in run.evaluations() if row["tokens"] == config.tokens), {})
    for column in end.keys() & record.keys() - {"tokens", "lr"}:
        if record["status"] == "done" and end[column] != record[column]:
            yield _of_record(run, f"{column} is {record[column]}, and its evaluation at the end {end[column]}")


def _gap(start: int, positions: Sequence[int]) -> tuple[int, int] | None:
    """Between which positions rows of a curve are missing: all are as far apart, but for the last."""
    steps = list(itertools.pairwise([start, *positions]))
    apart = min((after - before for before, after in steps[:-1]), default=None)
    if apart is None:
        return None
    return next((step for step in steps if step[1] - step[0] > apart), None)


def _checkpoint_faults(run: RunDirectory, config: RunConfig, done: bool, restores: Restores | None) -> Iterator[Fault]:
    mend = "delete it: the result does not need it" if done else "delete it: the run goes on from an older one"
    for path in sorted(Path(run.checkpoints).glob("*")):
        if not path.name.isdecimal():  # being saved, or deleted
            continue
        problem = _unfit(path, config)
        if problem is None and restores is not None and not restores(config, epath.Path(path)):
            problem = "does not read back as it was written"
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
    from nextscale.model.training.checkpoint import read
    from nextscale.model.training.step import program_of, state_shapes

    return read(checkpoint, state_shapes(program_of(config))) is not None


def _of_units(runs: Sequence[RunDirectory]) -> Iterator[Fault]:
    """Runs that were evaluated on the same data are of as many bits per byte for each nat per token."""
    rates: dict[str, dict[str, list[tuple[RunDirectory, str]]]] = {}
    for run in runs:
        try:
            config, record = run.config(), run.record()
        except (ValueError, FileNotFoundError):  # told of the run already
            continue
        if record is None or record["status"] != "done":
            continue
        sets = {f"_{name}": data for name, data in config.evaluation.sets.items()}
        for name, data in {"": config.data, **sets}.items():
            loss, bits = record.get(f"loss{name}"), record.get(f"bits_per_byte{name}")
            rate = f"{bits / loss:.9e}" if _finite(loss) and _finite(bits) and loss else str(bits)
            rates.setdefault(data.model_dump_json(), {}).setdefault(rate, []).append((run, name))
    for found in rates.values():
        usual = max(found, key=lambda rate: len(found[rate]))
        for run, name in (one for rate, ones in found.items() if rate != usual for one in ones):
            yield _of_record(run, f"bits_per_byte{name} does not follow from loss{name} as in other runs on its data")


def _of_ledger(store: Store) -> Iterator[Fault]:
    path = store.root / "ledger.jsonl"
    try:
        entries = Ledger(path).entries()
    except SpecError as error:
        where, _, rest = str(error).partition(": ")
        what, _, mend = rest.partition("; ")
        yield Fault(where, what, mend)
        return
    forecasts = {entry["hash"]: entry for entry in entries if entry["kind"] == "forecast"}
    mend = "see which of the two is right; a score is never rewritten"
    for entry in entries:
        if entry["kind"] != "score":
            continue
        where = f"{path}: entry {entry['hash']}"
        if entry["forecast"] not in forecasts:
            yield Fault(where, f"scores forecast {entry['forecast']}, which is not there", "restore it from a copy")
            continue
        for target, score in zip(forecasts[entry["forecast"]]["targets"], entry["targets"], strict=True):
            again = scored(target, score["measured"])
            if any(score[name] != again[name] for name in again):
                yield Fault(where, f"its score of run {score['run_id']} does not follow from the forecast", mend)
            record = None if score.get("by_hand") else _record(store, score["run_id"])
            if record is not None and record.get("loss") != score["measured"]:
                what = f"measured {score['measured']} of run {score['run_id']}, whose record says {record.get('loss')}"
                yield Fault(where, what, mend)


def _record(store: Store, run_id: str) -> Row | None:
    try:
        return store.record(run_id)
    except SpecError:  # told of the run already
        return None


def _of_choices(root: Path) -> Iterator[Fault]:
    path = root / SEQUENCE
    lines = [line for line in read_lines(epath.Path(path)) if not line.startswith("{")]  # what does was cut short
    rows = [row for row in read_rows(epath.Path(path)) if "ended" not in row and not row.keys() >= set(_CHOSEN)]
    if strange := len(lines) + len(rows):
        yield Fault(str(path), f"{strange} of its lines are no choices", "restore it from a copy, or take them out")


def _of_imports(root: Path) -> Iterator[Fault]:
    try:
        imported_rows(root)
    except SpecError as error:
        where, _, rest = str(error).partition(": ")
        yield Fault(where, *rest.split("; ", 1))


def _of_specs(root: Path) -> Iterator[Fault]:
    for path in sorted((root / "sweeps").glob("*.json")):
        try:
            SweepSpec.model_validate_json(path.read_text())
        except FileNotFoundError:
            continue
        except ValueError:
            yield Fault(str(path), "is no spec that this version can read", "run its sweep again, and delete this one")


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
