"""Progress: what has happened so far, in a few numbers, for the terminal and for callbacks."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import KINDS, Outcome, Trial
from actsearch.workers.executor import Child

BEST, LAST = 3, 2
HISTORY = 40  # numbers of the controller that are kept for the terminal


@dataclass(frozen=True)
class Scored:
    """A finished function, as the terminal names it."""

    trial: int
    formula: str
    status: str
    score: float | None
    reason: str
    at: float  # time.time()
    metric: Metric = ACCURACY

    @property
    def text(self) -> str:
        """The score as people read it."""
        return "failed" if self.score is None else self.metric.text(self.score)

    @property
    def merit(self) -> float:
        """The score turned so that higher is better; below all where it failed."""
        return -math.inf if self.score is None else self.metric.reward(self.score)


@dataclass(frozen=True)
class Tally:
    """How far a source of trials is."""

    done: int = 0
    """Trials that it counts and that are finished, earlier sessions included."""
    repeats: int = 0
    """Proposals that cost nothing because their function was known."""
    rejected: int = 0
    """Functions that were rejected before training."""
    made: int = 0
    """Proposals so far."""
    confirmed: int = 0
    """Trainings that confirmed the best, among those that are done."""


@dataclass
class Progress:
    """Written by the loop, read by the terminal's thread: what is iterated over is replaced, never
    changed. `total` is None where there is no end in sight."""

    title: str
    workers: str
    total: int | None
    metric: Metric = ACCURACY  # what a score is
    metrics: Mapping[str, Metric] = field(default_factory=dict)  # by protocol, where they differ
    beside: Collection[str] = ()  # the subjects of the baselines
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    done_before: int = 0
    repeats: int = 0
    confirmed: int = 0
    running: int = 0
    stopping: bool = False
    trouble: str = ""  # what the search waits for where it cannot go on
    children: Callable[[], Sequence[Child]] = tuple  # what is being trained now
    counts: Counter[str] = field(default_factory=Counter)
    best: tuple[Scored, ...] = ()
    baselines: Mapping[str, Scored] = field(default_factory=dict)
    beyond: bool = False  # whether trainings that confirm come on top of `total`
    health: list[Mapping[str, float]] = field(default_factory=list)  # of the strategy, latest last
    last: tuple[Scored, ...] = ()

    def update(self, tally: Tally, running: int) -> None:
        self.done, self.repeats, self.running = tally.done, tally.repeats, running
        self.confirmed = tally.confirmed
        self.counts["rejected"] = tally.rejected

    def watch(self, health: Mapping[str, float]) -> None:
        """How the strategy is doing; kept where it has changed."""
        if health and (not self.health or health != self.health[-1]):
            self.health = [*self.health[1 - HISTORY :], dict(health)]

    def add(self, trial: Trial, outcome: Outcome) -> None:
        kind = KINDS[trial.kind]
        score = outcome.test_score if kind.tested else outcome.val_score
        if kind.searched and not kind.ranked:
            return  # a shorter training, or a further one: not to be compared
        metric = self.metrics.get(trial.protocol, self.metric)
        seen = (trial.id, trial.formula, outcome.status, score, outcome.reason, time.time())
        self._add(trial.subject, trial.label, Scored(*seen, metric))

    def load(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What earlier sessions of the run have found."""
        for row in rows:
            if row["status"] is not None:
                seen = Scored(
                    row["id"],
                    row["formula"],
                    row["status"],
                    row["val_score"],
                    row["reason"],
                    row["finished"],
                    self.metric,
                )
                self._add(row["expression"], row["label"], seen)
        self.last = ()

    def _add(self, subject: str, label: str, scored: Scored) -> None:
        self.counts[scored.status] += 1
        self.last = (*self.last, scored)[-LAST:]
        if subject in self.beside:
            self.baselines = {**self.baselines, label or scored.formula: scored}
        elif scored.score is not None:
            by_score = sorted((*self.best, scored), key=lambda s: -s.merit)
            self.best = tuple(by_score[:BEST])

    @property
    def rate(self) -> float | None:
        """Finished trials a second in this session, None before the first."""
        finished = self.done - self.done_before
        elapsed = time.monotonic() - self.started
        return finished / elapsed if finished > 0 and elapsed > 0 else None

    @property
    def goal(self) -> int | None:
        """Trainings until the end, as far as it can be said."""
        return self.total and self.total + self.confirmed * self.beyond

    @property
    def eta(self) -> float | None:
        """Seconds left, None where it cannot be said."""
        if self.rate is None or self.goal is None:
            return None
        return max(0, self.goal - self.done) / self.rate
