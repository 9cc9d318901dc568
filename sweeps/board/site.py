"""The board and the page of each of its sweeps as files, for a bucket or GitHub Pages: no server is needed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from urllib.parse import quote

from etils import epath

from nextscale.model.record import write_atomically
from nextscale.sweeps.board.board import Board
from nextscale.sweeps.board.found import Found, find_sweeps, stamp
from nextscale.sweeps.board.standing import Standing, standings
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.report.report import Report

PAGE, STAMP = "index.html", "made-from.txt"
"""Beside each page stands what it was made from: it is not made again before that has changed."""


@dataclasses.dataclass(frozen=True)
class Site:
    """What was written.

    Attributes:
        page: the board.
        written, kept: sweeps whose page was made, and whose page was there from the same files.
        problems: of each sweep with any.
    """

    page: Path
    written: list[str]
    kept: list[str]
    problems: dict[str, list[str]]


def write_site(folder: Path, out: Path) -> Site:
    """Writes the board of the sweeps below a folder to `out/index.html`, and the page of each to `out/NAME/index.html`.

    A sweep that cannot be read is a row that says why. What else is in `out` stays there.

    Raises:
        SpecError: there is no sweep below the folder, or `out` cannot be used.
    """
    sweeps, out = find_sweeps(folder), out.expanduser()
    if not sweeps:
        raise SpecError(f"{folder}: holds no sweep; name a folder with some --out of `nextscale run` in it or below")
    _make(out, folder, sweeps)
    found = standings(sweeps)
    written, kept = list[str](), list[str]()
    for one in found:
        if (made := _write_page(one, out / one.name)) is not None:
            (written if made else kept).append(one.name)
    paged = {*written, *kept}
    board = Board(folder.expanduser().absolute().name, lambda one: _address(one.name) if one.name in paged else None)
    page = out / PAGE
    write_atomically(epath.Path(page), board.page(found))
    return Site(page, written, kept, {one.name: one.problems for one in found if one.problems})


def _write_page(one: Standing, place: Path) -> bool | None:
    """Whether the page was made, or could be kept; None where it cannot be made."""
    made_from, page = stamp(one.root), place / PAGE  # taken first: what changes meanwhile is seen the next time
    if page.is_file() and _text(place / STAMP) == made_from:
        return False
    with one.told():
        if one.name == PAGE:
            raise SpecError(f"{PAGE}: its page would lie where the board does; rename the folder")
        report = Report.from_files(one.root)
        place.mkdir(parents=True, exist_ok=True)
        (place / STAMP).unlink(missing_ok=True)
        report.write(page, place / "figures")
        (place / STAMP).write_text(made_from)
        return True
    return None


def _make(out: Path, folder: Path, sweeps: list[Found]) -> None:
    """
    Raises:
        SpecError: nothing can be written there, or pages would come among the files of a sweep.
    """
    place, top = out.resolve(), folder.expanduser().resolve()
    roots = [root for one in sweeps if (root := one.root.resolve()) != top]
    if place == top or any(place.is_relative_to(root) for root in roots):
        raise SpecError(f"--out {out}: is among the sweeps themselves; name another folder, such as public")
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / ".nojekyll").touch()  # or GitHub Pages leaves folders out whose names begin with _
    except OSError as error:
        raise SpecError(f"--out {out}: cannot be written to ({error.strerror}); name another folder") from None


def _address(name: str) -> str:
    return f"./{quote(name)}/{PAGE}"


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return None
