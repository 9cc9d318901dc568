"""The figure of a best mixture of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from nextscale.fit.plot.style import BLUE, GREY

if TYPE_CHECKING:
    from nextscale.fit.tuning.mixtures import BestMixture


def mixture(ax: Axes, found: BestMixture) -> Axes:
    """The best proportion of each domain, with its interval, and those that were tried (dots)."""
    tried = next(iter(found.fits.values())).runs.table
    for k, (domain, best) in enumerate(found.proportions.items()):
        low, high = found.intervals[domain]
        ax.barh(k, best, color=BLUE, alpha=0.4)
        ax.plot([low, high], [k, k], color=BLUE, linewidth=2)
        ax.plot(tried[domain], np.full(len(tried), k + 0.3), ".", color=GREY, markersize=3)
    ax.set_yticks(range(len(found.proportions)), [*found.proportions])
    ax.set(xlim=(0, 1), xlabel="proportion of the training data", title="the mixture of the lowest loss")
    ax.invert_yaxis()
    return ax
