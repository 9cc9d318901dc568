"""The commands `report` and `site`: the page of a sweep, and a board of many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, print_json, screen, warn

app = typer.Typer()


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the --out of `nextscale run`")],
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="where the page goes \\[default: OUT/report.html]")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="where its figures go, as SVG and PNG \\[default: OUT/figures]")
    ] = None,
    json_: Json = False,
) -> None:
    """The page of a sweep, one HTML file that needs no network: forecast, calculator, figures, tables, cost.

    From what is in OUT, at any time; `nextscale run` writes it at its end.
    """
    from nextscale.sweeps.report.report import Report

    if file is not None and not file.absolute().parent.is_dir():
        raise SpecError(f"--out {file}: there is no folder {file.absolute().parent}; make it first")
    if file is not None and file.is_dir():
        raise SpecError(f"--out {file}: is a folder; name a file in it, such as {file / 'report.html'}")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise SpecError(f"--figures {figures}: is a file; name a folder")
    found = Report.from_files(out)
    page = found.write(file, figures)
    if json_:
        warnings = list(found.summary["warnings"])
        print_json({"page": str(page), "bytes": page.stat().st_size, "warnings": warnings})
        return
    warn(found.summary["warnings"])
    screen.print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)", highlight=False, markup=False, soft_wrap=True)


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
