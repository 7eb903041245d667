"""Figures (plots.py) of a search: how it went, which operators help, why functions failed, what
functions differ by when they are trained again. Each is None where there is nothing to draw."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from actsearch.results.figures.axes import OTHERS, Axis, Places, at_the_edge, far_out
from actsearch.results.figures.plots import Figure, Line, Panel, Points, Spans
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import ALWAYS_BESIDE, Cause
from actsearch.results.statistics import wilson
from actsearch.results.tables import brief

SHOWN = 12  # functions in a gallery
OPERATORS_FROM = 20  # finished functions, for shares of operators
SHARE = 0.25  # of all finished functions: the best and the worst that are compared


# -- how it went


def progress_figure(rows: Sequence[Mapping[str, Any]], metric: Metric = ACCURACY) -> Figure | None:
    """Every training of a search that has ended, and the best so far; `rows` of the store."""
    ended = [r for r in rows if r["status"] not in (None, "rejected")]
    ended.sort(key=lambda r: r["finished"])
    scored = [(i, r) for i, r in enumerate(ended, 1) if r["val_score"] is not None]
    if not scored:
        return None

    failed = [(i, r) for i, r in enumerate(ended, 1) if r["val_score"] is None]
    values = [metric.factor * r["val_score"] for _, r in scored]
    always = [metric.factor * r["val_score"] for _, r in scored if r["label"] in ALWAYS_BESIDE]
    axis = Axis.of(values, upwards=not metric.lower, always=always, room=bool(failed))

    def at(kept: Sequence[tuple[int, Mapping[str, Any]]]) -> Places:
        scores = tuple(axis.at(metric.factor * r["val_score"]) for _, r in kept)
        return tuple(float(i) for i, _ in kept), scores

    def named(kept: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[str, ...]:
        return tuple(f"{r['formula']}: {metric.text(r['val_score'])}" for _, r in kept)

    candidates = [(i, r) for i, r in scored if not r["beside"]]
    inside = [(i, r) for i, r in scored if not axis.out(metric.factor * r["val_score"])]
    outside = [(i, r) for i, r in scored if axis.out(metric.factor * r["val_score"])]
    marks: list[Line | Points] = [
        Points("a function", *at(inside), style=5, symbol=0, names=named(inside), size=3.5),
    ]
    if candidates:
        steps, best = _best_so_far(candidates, len(ended), metric)
        marks.append(Line("best so far", steps, best, style=0))
    beside = [(i, r) for i, r in scored if r["beside"]]
    for row in (r for _, r in beside if r["label"] in ALWAYS_BESIDE):
        level, style = metric.factor * row["val_score"], 1 + ALWAYS_BESIDE.index(row["label"])
        ends = (0.0, float(len(ended)))
        marks.append(Line(row["label"], ends, (level, level), style=style, dash=style))
    others = [(i, r) for i, r in beside if r["label"] not in ALWAYS_BESIDE]
    if others:
        names = tuple(r["label"] or r["formula"] for _, r in others)
        marks.append(Points("another baseline", *at(others), style=OTHERS, names=names, size=5))
    if outside:
        marks.append(far_out(at(outside), axis, named(outside)))
    if failed and axis.edge is not None:
        places = tuple(float(i) for i, _ in failed), (axis.edge,) * len(failed)
        names = tuple(f"{r['formula']}: {r['status'].replace('_', ' ')}" for _, r in failed)
        marks.append(at_the_edge("no score", places, "x", names))
    panel = Panel("", "trainings finished", metric.axis("validation"), tuple(marks), x_from=0.0,
                  y_range=axis.ends)  # fmt: skip
    note = axis.note(values, metric)
    if failed:
        note += f"; {len(failed):,} that failed or were stopped early have no score"
    return Figure(
        "progress", "The search", (panel,), f"one training each, n = {len(scored):,}{note}",
        panel=(7.0, 3.8),
    )  # fmt: skip


def _best_so_far(
    scored: Sequence[tuple[int, Mapping[str, Any]]], last: int, metric: Metric
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The corners of the staircase, as people read scores."""
    x: list[float] = []
    y: list[float] = []
    for i, row in scored:
        score = metric.factor * row["val_score"]
        if not y or metric.reward(score) > metric.reward(y[-1]):
            if y:
                x.append(float(i))
                y.append(y[-1])
            x.append(float(i))
            y.append(score)
    return (*x, float(last)), (*y, y[-1])


