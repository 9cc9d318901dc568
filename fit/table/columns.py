"""What a table of runs from elsewhere may call its columns."""

from __future__ import annotations

import re

_USUAL = {
    "params": "n params parameters nparams nparameters numparams numparameters paramcount parametercount modelsize "
    "totalparams totalparameters",
    "tokens": "d tokens ntokens dtokens numtokens tokencount tokensseen totaltokens traintokens trainingtokens",
    "flops": "c flop flops compute cflops computeflop computeflops totalflops totalcompute trainflop trainflops "
    "trainingflop trainingflops traincompute trainingcompute trainingcomputeflop trainingcomputeflops",
    "loss": "l loss finalloss valloss validloss validationloss evalloss testloss trainloss trainingloss",
}
"""Of each quantity the names that can mean nothing else beside the others, letters and figures alone. None has a unit
in it (`params (B)`): its figures would be taken for counts."""
_QUANTITIES = {name: quantity for quantity, names in _USUAL.items() for name in names.split()}


def quantity_of(name: object) -> str | None:
    """Which of `params`, `tokens`, `flops` and `loss` a column is by its name, case and signs aside; None if none."""
    return _QUANTITIES.get(re.sub(r"[\W_]", "", str(name)).casefold())
