"""RayExecutor: worker actors that pull candidates from a queue actor. The one module that imports
Ray.

The driver keeps a few candidates a worker in the queue and collects what is completed. Workers and
queue are actors that Ray never restarts and whose calls it never retries (its retries ran side
effects twice): a worker that dies gives its lease back at once and is replaced; a queue that dies
is made again from what the driver has submitted. Ray starts with the first RayExecutor, not with
the import of this module.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from results.records import Trial
from workers.candidate_queue import CandidateQueue
from workers.executor import Evaluate, ExecutorError, Finished

log = logging.getLogger("actsearch.workers")

AHEAD = 2  # candidates a worker that wait in the queue
POLL_SECONDS = 0.05
IDLE_SECONDS = 0.05
BEAT_SECONDS = 1.0
CALL_SECONDS = 60.0  # no call to the queue takes longer unless something is broken
STILLBORN = 6  # workers that died in a row before they leased anything


class Worker:
    """The body of a worker actor: lease, evaluate, complete, for ever."""

    def run(self, queue: Any, name: str, evaluate: Evaluate) -> None:
        import ray

        while True:
            leased = ray.get(queue.lease.remote(name))
            if leased is None:
                time.sleep(IDLE_SECONDS)
                continue
            lease, trial = leased
            outcome = evaluate(trial, _Beat(queue, lease))
            ray.get(queue.complete.remote(lease, outcome))


class _Beat:
    """Renews a lease at most once in BEAT_SECONDS, without waiting for the answer."""

    def __init__(self, queue: Any, lease: int) -> None:
        self.queue = queue
        self.lease = lease
        self.last = time.monotonic()

    def __call__(self, step: int) -> None:
        if time.monotonic() - self.last >= BEAT_SECONDS:
            self.last = time.monotonic()
            self.queue.beat.remote(self.lease, step)


class RayExecutor:
    """Trains on a local Ray, or on the cluster at `address`.

    `workers` is their number: by default one a core, or `workers_per_gpu` a GPU where Ray sees any.
    `queue_class` and `worker_class` are what Ray unpickles by name on the workers; the front door
    hands in its own. Raises ExecutorError where Ray cannot be reached or cannot place the workers.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        *,
        workers: int | None = None,
        workers_per_gpu: int | None = None,
        address: str | None = None,
        queue_class: type[CandidateQueue] = CandidateQueue,
        worker_class: type[Worker] = Worker,
    ) -> None:
        if address is not None:
            _check_listening(address)
            _offer_token()
        import ray

        self._ray: Any = ray
        self._queue_class = queue_class
        self._worker_class = worker_class
        self._outstanding: dict[int, Trial] = {}
        self._workers: dict[str, Any] = {}
        self._futures: dict[Any, str] = {}
        self._spawned = 0
        self._stillborn = 0
        self._leased = 0
        self.lost = 0  # workers that died
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _start_ray(address, workers)
        try:
            self.workers, self._gpu_share = self._plan(workers, workers_per_gpu)
            self._evaluate = ray.put(evaluate)
            self._make_queue()
            self._make_workers()
        except BaseException:
            self.close()
            raise

    def _plan(self, workers: int | None, per_gpu: int | None) -> tuple[int, float]:
        """How many workers, and the share of a GPU for each; compared with what there is."""
        resources = self._ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if per_gpu is not None and gpus == 0:
            raise ExecutorError(
                f"asked for {per_gpu} workers per GPU, but Ray sees no GPU ({cpus} CPUs). "
                f"Use --workers {max(1, cpus)}."
            )
        if gpus:
            share = 1.0 / (per_gpu or 1)
            workers = workers or gpus * (per_gpu or 1)
            places = min(cpus, gpus * (per_gpu or 1))
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
        actor: Any = self._ray.remote(self._queue_class)
        self._queue = actor.options(num_cpus=0, max_restarts=0, max_task_retries=0).remote()
        for trial in self._outstanding.values():
            self._queue.put.remote(trial)

    def _make_workers(self) -> None:
        actor: Any = self._ray.remote(self._worker_class)
        while len(self._workers) < self.workers:
            self._spawned += 1
            name = f"w{self._spawned}"
            worker = actor.options(
                num_cpus=1, num_gpus=self._gpu_share, max_restarts=0, max_task_retries=0
            ).remote()
            self._workers[name] = worker
            self._futures[worker.run.remote(self._queue, name, self._evaluate)] = name

    @property
    def free(self) -> int:
        return self.workers * (1 + AHEAD) - len(self._outstanding)

    @property
    def running(self) -> int:
        return self._leased

    @property
    def description(self) -> str:
        plural = "s" * (self.workers != 1)
        gpus = round(self.workers * self._gpu_share)
        where = f" on {gpus} GPU{'s' * (gpus != 1)}" if gpus else ""
        return f"{self.workers} worker{plural}{where}"

    def submit(self, trial: Trial) -> None:
        self._outstanding[trial.id] = trial
        self._queue.put.remote(trial)

    def hold(self) -> None:
        self._leased = self._call(self._queue.hold.remote())

    def completed(self, timeout: float) -> list[Finished]:
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._replace_dead_workers()
                finished = self._collect()
            except self._ray.exceptions.RayActorError as error:
                self._rebuild(error)
                finished = []
            if finished or time.monotonic() >= deadline:
                return finished
            time.sleep(POLL_SECONDS)

    def _collect(self) -> list[Finished]:
        self._queue.reclaim.remote()
        drained, self._leased = self._call(self._queue.drain.remote())
        finished = [(t, o) for t, o in drained if self._outstanding.pop(t.id, None) is not None]
        self._stillborn = 0 if finished else self._stillborn
        return finished

    def _call(self, ref: Any) -> Any:
        return self._ray.get(ref, timeout=CALL_SECONDS)

    def _replace_dead_workers(self) -> None:
        ended, _ = self._ray.wait(list(self._futures), num_returns=len(self._futures), timeout=0)
        for future in ended:
            name = self._futures.pop(future)
            del self._workers[name]
            error = _error_of(self._ray, future)
            if isinstance(error, self._ray.exceptions.RayTaskError):
                raise ExecutorError(f"a worker failed outside its child: {error}") from error
            self.lost += 1
            returned = self._call(self._queue.release.remote(name))
            log.warning("worker %s died, %d candidate(s) back in the queue", name, len(returned))
            self._stillborn = 0 if returned else self._stillborn + 1
            if self._stillborn >= STILLBORN:
                raise ExecutorError(f"workers die as they start; the last one: {error}") from error
        self._make_workers()

    def _rebuild(self, error: Exception) -> None:
        """The queue is gone: workers hold its leases, so they go too; all is submitted again."""
        log.warning("the queue died (%s); made again with its candidates", error)
        self._kill_workers()
        self._make_queue()
        self._make_workers()

    def _kill_workers(self) -> None:
        for worker in self._workers.values():
            self._ray.kill(worker)
        self._workers.clear()
        self._futures.clear()

    def close(self) -> None:
        if not self._ray.is_initialized():
            return
        self._kill_workers()
        if hasattr(self, "_queue"):
            self._ray.kill(self._queue)
        if self._owns_ray:
            self._ray.shutdown()


