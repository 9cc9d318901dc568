"""What one trunk with a branch per length saves over runs of their own: `python benchmarks/branching.py [WIDTH]`.

Nothing is trained: the FLOPs are those of the runs that a sweep would plan, whole steps and all.
"""

import math
import sys

from rich.console import Console

from nextscale.model.config.data import MarkovData
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.show.tables import Table
from nextscale.sweeps.spec.designs import WsdDesign
from nextscale.sweeps.spec.sweep_spec import SweepSpec, SweepTraining

LENGTHS, SHORTEST = 5, 2**24
SPACINGS = {"2": 2.0, "√2": math.sqrt(2)}
COOLDOWNS = (0.1, 0.2, 0.3)


def share(width, ratio, cooldown):
    """FLOPs trained with branching / without, and the latter."""
    spec = SweepSpec(
        name="branching",
        data=MarkovData(source="markov"),
        training=SweepTraining(batch_tokens=4096, lr=0.01, schedule="wsd", warmup_tokens=2**16, cooldown=cooldown),
        design=WsdDesign(kind="wsd", widths=[width], tokens=[SHORTEST * ratio**i for i in range(LENGTHS)]),
    )
    runs = planned_runs(spec)
    apart = sum(run.flops for run in runs)
    return sum(run.own_flops for run in runs) / apart, apart


if __name__ == "__main__":
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    rows = []
    for spacing, ratio in SPACINGS.items():
        for cooldown in COOLDOWNS:
            found, apart = share(width, ratio, cooldown)
            rows.append([spacing, f"{cooldown:.0%}", f"{apart:.3g}", f"{found * apart:.3g}", f"{found:.1%}"])
    title = f"{LENGTHS} lengths of one size, each so many times the one before"
    columns = ["apart by", "cooldown", "FLOPs, separate runs", "trunk and branches", "share"]
    Console(width=100).print(Table(title, columns, rows).rich())
