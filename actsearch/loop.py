"""The one loop: take trials from a source, hand them to an executor, record each outcome.

An outcome and what it changes in the source are stored in one transaction, so that a run that is
killed at any moment resumes with both or neither.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from actsearch.progress import Progress
from controller.strategy import Proposal, Strategy
from results.records import Outcome, Trial, reward
from results.store import Store
from search_space.equivalence import canonical
from search_space.expression import Expr
from search_space.fingerprint import same_function
from search_space.operators import Op
from search_space.parser import parse
from search_space.space import Space
from search_space.survey import Function, describe
from workers.executor import Executor

log = logging.getLogger("actsearch")

WAIT_SECONDS = 0.5
STOPPED = "stopped"


class Source(Protocol):
    """Where trials come from and whom outcomes are told."""

    def take(self, n: int) -> list[Trial]:
        """At most `n` trials to train; each is in the store already."""
        ...

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        """Called inside the transaction that records the outcome."""
        ...

    @property
    def done(self) -> int:
        """How many of the trials that it counts are finished, earlier sessions included."""
        ...

    @property
    def repeats(self) -> int:
        """How many proposals cost nothing because their function was known."""
        ...

    @property
    def rejected(self) -> int:
        """How many functions were rejected before training."""
        ...

    @property
    def ended(self) -> str:
        """Why no more trials will come, or "" while they may."""
        ...


def run_trials(
    store: Store,
    source: Source,
    executor: Executor,
    progress: Progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Run until the source has ended and all is recorded, or until `should_stop`; returns why.

    A stop starts nothing more and waits for the children that are being trained.
    """
    in_flight = 0
    while True:
        if should_stop() and not progress.stopping:
            progress.stopping = True
            executor.hold()
        if not progress.stopping:
            while executor.free > 0 and (trials := source.take(executor.free)):
                for trial in trials:
                    executor.submit(trial)
                in_flight += len(trials)
            if in_flight == 0:
                return source.ended or "the strategy proposes nothing"
        progress.update(source.done, source.repeats, source.rejected, executor.running)
        finished = executor.completed(WAIT_SECONDS)
        in_flight -= len(finished)
        if finished:
            with store.transaction():
                for trial, outcome in finished:
                    if store.record(trial, outcome):
                        source.finished(trial, outcome)
        for trial, outcome in finished:
            log.info("%s", log_line(trial, outcome))
            progress.add(trial, outcome)
        progress.update(source.done, source.repeats, source.rejected, executor.running)
        if progress.stopping and executor.running == 0:
            return STOPPED


def log_line(trial: Trial, outcome: Outcome) -> str:
    """One line of the log."""
    result = outcome.reason or f"validation {outcome.val_accuracy:.4f}"
    head = f"trial {trial.id} {trial.formula} seed {trial.seed}"
    return f"{head}: {outcome.status}, {result}, {outcome.seconds:.1f} s"


class FixedSource:
    """A list of trials, such as a re-evaluation's."""

    repeats = 0
    rejected = 0

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._trials = deque(trials)
        self.done = 0

    def take(self, n: int) -> list[Trial]:
        return [self._trials.popleft() for _ in range(min(n, len(self._trials)))]

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        self.done += 1

    @property
    def ended(self) -> str:
        return "" if self._trials else "all trained"


def submit_function(
    store: Store, function: Function, protocol: str, seed: int, label: str = ""
) -> Trial:
    """A search trial of this function, with what is known of it before training."""
    key, names = function.fingerprint, {"formula": function.formula, "label": label}
    store.add_function(function.expression, key.key, key.symmetry, function.properties)
    return store.submit("search", function.expression, protocol, seed, **names)


