"""Learning-rate schedules: the rate of every step, from a line of text, and where their warm-up ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from nextscale.fit.errors import InputError

MOST_STEPS = 20_000_000
"""Of one schedule; whoever has more has counted tokens."""

_FORM = "KIND:peak=RATE,steps=N[,warmup=N][,final=RATE], as in cosine:peak=3e-4,steps=20000,warmup=500,final=3e-5"


def schedule(text: str) -> np.ndarray:
    """The rate of every step, step 1 first, of a schedule such as `wsd:peak=3e-4,steps=20000,warmup=500,decay=4000`.

    After a linear warm-up from 0, which is at the peak at step `warmup`, `constant` stays there; `cosine` (Loshchilov &
    Hutter 2017) and `linear` fall to `final` at the last step; `wsd` (Hu et al. 2024) does so over the last `decay`
    steps alone, linearly, or as `shape=exponential` or `shape=1-sqrt` (Hägele et al. 2024, sec. 3.2) has it.

    Args:
        text: the kind, and its options. `warmup` and `final` are 0 unless given, `decay` a fifth of the steps.

    Raises:
        InputError: it is no such text, or its parts do not fit together.
    """
    kind, _, rest = text.partition(":")
    where = f"schedule {text}"
    if kind not in _COURSES:
        raise InputError(f"{where}: there is no kind '{kind}'; name one of {', '.join(_COURSES)}: {_FORM}")
    own = {"wsd": ("decay", "shape"), "constant": ()}.get(kind, ())
    given = _options(rest, where, ("peak", "steps", "warmup", *(("final",) if kind != "constant" else ()), *own))
    shape = given.pop("shape", "linear")
    if kind == "wsd" and shape not in _COOLDOWNS:
        raise InputError(f"{where}: there is no shape '{shape}'; name one of {', '.join(_COOLDOWNS)}")
    numbers = {name: _number(name, value, where) for name, value in given.items()}
    if lacking := [name for name in ("peak", "steps") if not numbers.get(name)]:
        raise InputError(f"{where}: needs {' and '.join(lacking)} greater than 0; write it as {_FORM}")
    peak, final = numbers["peak"], numbers.get("final", 0.0)
    steps, warmup = (_whole(name, numbers.get(name, 0.0), where) for name in ("steps", "warmup"))
    decay = _whole("decay", numbers.get("decay", float(max(steps // 5, 1))), where) if kind == "wsd" else 0
    if steps > MOST_STEPS:
        raise InputError(f"{where}: {steps} steps are more than {MOST_STEPS}; count steps, not tokens")
    if steps < 2 or warmup + decay > steps or (kind == "wsd" and decay < 1):
        raise InputError(f"{where}: a warm-up of {warmup} steps and a decay of {decay} do not fit into {steps} steps")
    if final > peak or (shape == "exponential" and not final):
        raise InputError(f"{where}: final should be at most the peak, and greater than 0 where the fall is exponential")
    step = np.arange(1, steps + 1)
    done = np.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
    cooled = np.clip((step - steps + decay) / max(decay, 1), 0, 1)
    if kind == "wsd" and shape == "exponential":
        course = peak * (final / peak) ** cooled
    else:
        course = final + (peak - final) * (_COOLDOWNS[shape](cooled) if kind == "wsd" else _COURSES[kind](done))
    return course * np.minimum(step / max(warmup, 1), 1)


_COURSES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda done: (1 + np.cos(np.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "wsd": np.ones_like,
    "constant": np.ones_like,
}
_COOLDOWNS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda cooled: 1 - cooled,
    "1-sqrt": lambda cooled: 1 - np.sqrt(cooled),
    "exponential": np.ones_like,
}


def checked_rates(rates: ArrayLike, where: str = "schedule") -> np.ndarray:
    """The rates as floats.

    Raises:
        InputError: they are not those of two or more steps, 0 or greater, and one of them greater.
    """
    found = np.asarray(rates, float)
    sound = found.ndim == 1 and len(found) >= 2 and (np.isfinite(found) & (found >= 0)).all() and found.any()
    if not sound:
        raise InputError(f"{where}: should be the learning rate of each of two or more steps, none below 0, not all 0")
    return found


def warmup_end(rates: np.ndarray) -> int:
    """The step, counted from 1, at which warm-up is over: the first at the peak of the rise that the schedule begins
    with; 1 where it begins at its peak. Rounding is no fall."""
    slack = 1e-6 * rates.max()
    falls = np.flatnonzero(np.diff(rates) < -slack)
    rise = rates[: falls[0] + 1] if len(falls) else rates
    return int(np.argmax(rise >= rise.max() - slack)) + 1


def _options(text: str, where: str, known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (equals and value) or name in found:
            raise InputError(f"{where}: '{part}' is no option, or given twice; write it as {_FORM}")
        if name not in known:
            raise InputError(f"{where}: there is no option '{name}'; it has {', '.join(known)}")
        found[name] = value
    return found


def _number(name: str, text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (np.isfinite(value) and value >= 0):
        raise InputError(f"{where}: {name}={text} is no number of 0 or greater")
    return value


def _whole(name: str, value: float, where: str) -> int:
    if value != int(value):
        raise InputError(f"{where}: {name} should be a whole number of steps, not {value:g}")
    return int(value)
