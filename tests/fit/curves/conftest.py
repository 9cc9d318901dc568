import dataclasses

import numpy as np
import pytest

from nextscale.fit.curves.schedule_laws import MomentumLaw, MultiPowerLaw, ScheduleLaw
from nextscale.fit.curves.schedules import warmup_end


@dataclasses.dataclass(frozen=True)
class Truth:
    """A law with its constants, and losses by the sums that its paper writes."""

    law: ScheduleLaw
    parameters: dict[str, float]

    def but(self, **parameters):
        return dataclasses.replace(self, parameters=self.parameters | parameters)

    def theta(self, peak=1.0):
        """The inverse of `natural`."""
        logs = np.log([self.parameters[name] for name in self.law.parameters])
        for name, (power, other) in self.law.units.items():
            logs[self.law.parameters.index(name)] -= (power + self.parameters.get(other, 0)) * np.log(peak)
        return logs

    def expand(self, rates, steps, peak=1.0):
        return self.law.expand(self.theta(peak), self.law.course(rates / peak, np.asarray(steps)))

    def losses(self, rates, steps):
        """At steps past warm-up: every fall by itself."""
        area, start, p = np.concatenate([[0], np.cumsum(rates)]), warmup_end(rates), self.parameters
        k = np.arange(start + 1, len(rates) + 1)
        fall, rate = rates[k - 2] - rates[k - 1], rates[k - 1]
        found = []
        for step in steps:
            if isinstance(self.law, MomentumLaw):
                decay = self.law.decay
                # Of each fall the momentum of every step from its own on.
                brought = p["C"] * (1 - decay ** np.maximum(step - k + 1, 0)) / (1 - decay)
            else:
                since = np.maximum(area[step] - area[k - 1], 0)
                x = np.where(rate > 0, p["C"] * np.where(rate > 0, rate, 1) ** -p["gamma"] * since, 0)
                brought = p["B"] * (1 - (1 + x) ** -p["beta"])
            found.append(p["E"] + p["A"] * area[step] ** -p["alpha"] - (fall * brought)[k <= step].sum())
        return np.array(found)


TRUTHS = {
    "multi-power": Truth(
        MultiPowerLaw(), {"E": 3.04, "A": 0.52, "B": 364.0, "alpha": 0.51, "C": 2.07, "beta": 0.58, "gamma": 0.64}
    ),
    "momentum": Truth(MomentumLaw(), {"E": 2.0, "A": 0.5, "C": 0.5, "alpha": 0.5}),
}


@pytest.fixture(params=TRUTHS)
def truth(request):
    """Each law, with constants such as its paper finds."""
    return TRUTHS[request.param]


@pytest.fixture
def multi_power():
    return TRUTHS["multi-power"]


@pytest.fixture
def momentum():
    return TRUTHS["momentum"]
