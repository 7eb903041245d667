"""TensorBoard: a search as scalars, one step a function that was trained.

The events are written anew from the store when a session begins. So a search that was killed, or
that was first run without them, has each step once, and none is missing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import KINDS, Outcome, Trial
from actsearch.results.store import Store
from actsearch.results.tables import to_markdown
from actsearch.searching.progress import Progress

log = logging.getLogger("actsearch")

_COLUMNS = ("expression", "label", "formula", "status", "val_score", "seconds", "finished")


def writer_class() -> Any:
    """torch's SummaryWriter; raises ModuleNotFoundError where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        if error.name != "tensorboard":
            raise
        raise ModuleNotFoundError(
            "--tensorboard needs the package tensorboard, which is not installed: "
            "python -m pip install tensorboard",
            name="tensorboard",
        ) from None
    return SummaryWriter


def _text(setting: Any) -> str:
    return ", ".join(setting) if isinstance(setting, list) else str(setting)


class TensorBoard:
    """A callback that writes to `folder`, which it owns. Steps count the whole trainings of the
    search; what the strategy says of itself stands at its number of proposals, as in the store."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        strategy: str,
        settings: Mapping[str, Any],
        metric: Metric = ACCURACY,
    ) -> None:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # purge_step: what a TensorBoard that is open has read of the old files, it forgets.
        self._writer = writer_class()(str(folder), purge_step=0)
        self._store = store
        self._strategy = strategy
        self._beside = store.beside()
        self._statuses: Counter[str] = Counter()
        self._metric = metric
        self._best: float | None = None
        self._told = 0  # rows of the strategy's health
        rows = [{"setting": k, "value": _text(v)} for k, v in settings.items() if v is not None]
        self._writer.add_text("settings", to_markdown(rows), 0)
        found = (row for row in store.rows("search") if row["status"] not in (None, "rejected"))
        for row in sorted(found, key=lambda row: row["finished"]):
            self._add(*(row[name] for name in _COLUMNS))
        self._add_health()

    def __call__(self, trial: Trial, outcome: Outcome, progress: Progress) -> None:
        if KINDS[trial.kind].ranked:
            names = (trial.subject, trial.label, trial.formula)
            scores = (outcome.status, outcome.val_score, outcome.seconds)
            self._add(*names, *scores, time.time())
        self._add_health()

    @property
    def _tag(self) -> str:
        """Such as `search/val_accuracy`."""
        return f"search/{self._metric.column('val').replace(' ', '_')}"

    def close(self) -> None:
        try:
            self._add_health(settled=True)
            self._writer.close()
        except Exception:
            log.exception("the events for TensorBoard are not complete")

    def _add(
        self,
        subject: str,
        label: str,
        formula: str,
        status: str,
        val_score: float | None,
        seconds: float,
        at: float,
    ) -> None:
        """A finished training; baselines have scores of their own and are not the best found."""
        self._statuses[status] += 1
        numbers = {"search/seconds": seconds}
        if val_score is not None:
            beside = subject in self._beside
            numbers[f"baselines/{label or formula}" if beside else self._tag] = val_score
            if not beside:
                known = (val_score,) if self._best is None else (self._best, val_score)
                self._best = max(known, key=self._metric.reward)
                numbers["search/best"] = self._best
        if status != "ok":
            numbers[f"failures/{status}"] = self._statuses[status]
        for tag, number in numbers.items():
            self._writer.add_scalar(tag, number, self._statuses.total(), at)

    def _add_health(self, *, settled: bool = False) -> None:
        """What is new of the strategy; the last row may still change until the search ends."""
        rows = self._store.health(self._strategy, skip=self._told)
        for numbers in rows if settled else rows[:-1]:
            self._told += 1
            for name, number in numbers.items():
                if name != "proposals":
                    self._writer.add_scalar(f"strategy/{name}", number, int(numbers["proposals"]))
        self._writer.flush()
