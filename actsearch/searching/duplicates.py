"""Duplicates: no function is trained twice. A link of `Asking`."""

from __future__ import annotations

from collections.abc import Iterator

from actsearch.results.records import Outcome, Trial
from actsearch.search_space.analysis.survey import Function
from actsearch.searching.asking import Asked, Asking
from actsearch.searching.progress import Tally


class Duplicates:
    """Passes on a function when it is proposed first. Later proposals of it are told its outcome
    at once, or when it has one; `patience` of them in a row, and the search has ended."""

    def __init__(self, inner: Asking, patience: int) -> None:
        self.inner = inner
        self.patience = patience
        self._in_a_row = 0

    @property
    def _at_its_end(self) -> bool:
        return self._in_a_row >= self.patience

    def foresee(self, n: int) -> list[Function]:
        return [] if self._at_its_end else self.inner.foresee(n)

    def ask(self, n: int) -> Iterator[Asked]:
        if self._at_its_end:
            return
        for asked in self.inner.ask(n):
            self._in_a_row = 0 if asked.new else self._in_a_row + 1
            if asked.outcome is not None:
                self.tell(asked.trial, asked.outcome)
            elif asked.new:
                yield asked

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        self.inner.tell(trial, outcome)

    @property
    def ended(self) -> str:
        nothing_new = f"nothing new in {self.patience:,} proposals" if self._at_its_end else ""
        return self.inner.ended or nothing_new

    @property
    def tally(self) -> Tally:
        return self.inner.tally
