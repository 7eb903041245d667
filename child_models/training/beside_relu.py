"""What a function costs: steps of a child on a processor, timed beside steps of the same network
with ReLU.

Other programs slow a processor down by more than functions differ, and not always alike. A step of
ReLU and the child's next one meet the same neighbours, and each finds the caches as the other has
left them, so their ratio says what the function costs. The child's weights and random numbers stay
as they are without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import nn

from actsearch.child_models.training.cuda_graph import Step, set_rate
from actsearch.child_models.training.optimisers import optimiser_of, step_of
from actsearch.child_models.training.state import Training

log = logging.getLogger(__name__)

PAIRS = 9  # steps that are timed beside one of ReLU
STEPS_PER_PAIR = 10  # at least: what the steps of ReLU add is a tenth of a training at most
CALLS = PAIRS + 1  # the first one only warms up
ENOUGH = CALLS * STEPS_PER_PAIR  # steps of a training; a shorter one has no cost


class BesideReLU:
    """A look after nine steps of ReLU's and the child's next ones. Where ReLU's step fails the
    child goes on, and has no cost. `make` builds the child with ReLU."""

    def __init__(self, make: Callable[[], nn.Module], steps: int) -> None:
        self._make = make
        self._step: Step | None = None
        self._relu: float | None = None  # the seconds of its last step, until the child's next one
        at = {(i + 1) * steps // CALLS - 1 for i in range(CALLS)}
        self._at = at if steps >= ENOUGH else set()

    def due(self, step: int) -> bool:
        return step in self._at or self._relu is not None

    def __call__(self, training: Training) -> None:
        if self._relu is not None:
            training.ratios.append(training.took / self._relu)
            self._relu = None
        if training.step not in self._at:
            return
        try:
            with torch.random.fork_rng(devices=[]):
                self._relu = self._take(training)
        except Exception as error:
            log.warning("no cost beside ReLU: %s: %s", type(error).__name__, error)
            self._at = set()

    def _take(self, training: Training) -> float | None:
        """The seconds of a step of ReLU; None of the first, which warms up."""
        if self._step is None:
            self._step = _relu_step(self._make(), training)
            self._step(training.batch)
            if training.step == min(self._at):  # later ones are of a training that was resumed
                return None
        begun = time.thread_time()
        self._step(training.batch)
        return time.thread_time() - begun


def _relu_step(model: nn.Module, training: Training) -> Step:
    optimiser = optimiser_of(model, training.recipe)
    set_rate(optimiser, 0.0)  # it stays finite
    return step_of(model, optimiser, training.task, training.recipe)


def cost(ratios: list[float]) -> tuple[float, float, float] | None:
    """The median of nine ratios, the second least and the second greatest: the true median is
    outside of these with 2 (1 + 9) / 2**9 = 3.9 %. None where there are fewer."""
    if len(ratios) < PAIRS:
        return None
    ordered = sorted(ratios)
    return ordered[4], ordered[1], ordered[7]
