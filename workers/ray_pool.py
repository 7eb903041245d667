"""RayPool: a queue actor and the worker actors that pull candidates from it.

Workers and queue are actors that Ray never restarts and whose calls it never retries (its retries
ran side effects twice): a worker that dies gives its lease back at once and is replaced; a queue
that dies or falls silent is made again, on this machine, from what was submitted. All methods talk
to Ray, and all are called in one thread (`RayThread`); others read what has no underscore.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from actsearch.results.records import DeviceLostError, HostError, Trial
from actsearch.workers.candidate_queue import CandidateQueue
from actsearch.workers.executor import (
    Child,
    ClusterLostError,
    Evaluate,
    ExecutorError,
    Finished,
    UnfitError,
    children_at_once,
    timed_out,
)
from actsearch.workers.ray_head import ANSWER_SECONDS
from actsearch.workers.ray_start import start_ray
from actsearch.workers.ray_worker import Worker

log = logging.getLogger("actsearch.workers")

QUEUE_SECONDS = 30.0  # a queue that is silent for longer is made again, and is given twice as long
MAX_SILENT = 3  # queues that were silent, one after the other
GRACE_SECONDS = 5.0  # beyond the timeout, for a child that hears no beat
GROW_SECONDS = 5.0  # between looks at what has joined the cluster
CHILDREN_SECONDS = 2.0  # between looks at who trains what
STILLBORN = 6  # workers that died in a row before they leased anything, and
STILLBORN_SECONDS = 60.0  # for how long: where workers are killed all the time, some come through


class _QueueSilentError(Exception):
    """The queue's process does not answer."""


