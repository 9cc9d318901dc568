"""Addresses in buckets, where a command takes a folder or a file: it is given one of this machine in its place."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence

from nextscale.model.errors import InputError
from nextscale.model.storage.address import address_of
from nextscale.sweeps.errors import USER_ERRORS, SpecError

_RUNS = {"run", "quickstart", "stop"}
"""Commands that know what an --out in a bucket is."""
_READS = {"status", "runs", "logs", "serve", "report", "ledger", "plan", "fit", "backtest", "frontier", "compare"}
_READS |= {"trend", "forecast", "next", "curve", "inference", "overtrain", "family", "mixture", "gc"}
"""Commands that read a folder: they are given a copy of it."""
_READS_ALL = {"verify"}
"""Those that read checkpoints too: all of it is copied, each time."""
_CHANGES = {"rerun", "drop", "import", "export"}
"""Commands that change a folder: what they change of a copy is changed in the bucket."""
_CHANGING = {"gc": {"--yes", "-y"}, "ledger": {"score"}, "forecast": {"--register"}}
"""What makes a command that reads one that changes."""
_INPUTS = {"--new", "--spec", "--site"}
"""Options that are read from; files are written to others."""
_INPUTS_OF = {("plan", "--out"), ("import", "--out")}
_FILES = re.compile(r"\.(ya?ml|json|jsonl|csv|tsv|txt|parquet|xlsx?|log|gz)$")
_RUN = re.compile(r"(.+)/runs/([^/]+)")


@contextlib.contextmanager
def with_places_here(arguments: Sequence[str]) -> Iterator[list[str]]:
    """The arguments of a command with folders and files of this machine in the places of addresses. What the command
    changes there, if it is one that does, is changed in the bucket afterwards.

    Raises:
        SpecError: the command does not go with a bucket, or there is nothing.
    """
    split = [part for one in arguments for part in _split(one)]
    with contextlib.ExitStack() as places:
        if any(address_of(one) for one in split):
            command = next((one for one in split if not one.startswith("-")), "")
            there = {i: address for i, one in enumerate(split) if (address := address_of(one)) is not None}
            for i, address in there.items():
                split[i] = _place(places, command, split, i, address)
            try:
                yield split
            except USER_ERRORS as error:  # it tells of where it looked
                said = str(error)
                for i, address in there.items():
                    said = said.replace(split[i], address)
                raise SpecError(said) from None
        else:
            yield [*arguments]


def _split(argument: str) -> list[str]:
    """`--out=s3://...` as two."""
    option, _, value = argument.partition("=")
    return [option, value] if option.startswith("--") and address_of(value) else [argument]


def _place(places: contextlib.ExitStack, command: str, given: list[str], i: int, address: str) -> str:
    """What is given to a command in the place of the address that is its i-th argument."""
    from nextscale.model.storage.sweep_copy import copies_below, copy_of
    from nextscale.sweeps.run.bucket import edited, whole_copy

    option = given[i - 1] if given[i - 1].startswith("--") else None
    if command in _RUNS and (option == "--out" or command == "stop"):
        return address
    if option is not None and option not in _INPUTS and (command, option) not in _INPUTS_OF:
        raise SpecError(f"{option} {address}: is in a bucket; name a path of this machine, and copy it there")
    if command == "model":
        return _model(places, given, i, address)
    changes = command in _CHANGES or not _CHANGING.get(command, set()).isdisjoint(given)
    if (command == "import" and option is None) or (not changes and _FILES.search(address)):
        return _file(address)
    if changes and "--ledger" not in given:
        return str(places.enter_context(edited(address, new=command == "import")))
    if command in _READS_ALL:
        return str(places.enter_context(whole_copy(address)))
    if command == "site":
        return str(places.enter_context(copies_below(address)))
    if command not in _READS:
        raise SpecError(f"{address}: `nextscale {command}` reads nothing from a bucket; name a path of this machine")
    return str(copy_of(address))


def _model(places: contextlib.ExitStack, given: list[str], i: int, address: str) -> str:
    """The folder of a run, or of all runs of a sweep, with their trained models."""
    from nextscale.sweeps.run.bucket import edited, whole_copy

    words = [one for one in given if not one.startswith("-")]
    scores = words[1] == "evaluate"
    if given[i - 1] != words[1] and not scores:
        raise SpecError(f"{address}: is in a bucket; name a folder of this machine, and copy it there")
    of_run = _RUN.fullmatch(address)
    out, run_id = (address, None) if of_run is None else of_run.groups()
    if scores:  # they are kept with the runs
        folder = places.enter_context(edited(out, whole=lambda one: run_id in (None, one)))
    else:
        named = dict(itertools.pairwise(given)).get("--run", run_id)
        if named is None:
            raise SpecError(f"{out}: holds many runs; name one with --run ID, as `nextscale runs {out}` lists them")
        folder = places.enter_context(whole_copy(out, lambda one: one == named))
    return str(folder if run_id is None else folder / "runs" / run_id)


def _file(address: str) -> str:
    from nextscale.model.data.remote import local_copy

    try:
        return str(local_copy(address))
    except InputError as error:
        raise SpecError(str(error).removeprefix("data.path: ")) from None
