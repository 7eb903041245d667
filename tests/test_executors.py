"""The conformance suite of the Executor protocol; then what only Ray workers can suffer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from results.records import Outcome, Trial
from workers.executor import Beat, Evaluate, Executor, ExecutorError, Finished
from workers.ray_executor import RayExecutor

from .conftest import ray_executor, trial

MakeExecutor = Callable[[Evaluate], Executor]


def finish(executor: Executor, n: int, seconds: float = 60.0) -> list[Finished]:
    """The next `n` finished trials."""
    finished: list[Finished] = []
    deadline = time.monotonic() + seconds
    while len(finished) < n:
        assert time.monotonic() < deadline, f"only {len(finished)} of {n} in {seconds} s"
        finished += executor.completed(0.5)
    return finished


def by_seed() -> Evaluate:
    """An evaluation whose outcome tells its trial; a closure, so that Ray sends it by value."""

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        beat(1)
        return Outcome("ok", val_accuracy=trial.seed / 100)

    return evaluate


def test_every_submitted_trial_is_completed_once(make_executor: MakeExecutor) -> None:
    executor = make_executor(by_seed())
    waiting = [trial(i, seed=i) for i in range(1, 21)]
    finished: list[Finished] = []
    while len(finished) < 20:
        while waiting and executor.free > 0:
            executor.submit(waiting.pop())
        finished += executor.completed(0.5)
    assert sorted(t.id for t, _ in finished) == list(range(1, 21))
    assert all(o.val_accuracy == t.seed / 100 for t, o in finished)
    assert executor.completed(0.2) == []


def test_an_idle_executor_returns_nothing_and_in_time(make_executor: MakeExecutor) -> None:
    executor = make_executor(by_seed())
    start = time.monotonic()
    assert executor.completed(0.2) == []
    assert time.monotonic() - start < 5


def test_hold_starts_nothing_more(make_executor: MakeExecutor, tmp_path: Path) -> None:
    started = str(tmp_path)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        Path(started, str(trial.id)).touch()
        time.sleep(0.5)
        return Outcome("ok", val_accuracy=0.5)

    executor = make_executor(evaluate)
    number = 0
    while executor.free > 0:
        number += 1
        executor.submit(trial(number))
    time.sleep(0.3)
    executor.hold()
    begun = len(list(tmp_path.iterdir()))
    finished = finish(executor, begun)
    assert executor.running == 0
    assert len(finished) == begun == len(list(tmp_path.iterdir()))
    assert begun <= 2


def test_it_says_who_trains(make_executor: MakeExecutor) -> None:
    assert make_executor(by_seed()).description in ("this process", "2 workers")


def test_a_killed_workers_candidate_is_trained_by_another(ray_session: Any, tmp_path: Path) -> None:
    flag = str(tmp_path / "killed")

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        if trial.id == 1 and not os.path.exists(flag):
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome("ok", val_accuracy=0.5)

    executor = ray_executor(evaluate)
    try:
        for i in (1, 2, 3):
            executor.submit(trial(i))
        finished = finish(executor, 3)
        assert sorted(t.id for t, _ in finished) == [1, 2, 3]
        assert {o.status for _, o in finished} == {"ok"}
        assert isinstance(executor, RayExecutor)
        assert executor.lost == 1
    finally:
        executor.close()


def test_a_candidate_that_kills_every_worker_ends_as_crashed(ray_session: Any) -> None:
    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        if trial.id == 1:
            os._exit(1)
        return Outcome("ok", val_accuracy=0.5)

    executor = ray_executor(evaluate)
    try:
        for i in (1, 2, 3):
            executor.submit(trial(i))
        statuses = {t.id: o.status for t, o in finish(executor, 3)}
        assert statuses == {1: "crashed", 2: "ok", 3: "ok"}
    finally:
        executor.close()


def test_a_killed_queue_is_made_again_and_nothing_is_lost(ray_session: Any) -> None:
    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        time.sleep(0.2)
        return Outcome("ok", val_accuracy=0.5)

    executor = ray_executor(evaluate)
    try:
        for i in range(1, 7):
            executor.submit(trial(i))
        first = finish(executor, 2)
        assert isinstance(executor, RayExecutor)
        ray_session.kill(executor._queue)
        rest = finish(executor, 6 - len(first))
        assert sorted(t.id for t, _ in first + rest) == [1, 2, 3, 4, 5, 6]
    finally:
        executor.close()


def test_an_error_outside_the_child_ends_the_search_with_its_reason(ray_session: Any) -> None:
    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        raise RuntimeError("the machinery is broken")

    executor = ray_executor(evaluate)
    try:
        executor.submit(trial(1))
        with pytest.raises(ExecutorError, match="the machinery is broken"):
            finish(executor, 1)
    finally:
        executor.close()


def test_more_workers_than_places_is_a_sentence_not_a_wait(ray_session: Any) -> None:
    with pytest.raises(ExecutorError, match="Use --workers 2"):
        ray_executor(by_seed(), workers=3)


def test_workers_per_gpu_without_a_gpu_is_a_sentence(ray_session: Any) -> None:
    with pytest.raises(ExecutorError, match="Ray sees no GPU"):
        RayExecutor(by_seed(), workers_per_gpu=3)
