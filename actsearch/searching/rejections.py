"""Rejections: what screening finds useless is not trained. A link of `Asking`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from actsearch.results.records import Cause, Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.analysis.screening import Rejection
from actsearch.search_space.survey import Described
from actsearch.searching.asking import Asked, Asking
from actsearch.searching.progress import Tally


def rejection(why: Rejection) -> Outcome:
    return Outcome("rejected", why.reason, Cause(why.flaw), why.variant)


class Rejections:
    """Records a new function that screening rejects with its reason, in the place of training."""

    def __init__(self, inner: Asking, store: Store) -> None:
        self.inner = inner
        self.store = store
        self._rejected = store.rejected()

    def foresee(self, n: int) -> list[Described]:
        return [found for found in self.inner.foresee(n) if not found.rejected]

    def ask(self, n: int) -> Iterator[Asked]:
        for asked in self.inner.ask(n):
            if asked.new is None or asked.new.rejected is None:
                yield asked
                continue
            outcome = rejection(asked.new.rejected)
            self.store.record(asked.trial, outcome)
            self._rejected += 1
            self.tell(asked.trial, outcome)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        self.inner.tell(trial, outcome)

    @property
    def ended(self) -> str:
        return self.inner.ended

    @property
    def tally(self) -> Tally:
        return replace(self.inner.tally, rejected=self._rejected)
