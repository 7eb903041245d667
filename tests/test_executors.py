"""The conformance suite of the Executor protocol; then what only Ray workers can suffer."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from actsearch.errors import RESUMABLE, exit_code
from actsearch.results.records import ALONE, Cause, DeviceLostError, NoDeviceError, Outcome, Trial
from actsearch.searching.machinery import Machinery
from actsearch.searching.ray_actors import QueueActor, WorkerActor
from actsearch.workers import ray_pool
from actsearch.workers.executor import (
    Beat,
    ClusterLostError,
    Evaluate,
    Executor,
    ExecutorError,
    Finished,
    InlineExecutor,
)
from actsearch.workers.isolation import KilledFromOutside, run_alone
from actsearch.workers.ray_executor import RayExecutor
from actsearch.workers.ray_head import ANSWER_SECONDS, Head
from actsearch.workers.ray_pool import Size, Wanted, size_on
from actsearch.workers.ray_start import check_cluster, start_ray
from actsearch.workers.ray_thread import RayThread
from actsearch.workers.ray_worker import Worker
from actsearch.workers.thread_executor import ThreadExecutor

from .conftest import EXECUTORS, LIMIT, ray_executor, trial, two_workers, wait_until

MakeExecutor = Callable[..., Executor]


def finish(executor: Executor, n: int) -> list[Finished]:
    """The next `n` finished trials."""
    finished: list[Finished] = []

    def enough() -> bool:
        finished.extend(executor.completed(0.5))
        return len(finished) >= n

    wait_until(enough, f"the end of {n} trials")
    return finished


def test_all_tests_of_the_sessions_ray_share_one_process(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("loadgroup", False):
        pytest.skip("needs pytest -n 2 --dist loadgroup")
    assert request.node.nodeid.endswith("@ray")


def test_waiting_for_workers_makes_no_classes(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ray.remote(cls) is a class that stays in memory, and a look is taken ten times a
    second."""
    executor = ray_executor(lambda t, beat: Outcome("ok", val_score=0.5))
    monkeypatch.setattr(ray_session, "remote", None)
    executor.submit(trial(1))
    assert len(finish(executor, 1)) == 1
    executor.completed(0.5)
    executor.close()


