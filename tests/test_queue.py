"""The leased queue: nothing is lost, handed out twice at a time, or counted twice."""

from __future__ import annotations

import random
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from actsearch.results.records import Cause, Outcome, Trial
from actsearch.workers import ray_worker
from actsearch.workers.candidate_queue import MAX_KILLED, MAX_LOST, CandidateQueue

from .conftest import ok, trial


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> CandidateQueue:
    return CandidateQueue(lease_seconds=10.0, clock=clock)


def take(queue: CandidateQueue, worker: str = "w") -> tuple[int, Trial]:
    leased = queue.lease(worker)
    assert leased is not None
    return leased.number, leased.trial


def test_candidates_are_leased_in_order_and_each_once(queue: CandidateQueue) -> None:
    for i in (1, 2):
        queue.put(trial(i))
    assert [take(queue)[1].id, take(queue)[1].id] == [1, 2]
    assert queue.lease("w") is None


def test_a_completed_candidate_is_drained_once(queue: CandidateQueue) -> None:
    queue.put(trial(1))
    lease, taken = take(queue)
    assert queue.drain() == ([], 1)
    assert queue.complete(lease, ok(0.5))
    assert queue.drain() == ([(taken, ok(0.5))], 0)
    assert queue.drain() == ([], 0)
    assert not queue.complete(lease, ok(0.9))


def test_a_dead_workers_candidate_waits_again_behind_the_others(queue: CandidateQueue) -> None:
    for i in (1, 2):
        queue.put(trial(i))
    lease, _ = take(queue, "dying")
    assert [t.id for t in queue.release("dying")] == [1]
    assert not queue.complete(lease, ok(0.5))
    assert [take(queue)[1].id, take(queue)[1].id] == [2, 1]
    assert queue.drain()[0] == []


def test_a_silent_lease_ends_and_a_beat_renews_it(queue: CandidateQueue, clock: Clock) -> None:
    queue.put(trial(1))
    lease, _ = take(queue)
    clock.now = 9.0
    assert queue.beat(lease, 5)
    clock.now = 18.0
    assert queue.reclaim() == []
    clock.now = 19.0
    assert [t.id for t in queue.reclaim()] == [1]
    assert not queue.beat(lease, 6)
    assert take(queue)[1].id == 1


def test_a_late_answer_after_the_lease_ended_is_refused(
    queue: CandidateQueue, clock: Clock
) -> None:
    queue.put(trial(1))
    old, _ = take(queue)
    clock.now = 10.0
    queue.reclaim()
    new, taken = take(queue, "other")
    assert not queue.complete(old, ok(0.1))
    assert queue.complete(new, ok(0.5))
    assert queue.drain()[0] == [(taken, ok(0.5))]


def test_what_is_killed_alone_while_its_worker_lives_ends_as_crashed(queue: CandidateQueue) -> None:
    queue.put(trial(1))
    for i in range(MAX_KILLED):
        assert queue.drain() == ([], 0)
        lease = queue.lease(f"w{i}")
        assert lease is not None
        queue.give_back(lease.number)
    [(ended, outcome)], _ = queue.drain()
    assert (ended.id, outcome.status) == (1, "crashed")
    assert "for its memory" in outcome.reason
    assert outcome.cause is Cause.KILLED


def test_a_candidate_that_loses_every_worker_ends_as_crashed(queue: CandidateQueue) -> None:
    queue.put(trial(1))
    for i in range(MAX_LOST):
        take(queue, f"w{i}")
        queue.release(f"w{i}")
    assert queue.lease("w") is None
    [(ended, outcome)], _ = queue.drain()
    assert (ended.id, outcome.status) == (1, "crashed")
    assert outcome.cause is Cause.WORKER_LOST


def test_a_candidate_that_has_lost_a_worker_is_to_be_tried_alone(queue: CandidateQueue) -> None:
    for i in (1, 2):
        queue.put(trial(i))
    take(queue, "dying")
    queue.release("dying")
    second, first = queue.lease("w"), queue.lease("w")
    assert second is not None
    assert first is not None
    assert (second.trial.id, second.alone) == (2, False)
    assert (first.trial.id, first.alone) == (1, True)
    assert [t.id for t in queue.give_back(first.number)] == [1]
    assert queue.give_back(first.number) == []
    queue.put(trial(3), lost=1)
    again, told = queue.lease("w"), queue.lease("w")
    assert again is not None
    assert told is not None
    assert again.alone
    assert told.alone


