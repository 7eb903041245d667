"""RayExecutor: worker actors that pull candidates from a queue actor.

The driver keeps a few candidates a worker in the queue and collects what is completed. Workers and
queue are actors that Ray never restarts and whose calls it never retries (its retries ran side
effects twice): a worker that dies gives its lease back at once and is replaced; a queue that dies
or falls silent is made again, on this machine, from what the driver has submitted; a cluster whose
head is gone ends the search, before Ray ends the process. Ray starts with the first RayExecutor,
not with the import of this module.

All that talks to Ray runs in one thread of its own (`RayThread`), to which alone the fields below
`_begin` belong; the caller never waits for it longer than it says.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any

from actsearch.results.records import (
    DeviceLostError,
    HostError,
    Trial,
)
from actsearch.workers.candidate_queue import CandidateQueue
from actsearch.workers.executor import (
    ClusterLostError,
    Evaluate,
    ExecutorError,
    Finished,
    UnfitError,
    children_at_once,
    timed_out,
)
from actsearch.workers.ray_head import ANSWER_SECONDS, HEAD_SECONDS, Head
from actsearch.workers.ray_start import check_cluster, start_ray
from actsearch.workers.ray_thread import RayThread
from actsearch.workers.ray_worker import Worker

log = logging.getLogger("actsearch.workers")

AHEAD = 2  # candidates a worker that wait in the queue
POLL_SECONDS = 0.05, 0.3  # between looks: at first, and at most where nothing finishes
QUEUE_SECONDS = 30.0  # a queue that is silent for longer is made again, and is given twice as long
MAX_SILENT = 3  # queues that were silent, one after the other
START_SECONDS = 300.0  # for Ray to start; a local one gives up by itself, earlier
CLOSE_SECONDS = 20.0
GRACE_SECONDS = 5.0  # beyond the timeout, for a child that hears no beat
GROW_SECONDS = 5.0  # between looks at what has joined the cluster
STILLBORN = 6  # workers that died in a row before they leased anything, and
STILLBORN_SECONDS = 60.0  # for how long: where workers are killed all the time, some come through


class _QueueSilentError(Exception):
    """The queue's process does not answer."""


class _Closing(Exception):
    """Nobody waits for the answer any more."""


