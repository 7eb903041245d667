"""Budget: how many functions a search may train, and how often again. A link of `Asking`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from actsearch.results.records import KINDS, Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.survey import Described
from actsearch.searching.asking import Asked, Asking
from actsearch.searching.progress import Tally


def on_their_way(store: Store) -> set[str]:
    """The expressions that are paid for and have no outcome yet."""
    paid = {t.subject for t in store.waiting() if store.has_proposals(t)}
    return paid - store.unscreened()


class Budget:
    """Asks for no more than the budget pays for (None: as many as wanted). It pays for a function
    once, when it is proposed and whatever its level: rejected ones cost nothing. It pays too for
    each training that confirms one."""

    def __init__(self, inner: Asking, store: Store, budget: int | None) -> None:
        self.inner = inner
        self.store = store
        self.budget = budget
        self._trained = store.trained()  # expressions, as are those on their way
        self._paid = on_their_way(store)
        self._confirming, self._confirmed = store.confirming()

    @property
    def charged(self) -> int:
        """What the budget has been spent on: functions trained and those on their way, trainings
        that confirm likewise."""
        return len(self._trained) + len(self._paid - self._trained) + self._confirming

    @property
    def left(self) -> int | None:
        """How many trainings the budget still pays for; None where it has no end."""
        return None if self.budget is None else max(0, self.budget - self.charged)

    def pay(self) -> None:
        """For a training that confirms."""
        self._confirming += 1

    def _most(self, n: int) -> int:
        return n if self.left is None else min(n, self.left)

    def foresee(self, n: int) -> list[Described]:
        return self.inner.foresee(self._most(n))

    def ask(self, n: int) -> Iterator[Asked]:
        """Also where nothing is left: a strategy that trains in rungs ends its cohort then."""
        for asked in self.inner.ask(self._most(n)):
            if asked.outcome is None:
                self._paid.add(asked.trial.subject)
            elif asked.outcome.status != "rejected":
                self._trained.add(asked.trial.subject)
            yield asked

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        if KINDS[trial.kind].confirms:
            self._confirmed += 1
        elif trial.subject in self._paid:
            self._paid.discard(trial.subject)
            # A baseline that nobody proposed is not paid for.
            if outcome.status != "rejected" and self.store.has_proposals(trial):
                self._trained.add(trial.subject)
        self.inner.tell(trial, outcome)

    @property
    def ended(self) -> str:
        return "budget spent" if self._most(1) == 0 else self.inner.ended

    @property
    def tally(self) -> Tally:
        done = len(self._trained) + self._confirmed
        return replace(self.inner.tally, done=done, confirmed=self._confirmed)
