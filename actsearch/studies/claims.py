"""Claims: what a text says of trainings, as comparisons that can fail, paired by seed.

A Course is one training as it went; a Claim compares two activations in one setting, seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from actsearch.results.metrics import ACCURACY
from actsearch.results.statistics import correlation_within, differences, estimate
from actsearch.results.tables import Row

MARGIN = 0.01  # one point of accuracy: what "about equal" and "clearly" are taken to mean
SMALL = 0.5  # of a correlation


@dataclass(frozen=True)
class Course:
    """One training: `accuracy` on the validation split after each of `steps`, `betas` by step (the
    mean of each layer's beta; empty for functions without), and how it ended, on the test split."""

    setting: str
    name: str
    seed: int
    steps: tuple[int, ...]
    accuracy: tuple[float, ...]
    betas: tuple[tuple[float | None, ...], ...]
    test_accuracy: float
    seconds_an_epoch: float

    def accuracy_at(self, share: float) -> float | None:
        """On the validation split, at the look nearest to this share of the steps."""
        if not self.steps:
            return None
        target = share * self.steps[-1]
        nearest = min(range(len(self.steps)), key=lambda i: abs(self.steps[i] - target))
        return self.accuracy[nearest]


@dataclass(frozen=True)
class Test:
    """A comparison in words, and whether the difference `a - b` of one seed passes."""

    words: str
    passes: Callable[[float], bool]


TESTS: Mapping[str, Test] = {
    "ahead": Test("{a} above {b}", lambda d: d > 0),
    "clearly ahead": Test("{a} more than a point above {b}", lambda d: d > MARGIN),
    "level": Test("{a} within a point of {b}", lambda d: abs(d) <= MARGIN),
    "no worse": Test("{a} no more than a point below {b}", lambda d: d >= -MARGIN),
    "dearer": Test("{a} takes 20 to 30 % more time an epoch than {b}", lambda d: 0.2 <= d <= 0.3),
}
TIMED = ("dearer",)  # of seconds an epoch, as a share of those of b


@dataclass(frozen=True)
class Claim:
    """In `setting` activation `a` compares with `b` as `test` says: on the validation split after
    the share `early` of the steps, or, where that is None, at the end on the test split."""

    setting: str
    says: str
    test: str
    a: str
    b: str
    early: float | None = None

    def row(self, courses: Iterable[Course]) -> Row:
        """How many seeds bear it out, and the mean difference with its standard error."""
        mine = [c for c in courses if c.setting == self.setting]
        difference = {name: self._by_seed(mine, name) for name in (self.a, self.b)}
        a, b = difference[self.a], difference[self.b]
        if self.test in TIMED:
            a, b = {s: a[s] / b[s] for s in a.keys() & b.keys()}, dict.fromkeys(b, 1.0)
        shared = sorted(a.keys() & b.keys())
        held = sum(TESTS[self.test].passes(a[s] - b[s]) for s in shared)
        paired = differences(a, b)
        found = estimate(paired) if paired else None
        when = "" if self.test in TIMED else " at the end"
        if self.early is not None:
            when = f" at {self.early:.0%} of the steps"
        return {
            "where": self.setting,
            "claim": self.says,
            "tested as": TESTS[self.test].words.format(a=self.a, b=self.b) + when,
            "held": f"{held} of {_seeds(len(shared))}" if shared else "not trained",
            "difference, paired": ACCURACY.cell(found.mean if found else None, signed=True),
            "its standard error": ACCURACY.cell(found.standard_error if found else None),
            "note": "",
        }

    def _by_seed(self, courses: Sequence[Course], name: str) -> dict[int, float]:
        found = {c.seed: self._value(c) for c in courses if c.name == name}
        return {seed: value for seed, value in found.items() if value is not None}

    def _value(self, course: Course) -> float | None:
        if self.test in TIMED:
            return course.seconds_an_epoch
        return course.test_accuracy if self.early is None else course.accuracy_at(self.early)


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n != 1)}"


def net_change(course: Course) -> float | None:
    """How far the mean of the layers' betas is at the end from where it began."""
    means = _layer_means(course)
    return means[-1] - means[0] if len(means) > 1 else None


def path_length(course: Course) -> float | None:
    """How far the mean of the layers' betas went in all, up and down."""
    means = _layer_means(course)
    if len(means) < 2:
        return None
    return sum(abs(b - a) for a, b in pairwise(means))


def _layer_means(course: Course) -> list[float]:
    """By step; steps at which a beta was not finite are left out."""
    rows = [[b for b in row if b is not None] for row in course.betas]
    whole = [r for r, row in zip(rows, course.betas, strict=True) if r and len(r) == len(row)]
    return [sum(row) / len(row) for row in whole]


PATHS: Mapping[str, Callable[[Course], float | None]] = {
    "net change": net_change,
    "length of the path": path_length,
}


@dataclass(frozen=True)
class NoPrediction:
    """The path of the betas of `name` does not predict its final accuracy: a correlation over
    seeds, within settings. It is refuted where the 95 % interval leaves out 0, and held only where
    the interval shows that r is small."""

    name: str
    path: str  # of PATHS
    says: str = "beta's path does not predict the end"

    def row(self, courses: Iterable[Course]) -> Row:
        groups: dict[str, list[tuple[float, float]]] = {}
        for course in courses:
            if course.name == self.name and (moved := PATHS[self.path](course)) is not None:
                groups.setdefault(course.setting, []).append((moved, course.test_accuracy))
        found = correlation_within([g for g in groups.values() if len(g) > 1])
        held, note = "not known", "too few trainings"
        if found is not None:
            note = f"r = {found.r:+.2f} over {found.n} trainings"
            if found.low is None or found.high is None:
                note += ", too few for an interval"
            else:
                note += f", 95 % from {found.low:+.2f} to {found.high:+.2f}"
                held = _verdict(found.low, found.high)
        return {
            "where": "within settings",
            "claim": self.says,
            "tested as": f"correlation of {self.path} and test accuracy, {self.name}",
            "held": held,
            "difference, paired": None,
            "its standard error": None,
            "note": note,
        }


def _verdict(low: float, high: float) -> str:
    if not low <= 0 <= high:
        return "refuted"
    return "yes" if max(-low, high) < SMALL else "undecided"
