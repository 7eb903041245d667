"""Confirming: the best functions are trained again, with other seeds. A link of `Asking`.

What is trained again, and when, is decided by all that the store holds and by nothing else, so a
search that is killed goes on as it would have (`controller/confirming.py` decides). A strategy is
told the posterior means of the best as they change. With each seed ReLU, or whichever baseline is
first, is trained too: differences to it are paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from actsearch.controller.confirming import hit_rate, to_confirm, within_reach
from actsearch.results.confirmed import Confirmed
from actsearch.results.expectation import Beliefs
from actsearch.results.records import KINDS, Outcome, Trial
from actsearch.search_space.survey import Described
from actsearch.searching.asking import Asked, Asking
from actsearch.searching.budget import Budget
from actsearch.searching.identity import Level
from actsearch.searching.progress import Tally
from actsearch.searching.proposals import Proposals

KIND = "confirm"


@dataclass(frozen=True)
class Confirm:
    """How: at which level whole trainings are, the search's seed, and the baseline's subject."""

    level: Level
    seed: int
    baseline: str | None = None


class Confirming:
    """Asks for further trainings of the best before new functions, once so few trainings are left
    that these are worth more; and for as many as are worth it where nothing new is left."""

    def __init__(self, inner: Asking, budget: Budget, proposals: Proposals, how: Confirm) -> None:
        self.inner = inner
        self.budget = budget
        self.proposals = proposals
        self.how = how
        store = proposals.store
        self._scores = Confirmed(how.seed, store.beside())
        for kind in ("search", KIND):
            for row in store.rows(kind):
                if row["status"] not in (None, "rejected"):
                    score = row["val_score"]
                    reward = None if score is None else proposals.metric.reward(score)
                    of = (row["id"], kind, row["expression"], row["seed"])
                    self._scores.add(*of, reward)
        self._waiting = {t.key: t for t in store.waiting() if KINDS[t.kind].confirms}

    def foresee(self, n: int) -> list[Described]:
        return self.inner.foresee(n)

    def ask(self, n: int) -> Iterator[Asked]:
        asked = 0
        while asked < n and (subject := self._next()) is not None:
            for trial in self._trials(subject):
                self.budget.pay()
                self._waiting[trial.key] = trial
                asked += 1
                yield Asked(trial, None, None)
        if asked == 0 or asked < n:
            yield from self.inner.ask(max(0, n - asked))

    def _next(self) -> str | None:
        """What to train again now; None where nothing is to be."""
        left, scores = self.budget.left, self._scores
        nothing_new = bool(self.inner.ended)
        if left == 0 or not (nothing_new or within_reach(left)):
            return None
        beliefs = scores.beliefs
        if beliefs is None:
            return None
        candidates = scores.candidates
        trainings = {subject: 1 + len(self._seeds(subject)) for subject in candidates}
        baseline = self._seeds(self._baseline) if self._baseline else ()
        return to_confirm(
            beliefs,
            candidates,
            trainings,
            None if nothing_new else left,
            hit_rate(scores.latest, beliefs.cut),
            len(baseline),
        )

    @property
    def _baseline(self) -> str | None:
        """None where it did not train."""
        baseline, beliefs = self.how.baseline, self._scores.beliefs
        return baseline if beliefs is not None and baseline in beliefs.subjects else None

    def _seeds(self, subject: str) -> set[int]:
        """The further seeds with which a function has trained or is on its way."""
        waiting = {t.seed - self.how.seed for t in self._waiting.values() if t.subject == subject}
        return waiting | {*self._scores.again(subject)}

    def _trials(self, subject: str) -> Iterator[Trial]:
        """The next training of a function, after that of the baseline with the same seed."""
        seed = 1 + len(self._seeds(subject))
        baseline = self._baseline
        last = self.budget.left == 1  # which the baseline does not get
        if baseline is not None and not last and seed not in self._seeds(baseline):
            yield self._trial(baseline, seed)
        yield self._trial(subject, seed)

    def _trial(self, subject: str, seed: int) -> Trial:
        store, level = self.proposals.store, self.how.level
        first = store.find(level.kind, subject, level.protocol, self.how.seed)
        assert first is not None
        names = {"formula": first.formula, "label": first.label}
        return store.submit(KIND, subject, level.protocol, self.how.seed + seed, **names)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        self.inner.tell(trial, outcome)
        kind = KINDS[trial.kind]
        if not (kind.confirms or kind.ranked) or outcome.status == "rejected":
            return
        self._waiting.pop(trial.key, None)
        score = outcome.val_score
        reward = None if score is None else self.proposals.metric.reward(score)
        self._scores.add(trial.id, trial.kind, trial.subject, trial.seed, reward)
        if kind.confirms and self._scores.beliefs is not None:
            self._revise(self._scores.beliefs)

    def _revise(self, beliefs: Beliefs) -> None:
        """Tell the strategy the posterior means of all that it has proposed of the head."""
        proposals, trials = self.proposals, self._scores.trials
        for subject in self._scores.candidates:
            if subject in beliefs.worth:
                mean, _ = beliefs.worth[subject]
                for digits in proposals.store.proposed_as(proposals.name, trials[subject]):
                    proposals.strategy.revise(digits, mean)

    @property
    def ended(self) -> str:
        return self.inner.ended

    @property
    def tally(self) -> Tally:
        return self.inner.tally
