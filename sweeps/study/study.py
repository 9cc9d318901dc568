"""A sweep in its output folder: its runs and their results, the law, the forecast and its score."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from nextscale.cluster.controller.job import Job
from nextscale.cluster.hardware.seat import Seat
from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.frontier import TokenCost, frontier
from nextscale.fit.optimum.isoflop import IsoFlop, PowerLaw, isoflops, optimum_interval, optimum_law
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.trust.consensus import Consensus
from nextscale.model.accounting import flops_per_token
from nextscale.model.config.data import single_sources
from nextscale.model.config.external import ExternalRun
from nextscale.model.storage.address import absolute
from nextscale.sweeps.design.chosen_runs import ChosenRuns, all_runs, without_dropped
from nextscale.sweeps.design.expand import resolve_spec
from nextscale.sweeps.design.planned_run import PlannedRun, Role, count_parameters
from nextscale.sweeps.design.sequential import choose_next
from nextscale.sweeps.design.trunks import kept_trunks, rooted
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Entry, Ledger, digest_of, score_of
from nextscale.sweeps.spec.designs import SequentialDesign
from nextscale.sweeps.spec.sweep_spec import ExternalSpec, SweepSpec
from nextscale.sweeps.store.store import Store
from nextscale.sweeps.study.law_of_runs import law_of

E_LEVEL = 0.95
_FIRST_DEFAULTS = {"law": ("chinchilla",), "bootstrap": ("case", None)}
"""At these an option is left out of the digest of a forecast, though its default is another now: so those that earlier
versions wrote down are known again."""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What the fitted runs of a sweep say.

    Attributes:
        fit: what the forecast rests on.
        curves: the isoFLOP curve of each budget; none where the design has no budgets.
        optimum: the power law through their minima, N*(C); None where fewer than two budgets have one.
        cost: FLOPs per token of a size of this family.
        fitted: the runs that all of this rests on, those that the law's window leaves out too.
    """

    fit: Fit
    curves: list[IsoFlop]
    optimum: PowerLaw | None
    cost: TokenCost
    fitted: list[dict[Hashable, Any]]


