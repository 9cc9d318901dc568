"""The commands `model`: a trained model exported, sampled from, and scored on tasks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextscale.model.errors import InputError
from nextscale.sweeps.errors import SpecError, damaged_file_error
from nextscale.sweeps.terminal.console import Json, note, print_json, say, screen, warn

if TYPE_CHECKING:
    from nextscale.model.record import Row, RunDirectory
    from nextscale.model.trained.load import TrainedModel
    from nextscale.model.trained.text import Codec

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Exports the model of a run, samples from it, scores it on tasks.")
app.add_typer(group, name="model")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run, OUT/runs/ID; or OUT, with --run")]
RunId = Annotated[str | None, typer.Option("--run", metavar="ID", help="which run of OUT")]

_FORMATS = ("hf",)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal may take for a command; a model says it as it says anything."""


@group.command()
def export(
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder, to be written")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="hf: as Hugging Face's transformers load it")],
    run_id: RunId = None,
    json_: Json = False,
) -> None:
    """Writes the trained model of a run for another library: weights, config and tokenizer.

    What no architecture there computes is refused, by the name of the option.
    """
    from nextscale.model.trained.export import export as export_model

    if to not in _FORMATS:
        raise SpecError(f"--to {to}: is none of {', '.join(_FORMATS)}")
    told = export_model(_trained(run, run_id), folder)
    if json_:
        print_json({"folder": str(folder)} | told)
        return
    text = "its tokenizer" if told["tokenizer"] else "no tokenizer: what it was trained on is tokens, not text"
    say(f"{folder}: {told['architecture']} of {told['parameters']:,} parameters, with {text}")


@group.command()
def sample(
    run: Run,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="what comes before; of a run on tokens their numbers, as '3 14 15'")
    ] = "",
    tokens: Annotated[int, typer.Option(min=1, metavar="COUNT", help="to be drawn, at the most")] = 100,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=1e6, help="that logits are divided by; 0 takes the likeliest")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, metavar="K", help="draw from the K likeliest alone")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of the draws")] = 0,
    run_id: RunId = None,
    json_: Json = False,
) -> None:
    """Draws what follows a prompt from the trained model of a run, and prints it.

    A document that ends ends it.
    """
    from nextscale.model.trained import sample as sampling
    from nextscale.model.trained.text import codec_of

    trained = _trained(run, run_id)
    codec = codec_of(trained.config.data)
    begun = _prompt(prompt, codec)
    end = None if codec is None else codec.end
    drawn = [*sampling.sample(trained, begun, tokens, temperature=temperature, top_k=top_k, seed=seed, end=end)]
    text = " ".join(map(str, drawn)) if codec is None else codec.decode(drawn)
    if json_:
        print_json({"prompt": prompt, "text": text, "tokens": drawn})
    else:
        print(_UNPRINTABLE.sub("\ufffd", f"{prompt}{' ' if codec is None else ''}{text}"))


@group.command()
def evaluate(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="folders of runs; or OUT, for all of its finished runs")
    ],
    tasks: Annotated[
        str, typer.Option(metavar="NAME,...", help="as lm-eval knows them, or YAML files of tasks of your own")
    ],
    few_shot: Annotated[
        int | None, typer.Option(min=0, metavar="COUNT", help="examples before each question; the task's own if open")
    ] = None,
    json_: Json = False,
) -> None:
    """Scores the trained models of runs on tasks, by lm-eval: columns of the table of runs.

    They are kept with the runs, for `nextscale forecast --task` and `nextscale runs`. What was asked before is not
    asked again.
    """
    from nextscale.sweeps.show.formats import three_digits
    from nextscale.sweeps.show.tables import Table

    names = [name for name in tasks.split(",") if name]
    if not names:
        raise SpecError("--tasks: names none; write it as NAME,NAME")
    found: dict[str, Row] = {}
    passed: list[str] = []
    for directory, alone in _directories(runs):
        try:
            found[directory.path.name] = _scored(directory, names, few_shot)
        except InputError as error:
            if alone or str(error).startswith("--tasks"):
                raise
            passed.append(f"{error}; it is passed over")
    if json_:
        print_json({"runs": {run: one["scores"] for run, one in found.items()}, "passed_over": passed})
        return
    columns = sorted({column for one in found.values() for column in one["scores"]})
    rows = [
        [run, *(_cell(one["scores"].get(column), three_digits) for column in columns)] for run, one in found.items()
    ]
    if rows:
        screen.print(Table("Scores on tasks", ["run", *columns], rows).rich())
    cut = {name: sum(one["asked"][name]["cut"] for one in found.values()) for name in names if found}
    note(
        [
            f"{name}: {count} requests were longer than the context; their end was read"
            for name, count in cut.items()
            if count
        ]
    )
    warn(passed)


def _scored(directory: RunDirectory, names: list[str], few_shot: int | None) -> Row:
    try:
        from nextscale.model.trained.tasks import score_run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0].startswith("nextscale"):
            raise
        raise SpecError(f"evaluate: needs {error.name}; pip install 'nextscale[examples]'") from None
    try:
        return score_run(directory, names, few_shot=few_shot)
    except InputError:
        raise
    except ValueError as error:
        raise damaged_file_error(Path(directory.path / "tasks.json"), error) from None


def _directories(runs: list[Path]) -> Iterator[tuple[RunDirectory, bool]]:
    """Those of runs, each with whether it was named itself: of an output folder, those that are done."""
    for run in runs:
        if not (run / "runs").is_dir():
            yield _directory(run, None), True
            continue
        for path in sorted((run / "runs").iterdir()):
            directory = _directory(path, None)
            if directory.done:
                yield directory, False


def _cell(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def _prompt(text: str, codec: Codec | None) -> list[int]:
    if codec is not None:
        return codec.encode(text) or [codec.start]
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise SpecError(
            f"--prompt {text}: the run was trained on tokens, not on text; give their numbers, as --prompt '3 14 15'"
        ) from None


def _trained(run: Path, run_id: str | None) -> TrainedModel:
    from nextscale.model.trained.load import load_trained

    return load_trained(_directory(run, run_id))


def _directory(run: Path, run_id: str | None) -> RunDirectory:
    """
    Raises:
        SpecError: it is an output folder, and no run of it is named.
    """
    from etils import epath

    from nextscale.model.record import RunDirectory
    from nextscale.sweeps.store.store import Store

    if run_id is not None:
        return Store.existing(run).run(run_id)
    if (run / "runs").is_dir():
        raise SpecError(f"{run}: holds many runs; name one with --run ID, as `nextscale runs {run}` lists them")
    return RunDirectory(epath.Path(run))
