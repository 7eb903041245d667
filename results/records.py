"""The records that the floors exchange: a Trial is one training to be done, an Outcome what came of
it."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from actsearch.results.metrics import ACCURACY, Metric

STATUSES = ("ok", "raced_out", "diverged", "rejected", "failed", "timed_out", "crashed")
ALONE = "ACTSEARCH_ALONE"  # in the environment of a process in which a suspect is tried
# Trained beside every search with its seed. Costs, comparisons and verdicts refer to the first.
ALWAYS_BESIDE = ("relu", "swish")
# Too where the space has gates: the best known, and two functions of x that compete with them.
BESIDE_GATES = ("swiglu", "geglu", "reglu", "relu2", "gelu")
RacedBy = Literal["loss", "score"]  # training loss, or validation score


class DeviceLostError(Exception):
    """The GPU works no more in this process, where all would fail from now on."""


class NoDeviceError(DeviceLostError):
    """The GPU cannot be used at all, which says nothing about a candidate."""


class HostError(Exception):
    """The machine, its disk or its data failed while a child was trained. This says nothing about
    the candidate, so no outcome is made of it and the search ends; the message says what to do."""


# What a machine says of itself. C++ libraries have no type for it, only the words.
HOST_ERRORS = (
    errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE,
    errno.EROFS,
)  # fmt: skip
_HOST_WORDS = tuple(map(os.strerror, HOST_ERRORS))


def is_of_the_host(error: BaseException) -> bool:
    """Whether an error that a training ended with is the machine's and not the candidate's: all
    that the system refuses, and main memory. (A full GPU is the candidate's: what it needs there is
    its own.)"""
    if isinstance(error, (OSError, MemoryError)):
        return True
    return type(error) is RuntimeError and any(words in str(error) for words in _HOST_WORDS)


def host_error(error: BaseException, doing: str) -> HostError:
    """`doing` is what ended with it, such as `training relu(x) on HOST`."""
    return HostError(
        f"{doing} ended with {type(error).__name__}: {' '.join(str(error).split())[:300]}. That is "
        "the machine's fault, so nothing is recorded of the function; once it is mended, the same "
        "command goes on."
    )


@dataclass(frozen=True)
class Milestone:
    """Of a race: after `step`, a training goes on only with a training loss, or a score, as good as
    `limit` (None: always). `by` says which of the two, and `metric` what a score is."""

    step: int
    by: RacedBy
    limit: float | None
    metric: Metric = ACCURACY

    def passed_by(self, value: float) -> bool:
        if self.limit is None:
            return True
        return value <= self.limit if self.lower else value >= self.limit

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.by == "loss" or self.metric.lower


@dataclass(frozen=True)
class AtMilestone:
    """How a training stood after `step`: the mean loss of its last steps, and the score on a part
    of the validation split, where that was measured."""

    step: int
    loss: float
    score: float | None = None

    def value(self, by: RacedBy) -> float | None:
        """The one of the two by which trainings race."""
        return self.loss if by == "loss" else self.score


@dataclass(frozen=True)
class Kind:
    """What a trial is for, and what follows from that."""

    name: str
    what: str
    searched: bool = False  # proposed in a search: a resume trains it, and the budget counts it
    ranked: bool = False  # its score counts in the ranking, and it may race
    tested: bool = False  # the test split is scored, if the evaluator does that at all
    inspected: bool = False  # it is looked at what became of the activations, likewise
    timed: bool = False  # its steps are timed beside ReLU's
    confirms: bool = False  # of a function that has trained, with another seed: budget counts each

    # How a trial is trained, steps among it, is in its protocol alone.


KINDS: Mapping[str, Kind] = MappingProxyType({
    kind.name: kind
    for kind in (
        Kind("search", "a whole training of a search", searched=True, ranked=True, timed=True),
        Kind("rung", "a shorter training of a search, which chooses who goes on", searched=True),
        Kind("confirm", "a training of a search's best with another seed", searched=True,
             confirms=True),
        Kind("sweep", "a training that chooses a learning rate", timed=True),
        Kind("reevaluate", "a training of a function that was found", tested=True, inspected=True),
    )
})  # fmt: skip


_FORMER = {
    "stage": "kind",
    "expression": "subject",
    "val_accuracy": "val_score",
    "test_accuracy": "test_score",
    "rungs": "milestones",
    "rung": "left",
}


class Renamed:
    """Says what an attribute is called now, where it is asked for by its former name."""

    if not TYPE_CHECKING:  # which would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            new = _FORMER.get(name)
            hint = f"; it is {new!r} now" if new in type(self).__dataclass_fields__ else ""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")


@dataclass(frozen=True)
class Trial(Renamed):
    """One training: this candidate in this child, on this data, by this recipe, with this seed.

    `kind` is one of KINDS; `subject` the candidate's key, its canonical text; `protocol` the hash
    of all that a result depends on besides the subject and the seed (operator set, data, child,
    recipe, its steps among it). (kind, subject, protocol, seed) names a trial for ever.
    """

    id: int
    kind: str
    subject: str
    protocol: str
    seed: int
    formula: str = ""  # `subject` as people write it
    label: str = ""  # a baseline's name, shown beside its formula
    race: tuple[Milestone, ...] = ()  # where it may be stopped; no part of what it is

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of trial {self.kind!r}; known: {', '.join(KINDS)}")

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.kind, self.subject, self.protocol, self.seed


class Cause(StrEnum):
    """Why a trial is not ok, for code: what an outcome's `reason` says in a sentence for people."""

    RACED_OUT = "raced out"
    LOSS = "loss not finite"
    GRADIENT_NORM = "gradient norm not finite"
    LOGITS = "logits not finite"
    SCORE = "score not finite"  # of an objective
    EXCEPTION = "exception"  # that the child raised
    OUT_OF_MEMORY = "out of memory"
    TIMED_OUT = "timed out"
    ENDED_ITSELF = "process ended itself"  # by a signal that is the function's fault, or by an exit
    KILLED = "process killed"
    WORKER_LOST = "worker lost"
    VALUE = "value not finite"  # these five are the flaws of `search_space/analysis/screening.py`
    GRADIENT = "gradient not finite"
    CONSTANT = "constant"
    AFFINE = "affine in x"
    UNREAD = "an input unread"
    NO_GRADIENT = "no gradient"
    OTHER = "other"  # not said, or said by a later release


