"""The page that shows what came of a sweep, and its figures as files."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from etils import epath

from nextscale.cluster.controller.accounts import Accounts
from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.frontier import TokenCost
from nextscale.fit.optimum.isoflop import isoflops, optimum_law
from nextscale.fit.optimum.known_models import known_models
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.trust.card import card as fit_card
from nextscale.fit.trust.consensus import Consensus
from nextscale.fit.trust.reach import ReachErrors
from nextscale.model.record import write_atomically
from nextscale.sweeps.budget.targets import bits_per_nat_of
from nextscale.sweeps.errors import USER_ERRORS, SpecError
from nextscale.sweeps.findings import Finding, findings, summary_of
from nextscale.sweeps.findings.runs_table import runs_of as finding_runs
from nextscale.sweeps.forecasts.calibration import calibration, calibration_tables, outcomes
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.page.document import Section, document, raw, table
from nextscale.sweeps.page.provenance import of_what, written_by
from nextscale.sweeps.report import content, drawing
from nextscale.sweeps.report import figures as plots
from nextscale.sweeps.report.answer import Answer, known_of
from nextscale.sweeps.report.calculator import calculator, calculator_data, hardware_for, is_computable
from nextscale.sweeps.report.glossary import glossary
from nextscale.sweeps.report.markdown import as_markdown
from nextscale.sweeps.report.pdf import write_pdf
from nextscale.sweeps.report.slide import write_slide
from nextscale.sweeps.show.sentences import outcome
from nextscale.sweeps.show.summary_tables import summary_tables
from nextscale.sweeps.spec.sweep_spec import ForecastConfig
from nextscale.sweeps.store.finished_runs import check_one_data_source, load_finished
from nextscale.sweeps.store.store import Store, load, load_curves
from nextscale.sweeps.study.law_of_runs import law_of
from nextscale.sweeps.study.study import Analysis, Study
from nextscale.sweeps.study.summary import summarise

_FIRST = "loss"
"""The figure that stands beside the forecast."""
_NEVER_SCORED = "No runs were held out to be forecast. How backtests among these runs missed is told below."


@dataclasses.dataclass(frozen=True)
class Report:
    """What a page shows.

    Attributes:
        root: the output folder.
        summary: see `nextscale.sweeps.study.summary`.
        analysis: of the runs that the forecast rests on; None where no law was fitted.
        held_out: runs that it does not rest on, those that came to a loss.
        findings: what else the runs were asked.
        card: of the fit, see `nextscale.fit.trust.card`.
        options: how runs become a law.
    """

    root: Path
    summary: Mapping[str, Any]
    analysis: Analysis | None
    held_out: Runs | None
    findings: Mapping[str, Finding]
    card: Mapping[str, Any] | None
    options: ForecastConfig

    @classmethod
    def of(
        cls,
        study: Study,
        analysis: Analysis | None,
        summary: Mapping[str, Any],
        findings: Mapping[str, Finding],
        card: Mapping[str, Any] | None,
    ) -> Report:
        """What a study came to."""
        held_out, options = study.table("holdout"), study.spec.forecast
        known = "loss" in held_out and held_out["loss"].notna().any()
        runs = as_runs(held_out, convention=options.params, as_is=True) if known else None
        return cls(study.store.root, summary, analysis, runs, findings, card, options)

    @classmethod
    def from_files(cls, out: str | Path) -> Report:
        """What the files of a folder come to, as they are: nothing is trained, nor written to the ledger. Of several
        sweeps the one that was run last.

        Raises:
            SpecError, InputError: the folder holds no sweep, or what is in it is damaged.
        """
        store = Store.existing(out)
        spec = store.newest_spec
        if spec is None:
            return cls._of_table(store)
        study = Study(spec, store.root, as_left=True)
        analysis, problems = None, []
        if spec.forecast.law != "none":
            try:
                analysis = study.analyse()
            except InputError as error:
                problems.append(str(error))
        forecast = study.standing_forecast(analysis) if analysis else None
        runs = load(store.root, sweep=spec.name)
        waiting = {run.run_id for run in study.planned if store.record(run.run_id) is None}
        rows = runs[(runs["status"] == "failed") & runs["run_id"].isin(waiting)]
        failed = dict(zip(rows["run_id"], rows["reason"], strict=True))
        summary = summarise(study, analysis, forecast, failed=failed, reused=0)
        found = findings(finding_runs(study), spec)
        summary["findings"] = summary_of(found)
        summary["warnings"] = [*problems, *summary["warnings"]]
        if left := len(waiting) - len(failed):
            summary["warnings"].insert(0, f"{left} of {len(study.planned)} runs have not finished")
        return cls.of(study, analysis, summary, found, None if analysis is None else fit_card(analysis.fit))

    @classmethod
    def _of_table(cls, store: Store) -> Report:
        """Of runs from elsewhere alone."""
        options = ForecastConfig()
        runs = _all_runs(store.root, options)
        fit, curves = law_of(runs, options), isoflops(runs)
        analysis = Analysis(fit, curves, optimum_law(curves), TokenCost.of_runs(fit.runs), [])
        nothing = dict.fromkeys(("forecast", "optimal_params", "irreducible"))
        summary = nothing | {"sweep": store.root.name, "law": fit.to_dict(), "warnings": list(fit.warnings)}
        summary |= {
            "holdout": [],
            "interior_minima": [curve.interior for curve in curves if curve.is_budget],
            "findings": {},
        }
        return cls(store.root, summary, analysis, None, {}, fit_card(fit), options)

    def write(self, file: Path | None = None, figures: Path | None = None, also: drawing.Also | None = None) -> Path:
        """Writes the page, and its figures; returns where the page is.

        Args:
            file: `report.html` of the folder, unless given.
            figures: their folder, which is made; `figures` of the folder, unless given.
            also: what else, and how figures are saved.

        Raises:
            SpecError: there is nothing that a slide could show, or no browser that prints.
        """
        page, also = file or self.root / "report.html", also or drawing.Also()
        writer = _Writer(self, figures or self.root / "figures", page.parent, also.figures)
        write_atomically(epath.Path(page), writer.page())
        if also.slide is not None:
            writer.slide(also.slide)
        if also.markdown is not None:
            write_atomically(epath.Path(also.markdown), writer.markdown(also.markdown))
        if also.pdf is not None:
            write_pdf(page, also.pdf)
        return page


class _Writer:
    """Sections, and the figures and data that they come to need."""

    def __init__(self, report: Report, figures: Path, page_folder: Path, files: drawing.Files):
        self.report, self.folder, self.page_folder, self.files = report, figures, page_folder, files
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tables: dict[str, Any] = {}
        self.svgs: list[str] = []
        self.data: dict[str, Any] = {"tables": self.tables}
        self.law: list[drawing.Plot] = []

        self.said: tuple[str, str] | None = None
        self.runs = load(report.root)
        self.sections = [*self._sections(self.runs)]
        self.title = f"{report.summary['sweep']}: a scaling study"
        self.subtitle = content.runs_in_words(self.runs) + content.law_in_words(report.summary["law"])
        what = of_what(report.root, self.runs["data"].dropna())
        self.footer = f"{what}; written by {written_by()}" if what else f"Written by {written_by()}"

    def page(self) -> str:
        style, told = drawing.palette(self.svgs), (self.title, self.sections, self.data)
        return document(*told, subtitle=self.subtitle, footer=self.footer, style=style)

    def markdown(self, file: Path) -> str:
        figures = quote(os.path.relpath(self.folder.absolute(), file.absolute().parent).replace(os.sep, "/"))
        return as_markdown(self.title, self.subtitle, self.sections, f"{figures}/", self.footer)

    def slide(self, file: Path) -> None:
        first = next((one for one in self.law if one.name == _FIRST), None)
        if self.said is None or first is None:
            raise SpecError("--slide: there is no forecast yet for a slide to show; finish more runs")
        write_slide(file, self.title, *self.said, first, self.footer)

    def _sections(self, runs: pd.DataFrame) -> Iterator[Section]:
        report = self.report
        fit = self._fit_to_all()
        answer = None if fit is None else Answer.of(fit)
        yield from self._first(answer, runs)
        yield from self._trust(answer)
        yield from self._law(fit)
        yield from self._training()
        for name, one in report.findings.items():
            shown = [*map(self._draw, plots.finding_plots({name: one}))]
            parts = content.warnings(one.notes), content.shown_tables(one.tables, name)
            yield from content.section(name, name.replace("-", " ").capitalize(), *parts, _drawings(shown))
        yield from self._ledger()
        yield from self._cost()
        if report.card is not None:
            yield from content.section("fit-card", "Fit card", content.fit_card(report.card))
        yield from self._runs(runs)
        if fit is not None:
            yield Section("words", "What the words mean", glossary())

    def _first(self, answer: Answer | None, runs: pd.DataFrame) -> Iterator[Section]:
        """The answer, beside the figure that it rests on."""
        report, bits = self.report, bits_per_nat_of(runs)[0]
        fit, target = (None, None) if answer is None else (answer.fit, answer.target)
        foretold = plots.foretold(report.summary)
        if said := outcome(report.summary):
            self.said = said, content.made_when(report.summary["forecast"])
        elif target is not None:
            foretold, self.said = [target], (target["sentence"], target["trust"]["sentence"])
        if report.analysis is not None:
            latest = fit if report.held_out else None
            self.law = plots.law_plots(
                report.analysis, report.held_out, dict(report.summary), foretold, bits_per_nat=bits, latest=latest
            )
            self._keep_points(fit, runs, bits)
        figure = _drawings([self._draw(one) for one in self.law if one.name == _FIRST])
        if answer is None or answer.asked is None or target is None:
            text = content.headline(report.summary)
            yield from content.section("forecast", "Forecast", content.side_by_side(text, figure))
        elif is_computable(answer.fit):
            self.data["calculator"] = calculator_data(answer, self._command, hardware := hardware_for(runs), bits)
            also = ", held-out ones too" if report.held_out else ""
            form = calculator(answer, self._command, hardware, bits, also=also, figure=figure)
            yield Section("calculator", "At your budget", form)
        else:
            text = content.outlook(answer.asked, self._minima(target["flops"]))
            yield Section("forecast", "Forecast", content.side_by_side(text, figure))

    def _trust(self, answer: Answer | None) -> Iterator[Section]:
        """How sure the answer is: what came of forecasts, what is to be known, how backtests missed."""
        scored, backtest = "", ""
        if answer is not None and answer.asked is not None:
            scored = content.headline(self.report.summary) or content.paragraph(_NEVER_SCORED, "quiet")
        if answer is not None and answer.choice is not None:
            whom = "of all runs, held-out ones too," if self.report.held_out else "of the runs"
            together = answer.tested if isinstance(answer.fit, Consensus) else ReachErrors()
            drawn = _drawings([self._draw(plots.backtest_plot(answer.choice, together.by_cut))])
            shown = content.backtest_table(answer.choice, whom, together)
            backtest = content.side_by_side(drawn, table(shown, "tested"), "beside")
        known = content.warnings(known_of(answer, self.report.summary))
        yield from content.section("trust", "How sure", scored, known, backtest)

    def _minima(self, flops: float) -> float | None:
        """The size that the isoFLOP minima say is best, where there are two or more."""
        analysis = self.report.analysis
        return None if analysis is None or analysis.optimum is None else float(analysis.optimum(flops))

    def _law(self, fit: Fit | None) -> Iterator[Section]:
        if not self.law:
            return
        drawing.save(plots.overview(self.law), self.folder, self.files)
        shown_tables = content.shown_tables(summary_tables({**self.report.summary, "findings": {}}), "found")
        drawn = [self._draw(one) for one in self.law if one.name != _FIRST]
        which = content.paragraph(self._which_fit(fit), "quiet")
        yield Section("law", "The law", which + _drawings(drawn) + shown_tables)

    def _which_fit(self, fit: Fit | None) -> str:
        if not self.report.held_out or fit is None or self.report.analysis is None:
            return ""
        before = len(self.report.analysis.fit.runs)
        return (
            f"By the {before} runs that the forecast was made from; the answer at your budget rests on all "
            f"{len(fit.runs)}."
        )

    def _training(self) -> Iterator[Section]:
        curves = load_curves(self.report.root, of="training")
        if len(curves):
            yield Section("training", "Training", _drawings([self._draw(plots.curves_plot(curves))]))

    def _ledger(self) -> Iterator[Section]:
        every = outcomes([Ledger(self.report.root / "ledger.jsonl")])
        if every.empty:
            return
        scores = calibration(every)
        drawn = [self._draw(plots.ledger_plot(every, scores))] if scores["scored"] else []
        parts = _drawings(drawn), content.shown_tables(calibration_tables(every, scores), "ledger")
        yield Section("ledger", "Forecasts so far", "".join(map(content.paragraph, scores["notes"])) + "".join(parts))

    def _cost(self) -> Iterator[Section]:
        attempts = Accounts(self.report.root / "accounts.jsonl").frame()
        if len(attempts):
            drawn = self._draw(plots.spend_plot(attempts))
            yield Section("cost", "Cost", _drawings([drawn]) + table(content.spend_table(attempts), "pools"))

    def _runs(self, runs: pd.DataFrame) -> Iterator[Section]:
        if runs.empty:
            return
        shown, columns = content.runs_table(runs)
        self._keep("runs", runs.drop(columns=["folder", "versions"]).dropna(axis="columns", how="all"))
        yield Section("runs", "Runs", table(shown, "runs", columns=columns))

    def _draw(self, one: drawing.Plot) -> str:
        svg, views = (
            drawing.save(one, self.folder, self.files),
            {view.name: drawing.drawn(view) for view in one.views()},
        )
        self.svgs += [svg, *views.values()]
        if one.data is not None:
            self._keep(one.name, one.data)
        return drawing.figure(one, svg, views)

    def _keep_points(self, fit: Fit | None, runs: pd.DataFrame, bits_per_nat: float | None) -> None:
        """What a pointer finds on the figures of the law."""
        if fit is None:
            return
        points = fit.runs.table.copy()
        if "run_id" in points:
            held_out = self.report.held_out
            later = set() if held_out is None else {*held_out.table["run_id"]}
            points["held_out"] = points["run_id"].isin(later)
            points["local"] = points["run_id"].isin(runs.loc[runs["status"] == "done", "run_id"])
        if bits_per_nat is not None:
            points["bits_per_byte"] = bits_per_nat * points["loss"]
        self._keep("points", points)
        self._keep("known-models", known_models())
        folder = self.report.root / "runs"
        near = folder.is_dir() and self.page_folder.resolve() == self.report.root.resolve()
        self.data["figures"] = {"folder": "runs" if near else None}

    def _keep(self, name: str, frame: pd.DataFrame) -> None:
        known = frame.astype(object).where(frame.notna(), None)
        self.tables[name] = raw(list(map(str, known.columns)), known.to_numpy().tolist())

    def _fit_to_all(self) -> Fit | None:
        """The fit of `nextscale forecast` to every run of the folder; None where it refuses them."""
        if self.report.options.law == "none":
            return None
        try:
            return law_of(_all_runs(self.report.root, self._options), self._options)
        except USER_ERRORS:
            return None

    @property
    def _options(self) -> ForecastConfig:
        """Those that `nextscale forecast` has too, and the law that was chosen."""
        analysis = self.report.analysis
        chosen = {} if analysis is None else {"law": analysis.fit.law.name}
        return self.report.options.model_copy(update={"drift": 0.0, **chosen})

    @property
    def _command(self) -> str:
        """That gives what the page computes, but for what is asked."""
        named = {"params": "count"}
        options = {named.get(name, name): value for name, value in self._options.semantic().items()}
        arguments = "".join(f" --{name} {value}" for name, value in options.items())
        root, here = self.report.root, Path.cwd()
        folder = str(root.relative_to(here)) if root.is_relative_to(here) else root.name
        return f"nextscale forecast {shlex.quote(folder)}{arguments}"


def _all_runs(folder: Path, options: ForecastConfig) -> Runs:
    """Every run of a folder, as `nextscale forecast` reads them."""
    table = load_finished(folder)
    check_one_data_source(table, folder)
    return as_runs(table, convention=options.params, as_is=True, where=str(folder))


def _drawings(figures: Sequence[str]) -> str:
    return f'<div class="drawings">\n{"".join(figures)}</div>\n' if figures else ""
