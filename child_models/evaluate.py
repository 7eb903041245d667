"""Evaluator: a Trial in, an Outcome out. This is what workers are handed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.metadata
import json
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch

from actsearch.child_models.data.data import Data, Diverged, Task
from actsearch.child_models.device import (
    check_still_there,
    device_name,
    free_memory,
    one_thread,
    out_of_memory,
    own_randomness,
    precision,
    short,
    usual_device,
)
from actsearch.child_models.networks.model_zoos import ZOOS, ZooModel
from actsearch.child_models.networks.zoo import Child, source_digest
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training.beside_relu import BesideReLU, cost
from actsearch.child_models.training.checkpoint import Checkpoints
from actsearch.child_models.training.cuda_graph import check_whole, own_stream
from actsearch.child_models.training.inspection import activations
from actsearch.child_models.training.looks import (
    Inspection,
    Look,
    RacedOut,
    Racing,
    Scores,
    Tracking,
)
from actsearch.child_models.training.loop import train
from actsearch.child_models.training.state import Training
from actsearch.child_models.turns import in_turns, released, taking_turns
from actsearch.results.metrics import Metric, metric_from
from actsearch.results.records import (
    KINDS,
    Cause,
    DeviceLostError,
    HostError,
    Outcome,
    Trial,
    host_error,
    is_of_the_host,
)
from actsearch.search_space.activation import Activation
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.kernels import cuda, fused, normalised
from actsearch.search_space.kernels.builders import builders
from actsearch.search_space.kernels.compiler import CompileError
from actsearch.search_space.operators import GRAMMAR_VERSION, Op
from actsearch.search_space.text import check_kernels


def hash_of(protocol: Mapping[str, Any]) -> str:
    """A protocol's name in a store: 12 hexadecimal digits."""
    text = json.dumps(protocol, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Evaluator:
    """Trains `child` on `dataset` by `recipe` with the activation of each trial.

    The same seed gives the same initial weights and the same batches, whatever the activation.
    `operators` is the operator set; `extra` are operators beyond the paper's; `kernels` is as in
    Activation; `test` adds the score on the test split, `inspect` what became of the activations
    (see `inspection`), both for trials of the kinds that have them; `track` adds the score and
    the betas before the first step, after every so many, and after the last; `cuda_graphs` is as in
    `train`; `in_turns` lets several threads call it, on a GPU for a stream each; `checkpoints` are
    where a training goes on that was killed.
    """

    def __init__(
        self,
        dataset: Data,
        child: Child,
        recipe: Recipe,
        *,
        operators: str = "guarded",
        extra: tuple[Op, ...] = (),
        kernels: str = "auto",
        test: bool = False,
        inspect: bool = False,
        track: int = 0,
        cuda_graphs: bool = False,
        in_turns: bool = False,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        check_kernels(kernels)
        self.dataset = dataset
        self.child = child
        self.recipe = recipe
        self.operators = operators
        self.extra = extra
        self.kernels = kernels
        self.test = test
        self.inspect = inspect
        self.track = track
        self.cuda_graphs = cuda_graphs
        self.in_turns = in_turns
        self.checkpoints = checkpoints
        self._places: int | None = None

    @property
    def metric(self) -> Metric:
        """What a score is."""
        return metric_from(self.dataset.metric)

    @property
    def protocol(self) -> dict[str, Any]:
        """All that an outcome depends on besides expression and seed."""
        return {
            "grammar": GRAMMAR_VERSION,
            "operators": self.operators,
            "extra_operators": {op.name: _digest(op) for op in self.extra},
            "dataset": self.dataset.name,
            "dataset_digest": self.dataset.digest,
            "child": self.child.digest,
            "recipe": self.recipe.to_dict(),
        }

    @property
    def description(self) -> dict[str, Any]:
        """The protocol, and what readers of a store ask besides: what its scores are."""
        return self.protocol | {"metric": self.metric.to_config()}

    @property
    def protocol_hash(self) -> str:
        return hash_of(self.protocol)

    def __call__(self, trial: Trial, beat: Callable[[int], None] = lambda step: None) -> Outcome:
        """Train and score; whatever goes wrong in the child comes back as an Outcome with its
        reason. Raises DeviceLostError where it took the GPU with it, NoDeviceError where there was
        none to begin with, HostError (DataError for data) where machine, disk or data failed."""
        device = usual_device()
        name = device_name(device)
        in_turns = taking_turns(device) if self.in_turns else contextlib.nullcontext()
        with in_turns, own_stream(device):
            try:
                return self._checked(trial, device, name, beat)
            finally:
                free_memory(device)

    def _checked(
        self, trial: Trial, device: torch.device, name: str, beat: Callable[[int], None]
    ) -> Outcome:
        check_whole()
        outcome = self._outcome(trial, device, name, beat)
        check_whole()  # another child's capture may have failed meanwhile
        if outcome.status == "failed":
            check_still_there(device, outcome.reason)
        return outcome

    def _outcome(
        self, trial: Trial, device: torch.device, name: str, beat: Callable[[int], None]
    ) -> Outcome:
        start, host = time.perf_counter(), socket.gethostname()
        training: Training | None = None
        try:
            with (
                own_randomness(trial.seed, device),
                one_thread(device),
                precision(self.recipe, device),
            ):
                training, looks = self._begin(trial, device, beat)
                ended = _ok(train(training, looks, cuda_graphs=self.cuda_graphs))
        except Diverged as end:
            ended = _ended(
                "diverged", str(end), end.cause, end.variant, step=end.step, curve=end.curve
            )
        except RacedOut as end:
            ended = _raced_out(str(end), end.training)
        except (DeviceLostError, HostError):
            raise
        except Exception as error:
            if is_of_the_host(error):
                doing = f"training {trial.formula or trial.subject} on {host}"
                raise host_error(error, doing) from error
            ended = _failed(error, device)
        ended["seconds"] += time.perf_counter() - start
        if training is not None:
            ended["details"] = _how(training) | ended.get("details", {})
        return Outcome(**ended, host=host, device=name, versions=versions())

    def with_recipe(self, **changes: Any) -> Evaluator:
        """The same evaluator with other settings of the recipe, on the same device data."""
        other = copy.copy(self)
        other.recipe = replace(self.recipe, **changes)
        return other

    def keeping(self, checkpoints: Checkpoints | None) -> Evaluator:
        """The same evaluator with these checkpoints."""
        other = copy.copy(self)
        other.checkpoints = checkpoints
        return other

    def build(self, key: str) -> torch.nn.Module:
        """The untrained child with the candidate of this key."""
        candidate = candidate_from(key, self.extra)
        make_activation = candidate.activations(self.operators, self.kernels, self.places)
        return self.child(make_activation, **self.dataset.facts)

    def places(self) -> int:
        """How many activations the child makes. Found by building it once with none of them, which
        leaves randomness as it was."""
        if self._places is None:
            made: list[torch.nn.Module] = []

            def count(*args: Any, **options: Any) -> torch.nn.Module:
                made.append(torch.nn.Identity())
                return made[-1]

            with own_randomness(0, usual_device()):
                self.child(count, **self.dataset.facts)
            self._places = len(made)
        return self._places

    def kernel_kinds(self) -> set[tuple[str, str, str]]:
        """(device, element, layout) of the kernels that this child uses, with betas and without;
        none where activations run eagerly or where the child fails, which its training will say.
        Found on a processor, whatever the children's device: this process may have no use for a
        GPU."""
        if self.kernels == "eager":
            return set()
        cpu = torch.device("cpu")
        task = task_of(self.dataset, cpu)
        kinds: set[tuple[str, str]] = set()
        fit: list[bool] = []  # whether a GPU takes activations with the normalisations before them
        for expression in ("x", "scale(x)"):
            with own_randomness(0, cpu):
                model = self.build(expression)
            with contextlib.suppress(Exception):
                task.score(model, self.recipe, "val", 2)
            kinds |= {
                k for m in model.modules() if isinstance(m, Activation) for k in m.kernel_kinds
            }
            if usual_device().type == "cuda" and getattr(model, "normalises", False):
                of = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
                fit += [m.num_features % 16 == 0 for m in of if self.recipe.precision == "bf16"]
        kinds = set() if fit and all(fit) else kinds
        kinds |= {("bfloat16", normalised.LAYOUT)} if any(fit) else set()
        return {(usual_device().type, *kind) for kind in kinds}

    def _begin(
        self, trial: Trial, device: torch.device, beat: Callable[[int], None]
    ) -> tuple[Training, list[Look]]:
        task = task_of(self.dataset, device)

        def new() -> Training:
            model = self.build(trial.subject).to(device)
            return Training(model, task, self.recipe, trial.seed, beat)

        looks = self._looks(trial, self.recipe.steps, device)
        if self.checkpoints is None:
            return new(), looks
        checkpoint = self.checkpoints.of(trial, self._identity(trial, device))
        return checkpoint.resumed(new), [*looks, checkpoint]

    def _identity(self, trial: Trial, device: torch.device) -> dict[str, Any]:
        """All that a training depends on, to the last digit and in what it notes."""
        return {
            **own_versions(),
            "zoo": zoo_version(self.child.build),
            "protocol": self.protocol_hash,
            "trial": [trial.kind, trial.subject, trial.seed],
            "race": [[rung.step, rung.by] for rung in trial.race],
            "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            "device": device_name(device),
            "kernels": self.kernels,
            "graphs": self.cuda_graphs,
            "track": self.track,
        }

    def _looks(self, trial: Trial, steps: int, device: torch.device) -> list[Look]:
        """In their order where several are due."""
        kind = KINDS[trial.kind]
        looks: list[Look] = [Racing(trial.race, steps)]
        if self.track:
            looks.append(Tracking(self.track, steps))
        if kind.timed and device.type == "cpu":
            looks.append(BesideReLU(partial(self.build, "relu(x)"), steps))
        looks.append(Scores(("val", "test") if kind.tested and self.test else ("val",), steps))
        if kind.inspected and self.inspect:
            looks.append(Inspection(steps))
        return looks


def _ended(
    status: str,
    reason: str = "",
    cause: Cause | None = None,
    variant: str = "",
    seconds: float = 0.0,
    **rest: Any,
) -> dict[str, Any]:
    """Fields of an outcome; `seconds` are those before this process."""
    why = {"reason": reason, "cause": cause, "variant": variant}
    return {"status": status, **why, "seconds": seconds, **rest}


def _failed(error: Exception, device: torch.device) -> dict[str, Any]:
    if out_of_memory(error, device):
        return _ended("failed", f"out of memory: {short(error)}", Cause.OUT_OF_MEMORY)
    name = type(error).__name__
    return _ended("failed", f"{name}: {short(error)}", Cause.EXCEPTION, name)


def _ok(training: Training) -> dict[str, Any]:
    found = {"cost": cost(training.ratios), "track": training.track}
    return _ended(
        "ok",
        seconds=training.earlier,
        val_score=training.scores["val"],
        test_score=training.scores.get("test"),
        curve=training.curve,
        rungs=tuple(training.rungs),
        ms_per_step=training.ms_per_step,
        details=training.inspected | {name: value for name, value in found.items() if value},
    )


def _how(training: Training) -> dict[str, str]:
    """How its activations and steps were computed, which decides on its speed alone."""
    found = activations(training.model)
    generated = sum(bool(a.kernel_kinds) for a in found)
    kernels = "generated" if generated == len(found) else "eager" if generated == 0 else "both"
    why = next((f": {short(a.why_eager)}" for a in found if a.why_eager), "")
    how = {"kernels": kernels + why} if found else {}
    return how if training.captured is None else how | {"steps": training.captured.how}


def _raced_out(reason: str, training: Training) -> dict[str, Any]:
    return _ended(
        "raced_out",
        reason,
        Cause.RACED_OUT,
        seconds=training.earlier,
        step=training.step,
        curve=training.curve,
        rungs=tuple(training.rungs),
        ms_per_step=training.ms_per_step,
    )


def _compile_first(source: cuda.Source, element: str) -> None:
    """Other children go on while a process compiles; alone there is nothing to gain by one."""
    if in_turns():
        with released(), contextlib.suppress(CompileError):  # the launch will say it
            builders().compile(source, element)


fused.compile_first = _compile_first


class Evaluators:
    """Hands each trial to the evaluator of its protocol."""

    def __init__(self, evaluators: Iterable[Evaluator]) -> None:
        self._by_protocol = {e.protocol_hash: e for e in evaluators}

    def __call__(self, trial: Trial, beat: Callable[[int], None] = lambda step: None) -> Outcome:
        return self._by_protocol[trial.protocol](trial, beat)


def _digest(op: Op) -> str:
    """What an operator of one's own computes, and where its beta starts."""
    parts = [source_digest(fn) for fn in (op.fn, op.guarded) if fn is not None]
    return " ".join(parts if op.beta in (None, 1.0) else [*parts, f"beta {op.beta!r}"])


@lru_cache(maxsize=2)
def task_of(dataset: Data, device: torch.device) -> Task:
    """The data set on the device; the last two are kept, whichever evaluators share them."""
    task = dataset.on(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # other streams will read it
    return task


def versions() -> dict[str, str]:
    """Of what a number depends on, for the record beside it; of a zoo's package where it is in
    use."""
    zoos = {name: sys.modules[name].__version__ for name in ZOOS if name in sys.modules}
    return {**own_versions(), **zoos}


def own_versions() -> dict[str, str]:
    """Of what every training depends on."""
    try:
        own = importlib.metadata.version("actsearch")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    python = platform.python_version()
    # torch's is a class of its own, to unpickle which the queue would import torch.
    return {"actsearch": own, "torch": str(torch.__version__), "python": python}


def zoo_version(build: Any) -> str:
    """The package that the network is of, such as `timm 1.0.9`, whatever the process has imported
    besides; "" of other networks."""
    if not isinstance(build, ZooModel):
        return ""
    return f"{build.zoo} {importlib.metadata.version(build.zoo)}"
