"""The Executor protocol, and the executor that trains in this process.

An executor is handed `evaluate(trial, beat) -> outcome` and knows nothing of models. `beat(step)`
is the child's sign of life; `evaluate` returns an outcome for all that goes wrong in a child and
raises only where the machinery itself is broken, or HostError where the machine or its data are;
`completed` raises that after all that had finished was returned.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from actsearch.results.records import Cause, Outcome, Trial

Beat = Callable[[int], None]
Seconds = Callable[[], float]  # of some clock
Evaluate = Callable[[Trial, Beat], Outcome]
Finished = tuple[Trial, Outcome]

EXECUTORS = ("ray", "inline")  # by the names that `--executor` takes

CHILDREN_A_GPU = 8  # at once where no number is asked for: docs/performance.md


@dataclass(frozen=True)
class Child:
    """One that is being trained: by whom, the last step that it told of, for how many seconds."""

    trial: Trial
    worker: str
    step: int
    seconds: float


class ExecutorError(Exception):
    """The executor cannot be had or cannot go on; the message says what to do."""


class UnfitError(ExecutorError):
    """A machine cannot take part, as where its code is another version; `node` is its id."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message, node)
        self.message = message
        self.node = node

    def __str__(self) -> str:
        return self.message


class ClusterLostError(Exception):
    """The cluster is gone; all that had finished is stored, and the same command goes on."""


class Stopped(BaseException):
    """Raised by a beat to end a child from within. No Exception, so that an evaluation which turns
    exceptions into outcomes lets it pass."""


class TimedOut(Stopped):
    """The child has been training for longer than it may."""


class LeaseLost(Stopped):
    """Somebody else has the candidate by now."""


def children_at_once(gpu: float) -> int:
    """How many children a worker trains at once that has this share of a GPU, 0 for none."""
    return max(1, int(CHILDREN_A_GPU * gpu))


def no_time() -> float:
    """The seconds that a child waits for others where it has its thread for itself."""
    return 0.0


def from_now(clock: Seconds) -> Seconds:
    begun = clock()
    return lambda: clock() - begun


class Deadline:
    """A beat that ends a child after `timeout` seconds (None: never), then passes the beat on.

    The seconds are those since it was made, without the ones that its thread has `waited` for other
    children meanwhile."""

    def __init__(
        self, timeout: float | None, beat: Beat = lambda step: None, waited: Seconds = no_time
    ) -> None:
        self.timeout = timeout
        self.beat = beat
        self.step = 0  # the last that was told
        self._wall, self._waited = from_now(time.monotonic), from_now(waited)

    @property
    def seconds(self) -> float:
        return self._wall() - self._waited()

    def __call__(self, step: int) -> None:
        if self.timeout is not None and self.seconds > self.timeout:
            raise TimedOut
        self.step = step
        self.beat(step)


def of_thread(trial: Trial, deadline: Deadline, name: str) -> Child:
    """A child of this process, by its deadline."""
    return Child(trial, name, deadline.step, deadline.seconds)


def timed_out(timeout: float, seconds: float, step: int | None = None) -> Outcome:
    """The outcome of a child that was stopped."""
    at = f" at step {step}" if step is not None else ""
    reason = f"longer than {timeout:g} s{at}"
    return Outcome("timed_out", reason, Cause.TIMED_OUT, step=step, seconds=seconds)


class Executor(Protocol):
    """What every executor does. Each submitted trial is completed once."""

    @property
    def free(self) -> int:
        """How many more trials it wants now."""
        ...

    @property
    def running(self) -> int:
        """How many trials are being trained now."""
        ...

    @property
    def children(self) -> Sequence[Child]:
        """Those trials, as far as is known; other threads may ask."""
        ...

    @property
    def description(self) -> str:
        """Who trains, such as `4 workers on 2 GPUs`."""
        ...

    @property
    def trouble(self) -> str:
        """What it waits for, and since when, where nothing can go on; else ""."""
        ...

    def submit(self, trial: Trial) -> None: ...

    def completed(self, timeout: float) -> list[Finished]:
        """What has finished since the last call; waits up to `timeout` seconds for a first one."""
        ...

    def hold(self) -> None:
        """Start no more trials; those that are being trained go on to their end."""
        ...

    def close(self) -> None:
        """Give everything back; trials not completed stay without an outcome."""
        ...


class InlineExecutor:
    """Trains one trial at a time in the calling process, inside `completed`: for debugging and
    tests."""

    trouble = ""

    def __init__(self, evaluate: Evaluate, timeout: float | None = None) -> None:
        self._evaluate = evaluate
        self._timeout = timeout
        self._waiting: deque[Trial] = deque()
        self._child: tuple[Trial, Deadline] | None = None

    @property
    def free(self) -> int:
        return 1 - len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._waiting)

    @property
    def children(self) -> Sequence[Child]:
        child = self._child
        return () if child is None else [of_thread(*child, "this process")]

    @property
    def description(self) -> str:
        return "this process"

    def submit(self, trial: Trial) -> None:
        self._waiting.append(trial)

    def completed(self, timeout: float) -> list[Finished]:
        """Trains the next trial to its end, whatever `timeout` is."""
        if not self._waiting:
            return []
        deadline = Deadline(self._timeout)
        self._child = self._waiting[0], deadline
        try:
            outcome = self._evaluate(self._waiting[0], deadline)
        except TimedOut:
            outcome = timed_out(self._timeout or 0.0, deadline.seconds)
        finally:
            self._child = None
        return [(self._waiting.popleft(), outcome)]

    def hold(self) -> None:
        self._waiting.clear()

    def close(self) -> None:
        self._waiting.clear()
