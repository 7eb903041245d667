"""Building an evaluator: data, child and recipe as settings say, checked before anything trains."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable
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
from actsearch.child_models.evaluate import Evaluator, task_of, versions
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training.inspection import activations
from actsearch.errors import EnvironmentProblem, UsageError
from actsearch.results.records import HostError, Trial
from actsearch.search_space.operators import Op
from actsearch.settings import Settings

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


def make_evaluator(settings: Settings, extra: tuple[Op, ...] = (), **options: Any) -> Evaluator:
    """From resolved settings: dataset, child, recipe, operator set. `options` are Evaluator's."""
    dataset = dataset_from(
        settings.dataset,
        root=settings.data_root,
        download=settings.download,
        image_size=settings.image_size,
    )
    said = {f.name: getattr(settings, f.name) for f in fields(Recipe)}
    recipe = Recipe(**{name: value for name, value in said.items() if value is not None})
    child = child_from(settings.child)
    return Evaluator(
        dataset,
        child,
        recipe,
        operators=settings.operators,
        extra=extra,
        kernels=settings.kernels,
        cuda_graphs=settings.cuda_graphs != "off",
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