class Study:
    """A sweep in its output folder."""

    def __init__(self, spec: SweepSpec, out: str | Path, *, as_left: bool = False, bucket: str = ""):
        """
        Args:
            as_left: the spec is one that a sweep left in its folder: it is whole, and its data may be elsewhere now.
            bucket: the address where the folder is kept, and runs are trained; empty where the folder is all there is.

        Raises:
            SpecError, InputError: the data is not there, nothing can be written, or the ledger is damaged.
        """
        for part in () if isinstance(spec, ExternalSpec) else single_sources(spec.data).values():
            path = getattr(part, "path", None)
            if path is not None and absolute(path) in (absolute(out), bucket):
                raise SpecError(f"--out {bucket or out}: is the folder of the data; name another", ("data", "path"))
        self.spec = spec if as_left else resolve_spec(spec)
        self.store = Store.at(out)
        self._bucket = bucket
        self.planned: list[PlannedRun] = []
        self._named: dict[str, PlannedRun] = {}
        self._branches: dict[str, list[PlannedRun]] = {}
        self._kept: dict[str, int] = {}
        self.designed = all_runs(self.store.root, self.spec)
        self._plan(self.designed)
        self.ledger = Ledger(self.store.root / "ledger.jsonl")
        self.ledger.entries()  # a damaged one is refused now, not when the sweep has been trained

    def runs(self, role: Role) -> list[PlannedRun]:
        return [run for run in self.planned if run.role == role]

    @property
    def held_out_at_one_budget(self) -> bool:
        """Whether there are results of held-out runs, and those of one isoFLOP curve."""
        return len({run.budget for run in self.runs("holdout")}) == 1 and not self.table("holdout").empty

    @property
    def sequential(self) -> bool:
        """Whether runs are chosen as results land."""
        return isinstance(self.spec.design, SequentialDesign)

    @property
    def unchosen(self) -> float:
        """FLOPs that a sequential design may spend on runs that it has not chosen yet."""
        design = self.spec.design
        if not isinstance(design, SequentialDesign) or self.choices.ended is not None:
            return 0.0
        return max(design.flops - sum(run.own_flops for run in self.runs("fit")), 0.0)

    @property
    def choices(self) -> ChosenRuns:
        """Of a sequential design."""
        return ChosenRuns(self.store.root, self.spec)

    def choose(self) -> str | None:
        """Chooses the next runs of a sequential design, writes them down and adds them; or tells why there is none.

        Those that another process chose, and did not come to, are the next. One process at a time may choose.

        Raises:
            InputError: too few runs finished.
        """
        ended = self.choices.ended  # read first: all that was chosen before it is then there to be read
        self.catch_up()
        if self.missing("fit"):
            return None
        if ended is not None:
            return ended
        runs = self.runs("fit")
        found, _ = self._fitted()
        stands, chosen = choose_next(self.spec, found, self.cost, runs)
        if stands.ended is None:
            self.choices.add(chosen, stands)
            self._plan(chosen)
        else:
            self.choices.end(stands)
        return stands.ended

    def catch_up(self) -> None:
        """Adds the runs that another process has chosen since."""
        if self.sequential:
            self._plan(self.choices.runs())

    def _plan(self, designed: list[PlannedRun]) -> None:
        """Adds runs as the folder leaves them to be trained, those that are there already but once."""
        root = self.store.root
        self._kept |= kept_trunks(self.spec, designed)
        for run in rooted(without_dropped(designed, root), root):
            if run.run_id not in self._named:
                self.planned.append(run)
                self._named[run.run_id] = run
                if run.trunk is not None:
                    self._branches.setdefault(run.trunk.run_id, []).append(run)

    def job_of(self, run_id: str) -> Job | None:
        """Of a run of this sweep; None for any other."""
        run = self._named.get(run_id)
        return None if run is None else self.job(run)

    def missing(self, role: Role) -> list[PlannedRun]:
        """The runs that have no result yet."""
        return [run for run in self.runs(role) if self._unfinished(run)]

    def table(self, role: Role) -> pd.DataFrame:
        """One row per finished run, with its `budget`."""
        rows = []
        for run in self.runs(role):
            record = self.store.record(run.run_id)
            if record is not None:
                rows.append(record | {"budget": run.budget})
        return pd.DataFrame(rows)

    def job(self, run: PlannedRun, seats: tuple[Seat, ...] = ()) -> Job:
        keep, run_id = self.spec.checkpoint, run.run_id
        pinned = {branch.branches_at for branch in self._branches.get(run_id, ()) if self._unfinished(branch)}
        if run_id in self._kept:
            pinned.add(self._kept[run_id])
        return Job(
            run_id=run_id,
            config=run.config,
            directory=str(self.store.root / "runs" / run_id),
            bucket=self._bucket and f"{self._bucket}/runs/{run_id}",
            flops=run.own_flops,
            steps=run.config.training.steps,
            shape=digest_of([run.config.model.model_dump(), run.config.training.batch_tokens]),
            seats=seats,
            every_seconds=keep.every_seconds,
            keep=keep.keep,
            final=keep.final,
            start=run.start,
            whole_flops=float(run.flops),
            pinned=tuple(sorted(pinned)),
            stop_seconds=run.config.trainer.stop_seconds if isinstance(run.config, ExternalRun) else 0.0,
        )

    def release(self, done: str | None = None) -> None:
        """Deletes the states that trunks kept for branches, where trunk and branches are done. What a trunk keeps for
        longer runs stays, as does what is of a run of another sweep.

        While a trunk is at work its newest state may be one of them.

        Args:
            done: the run that has just been finished; only its trunk is looked at.
        """
        trunks = self._branches.keys() & self._named.keys()
        if done is not None:
            run = self._named[done]
            trunks &= {done if run.trunk is None else run.trunk.run_id}
        for run_id in trunks:
            trunk, branches = self.store.run(run_id), self._branches[run_id]
            if self.store.record(run_id) is None:
                continue
            needed = {branch.branches_at for branch in branches if self._unfinished(branch)} | {self._kept.get(run_id)}
            for position in {branch.branches_at for branch in branches if not branch.is_longer} - needed:
                trunk.checkpoint(position).rmtree(missing_ok=True)

    def _unfinished(self, run: PlannedRun) -> bool:
        return self.store.record(run.run_id) is None

    def analyse(self) -> Analysis:
        """Fits the law and the isoFLOP curves to what is finished.

        Raises:
            InputError: too few runs finished.
        """
        fit, runs = self._fitted()
        curves = isoflops(runs) if any(run.isoflop for run in self.runs("fit")) else []
        fitted = runs.table[["run_id", "params", "tokens", "loss"]].to_dict("records")
        return Analysis(fit, curves, optimum_law(curves), self.cost, fitted)

    @property
    def cost(self) -> TokenCost:
        """FLOPs per token of a size of this family."""
        models = [run.config.model for run in self.planned]
        sizes = [count_parameters(model, self.spec.forecast.params) for model in models]
        return TokenCost.of(sizes, [flops_per_token(model) for model in models])

    def _fitted(self) -> tuple[Fit, Runs]:
        """What a forecast rests on; and the runs, those left out too."""
        options, table = self.spec.forecast, self.table("fit")
        if table.empty or table["loss"].isna().all():
            raise InputError(f"sweep {self.spec.name}: none of its runs has come to a loss")
        runs = as_runs(table, convention=options.params, as_is=True, where=f"sweep {self.spec.name}")
        return law_of(runs, options), runs

    def inputs(self, analysis: Analysis) -> str:
        """The digest of all that a forecast rests on. Options at their default are left out, unless the ledger has it
        with them, as earlier versions wrote it."""
        options = self.spec.forecast
        whole, default = options.model_dump(), type(options)().model_dump()
        usual = {name: (value,) for name, value in default.items()} | _FIRST_DEFAULTS
        told = {name: value for name, value in whole.items() if value not in usual[name]}
        digest, earlier = (digest_of([analysis.fitted, fields]) for fields in (told, whole))
        return earlier if any(entry.get("inputs") == earlier for entry in self.ledger.entries()) else digest

    def register(self, analysis: Analysis) -> Entry:
        """Writes the forecast of the held-out runs to the ledger, unless it stands there already.

        Once a held-out run has started, the first forecast of them stands: a later one could have been chosen to fit.
        """
        assert self.spec.holdout is not None
        runs, fit = self.runs("holdout"), analysis.fit
        sizes = [count_parameters(run.config.model, self.spec.forecast.params) for run in runs]
        tokens, flops = [run.tokens for run in runs], [run.flops for run in runs]
        predicted = fit.predict(sizes, tokens)
        low, high = fit.predict_interval(sizes, tokens, flops)
        largest = float(fit.runs.table["flops"].max())
        started = [run.run_id for run in runs if self.store.ever_started(run.run_id)]
        budget = max(run.budget for run in runs)
        optimum = frontier(fit, [budget], analysis.cost).iloc[0]
        by_minima = None if analysis.optimum is None else float(analysis.optimum(budget))
        entry = {
            "sweep": self.spec.name,
            "inputs": self.inputs(analysis),
            "runs": fit.runs.table["run_id"].tolist(),
            "started_before": started,
            "law": fit.law.name,
            "parameters": fit.parameters,
            "irreducible_interval": list(fit.interval("E", E_LEVEL)),
            "params_convention": fit.runs.convention,
            "level": fit.level,
            "optimal_params": {
                "flops": budget,
                "predicted": optimum["params"] if by_minima is None else by_minima,
                "interval": list(
                    optimum_interval(analysis.curves, budget, fit.level) or optimum[["params_low", "params_high"]]
                ),
                "by": "law" if by_minima is None else "isoflop minima",
                "by_law": optimum["params"],
                "by_law_interval": optimum[["params_low", "params_high"]].tolist(),
            },
            "targets": [
                {
                    "run_id": run.run_id,
                    "flops": run.flops,
                    "params": sizes[i],
                    "tokens": run.tokens,
                    "predicted": float(predicted[i]),
                    "interval": [float(low[i]), float(high[i])],
                    "reach": run.flops / largest,
                }
                for i, run in enumerate(runs)
            ],
            "warnings": list(fit.warnings),
        }
        if isinstance(fit, Consensus):
            entry["members"] = [dataclasses.asdict(member) for member in fit.members]
        if not started:
            return self.ledger.register(entry)
        if (earlier := self.ledger.registered(entry)) is not None:
            return earlier
        late = f"{len(started)} of the {len(runs)} held-out runs had started when this was computed: it is no forecast"
        return self.ledger.register(entry | {"warnings": [*fit.warnings, late]})

    def standing_forecast(self, analysis: Analysis) -> Entry | None:
        """The forecast of the held-out runs that was written down, if there is one."""
        targets = [{"run_id": run.run_id} for run in self.runs("holdout")]
        return self.ledger.registered({"targets": targets, "inputs": self.inputs(analysis)}) if targets else None

    def score(self, forecast: Entry) -> None:
        """Writes to the ledger how a forecast came out, and those of the same runs that it took the place of; nothing
        while a held-out run is missing."""
        records = [self.store.record(target["run_id"]) for target in forecast["targets"]]
        losses = [record["loss"] for record in records if record is not None]
        if len(losses) < len(records):
            return
        for each in self.ledger.forecasts_of(forecast):
            targets = zip(each["targets"], losses, strict=True)
            self.ledger.score(each, [{"run_id": target["run_id"]} | score_of(target, loss) for target, loss in targets])
