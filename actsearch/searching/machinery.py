"""Machinery: which executor trains, with how many workers, and its life around a search."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from actsearch.child_models.training.checkpoint import Checkpoints
from actsearch.child_models.turns import waited
from actsearch.errors import EnvironmentProblem
from actsearch.origin import code_version, shadowing
from actsearch.results.records import Outcome, Trial
from actsearch.run import Run
from actsearch.searching.stop import Stop
from actsearch.versions import untested
from actsearch.workers.executor import (
    Beat,
    Evaluate,
    Executor,
    InlineExecutor,
    children_at_once,
)
from actsearch.workers.thread_executor import ThreadExecutor

log = logging.getLogger("actsearch")


@dataclass(frozen=True)
class Machinery:
    """Who trains: the options of that name."""

    executor: str = "ray"
    workers: int | None = None
    workers_per_gpu: int | None = None
    children_per_worker: int | str = "auto"
    ray_address: str | None = None
    timeout: float | None = None
    checkpoint_every: float | None = None

    @classmethod
    def of(cls, config: Any) -> Machinery:
        """As a command says: a config with fields of these names."""
        said = {f.name: getattr(config, f.name) for f in fields(cls)}
        return cls(**{name: value for name, value in said.items() if value is not None})

    @property
    def children(self) -> int | None:
        """How many a worker trains at once, None where that depends on its GPU."""
        return None if isinstance(self.children_per_worker, str) else self.children_per_worker

    @property
    def in_turns(self) -> bool:
        """Whether several threads may call an evaluator."""
        return self.children != 1

    def most(self, trainings: int | None) -> tuple[int | None, str]:
        """How many workers have something to do: no more than this machine has cores, unless a
        cluster trains, and than there are `trainings` (None: nobody knows). And the sentence that
        says so where more were asked for, else ""."""
        limits: list[tuple[int, str]] = []
        if self.ray_address is None:
            cores = os.cpu_count() or 1
            limits.append((cores, f"this machine has {cores} core{'s' * (cores != 1)}"))
        if trainings is not None:
            left = "there is 1 training" if trainings == 1 else f"there are {trainings:,} trainings"
            needed = -(-trainings // (self.children or 1))
            limits.append((max(1, needed), f"{left} left"))
        most, why = min(limits, default=(None, ""))
        if self.executor != "ray" or most is None or (self.workers or 0) <= most:
            return most, ""
        start = "worker starts" if most == 1 else "workers start"
        return most, f"--workers {self.workers}: {most} {start}, since {why}."

    def checkpoints(self, run: Run) -> Checkpoints | None:
        """Those that the trainings of `run` are to leave, None where none are asked for."""
        if self.checkpoint_every is None:
            return None
        folder = run.path.resolve() / "checkpoints"
        return Checkpoints(folder, self.checkpoint_every, code_version())

    def start(
        self,
        evaluate: Evaluate,
        most: int | None = None,
        look: Callable[[], object] = lambda: None,
    ) -> Executor:
        """With at most so many workers, where Ray trains. `look` is called as children go on, where
        they are trained in this process, which has no other moment for it; it may raise HostError.
        """
        if self.executor == "inline":
            evaluate = _looking(evaluate, look)
            children = self.children or children_at_once(float(torch.cuda.is_available()))
            if children > 1:
                return ThreadExecutor(evaluate, children, self.timeout, waited)
            return InlineExecutor(evaluate, self.timeout)
        from actsearch.searching.ray_actors import QueueActor, WorkerActor
        from actsearch.workers.ray_executor import RayExecutor

        here = Path.cwd()
        if hidden := shadowing(here):
            raise EnvironmentProblem(
                f"{hidden[0]} would be imported by Ray's workers in the place of actsearch; "
                "rename it, or start from another folder"
            )
        return RayExecutor(
            evaluate,
            workers=self.workers and min(self.workers, most or self.workers),
            workers_per_gpu=self.workers_per_gpu,
            children=self.children,
            address=self.ray_address,
            gpus=torch.cuda.device_count(),
            timeout=self.timeout,
            most=most,
            queue_class=QueueActor,
            worker_class=WorkerActor,
        )


def _looking(evaluate: Evaluate, look: Callable[[], object]) -> Evaluate:
    def evaluated(trial: Trial, beat: Beat) -> Outcome:
        def both(step: int) -> None:
            look()
            beat(step)

        return evaluate(trial, both)

    return evaluated


def local_workers(per_gpu: int | None) -> int:
    """How many workers this machine has where no number is asked for."""
    return torch.cuda.device_count() * (per_gpu or 1) or os.cpu_count() or 1


@contextlib.contextmanager
def running(
    machinery: Machinery, evaluate: Evaluate, trainings: int | None, stop: Stop, console: Console
) -> Iterator[Executor]:
    """An executor with the signal handlers around it; it is closed whatever happens. Says on
    `console` where so many `trainings` need fewer workers than were asked for."""
    for sentence in untested():
        log.warning("%s", sentence)
    most, note = machinery.most(trainings)
    if note:
        log.warning("%s", note)
        console.print(note, highlight=False, soft_wrap=True)
    executor = machinery.start(evaluate, most, stop)
    try:
        with stop.installed():
            yield executor
    finally:
        executor.close()
