"""ObjectiveEvaluator: trials of an objective, a training of the user's own with any framework and
any loop, as Evaluator makes them of a child on a data set."""

from __future__ import annotations

import copy
import inspect
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn

from actsearch.child_models import turns
from actsearch.child_models.data.data import Diverged
from actsearch.child_models.device import one_thread, own_randomness
from actsearch.child_models.outcomes import (
    Ended,
    caught,
    ended,
    grammar_of,
    hash_of,
    outcome_of,
    score_of,
    training_device,
)
from actsearch.child_models.training.looks import LOSS_STEPS, RacedOut
from actsearch.child_models.training.state import thinned
from actsearch.child_models.users_own import Objective
from actsearch.results.metrics import Metric
from actsearch.results.records import KINDS, AtMilestone, Cause, Milestone, Outcome, Trial
from actsearch.search_space.activation import MakeActivation
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.operators import Op
from actsearch.search_space.text import check_kernels


@dataclass(frozen=True)
class Steps:
    """How an objective is trained, as far as a search says it."""

    steps: int

    def to_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}


class ObjectiveEvaluator:
    """Calls `objective` with the activation of each trial, and takes the score that is named as
    `metric` is; of trials that are tested `test_` and that name, where the objective has it, else
    the score itself. torch's random numbers begin at the trial's seed. `operators`, `extra`,
    `kernels`, `test` and `in_turns` are as of Evaluator; with `kernels` other than eager an
    activation can be differentiated once."""

    kind = "objective"  # what it trains
    note = ""
    sizes: Mapping[str, int] = {}  # of its data nothing is known

    def __init__(
        self,
        objective: Objective,
        metric: Metric,
        steps: int,
        *,
        operators: str = "guarded",
        extra: tuple[Op, ...] = (),
        kernels: str = "eager",
        test: bool = False,
        in_turns: bool = False,
    ) -> None:
        check_kernels(kernels)
        self.objective = objective
        self.metric = metric
        self.recipe = Steps(steps)
        self.operators = operators
        self.extra = extra
        self.kernels = kernels
        self.test = test
        self.in_turns = in_turns
        self._places: int | None = None

    @property
    def name(self) -> str:
        return self.objective.name

    @property
    def words(self) -> str:
        """For a plan, such as `train, 200 steps`."""
        return f"{self.name}, {self.recipe.steps:,} steps"

    @property
    def title(self) -> str:
        """For a terminal, such as `train · 200 steps`."""
        return f"{self.name} · {self.recipe.steps:,} steps"

    @property
    def protocol(self) -> dict[str, Any]:
        """All that an outcome depends on besides expression and seed."""
        return {
            **grammar_of(self.operators, self.extra),
            "objective": self.objective.digest,
            "score": score_of(self.metric),
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
        """Train and score; raises as Evaluator does."""
        with training_device(in_turns=self.in_turns) as device:
            return outcome_of(trial, device, lambda: self._ended(trial, device, beat))

    def with_recipe(self, **changes: Any) -> ObjectiveEvaluator:
        """The same evaluator with other `steps`."""
        other = copy.copy(self)
        other.recipe = replace(self.recipe, **changes)
        return other

    def keeping(self, checkpoints: object) -> ObjectiveEvaluator:
        """Itself: no training of an objective leaves a checkpoint."""
        return self

    def build(self, key: str) -> MakeActivation:
        """What makes the activations of the candidate of this key; raises ValueError where it has
        more groups than the objective makes activations."""
        candidate = candidate_from(key, self.extra)
        return candidate.activations(self.operators, self.kernels, self.places)

    def places(self) -> int:
        """How many activations the objective makes, found by a training of one step with none of
        them."""
        if self._places is None:
            made: list[nn.Module] = []

            def count(*args: Any, **options: Any) -> nn.Module:
                made.append(nn.Identity())
                return made[-1]

            with own_randomness(0, torch.device("cpu")):
                self.objective.train(count, 0, 1, lambda step, loss: None)
            self._places = len(made)
        return self._places

    def kernel_kinds(self) -> set[tuple[str, str, str]]:
        """Of none is it known before a training."""
        return set()

    def _ended(self, trial: Trial, device: torch.device, beat: Callable[[int], None]) -> Ended:
        clock = time.thread_time if device.type == "cpu" else time.perf_counter
        reports = Reports(trial, self.recipe.steps, beat, clock)

        def trained() -> Ended:
            with own_randomness(trial.seed, device), one_thread(device):
                return self._trained(trial, reports)

        return caught(trial, device, trained)

    def _trained(self, trial: Trial, reports: Reports) -> Ended:
        made: list[None] = []
        make = self.build(trial.subject)

        def counted(*args: Any, **options: Any) -> nn.Module:
            made.append(None)
            return make(*args, **options)

        found = self.objective.train(counted, trial.seed, self.recipe.steps, reports)
        if reports.end is not None:  # which the objective has caught
            raise reports.end
        if inspect.isgenerator(found):  # nothing of it has run
            raise TypeError(
                f"{self.name} is a generator, since it uses yield, but it is to return scores by "
                f"name, as return {{{self.metric.name!r}: 0.5}}"
            )
        if not made:
            raise ValueError(
                f"{self.name} makes no activation by make_activation, so all functions would score "
                "the same"
            )
        scores = self._scores(found)
        wanted = {"val_score": self.metric.name}
        if KINDS[trial.kind].tested and self.test:
            test = self.metric.test_name
            wanted["test_score"] = test if test in scores else self.metric.name
        for name in wanted.values():
            if not math.isfinite(value := scores[name]):
                raise Diverged(
                    f"{name} {value} at the end",
                    reports.step,
                    reports.curve,
                    cause=Cause.SCORE,
                    variant=f"{value}",
                )
        return ended(
            "ok",
            curve=reports.curve,
            milestones=tuple(reports.milestones),
            ms_per_step=reports.ms_per_step,
            details={"scores": {k: v for k, v in scores.items() if math.isfinite(v)}},
            **{score: scores[name] for score, name in wanted.items()},
        )

    def _scores(self, found: Any) -> dict[str, float]:
        """What an objective has returned, as finite and other numbers by name."""
        name, wanted = self.name, self.metric.name
        if not isinstance(found, Mapping):
            raise TypeError(
                f"{name} returned {_what(found)}, but it is to return scores by name, as "
                f"{{{wanted!r}: 0.5}}"
            )
        if wanted not in found:
            has = f"only {', '.join(map(str, found))}" if found else "nothing"
            raise ValueError(f"{name} returned no {wanted!r}, {has}")
        return {str(k): number(v, f"{name} returned {k!r} as") for k, v in found.items()}


class Reports:
    """What an objective is handed as `report(step, loss)`: notes the training loss after a step,
    says that the training lives, and ends it where the loss is not finite or a race is lost."""

    def __init__(
        self,
        trial: Trial,
        steps: int,
        beat: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        self.step = 0
        self.earlier = 0.0  # seconds of other processes, of which there are none
        self.milestones: list[AtMilestone] = []
        self.end: Diverged | RacedOut | None = None
        self._due = [m for m in trial.race if m.step < steps]
        self._beat, self._clock = beat, clock
        self._begun = clock()  # of the steps that come next
        self._seconds: list[float] = []
        self._losses: list[tuple[int, float]] = []

    def __call__(self, step: int, loss: float) -> None:
        if self.end is not None:
            raise self.end
        if isinstance(step, bool) or not isinstance(step, Integral):
            raise TypeError(f"report(step, loss) was given {_what(step)} as step")
        step, value = int(step), number(loss, "report(step, loss) was given a loss of")
        if step > self.step:
            self._seconds.append((self._clock() - self._begun) / (step - self.step))
        self.step = step
        if not math.isfinite(value):
            self._end(
                Diverged(
                    f"loss {value} at step {step}",
                    step,
                    self.curve,
                    cause=Cause.LOSS,
                    variant=f"{value}",
                )
            )
        self._losses.append((step, value))
        turns.wait()
        self._beat(step)
        while self._due and self._due[0].step <= step:
            self._race(self._due.pop(0))
        self._begun = self._clock()

    def _race(self, milestone: Milestone) -> None:
        """At the first report from the milestone's step on, by the mean of the last losses."""
        losses = [loss for step, loss in self._losses if step > self.step - LOSS_STEPS]
        at = AtMilestone(milestone.step, statistics.fmean(losses))
        self.milestones.append(at)
        if not milestone.passed_by(at.loss):
            reason = f"left after {self.step:,} steps: its training loss {at.loss:.4g} is above"
            self._end(RacedOut(f"{reason} {milestone.limit:.4g}", self))

    def _end(self, end: Diverged | RacedOut) -> None:
        self.end = end
        raise end

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """As of an outcome."""
        found = (self._losses[i] for i in thinned(len(self._losses)))
        return tuple((step, float(f"{loss:.6g}")) for step, loss in found)

    @property
    def ms_per_step(self) -> float | None:
        """The median; None where nothing was reported."""
        return 1e3 * statistics.median(self._seconds) if self._seconds else None


def number(value: Any, given: str) -> float:
    """Raises TypeError, which begins with what was `given`, for what is no number."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    way = "; value.item() makes it a number" if hasattr(value, "item") else ""
    raise TypeError(f"{given} {_what(value)}, but it must be a number{way}")


def _what(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
