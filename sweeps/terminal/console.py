"""What all commands share: their consoles, common options, and options grouped in dataclasses."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from nextscale.sweeps.show.tables import Screen
from nextscale.sweeps.terminal import completion

_PIPED_WIDTH = 200
screen = Screen(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
aside = Screen(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
Spec = Annotated[
    Path,
    typer.Argument(
        metavar="SPEC",
        help="a YAML spec, or a ready one by name (`nextscale specs`)",
        autocompletion=completion.specs,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override a key, such as data.seed=7; may be given again"),
]
Folder = Annotated[Path, typer.Argument(metavar="OUT", help="the --out of `nextscale run`")]


def be_plain(asked: bool) -> None:
    """Without boxes, colours and what moves, where that is asked."""
    if asked:
        screen.be_plain()
        aside.be_plain()
        os.environ["TERM"] = "dumb"  # by which rich lets nothing move


def print_json(value: dict[str, Any]) -> None:
    from nextscale.fit.jsonable import jsonable

    print(json.dumps(jsonable(value), indent=1, allow_nan=False))


def say(answer: str) -> None:
    """What was asked, answered in words."""
    screen.print(answer, markup=False, highlight=False)


def note(notes: Sequence[str]) -> None:
    for text in notes:
        screen.print(f"note: {text}", markup=False)


def warn(warnings: Sequence[str]) -> None:
    for text in warnings:
        screen.print(f"warning: {text}", style="yellow", markup=False)


def busy(runs: int) -> contextlib.AbstractContextManager[Any]:
    """While laws are fitted a terminal says so; elsewhere nothing is shown."""
    return aside.status(f"fitting {runs:,} runs") if aside.is_terminal else contextlib.nullcontext()


def complain(message: str) -> None:
    """What keeps a command from its work, in one line on stderr."""
    aside.print(f"nextscale: {message}", markup=False, highlight=False, soft_wrap=True)


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command in which each parameter that is a dataclass stands for the options that are its fields.

    `--help` shows them under the dataclass's `panel`, where it has one.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if not dataclasses.is_dataclass(hints[name]):
            assert name not in parameters, f"{command.__name__}: two options are called {name}"
            parameters[name] = parameter.replace(annotation=hints[name])
            continue
        groups[name] = hints[name]
        inner = _hints_of(hints[name])
        for field in dataclasses.fields(hints[name]):
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            annotation = _under(getattr(hints[name], "panel", None), inner[field.name])
            assert field.name not in parameters, f"{command.__name__}: two options are called {field.name}"
            parameters[field.name] = inspect.Parameter(field.name, kind, default=default, annotation=annotation)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
        command(**given)

    ordered = sorted(parameters.values(), key=lambda p: p.default is not inspect.Parameter.empty)
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in ordered}
    return run


@functools.cache
def _hints_of(group: type) -> dict[str, Any]:
    """The annotations of a dataclass of options: many commands have the same, and they are long to evaluate."""
    return typing.get_type_hints(group, include_extras=True)


def words_of(group: Any) -> list[str]:
    """The options of a dataclass of them that are not at their default, as words of a command line."""
    kind: Any = type(group)  # which mypy takes for unhashable otherwise
    hints = _hints_of(kind)
    words: list[str] = []
    for field in dataclasses.fields(group):
        value, (_, info) = getattr(group, field.name), typing.get_args(hints[field.name])
        if value == field.default or not isinstance(info, OptionInfo):
            continue
        name = next(iter(info.param_decls or ()), f"--{field.name.replace('_', '-')}")
        for one in value if isinstance(value, list) else [value]:
            words += [name] if one is True else [name, str(one)]
    return words


def _under(panel: str | None, annotation: Any) -> Any:
    """The annotation of an option that `--help` shows under a heading; arguments stay where they are."""
    kind, info = typing.get_args(annotation)
    if panel is None or not isinstance(info, OptionInfo):
        return annotation
    info = copy.copy(info)
    info.rich_help_panel = panel
    return Annotated[kind, info]
