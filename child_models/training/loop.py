"""Training one child: the loop, and the end of a child that stops being finite.

A network whose logits are NaN argmaxes to class 0 and scores a healthy-looking 10 %. So loss and
gradient are checked while training and logits before they are scored; the first that is not finite
ends the child as Diverged, with its step.
"""

from __future__ import annotations

import inspect
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from actsearch.child_models.training import turns
from actsearch.child_models.training.cuda_graph import (
    CapturedStep,
    Step,
    can_be_captured,
    own_stream,
    set_rate,
)
from actsearch.child_models.training.recipe import Recipe
from actsearch.results.records import AtRung, Rung

log = logging.getLogger(__name__)

CURVE_POINTS = 200
RUNG_STEPS = 5  # whose mean loss counts at a rung
RUNG_EXAMPLES = 500  # of the validation split, scored at a rung
PAIRS = 9  # steps that are timed beside one of ReLU
STEPS_PER_PAIR = 10  # at least: what the steps of ReLU add is a tenth of a training at most


class Diverged(Exception):
    """The child is not finite any more. `step` counts from 1; None: after the last."""

    def __init__(self, reason: str, step: int | None, curve: tuple[tuple[int, float], ...]) -> None:
        super().__init__(reason)
        self.step = step
        self.curve = curve


class RacedOut(Exception):
    """The child was not good enough at the last of `rungs`."""

    def __init__(self, reason: str, training: Training) -> None:
        super().__init__(reason)
        self.training = training


