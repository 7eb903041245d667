"""The one loop: take trials from a source, hand them to an executor, record each outcome.

An outcome and what it changes in the source are stored in one transaction, so that a run that is
killed at any moment resumes with both or neither.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actsearch.controller.racing import Race
from actsearch.controller.strategy import Digits, Proposal, Strategy
from actsearch.results.records import KINDS, Outcome, Trial, reward
from actsearch.results.store import Store
from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.names import name_of
from actsearch.search_space.analysis.survey import (
    NOT_DIFFERENTIABLE,
    Function,
    describe,
    describe_all,
)
from actsearch.search_space.expression import Expr
from actsearch.search_space.operators import Op
from actsearch.search_space.parser import parse
from actsearch.search_space.space import Space
from actsearch.searching.callbacks import Callback, Callbacks
from actsearch.searching.progress import Progress
from actsearch.workers.executor import Executor

log = logging.getLogger("actsearch")

WAIT_SECONDS = 0.5
STOPPED = "stopped"
FORESEEN = 32  # candidates that are looked at together


class Source(Protocol):
    """Where trials come from and whom outcomes are told."""

    def take(self, n: int, should_stop: Callable[[], bool]) -> list[Trial]:
        """At most `n` trials to train; each is in the store already. Fewer after a stop."""
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
    def health(self) -> Mapping[str, float]:
        """Numbers that show how what makes the trials is doing; {} where there are none."""
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
    callbacks: Iterable[Callback] = (),
) -> str:
    """Run until the source has ended and all is recorded, or until `should_stop`; returns why.

    A stop starts nothing more and waits for the children that are being trained.
    """
    in_flight = 0
    told = Callbacks(callbacks)
    while True:
        if should_stop() and not progress.stopping:
            progress.stopping = True
            executor.hold()
        if not progress.stopping:
            while executor.free > 0 and (trials := source.take(executor.free, should_stop)):
                for trial in trials:
                    executor.submit(trial)
                in_flight += len(trials)
            if in_flight == 0 and not should_stop():
                return source.ended or "the strategy proposes nothing"
        progress.update(source.done, source.repeats, source.rejected, executor.running)
        finished = executor.completed(WAIT_SECONDS)
        progress.trouble = executor.trouble
        in_flight -= len(finished)
        if finished:
            with store.transaction():
                for trial, outcome in finished:
                    if store.record(trial, outcome):
                        source.finished(trial, outcome)
        for trial, outcome in finished:
            log.info("%s", log_line(trial, outcome))
            progress.add(trial, outcome)
        progress.watch(source.health)
        progress.update(source.done, source.repeats, source.rejected, executor.running)
        for trial, outcome in finished:
            told(trial, outcome, progress)
        if progress.stopping and executor.running == 0:
            return STOPPED


def log_line(trial: Trial, outcome: Outcome) -> str:
    """One line of the log."""
    result = outcome.reason or f"validation {outcome.val_score:.4f}"
    head = f"trial {trial.id} {trial.formula} seed {trial.seed}"
    return f"{head}: {outcome.status}, {result}, {outcome.seconds:.1f} s"


class FixedSource:
    """A list of trials, such as a re-evaluation's."""

    repeats = 0
    rejected = 0
    health: Mapping[str, float] = {}

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._trials = deque(trials)
        self.done = 0

    def take(self, n: int, should_stop: Callable[[], bool] = lambda: False) -> list[Trial]:
        return [self._trials.popleft() for _ in range(min(n, len(self._trials)))]

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        self.done += 1

    @property
    def ended(self) -> str:
        return "" if self._trials else "all trained"


@dataclass(frozen=True)
class Level:
    """How a search trial is trained: its kind, and the protocol's hash."""

    kind: str
    protocol: str


def submit_function(
    store: Store, function: Function, level: Level, seed: int, label: str = ""
) -> Trial:
    """A search trial of this function, with what is known of it before training."""
    key = function.fingerprint
    store.add_function(function.expression, key.key, key.symmetry, function.properties)
    names = {"formula": function.formula, "label": label}
    return store.submit(level.kind, function.expression, level.protocol, seed, **names)


