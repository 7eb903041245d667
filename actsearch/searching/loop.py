"""The one loop: take trials from a source, hand them to an executor, record each outcome.

An outcome and what it changes in the source are stored in one transaction, so that a run that is
killed at any moment resumes with both or neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.searching.callbacks import Callback, Callbacks
from actsearch.searching.progress import Progress, Tally
from actsearch.workers.executor import Executor

log = logging.getLogger("actsearch")

WAIT_SECONDS = 0.5
STOPPED = "stopped"


def unless_stopped(reason: str, run: object) -> None:
    """For callers in Python, whose next line is not to take a part for the whole: raises
    KeyboardInterrupt where `run` ended because it was asked to."""
    if reason == STOPPED:
        raise KeyboardInterrupt(f"{run} was asked to stop; nothing is lost, the same call goes on")


class TrialSource(Protocol):
    """Where trials come from and whom outcomes are told."""

    def take(self, n: int, should_stop: Callable[[], bool]) -> list[Trial]:
        """At most `n` trials to train; each is in the store already. Fewer after a stop."""
        ...

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        """Called inside the transaction that records the outcome."""
        ...

    @property
    def tally(self) -> Tally:
        """How far it is."""
        ...

    @property
    def health(self) -> Mapping[str, float]:
        """Numbers that show how what makes the trials is doing; {} where there are none."""
        ...

    @property
    def ended(self) -> str:
        """Why no more trials will come, or "" while they may."""
        ...


def run_trials(
    store: Store,
    source: TrialSource,
    executor: Executor,
    progress: Progress,
    should_stop: Callable[[], bool] = lambda: False,
    callbacks: Iterable[Callback] = (),
) -> str:
    """Run until the source has ended and all is recorded, or until `should_stop`; returns why.

    A stop starts nothing more and waits for the children that are being trained.
    """
    in_flight = 0
    told = Callbacks(callbacks)
    progress.children = lambda: executor.children
    while True:
        if should_stop() and not progress.stopping:
            progress.stopping = True
            executor.hold()
        if not progress.stopping:
            in_flight += _submit(source, executor, should_stop)
            if in_flight == 0 and not should_stop():
                return source.ended or "the strategy proposes nothing"
        progress.update(source.tally, executor.running)
        finished = executor.completed(WAIT_SECONDS)
        progress.trouble = executor.trouble
        in_flight -= len(finished)
        _record(store, source, finished)
        for trial, outcome in finished:
            log.info("%s", log_line(trial, outcome))
            progress.add(trial, outcome)
        progress.watch(source.health)
        progress.update(source.tally, executor.running)
        for trial, outcome in finished:
            told(trial, outcome, progress)
        if progress.stopping and executor.running == 0:
            return STOPPED


def _submit(source: TrialSource, executor: Executor, should_stop: Callable[[], bool]) -> int:
    """Give the executor what it has room for; returns how many trials that were."""
    submitted = 0
    while executor.free > 0 and (trials := source.take(executor.free, should_stop)):
        for trial in trials:
            executor.submit(trial)
        submitted += len(trials)
    return submitted


def _record(store: Store, source: TrialSource, finished: Sequence[tuple[Trial, Outcome]]) -> None:
    """Store the outcomes with what they change in the source: both or neither."""
    if not finished:
        return
    with store.transaction():
        for trial, outcome in finished:
            if store.record(trial, outcome):
                source.finished(trial, outcome)


def log_line(trial: Trial, outcome: Outcome) -> str:
    """One line of the log."""
    result = outcome.reason or f"validation {outcome.val_score:.4f}"
    head = f"trial {trial.id} {trial.formula} seed {trial.seed}"
    return f"{head}: {outcome.status}, {result}, {outcome.seconds:.1f} s"
