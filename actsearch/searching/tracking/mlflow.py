"""MLflow: a run of theirs for a run of ours, found again by a tag, and told what it lacks.

Only their client is used, with an address of its own: nothing of what a process that searches may
do with MLflow besides is touched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from actsearch.results.tables import Row as TableRow
from actsearch.results.tables import to_csv
from actsearch.searching.tracking.tracking import TRIAL, Known, Row, Tracked

EXPERIMENT = "actsearch"  # unless MLFLOW_EXPERIMENT_NAME says another
TAG = "actsearch.run"
AT_ONCE = 900  # metrics in one request, of which MLflow takes 1,000
LONGEST = 500  # characters of a value that every version of MLflow takes


class MLflow:
    """Writes to where MLFLOW_TRACKING_URI says, else to MLflow's usual place."""

    def __init__(self, search: Tracked) -> None:
        self._uri = mlflow.get_tracking_uri()
        self._client = mlflow.MlflowClient(self._uri)
        self._name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        self._experiment = self._experiment_id()
        run = self._found(search) or self._client.create_run(
            self._experiment,
            run_name=search.run.resolve().name,
            tags={TAG: search.identifier},
        )
        self._id = run.info.run_id
        self._client.update_run(self._id, status="RUNNING")
        self._describe(run, search)
        self._waiting: list[Metric] = []  # for the next request

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._name)
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(self._name)
        except MlflowException:  # another search has made it meanwhile
            found = self._client.get_experiment_by_name(self._name)
            if found is None:
                raise
            return found.experiment_id

    def _found(self, search: Tracked) -> Run | None:
        query = f"tags.`{TAG}` = '{search.identifier}'"
        runs = self._client.search_runs([self._experiment], query, max_results=1)
        return runs[0] if runs else None

    def _describe(self, run: Run, search: Tracked) -> None:
        """Settings as params. Those cannot change, so what a later session changes, as a budget,
        is a tag."""
        settings = {**search.said, "metric": search.metric.name,
                    "direction": search.metric.direction}  # fmt: skip
        said = {k: text for k, v in settings.items() if (text := _text(v))}
        first: Mapping[str, str] = run.data.params
        params = [Param(k, v) for k, v in said.items() if k not in first]
        moved = [k for k, v in said.items() if first.get(k, v) != v or f"now.{k}" in run.data.tags]
        tags = [RunTag(f"now.{k}", said[k]) for k in moved]
        self._client.log_batch(self._id, params=params, tags=tags)

    @property
    def place(self) -> str:
        if self._uri.startswith(("http://", "https://")):
            return f"{self._uri}/#/experiments/{self._experiment}/runs/{self._id}"
        return f"mlflow ui --backend-store-uri {self._uri}   # run {self._id}"

    def known(self) -> Known:
        names = self._client.get_run(self._id).data.metrics
        histories = (self._client.get_metric_history(self._id, name) for name in names)
        return {(m.key, m.step): m.value for history in histories for m in history}

    def write(self, row: Row) -> None:
        at = round(1000 * row.at)
        # The trial comes first: where it stands, whoever goes on knows which step this is.
        names = sorted(row.numbers, key=lambda name: name != TRIAL)
        self._waiting += [Metric(n, float(row.numbers[n]), at, row.step) for n in names]
        if len(self._waiting) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            self._client.log_batch(self._id, metrics=batch)

    def end(self, table: Sequence[TableRow], *, whole: bool) -> None:
        self.flush()
        self._client.log_text(self._id, to_csv(table), "top.csv")
        status = "FINISHED" if whole else "KILLED"  # as MLflow calls what was stopped
        self._client.set_terminated(self._id, status, end_time=round(1000 * time.time()))


def _text(setting: Any) -> str:
    text = ", ".join(setting) if isinstance(setting, list) else str(setting)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
