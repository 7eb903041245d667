"""Building an evaluator: data, child and recipe as settings say, checked before anything trains."""

from __future__ import annotations

import contextlib
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
from actsearch.child_models.data.regression import Regression
from actsearch.child_models.data.sources import load
from actsearch.child_models.data.tasks import TASKS
from actsearch.child_models.data.text import Text
from actsearch.child_models.device import own_randomness
from actsearch.child_models.evaluate import Evaluator, task_of
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.objective import ObjectiveEvaluator
from actsearch.child_models.outcomes import versions
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training.inspection import activations
from actsearch.child_models.users_own import objective_from
from actsearch.errors import EnvironmentProblem, UsageError
from actsearch.results.aims import Aims, reported
from actsearch.results.metrics import Metric, metric_from
from actsearch.results.records import Cause, HostError, Outcome, Trial
from actsearch.search_space.operators import Op
from actsearch.settings import Settings

AnyEvaluator = Evaluator | ObjectiveEvaluator

GATE = "mul(x, g)"  # the simplest one
WARM_UP_STEPS = {"cpu": 5, "cuda": 45}  # there it takes windows of 20, the first with compilations


def dataset_from(data: Any, task: str | None = None, **options: Any) -> Data:
    """From a name, arrays (x, y) or (x_train, y_train, x_test, y_test), token ids (n,), or itself.
    `task` says what arrays are for [classification]; raises UsageError where data are for
    another."""
    if hasattr(data, "facts"):
        made = data
    elif isinstance(data, (str, Path)):
        made = load(str(data), task=task, **options)
    elif isinstance(data, (tuple, list, np.ndarray)):
        made = TASKS[task or "classification"].from_arrays("arrays", data)
    else:
        raise UsageError(
            "dataset must be a name, a file, arrays (x, y) or (x_train, y_train, x_test, y_test), "
            f"token ids (n,), or data that are made already, not {type(data).__name__}"
        )
    is_for = getattr(made, "task", task)
    if task not in (None, is_for):
        raise UsageError(
            f"--task {task}: {made.name} is data for {is_for}; leave out the task, or give "
            f"{TASKS[task].text} (docs/models.md)"
        )
    return made


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
    """With dataset, child, recipe and operator set. `options` are Evaluator's. Raises ValueError
    where workers are to train and the child cannot be sent to them."""
    dataset = dataset_from(
        settings.dataset,
        settings.task,
        root=settings.data_root,
        download=settings.download,
        image_size=settings.image_size,
    )
    if isinstance(dataset, Regression) and _score_is_said(settings):
        dataset = dataset.scored_by(metric_of(settings))
    child = child_from(settings.child, match=settings.match, example=settings.example)
    if settings.executor == "ray":
        child.check_sent()
    return Evaluator(
        dataset,
        child,
        recipe_of(settings, dataset),
        operators=settings.operators,
        extra=extra,
        kernels=settings.kernels,
        cuda_graphs=settings.cuda_graphs != "off",
        **options,
    )


def _score_is_said(settings: Settings) -> bool:
    return any(said is not None for said in (settings.minimise, settings.maximise, settings.metric))


def recipe_of(settings: Settings, data: Data) -> Recipe:
    """The recipe that settings say, with the usual loss of what the data are for. Raises UsageError
    for a loss, or a smoothing of labels, that is of another task."""
    said = {f.name: getattr(settings, f.name) for f in fields(Recipe)}
    said = {name: value for name, value in said.items() if value is not None}
    task = getattr(data, "task", "")
    if (row := TASKS.get(task)) is None:
        return Recipe(**said)
    recipe = Recipe(**{"loss": row.losses[0], **said})
    if recipe.loss not in row.losses:
        raise UsageError(
            f"--loss {recipe.loss} is not for {data.name}, which is data for {task}; choose "
            f"{' or '.join(row.losses)}"
        )
    if recipe.label_smoothing and not row.smooths:
        raise UsageError("--label-smoothing is for labels, and a regression has none; leave it out")
    return recipe


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


def warm_up(evaluator: AnyEvaluator, aims: Aims | None = None) -> float | None:
    """Seconds that a ReLU child takes here and now, None where an objective does not say how far it
    is; raises as `first_steps` does, and UsageError where an objective lacks a score of `aims`."""
    beats: list[tuple[int, float]] = []
    if isinstance(evaluator, Evaluator):
        _check_outputs(evaluator)
    outcome = first_steps(evaluator, lambda step: beats.append((step, time.perf_counter())))
    if isinstance(evaluator, Evaluator):
        check_model(_untrained(evaluator), evaluator)
    elif aims is not None and outcome.status == "ok":
        _check_reported(evaluator, outcome, aims)
    if torch.cuda.is_available():  # the memory is the workers'
        task_of.cache_clear()
        torch.cuda.empty_cache()
    a_step = [(b - a) / (n - m) for (m, a), (n, b) in pairwise(beats) if n > m]
    if not a_step and isinstance(evaluator, ObjectiveEvaluator):
        return None
    return statistics.median(a_step or [0.0]) * evaluator.recipe.steps


def _check_reported(evaluator: ObjectiveEvaluator, outcome: Outcome, aims: Aims) -> None:
    found = reported(outcome.details)
    if missing := [name for name in aims.names if name not in found]:
        raise UsageError(
            f"the objective {evaluator.name} returned no {missing[0]!r} with ReLU, only "
            f"{', '.join(found)}; name one of these, or return it"
        )


def _check_outputs(evaluator: Evaluator) -> None:
    """Raises UsageError for a child with fewer outputs than classes, which a GPU would not survive;
    of a ready model all that is wrong is said. What fails otherwise, the first steps will say."""
    classes, shape = evaluator.dataset.facts.get("classes"), ()
    with contextlib.nullcontext() if evaluator.child.is_ready else contextlib.suppress(Exception):
        model = _untrained(evaluator)
        if classes is not None and not evaluator.child.is_ready:
            with torch.no_grad():
                shape = model(torch.zeros(2, *evaluator.dataset.facts["input_shape"])).shape
    if len(shape) == 2 and shape[1] < classes:
        raise UsageError(
            f"the child {evaluator.name} returns {shape[1]} logits, and {evaluator.dataset.name} "
            f"has {classes} classes; give it an output for each"
        )


def _untrained(evaluator: Evaluator) -> nn.Module:
    with own_randomness(0, torch.device("cpu")):
        return evaluator.build("relu(x)")


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
    if outcome.status == "failed" or outcome.cause == Cause.SCORE:
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


def check_model(model: nn.Module, evaluator: Evaluator) -> None:
    """Raises UsageError for a child in which the candidate has no place, and ValueError for a
    language model that sees what it is to predict."""
    if not activations(model):
        raise UsageError(
            f"the child {evaluator.name} has no activation by make_activation in it, so all "
            "functions would score the same"
        )
    if isinstance(evaluator.dataset, Text):
        evaluator.dataset.check_looks_back(model, evaluator.name)


def environment() -> dict[str, Any]:
    """What a run's config.json says of the machine."""
    return {**versions(), "platform": platform.platform(), "cpus": os.cpu_count()}