def known_cause(text: str | None) -> Cause | None:
    """The cause that a store names so, None for an ok outcome."""
    try:
        return None if text is None else Cause(text)
    except ValueError:
        return Cause.OTHER


@dataclass(frozen=True)
class Outcome(Renamed):
    """What a trial ended as. Scores are of the data's metric: accuracies as fractions of 1, of a
    translation BLEU / 100. They are finite, and None unless status is `ok`.

    `reason` says in a sentence why a trial is not ok, and `cause` says it to code, which reads no
    sentence; `variant` tells apart what is counted apart within a cause, such as `nan`,
    `RuntimeError` or `SIGSEGV`. An outcome that is not ok and is given no cause has `OTHER`.

    `curve` is the training loss, thinned to at most 200 points of (step, loss); `milestones` say
    how it stood in a race. `seconds` is the wall time of the whole training, `ms_per_step` the
    processor's time (with a GPU wall time). `details` are plain values that only some trainings
    have: what became of the activations, scores along the way, and `cost`, the time of a step over
    that of one of ReLU, with a 95 % interval.
    """

    status: str
    reason: str = ""
    cause: Cause | None = None
    variant: str = ""
    val_score: float | None = None
    test_score: float | None = None
    step: int | None = None  # where it ended, if not at the recipe's last step
    curve: tuple[tuple[int, float], ...] = ()
    milestones: tuple[AtMilestone, ...] = ()
    seconds: float = 0.0
    ms_per_step: float | None = None
    host: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"unknown status {self.status!r}; known: {', '.join(STATUSES)}")
        if self.status == "ok" and self.cause is not None:
            raise ValueError(f"cause {self.cause} with status ok: such an outcome has none")
        if self.status != "ok" and self.cause is None:
            object.__setattr__(self, "cause", Cause.OTHER)
        for name in ("val_score", "test_score"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}, but a score must be a finite number")
            if value is not None and self.status != "ok":
                raise ValueError(
                    f"{name} {value} with status {self.status}: only an ok outcome has one"
                )
        if self.status == "ok" and self.val_score is None:
            raise ValueError("an ok outcome needs its val_score")


def reward(outcome: Outcome, metric: Metric) -> float | None:
    """What a strategy is told: the validation score (of a raced-out child that at its last
    milestone), turned so that higher is better; None where there is none."""
    score = outcome.val_score
    if outcome.status == "raced_out" and outcome.milestones:
        score = outcome.milestones[-1].score
    return None if score is None or not math.isfinite(score) else metric.reward(score)
