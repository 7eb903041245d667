"""What is done between the steps of a training: each look says after which steps it is due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from actsearch.child_models import turns
from actsearch.child_models.data.data import Diverged
from actsearch.child_models.training.inspection import activations, inspection, rounded
from actsearch.child_models.training.state import Training
from actsearch.results.records import AtMilestone, Cause, Milestone

LOSS_STEPS = 5  # whose mean loss counts at a milestone
SCORED_EXAMPLES = 500  # of the validation split, scored at a milestone
PASS_ON_EVERY = 2  # steps
READ_EVERY = {"cpu": 1, "cuda": 20}  # steps; reading a value makes a GPU wait


class Look(Protocol):
    """`due(step)` is asked before the first step, of 0, and after each. A look may score the model
    and raise Diverged, or end the training by an exception of its own."""

    def due(self, step: int) -> bool: ...

    def __call__(self, training: Training) -> None: ...


class Reading:
    """Reads losses and gradient norms: the first that is not finite ends the child as Diverged. It
    comes after so many steps, before each of the `others`, and after the last step."""

    def __init__(self, training: Training, others: Sequence[Look]) -> None:
        self._every = READ_EVERY[training.task.device.type]
        self._last = training.recipe.steps
        self._others = others

    def due(self, step: int) -> bool:
        if step == 0:
            return False
        regular = step % self._every == 0 or step == self._last
        return regular or any(look.due(step) for look in self._others)

    def __call__(self, training: Training) -> None:
        begun = time.perf_counter()
        turns.wait()
        self._check_finite(training)
        if training.now is time.perf_counter:  # a GPU has done its steps only now
            training.unread += time.perf_counter() - begun
        training.step_seconds.append(training.unread / (training.step - training.checked))
        training.unread, training.checked = 0.0, training.step

    @staticmethod
    def _check_finite(training: Training) -> None:
        unread = slice(training.checked, training.step)
        pairs = zip(training.losses[unread].tolist(), training.norms[unread].tolist(), strict=True)
        for step, (loss, norm) in enumerate(pairs, training.checked + 1):
            for name, value, cause in (
                ("loss", loss, Cause.LOSS),
                ("gradient norm", norm, Cause.GRADIENT_NORM),
            ):
                if not math.isfinite(value):
                    reason, curve = f"{name} {value} at step {step}", training.curve_to(step - 1)
                    raise Diverged(reason, step, curve, cause=cause, variant=f"{value}")


class PassingOn:
    """Lets other trainings of this process launch their steps too, every few steps of a GPU."""

    def due(self, step: int) -> bool:
        return step % PASS_ON_EVERY == 0

    def __call__(self, training: Training) -> None:
        begun = training.now()
        turns.pass_on()
        training.unread += training.now() - begun  # a step among those of others


class Beat:
    """Says that the child lives, whenever it is `due`."""

    def __init__(self, due: Callable[[int], bool]) -> None:
        self.due = due

    def __call__(self, training: Training) -> None:
        training.alive()


class Stood(Protocol):
    """How a training stands, as far as an outcome says it: a Training, or reports of one."""

    earlier: float
    step: int
    milestones: list[AtMilestone]

    @property
    def curve(self) -> tuple[tuple[int, float], ...]: ...

    @property
    def ms_per_step(self) -> float | None: ...


class RacedOut(Exception):
    """The child was not good enough at the last of `training.milestones`."""

    def __init__(self, reason: str, training: Stood) -> None:
        super().__init__(reason)
        self.training = training


class Racing:
    """Notes how the child stands at each milestone before the last step; raises RacedOut at the
    first that it does not pass."""

    def __init__(self, race: Iterable[Milestone], steps: int) -> None:
        self._milestones = {m.step: m for m in race if m.step < steps}

    def due(self, step: int) -> bool:
        return step in self._milestones

    def __call__(self, training: Training) -> None:
        milestone = self._milestones[training.step]
        at = self._at(milestone, training)
        training.milestones.append(at)
        if not milestone.passed_by(at.value(milestone.by)):
            raise RacedOut(_why(milestone, at), training)

    @staticmethod
    def _at(milestone: Milestone, training: Training) -> AtMilestone:
        """The child is scored only where that decides, or where it is about to leave."""
        last = slice(max(0, milestone.step - LOSS_STEPS), milestone.step)
        loss = float(training.losses[last].mean())
        if milestone.by == "loss" and milestone.passed_by(loss):
            return AtMilestone(milestone.step, loss)
        return AtMilestone(milestone.step, loss, training.score("val", SCORED_EXAMPLES))


def _why(milestone: Milestone, at: AtMilestone) -> str:
    worse = "above" if milestone.lower else "below"
    value, metric = at.value(milestone.by), milestone.metric.name
    name = "training loss" if milestone.by == "loss" else metric
    scored = f"validation {metric} {at.score:.4f}"
    left = f"left after {milestone.step:,} steps with {scored}"
    return f"{left}: its {name} {value:.4g} is {worse} {milestone.limit:.4g}"


class Tracking:
    """Notes validation score and mean betas before the first step, after `every` so many, and after
    the last."""

    def __init__(self, every: int, steps: int) -> None:
        self._every, self._last = every, steps

    def due(self, step: int) -> bool:
        return step % self._every == 0 or step == self._last

    def __call__(self, training: Training) -> None:
        means = [rounded(b.mean().item()) for a in activations(training.model) for b in a.beta]
        training.track.append((training.step, training.score("val"), means))


class Scores:
    """The scores on `splits` after the last step."""

    def __init__(self, splits: Sequence[str], steps: int) -> None:
        self._splits, self._last = splits, steps

    def due(self, step: int) -> bool:
        return step == self._last

    def __call__(self, training: Training) -> None:
        training.scores = {split: training.score(split) for split in self._splits}


class Inspection:
    """What became of the activations, after the last step."""

    def __init__(self, steps: int) -> None:
        self._last = steps

    def due(self, step: int) -> bool:
        return step == self._last

    def __call__(self, training: Training) -> None:
        training.inspected = inspection(
            training.model, training.task, training.recipe, training.alive
        )
