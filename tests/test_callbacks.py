"""Callbacks of a search: told once of each training, after it was stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from actsearch.controller.strategies import strategy_from
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.space import SPACES
from actsearch.search_space.survey import describe
from actsearch.searching.callbacks import Callback
from actsearch.searching.identity import Candidates, Level, submit_candidate
from actsearch.searching.loop import run_trials
from actsearch.searching.progress import Progress
from actsearch.searching.proposals import Proposals
from actsearch.searching.sources import StrategySource, asking
from actsearch.workers.executor import Beat, InlineExecutor

PPO = "ppo:batch_size=5"
SPACE = "units=1;unary=identity,relu,tanh;binary=add,mul"
QUICK: dict[str, Any] = {"space": SPACE, "executor": "inline", "quiet": True, "steps": 20}


def child(trial: Trial, beat: Beat) -> Outcome:
    if "sin" in trial.subject:
        return Outcome("diverged", "loss nan at step 3", step=3, seconds=1.0)
    return Outcome("ok", val_score=len(trial.subject) / 100, seconds=2.0)


def searched(
    store: Store, callbacks: Iterable[Callback], budget: int, strategy: str = PPO
) -> Progress:
    """A search by stub children, ReLU beside it."""
    space, level = SPACES["tiny"], Level("search", "p")
    relu = submit_candidate(store, describe(candidate_from("relu(x)")), level, 0, "relu")
    made, functions = strategy_from(strategy, space, 0), Candidates(store, space)
    proposals = Proposals(store, made, strategy, functions, lambda share: level)
    source = StrategySource(proposals, asking(proposals, budget=budget, patience=1000), [relu])
    progress = Progress("t", "w", None)
    progress.load(store.rows("search"))
    run_trials(store, source, InlineExecutor(child), progress, callbacks=callbacks)
    return progress


def finished(store: Store) -> list[dict[str, Any]]:
    """What the store says, in the order of the steps."""
    rows = [r for r in store.rows("search") if r["status"] not in (None, "rejected")]
    return sorted(rows, key=lambda row: row["finished"])


def test_a_callback_is_told_each_finished_training_with_the_counts_so_far(store: Store) -> None:
    told: list[tuple[str, str, int]] = []

    def tell(trial: Trial, outcome: Outcome, progress: Progress) -> None:
        assert store.outcome(trial) == outcome  # stored before
        told.append((trial.subject, outcome.status, progress.counts[outcome.status]))

    searched(store, [tell], budget=30, strategy="random")
    assert [(e, s) for e, s, _ in told] == [(r["expression"], r["status"]) for r in finished(store)]
    diverged = [n for _, status, n in told if status == "diverged"]
    assert diverged == [*range(1, len(diverged) + 1)]
    assert len(diverged) >= 2


def test_a_callback_that_raises_is_logged_once_and_left_out_and_nothing_is_lost(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    calls = {"broken": 0, "whole": 0}

    def broken(trial: Trial, outcome: Outcome, progress: Progress) -> None:
        calls["broken"] += 1
        if calls["broken"] == 2:
            raise ZeroDivisionError("of the user's own")

    def whole(trial: Trial, outcome: Outcome, progress: Progress) -> None:
        calls["whole"] += 1

    searched(store, [broken, whole], budget=8, strategy="random")
    assert calls == {"broken": 2, "whole": len(finished(store))}
    assert len(finished(store)) == 9
    [record] = [r for r in caplog.records if "left out" in r.getMessage()]
    assert "broken" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
