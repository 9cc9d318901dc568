"""The page as PDF, as a browser prints it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from nextscale.sweeps.errors import SpecError

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_PATIENCE = 300.0


def write_pdf(page: Path, file: Path) -> None:
    """Prints a page of this folder to a file.

    Raises:
        SpecError: there is no browser that prints, or it did not.
    """
    found = browser()
    # As root Chromium's sandbox does not start; what it opens here is our own file, whose policy lets it load nothing.
    rooted = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    options = ["--headless", "--disable-gpu", *rooted, "--no-pdf-header-footer", f"--print-to-pdf={file.absolute()}"]
    file.unlink(missing_ok=True)
    try:
        subprocess.run([found, *options, page.absolute().as_uri()], capture_output=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SpecError(f"--pdf {file}: {found} did not print it ({error}); print {page} from a browser") from None
    if not file.is_file():
        raise SpecError(f"--pdf {file}: {found} did not print it; print {page} from a browser")


def browser() -> str:
    """
    Raises:
        SpecError: there is none.
    """
    for name in _BROWSERS:
        if found := shutil.which(name):
            return found
    raise SpecError(
        "--pdf: there is no Chromium or Chrome here to print with; install one (apt-get install chromium), or print "
        "the page from any browser"
    )
