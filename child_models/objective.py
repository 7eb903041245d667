"""Objective: a training of the user's own, `train(make_activation, seed, steps, report)`, with any
framework and any loop, that returns scores by name.

ObjectiveEvaluator makes trials of it, as Evaluator does of children. An objective is sent to
workers by value, so all of a search runs the source that its protocol has the hash of.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import math
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from actsearch.child_models import turns
from actsearch.child_models.data.data import Diverged
from actsearch.child_models.device import one_thread, own_randomness, short
from actsearch.child_models.networks.zoo import source_digest
from actsearch.child_models.outcomes import (
    Ended,
    caught,
    ended,
    grammar_of,
    hash_of,
    outcome_of,
    training_device,
)
from actsearch.child_models.training.looks import RUNG_STEPS, RacedOut
from actsearch.child_models.training.state import thinned
from actsearch.results.metrics import Metric
from actsearch.results.records import KINDS, AtRung, Cause, Outcome, Rung, Trial
from actsearch.search_space.activation import MakeActivation
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.operators import Op
from actsearch.search_space.text import check_kernels, unknown

Train = Callable[..., Mapping[str, float]]
CALL = "(make_activation, seed, steps, report)"
EXAMPLE = "my_module:train"


@dataclass(frozen=True)
class Objective:
    """`name` is how it is shown, `digest` what a run's identity keeps: the name, and a hash of the
    source that it consists of."""

    name: str
    train: Train = field(compare=False, repr=False)
    digest: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.name, _by_value(self.name, self.train), self.digest)

    def check_sent(self) -> None:
        """Raises ValueError where it holds what no worker can be sent."""
        _by_value(self.name, self.train)


def objective_from(given: str | Train | Objective) -> Objective:
    """An Objective from `my_module:train`, or a function. Raises ValueError where there is none of
    that name, where its module fails, and where it takes other arguments."""
    if isinstance(given, Objective):
        return given
    train = _named(given) if isinstance(given, str) else given
    if not callable(train) or isinstance(train, nn.Module):
        raise ValueError(
            f"the objective is a {type(train).__name__}; give a function train{CALL} that returns "
            "scores by name"
        )
    name = getattr(train, "__qualname__", type(train).__qualname__).split(".<locals>.")[-1]
    try:
        signature = inspect.signature(train)
    except ValueError:  # of some that are written in C
        signature = None
    if signature is not None:
        try:
            signature.bind(*"1234")
        except TypeError:
            raise ValueError(
                f"the objective {name} takes {signature}, but it is called as {name}{CALL}"
            ) from None
    return Objective(name, train, f"{name}-{_digest(train)}")


def _named(text: str) -> Any:
    """What `my_module:train` names, of an installed module or one in this folder."""
    module, _, name = text.partition(":")
    if not (module and name):
        raise ValueError(f"the objective {text!r} needs a module and a function, as {EXAMPLE}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"the objective {text}: {module} needs {error.name}") from error
        raise ValueError(
            f"the objective {text}: there is no module {module} in {here}, nor installed"
        ) from error
    except Exception as error:
        raise ValueError(
            f"the objective {text}: importing {module} ends with {type(error).__name__}: "
            f"{short(error)}"
        ) from error
    if not hasattr(found, name):
        known = [key for key, value in vars(found).items() if inspect.isfunction(value)]
        raise ValueError(unknown(f"function of {module}", name, known))
    return getattr(found, name)


# -- sent to workers


def _by_value(name: str, train: Train) -> bytes:
    """With the functions and values of its module that it uses, so that no worker has to find that
    module, nor finds a later one."""
    pickler: Any = importlib.import_module("ray.cloudpickle")
    module = sys.modules.get(getattr(_function(train), "__module__", None) or "")
    own = module is not None and module.__name__ != "__main__"
    if own:
        pickler.register_pickle_by_value(module)
    try:
        return pickler.dumps(train)
    except Exception as error:
        raise ValueError(
            f"the objective {name} cannot be sent to Ray's workers ({short(error)}); make what it "
            "holds inside of it, or train in this process with executor 'inline'"
        ) from error
    finally:
        if own:
            pickler.unregister_pickle_by_value(module)


def _received(name: str, sent: bytes, digest: str) -> Objective:
    return Objective(name, importlib.import_module("ray.cloudpickle").loads(sent), digest)


# -- its source


def _digest(train: Train) -> str:
    """The hash of its source, and of what that uses by name of the same folder: functions, classes,
    plain values and arrays. It is the same whether its module is imported or is the script."""
    home = _function(train)
    found = {"": source_digest(train)}
    waiting = [home]
    while waiting:
        for name, value in _used(waiting.pop(), home.__module__):
            if name in found:
                continue
            if _is_own(value, home):
                found[name] = source_digest(value)
                waiting.append(value)
            elif (text := _plain(value)) is not None:
                found[name] = text
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]


def _function(train: Any) -> Any:
    """The function or class behind a callable."""
    while isinstance(train, partial):
        train = train.func
    if isinstance(train, types.MethodType):
        return type(train.__self__)
    return train if isinstance(train, types.FunctionType | type) else type(train)


def _used(thing: Any, home: str) -> Iterator[tuple[str, Any]]:
    """The values that the code of a function, or of a class's methods, has from outside, each with
    a name of its own, which tells its module where that is not `home`. (What a closure holds is
    part of its source.)"""
    if isinstance(thing, type):
        for value in vars(thing).values():
            method = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(method, types.FunctionType):
                yield from _used(method, home)
        return
    if not isinstance(thing, types.FunctionType):
        return
    for cell in thing.__closure__ or ():
        with suppress(ValueError):  # that is empty
            if isinstance(held := cell.cell_contents, types.FunctionType | type):
                yield f"{thing.__qualname__} {held.__qualname__}", held
    names, known = _names(thing.__code__), thing.__globals__
    where = "" if thing.__module__ == home else f"{thing.__module__}."
    for name in sorted(names & known.keys()):
        value = known[name]
        yield f"{where}{name}", value
        if isinstance(value, types.ModuleType):
            for part in sorted(names & vars(value).keys()):
                if _is_own(vars(value)[part], thing):
                    yield f"{value.__name__}.{part}", vars(value)[part]


def _names(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _is_own(value: Any, home: Any) -> bool:
    """Whether a function or class is of the same module or folder."""
    if not isinstance(value, types.FunctionType | type):
        return False
    if value.__module__ == home.__module__:
        return True
    try:
        return Path(inspect.getfile(value)).parent == Path(inspect.getfile(home)).parent
    except (TypeError, OSError):
        return False


def _plain(value: Any) -> str | None:
    """What a number, a text, an array or the like is; None for other things."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, dict):
        value = sorted(value.items(), key=repr)
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return None if None in parts else f"({', '.join(cast(list[str], parts))})"
    return repr(value) if isinstance(value, str | bytes | int | float | complex) else None


