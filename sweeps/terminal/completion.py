"""Shell completion. Each function takes what is typed so far; all are as quick as `nextscale --help`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args


def one_of(*words: str) -> Callable[[str], list[str]]:
    """Offers words that are known beforehand."""
    return lambda incomplete: _beginning(incomplete, words)


def specs(incomplete: str) -> list[str]:
    """Ready specs by name, and the YAML files that lie here; of other places the shell knows more."""
    here = [path.name for kind in ("*.yaml", "*.yml") for path in sorted(Path().glob(kind))]
    return [*ready(incomplete), *_beginning(incomplete, here)]


def ready(incomplete: str) -> list[str]:
    """The specs that ship."""
    from nextscale.sweeps.spec.layers import ready_specs

    return _beginning(incomplete, ready_specs())


def laws(incomplete: str) -> list[str]:
    """The laws that ship."""
    from nextscale.fit.laws.catalogue import LAWS

    return _beginning(incomplete, LAWS)


def accelerators(incomplete: str) -> list[str]:
    """The accelerators of the catalogue."""
    from nextscale.cluster.hardware.catalogue import CATALOGUE

    return _beginning(incomplete, CATALOGUE)


def loggers(incomplete: str) -> list[str]:
    """The loggers that a spec may name."""
    from nextscale.sweeps.spec.loggers import LoggerKind

    return _beginning(incomplete, get_args(LoggerKind))


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