class StrategySource:
    """Turns a strategy's proposals into trials, each function once a level.

    A proposal of a function whose outcome is known is told its reward at once and costs nothing;
    one that is being trained is told when it is done. `level(share)` says how a proposal for this
    share of the steps is trained. `first` are trials to run beside the strategy's, such as the
    baselines; they do not `race`. `prepare` is told functions that are about to be trained. Open
    proposals and the strategy's state are taken from the store, if it has any.
    """

    def __init__(
        self,
        store: Store,
        space: Space,
        strategy: Strategy,
        *,
        name: str,
        level: Callable[[float], Level],
        seed: int,
        budget: int | None,
        patience: int,
        first: Iterable[Trial] = (),
        operators: str = "guarded",
        extra: tuple[Op, ...] = (),
        screening: bool = True,
        race: Race | None = None,
        prepare: Callable[[Sequence[Expr]], None] = lambda exprs: None,
    ) -> None:
        self.store = store
        self.space = space
        self.strategy = strategy
        self.name = name
        self.level = level
        self.seed = seed
        self.budget = budget
        self.patience = patience
        self.operators = operators
        self.extra = extra
        self.screening = screening
        self.race = race
        self.prepare = prepare
        self._foreseen: dict[str, Function] = {}
        self._settled = 0  # how many of the next proposals were foreseen
        self._described: Function | None = None
        self.proposals = store.proposals()
        self.repeats = self.proposals - store.proposed_trials()
        self.rejected = store.rejected()
        self._repeats_in_a_row = 0
        self._trained = store.trained()  # expressions that the budget has paid for
        self._paid: set[str] = set()  # those on their way that it pays for
        self._open: dict[int, list[Proposal]] = {}  # what to tell when a trial has its outcome
        self._queue: deque[Trial] = deque()
        self.health: Mapping[str, float] = {}
        self._restore(first)

    def _restore(self, first: Iterable[Trial]) -> None:
        first = list(first)
        self._whole = {t.id for t in first}
        if self.race is not None:
            for trial, outcome in self.store.outcomes("search"):
                if trial not in self._whole:
                    self.race.tell(outcome)
        state = self.store.strategy(self.name)
        if state is not None:
            self.strategy.load_state_dict(state)
            self.health = self.strategy.health()
        waiting = {trial.id: trial for trial in self.store.waiting()}
        self._paid = {t.subject for t in waiting.values() if self.store.has_proposals(t)}
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
        return len(self._trained)

    @property
    def charged(self) -> int:
        """What the budget has been spent on: functions trained, and those on their way."""
        return len(self._trained) + len(self._paid - self._trained)

    @property
    def left(self) -> int | None:
        """How many more functions the budget pays for; None without a budget."""
        return None if self.budget is None else max(0, self.budget - self.charged)

    @property
    def ended(self) -> str:
        if self._queue:
            return ""
        if self.left == 0:
            return "budget spent"
        if self.strategy.exhausted:
            return "space exhausted"
        if self._repeats_in_a_row >= self.patience:
            return f"nothing new in {self.patience:,} proposals"
        return ""

    def take(self, n: int, should_stop: Callable[[], bool] = lambda: False) -> list[Trial]:
        while len(self._queue) < n and self._repeats_in_a_row < self.patience:
            if should_stop() or not self._ask(n - len(self._queue)):
                break
        trials = [self._queue.popleft() for _ in range(min(n, len(self._queue)))]
        return [self._raced(trial) for trial in trials]

    def _raced(self, trial: Trial) -> Trial:
        if self.race is None or not KINDS[trial.kind].ranked or trial.id in self._whole:
            return trial
        return replace(trial, race=self.race.rungs())

    def anything_left(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Whether there is anything to train; asks the strategy if need be, until a stop."""
        self._queue.extendleft(reversed(self.take(1, should_stop)))
        return bool(self._queue)

    def _ask(self, n: int) -> bool:
        """Ask for `n` candidates, fewer if the budget is low: new trials go into the queue. False
        where the strategy has no proposal."""
        if self._settled == 0:
            self._foresee()
        proposals = self.strategy.ask(n if self.left is None else min(n, self.left))
        self._settled = max(0, self._settled - len(proposals))
        if not proposals:
            return False
        with self.store.transaction():
            self._queue.extend(t for p in proposals if (t := self._propose(p)) is not None)
            self._save()
        return True

    def _foresee(self) -> None:
        """Look at the functions that are coming, as far as they are settled: together they take
        half the time."""
        coming = self.strategy.peek(FORESEEN if self.left is None else min(FORESEEN, self.left))
        self._settled = len(coming)
        forms = dict.fromkeys(map(self._canonical, coming))
        new = [expr for expr in forms if not self.store.has_function(str(expr))]
        try:
            found = describe_all(new, self.operators) if new else []
        except NOT_DIFFERENTIABLE:
            found = []  # each is looked at alone, when its turn comes
        self._foreseen = {function.expression: function for function in found}
        self.prepare([f.expr for f in found if not (self.screening and f.rejected)])

    def _canonical(self, digits: Digits) -> Expr:
        return canonical(self.space.decode(digits), self.operators)

    def _propose(self, proposal: Proposal) -> Trial | None:
        level = self.level(proposal.share)
        expr = self._canonical(proposal.digits)
        known = self._known(expr, level)
        trial = known or self._new(level)
        first = not self.store.has_proposals(trial)
        self.store.propose(self.name, proposal.number, proposal.digits, trial, proposal.share)
        self.proposals += 1
        waits = self._waits_for(proposal, trial)
        self._repeats_in_a_row = self._repeats_in_a_row + 1 if known else 0
        self.repeats += not first
        return trial if waits and not known else None

    def _waits_for(self, proposal: Proposal, trial: Trial) -> bool:
        """Whether the trial has no outcome yet; the proposal is told one that it has."""
        outcome = self.store.outcome(trial)
        if outcome is None:
            self._open.setdefault(trial.id, []).append(proposal)
            self._paid.add(trial.subject)
            return True
        self._tell(proposal, outcome)
        if outcome.status != "rejected":
            self._trained.add(trial.subject)
        return False

    def _known(self, expr: Expr, level: Level) -> Trial | None:
        """The trial of this function, found by canonical form or by fingerprint."""
        expression = self.store.merged_into(str(expr))
        found = self.store.find(level.kind, expression, level.protocol, self.seed)
        if found is not None:
            return found
        if expression != str(expr):
            expr = parse(expression, self.extra)
        foreseen = self._foreseen.get(str(expr))
        self._described = foreseen or describe(expr, self.operators)
        this = (level.kind, level.protocol, self.seed)
        for trial in self.store.alike(self._described.fingerprint.key, this):
            if same_function(parse(trial.subject, self.extra), expr, self.operators):
                self.store.merge(str(expr), trial.subject)
                return trial
        return None

    def _new(self, level: Level) -> Trial:
        """A trial of the function that `_known` has just described; rejected here if it is."""
        function = self._described
        assert function is not None
        name = name_of(function, self.operators)
        trial = submit_function(self.store, function, level, self.seed, name)
        if self.screening and function.rejected:
            self.store.record(trial, Outcome("rejected", function.rejected))
            self.rejected += 1
        return trial

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        if self.race is not None and trial.race:
            self.race.tell(outcome)
        self._tell_all(trial, outcome)
        if trial.subject in self._paid:
            self._paid.discard(trial.subject)
            if self.store.has_proposals(trial):
                self._trained.add(trial.subject)
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
        numbers = self.strategy.health()
        if numbers != self.health:
            self.health = dict(numbers)
            repeats = self.repeats / max(1, self.proposals)
            self.store.save_health(self.name, self.proposals, {**numbers, "repeats": repeats})