# -- a training


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
        """For a screen, such as `train · 200 steps`."""
        return f"{self.name} · {self.recipe.steps:,} steps"

    @property
    def protocol(self) -> dict[str, Any]:
        """All that an outcome depends on besides expression and seed."""
        return {
            **grammar_of(self.operators, self.extra),
            "objective": self.objective.digest,
            "score": f"{self.metric.name} ({self.metric.direction} is better)",
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
        if not made:
            raise ValueError(
                f"{self.name} makes no activation by make_activation, so all functions would score "
                "the same"
            )
        scores = self._scores(found)
        wanted = {"val_score": self.metric.name}
        if KINDS[trial.kind].tested and self.test:
            test = test_name(self.metric)
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
            rungs=tuple(reports.rungs),
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
        self.rungs: list[AtRung] = []
        self.end: Diverged | RacedOut | None = None
        self._due = [rung for rung in trial.race if rung.step < steps]
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

    def _race(self, rung: Rung) -> None:
        """At the first report from the rung's step on, by the mean of the last losses."""
        losses = [loss for step, loss in self._losses if step > self.step - RUNG_STEPS]
        at = AtRung(rung.step, statistics.fmean(losses))
        self.rungs.append(at)
        if not rung.passed_by(at.loss):
            reason = f"left after {self.step:,} steps: its training loss {at.loss:.4g} is above"
            self._end(RacedOut(f"{reason} {rung.limit:.4g}", self))

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


def test_name(metric: Metric) -> str:
    """Under which an objective returns its score on test data."""
    return f"test_{metric.name}"


def number(value: Any, given: str) -> float:
    """Raises TypeError, which begins with what was `given`, for what is no number."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    way = "; value.item() makes it a number" if hasattr(value, "item") else ""
    raise TypeError(f"{given} {_what(value)}, but it must be a number{way}")


def _what(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