def test_leases_that_are_out_for_too_long_are_named(queue: CandidateQueue, clock: Clock) -> None:
    for i in (1, 2):
        queue.put(trial(i))
    first, _ = take(queue)
    clock.now = 5.0
    queue.beat(first, 100)
    take(queue)
    clock.now = 8.0
    assert [(o.number, o.step) for o in queue.overdue(6.0)] == [(first, 100)]
    assert queue.overdue(8.0) == []
    queue.beat(first, 110, 1.5)  # seconds that it has waited for others
    assert [o.number for o in queue.overdue(6.4)] == [first]
    assert queue.overdue(6.6) == []


def test_what_loses_its_worker_after_a_hold_is_not_begun_again(queue: CandidateQueue) -> None:
    for i in (1, 2):
        queue.put(trial(i))
    number, _ = take(queue, "w")
    take(queue, "v")
    assert queue.hold() == 2
    assert [t.id for t in queue.release("v")] == [2]
    assert [t.id for t in queue.give_back(number)] == [1]
    assert queue.lease("w2") is None
    assert queue.drain() == ([], 0)


def test_hold_hands_out_nothing_more(queue: CandidateQueue) -> None:
    for i in (1, 2):
        queue.put(trial(i))
    lease, _ = take(queue)
    assert queue.hold() == 1
    assert queue.lease("w") is None
    assert queue.complete(lease, ok(0.5))


@pytest.mark.parametrize("seed", range(20))
def test_candidates_are_conserved_under_random_deaths_and_silences(seed: int) -> None:
    rng, clock = random.Random(seed), Clock()
    queue = CandidateQueue(lease_seconds=5.0, clock=clock)
    leases: list[int] = []
    completed: list[int] = []
    for i in range(30):
        queue.put(trial(i))
    while len(completed) < 30:
        action = rng.choice(["lease", "lease", "complete", "complete", "die", "wait", "late"])
        if action == "lease" and (leased := queue.lease(f"w{rng.randrange(4)}")):
            leases.append(leased.number)
        elif action == "complete" and leases:
            queue.complete(leases[rng.randrange(len(leases))], ok(0.5))
        elif action == "die" and rng.random() < 0.2:
            queue.release(f"w{rng.randrange(4)}")
        elif action == "wait":
            clock.now += rng.uniform(0, 2)
            queue.reclaim()
        completed += [t.id for t, _ in queue.drain()[0]]
    assert sorted(completed) == list(range(30))


class Local:
    """A queue in this process, called as Ray calls one."""

    def __init__(self, queue: CandidateQueue) -> None:
        self.queue, self.lock = queue, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            with self.lock:
                return getattr(self.queue, name)(*arguments)

        return SimpleNamespace(remote=remote)


def test_what_fits_alone_is_not_convicted_by_its_neighbours_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight threads of a worker on a GPU that has room for three children: what finds no room is
    tried again without them."""
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "wait", lambda values, timeout: (values, []))
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(
        ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here")
    )
    monkeypatch.setattr(ray_worker, "run_alone", lambda evaluate, trial, *_: evaluate(trial, None))
    room = threading.BoundedSemaphore(3)

    def evaluate(trial: Trial, beat: Any) -> Outcome:
        if not room.acquire(blocking=False):
            return Outcome("failed", "out of memory", Cause.OUT_OF_MEMORY)
        time.sleep(0.02)
        room.release()
        return Outcome("ok", val_score=0.5)

    queue = CandidateQueue()
    for number in range(16):
        queue.put(Trial(number, "search", "x", "", 0))
    local = Local(queue)
    for name in map(str, range(40)):  # each worker ends with the first child that found no room
        worker = ray_worker.Worker()
        thread = threading.Thread(target=worker.run, args=(local, name, evaluate, None, "", 8))
        thread.start()
        while thread.is_alive():
            worker._full = worker._full or len(queue._completed) == 16
            time.sleep(0.01)
        if len(queue._completed) == 16:
            break
    assert [outcome.status for _, outcome in queue._completed] == ["ok"] * 16
