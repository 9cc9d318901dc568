"""The commands `report` and `site`: the page of a sweep, and a board of many."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, print_json, screen, warn

app = typer.Typer()


def _slide(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise SpecError(f"--slide {path}: cannot draw a '{path.suffix}' file; name a .svg, .png or .pdf")
    return path


def _formats(text: str) -> tuple[str, ...]:
    from nextscale.sweeps.report.drawing import FORMATS

    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    for name in names:
        if name not in FORMATS:
            raise SpecError(f"--format {text}: cannot save a figure as '{name}'; name some of {', '.join(FORMATS)}")
    return names


def _inches(text: str | None) -> float | None:
    from nextscale.sweeps.report.drawing import COLUMNS

    if text is None or text in COLUMNS:
        return None if text is None else COLUMNS[text]
    try:
        inches = float(text)
    except ValueError:
        inches = math.nan
    if not 2 <= inches <= 20:
        raise SpecError(
            f"--figure-width {text}: name single ({COLUMNS['single']} in), double ({COLUMNS['double']} in), "
            "or inches from 2 to 20"
        )
    return inches


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the --out of `nextscale run`")],
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="where the page goes \\[default: OUT/report.html]")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="where its figures go, as SVG and PNG \\[default: OUT/figures]")
    ] = None,
    slide: Annotated[
        Path | None, typer.Option(metavar="FILE", help="one slide too, 16:9: .svg, .png or .pdf", callback=_slide)
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the page as Markdown too, for an issue or a wiki")
    ] = None,
    pdf: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the page as PDF too, printed by Chromium or Chrome")
    ] = None,
    width: Annotated[
        str | None,
        typer.Option(
            "--figure-width", metavar="WIDTH", help="of the figures' files: single or double (columns), or inches"
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="of the figures' files: svg, png, pdf")
    ] = "svg,png",
    json_: Json = False,
) -> None:
    """The page of a sweep, one HTML file that needs no network: forecast, calculator, figures, tables, cost.

    From what is in OUT, at any time; `nextscale run` writes it at its end.
    """
    from nextscale.sweeps.report.drawing import Also, Files
    from nextscale.sweeps.report.pdf import browser
    from nextscale.sweeps.report.report import Report

    if file is not None and not file.absolute().parent.is_dir():
        raise SpecError(f"--out {file}: there is no folder {file.absolute().parent}; make it first")
    if file is not None and file.is_dir():
        raise SpecError(f"--out {file}: is a folder; name a file in it, such as {file / 'report.html'}")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise SpecError(f"--figures {figures}: is a file; name a folder")
    if pdf is not None:
        browser()  # to be refused before the work, not after
    for name, wanted in (("slide", slide), ("markdown", markdown), ("pdf", pdf)):
        if wanted is not None and not wanted.absolute().parent.is_dir():
            raise SpecError(f"--{name} {wanted}: there is no folder {wanted.absolute().parent}; make it first")
    also = Also(slide, markdown, pdf, Files(_formats(formats), _inches(width)))
    found = Report.from_files(out)
    page = found.write(file, figures, also)
    others = [one for one in (slide, markdown, pdf) if one is not None]
    if json_:
        warnings = list(found.summary["warnings"])
        told = {"page": str(page), "bytes": page.stat().st_size, "warnings": warnings}
        print_json(told | {"also": list(map(str, others))})
        return
    warn(found.summary["warnings"])
    for one in (page, *others):
        screen.print(f"{one} ({one.stat().st_size / 1e6:.1f} MB)", highlight=False, markup=False, soft_wrap=True)


@app.command()
def site(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="that holds some --out of `nextscale run`")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="where index.html goes, and NAME/index.html of each sweep")
    ] = Path("public"),
    json_: Json = False,
) -> None:
    """All sweeps on one page, for a bucket or GitHub Pages: how they stand, forecasts, recipes, shared targets.

    Each sweep has its page beside it, written again only where its files have changed. A sweep that cannot be read is a
    row that says why.
    """
    from nextscale.sweeps.board.site import write_site

    found = write_site(folder, out)
    size = found.page.stat().st_size
    if json_:
        told = {"page": str(found.page), "bytes": size, "written": found.written, "kept": found.kept}
        print_json(told | {"problems": found.problems})
        return
    warn([f"{name}: {problem}" for name, problems in found.problems.items() for problem in problems])
    pages = f"pages of sweeps: {len(found.written)} written, {len(found.kept)} kept"
    screen.print(f"{found.page} ({size / 1e3:.0f} kB); {pages}", highlight=False, markup=False, soft_wrap=True)
