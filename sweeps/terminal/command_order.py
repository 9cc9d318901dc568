"""The order in which `nextscale --help` tells of the commands, and under which headings."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

STORY = {
    "Plan and run": ("quickstart", "init", "plan", "run"),
    "Watch": ("status", "serve", "logs", "stop"),
    "Laws from runs": ("fit", "backtest", "frontier", "compare", "trend"),
    "Forecasts": ("forecast", "overtrain", "inference", "family", "next", "ledger"),
    "Pages and figures": ("report",),
    "Keep and share": ("runs", "verify", "gc", "import", "export"),
    "Look things up": ("specs", "laws", "hardware", "launch", "schema"),
}
"""Every command by its heading, in the order in which one comes to need them."""


class Story(TyperGroup):
    """Commands in the order of `STORY`; one that it does not name comes last."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        told = {name: heading for heading, names in STORY.items() for name in names if name in self.commands}
        others = [name for name in self.commands if name not in told]
        self.commands = {name: self.commands[name] for name in (*told, *others)}
        for name, heading in told.items():
            self.commands[name].rich_help_panel = heading  # type: ignore[attr-defined]
        for command in self.commands.values():
            # The lines of a docstring are no lines of a terminal: each paragraph is broken where that ends.
            command.help = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
