"""The command `site`: a board of many sweeps, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.terminal.console import Json, print_json, screen, warn

app = typer.Typer()


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
