"""Queries to a forecast: what may be asked, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nextscale.fit.errors import InputError
from nextscale.sweeps.budget.cluster import BUYS, Cluster
from nextscale.sweeps.errors import SpecError

Query = Mapping[str, float]
"""One thing, by name: `flops`, `loss`, `params`, `tokens`, `usd`, `device_hours` or `days`; or a run of any shape, by
its `params` and `tokens`."""

_KINDS = ("flops", "loss", "params", "tokens")


def check_queries(
    law: str, variables: Sequence[str], queries: Sequence[Query], cluster: Cluster | None, data: bool
) -> None:
    """Refuses what cannot be answered, whatever the fit comes to.

    Args:
        law: its name, and `variables` what it takes.
        data: whether it is asked against the tokens that there are.

    Raises:
        InputError, SpecError: see `nextscale.sweeps.budget.targets.forecast_targets`.
    """
    alone = tuple(variables) == ("C",)
    for query in queries:
        unknown = [kind for kind in query if kind not in (*_KINDS, *BUYS)]
        if unknown or (len(query) != 1 and {*query} != {"params", "tokens"}):
            names = ", ".join(query) or "nothing"
            raise InputError(f"asked: {names}; ask one of {', '.join((*_KINDS, *BUYS))}, or params and tokens")
        for kind, value in query.items():
            if not 0 < value < math.inf:
                raise InputError(f"{kind}: should be greater than 0, not {value}")
        if len(query) == 1 and alone and (sized := {*query} & {"params", "tokens"}):
            raise InputError(f"{law}: is a law in C, and says nothing of {sized.pop()}; take one in N and D")
        for kind in {*query} & BUYS.keys():
            if cluster is None:
                raise SpecError(f"--{kind.replace('_', '-')}: say of what hardware, with --on, such as --on h100x512")
            BUYS[kind](cluster, query[kind])
    if data and alone:
        raise InputError(f"{law}: is a law in C, and says nothing of tokens; take one in N and D")


def size_queries(params: Sequence[float], tokens: Sequence[float]) -> list[dict[str, float]]:
    """What sizes and tokens ask for: each alone, or runs of both.

    Raises:
        SpecError: there are some of both, and not as many.
    """
    if params and tokens and len(params) != len(tokens):
        raise SpecError(
            f"--params is given {len(params)} times and --tokens {len(tokens)}: together they are runs, a size and its "
            "tokens each; give as many of both, or one kind alone"
        )
    if params and tokens:
        return [{"params": N, "tokens": D} for N, D in zip(params, tokens, strict=True)]
    return [*({"params": N} for N in params), *({"tokens": D} for D in tokens)]
