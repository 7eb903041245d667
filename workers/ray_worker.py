"""Worker: what a worker actor does, from the lease of a candidate to its outcome."""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from actsearch.results.records import Cause, NoDeviceError, Outcome, host_error
from actsearch.workers.candidate_queue import Lease
from actsearch.workers.executor import (
    Deadline,
    Evaluate,
    LeaseLost,
    Seconds,
    TimedOut,
    UnfitError,
    from_now,
    timed_out,
)
from actsearch.workers.isolation import KilledFromOutside, run_alone

IDLE_SECONDS = 0.05, 0.5  # a worker without a candidate asks again after so long, at most
BEAT_SECONDS = 1.0


class Worker:
    """The body of a worker actor: lease, evaluate, complete, in a thread for each of the children
    that it trains at once. After `recycle_after` candidates, or one that ran out of memory, it
    returns, and a new process takes its place with all memory free. What ran out of memory, which
    others may have taken, is tried once more, in a process of its own.
    """

    recycle_after = 500

    def __init__(self) -> None:
        self._done = 0
        self._full = False
        self._room = _Room()

    def run(
        self,
        queue: Any,
        name: str,
        evaluate: Evaluate,
        timeout: float | None,
        code: str,
        children: int = 1,
    ) -> None:
        """`code` is the driver's. Raises UnfitError where this machine has another, or a GPU that
        cannot be used; DeviceLostError where it can be used no more."""
        import ray

        here = socket.gethostname(), ray.get_runtime_context().get_node_id()
        if self.code() != code:
            raise UnfitError(
                f"{here[0]} has actsearch {self.code()}, the driver {code}; "
                "install the same version on both",
                here[1],
            )
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves it as it is, and torch sees all
        try:
            self.check_gpus(len(ray.get_gpu_ids()))
            if children == 1:
                self._work(queue, name, evaluate, timeout)
                return
            with ThreadPoolExecutor(children, "child") as pool:
                threads = [
                    pool.submit(self._work, queue, name, evaluate, timeout) for _ in range(children)
                ]
                try:
                    for thread in as_completed(threads):
                        thread.result()
                finally:
                    self._full = True  # where one raised, the others end with their children
        except NoDeviceError as error:
            raise UnfitError(f"{here[0]} cannot use its GPU: {error}", here[1]) from error

    def _work(self, queue: Any, name: str, evaluate: Evaluate, timeout: float | None) -> None:
        import ray

        idle, longest = IDLE_SECONDS
        while self._done < self.recycle_after and not self._full:
            if self._room.wanted_alone:
                time.sleep(idle)
                continue
            lease: Any = ray.get(queue.lease.remote(name))
            if lease is None:
                time.sleep(idle)
                idle = min(2 * idle, longest)
                continue
            idle = IDLE_SECONDS[0]
            outcome = self._evaluate(queue, lease, evaluate, timeout)
            full = outcome is not None and outcome.cause is Cause.OUT_OF_MEMORY
            if outcome is None or (full and not lease.alone):
                ray.get(queue.give_back.remote(lease.number))
            else:
                ray.get(queue.complete.remote(lease.number, outcome))
                self._done += 1
            if full:
                self._full = True

    def code(self) -> str:
        """What is compared between driver and worker."""
        return ""

    def check_gpus(self, count: int) -> None:
        """Raises NoDeviceError where children cannot use the `count` GPUs that Ray gives it."""

    def waited(self) -> float:
        """Seconds that the calling thread has waited for other children, which count for no
        timeout."""
        return 0.0

    def _evaluate(
        self, queue: Any, lease: Lease, evaluate: Evaluate, timeout: float | None
    ) -> Outcome | None:
        """The outcome of a leased candidate; None where it says nothing about the candidate. Raises
        HostError where this machine or its data fail."""
        dumps = importlib.import_module("ray.cloudpickle").dumps  # functions by value, as Ray does
        deadline: Deadline | None = None
        waited = [0.0]  # for room
        turns = from_now(self.waited)
        beat = _Beat(queue, lease.number, lambda: turns() + waited[0])
        begun = time.monotonic()

        def alive() -> None:
            waited[0] = time.monotonic() - begun
            beat(0)

        try:
            with self._room.taken(lease.alone, alive):
                deadline = left = Deadline(timeout, beat, self.waited)
                if lease.alone:
                    return run_alone(evaluate, lease.trial, lambda: left(0), dumps)
                return evaluate(lease.trial, deadline)
        except TimedOut:
            assert deadline is not None
            return timed_out(timeout or 0.0, deadline.seconds)
        except (LeaseLost, KilledFromOutside):
            return None
        except (OSError, MemoryError) as error:  # of what is around the evaluation
            doing = f"trial {lease.trial.id} on {socket.gethostname()}"
            raise host_error(error, doing) from error


class _Room:
    """For several children of a process, or for one suspect without them: what they hold of a GPU's
    memory could convict it."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._children = 0
        self.wanted_alone = 0  # by so many suspects
        self._alone = False

    @contextmanager
    def taken(self, alone: bool, waiting: Callable[[], None]) -> Iterator[None]:
        """`waiting` is called every second until there is room."""
        with self._free:
            self.wanted_alone += alone
            try:
                while self._alone or (alone and self._children):
                    self._free.wait(BEAT_SECONDS)
                    waiting()
            except BaseException:
                self.wanted_alone -= alone
                raise
            self._alone = alone
            self._children += 1
        try:
            yield
        finally:
            with self._free:
                self.wanted_alone -= alone
                self._alone = self._alone and not alone
                self._children -= 1
                self._free.notify_all()


class _Beat:
    """Renews a lease at most once in BEAT_SECONDS, without waiting, and says how long its child has
    `waited` for others; raises LeaseLost when an earlier answer says that the lease has ended."""

    def __init__(self, queue: Any, lease: int, waited: Seconds) -> None:
        self.queue = queue
        self.lease = lease
        self.waited = waited
        self.last = time.monotonic()
        self.answer: Any = None

    def __call__(self, step: int) -> None:
        if time.monotonic() - self.last < BEAT_SECONDS:
            return
        import ray

        self.last = time.monotonic()
        if self.answer is not None:
            ready, _ = ray.wait([self.answer], timeout=0)
            if ready and not ray.get(self.answer):
                raise LeaseLost
        self.answer = self.queue.beat.remote(self.lease, step, self.waited())
