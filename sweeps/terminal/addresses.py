"""Addresses of sweeps in buckets, where a command takes the folder of one."""

from __future__ import annotations

from collections.abc import Sequence

from nextscale.model.storage.address import address_of
from nextscale.sweeps.errors import SpecError

_READS = {"status", "runs", "logs", "serve", "report", "ledger", "plan", "fit", "backtest", "frontier", "compare"}
_READS |= {"trend", "forecast", "next", "curve", "inference", "overtrain", "family"}
"""Commands that read a folder, or a copy of it."""
_WRITES = {"run", "quickstart", "stop"}
"""Commands that know what an address is."""


def with_copies(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command with folders of this machine in the places of addresses: copies, as they are now.

    Raises:
        SpecError: the command does not go with a bucket.
    """
    if not any(address_of(argument) for argument in arguments):
        return [*arguments]
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    if command in _WRITES:
        return [*arguments]
    from nextscale.model.storage.sweep_copy import copy_of

    found = []
    for argument in arguments:
        address = address_of(argument)
        if address is not None and command not in _READS:
            raise SpecError(f"{address}: `nextscale {command}` does not work in a bucket; name a folder")
        found.append(argument if address is None else str(copy_of(address)))
    return found
