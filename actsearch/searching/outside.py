"""Outside: candidates that come as formulas, from beside the strategy. A link of `Asking`.

They are taken before the strategy is asked, and may lie outside its space, of which it sees digits
alone. So it is not told of them, until it proposes one itself: that is then a function that is
known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from actsearch.results.records import Outcome, Trial
from actsearch.search_space.candidate import Candidate
from actsearch.search_space.survey import Described
from actsearch.searching.asking import Asked
from actsearch.searching.progress import Tally
from actsearch.searching.proposals import Proposals

NAME = "outside"  # in the place of a strategy's name, and the trial's id in that of a number


class Proposer(Protocol):
    """Whoever gives formulas to a search."""

    def take(self, n: int) -> Sequence[Candidate]:
        """At most `n` candidates, in the order in which they are to be trained. The caller makes
        trials of them in one transaction, and calls again when it is committed."""
        ...

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """An outcome of the search, whoever proposed its function."""
        ...


class Outside:
    """Asks `proposers` one after the other, then the strategy. Proposals are rows, so the budget
    pays for them as for the strategy's."""

    def __init__(self, inner: Proposals, proposers: Sequence[Proposer]) -> None:
        self.inner = inner
        self.proposers = proposers
        self._made = self._repeats = 0

    def foresee(self, n: int) -> list[Described]:
        return self.inner.foresee(n)

    def ask(self, n: int) -> Iterator[Asked]:
        for proposer in self.proposers:
            taken = proposer.take(n)
            n -= len(taken)
            yield from map(self._asked, taken)
        yield from self.inner.ask(n)

    def _asked(self, candidate: Candidate) -> Asked:
        candidates, store = self.inner.candidates, self.inner.store
        form = candidate.canonical(candidates.operators)
        trial, new = candidates.trial_of(form, self.inner.level(1.0))
        self._made += 1
        if store.has_proposals(trial):
            self._repeats += 1
        else:
            store.propose(NAME, trial.id, (), trial)
        return self.inner.asked(trial, new)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        for proposer in self.proposers:
            proposer.tell(trial, outcome)
        self.inner.tell(trial, outcome)

    @property
    def ended(self) -> str:
        return self.inner.ended

    @property
    def tally(self) -> Tally:
        inner = self.inner.tally
        repeats = inner.repeats + self._repeats
        return replace(inner, made=inner.made + self._made, repeats=repeats)
