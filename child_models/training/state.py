"""Training: one training as far as it has gone, which is what a look sees of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from typing import Any

import torch
from torch import nn

from actsearch.child_models.data.data import Task
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training.cuda_graph import CapturedStep
from actsearch.child_models.training.optimisers import optimiser_of
from actsearch.results.records import AtMilestone

CURVE_POINTS = 200

Tracked = tuple[int, float, list[float | None]]  # a step, its score, the mean betas

_NOTED = ("step_seconds", "ratios", "track")  # that are plain values


class Training:
    """`model` after `step` steps on `task`, and what its looks have noted. It is trained in place;
    `beat(step)` is called as it goes on.

    `losses` and `norms` (recipe.steps,) lie on the task's device; of the first `checked` it is
    known that they are finite. Seconds are processor time, or wall time with a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        recipe: Recipe,
        seed: int,
        beat: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.model, self.task, self.recipe, self.seed, self.beat = model, task, recipe, seed, beat
        if task.device.type == "cuda":
            _drop_counters(model)
        self.optimiser = optimiser_of(model, recipe)
        self.captured: CapturedStep | None = None  # where a GPU is to take a step as one launch
        self.step = self.checked = 0
        self._begun = time.perf_counter()
        self.earlier = 0.0  # seconds of wall time before it was resumed
        self.losses = torch.zeros(recipe.steps, device=task.device)
        self.norms = torch.zeros(recipe.steps, device=task.device)
        # One thread computes all of a step on a processor (`one_thread` of device.py), so its
        # own time leaves out what others did meanwhile.
        self.now = time.thread_time if task.device.type == "cpu" else time.perf_counter
        self.batch: Any = None  # of the last step
        self.took = 0.0  # seconds of the last step, without its batch
        self.unread = 0.0  # seconds of the steps that are not `checked` yet, with their batches
        self.step_seconds: list[float] = []
        self.ratios: list[float] = []  # of steps to those of ReLU
        self.milestones: list[AtMilestone] = []
        self.track: list[Tracked] = []
        self.scores: dict[str, float] = {}  # by split, after the last step
        self.inspected: dict[str, Any] = {}

    def alive(self) -> None:
        self.beat(self.step)

    def score(self, split: str, examples: int | None = None) -> float:
        """As `task.score`; the model is back in training mode after it."""
        found = self.task.score(self.model, self.recipe, split, examples, self.alive)
        self.model.train()
        return found

    def state(self) -> dict[str, Any]:
        """All that goes on from here, as tensors and plain values; every step is `checked`."""
        return {
            "step": self.step,
            "seconds": self.earlier + time.perf_counter() - self._begun,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "losses": self.losses,
            "random": _random_state(self.task.device),
            "milestones": [astuple(at) for at in self.milestones],
            **{name: getattr(self, name) for name in _NOTED},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state()` was taken, of a training of the same model and recipe. Random
        numbers are the process's."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.losses.copy_(state["losses"])
        self.milestones = [AtMilestone(*at) for at in state["milestones"]]
        for name in _NOTED:
            setattr(self, name, state[name])
        self.earlier = state["seconds"]
        self.step = self.checked = state["step"]
        _set_random_state(state["random"], self.task.device)

    def batches(self) -> Iterator[Any]:
        """From this step on."""
        start = (self.step,) if self.step else ()  # a task that nothing resumes needs none
        return self.task.batches(self.recipe, self.seed, *start)

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        return self.curve_to(self.step)

    def curve_to(self, steps: int) -> tuple[tuple[int, float], ...]:
        """At most CURVE_POINTS of the first `steps` losses, first and last among them."""
        if steps == 0:
            return ()
        values = self.losses.tolist()
        return tuple((i + 1, float(f"{values[i]:.6g}")) for i in thinned(steps))

    @property
    def ms_per_step(self) -> float:
        """The median."""
        return 1e3 * statistics.median(self.step_seconds)


def thinned(count: int) -> list[int]:
    """The places, from 0, of at most CURVE_POINTS of so many values, first and last among them."""
    points = min(count, CURVE_POINTS)
    return [round(i * (count - 1) / max(1, points - 1)) for i in range(points)]


def _drop_counters(model: nn.Module) -> None:
    """In networks of this package no batch normalisation reads how many batches it has seen, and
    counting them is a kernel a layer and step."""
    for module in model.modules() if getattr(model, "counts_no_batches", False) else ():
        if type(module) is nn.BatchNorm2d:
            module.num_batches_tracked = None


def _random_state(device: torch.device) -> list[torch.Tensor]:
    gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *gpu]


def _set_random_state(states: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
