"""The options of commands that fit laws: which law, and how it is fitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from nextscale.sweeps.commands.analysis.options import Source, numbers_by_name
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal import completion

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.fit.table.runs import Runs


@dataclasses.dataclass(frozen=True)
class LawChoice:
    """Which law, and what its fit minimises."""

    panel: ClassVar = "Law"

    law: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="of the law, `nextscale laws` lists them; auto, the one that a backtest chooses",
            autocompletion=completion.laws,
        ),
    ] = "chinchilla"
    fix: Annotated[
        list[str] | None, typer.Option(metavar="PARAMETER=VALUE", help="pin a parameter; may be given again")
    ] = None
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="huber, l1, squared or asymmetric, of log predicted - log measured \\[default: huber]",
            autocompletion=completion.one_of("huber", "l1", "squared", "asymmetric"),
        ),
    ] = None
    delta: Annotated[float, typer.Option(min=1e-12, help="of Huber's loss, in log loss")] = 1e-3
    tilt: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.99, help="of --objective asymmetric: the weight on runs above the law \\[default: 0.9]"
        ),
    ] = None

    def read(self, source: Source, *wanted: tuple[str, ...]) -> tuple[LawChoice, Runs]:
        """The choice, with the law and the objective that a backtest prefers where it is `auto`; and the runs.

        Args:
            wanted: the variables of laws that the command can say something by; any unless given.
        """
        rows = source.rows()
        chosen = self.settled(source, rows, *wanted)
        return chosen, source.of_rows(rows, chosen.variables)

    def settled(self, source: Source, rows: pd.DataFrame, *wanted: tuple[str, ...]) -> LawChoice:
        """The choice of `read`, of rows that are read already."""
        if self.law != "auto":
            self.check_variables(*wanted)
            return self
        from nextscale.fit.laws.loss import Loss
        from nextscale.fit.trust.candidates import LOSSES
        from nextscale.fit.trust.forecaster import chosen_law

        if self.fix:
            raise SpecError(f"--fix {self.fix[0]}: is of one law; name it with --law")
        options = {"delta": self.delta} | ({} if self.tilt is None else {"tilt": self.tilt})
        losses = LOSSES if self.objective is None else (Loss.of(self.objective, **options),)
        best = chosen_law(source.of_all(rows), losses, [set(one) for one in wanted] or None)
        loss = best.loss
        return dataclasses.replace(
            self,
            law=best.law.name,
            objective=loss.name,
            delta=loss.delta if loss.name in ("huber", "asymmetric") else self.delta,
            tilt=loss.tilt if loss.name == "asymmetric" else None,
        )

    @property
    def variables(self) -> tuple[str, ...]:
        from nextscale.fit.laws.catalogue import law_named

        return law_named(self.law).variables

    def check_variables(self, *wanted: tuple[str, ...]) -> None:
        """Refuses a law that a command can say nothing by, before it is fitted."""
        if wanted and set(self.variables) not in map(set, wanted):
            from nextscale.fit.table.columns import column_of

            needed = " or in ".join(" and ".join(variables) for variables in wanted)
            raise SpecError(
                f"--law {self.law}: is a law in {', '.join(self.variables)}; this command needs one in {needed}; "
                f"forecast --at {column_of(self.variables[0])}=VALUE forecasts a run by it"
            )

    drop_outliers: Annotated[
        bool,
        typer.Option("--drop-outliers", help="leave out runs that lie far off the law of the others, and say which"),
    ] = False

    @property
    def options(self) -> dict[str, Any]:
        """Those of `nextscale.fit.fit`."""
        if self.tilt is not None and self.objective != "asymmetric":
            raise SpecError("--tilt: is that of --objective asymmetric")
        options = {
            "fixed": numbers_by_name(self.fix or (), "--fix", "PARAMETER=VALUE"),
            "loss": self.objective or "huber",
            "delta": self.delta,
            "drop_outliers": self.drop_outliers,
        }
        return options if self.tilt is None else options | {"tilt": self.tilt}


@dataclasses.dataclass(frozen=True)
class Estimator(LawChoice):
    """Which law, how it is fitted, and how its intervals are made."""

    panel: ClassVar = "Law and intervals"

    bootstrap: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="case, stratified (by budget), cluster (by group), residual or normal \\[default: case; normal of few "
            "runs]",
            autocompletion=completion.one_of("case", "stratified", "cluster", "residual", "normal"),
        ),
    ] = None
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="of the bootstrap")] = 1000
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="of the intervals")] = 0.9

    @property
    def options(self) -> dict[str, Any]:
        return super().options | {name: getattr(self, name) for name in ("bootstrap", "resamples", "level")}


@dataclasses.dataclass(frozen=True)
class Weighed(LawChoice):
    """Which laws a forecast rests on: those that backtests weigh, unless one is named."""

    law: Annotated[
        str,
        typer.Option(
            "--law",
            metavar="NAME",
            help="consensus, of laws weighed by what each missed in backtests; or one law of `nextscale laws`; or "
            "auto, the one that a backtest chooses",
            autocompletion=completion.laws,
        ),
    ] = "consensus"

    def read_rows(
        self, source: Source, rows: pd.DataFrame, *wanted: tuple[str, ...]
    ) -> tuple[LawChoice, Sequence[str]]:
        """The choice of what a forecast rests on, and the variables that its law or laws take.

        Args:
            wanted: the variables of laws that the command can say something by; a consensus is of the first that these
                rows have.
        """
        if self.law != "consensus":
            chosen = self.settled(source, rows, *wanted)
            return chosen, chosen.variables
        if self.fix:
            raise SpecError(f"--fix {self.fix[0]}: is of one law, and a consensus is of several; name it with --law")
        held = {*source.variables_in(rows)}
        return self, next((variables for variables in wanted if {*variables} <= held), wanted[0])


@dataclasses.dataclass(frozen=True)
class Forecaster(Weighed, Estimator):
    """What a forecast rests on, and how its intervals are made."""

    panel: ClassVar = "Law and intervals"
