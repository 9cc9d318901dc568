"""Reads a spec from its file; each error is one line: `file:line: key: what is wrong, and how to mend it`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from nextscale.model.config.code import is_target
from nextscale.model.errors import InputError
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.plan import check_enough
from nextscale.sweeps.spec import layers
from nextscale.sweeps.spec.documents import Document
from nextscale.sweeps.spec.sweep_spec import SweepSpec


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Reads a spec with all that it extends, at the scale it names, and applies `--set` overrides.

    Raises:
        SpecError: one line, `file:line: key: what, and how to mend it`.
    """
    document = layers.read(Path(path), overrides)
    _place_trainer(document)
    _place_code(document)
    try:
        spec = SweepSpec(**document.content)
        check_enough(spec)
    except SpecError as error:
        raise document.with_place(error) from None
    return spec.model_copy(update={"gates": spec.gates.with_places(lambda name: document.place(("gates", name)))})


def _place_trainer(document: Document) -> None:
    """A trainer's files stand beside the spec that names them, not where the command is typed."""
    trainer = document.content.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("folder", ""), str):
        file = Path(document.place(("trainer", "command")).rpartition(":")[0])
        beside = (file if file.is_file() else Path(document.name)).absolute().parent
        trainer["folder"] = str(beside / Path(trainer.get("folder", ".")).expanduser())


def _place_code(document: Document) -> None:
    """Code of one's own is looked for beside the spec that names it first."""
    content = document.content
    named = [("model", name) for name in ("target", "mlp", "position")]
    named += [("training", "optimizer"), ("training", "loss"), ("code", "source")]
    given = {key: content[key[0]].get(key[1]) for key in named if isinstance(content.get(key[0]), dict)}
    key = next((key for key, value in given.items() if is_target(value) or isinstance(value, list)), None)
    axes = content.get("design", {}).get("axes") if isinstance(content.get("design"), dict) else None
    if key is None and isinstance(axes, dict) and any(".".join(key) in axes for key in named):
        key = ("design", "axes")
    code = content.get("code", {})
    if key is None or not isinstance(code, dict) or not isinstance(code.get("folder", ""), str):
        return
    file = Path(document.place(key).rpartition(":")[0])
    beside = (file if file.is_file() else Path(document.name)).absolute().parent
    content["code"] = code | {"folder": str(beside / Path(code.get("folder", ".")).expanduser())}


@contextlib.contextmanager
def located_errors(path: str | Path, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Where a spec that has been read cannot be used, for data that is not there, say: lets the error begin with the
    `file:line` of the key that it is about, as those of `load_spec` do.

    Raises:
        SpecError: in place of one that names a key of the spec.
    """
    try:
        yield
    except (SpecError, InputError) as error:
        key = getattr(error, "key", ()) or tuple(str(error).partition(":")[0].split("."))
        document = layers.read(Path(path), overrides)
        if key[0] not in document.content:
            raise
        raise document.with_place(SpecError(str(error), key)) from None
