"""What a search and a re-evaluation share: the evaluator, the executor, the signals, the log."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from actsearch.child_models.data.data import Data, DataError
from actsearch.child_models.data.labelled import image_augment, make_dataset
from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import Evaluator, task_of
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training.checkpoint import Checkpoints
from actsearch.child_models.training.inspection import activations
from actsearch.errors import EnvironmentProblem, UsageError
from actsearch.origin import code_version, shadowing
from actsearch.results.records import HostError, Outcome, Trial
from actsearch.run import Run
from actsearch.search_space.operators import Op
from actsearch.versions import untested
from actsearch.workers.executor import Beat, Evaluate, Executor, InlineExecutor
from actsearch.workers.thread_executor import ThreadExecutor

log = logging.getLogger("actsearch")

WARM_UP_STEPS = {"cpu": 5, "cuda": 45}  # there it takes windows of 20, the first with compilations
LOOK_SECONDS = 0.5  # between looks for a request to stop


@dataclass(frozen=True)
class Machinery:
    """Who trains: the options of that name."""

    executor: str = "ray"
    workers: int | None = None
    workers_per_gpu: int | None = None
    children_per_worker: int = 1
    ray_address: str | None = None
    timeout: float | None = None
    checkpoint_every: float | None = None

    @classmethod
    def of(cls, config: Any) -> Machinery:
        """As a command says: a config with fields of these names."""
        said = {f.name: getattr(config, f.name) for f in fields(cls)}
        return cls(**{name: value for name, value in said.items() if value is not None})

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
            needed = -(-trainings // self.children_per_worker)
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
            if self.children_per_worker > 1:
                return ThreadExecutor(evaluate, self.children_per_worker, self.timeout)
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
            children=self.children_per_worker,
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


def dataset_from(data: Any, **options: Any) -> Data:
    """From a name, arrays (x, y) or (x_train, y_train, x_test, y_test), or itself."""
    if hasattr(data, "facts"):
        return data
    if isinstance(data, (str, Path)):
        return load(str(data), **options)
    if isinstance(data, (tuple, list)) and len(data) in (2, 4):
        train, test = tuple(data[:2]), tuple(data[2:]) or None
        augment = image_augment(np.asarray(data[0]))
        return make_dataset("arrays", train, test, augment=augment)  # type: ignore[arg-type]
    raise UsageError(
        "dataset must be a name, a file, arrays (x, y) or (x_train, y_train, x_test, y_test), "
        f"or a Dataset, not {type(data).__name__}"
    )


def check_image_size(size: int | None, datasets: Iterable[Any]) -> None:
    """Raises UsageError where a size was asked for and no data set is a folder."""
    if size is None or any(isinstance(d, (str, Path)) and Path(d).is_dir() for d in datasets):
        return
    raise UsageError(
        f"--image-size {size} is for folders of images; other data has a size of its own, which "
        f"children can average down to, as resnet20:size={size} does"
    )


def make_evaluator(
    settings: Mapping[str, Any], extra: tuple[Op, ...] = (), **options: Any
) -> Evaluator:
    """From resolved settings: dataset, child, recipe, operator set. `options` are Evaluator's."""
    dataset = dataset_from(
        settings["dataset"],
        **{
            "root": settings.get("data_root", "data"),
            "download": settings.get("download", False),
            "image_size": settings.get("image_size"),
        },
    )
    said = {f.name: settings.get(f.name) for f in fields(Recipe)}
    recipe = Recipe(**{name: value for name, value in said.items() if value is not None})
    child = child_from(settings["child"])
    return Evaluator(
        dataset,
        child,
        recipe,
        operators=settings["operators"],
        extra=extra,
        kernels=settings.get("kernels") or "auto",
        cuda_graphs=settings.get("cuda_graphs") == "on",
        in_turns=(settings.get("children_per_worker") or 1) > 1,
        **options,
    )


def warm_up(evaluator: Evaluator) -> float:
    """Seconds that a ReLU child takes here and now, from a few steps; raises UsageError where it
    fails, DataError where its data do, EnvironmentProblem where the machine does."""
    relu = Trial(0, "search", "relu(x)", "", 0)
    steps = WARM_UP_STEPS["cuda" if torch.cuda.is_available() else "cpu"]
    beats: list[tuple[int, float]] = []
    try:
        outcome = evaluator.with_recipe(steps=steps)(
            relu, lambda step: beats.append((step, time.perf_counter()))
        )
    except DataError:
        raise
    except HostError as error:  # nothing has begun that could go on
        raise EnvironmentProblem(
            f"the child {evaluator.child.name} fails with ReLU: {error.__cause__}"
        ) from error
    if outcome.status == "failed":
        raise UsageError(f"the child {evaluator.child.name} fails with ReLU: {outcome.reason}")
    check_uses_activation(evaluator.build("relu(x)"), evaluator.child.name)
    if torch.cuda.is_available():  # the memory is the workers'
        task_of.cache_clear()
        torch.cuda.empty_cache()
    a_step = [(b - a) / (n - m) for (m, a), (n, b) in pairwise(beats) if n > m]
    return statistics.median(a_step or [0.0]) * evaluator.recipe.steps


def local_workers(per_gpu: int | None) -> int:
    """How many workers this machine has where no number is asked for."""
    return torch.cuda.device_count() * (per_gpu or 1) or os.cpu_count() or 1


def check_uses_activation(model: nn.Module, child: str) -> None:
    """Raises UsageError for a child in which the candidate has no place."""
    if not activations(model):
        raise UsageError(
            f"the child {child} has no activation by make_activation in it, so all functions would "
            "score the same"
        )


class Stop:
    """The first SIGINT or SIGTERM asks for a drain, the second interrupts at once. So does the file
    by which `actsearch stop` asks. A look raises RunLostError where the run is another by now."""

    def __init__(self, run: Run) -> None:
        self.requested = False
        self.run = run
        self._looked = 0.0

    def __call__(self) -> bool:
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self.run.check_held()
            self.requested = self.requested or self.run.stop_request.exists()
        return self.requested

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """To be entered after Ray has started, since that replaces the handler of SIGTERM."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


class RunLog(logging.FileHandler):
    """What cannot be logged, on a full disk, is not worth a traceback on the screen."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # it opens the file first, and its folder may be gone
            super().emit(record)


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """All that actsearch logs, tracebacks too, goes to this file."""
    handler = RunLog(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    before, log.propagate = (log.level, log.propagate), False
    log.setLevel(logging.INFO)
    try:
        yield
    except BaseException:
        log.exception("ended by an exception")
        raise
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
        with contextlib.suppress(OSError):
            handler.close()


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


def environment() -> dict[str, Any]:
    """What a run's config.json says of the machine."""
    import platform

    from actsearch.child_models.evaluate import versions

    return {**versions(), "platform": platform.platform(), "cpus": os.cpu_count()}