class Task(Protocol):
    """A data set on a device, and what a child is trained for. A score is a finite number of
    the data's metric; it raises Diverged where the child's outputs are not finite, and calls `beat`
    after each batch."""

    device: torch.device

    def batches(self, recipe: Recipe, seed: int) -> Iterator[Any]: ...

    def loss(self, model: nn.Module, batch: Any, recipe: Recipe) -> torch.Tensor: ...

    def score(
        self,
        model: nn.Module,
        recipe: Recipe,
        split: str,
        examples: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> float: ...


@dataclass(frozen=True)
class Track:
    """`look(step)` is called before the first step, after every so many, and after the last; it may
    put the model in evaluation mode."""

    every: int
    look: Callable[[int], None]


class _Uncompiled:
    """torch's own methods, without what keeps them out of compiled graphs: that imports torch's
    whole compiler, 2 s of every process, and nothing here is compiled."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class SGD(_Uncompiled, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class Adam(_Uncompiled, torch.optim.Adam):
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


# The optimisers of recipe.py, from groups of parameters.
OPTIMISERS: dict[str, Callable[[Any, Recipe], torch.optim.Optimizer]] = {
    "sgd": lambda groups, r: SGD(groups, r.lr, r.momentum, fused=True),
    "nesterov": lambda groups, r: SGD(groups, r.lr, r.momentum, nesterov=True, fused=True),
    "adam": lambda groups, r: Adam(groups, r.lr, fused=True),
    "adam-0.98": lambda groups, r: Adam(groups, r.lr, betas=(0.9, 0.98), eps=1e-9, fused=True),
}


@dataclass(frozen=True)
class Training:
    """A training as far as it went: the loss curve as (step, loss), the median ms per step (of
    processor time, or of wall time with a GPU), how it stood at the rungs of a race, and its cost:
    the time of a step over that of one of ReLU, with its 95 % interval."""

    curve: tuple[tuple[int, float], ...]
    ms_per_step: float
    rungs: tuple[AtRung, ...] = ()
    cost: tuple[float, float, float] | None = None


def train(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    seed: int,
    beat: Callable[[int], None] = lambda step: None,
    race: Iterable[Rung] = (),
    track: Track | None = None,
    cuda_graphs: bool = False,
    relu: Callable[[], nn.Module] | None = None,
) -> Training:
    """Train `model` in place. `beat(step)` is called as it goes on, `track` as often as it says;
    raises Diverged, and RacedOut where it does not pass a rung of `race`. `relu` makes the same
    model with ReLU, beside whose steps some of this one are timed; the training stays as it is.

    Where the model has an attribute `memory_format`, its weights and the images lie in memory that
    way. With `cuda_graphs` and an attribute `capturable`, a GPU takes each step as one launch."""
    if cuda_graphs and can_be_captured(model, task.device):
        with own_stream(task.device):
            return _train(model, task, recipe, seed, beat, race, track, None, captured=True)
    beside = BesideReLU(relu, task, recipe) if relu else None
    return _train(model, task, recipe, seed, beat, race, track, beside, captured=False)


def _train(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    seed: int,
    beat: Callable[[int], None],
    race: Iterable[Rung],
    track: Track | None,
    beside: BesideReLU | None,
    captured: bool,
) -> Training:
    losses = torch.zeros(recipe.steps, device=task.device)
    if track is not None:
        with _ends_at(0, losses):
            track.look(0)
    launch, optimiser = _step_of(model, task, recipe)
    check_every = 1 if task.device.type == "cpu" else 20  # reading a value makes a GPU wait
    rungs = {rung.step: rung for rung in race if rung.step < recipe.steps}
    stood: list[AtRung] = []
    norms = torch.zeros(recipe.steps, device=task.device)
    times: list[float] = []
    # One thread computes all of a step on a processor (`_one_thread` of evaluate.py), so its own
    # time leaves out what others did meanwhile.
    now = time.thread_time if task.device.type == "cpu" else time.perf_counter
    checked, clock = 0, now()
    batches = task.batches(recipe, seed)
    take: Step = CapturedStep(launch, optimiser, task.device) if captured else launch
    for step in range(recipe.steps):
        batch = next(batches)
        set_rate(optimiser, recipe.lr * recipe.lr_factor(step))
        begun = now()
        losses[step], norms[step] = take(batch)
        if beside is not None:
            clock += beside.after(step, batch, now() - begun)
        rung = rungs.get(step + 1)
        last = step + 1 == recipe.steps
        due = track is not None and ((step + 1) % track.every == 0 or last)
        if (step + 1) % check_every == 0 or last or rung is not None or due:
            turns.wait()
            _check_finite(losses, norms, checked, step + 1)
            times.append((now() - clock) / (step + 1 - checked))
            checked = step + 1
            beat(checked)
            if rung is not None:
                with _ends_at(checked, losses):
                    stood.append(_at(rung, model, task, recipe, losses, partial(beat, checked)))
                if not rung.passed_by(stood[-1].value(rung.by)):
                    ms = 1e3 * statistics.median(times)
                    training = Training(_thin(losses, checked), ms, tuple(stood))
                    raise RacedOut(_why(rung, stood[-1]), training)
            if track is not None and due:
                with _ends_at(checked, losses):
                    track.look(checked)
                model.train()
            clock = now()
    ms = 1e3 * statistics.median(times)
    cost = beside.cost if beside else None
    return Training(_thin(losses, recipe.steps), ms, tuple(stood), cost)


def _step_of(model: nn.Module, task: Task, recipe: Recipe) -> tuple[Step, torch.optim.Optimizer]:
    """What a step of training does with a batch, and its optimiser."""
    model.train()
    model.to(memory_format=memory_format(model))  # pyright: ignore[reportCallIssue]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = OPTIMISERS[recipe.optimiser](_weight_decay_groups(model, recipe), recipe)

    def launch(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        optimiser.zero_grad(set_to_none=True)
        loss = task.loss(model, batch, recipe)
        loss.backward()
        norm = nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
        optimiser.step()
        return loss.detach(), norm

    return launch, optimiser


class BesideReLU:
    """Times steps of a child on a processor beside steps of the same network with ReLU.

    Other programs slow a processor down by more than functions differ, and not always alike. A step
    of ReLU and the child's next one meet the same neighbours, and each finds the caches as the
    other has left them, so their ratio says what the function costs. The child's weights and random
    numbers stay as they are without it.
    """

    def __init__(self, make: Callable[[], nn.Module], task: Task, recipe: Recipe) -> None:
        self._make, self._task, self._recipe = make, task, recipe
        self._step: Step | None = None
        self._relu: float | None = None  # the seconds of its last step, until the child's next one
        self._ratios: list[float] = []
        steps, calls = recipe.steps, PAIRS + 1  # the first one only warms up
        enough = steps >= calls * STEPS_PER_PAIR
        self._due = {(i + 1) * steps // calls - 2 for i in range(calls)} if enough else set()

    def after(self, step: int, batch: Any, seconds: float) -> float:
        """Is told of each step of the child; returns the seconds that this took. Where ReLU's step
        fails the child goes on, and has no cost."""
        if self._relu is not None:
            self._ratios.append(seconds / self._relu)
            self._relu = None
        if step not in self._due:
            return 0.0
        begun = time.thread_time()
        try:
            with torch.random.fork_rng(devices=[]):
                self._take(batch)
        except Exception as error:
            log.warning("no cost beside ReLU: %s: %s", type(error).__name__, error)
            self._due = set()
        return time.thread_time() - begun

    def _take(self, batch: Any) -> None:
        if self._step is None:
            self._step, optimiser = _step_of(self._make(), self._task, self._recipe)
            set_rate(optimiser, 0.0)  # it stays finite
            self._step(batch)
            return
        begun = time.thread_time()
        self._step(batch)
        self._relu = time.thread_time() - begun

    @property
    def cost(self) -> tuple[float, float, float] | None:
        """The median of nine ratios, the second least and the second greatest: the true median is
        outside of these with 2 (1 + 9) / 2**9 = 3.9 %. None where there are fewer."""
        if len(self._ratios) < PAIRS:
            return None
        ordered = sorted(self._ratios)
        return ordered[4], ordered[1], ordered[7]


@contextmanager
def _ends_at(step: int, losses: torch.Tensor) -> Iterator[None]:
    """A child that is scored here and diverges did so at this step, and has this curve."""
    try:
        yield
    except Diverged as end:
        raise Diverged(str(end), step, _thin(losses, step)) from None


def _at(
    rung: Rung,
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    losses: torch.Tensor,
    beat: Callable[[], None],
) -> AtRung:
    """How the child stands; it is scored only where that decides, or where it is about to leave."""
    loss = float(losses[max(0, rung.step - RUNG_STEPS) : rung.step].mean())
    if rung.by == "loss" and rung.passed_by(loss):
        return AtRung(rung.step, loss)
    score = task.score(model, recipe, "val", RUNG_EXAMPLES, beat)
    model.train()
    return AtRung(rung.step, loss, score)


def _why(rung: Rung, at: AtRung) -> str:
    worse = "above" if rung.lower else "below"
    value, name = at.value(rung.by), "training loss" if rung.by == "loss" else rung.metric.name
    scored = f"validation {rung.metric.name} {at.score:.4f}"
    left = f"left after {rung.step:,} steps with {scored}"
    return f"{left}: its {name} {value:.4g} is {worse} {rung.limit:.4g}"


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's precision, for forward passes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def on_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch from main memory; the GPU copies it while the host goes on."""
    if device.type == "cpu":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)


