"""Mistakes in options and arguments, as typer finds them, in one line each."""

import re

import typer

from nextscale.sweeps.errors import SpecError

USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises of any mistake in options, arguments and commands. It has no public name: typer's versions take
it from click, or keep a copy of their own."""
_SUGGESTED = re.compile(r"\.? (?:Did you mean|\(Possible options:) (.+?)[?)]+$")
_NO_NUMBER = {"float_parsing": "is no number; write it out, as 2e6", "int_parsing": "is no whole number"}
_LONG = re.compile(r"\d{7,}|0\.0{3,}\d+")


def usage_error(error: Exception) -> SpecError:
    """Of a `USAGE`: its line, and which help to read."""
    import pydantic

    context, cause = getattr(error, "ctx", None), error.__cause__
    says = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    says = _SUGGESTED.sub(r" (did you mean \1?)", says)
    if isinstance(cause, pydantic.ValidationError):  # newer typers read values by it, and leave out which it was
        found = cause.errors()[0]
        name = max(error.param.opts, key=len)  # type: ignore[attr-defined]
        wrong = _NO_NUMBER.get(found["type"], found["msg"].removeprefix("Input "))
        wrong = _NO_NUMBER["float_parsing"] if str(found["input"]).lower() == "nan" else _LONG.sub(_short, wrong)
        says = f"{name} {found['input']}: {wrong}"
    says = says[:1].lower() + says[1:]
    return SpecError(says if context is None else f"{says}; see `{context.command_path} --help`")


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):g}"
