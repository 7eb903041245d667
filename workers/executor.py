"""The Executor protocol, and the executor that trains in this process.

An executor is handed `evaluate(trial, beat) -> outcome` and knows nothing of models. `beat(step)`
is the child's sign of life; `evaluate` returns an outcome for all that goes wrong in a child and
raises only where the machinery itself is broken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from results.records import Outcome, Trial

Beat = Callable[[int], None]
Evaluate = Callable[[Trial, Beat], Outcome]
Finished = tuple[Trial, Outcome]


class ExecutorError(Exception):
    """The executor cannot be had or cannot go on; the message says what to do."""


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
    def description(self) -> str:
        """Who trains, such as `4 workers on 2 GPUs`."""
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

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._waiting: deque[Trial] = deque()

    @property
    def free(self) -> int:
        return 1 - len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._waiting)

    @property
    def description(self) -> str:
        return "this process"

    def submit(self, trial: Trial) -> None:
        self._waiting.append(trial)

    def completed(self, timeout: float) -> list[Finished]:
        """Trains the next trial to its end, whatever `timeout` is."""
        if not self._waiting:
            return []
        outcome = self._evaluate(self._waiting[0], lambda step: None)
        return [(self._waiting.popleft(), outcome)]

    def hold(self) -> None:
        self._waiting.clear()

    def close(self) -> None:
        self._waiting.clear()