def test_looks_become_rarer_while_nothing_finishes_and_a_result_ends_that(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = ray_executor(lambda t, beat: Outcome("ok", val_score=0.5))
    assert isinstance(executor, RayExecutor)
    pauses: list[float] = []
    monkeypatch.setattr("actsearch.workers.ray_executor.time.sleep", pauses.append)
    monkeypatch.setattr(executor._pool, "_collect", lambda: [])
    clock = iter(range(10_000))
    monkeypatch.setattr("actsearch.workers.ray_executor.time.monotonic", lambda: next(clock) / 100)
    executor.completed(2.0)
    rising = pauses[:10]  # the last ones are cut by the deadline
    assert rising == sorted(rising)
    assert rising[0] < 0.1
    assert rising[-1] == pytest.approx(0.3)
    monkeypatch.setattr(
        executor._pool, "_collect", lambda: [(trial(1), Outcome("ok", val_score=0.5))]
    )
    executor.completed(2.0)
    monkeypatch.setattr(executor._pool, "_collect", lambda: [])
    before = len(pauses)
    executor.completed(2.0)
    assert pauses[before] < 0.1
    monkeypatch.undo()
    executor.close()


def by_seed() -> Evaluate:
    """An evaluation whose outcome tells its trial; a closure, so that Ray sends it by value."""

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        beat(1)
        return Outcome("ok", val_score=trial.seed / 100)

    return evaluate


def test_who_trains_what_is_known_meanwhile(make_executor: MakeExecutor, tmp_path: Path) -> None:
    """Also while `completed` trains in its caller's thread."""
    go_on = tmp_path / "go on"

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        while not go_on.exists():
            beat(7)
            time.sleep(0.1)
        return Outcome("ok", val_score=0.5)

    executor = make_executor(evaluate)
    assert not executor.children
    executor.submit(trial(3))
    finished: list[Finished] = []
    looking = threading.Thread(target=lambda: finished.extend(finish(executor, 1)))
    looking.start()
    try:
        wait_until(lambda: [c.step for c in executor.children] == [7], "the child's beat")
        [child] = executor.children
        assert child.trial == trial(3)
        assert child.worker
        assert 0 <= child.seconds < LIMIT
    finally:
        go_on.touch()
        looking.join()
    assert [t for t, _ in finished] == [trial(3)]
    wait_until(lambda: not executor.completed(0.2) and not executor.children, "its end")


def test_every_submitted_trial_is_completed_once(make_executor: MakeExecutor) -> None:
    executor = make_executor(by_seed())
    waiting = [trial(i, seed=i) for i in range(1, 21)]
    finished: list[Finished] = []
    while len(finished) < 20:
        while waiting and executor.free > 0:
            executor.submit(waiting.pop())
        finished += executor.completed(0.5)
    assert sorted(t.id for t, _ in finished) == list(range(1, 21))
    assert all(o.val_score == t.seed / 100 for t, o in finished)
    assert executor.completed(0.2) == []


def test_an_idle_executor_returns_nothing(make_executor: MakeExecutor) -> None:
    executor = make_executor(by_seed())
    assert executor.completed(0.0) == []  # the first call waits for the queue's process to start
    assert executor.completed(0.2) == []


@pytest.mark.parametrize("name", ["threads", "ray", "ray threads"])
def test_a_look_does_not_wait_for_the_child_that_is_trained(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The child ends only after two looks."""
    if "ray" in name:
        request.getfixturevalue("ray_session")
    folder = str(tmp_path)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        Path(folder, "begun").touch()
        while not Path(folder, "looked").exists():
            time.sleep(0.02)
        return Outcome("ok", val_score=0.5)

    executor = EXECUTORS[name](evaluate)
    try:
        executor.submit(trial(1))
        wait_until((tmp_path / "begun").exists)
        assert executor.completed(0.2) == executor.completed(0.2) == []
        (tmp_path / "looked").touch()
        assert [o.status for _, o in finish(executor, 1)] == ["ok"]
    finally:
        executor.close()


def test_hold_starts_nothing_more(make_executor: MakeExecutor, tmp_path: Path) -> None:
    started = str(tmp_path)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        Path(started, str(trial.id)).touch()
        time.sleep(0.5)
        return Outcome("ok", val_score=0.5)

    executor = make_executor(evaluate)
    number = 0
    while executor.free > 0:
        number += 1
        executor.submit(trial(number))
    if not isinstance(executor, InlineExecutor):
        wait_until(lambda: list(tmp_path.iterdir()))
    executor.hold()
    looks = 1.0 if isinstance(executor, RayExecutor) else 0.1  # a worker asks twice a second
    time.sleep(looks)
    begun = len(list(tmp_path.iterdir()))
    finished = finish(executor, begun)
    assert executor.running == 0
    time.sleep(looks)
    assert executor.completed(0.1) == []
    assert len(finished) == begun == len(list(tmp_path.iterdir()))
    assert begun <= 2


def test_it_says_who_trains(make_executor: MakeExecutor) -> None:
    assert make_executor(by_seed()).description in (
        "this process",
        "this process, 2 children at once",
        "2 workers",
        "1 worker, 2 children each",
    )


@pytest.mark.parametrize("name", ["threads", "ray threads"])
def test_threads_train_at_the_same_time(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each of two children waits for the other."""
    if "ray" in name:
        request.getfixturevalue("ray_session")
    folder = str(tmp_path)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        Path(folder, str(trial.id)).touch()
        while len(os.listdir(folder)) < 2:
            time.sleep(0.02)
        return Outcome("ok", val_score=0.5, device=str(os.getpid()))

    executor = EXECUTORS[name](evaluate)
    try:
        executor.submit(trial(1))
        executor.submit(trial(2))
        outcomes = [outcome for _, outcome in finish(executor, 2)]
        assert {outcome.status for outcome in outcomes} == {"ok"}
        assert len({outcome.device for outcome in outcomes}) == 1
    finally:
        executor.close()


def test_threads_that_are_closed_end_their_children_at_a_beat(tmp_path: Path) -> None:
    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        (tmp_path / "begun").touch()
        for step in count():  # nothing but a beat ends it
            time.sleep(0.01)
            beat(step)

    executor = ThreadExecutor(evaluate, 2)
    executor.submit(trial(1))
    wait_until((tmp_path / "begun").exists)
    executor.close()
    assert executor.running == 0


def test_what_breaks_in_a_thread_is_raised_after_what_has_finished() -> None:
    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        if trial.id == 1:
            raise DeviceLostError("gone")
        return Outcome("ok", val_score=0.5)

    executor = ThreadExecutor(evaluate, 2)
    executor.submit(trial(1))
    executor.submit(trial(2))
    time.sleep(0.2)
    assert [t.id for t, _ in executor.completed(5.0)] == [2]
    with pytest.raises(DeviceLostError, match="gone"):
        executor.completed(5.0)
    executor.close()


def test_a_thread_that_runs_out_of_memory_is_tried_again_when_no_other_runs() -> None:
    tried: list[int] = []
    inside: list[int] = []

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        inside.append(trial.id)
        time.sleep(0.1)
        tried.append(trial.id)
        others = len(inside) - 1
        inside.remove(trial.id)
        if trial.id == 3 or (trial.id == 1 and others):
            return Outcome("failed", "the GPU is full", Cause.OUT_OF_MEMORY)
        return Outcome("ok", val_score=0.5)

    executor = ThreadExecutor(evaluate, 2)
    waiting = [trial(i) for i in (3, 2, 1)]
    finished: list[Finished] = []
    while len(finished) < 3:
        while waiting and executor.free > 0:
            executor.submit(waiting.pop())
        finished += executor.completed(0.5)
    assert {t.id: o.status for t, o in finished} == {1: "ok", 2: "ok", 3: "failed"}
    assert (tried.count(1), tried.count(2), tried.count(3)) == (2, 1, 2)
    executor.close()


@pytest.mark.thorough
def test_a_thread_that_runs_out_of_memory_ends_its_worker_with_the_others_children_done(
    ray_session: Any, tmp_path: Path
) -> None:
    folder = str(tmp_path)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        Path(folder, f"{trial.id} {os.getpid()}").touch()
        while len(os.listdir(folder)) < 2:
            time.sleep(0.02)
        if trial.id == 1 and len(os.listdir(folder)) == 2:
            return Outcome("failed", "the GPU is full", Cause.OUT_OF_MEMORY)
        time.sleep(0.3)
        return Outcome("ok", val_score=0.5, device=str(os.getpid()))

    executor = ray_executor(evaluate, children=2)
    try:
        for i in (1, 2, 3):
            executor.submit(trial(i))
        outcomes = {t.id: o for t, o in finish(executor, 3)}
        assert {o.status for o in outcomes.values()} == {"ok"}
        assert outcomes[3].device != outcomes[2].device  # of another process
        assert isinstance(executor, RayExecutor)
        assert executor.lost == 0
    finally:
        executor.close()


def test_a_killed_workers_candidate_is_trained_by_another(ray_session: Any, tmp_path: Path) -> None:
    flag = str(tmp_path / "killed")

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        if trial.id == 1 and not os.path.exists(flag):
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome("ok", val_score=0.5)

    executor = two_workers(evaluate)
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


CRASHES: dict[str, Callable[[], object]] = {
    "SIGSEGV": lambda: ctypes.string_at(0),
    "SIGABRT": os.abort,
    "exit 3": lambda: os._exit(3),
}


@pytest.mark.parametrize(
    "how",
    ["SIGSEGV", *(pytest.param(how, marks=pytest.mark.thorough) for how in [*CRASHES][1:])],
)
def test_a_crash_is_told_with_its_evidence(ray_session: Any, how: str) -> None:
    crash = CRASHES[how]

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        if trial.id == 1:
            crash()
        return Outcome("ok", val_score=0.5)

    executor = ray_executor(evaluate)
    try:
        for i in (1, 2, 3):
            executor.submit(trial(i))
        outcomes = {t.id: o for t, o in finish(executor, 3)}
        assert {i: o.status for i, o in outcomes.items()} == {1: "crashed", 2: "ok", 3: "ok"}
        assert outcomes[1].reason.startswith(f"{how} in a process of its own")
        assert (outcomes[1].cause, outcomes[1].variant) == (Cause.ENDED_ITSELF, how.split()[0])
        if how != "exit 3":
            assert "Fatal Python error" in outcomes[1].reason
        assert isinstance(executor, RayExecutor)
        assert executor.lost == 1  # one worker, then the evidence
    finally:
        executor.close()


def test_a_candidate_whose_process_is_killed_from_outside_is_innocent(
    ray_session: Any, tmp_path: Path
) -> None:
    """Killed five times, in a worker and alone, and then trained."""
    folder = str(tmp_path)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        deaths = len(os.listdir(folder))
        if deaths < 5:
            Path(folder, str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome("ok", val_score=0.5)

    executor = ray_executor(evaluate)
    try:
        executor.submit(trial(1))
        [(_, outcome)] = finish(executor, 1)
        assert outcome.status == "ok"
        assert len(list(tmp_path.iterdir())) == 5
    finally:
        executor.close()


def test_a_child_that_hears_beats_is_stopped_in_time(
    tmp_path: Path, make_executor: MakeExecutor
) -> None:
    pids = str(tmp_path)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        Path(pids, str(os.getpid())).touch()
        for step in count() if trial.id == 1 else range(2):  # nothing but a beat ends the first
            time.sleep(0.05)
            beat(step)
        return Outcome("ok", val_score=0.5)

    executor = make_executor(evaluate, timeout=1.0)
    executor.submit(trial(1))
    [(_, outcome)] = finish(executor, 1)
    assert outcome.status == "timed_out"
    assert outcome.reason == "longer than 1 s"
    assert outcome.cause is Cause.TIMED_OUT
    assert outcome.seconds > 1.0
    executor.submit(trial(2))
    [(_, outcome)] = finish(executor, 1)
    assert outcome.status == "ok"
    assert len(list(tmp_path.iterdir())) <= 2  # no worker was replaced


@pytest.mark.thorough
def test_a_child_that_hears_nothing_is_ended_with_its_worker(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actsearch.workers.ray_pool.GRACE_SECONDS", 1.0)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        if trial.id == 1:
            os.kill(os.getpid(), signal.SIGSTOP)  # as a GPU that hangs
        return Outcome("ok", val_score=0.5)

    executor = RayExecutor(
        evaluate, workers=2, timeout=1.0, queue_class=QueueActor, worker_class=WorkerActor
    )
    try:
        for i in (1, 2, 3):
            executor.submit(trial(i))
        outcomes = {t.id: o.status for t, o in finish(executor, 3)}
        assert outcomes == {1: "timed_out", 2: "ok", 3: "ok"}
        for i in (4, 5):
            executor.submit(trial(i))
        assert {o.status for _, o in finish(executor, 2)} == {"ok"}
    finally:
        executor.close()


@pytest.mark.thorough
def test_a_child_that_hangs_in_its_turn_is_found_among_those_that_wait_for_theirs(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are silent until the second is tried alone."""
    monkeypatch.setattr("actsearch.workers.ray_pool.GRACE_SECONDS", 0.5)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        while trial.id == 1 or (trial.id == 2 and alone not in os.environ):
            time.sleep(1)
        return Outcome("ok", val_score=0.5)

    alone = ALONE
    executor = ray_executor(evaluate, children=2, timeout=3.0)
    try:
        for i in (1, 2, 3):
            executor.submit(trial(i))
        outcomes = {t.id: o.status for t, o in finish(executor, 3)}
        assert outcomes == {1: "timed_out", 2: "ok", 3: "ok"}
    finally:
        executor.close()


class ShortLived(WorkerActor):
    recycle_after = 2


@pytest.mark.thorough
def test_a_worker_makes_room_for_a_new_process_after_some_candidates(ray_session: Any) -> None:
    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        return Outcome("ok", val_score=0.5, host=str(os.getpid()))

    executor = RayExecutor(evaluate, workers=1, queue_class=QueueActor, worker_class=ShortLived)
    try:
        process: dict[int, str] = {}
        for i in range(1, 5):
            executor.submit(trial(i))
        for done, outcome in finish(executor, 4):
            process[done.id] = outcome.host
        assert process[1] == process[2] != process[3] == process[4]
        assert executor.lost == 0
    finally:
        executor.close()


@pytest.mark.thorough
def test_what_runs_out_of_memory_is_tried_alone_before_it_counts(
    ray_session: Any, tmp_path: Path
) -> None:
    """Others may have taken the memory of a shared GPU; its worker starts anew."""

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        tries = tmp_path / str(trial.id)
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if trial.id == 2 or (trial.id == 1 and tries.read_text() == "x"):
            full = Cause.OUT_OF_MEMORY
            return Outcome("failed", "out of memory: 11 GB", full, host=str(os.getpid()))
        return Outcome("ok", val_score=0.5, host=str(os.getpid()))

    executor = RayExecutor(evaluate, workers=1, queue_class=QueueActor, worker_class=WorkerActor)
    try:
        for i in (1, 2, 3):
            executor.submit(trial(i))
        found = {t.id: o for t, o in finish(executor, 3)}
        assert {i: o.status for i, o in found.items()} == {1: "ok", 2: "failed", 3: "ok"}
        assert found[2].reason == "out of memory: 11 GB"
        assert [(tmp_path / str(i)).read_text() for i in (1, 2, 3)] == ["xx", "xx", "x"]
        assert executor.lost == 0
        assert len({o.host for o in found.values()}) == 3
    finally:
        executor.close()


@pytest.mark.thorough
def test_a_gpu_that_works_no_more_takes_its_worker_with_it_and_no_candidate(
    ray_session: Any, tmp_path: Path
) -> None:
    """After a memory fault on a GPU every call of that process fails, and it would go through the
    queue in a second."""

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        if trial.id == 2 and (not (tmp_path / "tried").exists() or trial.seed):
            (tmp_path / "tried").touch()
            raise DeviceLostError("an illegal memory access")
        return Outcome("ok", val_score=0.5)

    for seed, status, reason in ((0, "ok", ""), (1, "crashed", "illegal memory access")):
        executor = ray_executor(evaluate)
        assert isinstance(executor, RayExecutor)
        try:
            for i in range(1, 5):
                executor.submit(replace(trial(i), seed=seed))
            found = {t.id: o for t, o in finish(executor, 4)}
            assert {i: o.status for i, o in found.items() if i != 2} == dict.fromkeys(
                (1, 3, 4), "ok"
            )
            assert found[2].status == status
            assert reason in found[2].reason
            assert executor.lost == 1
        finally:
            executor.close()


def test_a_machine_whose_gpu_cannot_be_used_is_refused_in_a_sentence(ray_session: Any) -> None:
    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        raise NoDeviceError("no driver")

    executor = ray_executor(evaluate)
    try:
        executor.submit(trial(1))
        with pytest.raises(ExecutorError, match="cannot use its GPU: no driver"):
            finish(executor, 1)
    finally:
        executor.close()
    with pytest.raises(NoDeviceError, match=r"Ray hands it out, and torch .* sees none"):
        WorkerActor().check_gpus(1)
    WorkerActor().check_gpus(0)


def test_a_worker_that_ray_gives_no_gpu_sees_none(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torch sees GPUs that Ray was not told of, all workers would train on the first."""
    seen: list[str] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(Worker, "_work", lambda *_: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]))
    WorkerActor().run(None, "w1", by_seed(), None, WorkerActor().code())
    assert seen == [""]


def test_a_process_that_finds_no_gpu_says_nothing_about_its_candidate() -> None:
    from ray import cloudpickle  # writes a function by value; by its name it would import torch

    def no_device(trial: Trial, beat: Beat) -> Outcome:
        raise NoDeviceError("no driver")

    with pytest.raises(KilledFromOutside, match="ended with 75"):
        run_alone(no_device, trial(1), lambda: None, cloudpickle.dumps)


@pytest.mark.parametrize(
    ("workers", "per_gpu", "size"),
    [(None, None, (2, 1.0)), (2, None, (2, 1.0)), (3, None, (3, 0.5)), (None, 3, (6, 1 / 3))],
)
def test_workers_share_gpus_where_more_are_asked_for(
    workers: int | None, per_gpu: int | None, size: tuple[int, float]
) -> None:
    assert size_on(8, 2, Wanted(workers, per_gpu)) == Size(*size, children=1)
    with pytest.raises(ExecutorError, match="room for 2"):
        size_on(8, 2, Wanted(3, 1))


@pytest.mark.parametrize(
    ("gpus", "per_gpu", "asked", "children"),
    [(0, None, None, 1), (0, None, 3, 3), (2, None, None, 8), (2, 2, None, 4), (2, 2, 3, 3)],
)
def test_workers_train_as_many_children_at_once_as_suit_their_share_of_a_gpu(
    gpus: int, per_gpu: int | None, asked: int | None, children: int
) -> None:
    """Unless so many were asked for; the GPUs are those that Ray sees, wherever they are."""
    assert size_on(8, gpus, Wanted(per_gpu=per_gpu, children=asked)).children == children


def test_an_executor_takes_three_candidates_for_each_child_that_is_trained_at_once(
    ray_session: Any,
) -> None:
    executor = ray_executor(by_seed(), children=2)
    try:
        assert executor.free == 1 * 2 * 3
        assert executor.description == "1 worker, 2 children each"
    finally:
        executor.close()


class OtherCode(WorkerActor):
    def code(self) -> str:
        import ray

        return "here" if ray.get_runtime_context().worker.mode == 0 else "there"


@pytest.mark.thorough
def test_a_worker_with_other_code_is_refused_in_a_sentence(ray_session: Any) -> None:
    executor = RayExecutor(by_seed(), workers=1, queue_class=QueueActor, worker_class=OtherCode)
    try:
        executor.submit(trial(1))
        with pytest.raises(ExecutorError, match="has actsearch there, the driver here; install"):
            finish(executor, 1)
    finally:
        executor.close()


def test_a_killed_queue_is_made_again_and_nothing_is_lost(ray_session: Any) -> None:
    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        time.sleep(0.2)
        return Outcome("ok", val_score=0.5)

    executor = ray_executor(evaluate)
    try:
        for i in range(1, 7):
            executor.submit(trial(i))
        first = finish(executor, 2)
        assert isinstance(executor, RayExecutor)
        ray_session.kill(executor._pool._queue)
        rest = finish(executor, 6 - len(first))
        assert sorted(t.id for t, _ in first + rest) == [1, 2, 3, 4, 5, 6]
    finally:
        executor.close()


def process_of_queue() -> psutil.Process:
    """Once those of earlier tests, which Ray ends by and by, are gone."""

    def queues() -> list[psutil.Process]:
        running = psutil.Process().children(recursive=True)
        return [p for p in running if p.is_running() and p.name().startswith("ray::QueueAct")]

    wait_until(lambda: len(queues()) == 1, "the end of earlier queues")
    return queues()[0]


@pytest.mark.thorough
def test_a_silent_queue_is_made_again_and_what_it_still_learns_is_refused(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        time.sleep(0.2)
        return Outcome("ok", val_score=0.5)

    executor = ray_executor(evaluate)
    assert isinstance(executor, RayExecutor)
    try:
        for i in range(1, 7):
            executor.submit(trial(i))
        seen = finish(executor, 2)
        former, process = executor._pool._queue, process_of_queue()
        make_queue, patience = executor._pool._make_queue, ray_pool.QUEUE_SECONDS

        def make_queue_and_be_patient() -> None:
            """A queue that starts on a busy machine is silent for a while."""
            monkeypatch.setattr(ray_pool, "QUEUE_SECONDS", patience)
            make_queue()

        monkeypatch.setattr(ray_pool, "QUEUE_SECONDS", ANSWER_SECONDS + 2.0)
        monkeypatch.setattr(executor._pool, "_make_queue", make_queue_and_be_patient)
        process.suspend()
        troubles = set()
        deadline = time.monotonic() + 120
        while len(seen) < 6:
            assert time.monotonic() < deadline
            seen += executor.completed(0.5)
            troubles.add(executor.trouble)
        assert sorted(t.id for t, _ in seen) == [1, 2, 3, 4, 5, 6]
        assert any("the queue's process has been silent for" in text for text in troubles)
        assert executor.trouble == ""
        with pytest.raises(ray_session.exceptions.RayActorError):
            ray_session.get(former.complete.remote(1, Outcome("ok", val_score=0.9)))
        assert executor.completed(0.5) == []
    finally:
        executor.close()


@pytest.mark.thorough
def test_queues_that_are_silent_again_and_again_end_the_search_as_resumable(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = ray_executor(by_seed())
    try:
        executor.submit(trial(1))
        finish(executor, 1)
        monkeypatch.setattr("actsearch.workers.ray_pool.QUEUE_SECONDS", 1.0)
        monkeypatch.setattr("actsearch.workers.ray_pool.MAX_SILENT", 1)
        process_of_queue().suspend()
        with pytest.raises(ClusterLostError, match="the same command goes on") as lost:
            finish(executor, 1)
        assert exit_code(lost.value) == RESUMABLE
    finally:
        executor.close()


def test_the_queue_is_on_the_drivers_machine_and_asked_for_there(ray_session: Any) -> None:
    """What wants no resource at all goes by way of a random machine, which may be silent."""
    asked: dict[str, Any] = {}
    executor = ray_executor(by_seed())
    assert isinstance(executor, RayExecutor)
    try:
        queue_class = executor._pool._queue_class
        noting: Any = SimpleNamespace(
            options=lambda **options: asked.update(options) or queue_class.options(**options)
        )
        executor._pool._queue_class = noting
        executor._pool._make_queue()
        assert asked["memory"] > 0
        strategy = asked["scheduling_strategy"]
        assert strategy.node_id == ray_session.get_runtime_context().get_node_id()
        assert not strategy.soft
    finally:
        executor.close()


@pytest.mark.thorough
def test_a_ray_that_does_not_answer_holds_up_nobody(ray_session: Any) -> None:
    """Ray waits in C++, where neither a time limit nor Ctrl-C reaches it."""
    executor = ray_executor(by_seed())
    assert isinstance(executor, RayExecutor)
    thaw = threading.Event()
    try:
        executor.submit(trial(1))
        finish(executor, 1)
        executor._thread.start(thaw.wait)
        executor.submit(trial(2))
        assert executor.completed(0.3) == []  # and it returned
        executor.hold()
        assert executor.running == 1  # for all that is known
        assert executor.completed(0.3) == []
        thaw.set()
        deadline = time.monotonic() + 60
        while executor.running:
            executor.completed(0.5)
            assert time.monotonic() < deadline
    finally:
        thaw.set()
        executor.close()


def test_a_ray_that_never_answers_again_is_left_as_it_is(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actsearch.workers.ray_executor.HEAD_SECONDS", 0.5)
    left: list[RayThread] = []
    monkeypatch.setattr(RayThread, "leave", lambda thread: left.append(thread))
    executor = ray_executor(by_seed())
    assert isinstance(executor, RayExecutor)
    thaw = threading.Event()
    try:
        executor._thread.start(thaw.wait)
        with pytest.raises(ClusterLostError, match=r"silent for .* the same command goes on"):
            finish(executor, 1)
        executor.close()
        assert left == [executor._thread]
    finally:
        thaw.set()
    # The thread that was left then ends workers and queue, as it was asked to.
    wait_until(lambda: not executor._pool._workers, "the workers' end")


def test_what_a_slow_look_has_found_is_returned_before_a_stop_ends(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search ends where nothing runs any more, and would have left the last outcomes there."""
    executor = ray_executor(by_seed())
    assert isinstance(executor, RayExecutor)
    drained, thaw = threading.Event(), threading.Event()

    def collect() -> list[Finished]:
        executor._pool._leased = 0
        drained.set()
        thaw.wait()
        return [(trial(1), Outcome("ok", val_score=0.5))]

    try:
        executor.hold()
        monkeypatch.setattr(executor._pool, "_collect", collect)
        assert executor.completed(0.1) == []
        assert drained.wait(60)
        assert executor.running
        thaw.set()
        assert len(finish(executor, 1)) == 1
        assert not executor.running
    finally:
        thaw.set()
        executor.close()


def test_what_a_look_has_found_is_returned_before_the_loss_of_the_head_is_raised(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = ray_executor(by_seed())
    assert isinstance(executor, RayExecutor)
    assert executor._head is not None
    found = [(trial(1), Outcome("ok", val_score=0.5))]
    lost = executor._head.lost("is gone")

    def look(*, at_once: bool) -> None:
        raise lost

    monkeypatch.setattr(RayThread, "leave", lambda thread: None)
    try:
        monkeypatch.setattr(executor._pool, "_collect", lambda: found)
        monkeypatch.setattr(executor._head, "look", look)
        assert executor.completed(60) == found
        with pytest.raises(ClusterLostError, match="is gone"):
            executor.completed(60)
    finally:
        executor.close()


def test_what_a_look_has_found_is_returned_before_a_workers_own_fault_is_raised(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = ray_executor(by_seed())
    assert isinstance(executor, RayExecutor)
    found = [(trial(1), Outcome("ok", val_score=0.5))]

    def replace_dead_workers() -> None:
        raise ExecutorError("a worker failed outside its child")

    try:
        monkeypatch.setattr(executor._pool, "_replace_dead_workers", replace_dead_workers)
        monkeypatch.setattr(executor._pool, "_collect", lambda: found)
        assert executor.completed(60) == found
        with pytest.raises(ExecutorError, match="outside its child"):
            executor.completed(60)
    finally:
        executor.close()


@pytest.mark.thorough
def test_a_queue_that_dies_around_a_stop_starts_nothing(ray_session: Any, tmp_path: Path) -> None:
    started = str(tmp_path)

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        Path(started, str(trial.id)).touch()
        time.sleep(1.0)
        return Outcome("ok", val_score=0.5)

    executor = ray_executor(evaluate)
    try:
        for i in range(1, 7):
            executor.submit(trial(i))
        finish(executor, 1)
        assert isinstance(executor, RayExecutor)
        ray_session.kill(executor._pool._queue)
        executor.hold()  # which may still be answered

        def idle() -> bool:
            assert executor.completed(0.5) == []
            return not executor.running

        wait_until(idle)
        begun = {path.name for path in tmp_path.iterdir()}
        time.sleep(1.5)
        assert executor.completed(0.5) == []
        assert {path.name for path in tmp_path.iterdir()} == begun
        assert len(begun) < 6
    finally:
        executor.close()


def test_a_candidates_own_process_ends_with_its_worker(tmp_path: Path) -> None:
    """Of a worker that is killed nobody else would end it, or remove its data."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    [folder] = tmp_path.iterdir()
    parent.kill()
    parent.communicate()
    wait_until(lambda: not folder.exists() and not running(child))


# A worker whose candidate says who it is, and trains for ever.
PARENT = """
import os, time
from ray import cloudpickle
from actsearch.results.records import Trial
from actsearch.workers.thread_executor import ThreadExecutor
from actsearch.workers.isolation import run_alone

def evaluate(trial, beat):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(600)

run_alone(evaluate, Trial(1, "search", "x", "p", 0), lambda: None, cloudpickle.dumps)
"""


def running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


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


def test_a_ray_that_cannot_begin_is_a_sentence_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray writes a token to the home folder, which may be none."""

    def init(**options: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/nowhere")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ExecutorError, match=r"/nowhere.*--executor inline"):
        start_ray(None)


def test_rays_own_plain_exception_at_its_start_gets_the_way_out_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**options: Any) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray 2.60 raises it

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ExecutorError, match=r"timed out during startup.*--executor inline"):
        start_ray(None)


def test_a_local_ray_has_as_many_places_as_the_machine_has_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("ray.init", lambda **options: asked.update(options))
    start_ray(None)
    assert asked["num_cpus"] == os.cpu_count()


def server(answer: bytes) -> Iterator[str]:
    """Accepts, and sends `answer` to what it is sent; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    held.append(connection)
                    if answer:
                        connection.recv(100)
                        connection.sendall(answer)

        held: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # RFC 9113, 6.5


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_is_not_ray_is_told_before_ray_is_asked(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """Ray would ask it for 40 seconds, and then raise an error of its own."""
    monkeypatch.setattr("actsearch.workers.ray_start.CHECK_SECONDS", 0.5)
    monkeypatch.setattr("actsearch.workers.ray_start._check_token", None)
    told = pytest.raises(ExecutorError, match="does not answer as a Ray head does")
    with contextmanager(server)(answer) as address, told:
        check_cluster(address)


def test_a_head_is_silent_since_its_last_answer_and_lost_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("actsearch.workers.ray_head.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("actsearch.workers.ray_head.time", SimpleNamespace(
        monotonic=lambda: now, time=time.time, strftime=time.strftime, localtime=time.localtime
    ))  # fmt: skip
    with contextmanager(server)(SETTINGS) as address:
        head = Head(address)
        now = 10.0
        head.look()
        assert head.trouble == ""
    with contextmanager(server)(b"") as silent:
        head.address = silent
        now = 20.0
        head.look()
        assert "has been silent since" in head.trouble
        assert "(10 s)" in head.trouble
        now = 30.0 + 3600.0  # the driver was suspended, or had something else to do
        head.look()
        assert "(20 s)" in head.trouble
        now += 10.0
        head.look()
        now += 10.0
        head.look()
        now += 10.0
        with pytest.raises(ClusterLostError, match="has not answered for 50 s"):
            head.look()
    with pytest.raises(ClusterLostError, match="is gone"):
        head.look(at_once=True)


@pytest.mark.parametrize(
    ("machinery", "trainings", "most", "note"),
    [
        (Machinery(workers=100), 5, 4, "--workers 100: 4 workers start, since this machine has 4"),
        (Machinery(workers=100), 3, 3, "--workers 100: 3 workers start, since there are 3 train"),
        (Machinery(workers=100), 1, 1, "--workers 100: 1 worker starts, since there is 1 training"),
        (Machinery(workers=100), None, 4, "since this machine has 4 cores."),
        (Machinery(workers=100, ray_address="h:1"), 30, 30, "since there are 30 trainings left."),
        (Machinery(workers=100, ray_address="h:1"), None, None, ""),
        (Machinery(workers=3, children_per_worker=4), 5, 2, "2 workers start"),
        (Machinery(), 3, 3, ""),
        (Machinery(workers=4), 5, 4, ""),
        (Machinery(executor="inline", workers=100), 3, 3, ""),
    ],
)
def test_no_more_workers_than_cores_and_trainings(
    monkeypatch: pytest.MonkeyPatch,
    machinery: Machinery,
    trainings: int | None,
    most: int | None,
    note: str,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    found, said = machinery.most(trainings)
    assert found == most
    assert note in said
    assert bool(note) == bool(said)


def test_no_more_workers_start_than_there_is_to_train(ray_session: Any) -> None:
    """Nobody said how many; this Ray has room for two."""
    executor = RayExecutor(by_seed(), most=1, queue_class=QueueActor, worker_class=WorkerActor)
    try:
        assert executor.description == "1 worker"
    finally:
        executor.close()
