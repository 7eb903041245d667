"""Proposals: the strategy, and all that it was told, in the store. The innermost link of `Asking`.

A proposal waits until its trial has an outcome. Proposals and rewards are rows, and the strategy's
state is stored in the transactions that write them, so that a resumed strategy has seen exactly
what the store holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from actsearch.controller.several import OfSeveral
from actsearch.controller.strategy import Proposal, Reward, Strategy
from actsearch.results.aims import Aims
from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import Outcome, Trial, reward
from actsearch.results.store import Store
from actsearch.search_space.survey import Described
from actsearch.searching.asking import Asked
from actsearch.searching.identity import Candidates, Level
from actsearch.searching.progress import Tally


class Proposals:
    """Asks a strategy. `level(share)` says how a proposal for this share of the steps is trained,
    `metric` which scores are better. `screened_out` are baselines that screening rejects as
    candidates, by subject: a strategy is told that, and not what the baseline reached. With `aims`
    it is told all of their scores in the place of a reward. The strategy's state and its open
    proposals are taken from the store, if it has any."""

    def __init__(
        self,
        store: Store,
        strategy: Strategy | OfSeveral,
        name: str,
        candidates: Candidates,
        level: Callable[[float], Level],
        metric: Metric = ACCURACY,
        screened_out: Mapping[str, Outcome] = MappingProxyType({}),
        aims: Aims | None = None,
    ) -> None:
        self.store = store
        self.strategy = strategy
        self.name = name
        self.candidates = candidates
        self.level = level
        self.metric = metric
        self.screened_out = screened_out
        self.aims = aims
        self.made = store.proposals()
        self.health: Mapping[str, float] = {}
        self._trials = store.proposed_trials()
        self._settled = 0  # how many of the next proposals were foreseen
        self._open: dict[int, list[Proposal]] = {}  # what to tell when a trial has its outcome
        self._restore()

    def _restore(self) -> None:
        state = self.store.strategy(self.name)
        if state is not None:
            self.strategy.load_state_dict(state)
            self.health = self.strategy.health()
        with self.store.transaction():
            for p in self.store.open_proposals(self.name):
                self._open.setdefault(p.trial, []).append(Proposal(p.number, p.digits))
            # Another strategy may have seen to their end what this one had proposed.
            waiting = {trial.id for trial in self.store.waiting()}
            for trial in self.store.finished_among(self._open.keys() - waiting):
                outcome = self.store.outcome(trial)
                assert outcome is not None
                self.tell(trial, outcome)
            if state is not None:
                self.save()

    def foresee(self, n: int) -> list[Described]:
        if self._settled:
            return []
        coming = self.strategy.peek(n)
        self._settled = len(coming)
        return self.candidates.foresee(coming)

    def ask(self, n: int) -> Iterator[Asked]:
        proposals = self.strategy.ask(n)
        self._settled = max(0, self._settled - len(proposals))
        for proposal in proposals:
            yield self._asked(proposal)

    def _asked(self, proposal: Proposal) -> Asked:
        trial, new = self.candidates.trial(proposal.digits, self.level(proposal.share))
        self.made += 1
        self._trials += not self.store.has_proposals(trial)
        self.store.propose(self.name, proposal.number, proposal.digits, trial, proposal.share)
        self._open.setdefault(trial.id, []).append(proposal)
        return self.asked(trial, new)

    def asked(self, trial: Trial, new: Described | None) -> Asked:
        """With what a proposal of this trial is told at once, if its function is known."""
        if new:
            return Asked(trial, None, new)
        return Asked(trial, self.screened_out.get(trial.subject) or self.store.outcome(trial), None)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        value = reward(outcome, self.metric)
        for proposal in self._open.pop(trial.id, []):
            self._tell(proposal, outcome, value)
            self.store.tell(self.name, proposal.number, value)

    def _tell(self, proposal: Proposal, outcome: Outcome, value: Reward) -> None:
        if self.aims is None:
            self.strategy.tell(proposal, value)
        else:
            assert isinstance(self.strategy, OfSeveral)
            self.strategy.tell_several(proposal, self.aims.scores(outcome))

    def save(self) -> None:
        """Store the strategy's state, and its health where that has changed."""
        self.store.save_strategy(self.name, self.strategy.state_dict())
        numbers = self.strategy.health()
        if numbers != self.health:
            self.health = dict(numbers)
            repeats = self.tally.repeats / max(1, self.made)
            self.store.save_health(self.name, self.made, {**numbers, "repeats": repeats})

    @property
    def ended(self) -> str:
        return "space exhausted" if self.strategy.exhausted else ""

    @property
    def tally(self) -> Tally:
        return Tally(repeats=self.made - self._trials, made=self.made)