def controller_figure(health: Sequence[Mapping[str, float]]) -> Figure | None:
    """What a strategy says of itself along its proposals, a panel a number."""
    names = [n for n in dict.fromkeys(k for h in health for k in h) if n != "proposals"]
    if len(health) < 2:
        return None
    panels: list[Panel] = []
    for name in names:
        found = [(h["proposals"], h[name]) for h in health if h.get(name) is not None]
        if len(found) > 1:
            x, y = zip(*found, strict=True)
            panels.append(Panel(name, "proposals", name, (Line(name, x, y),)))
    if not panels:
        return None
    return Figure("controller", "The controller", tuple(panels), f"n = {len(health):,} updates")


@dataclass(frozen=True)
class LossCurve:
    """The training loss of one function, as (step, loss)."""

    name: str
    curve: Sequence[tuple[int, float]]


def loss_figure(courses: Sequence[LossCurve]) -> Figure | None:
    """Training loss against step."""
    lines = tuple(
        Line(c.name, *_smoothed(c.curve), style=i, dash=i)
        for i, c in enumerate(courses)
        if len(c.curve) > 1
    )
    if not lines:
        return None
    panel = Panel("", "step", "training loss, mean of neighbours", lines)
    return Figure("losses", "Training", (panel,), "one training each", panel=(7.0, 3.8))