def memory_format(model: nn.Module) -> torch.memory_format:
    """Channels first, unless the model says that it never looks at strides."""
    return getattr(model, "memory_format", torch.contiguous_format)


def _weight_decay_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Weights and biases decay; the betas of an Activation do not (recipe.py says why)."""
    from actsearch.search_space.activation import Activation

    betas = {id(b) for m in model.modules() if isinstance(m, Activation) for b in m.beta}
    decayed = [p for p in model.parameters() if id(p) not in betas]
    free = [p for p in model.parameters() if id(p) in betas]
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": recipe.weight_decay}]
    return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups


def _check_finite(losses: torch.Tensor, norms: torch.Tensor, start: int, stop: int) -> None:
    pairs = zip(losses[start:stop].tolist(), norms[start:stop].tolist(), strict=True)
    for step, (loss, norm) in enumerate(pairs, start + 1):
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                raise Diverged(f"{name} {value} at step {step}", step, _thin(losses, step - 1))


def _thin(losses: torch.Tensor, steps: int) -> tuple[tuple[int, float], ...]:
    """At most CURVE_POINTS of the first `steps` losses, first and last among them."""
    if steps == 0:
        return ()
    points = min(steps, CURVE_POINTS)
    at = [round(i * (steps - 1) / max(1, points - 1)) for i in range(points)]
    values = losses.tolist()
    return tuple((i + 1, float(f"{values[i]:.6g}")) for i in at)
