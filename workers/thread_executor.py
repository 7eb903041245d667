"""ThreadExecutor: several trials at once in this process, each in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from actsearch.results.records import Cause, Outcome, Trial
from actsearch.workers.executor import (
    Child,
    Deadline,
    Evaluate,
    Finished,
    Seconds,
    Stopped,
    TimedOut,
    no_time,
    of_thread,
    timed_out,
)


class _Closed(Stopped):
    """Nobody wants the outcome any more."""


class ThreadExecutor:
    """Trains up to `threads` trials at a time; `evaluate` must be one that threads can share. What
    runs out of memory is tried once more when no other is being trained. Seconds that a thread has
    `waited` for others, as `waited()` says there, do not count for the `timeout`."""

    trouble = ""

    def __init__(
        self,
        evaluate: Evaluate,
        threads: int,
        timeout: float | None = None,
        waited: Seconds = no_time,
    ) -> None:
        self._evaluate = evaluate
        self._threads = threads
        self._timeout = timeout
        self._waited = waited
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, "child")
        self._running: dict[Future[Outcome], Trial] = {}
        self._suspects: deque[Trial] = deque()
        self._alone: Trial | None = None
        self._children: dict[int, tuple[Trial, Deadline]] = {}  # by trial

    @property
    def free(self) -> int:
        busy = self._suspects or self._alone
        return 0 if busy else self._threads - len(self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def children(self) -> Sequence[Child]:
        return [of_thread(*child, "this process") for child in [*self._children.values()]]

    @property
    def description(self) -> str:
        return f"this process, {self._threads} children at once"

    def submit(self, trial: Trial) -> None:
        self._running[self._pool.submit(self._outcome, trial)] = trial

    def _outcome(self, trial: Trial) -> Outcome:
        def beat(step: int) -> None:
            if self._closed:
                raise _Closed
            deadline(step)

        deadline = Deadline(self._timeout, waited=self._waited)
        self._children[trial.id] = trial, deadline
        try:
            return self._evaluate(trial, beat)
        except TimedOut:
            return timed_out(self._timeout or 0.0, deadline.seconds)
        finally:
            del self._children[trial.id]

    def completed(self, timeout: float) -> list[Finished]:
        """Raises what an evaluation raised, after all else that had finished was returned."""
        if not self._running and self._suspects:
            self._alone = self._suspects.popleft()
            self.submit(self._alone)
        ended, _ = wait(self._running, timeout, return_when=FIRST_COMPLETED)
        well = [future for future in ended if future.exception() is None]
        finished: list[Finished] = []
        for future in well or ended:
            trial, outcome = self._running.pop(future), future.result()
            if outcome.cause is Cause.OUT_OF_MEMORY and trial is not self._alone:
                self._suspects.append(trial)
                continue
            if trial is self._alone:
                self._alone = None
            finished.append((trial, outcome))
        return finished

    def hold(self) -> None:
        self._suspects.clear()
        for future in [f for f in self._running if f.cancel()]:
            del self._running[future]

    def close(self) -> None:
        """Children end at their next beat."""
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        self._running.clear()