def _smoothed(
    curve: Sequence[tuple[int, float]], points: int = 40
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means over equal parts of the curve."""
    size = max(1, math.ceil(len(curve) / points))
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    x = tuple(sum(step for step, _ in part) / len(part) for part in parts)
    return x, tuple(sum(loss for _, loss in part) / len(part) for part in parts)


# -- which operators help


@dataclass(frozen=True)
class OperatorShare:
    """How many of `of` functions have an operator, among the best and among the worst."""

    name: str
    best: int
    worst: int
    of: int


def operators_in(expression: str) -> set[str]:
    """The names of the operators in an expression's text."""
    return set(re.findall(r"\b[^\W\d]\w*", expression)) - {"x", "g"}


def operator_shares(entries: Sequence[Entry]) -> list[OperatorShare]:
    """Of the best and the worst quarter of what was trained, those that diverged among the worst;
    the operators whose shares differ most first. Empty where too few have finished."""
    trained = [e for e in entries if e.status in ("ok", "diverged") and not e.beside]
    if len(trained) < OPERATORS_FROM:
        return []
    ranked = sorted(trained, key=lambda e: -e.merit)
    size = max(1, round(SHARE * len(ranked)))
    best, worst = (Counter(n for e in part for n in operators_in(e.expression))
                   for part in (ranked[:size], ranked[-size:]))  # fmt: skip
    found = [OperatorShare(name, best[name], worst[name], size) for name in best | worst]
    return sorted(found, key=lambda s: (s.worst - s.best, s.name))


def operator_figure(entries: Sequence[Entry]) -> Figure | None:
    """The share of each operator among the best and the worst functions, with 95 % intervals."""
    shares = operator_shares(entries)
    if not shares:
        return None
    marks: list[Points] = []
    for style, (label, counts) in enumerate(
        (("best quarter", [s.best for s in shares]), ("worst quarter", [s.worst for s in shares]))
    ):
        intervals = [wilson(count, s.of) for count, s in zip(counts, shares, strict=True)]
        marks.append(
            Points(
                label,
                tuple(100 * count / s.of for count, s in zip(counts, shares, strict=True)),
                tuple(i + (-0.13, 0.13)[style] for i in range(len(shares))),
                style=style, size=5,
                low=tuple(100 * low for low, _ in intervals),
                high=tuple(100 * high for _, high in intervals),
            )
        )  # fmt: skip
    names = tuple(s.name for s in shares)
    x = "share of the functions that have it [%]"
    panel = Panel("", x, "", tuple(marks), x_from=0.0, y_names=names)
    caption = (
        f"{shares[0].of:,} functions in each quarter, those that diverged among the worst; "
        "bars: 95 % (Wilson)"
    )
    size = (7.0, 0.6 + 0.24 * len(shares))
    return Figure("operators", "Operators among the best and the worst", (panel,), caption, size)


# -- what did not train


def failures(entries: Iterable[Entry]) -> list[tuple[str, str, int]]:
    """(status, kind of reason, how many), the most frequent first; a kind has no numbers. Functions
    that left a race or a cohort trained well enough, and are none."""
    failed = (e for e in entries if e.status != "ok" and e.left is None)
    counted = Counter((e.status, counted_as(e.cause, e.variant)) for e in failed)
    return [(status, kind, n) for (status, kind), n in counted.most_common()]


# The words of its reason, without what belongs to one function alone; {} is its variant.
COUNTED_AS: Mapping[Cause, str] = MappingProxyType({
    Cause.RACED_OUT: "left after steps",
    Cause.LOSS: "loss {}",
    Cause.GRADIENT_NORM: "gradient norm {}",
    Cause.LOGITS: "logits not finite {}",
    Cause.SCORE: "score {}",
    Cause.EXCEPTION: "{}",
    Cause.OUT_OF_MEMORY: "out of memory",
    Cause.TIMED_OUT: "longer than",
    Cause.ENDED_ITSELF: "{} in a process of its own",
    Cause.KILLED: "alone in a process it was killed times (for its memory?)",
    Cause.WORKER_LOST: "its worker died or fell silent times",
    Cause.VALUE: "value {}",
    Cause.GRADIENT: "gradient {}",
    Cause.CONSTANT: "constant {}",
    Cause.AFFINE: "affine in x",
    Cause.UNREAD: "does not change with {}",
    Cause.NO_GRADIENT: "no gradient on of the probe {}",
    Cause.OTHER: "another reason",
})  # fmt: skip


def counted_as(cause: Cause | None, variant: str) -> str:
    return COUNTED_AS[cause or Cause.OTHER].format(variant).strip()


def failure_figure(entries: Iterable[Entry]) -> Figure | None:
    """How many functions failed, and why."""
    found = failures(entries)
    if not found:
        return None
    names = tuple(f"{status.replace('_', ' ')}: {kind}" for status, kind, _ in found)
    counts = tuple(float(n) for _, _, n in found)
    spans = Spans("functions", tuple(map(float, range(len(found)))), (0.0,) * len(found), counts)
    panel = Panel("", "functions", "", (spans,), y_names=names)
    caption = f"n = {int(sum(counts)):,} functions that failed"
    size = (7.0, 0.6 + 0.28 * len(found))
    return Figure("failures", "What did not train", (panel,), caption, size)


# -- what became of it when it was trained again


def difference_figure(
    models: Sequence[Mapping[str, Any]],
    reference: str,
    metrics: Mapping[str, Metric],
    splits: Mapping[str, str],
) -> Figure | None:
    """Differences to `reference` paired by seed, a panel a model; `models` are the rows of a
    comparison, `metrics` and `splits` those of its models."""
    panels: list[Panel] = []
    for model in dict.fromkeys(row["model"] for row in models):
        mine = [r for r in models if r["model"] == model and r["difference, paired"] is not None]
        if not mine:
            continue
        metric = metrics.get(model, ACCURACY)
        means = [metric.factor * r["difference, paired"] for r in mine]
        ends = [
            [
                m if r[key] is None else metric.factor * r[key]
                for m, r in zip(means, mine, strict=True)
            ]
            for key in ("from, paired", "to, paired")
        ]
        heights = tuple(map(float, range(len(mine))))
        points = Points(
            "difference", tuple(means), heights, low=tuple(ends[0]), high=tuple(ends[1]), size=6
        )
        names = tuple(brief(r["function"]) for r in mine)
        unit = metric.points or metric.unit
        x = f"{splits.get(model, 'test')} {metric.name} minus {reference}'s" + f" [{unit}]" * (
            unit not in ("", metric.name)
        )
        panels.append(Panel(model, x, "", (points,), y_names=names, at=(0.0,)))
    if not panels:
        return None
    seeds = sorted({r["seeds"] for r in models})
    n = f"n = {seeds[0]}" if len(seeds) == 1 else f"n = {seeds[0]} to {seeds[-1]}"
    caption = f"paired by seed, {n}; bars: 95 % intervals, none where a single seed was trained"
    height = 0.8 + 0.3 * max(len(p.y_names) for p in panels)
    title = f"Trained again, beside {reference}"
    width = 8.4 if len(panels) == 1 else 5.6
    return Figure("differences", title, tuple(panels), caption, (width, height))