class StrategySource:
    """Turns a strategy's proposals into trials, each function once.

    A proposal of a function whose outcome is known is told its reward at once and costs nothing;
    one that is being trained is told when it is done. `first` are trials to run beside the
    strategy's, such as the baselines. Open proposals and the strategy's state are taken from the
    store, if it has any.
    """

    def __init__(
        self,
        store: Store,
        space: Space,
        strategy: Strategy,
        *,
        name: str,
        protocol: str,
        seed: int,
        budget: int | None,
        patience: int,
        first: Iterable[Trial] = (),
        operators: str = "guarded",
        extra: tuple[Op, ...] = (),
        screening: bool = True,
        skip_symmetric: bool = False,
    ) -> None:
        self.store = store
        self.space = space
        self.strategy = strategy
        self.name = name
        self.protocol = protocol
        self.seed = seed
        self.budget = budget
        self.patience = patience
        self.operators = operators
        self.extra = extra
        self.screening = screening
        self.skip_symmetric = skip_symmetric
        self._described: Function | None = None
        self.repeats = store.proposals() - store.proposed_trials()
        self.rejected = store.rejected()
        self._repeats_in_a_row = 0
        self._trained = store.trained()
        self._open: dict[int, list[Proposal]] = {}  # what to tell when a trial has its outcome
        self._charged: set[int] = set()  # trials on their way that the budget pays for
        self._queue: deque[Trial] = deque()
        self._restore(first)

    def _restore(self, first: Iterable[Trial]) -> None:
        state = self.store.strategy(self.name)
        if state is not None:
            self.strategy.load_state_dict(state)
        waiting = {trial.id: trial for trial in self.store.waiting("search")}
        self._charged = {i for i, trial in waiting.items() if self.store.has_proposals(trial)}
        with self.store.transaction():
            for p in self.store.open_proposals(self.name):
                self._open.setdefault(p.trial, []).append(Proposal(p.number, p.digits))
            # Another strategy may have seen to their end what this one had proposed.
            for trial in self.store.finished_among(self._open.keys() - waiting.keys()):
                outcome = self.store.outcome(trial)
                assert outcome is not None
                self._tell_all(trial, outcome)
            if state is not None:
                self._save()
        ids = dict.fromkeys([t.id for t in first] + list(waiting))
        self._queue.extend(waiting[i] for i in ids if i in waiting)

    @property
    def done(self) -> int:
        return self._trained

    @property
    def charged(self) -> int:
        """What the budget has been spent on: functions trained, and those on their way."""
        return self._trained + len(self._charged)

    @property
    def ended(self) -> str:
        if self._queue:
            return ""
        if self.budget is not None and self.charged >= self.budget:
            return "budget spent"
        if self.strategy.exhausted:
            return "space exhausted"
        if self._repeats_in_a_row >= self.patience:
            return f"nothing new in {self.patience:,} proposals"
        return ""

    def take(self, n: int) -> list[Trial]:
        trials = [self._queue.popleft() for _ in range(min(n, len(self._queue)))]
        while len(trials) < n and not self.ended:
            wanted = n - len(trials)
            if self.budget is not None:
                wanted = min(wanted, self.budget - self.charged)
            new = self._ask(wanted)
            if new is None:
                break
            trials += new
        return trials

    def _ask(self, n: int) -> list[Trial] | None:
        """New trials from at most `n` proposals; None where the strategy waits for rewards."""
        proposals = self.strategy.ask(n)
        if not proposals:
            return None
        with self.store.transaction():
            new = [trial for p in proposals if (trial := self._propose(p)) is not None]
            self._save()
        return new

    def _propose(self, proposal: Proposal) -> Trial | None:
        expr = canonical(self.space.decode(proposal.digits), self.operators)
        known = self._known(expr)
        trial = known or self._new(expr)
        first = not self.store.has_proposals(trial)
        self.store.propose(self.name, proposal.number, proposal.digits, trial)
        outcome = self.store.outcome(trial)
        if outcome is not None:
            self._tell(proposal, outcome)
            self._trained += first and outcome.status != "rejected"  # a baseline of the space
        else:
            self._open.setdefault(trial.id, []).append(proposal)
            self._charged.add(trial.id)
        self._repeats_in_a_row = self._repeats_in_a_row + 1 if known else 0
        self.repeats += not first
        return None if known or outcome is not None else trial

    def _known(self, expr: Expr) -> Trial | None:
        """The trial of this function, found by canonical form, by fingerprint, or by symmetry."""
        expression = self.store.merged_into(str(expr))
        found = self.store.find("search", expression, self.protocol, self.seed)
        if found is not None:
            return found
        self._described = describe(expr, self.operators)
        this = ("search", self.protocol, self.seed)
        key = self._described.fingerprint
        same = [
            trial
            for trial in self.store.alike("fingerprint", key.key, this)
            if same_function(parse(trial.expression, self.extra), expr, self.operators)
        ]
        if self.skip_symmetric and not same:
            same = self.store.alike("symmetry", key.symmetry, this)
        if not same:
            return None
        self.store.merge(str(expr), same[0].expression)
        return same[0]

    def _new(self, expr: Expr) -> Trial:
        """A trial of a function that `_known` has just described; rejected here if it is."""
        function = self._described
        assert function is not None
        assert function.expr == expr
        trial = submit_function(self.store, function, self.protocol, self.seed)
        if self.screening and function.rejected:
            self.store.record(trial, Outcome("rejected", function.rejected))
            self.rejected += 1
        return trial

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        self._tell_all(trial, outcome)
        self._trained += trial.id in self._charged
        self._charged.discard(trial.id)
        self._save()

    def _tell_all(self, trial: Trial, outcome: Outcome) -> None:
        for proposal in self._open.pop(trial.id, []):
            self._tell(proposal, outcome)

    def _tell(self, proposal: Proposal, outcome: Outcome) -> None:
        value = reward(outcome)
        self.strategy.tell(proposal, value)
        self.store.tell(self.name, proposal.number, value)

    def _save(self) -> None:
        self.store.save_strategy(self.name, self.strategy.state_dict())
