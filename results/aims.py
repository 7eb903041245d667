"""Aims: what a search of several objectives looks for. Each is a score and its direction.

The first is the metric, by which tables rank. Further ones are `cost`, the time of a step beside
one of ReLU, or scores that an objective returns. Limits, as `cost<=1.1`, are what a function must
keep. (An objective is a training of one's own, so what is sought has another word here.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actsearch.results.metrics import Metric
from actsearch.results.store import read_json

if TYPE_CHECKING:
    from actsearch.results.records import Outcome

COST = Metric("cost", "lower", unit="x ReLU", decimals=2)
WAYS = {"minimise": "lower", "maximise": "higher"}
_LIMIT = re.compile(r"\s*([^<>=!,]+?)\s*(<=|>=)\s*([^<>=!,\s]+)\s*")


@dataclass(frozen=True)
class Scores:
    """What a strategy is told of one training: a number for each aim, of which higher is better,
    and how far limits are broken, 0 where all are kept."""

    values: tuple[float, ...]
    violation: float = 0.0


@dataclass(frozen=True)
class Limit:
    """That the score `name` is at most, or at least, a value."""

    name: str
    sign: str
    value: float

    def broken_by(self, score: float) -> float:
        """By how much, as a share of the limit (of 0 as it is), so that limits of different units
        can be added; 0 where it is kept."""
        over = score - self.value if self.sign == "<=" else self.value - score
        return max(0.0, over / (abs(self.value) or 1.0))

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.value:.12g}"


@dataclass(frozen=True)
class Aims:
    """All that is sought: the `metric`, `further` aims, and `limits`."""

    metric: Metric
    further: tuple[Metric, ...] = ()
    limits: tuple[Limit, ...] = ()

    @property
    def every(self) -> tuple[Metric, ...]:
        return (self.metric, *self.further)

    @property
    def names(self) -> tuple[str, ...]:
        """The scores besides the metric without which a training cannot be judged."""
        named = (*(aim.name for aim in self.further), *(limit.name for limit in self.limits))
        return tuple(name for name in dict.fromkeys(named) if name != self.metric.name)

    def scores(self, outcome: Outcome) -> Scores | None:
        """What a strategy is told of an outcome, None for one that failed or lacks a score."""
        if outcome.val_score is None:
            return None
        return self.told(outcome.val_score, outcome.details)

    def told(self, val_score: float, details: Mapping[str, Any]) -> Scores | None:
        """The same from a score and the details of its training: `cost` and `scores`."""
        return self.of({self.metric.name: val_score, **reported(details)})

    def of(self, known: Mapping[str, float]) -> Scores | None:
        """The same from scores by name; None where one is missing."""
        if not {self.metric.name, *self.names} <= known.keys():
            return None
        return Scores(
            tuple(aim.reward(known[aim.name]) for aim in self.every),
            sum(limit.broken_by(known[limit.name]) for limit in self.limits),
        )

    def to_config(self) -> dict[str, str]:
        """What a run keeps, as `aims_from` reads it; equal for equal aims, however they were
        written."""
        ways = {direction: way for way, direction in WAYS.items()}
        further = words(
            (ways["lower" if aim.lower else "higher"], aim.name) for aim in self.further
        )
        found = {"aims": further, "where": ", ".join(map(str, self.limits))}
        return {name: text for name, text in found.items() if text}

    def __str__(self) -> str:
        """Such as `more accuracy, less cost, with cost<=1.5`."""
        aims = ", ".join(f"{'less' if aim.lower else 'more'} {aim.name}" for aim in self.every)
        return aims + f", with {', '.join(map(str, self.limits))}" * bool(self.limits)


def reported(details: Mapping[str, Any]) -> dict[str, float]:
    """The scores by name in the details of a training, the cost among them."""
    cost = details.get("cost")
    return ({COST.name: cost[0]} if cost else {}) | dict(details.get("scores") or {})


def details(row: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a row of the store, as far as they are scores."""
    return {name: read_json(row.get(name) or "null") for name in ("cost", "scores")}


def aims_from(metric: Metric, further: str, where: str) -> Aims | None:
    """From `minimise cost, maximise r2` and `cost<=1.1, r2>=0`; None where both are empty. Raises
    ValueError for what cannot be read."""
    limits = tuple(_limits(where, metric))
    aims = tuple(_aim(part) for part in parts(further))
    return Aims(metric, aims, limits) if aims or limits else None


def parts(text: str | None) -> list[str]:
    """What commas separate."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def words(names: Iterable[tuple[str, str]]) -> str:
    """(way, name) as `aims_from` reads them."""
    return ", ".join(f"{way} {name}" for way, name in names)


def _aim(text: str) -> Metric:
    way, _, name = text.partition(" ")
    if name == COST.name and WAYS[way] == COST.direction:
        return COST
    return Metric(name, "lower" if WAYS[way] == "lower" else "higher")


def _limits(where: str, metric: Metric) -> Iterator[Limit]:
    for part in parts(where):
        match = _LIMIT.fullmatch(part)
        if match is None:
            raise ValueError(
                f"--where {part!r} must be a score, <= or >=, and a number, such as cost<=1.1"
            )
        name, sign, number = match.groups()
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not abs(value) < float("inf"):
            raise ValueError(f"--where {part!r}: {number!r} must be a finite number, such as 1.1")
        if (name := _known(name, metric)) == metric.name and metric.fraction and abs(value) > 1:
            raise ValueError(f"--where {part!r}: {name} is a fraction of 1, as {name}{sign}0.9")
        yield Limit(name, sign, value)


def _known(name: str, metric: Metric) -> str:
    """The metric's own name where it is written as tables have it, such as `val_accuracy`."""
    spelt = (metric.name, metric.column("val"))
    return metric.name if name.replace("_", " ") in [s.replace("_", " ") for s in spelt] else name


# -- pure algorithms on rewards, of which higher is better


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is as good as `b` in all and better in one."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def best_of(points: Iterable[Sequence[float]]) -> list[tuple[float, ...]]:
    """The different points that none of the others dominates, the highest in the first first."""
    kept: list[tuple[float, ...]] = []
    for point in sorted({tuple(p) for p in points}, reverse=True):
        # One that dominates it has come before, and is kept or dominated by one that is.
        if not any(dominates(other, point) for other in kept):
            kept.append(point)
    return kept


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume of what the points dominate above `reference` (Zitzler and Thiele 1998), by slices
    along the last aim (While et al. 2006)."""
    inside = [p for p in points if all(x > r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    *rest, floor = reference
    if not rest:
        return max(p[0] for p in inside) - floor
    total, above = 0.0, sorted({p[-1] for p in inside}, reverse=True)
    for top, bottom in zip(above, [*above[1:], floor], strict=True):
        slice_ = best_of(p[:-1] for p in inside if p[-1] >= top)
        total += (top - bottom) * hypervolume(slice_, rest)
    return total
