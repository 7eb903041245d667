"""The front of a run: the functions that no other beats in all aims, and how sure that is.

Of each aim a function has a value and, of its cost, the 95 % interval that this was measured with.
A single score has none: it counts as it is, so the front says which costs are certain, and not
which score was luck.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actsearch.results.aims import COST, Aims, dominates
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import Metric

SURE, MAYBE, NO = "yes", "maybe", "no"


@dataclass(frozen=True)
class Spread:
    """The value of an aim, turned so that higher is better, and its interval: (value, value) where
    none is known."""

    value: float
    low: float
    high: float

    @property
    def exact(self) -> bool:
        return self.low == self.high


Point = tuple[Spread, ...]


def point_of(entry: Entry, aims: Iterable[Metric]) -> Point | None:
    """Of a function that was trained; None where one of the scores is missing."""
    found = [spread(entry, aim) for aim in aims]
    return None if None in found else tuple(s for s in found if s is not None)


def spread(entry: Entry, aim: Metric) -> Spread | None:
    if entry.val_score is None:
        return None
    value, ends = measured(entry, aim.name)
    if value is None:
        return None
    low, high = sorted(aim.reward(end) for end in ends or (value, value))
    return Spread(aim.reward(value), low, high)


def measured(entry: Entry, name: str) -> tuple[float | None, tuple[float, float] | None]:
    """The score of this name, as it is, and its interval."""
    if name == entry.metric.name:
        return entry.val_score, None
    if name == COST.name and name not in entry.scores:
        return (entry.vs_relu if entry.vs_relu_range else None), entry.vs_relu_range
    return entry.scores.get(name), None


def beats(a: Point, b: Point) -> bool:
    """Whether `a` dominates `b` as far as their intervals let it: it is as good in what is exact,
    and, unless they are the same there, may be as good in all else. Where they are the same, it is
    surely better in all else."""
    pairs = [*zip(a, b, strict=True)]
    exact = [(x.value, y.value) for x, y in pairs if x.exact and y.exact]
    rest = [(x, y) for x, y in pairs if not (x.exact and y.exact)]
    if any(x < y for x, y in exact):
        return False
    if any(x > y for x, y in exact) or not exact:
        return all(x.high >= y.low for x, y in rest)
    return bool(rest) and all(x.low > y.high for x, y in rest)


def certain(points: Sequence[Point]) -> list[int]:
    """The places of those that no other beats."""
    return [
        i
        for i, point in enumerate(points)
        if not any(beats(other, point) for j, other in enumerate(points) if j != i)
    ]


def fronts(entries: Iterable[Entry], aims: Aims) -> dict[str, str]:
    """By expression SURE, where no function that may keep the limits can be better in all aims and
    this one surely keeps them; MAYBE, where that is so of the values alone; else NO. Of the
    baselines ReLU and Swish alone count. None is SURE where no aim has intervals, or a score is
    missing of one that has trained."""
    every = [*entries]
    found = dict.fromkeys((e.expression for e in every), NO)
    trained = [e for e in every if e.val_score is not None and not e.asked_for]
    known = [(e, point) for e in trained if (point := point_of(e, aims.every)) is not None]
    within = [(e, point) for e, point in known if kept(e, aims) != NO]
    values = [tuple(s.value for s in point) for _, point in within]
    keeping = [i for i, (e, _) in enumerate(within) if keeps(e, aims)]
    for i in keeping:
        if not any(dominates(values[j], values[i]) for j in keeping):
            found[within[i][0].expression] = MAYBE
    spreads = any(not s.exact for _, point in known for s in point)
    if spreads and len(known) == len(trained):
        for i in certain([point for _, point in within]):
            entry = within[i][0]
            if found[entry.expression] == MAYBE and kept(entry, aims) == SURE:
                found[entry.expression] = SURE
    return found


def keeps(entry: Entry, aims: Aims) -> bool:
    """Whether a function keeps the limits by its scores alone."""
    values = [(limit, measured(entry, limit.name)[0]) for limit in aims.limits]
    return all(value is not None and not limit.broken_by(value) for limit, value in values)


def kept(entry: Entry, aims: Aims) -> str:
    """SURE where the limits are kept at both ends of each interval, MAYBE at one, else NO."""
    worst = SURE
    for limit in aims.limits:
        value, ends = measured(entry, limit.name)
        if value is None:
            return NO
        broken = [limit.broken_by(end) > 0 for end in ends or (value,)]
        if all(broken):
            return NO
        worst = MAYBE if any(broken) else worst
    return worst