def _error_of(ray: Any, future: Any) -> BaseException:
    try:
        ray.get(future)
    except Exception as error:
        return error
    return RuntimeError("the worker's loop returned")


def _start_ray(address: str | None, workers: int | None) -> None:
    """A local Ray unless `address` says which; never one that happens to run on this machine."""
    import ray

    options: dict[str, Any] = {"address": address or "local"}
    if address is None:
        options["num_cpus"] = max(os.cpu_count() or 1, workers or 1)
        options["include_dashboard"] = False
    try:
        with _environment():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"Ray at {address}" if address else "a local Ray"
        raise ExecutorError(
            f"cannot reach {where}: {error}. Without Ray, --executor inline trains in this process."
        ) from error


def _check_listening(address: str) -> None:
    """Ray waits minutes for a head that is not there; a connection tells in seconds."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ExecutorError(
            f"nothing answers at {address} ({error}); start Ray there with "
            f"'ray start --head --port {port}', or leave --ray-address out"
        ) from error


def _offer_token() -> None:
    """A cluster may ask for the token; Ray offers it only if told so before it is imported."""
    file = os.environ.get("RAY_AUTH_TOKEN_PATH", os.path.expanduser("~/.ray/auth_token"))
    if "RAY_AUTH_TOKEN" in os.environ or os.path.exists(file):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def _environment() -> Iterator[None]:
    """Ray's start leaves variables behind that change later starts; put back what was there."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    before = os.environ.get("RAY_AUTH_MODE")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("RAY_AUTH_MODE", None)
        else:
            os.environ["RAY_AUTH_MODE"] = before
