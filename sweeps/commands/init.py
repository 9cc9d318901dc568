"""`nextscale init`: a first spec, from a few questions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, print_json, screen

app = typer.Typer()

SCHEMA_FILE = "nextscale.schema.json"
_RATIO = 2.5
"""Of each budget to the one before."""
_FLOPS, _BUDGETS, _SIZES, _BEYOND = (1e8, 1e27), (2, 20), (2, 20), (1.5, 1000.0)
"""The least and the most that can be answered."""

_SPEC = """\
# yaml-language-server: $schema={schema}
# `nextscale plan {file}` shows the runs and what they cost,
# `nextscale run {file}` trains them, forecasts the next scale, and scores the forecast.
name: {name}

# What is trained on.
data: {data}

# The models. Their widths are the design's.
model:
  depth: {depth}  # blocks; a number, or a rule: {{rule: aspect, ratio: 64}} is width / 64
  heads: {heads}  # a number, or a rule: {{rule: head_width, width: 128}} is width / 128
  context: {context}  # tokens that a prediction can look back on
  position: {position}
  mlp: {mlp}

# How each of them is trained. Under mup one learning rate does for all widths.
training:
  batch_tokens: {batch_tokens}  # per step; with too many the small budgets have too few steps
  schedule: {schedule}
  # At base_width: what to tune first, on the smallest budget.
  lr: {lr}

# What to learn from: at each compute budget so many sizes, evenly spaced about the one that is expected to be best.
design:
  kind: isoflop
  flops: {{from: {smallest}, to: {largest}, count: {budgets}}}  # training FLOPs
  sizes: {sizes}
  centre: {{tokens_per_param: 20}}  # or {{law: FILE}}, the fit card of a sweep that is done
  # seeds: [0, 1]  # every run twice, to see how much of a difference is noise

# The next scale: its loss is forecast and written down before it is trained, and compared after.
holdout: {{flops: {held_out}, widths: {widths}}}

# What the sweep may cost; at a cap it stops, and with a higher one it goes on.
# caps: {{max_wall: 8}}  # hours; also max_usd, max_flops, max_device_hours
"""

_SCALES = """
# The same study at another scale: `--set scale=large`.
scales:
  large:
    model: {{depth: {depth}, heads: {heads}, context: {context}, position: {position}, mlp: {mlp}}}
    training: {{batch_tokens: {batch_tokens}, schedule: {schedule}, lr: {lr}}}
    design: {{flops: {{from: {smallest}, to: {largest}, count: {budgets}}}}}
    holdout: {{flops: {held_out}, widths: {widths}}}
