"""What turns a strategy's proposals into trials is a chain, and `Asking` is one link of it.

    Rejections(Duplicates(Budget(Proposals(strategy))))

`ask` goes inwards to the strategy, and what it asks for comes back outwards, one by one: each link
passes on what is still to be trained. `tell` takes an outcome inwards to the strategy, from where
it became known: a training's from outside, a duplicate's from the link that found it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from actsearch.results.records import Outcome, Trial
from actsearch.search_space.analysis.survey import Function
from actsearch.searching.progress import Tally


@dataclass(frozen=True)
class Asked:
    """What one proposal asks for: a trial, and its outcome where it has one. `new` is what was
    found of the function where the trial was made for this proposal, else None."""

    trial: Trial
    outcome: Outcome | None
    new: Function | None


class Asking(Protocol):
    """A link of the chain."""

    def foresee(self, n: int) -> list[Function]:
        """New functions among the next `n` candidates, if those are settled and were not looked at
        before. They serve to prepare many at once."""
        ...

    def ask(self, n: int) -> Iterator[Asked]:
        """What at most `n` new proposals ask for. Each is dealt with before the next is looked at;
        the caller holds a transaction and takes all."""
        ...

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Called inside the transaction that records the outcome."""
        ...

    @property
    def ended(self) -> str:
        """Why nothing more will be asked for, or "" while it may."""
        ...

    @property
    def tally(self) -> Tally:
        """How far the search is, as far as this link and those inside it know."""
        ...