class _Closing(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for: `workers`, or so many `per_gpu` (None: one a core or a GPU, and on a
    cluster more as machines join, but never more than `most`), each with so many `children` at once
    (None: as many as suit its share of a GPU)."""

    workers: int | None = None
    per_gpu: int | None = None
    most: int | None = None
    children: int | None = 1


@dataclass(frozen=True)
class Size:
    """How many workers, the share of a GPU for each, and how many children each trains at once."""

    workers: int
    gpu_share: float
    children: int


def size_on(cpus: int, gpus: int, wanted: Wanted) -> Size:
    """What was wanted, on a cluster with so many of both; raises ExecutorError where it does not
    fit."""
    workers, per_gpu = wanted.workers, wanted.per_gpu
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
            f"{places}. Use --workers {places}" + (", or more --workers-per-gpu." if gpus else ".")
        )
    workers = workers if wanted.most is None else min(workers, max(1, wanted.most))
    return Size(workers, share, wanted.children or children_at_once(share))


class RayPool:
    """Of a local Ray, or of the cluster at `address`. `code` is what workers compare theirs with;
    `gpus` are those of this machine that children can use (None: those that Ray sees)."""

    def __init__(
        self,
        wanted: Wanted,
        *,
        address: str | None = None,
        gpus: int | None = None,
        timeout: float | None = None,
        queue_class: type[CandidateQueue] = CandidateQueue,
        worker_class: type[Worker] = Worker,
    ) -> None:
        import ray

        self._ray: Any = ray
        self._owns_ray = not ray.is_initialized()
        self._queue_class = ray.remote(queue_class)
        self._worker_class = ray.remote(worker_class)  # once: each call makes a class that stays
        self._code = worker_class().code()
        self._wanted = wanted
        self._address = address
        self._gpus = gpus
        self._timeout = timeout
        self._looked = time.monotonic()  # at what the cluster has room for
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
        self._silent = 0  # queues that were given up, since one has answered
        self.size = Size(0, 0.0, wanted.children or 1)
        self.lost = 0  # workers that died
        self.heard = time.monotonic()  # when Ray last gave an answer
        self.queue_silent_since: float | None = None
        self.fault: HostError | ExecutorError | None = None  # after what had finished is returned
        self.children: Sequence[Child] = ()
        self._noted = -CHILDREN_SECONDS
        self.closing = False  # set by others: nobody waits for an answer any more

    def begin(self, evaluate: Evaluate) -> str:
        """Ray with queue and workers; returns the address of its head. Raises ExecutorError where
        Ray cannot be reached or cannot place the workers."""
        if self._owns_ray:
            start_ray(self._address, self._gpus)
        context = self._ray.get_runtime_context()
        self._node = context.get_node_id()
        self.size = self._room()
        self._evaluate = self._ray.put(evaluate)
        self._make_queue()
        self._make_workers()
        return context.gcs_address

    def put(self, trial: Trial) -> None:
        self._outstanding[trial.id] = trial
        self._queue.put.remote(trial)

    def hold(self) -> None:
        """Start nothing more."""
        self._holding = True

        def hold() -> None:
            self._leased = self._call(self._queue.hold.remote())

        self._mending(hold)

    def look_around(self) -> tuple[list[Finished], int]:
        """What has finished, and how many are being trained."""
        finished: list[Finished] = []

        def look() -> None:
            try:
                self._replace_dead_workers()
                self._grow()
            except (HostError, ExecutorError) as error:
                self.fault = error
            finished.extend(self._collect())
            self._note_children()

        self._mending(look)
        return finished, self._leased

    def end(self) -> None:
        """Workers, queue, and a Ray that this pool has started."""
        if not self._ray.is_initialized():
            return
        self._kill_workers()
        if self._queue is not None:
            self._kill(self._queue)
        if self._owns_ray:
            self._ray.shutdown()

    def _room(self) -> Size:
        nodes = [n for n in self._ray.nodes() if n["Alive"] and n["NodeID"] not in self._refused]
        cpus, gpus = (int(sum(n["Resources"].get(r, 0) for n in nodes)) for r in ("CPU", "GPU"))
        return size_on(cpus, gpus, self._wanted)

    def _make_queue(self) -> None:
        """On this machine, so that no other's silence is the queue's. Ray would send an actor that
        wants no resource by way of a random machine, hence the byte."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.queue_silent_since = None
        self._queue = self._queue_class.options(
            num_cpus=0,
            memory=1,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._node, soft=False),
        ).remote()
        for trial in self._outstanding.values():
            self._queue.put.remote(trial, self._lost[trial.id])

    def _make_workers(self) -> None:
        refused = ",".join(sorted(self._refused))
        elsewhere = {"ray.io/node-id": f"!in({refused})"} if refused else None
        while len(self._workers) < self.size.workers:
            self._spawned += 1
            name = f"w{self._spawned}"
            worker: Any = self._worker_class.options(
                num_cpus=1,
                num_gpus=self.size.gpu_share,
                max_restarts=0,
                max_task_retries=0,
                label_selector=elsewhere,
            ).remote()
            self._workers[name] = worker
            machinery = self._timeout, self._code, self.size.children
            run = worker.run.remote(self._queue, name, self._evaluate, *machinery)
            self._futures[run] = name

    def _grow(self) -> None:
        """As many workers as the cluster has room for by now, where no number was asked for."""
        if self._address is None or self._wanted.workers is not None:
            return
        if time.monotonic() - self._looked >= GROW_SECONDS:
            self._resize()

    def _resize(self) -> None:
        self._looked = time.monotonic()
        before, self.size = self.size, self._room()
        if self.size != before:
            log.info("the cluster has room for %d workers", self.size.workers)

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

    def _note_children(self) -> None:
        """What each worker trains, not at every look, since thousands may."""
        if time.monotonic() - self._noted < CHILDREN_SECONDS:
            return
        found = self._call(self._queue.children.remote())
        self._noted = time.monotonic()
        self.children = [
            Child(self._outstanding[trial], worker, step, seconds)
            for trial, worker, step, seconds in found
            if trial in self._outstanding
        ]

    def _kill_overdue(self, timeout: float) -> None:
        """End the workers whose child is over its time and hears no beat, as in a call to C. Where
        several share a worker, one that is stuck in its turn silences the others; so all of them
        wait again, to be tried alone."""
        longest = timeout + GRACE_SECONDS * self.size.children  # others' turns come between beats
        for lease in self._call(self._queue.overdue.remote(longest)):
            if lease.worker in self._killed:
                continue
            if self.size.children == 1:
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
                self._silent, self.queue_silent_since = 0, None
                return answer
            except self._ray.exceptions.GetTimeoutError as error:
                self.queue_silent_since = begun
                if self.closing:
                    raise _Closing from error
                if time.monotonic() - begun >= patience:
                    raise _QueueSilentError(f"silent for {patience:g} s") from error
            finally:
                self.heard = time.monotonic()

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


def _error_of(ray: Any, future: Any) -> Exception | None:
    """Why a worker's loop ended, None where it returned."""
    try:
        ray.get(future)
    except Exception as error:
        return error
    return None
