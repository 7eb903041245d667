"""Sources of trials: a list, a strategy, and a race around either."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from actsearch.controller.racing import Race
from actsearch.results.records import KINDS, Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.expression import Expr
from actsearch.search_space.survey import functions_of
from actsearch.searching.asking import Asking
from actsearch.searching.budget import Budget
from actsearch.searching.confirming import Confirm, Confirming
from actsearch.searching.duplicates import Duplicates
from actsearch.searching.loop import TrialSource
from actsearch.searching.outside import Outside, Proposer
from actsearch.searching.progress import Tally
from actsearch.searching.proposals import Proposals
from actsearch.searching.rejections import Rejections

FORESEEN = 32  # candidates that are looked at together


class FixedSource:
    """A list of trials, such as a re-evaluation's."""

    health: Mapping[str, float] = {}

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._trials = deque(trials)
        self._done = 0

    def take(self, n: int, should_stop: Callable[[], bool] = lambda: False) -> list[Trial]:
        return [self._trials.popleft() for _ in range(min(n, len(self._trials)))]

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        self._done += 1

    @property
    def tally(self) -> Tally:
        return Tally(done=self._done)

    @property
    def ended(self) -> str:
        return "" if self._trials else "all trained"


def asking(
    proposals: Proposals,
    *,
    budget: int | None,
    patience: int,
    screening: bool = True,
    proposers: Sequence[Proposer] = (),
    confirm: Confirm | None = None,
) -> Asking:
    """The chain in its order: the budget sees duplicates, and what is rejected is none. Proposers
    are asked before the strategy, and the best are trained again before either, where they are
    to be confirmed at all."""
    innermost = Outside(proposals, proposers) if proposers else proposals
    paying = Budget(innermost, proposals.store, budget)
    chain: Asking = Duplicates(paying, patience)
    if screening:
        chain = Rejections(chain, proposals.store)
    return chain if confirm is None else Confirming(chain, paying, proposals, confirm)


class StrategySource:
    """What a strategy proposes, as `chain` passes it on. `first` are trials to run beside it, such
    as the baselines; those that have no outcome yet come before all others, and after them what an
    earlier session left. `prepare` is told functions that are about to be trained."""

    def __init__(
        self,
        proposals: Proposals,
        chain: Asking,
        first: Iterable[Trial] = (),
        prepare: Callable[[Sequence[Expr]], None] = lambda exprs: None,
    ) -> None:
        self.store = proposals.store
        self.proposals = proposals
        self.chain = chain
        self.prepare = prepare
        waiting = {trial.id: trial for trial in self.store.waiting()}
        ids = dict.fromkeys([*(trial.id for trial in first), *waiting])
        self._queue = deque(waiting[i] for i in ids if i in waiting)

    def take(self, n: int, should_stop: Callable[[], bool] = lambda: False) -> list[Trial]:
        while len(self._queue) < n:
            if should_stop() or not self._ask(n - len(self._queue)):
                break
        return [self._queue.popleft() for _ in range(min(n, len(self._queue)))]

    def anything_left(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Whether there is anything to train; asks the strategy if need be, until a stop."""
        self._queue.extendleft(reversed(self.take(1, should_stop)))
        return bool(self._queue)

    def _ask(self, n: int) -> bool:
        """Ask for `n` candidates: new trials go into the queue. False where there was nothing."""
        self.prepare(functions_of(found.candidate for found in self.chain.foresee(FORESEEN)))
        before = self.tally.made
        with self.store.transaction():
            new = [asked.trial for asked in self.chain.ask(n)]
            self._queue.extend(new)
            if self.tally.made > before:
                self.proposals.save()
        return self.tally.made > before or bool(new)

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        self.chain.tell(trial, outcome)
        self.proposals.save()

    @property
    def tally(self) -> Tally:
        return self.chain.tally

    @property
    def health(self) -> Mapping[str, float]:
        return self.proposals.health

    @property
    def ended(self) -> str:
        return "" if self._queue else self.chain.ended


class Raced:
    """A source whose search trials race, all but the `first`, which are trained to their end. A
    trial gets the limits of the moment in which it leaves."""

    def __init__(
        self, inner: TrialSource, race: Race, store: Store, first: Iterable[Trial]
    ) -> None:
        self.inner = inner
        self.race = race
        self._whole = {trial.id for trial in first}
        for trial, outcome in store.outcomes("search"):
            if trial not in self._whole:
                race.tell(outcome)

    def take(self, n: int, should_stop: Callable[[], bool]) -> list[Trial]:
        return [self._raced(trial) for trial in self.inner.take(n, should_stop)]

    def _raced(self, trial: Trial) -> Trial:
        if not KINDS[trial.kind].ranked or trial.id in self._whole:
            return trial
        return replace(trial, race=self.race.milestones())

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        if trial.race:
            self.race.tell(outcome)
        self.inner.finished(trial, outcome)

    @property
    def tally(self) -> Tally:
        return self.inner.tally

    @property
    def health(self) -> Mapping[str, float]:
        return self.inner.health

    @property
    def ended(self) -> str:
        return self.inner.ended
