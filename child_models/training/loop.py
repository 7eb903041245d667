"""Training one child: take a step, then the looks that are due.

A network whose logits are NaN argmaxes to class 0 and scores a healthy-looking 10 %. So loss and
gradient are checked while training and logits before they are scored; the first that is not finite
ends the child as Diverged, with its step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from actsearch.child_models.data.data import Diverged
from actsearch.child_models.training.cuda_graph import (
    CapturedStep,
    Step,
    can_be_captured,
    own_stream,
    set_rate,
)
from actsearch.child_models.training.looks import Beat, Look, PassingOn, Reading
from actsearch.child_models.training.optimisers import step_of
from actsearch.child_models.training.state import Training


def train(training: Training, looks: Sequence[Look] = (), *, cuda_graphs: bool = False) -> Training:
    """Train to the recipe's last step, in place, with `looks` in their order; raises Diverged, and
    what looks raise.

    Where the model has an attribute `memory_format`, its weights and the images lie in memory that
    way. With `cuda_graphs` and an attribute `capturable`, a GPU takes each step as one launch."""
    if cuda_graphs and can_be_captured(training.model, training.task.device):
        with own_stream(training.task.device):
            return _train(training, looks, captured=True)
    return _train(training, looks, captured=False)


def _train(training: Training, looks: Sequence[Look], captured: bool) -> Training:
    reading = Reading(training, looks)
    on_gpu = training.task.device.type == "cuda"
    looks = (*[PassingOn()] * on_gpu, reading, Beat(reading.due), *looks)
    if training.step == 0:
        _look(training, looks)
    take = step_of(training.model, training.optimiser, training.task, training.recipe)
    if captured:
        take = CapturedStep(take, training.optimiser, training.task.device)
        training.captured = take
    batches = training.batches()
    while training.step < training.recipe.steps:
        _take_step(training, take, batches)
        _look(training, looks)
    return training


def _take_step(training: Training, take: Step, batches: Iterator[Any]) -> None:
    recipe, step, now = training.recipe, training.step, training.now
    begun = now()
    training.batch = next(batches)
    set_rate(training.optimiser, recipe.lr * recipe.lr_factor(step))
    ready = now()
    training.losses[step], training.norms[step] = take(training.batch)
    done = now()
    training.took, training.unread = done - ready, training.unread + done - begun
    training.step = step + 1


def _look(training: Training, looks: Sequence[Look]) -> None:
    try:
        for look in looks:
            if look.due(training.step):
                look(training)
    except Diverged as end:
        if end.step is None:
            end.step, end.curve = training.step, training.curve
        raise
