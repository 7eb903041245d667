"""Training one child: data on the device, the loop, and the end of a child that stops being finite.

A network whose logits are NaN argmaxes to class 0 and scores a healthy-looking 10 %. So loss and
gradient are checked while training and logits before they are scored; the first that is not finite
ends the child as Diverged, with its step.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from child_models.datasets import Dataset
from child_models.recipe import Recipe
from results.records import AtRung, Rung

PAD = 4  # pixels around an image that is cropped, He et al. 2016a
EVALUATION_BATCH = 500
CURVE_POINTS = 200
RUNG_STEPS = 5  # whose mean loss counts at a rung
RUNG_EXAMPLES = 500  # of the validation split, scored at a rung


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


class DeviceData:
    """A Dataset on a device: uint8 stays uint8 until a batch is cut from it."""

    def __init__(self, data: Dataset, device: torch.device) -> None:
        self.device = device
        self.augment = data.augment
        splits = {
            "train": (data.x_train, data.y_train),
            "val": (data.x_val, data.y_val),
            "test": (data.x_test, data.y_test),
        }
        # A copy in C order: dimensions of size 1 can have any stride. It decides on the kernels, so
        # the last digits of a result would differ here and where the data was unpickled.
        self.splits = {
            name: (torch.tensor(x.copy("C"), device=device), torch.tensor(y, device=device))
            for name, (x, y) in splits.items()
        }
        shape = (1, -1, *[1] * (data.x_train.ndim - 2))
        self.mean = torch.tensor(data.mean, device=device).view(shape)
        self.std = torch.tensor(data.std, device=device).view(shape)
        self.crops: torch.Tensor | None = None
        if self.augment:
            images = self.splits["train"][0]
            height, width = images.shape[2:]
            padded = F.pad(images, (PAD, PAD, PAD, PAD))
            # a view: (N, C, 9, 9, H, W)
            self.crops = padded.unfold(2, height, 1).unfold(3, width, 1)

    def standardise(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(torch.float32) - self.mean) / self.std

    def batches(self, size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Training batches without end, shuffled anew each epoch; the same for the same seed."""
        generator = torch.Generator(self.device).manual_seed(seed)
        x, y = self.splits["train"]
        size = min(size, len(x))
        while True:
            order = torch.randperm(len(x), generator=generator, device=self.device)
            for start in range(0, len(x) - size + 1, size):
                index = order[start : start + size]
                yield self.standardise(self._augmented(index, generator)), y[index]

    def _augmented(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Images cropped at random offsets and, for `crop_flip`, mirrored half of the time."""
        if self.crops is None:
            return self.splits["train"][0][index]
        offsets = torch.randint(
            2 * PAD + 1, (2, len(index)), generator=generator, device=self.device
        )
        images = self.crops[index, :, offsets[0], offsets[1]]
        if self.augment == "crop_flip":
            mirror = torch.rand(len(index), generator=generator, device=self.device) < 0.5
            images = torch.where(mirror[:, None, None, None], images.flip(3), images)
        return images


@dataclass(frozen=True)
class Training:
    """A training as far as it went: the loss curve as (step, loss), the median ms a step, and how
    it stood at the rungs of a race."""

    curve: tuple[tuple[int, float], ...]
    ms_per_step: float
    rungs: tuple[AtRung, ...] = ()


def train(
    model: nn.Module,
    data: DeviceData,
    recipe: Recipe,
    seed: int,
    beat: Callable[[int], None] = lambda step: None,
    race: Iterable[Rung] = (),
) -> Training:
    """Train `model` in place. `beat(step)` is called as it goes on; raises Diverged, and RacedOut
    where it does not pass a rung of `race`.

    Where the model has an attribute `memory_format`, its weights and the images lie in memory that
    way."""
    model.train()
    layout = memory_format(model)
    model.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(
        _weight_decay_groups(model, recipe), lr=recipe.lr, momentum=recipe.momentum, fused=True
    )
    check_every = 1 if data.device.type == "cpu" else 20  # reading a value makes a GPU wait
    rungs = {rung.step: rung for rung in race if rung.step < recipe.steps}
    stood: list[AtRung] = []
    losses = torch.zeros(recipe.steps, device=data.device)
    norms = torch.zeros(recipe.steps, device=data.device)
    times: list[float] = []
    checked, clock = 0, time.perf_counter()
    batches = data.batches(recipe.batch_size, seed)
    for step in range(recipe.steps):
        x, y = next(batches)
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * recipe.lr_factor(step)
        optimiser.zero_grad(set_to_none=True)
        x = x.contiguous(memory_format=layout) if x.ndim == 4 else x
        with autocast(recipe, data.device):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        losses[step] = loss.detach()
        norms[step] = nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
        optimiser.step()
        rung = rungs.get(step + 1)
        if (step + 1) % check_every == 0 or step + 1 == recipe.steps or rung is not None:
            _check_finite(losses, norms, checked, step + 1)
            times.append((time.perf_counter() - clock) / (step + 1 - checked))
            checked = step + 1
            beat(checked)
            if rung is not None:
                stood.append(_at(rung, model, data, recipe, losses))
                if not rung.passed_by(getattr(stood[-1], rung.metric)):
                    ms = 1e3 * statistics.median(times)
                    training = Training(_thin(losses, checked), ms, tuple(stood))
                    raise RacedOut(_why(rung, stood[-1]), training)
            clock = time.perf_counter()
    ms = 1e3 * statistics.median(times)
    return Training(_thin(losses, recipe.steps), ms, tuple(stood))


def _at(
    rung: Rung, model: nn.Module, data: DeviceData, recipe: Recipe, losses: torch.Tensor
) -> AtRung:
    """How the child stands; it is scored only where that decides, or where it is about to leave."""
    loss = float(losses[max(0, rung.step - RUNG_STEPS) : rung.step].mean())
    if rung.metric == "loss" and rung.passed_by(loss):
        return AtRung(rung.step, loss)
    try:
        score = accuracy(model, data, recipe, "val", RUNG_EXAMPLES)
    except Diverged as end:
        raise Diverged(str(end), rung.step, _thin(losses, rung.step)) from None
    model.train()
    return AtRung(rung.step, loss, score)


def _why(rung: Rung, at: AtRung) -> str:
    worse = "above" if rung.metric == "loss" else "below"
    value, name = getattr(at, rung.metric), {"loss": "training loss"}.get(rung.metric, rung.metric)
    return (
        f"left after {rung.step:,} steps with validation accuracy {at.accuracy:.4f}: its {name} "
        f"{value:.4g} is {worse} {rung.limit:.4g}"
    )


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's precision, for forward passes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def memory_format(model: nn.Module) -> torch.memory_format:
    """Channels first, unless the model says that it never looks at strides."""
    return getattr(model, "memory_format", torch.contiguous_format)


def _weight_decay_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Weights and biases decay; the betas of an Activation do not (recipe.py says why)."""
    from search_space.activation import Activation

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


@torch.no_grad()
def accuracy(
    model: nn.Module, data: DeviceData, recipe: Recipe, split: str, examples: int | None = None
) -> float:
    """The share of `split`, or of its first `examples`, that `model` classifies right; raises
    Diverged for logits that are not finite."""
    model.eval()
    x, y = (part[:examples] for part in data.splits[split])
    layout = memory_format(model)
    right = torch.zeros((), dtype=torch.long, device=data.device)
    finite = torch.ones((), dtype=torch.bool, device=data.device)
    for start in range(0, len(x), EVALUATION_BATCH):
        batch = data.standardise(x[start : start + EVALUATION_BATCH])
        with autocast(recipe, data.device):
            logits = model(batch.contiguous(memory_format=layout) if batch.ndim == 4 else batch)
        finite &= torch.isfinite(logits).all()
        right += (logits.argmax(1) == y[start : start + EVALUATION_BATCH]).sum()
    if not bool(finite):
        raise Diverged(f"logits not finite on the {split} split", None, ())
    return int(right) / len(x)
