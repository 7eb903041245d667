"""Callbacks: functions of users that are told of each finished training, after it was stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from actsearch.results.records import Outcome, Trial
from actsearch.searching.progress import Progress

log = logging.getLogger("actsearch")

# Of a trial, what came of it, and the counts of the search with it. Called in the driver alone.
Callback = Callable[[Trial, Outcome, Progress], None]


class Callbacks:
    """Several as one. One that raises is logged, and left out from then on: it costs the search
    nothing."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)

    def __call__(self, trial: Trial, outcome: Outcome, progress: Progress) -> None:
        for callback in [*self._callbacks]:
            try:
                callback(trial, outcome, progress)
            except Exception:
                log.exception("the callback %r failed and is left out from now on", callback)
                self._callbacks.remove(callback)
