"""Evaluator: a Trial in, an Outcome out. This is what workers are handed."""

from __future__ import annotations

import contextlib
import copy
import platform
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Protocol

import torch

from actsearch.child_models.data.data import Data, Task
from actsearch.child_models.device import (
    device_name,
    one_thread,
    own_randomness,
    precision,
    short,
    usual_device,
)
from actsearch.child_models.networks.zoo import Child
from actsearch.child_models.outcomes import (
    Ended,
    caught,
    ended,
    grammar_of,
    hash_of,
    outcome_of,
    own_versions,
    score_of,
    training_device,
    zoo_version,
)
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training.beside_relu import BesideReLU, cost
from actsearch.child_models.training.checkpoint import Checkpoints
from actsearch.child_models.training.inspection import activations
from actsearch.child_models.training.looks import (
    Inspection,
    Look,
    Racing,
    Scores,
    Tracking,
)
from actsearch.child_models.training.loop import train
from actsearch.child_models.training.state import Training
from actsearch.child_models.turns import in_turns, released
from actsearch.results.metrics import Metric, metric_from
from actsearch.results.records import (
    KINDS,
    Outcome,
    Trial,
)
from actsearch.search_space.activation import Activation
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.kernels import cuda, fused, normalised
from actsearch.search_space.kernels.builders import builders
from actsearch.search_space.kernels.compiler import CompileError
from actsearch.search_space.operators import Op
from actsearch.search_space.text import check_kernels


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

    kind = "child"  # what it trains

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
    def name(self) -> str:
        return self.child.name

    @property
    def note(self) -> str:
        """What a plan says of the child besides, or ""."""
        return self.child.note

    @property
    def words(self) -> str:
        """For a plan, such as `resnet8 on mnist5k, 200 steps of 64`."""
        recipe = self.recipe
        return f"{self.name} on {self.dataset.name}, {recipe.steps:,} steps of {recipe.batch_size}"

    @property
    def title(self) -> str:
        """For a terminal, such as `resnet8 · mnist5k · 200 steps`."""
        return f"{self.name} · {self.dataset.name} · {self.recipe.steps:,} steps"

    @property
    def sizes(self) -> dict[str, int]:
        """Examples by split."""
        return self.dataset.sizes

    @property
    def protocol(self) -> dict[str, Any]:
        """All that an outcome depends on besides expression and seed."""
        # Where data have several scores, which one is searched for.
        several = len(getattr(self.dataset, "scores", ())) > 1
        chosen = {"score": score_of(self.metric)} if several else {}
        return {
            **grammar_of(self.operators, self.extra),
            **chosen,
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
        with training_device(in_turns=self.in_turns) as device:
            return outcome_of(trial, device, lambda: self._ended(trial, device, beat))

    def _ended(self, trial: Trial, device: torch.device, beat: Callable[[int], None]) -> Ended:
        training: Training | None = None

        def trained() -> Ended:
            nonlocal training
            with (
                own_randomness(trial.seed, device),
                one_thread(device),
                precision(self.recipe, device),
            ):
                training, looks = self._begin(trial, device, beat)
                return _ok(train(training, looks, cuda_graphs=self.cuda_graphs))

        found = caught(trial, device, trained)
        if training is not None:
            found["details"] = _how(training) | found.get("details", {})
        return found

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
            "race": [[m.step, m.by] for m in trial.race],
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


def _ok(training: Training) -> Ended:
    found = {"cost": cost(training.ratios), "track": training.track}
    return ended(
        "ok",
        seconds=training.earlier,
        val_score=training.scores["val"],
        test_score=training.scores.get("test"),
        curve=training.curve,
        milestones=tuple(training.milestones),
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


def _compile_first(source: cuda.Source, element: str) -> None:
    """Other children go on while a process compiles; alone there is nothing to gain by one."""
    if in_turns():
        with released(), contextlib.suppress(CompileError):  # the launch will say it
            builders().compile(source, element)


fused.compile_first = _compile_first


class OfProtocol(Protocol):
    """An evaluator, as far as trials are handed to it."""

    @property
    def protocol_hash(self) -> str: ...

    def __call__(self, trial: Trial, beat: Callable[[int], None] = ...) -> Outcome: ...


class Evaluators:
    """Hands each trial to the evaluator of its protocol."""

    def __init__(self, evaluators: Iterable[OfProtocol]) -> None:
        self._by_protocol = {e.protocol_hash: e for e in evaluators}

    def __call__(self, trial: Trial, beat: Callable[[int], None] = lambda step: None) -> Outcome:
        return self._by_protocol[trial.protocol](trial, beat)


@lru_cache(maxsize=2)
def task_of(dataset: Data, device: torch.device) -> Task:
    """The data set on the device; the last two are kept, whichever evaluators share them."""
    task = dataset.on(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # other streams will read it
    return task
