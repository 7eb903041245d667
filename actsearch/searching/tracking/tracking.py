"""What trackers are told of a search, and how.

The search's own store is the truth, and a tracker shows what stands there: a row for each whole
training, in the order in which they finished, and a row for each time that the strategy had
something to say of itself. A tracker says when it opens what it already has; it is told the rest.
So a driver may be killed at any moment, and the next one neither repeats a step nor leaves one out.

Each tracker has a thread of its own, since it may wait for a network. A tracker that fails says so
once and is left out; the search never waits for one but for some seconds at its end.
"""

from __future__ import annotations

import logging
import queue
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from actsearch.results.metrics import Metric
from actsearch.results.records import KINDS, Outcome, Trial
from actsearch.results.store import Store
from actsearch.results.tables import Row as TableRow
from actsearch.search_space.text import load
from actsearch.searching.progress import Progress
from actsearch.searching.tracking.trackers import TRACKERS

log = logging.getLogger("actsearch")

TRAINED, PROPOSALS = "trained", "proposals"  # what a step counts
TRIAL = "search/trial"  # which trial of the run a step is: by this a tracker's rows are recognised
END_SECONDS = 30.0  # that a tracker has at the end for what it has not passed on yet

Known = Mapping[tuple[str, int], float]  # by name and step


@dataclass(frozen=True)
class Tracked:
    """A search, as a tracker needs to know it when it opens."""

    run: Path
    identifier: str  # of the run: the same for all its sessions, wherever its folder lies
    settings: Mapping[str, Any]
    metric: Metric

    @property
    def said(self) -> dict[str, Any]:
        """The settings that say something."""
        return {name: value for name, value in self.settings.items() if value not in (None, "")}

    @property
    def score(self) -> str:
        """Under which validation scores stand, such as `search/val_accuracy`."""
        return f"search/{named(self.metric.column('val'))}"


@dataclass(frozen=True)
class Row:
    """Numbers at one step of an axis, TRAINED or PROPOSALS; `at` is time.time()."""

    axis: str
    step: int
    at: float
    numbers: Mapping[str, float]
    texts: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """One place where a search is shown. It is made, called and ended in one thread. Any exception
    of it costs the search this tracker alone."""

    @property
    def place(self) -> str:
        """Where to look: an address or a command."""
        ...

    def known(self) -> Known:
        """What it has of this search from earlier sessions."""
        ...

    def write(self, row: Row) -> None: ...

    def flush(self) -> None:
        """Called where nothing more is to be written for now."""
        ...

    def end(self, table: Sequence[TableRow], *, whole: bool) -> None:
        """The last call: with the ranked table, and whether the search came to its end."""
        ...


def named(text: str) -> str:
    """As a part of a name that all trackers take: formulas have characters that some refuse."""
    return re.sub(r"[^-.\w]", "_", text)


def identifier_of(run: Path) -> str:
    """That of the run, made where it has none. It is a file of the folder: a moved run keeps it,
    while an archive of the run, or a run merged from it, is another."""
    file = run / "tracking.id"
    if not file.is_file():
        part = file.with_suffix(".part")
        part.write_text(f"{secrets.token_hex(8)}\n")
        part.replace(file)
    return file.read_text().strip()


# -- from the store to rows


@dataclass(frozen=True)
class Training:
    """A whole training that has ended; `beside` is a baseline's."""

    trial: int
    formula: str
    label: str
    beside: bool
    status: str
    val_score: float | None
    seconds: float
    finished: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.formula)


class Rows:
    """Trainings and what strategies say as rows of one tracker. Steps of trainings go on behind
    those that the tracker knows."""

    def __init__(self, search: Tracked, known: Known) -> None:
        self._score, self._reward = search.score, search.metric.reward
        self._known = known
        self._steps = {int(value): step for (tag, step), value in known.items() if tag == TRIAL}
        self._last = max(self._steps.values(), default=0)
        self._statuses: Counter[str] = Counter()
        self._best: float | None = None

    def in_order(self, trainings: Iterable[Training]) -> list[Training]:
        """First those that the tracker knows, as it has them, then the others as they finished."""
        new = self._last + 1
        return sorted(trainings, key=lambda t: (self._steps.get(t.trial, new), t.finished))

    def of_training(self, training: Training) -> Row:
        """Baselines have scores of their own, and are not the best found."""
        if training.trial not in self._steps:
            self._last += 1
            self._steps[training.trial] = self._last
        self._statuses[training.status] += 1
        numbers = {TRIAL: float(training.trial), "search/seconds": training.seconds}
        if (score := training.val_score) is not None:
            name = f"baselines/{named(training.label)}" if training.beside else self._score
            numbers[name] = score
            if not training.beside:
                known = (score,) if self._best is None else (self._best, score)
                self._best = max(known, key=self._reward)
                numbers["search/best"] = self._best
        if training.status != "ok":
            numbers[f"failures/{training.status}"] = self._statuses[training.status]
        texts = {"formula": training.formula, "status": training.status}
        step = self._steps[training.trial]
        return self._new(Row(TRAINED, step, training.finished, numbers, texts))

    def of_strategy(self, numbers: Mapping[str, float]) -> Row:
        said = {f"strategy/{named(k)}": v for k, v in numbers.items() if k != PROPOSALS}
        return self._new(Row(PROPOSALS, int(numbers[PROPOSALS]), time.time(), said))

    def _new(self, row: Row) -> Row:
        """Without what the tracker has."""
        lacking = {k: v for k, v in row.numbers.items() if (k, row.step) not in self._known}
        return Row(row.axis, row.step, row.at, lacking, row.texts)


