"""Building an evaluator: data, child and recipe as settings say, checked before anything trains."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from actsearch.child_models.data.data import Data, DataError
from actsearch.child_models.data.labelled import image_augment, make_dataset
from actsearch.child_models.data.sources import load
from actsearch.child_models.device import own_randomness
from actsearch.child_models.evaluate import Evaluator, task_of
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.objective import ObjectiveEvaluator
from actsearch.child_models.outcomes import versions
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training.inspection import activations
from actsearch.child_models.users_own import objective_from
from actsearch.errors import EnvironmentProblem, UsageError
from actsearch.results.metrics import Metric, metric_from
from actsearch.results.records import HostError, Outcome, Trial
from actsearch.search_space.operators import Op
from actsearch.settings import Settings

AnyEvaluator = Evaluator | ObjectiveEvaluator

GATE = "mul(x, g)"  # the simplest one
WARM_UP_STEPS = {"cpu": 5, "cuda": 45}  # there it takes windows of 20, the first with compilations


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
    settings: Settings, extra: tuple[Op, ...] = (), *, in_turns: bool = False
) -> AnyEvaluator:
    """From resolved settings, of an objective if they have one, else of a child."""
    make = child_evaluator if settings.objective is None else objective_evaluator
    return make(settings, extra, in_turns=in_turns)


def child_evaluator(settings: Settings, extra: tuple[Op, ...] = (), **options: Any) -> Evaluator:
    """With dataset, child, recipe and operator set. `options` are Evaluator's."""
    dataset = dataset_from(
        settings.dataset,
        root=settings.data_root,
        download=settings.download,
        image_size=settings.image_size,
    )
    said = {f.name: getattr(settings, f.name) for f in fields(Recipe)}
    recipe = Recipe(**{name: value for name, value in said.items() if value is not None})
    return Evaluator(
        dataset,
        child_from(settings.child),
        recipe,
        operators=settings.operators,
        extra=extra,
        kernels=settings.kernels,
        cuda_graphs=settings.cuda_graphs != "off",
        **options,
    )


def objective_evaluator(
    settings: Settings, extra: tuple[Op, ...] = (), **options: Any
) -> ObjectiveEvaluator:
    """With objective, metric, steps and operator set. `options` are ObjectiveEvaluator's. Raises
    ValueError where workers are to train and the objective cannot be sent to them."""
    objective = objective_from(settings.objective)
    if settings.executor == "ray":
        objective.check_sent()
    return ObjectiveEvaluator(
        objective,
        metric_of(settings),
        settings.steps,
        operators=settings.operators,
        extra=extra,
        kernels=settings.kernels,
        **options,
    )


def metric_of(settings: Settings) -> Metric:
    """Which score of an objective is searched for; raises UsageError where nobody said it."""
    known = settings.metric
    if not isinstance(known, str | Mapping | Metric | None):
        raise UsageError(
            f"metric is a {type(known).__name__}; give Metric('bits_per_byte', 'min'), with the "
            "name of a score that the objective returns"
        )
    known = None if known is None else metric_from(known)
    said = None
    if settings.minimise is not None:
        said = Metric(settings.minimise, "lower")
    elif settings.maximise is not None:
        said = Metric(settings.maximise, "higher")
    if said is not None:  # a run may know its unit
        same = known is not None and (known.name, known.direction) == (said.name, said.direction)
        return known if known is not None and same else said
    if known is None:
        raise UsageError(
            "an objective returns scores by name; say which is searched for, by --minimise NAME or "
            "--maximise NAME, in Python by metric=Metric(NAME, 'min')"
        )
    return known


def warm_up(evaluator: AnyEvaluator) -> float | None:
    """Seconds that a ReLU child takes here and now, None where an objective does not say how far it
    is; raises as `first_steps` does."""
    beats: list[tuple[int, float]] = []
    first_steps(evaluator, lambda step: beats.append((step, time.perf_counter())))
    if isinstance(evaluator, Evaluator):
        check_uses_activation(evaluator.build("relu(x)"), evaluator.name)
    if torch.cuda.is_available():  # the memory is the workers'
        task_of.cache_clear()
        torch.cuda.empty_cache()
    a_step = [(b - a) / (n - m) for (m, a), (n, b) in pairwise(beats) if n > m]
    if not a_step and isinstance(evaluator, ObjectiveEvaluator):
        return None
    return statistics.median(a_step or [0.0]) * evaluator.recipe.steps


def first_steps(
    evaluator: AnyEvaluator, beat: Callable[[int], None] = lambda step: None
) -> Outcome:
    """What ReLU ends as after a few steps; raises UsageError where it fails, DataError where its
    data do, EnvironmentProblem where the machine does."""
    relu = Trial(0, "search", "relu(x)", "", 0)
    steps = WARM_UP_STEPS["cuda" if torch.cuda.is_available() else "cpu"]
    who = f"the {evaluator.kind} {evaluator.name}"
    try:
        outcome = evaluator.with_recipe(steps=steps)(relu, beat)
    except DataError:
        raise
    except HostError as error:  # nothing has begun that could go on
        raise EnvironmentProblem(f"{who} fails with ReLU: {error.__cause__}") from error
    if outcome.status == "failed":
        raise UsageError(f"{who} fails with ReLU: {outcome.reason}")
    return outcome


def gate_parameters(evaluator: AnyEvaluator) -> tuple[int, int] | None:
    """How many parameters a child has with a gate and with ReLU; None of an objective. Raises
    UsageError where it has no place for a gate."""
    if isinstance(evaluator, ObjectiveEvaluator):
        gate = Trial(0, "search", GATE, "", 0)
        outcome = evaluator.with_recipe(steps=1)(gate)
        if outcome.status == "failed":
            raise UsageError(f"the objective {evaluator.name} fails with a gate: {outcome.reason}")
        return None
    with own_randomness(0, torch.device("cpu")):
        gated, usual = (evaluator.build(key) for key in (GATE, "relu(x)"))
    return parameters_of(gated), parameters_of(usual)


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def check_uses_activation(model: nn.Module, child: str) -> None:
    """Raises UsageError for a child in which the candidate has no place."""
    if not activations(model):
        raise UsageError(
            f"the child {child} has no activation by make_activation in it, so all functions would "
            "score the same"
        )


def environment() -> dict[str, Any]:
    """What a run's config.json says of the machine."""
    return {**versions(), "platform": platform.platform(), "cpus": os.cpu_count()}
