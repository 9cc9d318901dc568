"""MLflow: one run there per run, in the experiment of its sweep, known by its tag; its step is tokens.

It forgets no value: a curve that turned out otherwise after a restart stays as it was first told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nextscale.model.record import Row
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.loggers.base import LoggedRun, hparams, results
from nextscale.sweeps.loggers.curve import Point
from nextscale.sweeps.spec.loggers import MlFlow

TAG = "nextscale.run_id"
_METRICS, _PARAMS = 1000, 100
"""That a server takes at once."""


class MlFlowLogger:
    """A tracking server, or a store that a URI names.

    Raises:
        SpecError: none is named.
    """

    kind = "mlflow"
    client = "mlflow"

    def __init__(self, config: MlFlow, out: Path):
        uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise SpecError(
                "mlflow: no server or store is named; set MLFLOW_TRACKING_URI, or give the logger a uri, such as "
                "{kind: mlflow, uri: 'http://host:5000'}",
                ("loggers",),
            )
        self._uri, self._experiment = uri, config.experiment
        self.place = f"{uri} {config.experiment or ''}"
        self.folder = out / "mlflow"

    def open(self, run: LoggedRun) -> _MlflowRun:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self._uri)
        name = self._experiment or run.sweep
        experiment = client.get_experiment_by_name(name)
        experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
        known = client.search_runs([experiment_id], f"tags.`{TAG}` = '{run.run_id}'", max_results=1)
        tags = {TAG: run.run_id, "nextscale.sweep": run.sweep}
        found = known[0] if known else client.create_run(experiment_id, tags=tags, run_name=run.run_id)
        return _MlflowRun(client, found, run)


class _MlflowRun:
    def __init__(self, client: Any, found: Any, run: LoggedRun):
        from mlflow.entities import Param

        self._client, self._id = client, found.info.run_id
        self.ended = found.info.status != "RUNNING"
        names = [name for name in found.data.metrics if not name.startswith("result/")]
        steps = (one.step for name in names for one in client.get_metric_history(self._id, name))
        self.last: int | None = max(steps, default=-1)
        params = [Param(name, str(value)) for name, value in hparams(run.config()).items()]
        for i in range(0, len(params), _PARAMS):
            client.log_batch(self._id, params=params[i : i + _PARAMS])

    def rewind(self, tokens: int) -> bool:
        return False

    def write(self, points: Sequence[Point]) -> None:
        now = int(1000 * time.time())
        for some in _batches(points):
            self._tell({(name, point.tokens): value for point in some for name, value in point.values.items()}, now)
            self.last = some[-1].tokens

    def end(self, record: Row) -> None:
        metrics = {(name, record["tokens"]): value for name, value in results(record).items()}
        self._tell(metrics, int(1000 * time.time()))
        self._client.set_tag(self._id, "nextscale.status", record["status"])
        self._client.set_terminated(self._id, "FINISHED" if record["status"] == "done" else "FAILED")
        self.ended = True

    def close(self) -> None:
        pass

    def _tell(self, metrics: dict[tuple[str, int], float], now: int) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(self._id, [Metric(name, value, now, step) for (name, step), value in metrics.items()])


def _batches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """As many whole points as a server takes at once: each of them is there, or it is not."""
    some: list[Point] = []
    size = 0
    for point in points:
        if some and size + len(point.values) > _METRICS:
            yield some
            some, size = [], 0
        some.append(point)
        size += len(point.values)
    if some:
        yield some


LOGGER = MlFlowLogger