"""


class Regime(NamedTuple):
    """What is usual up to a compute budget."""

    flops: float
    depth: str
    heads: str
    context: int
    position: str
    mlp: str
    batch_tokens: int
    schedule: str
    lr: str


_HORIZON = "{rule: horizon, base: 0.015, reference_steps: 500, floor: 0.008}"
_SMALL = Regime(1e14, "2", "4", 64, "alibi", "relu2", 256, "linear", _HORIZON)
_MIDDLE = Regime(
    1e18, "{rule: aspect, ratio: 32}", "{rule: head_width, width: 32}", 256, "rope", "swiglu", 8192, "cosine", "0.01"
)
_LARGE = _MIDDLE._replace(
    flops=float("inf"),
    depth="{rule: aspect, ratio: 64}",
    heads="{rule: head_width, width: 128}",
    context=2048,
    batch_tokens=2**18,
)
_LARGE_FLOPS = 1e21


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="where the spec is written")] = Path("sweep.yaml"),
    name: Annotated[str | None, typer.Option(metavar="NAME", help="of the sweep; its folder is out/NAME")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT", help="markov (a source of known entropy), python-stdlib, or a file or folder of text"
        ),
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option(min=_FLOPS[0], max=_FLOPS[1], help="largest compute budget of a run, in training FLOPs"),
    ] = None,
    budgets: Annotated[
        int | None,
        typer.Option(min=_BUDGETS[0], max=_BUDGETS[1], help=f"how many budgets, each {_RATIO} times the last"),
    ] = None,
    sizes: Annotated[
        int | None, typer.Option(min=_SIZES[0], max=_SIZES[1], help="how many model sizes at each budget")
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(min=_BEYOND[0], max=_BEYOND[1], help="the next scale: how many times the largest budget"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="ask nothing, take the defaults")] = False,
    force: Annotated[bool, typer.Option("--force", help="write over a file that is there")] = False,
    json_: Json = False,
) -> None:
    """Asks a few questions and writes a first spec, with comments.

    Beside it stands the JSON Schema by which editors complete it.
    """
    if file.exists() and not force:
        raise SpecError(f"{file}: is there already; name another file, or say --force")

    def ask(question: str, given: Any, default: Any, least: float = 0, most: float = 0) -> Any:
        if given is not None or yes:
            return default if given is None else given
        shown = f"{default:g}" if isinstance(default, float) else default
        try:
            answer = typer.prompt(f"{question} [{shown}]", default, type=type(default), err=json_, show_default=False)
        except typer.Abort as aborted:
            print(file=sys.stderr)  # below the question
            if isinstance(aborted.__context__, KeyboardInterrupt):
                raise typer.Exit(130) from None
            raise SpecError("init: its questions were not answered; say --yes to take the defaults") from None
        if most and not least <= answer <= most:
            raise SpecError(f"{question}: is from {least:g} to {most:g}, not {answer:g}")
        return answer

    text = spec_text(
        file.name,
        name=ask("Name of the sweep", name, file.stem),
        data=ask("Data: markov, python-stdlib, or a file or folder of text", data, "markov"),
        largest=ask("Largest compute budget of a run, training FLOPs", flops, 5e11, *_FLOPS),
        budgets=ask(f"How many budgets, each {_RATIO} times the last", budgets, 4, *_BUDGETS),
        sizes=ask("Model sizes at each budget", sizes, 5, *_SIZES),
        beyond=ask("The next scale: how many times the largest budget", holdout, 4.0, *_BEYOND),
    )
    schema = file.parent / SCHEMA_FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if force or not schema.exists():
            from nextscale.sweeps.spec.schema import spec_schema

            schema.write_text(json.dumps(spec_schema(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{file}: cannot be written ({error.strerror}); name another file") from None
    if json_:
        print_json({"spec": str(file), "schema": str(schema)})
        return
    screen.print(f"wrote {file}; next: nextscale plan {file}", markup=False, highlight=False, soft_wrap=True)


def spec_text(file: str, *, name: str, data: str, largest: float, budgets: int, sizes: int, beyond: float) -> str:
    """The text of a spec, checked as it will be read.

    Args:
        largest: budget of a run, training FLOPs.
        beyond: the next scale / that.

    Raises:
        SpecError: an answer cannot be used.
    """
    from nextscale.sweeps.design.expand import planned_runs
    from nextscale.sweeps.plan.plan import check_enough
    from nextscale.sweeps.spec import documents
    from nextscale.sweeps.spec.layers import LAYERS
    from nextscale.sweeps.spec.sweep_spec import SweepSpec

    shared = {"schema": SCHEMA_FILE, "file": file, "name": _quoted(name), "data": _source(data), "sizes": sizes}

    def at(flops: float, template: str) -> str:
        regime = next(regime for regime in (_SMALL, _MIDDLE, _LARGE) if flops <= regime.flops)
        values = (
            shared
            | regime._asdict()
            | {
                "smallest": f"{flops / _RATIO ** (budgets - 1):.3g}",
                "largest": f"{flops:.3g}",
                "budgets": budgets,
                "held_out": f"{flops * beyond:.3g}",
            }
        )
        # The next scale is one more budget, of fewer sizes, nearer to its centre.
        alone = {"kind": "isoflop", "flops": [flops * beyond], "sizes": 3, "span": 2}
        content = documents.parse(_SPEC.format(**values, widths=[1]), file).content
        spec = SweepSpec(**content | {"design": alone, "holdout": None})
        return template.format(**values, widths=[run.config.model.name for run in planned_runs(spec)])

    text = at(largest, _SPEC)
    if largest < _LARGE_FLOPS / 10:
        text += at(_LARGE_FLOPS, _SCALES)
    content = documents.parse(text, file).content
    check_enough(SweepSpec(**{key: value for key, value in content.items() if key not in LAYERS}))
    return text


def _source(data: str) -> str:
    if data == "markov":
        return "{source: markov, vocab: 64, seed: 0}"
    vocab = 128 if data == "python-stdlib" else 256
    return f"{{source: text, path: {_quoted(data.replace('${', '$${'))}, vocab: {vocab}}}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