# -- a thread for each tracker


@dataclass(frozen=True)
class _End:
    table: Sequence[TableRow]
    whole: bool


class _Teller:
    """Tells one tracker what it is handed, in a thread. `trouble` is why it was left out."""

    def __init__(
        self,
        title: str,
        make: Callable[[], Tracker],
        search: Tracked,
        trainings: Sequence[Training],
        say: Callable[[str], None],
    ) -> None:
        self.trouble = ""
        self._title, self._make, self._search = title, make, search
        self._trainings, self._say = trainings, say
        self._queue: queue.SimpleQueue[Training | Mapping[str, float] | _End] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"track {title}", daemon=True)
        self._thread.start()

    def tell(self, item: Training | Mapping[str, float] | _End) -> None:
        if not self.trouble:
            self._queue.put(item)

    def end(self, seconds: float) -> None:
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive() and not self.trouble:
            self._fail("it had not taken all that it was told when the search had ended")

    def _run(self) -> None:
        try:
            self._tell(self._make())
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            if not self.trouble:
                self._fail(lines[0].rstrip("."), exc_info=error)

    def _fail(self, why: str, exc_info: BaseException | None = None) -> None:
        self.trouble = (
            f"{self._title} was left out: {why}. The search has lost nothing, and a later session "
            "with --track makes up for it"
        )
        log.warning("%s", self.trouble, exc_info=exc_info)
        self._say(self.trouble)

    def _tell(self, tracker: Tracker) -> None:
        rows = Rows(self._search, tracker.known())
        for training in rows.in_order(self._trainings):
            _write(tracker, rows.of_training(training))
        tracker.flush()
        log.info("tracked: %s", tracker.place)
        self._say(f"tracked    {tracker.place}")
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                return tracker.end(item.table, whole=item.whole)
            is_training = isinstance(item, Training)
            _write(tracker, rows.of_training(item) if is_training else rows.of_strategy(item))
            if self._queue.empty():
                tracker.flush()


def _write(tracker: Tracker, row: Row) -> None:
    if row.numbers:
        tracker.write(row)


class Tracking:
    """A callback of the search that tells all its trackers."""

    def __init__(
        self,
        names: Iterable[str],
        search: Tracked,
        store: Store,
        strategy: str,
        say: Callable[[str], None],
    ) -> None:
        self.whole = False  # whether the search came to its end
        self._store, self._strategy = store, strategy
        self._beside = store.beside()
        self._told = 0  # rows of the strategy's health
        trainings = [*_finished(store)]
        self._tellers = [
            _Teller(TRACKERS[n].title, lambda n=n: load(TRACKERS[n].home)(search),
                    search, trainings, say)
            for n in names
        ]  # fmt: skip
        self._tell_health()

    def __call__(self, trial: Trial, outcome: Outcome, progress: Progress) -> None:
        if KINDS[trial.kind].ranked:
            self._tell(
                Training(
                    trial.id,
                    trial.formula,
                    trial.label,
                    trial.subject in self._beside,
                    outcome.status,
                    outcome.val_score,
                    outcome.seconds,
                    time.time(),
                )
            )
        self._tell_health()

    def end(self, table: Sequence[TableRow], seconds: float = END_SECONDS) -> list[str]:
        """Hand over the ranked table, and wait so long at most for what is under way; returns a
        sentence for each tracker that was left out."""
        if self.whole:
            self._tell_health()
        self._tell(_End(table, self.whole))
        deadline = time.monotonic() + seconds
        for teller in self._tellers:
            teller.end(deadline - time.monotonic())
        return [teller.trouble for teller in self._tellers if teller.trouble]

    def _tell(self, item: Training | Mapping[str, float] | _End) -> None:
        for teller in self._tellers:
            teller.tell(item)

    def _tell_health(self) -> None:
        """What is new of the strategy. Its last row may change until the search has ended."""
        if self._tellers:
            rows = self._store.health(self._strategy, skip=self._told)
            for numbers in rows if self.whole else rows[:-1]:
                self._told += 1
                self._tell(numbers)


def _finished(store: Store) -> Iterator[Training]:
    for row in store.rows("search"):
        if row["status"] not in (None, "rejected"):
            names = ("formula", "label", "beside", "status", "val_score", "seconds", "finished")
            yield Training(row["id"], *(row[name] for name in names))