class RayExecutor:
    """Trains on a local Ray, or on the cluster at `address`.

    `workers` is their number: by default one a core, or `workers_per_gpu` a GPU where Ray sees any,
    and on a cluster more as machines join, but never more than `most`. Each trains `children` at
    once, for which `evaluate` must be one that threads can share (None: as many as suit its share
    of a GPU, one without). `gpus` are those of this machine that children can use (None: those that
    Ray sees). A child may take `timeout` seconds.
    `queue_class` and `worker_class` are what Ray unpickles by name on the workers; the front door
    hands in its own. Raises ExecutorError where Ray cannot be reached or cannot place the workers.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        *,
        workers: int | None = None,
        workers_per_gpu: int | None = None,
        children: int | None = 1,
        address: str | None = None,
        gpus: int | None = None,
        timeout: float | None = None,
        most: int | None = None,
        queue_class: type[CandidateQueue] = CandidateQueue,
        worker_class: type[Worker] = Worker,
    ) -> None:
        if address is not None:
            check_cluster(address)
        import ray

        self._ray: Any = ray
        self._queue_class = ray.remote(queue_class)
        self._worker_class = ray.remote(worker_class)  # once: each call makes a class that stays
        self._code = worker_class().code()
        self._address = address
        self._timeout = timeout
        self._asked_for = workers, workers_per_gpu
        self._children_asked_for = children
        self._most = most
        self._children = children or 1
        self._looked = time.monotonic()
        self._killed: set[str] = set()  # workers that this driver has killed
        self._refused: set[str] = set()  # nodes that cannot take part
        self._lost: Counter[int] = Counter()  # workers that a candidate has lost
        self._outstanding: dict[int, Trial] = {}
        self._workers: dict[str, Any] = {}
        self._futures: dict[Any, str] = {}
        self._queue: Any = None
        self._spawned = 0
        self._stillborn = 0
        self._alive = time.monotonic()  # when a worker was last known to do something
        self._leased = 0
        self._holding = False  # nothing more is to be started
        # To be raised when all that had finished is returned:
        self._fault: HostError | ExecutorError | ClusterLostError | None = None
        self._silent = 0  # queues that were given up, since one has answered
        self.workers, self._gpu_share = 0, 0.0
        self.lost = 0  # workers that died
        # Of the caller's thread:
        self._in_flight = 0
        self._running = 0
        self._pause = POLL_SECONDS[0]
        self._look: Future[tuple[list[Finished], int]] | None = None
        self._hold: Future[None] | None = None
        self._look_is_late = False  # asked for after `hold`
        self._closing = False
        self._closed = False
        # Of both:
        self._heard = time.monotonic()  # when Ray last gave an answer
        self._queue_since: float | None = None  # how long the queue has been silent
        self._owns_ray = not ray.is_initialized()
        self._thread = RayThread()
        self._head: Head | None = None
        try:
            started = self._thread.start(lambda: self._begin(evaluate, gpus))
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

    def _begin(self, evaluate: Evaluate, gpus: int | None) -> str:
        """Ray with queue and workers; returns the address of its head."""
        if self._owns_ray:
            start_ray(self._address, gpus)
        context = self._ray.get_runtime_context()
        self._node = context.get_node_id()
        self._size()
        self._evaluate = self._ray.put(evaluate)
        self._make_queue()
        self._make_workers()
        return context.gcs_address

    def _size(self) -> None:
        workers, self._gpu_share = self._plan(*self._asked_for)
        self.workers = workers if self._most is None else min(workers, max(1, self._most))
        self._children = self._children_asked_for or children_at_once(self._gpu_share)

    def _plan(self, workers: int | None, per_gpu: int | None) -> tuple[int, float]:
        """How many workers, and the share of a GPU for each; compared with what there is."""
        nodes = [n for n in self._ray.nodes() if n["Alive"] and n["NodeID"] not in self._refused]
        cpus, gpus = (int(sum(n["Resources"].get(r, 0) for n in nodes)) for r in ("CPU", "GPU"))
        if per_gpu is not None and gpus == 0:
            raise ExecutorError(
                f"asked for {per_gpu} workers per GPU, but Ray sees no GPU ({cpus} CPUs). "
                f"Use --workers {max(1, cpus)}."
            )
        if gpus:
            per_gpu = per_gpu or -(-(workers or 0) // gpus) or 1  # as many as were asked for
            share = 1.0 / per_gpu
            workers = workers or gpus * per_gpu
            places = min(cpus, gpus * per_gpu)
        else:
            share, workers, places = 0.0, workers or max(1, cpus), cpus
        if workers > places:
            raise ExecutorError(
                f"{workers} workers do not fit: Ray sees {cpus} CPUs and {gpus} GPUs, room for "
                f"{places}. Use --workers {places}"
                + (", or more --workers-per-gpu." if gpus else ".")
            )
        return workers, share

    def _make_queue(self) -> None:
        """On this machine, so that no other's silence is the queue's. Ray would send an actor that
        wants no resource by way of a random machine, hence the byte."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._queue_since = None
        self._queue = self._queue_class.options(
            num_cpus=0,
            memory=1,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._node, soft=False),
        ).remote()
        for trial in self._outstanding.values():
            self._queue.put.remote(trial, self._lost[trial.id])

    def _grow(self) -> None:
        """As many workers as the cluster has room for by now, where no number was asked for."""
        if self._address is None or self._asked_for[0] is not None:
            return
        if time.monotonic() - self._looked >= GROW_SECONDS:
            self._resize()

    def _resize(self) -> None:
        self._looked = time.monotonic()
        before = self.workers
        self._size()
        if self.workers != before:
            log.info("the cluster has room for %d workers", self.workers)

    def _make_workers(self) -> None:
        refused = ",".join(sorted(self._refused))
        elsewhere = {"ray.io/node-id": f"!in({refused})"} if refused else None
        while len(self._workers) < self.workers:
            self._spawned += 1
            name = f"w{self._spawned}"
            worker: Any = self._worker_class.options(
                num_cpus=1,
                num_gpus=self._gpu_share,
                max_restarts=0,
                max_task_retries=0,
                label_selector=elsewhere,
            ).remote()
            self._workers[name] = worker
            machinery = self._timeout, self._code, self._children
            run = worker.run.remote(self._queue, name, self._evaluate, *machinery)
            self._futures[run] = name

    @property
    def free(self) -> int:
        return self.workers * self._children * (1 + AHEAD) - self._in_flight

    @property
    def running(self) -> int:
        """At the last look whose findings were returned; after `hold` at least one until a later
        look says how many are left."""
        return self._running

    @property
    def trouble(self) -> str:
        if self._head is not None and self._head.trouble:
            return self._head.trouble
        since = self._queue_since
        if since is None:
            return ""
        silent = time.monotonic() - since
        return f"the queue's process has been silent for {silent:.0f} s, and is then made again"

    @property
    def description(self) -> str:
        plural = "s" * (self.workers != 1)
        gpus = round(self.workers * self._gpu_share)
        where = f" on {gpus} GPU{'s' * (gpus != 1)}" if gpus else ""
        each = f", {self._children} children each" if self._children > 1 else ""
        return f"{self.workers} worker{plural}{where}{each}"

    def submit(self, trial: Trial) -> None:
        self._in_flight += 1
        self._thread.start(lambda: self._put(trial))

    def _put(self, trial: Trial) -> None:
        self._outstanding[trial.id] = trial
        self._queue.put.remote(trial)

    def hold(self) -> None:
        self._running = max(1, self._running)
        self._hold = self._thread.start(self._hold_queue)
        self._wait_for(self._hold, ANSWER_SECONDS)

    def _hold_queue(self) -> None:
        self._holding = True

        def hold() -> None:
            self._leased = self._call(self._queue.hold.remote())

        self._mending(hold)

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
            if self._fault is not None:
                raise self._fault
            self._heard = time.monotonic()
            self._look = self._thread.start(self._look_around)
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
            silent = time.monotonic() - self._heard
            if self._look is not None and not self._look.done() and silent >= HEAD_SECONDS:
                raise self._head.lost(f"or Ray on this machine has been silent for {silent:.0f} s")
        except ClusterLostError:
            self._closing = True
            raise

    def _look_around(self) -> tuple[list[Finished], int]:
        """What has finished, and how many are being trained."""
        finished: list[Finished] = []

        def look() -> None:
            try:
                self._replace_dead_workers()
                self._grow()
            except (HostError, ExecutorError) as error:
                self._fault = error
            finished.extend(self._collect())

        self._mending(look)
        return finished, self._leased

    def _mending(self, ask: Callable[[], Any]) -> None:
        """Ask the queue; one that is dead or silent is made again."""
        try:
            ask()
        except (self._ray.exceptions.RayActorError, _QueueSilentError) as error:
            self._rebuild(error)
        except self._ray.exceptions.ActorUnschedulableError as error:
            raise ClusterLostError(
                "Ray's node on this machine is gone. All that had finished is stored; when Ray "
                "runs here again, the same command goes on."
            ) from error

    def _collect(self) -> list[Finished]:
        self._queue.reclaim.remote()
        if self._timeout is not None:
            self._kill_overdue(self._timeout)
        drained, self._leased = self._call(self._queue.drain.remote())
        finished = [(t, o) for t, o in drained if self._outstanding.pop(t.id, None) is not None]
        if self._leased or finished:
            self._stillborn, self._alive = 0, time.monotonic()
        return finished

    def _kill_overdue(self, timeout: float) -> None:
        """End the workers whose child is over its time and hears no beat, as in a call to C. Where
        several share a worker, one that is stuck in its turn silences the others; so all of them
        wait again, to be tried alone."""
        longest = timeout + GRACE_SECONDS * self._children  # others' turns come between beats
        for lease in self._call(self._queue.overdue.remote(longest)):
            if lease.worker in self._killed:
                continue
            if self._children == 1:
                outcome = timed_out(timeout, longest, lease.step or None)
                if not self._call(self._queue.complete.remote(lease.number, outcome)):
                    continue
            log.warning("trial %d is over its time and stuck; its worker ends", lease.trial.id)
            self._killed.add(lease.worker)
            if lease.worker in self._workers:
                self._kill(self._workers[lease.worker])

    def _call(self, ref: Any) -> Any:
        """The answer of the queue; raises _QueueSilentError where none comes."""
        begun = time.monotonic()
        patience = QUEUE_SECONDS * 2**self._silent
        while True:
            try:
                answer = self._ray.get(ref, timeout=ANSWER_SECONDS)
                self._silent, self._queue_since = 0, None
                return answer
            except self._ray.exceptions.GetTimeoutError as error:
                self._queue_since = begun
                if self._closing:
                    raise _Closing from error
                if time.monotonic() - begun >= patience:
                    raise _QueueSilentError(f"silent for {patience:g} s") from error
            finally:
                self._heard = time.monotonic()

    def _replace_dead_workers(self) -> None:
        ended, _ = self._ray.wait(list(self._futures), num_returns=len(self._futures), timeout=0)
        for future in ended:
            name = self._futures.pop(future)
            worker = self._workers.pop(name)
            error = _error_of(self._ray, future)
            if error is None:
                self._kill(worker)
                continue
            returned = self._call(self._queue.release.remote(name))
            if isinstance(error, self._ray.exceptions.RayTaskError):
                if not isinstance(getattr(error, "cause", None), DeviceLostError):
                    self._explain(error)
                    continue
                self._kill(worker)
            self.lost += 1
            log.warning("worker %s died: %s", name, error)
            self._lost.update(trial.id for trial in returned)
            log.warning("%d candidate(s) of worker %s back in the queue", len(returned), name)
            expected = returned or name in self._killed
            self._stillborn = 0 if expected else self._stillborn + 1
            silent = time.monotonic() - self._alive
            if self._stillborn >= STILLBORN and silent >= STILLBORN_SECONDS:
                raise ExecutorError(f"workers die as they start; the last one: {error}") from error
        self._make_workers()

    def _explain(self, error: Any) -> None:
        """A worker's loop raised: because its queue died, because its machine cannot take part and
        is to be left out, because its disk or data fail, or because something is broken."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, UnfitError):
            self._refuse(cause)
            return
        known = self._ray.exceptions.RayActorError, ExecutorError, HostError
        ours = isinstance(cause, known)
        if ours and isinstance(cause, Exception):
            raise cause
        raise ExecutorError(f"a worker failed outside its child: {error}") from error

    def _refuse(self, error: UnfitError) -> None:
        """Go on without a machine that cannot take part; raises it where there is no other."""
        if error.node not in self._refused:
            self._refused.add(error.node)
            log.warning("%s; the search goes on without it", error)
        try:
            self._resize()
        except ExecutorError:
            raise error from None

    def _rebuild(self, error: Exception) -> None:
        """The queue is gone: workers hold its leases, so they go too; all is submitted again, or
        after `hold` nothing, and the next search trains it. What the former queue still learns,
        nobody asks it."""
        log.warning("the queue died (%s); made again with its candidates", error, exc_info=error)
        if isinstance(error, _QueueSilentError):
            self._silent += 1
            self._kill(self._queue)
        if self._silent >= MAX_SILENT:
            raise ClusterLostError(
                f"{MAX_SILENT} queues, one after the other, have not answered; is this machine "
                "overloaded? All that had finished is stored, and the same command goes on."
            ) from error
        self._kill_workers()
        if self._holding:
            self._outstanding.clear()
        self._leased = 0
        self._make_queue()
        self._make_workers()

    def _kill_workers(self) -> None:
        for worker in self._workers.values():
            self._kill(worker)
        self._workers.clear()
        self._futures.clear()

    def _kill(self, actor: Any) -> None:
        """Also one that is dead already or not made yet, which Ray calls an error."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)

    def close(self) -> None:
        """Where Ray does not answer, it is left as it is."""
        if self._closed:
            return
        stuck = self._closing or (self._head is not None and self._head.trouble)
        self._closing = self._closed = True
        ended = self._thread.start(self._end)
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

    def _end(self) -> None:
        if not self._ray.is_initialized():
            return
        self._kill_workers()
        if self._queue is not None:
            self._kill(self._queue)
        if self._owns_ray:
            self._ray.shutdown()


def _error_of(ray: Any, future: Any) -> Exception | None:
    """Why a worker's loop ended, None where it returned."""
    try:
        ray.get(future)
    except Exception as error:
        return error
    return None
