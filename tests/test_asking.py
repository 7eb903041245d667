"""The links between a strategy and its source, each alone, around an innermost link of made-up
trials."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actsearch.results.records import Cause, Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.survey import Described, describe
from actsearch.searching.asking import Asked
from actsearch.searching.budget import Budget
from actsearch.searching.duplicates import Duplicates
from actsearch.searching.progress import Tally
from actsearch.searching.rejections import Rejections

GOOD = Outcome("ok", val_score=0.5)


class Inner:
    """Asks for what it was given, and remembers how many were wanted and what it was told."""

    ended = ""
    tally = Tally(repeats=7)

    def __init__(self, *asked: Asked) -> None:
        self.asked = list(asked)
        self.wanted: list[int] = []
        self.told: list[tuple[int, str]] = []

    def foresee(self, n: int) -> list[Described]:
        self.wanted.append(n)
        return [asked.new for asked in self.asked if asked.new][:n]

    def ask(self, n: int) -> Iterator[Asked]:
        self.wanted.append(n)
        return iter(self.asked)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        self.told.append((trial.id, outcome.status))


def new(store: Store, text: str) -> Asked:
    """A function that is proposed for the first time."""
    found = describe(candidate_from(text))
    trial = store.submit("search", found.candidate.key, "p", 0)
    store.propose("s", trial.id, (0,), trial)
    return Asked(trial, None, found)


def known(asked: Asked, outcome: Outcome | None = None) -> Asked:
    """It is proposed again."""
    return Asked(asked.trial, outcome, None)


def test_duplicates_pass_on_the_first_and_tell_what_is_known_at_once(store: Store) -> None:
    relu, tanh = new(store, "relu(x)"), new(store, "tanh(x)")
    inner = Inner(relu, known(relu), tanh, known(tanh, GOOD))
    assert [asked.trial for asked in Duplicates(inner, 100).ask(4)] == [relu.trial, tanh.trial]
    assert inner.told == [(tanh.trial.id, "ok")]


@pytest.mark.parametrize(("patience", "ended"), [(2, "nothing new in 2 proposals"), (3, "")])
def test_patience_is_how_many_duplicates_in_a_row_end_it(
    store: Store, patience: int, ended: str
) -> None:
    relu, tanh = new(store, "relu(x)"), new(store, "tanh(x)")
    inner = Inner(relu, known(relu), known(relu), tanh, known(tanh), known(relu))
    duplicates = Duplicates(inner, patience)
    assert [asked.trial for asked in duplicates.ask(6)] == [relu.trial, tanh.trial]
    assert duplicates.ended == ended
    assert bool(list(duplicates.ask(6)) or duplicates.foresee(6)) == (not ended)


def test_the_budget_limits_what_is_asked_and_counts_functions(store: Store) -> None:
    relu, tanh, sin = (new(store, f"{name}(x)") for name in ("relu", "tanh", "sin"))
    inner = Inner(relu, known(relu), tanh, known(sin, GOOD), known(sin, Outcome("rejected", "r")))
    store.record(relu.trial, GOOD)  # as an earlier session left it
    budget = Budget(inner, store, 5)
    assert budget.charged == 3
    assert len(list(budget.ask(9))) == 5
    assert inner.wanted == [2]
    assert (budget.charged, budget.tally) == (3, Tally(done=2, repeats=7))
    budget.tell(tanh.trial, GOOD)
    assert (budget.charged, budget.tally.done) == (3, 3)
    assert Budget(inner, store, 3).ended == "budget spent"
    assert Budget(inner, store, None).ended == ""


def test_a_rejected_function_gives_its_share_of_the_budget_back(store: Store) -> None:
    budget = Budget(Inner(), store, 5)
    budget.inner = Inner(new(store, "relu(x)"))
    [asked] = budget.ask(1)
    assert budget.charged == 1
    budget.tell(asked.trial, Outcome("rejected", "constant"))
    assert budget.charged == 0


def test_rejections_record_the_reason_and_pass_on_the_rest(store: Store) -> None:
    zero, relu = new(store, "x - x"), new(store, "relu(x)")
    inner = Inner(zero, relu, known(zero))
    rejections = Rejections(inner, store)
    assert [f.candidate.formula for f in rejections.foresee(2)] == ["relu(x)"]
    assert [asked.trial for asked in rejections.ask(3)] == [relu.trial, zero.trial]
    found = store.outcome(zero.trial)
    assert found is not None
    assert (found.status, found.reason) == ("rejected", "constant")
    assert found.cause is Cause.CONSTANT
    assert inner.told == [(zero.trial.id, "rejected")]
    assert rejections.tally == Tally(repeats=7, rejected=1)
