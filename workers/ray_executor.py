"""RayExecutor: candidates to the workers of a Ray and outcomes back, without ever waiting for Ray.

The driver keeps a few candidates a worker in the queue and collects what is completed. All that
talks to Ray is a `RayPool` in a thread of its own (`RayThread`): the caller never waits for it
longer than it says. A cluster whose head is gone ends the search, before Ray ends the process.
Ray starts with the first RayExecutor, not with the import of this module.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any

from actsearch.results.records import Trial
from actsearch.workers.executor import Child, ClusterLostError, Evaluate, ExecutorError, Finished
from actsearch.workers.ray_head import ANSWER_SECONDS, HEAD_SECONDS, Head
from actsearch.workers.ray_pool import RayPool, Wanted
from actsearch.workers.ray_start import check_cluster
from actsearch.workers.ray_thread import RayThread

log = logging.getLogger("actsearch.workers")

AHEAD = 2  # candidates a worker that wait in the queue
POLL_SECONDS = 0.05, 0.3  # between looks: at first, and at most where nothing finishes
START_SECONDS = 300.0  # for Ray to start; a local one gives up by itself, earlier
CLOSE_SECONDS = 20.0


class RayExecutor:
    """Trains on a local Ray, or on the cluster at `address`.

    `workers` is their number: by default one a core, or `workers_per_gpu` a GPU where Ray sees any,
    and on a cluster more as machines join, but never more than `most`. Each trains `children` at
    once, for which `evaluate` must be one that threads can share (None: as many as suit its share
    of a GPU, one without). `options` are those of RayPool: `gpus`; `timeout`, the seconds that a
    child may take; `queue_class` and `worker_class`, which Ray unpickles by name on the workers, so
    that the front door hands in its own. Raises ExecutorError where Ray cannot be reached or cannot
    place the workers.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        *,
        workers: int | None = None,
        workers_per_gpu: int | None = None,
        most: int | None = None,
        children: int | None = 1,
        address: str | None = None,
        **options: Any,
    ) -> None:
        if address is not None:
            check_cluster(address)
        wanted = Wanted(workers, workers_per_gpu, most, children)
        self._pool = RayPool(wanted, address=address, **options)
        self._in_flight = 0
        self._running = 0
        self._pause = POLL_SECONDS[0]
        self._look: Future[tuple[list[Finished], int]] | None = None
        self._hold: Future[None] | None = None
        self._look_is_late = False  # asked for after `hold`
        self._fault: ClusterLostError | None = None  # after what had finished is returned
        self._closed = False
        self._thread = RayThread()
        self._head: Head | None = None
        try:
            started = self._thread.start(lambda: self._pool.begin(evaluate))
            self._head = Head(started.result(START_SECONDS if address is None else HEAD_SECONDS))
        except FutureTimeoutError as error:
            self.close()
            where = f"Ray at {address}" if address else "a local Ray"
            raise ExecutorError(
                f"cannot reach {where}: it is silent. Without Ray, --executor inline trains in "
                "this process."
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        return self._pool.size.workers

    @property
    def lost(self) -> int:
        """Workers that died."""
        return self._pool.lost

    @property
    def free(self) -> int:
        return self.workers * self._pool.size.children * (1 + AHEAD) - self._in_flight

    @property
    def running(self) -> int:
        """At the last look whose findings were returned; after `hold` at least one until a later
        look says how many are left."""
        return self._running

    @property
    def children(self) -> Sequence[Child]:
        """At a look some seconds ago."""
        return self._pool.children

    @property
    def trouble(self) -> str:
        if self._head is not None and self._head.trouble:
            return self._head.trouble
        since = self._pool.queue_silent_since
        if since is None:
            return ""
        silent = time.monotonic() - since
        return f"the queue's process has been silent for {silent:.0f} s, and is then made again"

    @property
    def description(self) -> str:
        plural = "s" * (self.workers != 1)
        gpus = round(self.workers * self._pool.size.gpu_share)
        where = f" on {gpus} GPU{'s' * (gpus != 1)}" if gpus else ""
        children = self._pool.size.children
        each = f", {children} children each" if children > 1 else ""
        return f"{self.workers} worker{plural}{where}{each}"

    def submit(self, trial: Trial) -> None:
        self._in_flight += 1
        self._thread.start(lambda: self._pool.put(trial))

    def hold(self) -> None:
        self._running = max(1, self._running)
        self._hold = self._thread.start(self._pool.hold)
        self._wait_for(self._hold, ANSWER_SECONDS)

    def completed(self, timeout: float) -> list[Finished]:
        deadline = time.monotonic() + timeout
        while True:
            finished = self._finished(max(0.0, deadline - time.monotonic()))
            shortest, longest = POLL_SECONDS
            self._pause = shortest if finished else min(1.5 * self._pause, longest)
            left = deadline - time.monotonic()
            if finished or left <= 0:
                self._in_flight -= len(finished)
                return finished
            time.sleep(min(self._pause, left))

    def _finished(self, seconds: float) -> list[Finished]:
        """What a look at workers and queue finds; nothing where it takes longer than `seconds`, and
        the next call waits on."""
        if self._hold is not None and self._hold.done():
            self._hold.result()
        if self._look is None:
            if (fault := self._pool.fault or self._fault) is not None:
                raise fault
            self._pool.heard = time.monotonic()
            self._look = self._thread.start(self._pool.look_around)
            self._look_is_late = self._hold is not None
        self._wait_for(self._look, seconds)
        if not self._look.done():
            self._check_head()
            return []
        look, self._look = self._look, None
        failed = look.exception() is not None
        try:
            self._check_head(at_once=failed)  # its loss would explain all others
        except ClusterLostError as error:
            if failed or not look.result()[0]:
                raise
            self._fault = error
        finished, running = look.result()
        if self._look_is_late or self._hold is None:
            self._running = running
        return finished

    def _wait_for(self, future: Future[Any], seconds: float) -> None:
        """Until it is done, with or without success."""
        with suppress(FutureTimeoutError):
            future.exception(seconds)

    def _check_head(self, *, at_once: bool = False) -> None:
        """Raises ClusterLostError where the head, or Ray on this machine, is gone or silent."""
        assert self._head is not None
        try:
            self._head.look(at_once=at_once)
            silent = time.monotonic() - self._pool.heard
            if self._look is not None and not self._look.done() and silent >= HEAD_SECONDS:
                raise self._head.lost(f"or Ray on this machine has been silent for {silent:.0f} s")
        except ClusterLostError:
            self._pool.closing = True
            raise

    def close(self) -> None:
        """Where Ray does not answer, it is left as it is."""
        if self._closed:
            return
        stuck = self._pool.closing or (self._head is not None and self._head.trouble)
        self._pool.closing = self._closed = True
        ended = self._thread.start(self._pool.end)
        self._thread.end()
        try:
            error = ended.exception(0.0 if stuck else CLOSE_SECONDS)
            if error is not None:
                log.warning("Ray did not shut down well", exc_info=error)
        except FutureTimeoutError:
            self._thread.leave()
        except BaseException:  # Ctrl-C
            self._thread.leave()
            raise
