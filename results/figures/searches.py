"""Figures (plots.py) of a search: how it went, what it found, what functions cost, which operators
help, why functions failed. Each is None where there is nothing to draw."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from actsearch.results.aims import COST, Aims
from actsearch.results.figures.plots import (
    BESIDE,
    SYMBOLS,
    Figure,
    Line,
    Panel,
    Points,
    Spans,
)
from actsearch.results.front import MAYBE, SURE, Point, Spread, certain, fronts
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import ALWAYS_BESIDE, Cause
from actsearch.results.statistics import wilson

SHOWN = 12  # functions in a gallery
OPERATORS_FROM = 20  # finished functions, for shares of operators
SHARE = 0.25  # of all finished functions: the best and the worst that are compared
NAMED_AT_THE_FRONT = 8
FENCE = 3.0  # interquartile ranges
FEWEST_FOR_FENCES = 8  # values
OTHERS = 3  # the style of all baselines but ReLU and Swish, which have their own


Places = tuple[tuple[float, ...], tuple[float, ...]]  # x and y of points


# -- axes


@dataclass(frozen=True)
class Axis:
    """What an axis shows of values: all, but for those that are far out on the worse side, which
    stand at its `edge`. Far out is beyond Tukey's (1977) outer fence, three interquartile ranges
    from the quartile. `low` and `high` are the axis's ends; `edge` is None where all are shown."""

    low: float
    high: float
    edge: float | None
    upwards: bool  # whether higher is better

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        *,
        upwards: bool,
        always: Iterable[float] = (),
        room: bool = False,
    ) -> Axis:
        """Of at least one value; `always` shows these too, and with `room` the edge is free for
        what has no value at all."""
        sign = 1.0 if upwards else -1.0
        turned = [sign * value for value in values]
        kept = [sign * value for value in always]
        worst, best = min(_inside(turned) + kept), max(turned + kept)
        margin = 0.05 * ((best - worst) or abs(best) or 1.0)
        if min(turned) > worst - 2 * margin:  # what is nearer than the edge needs none
            worst = min(worst, *turned)
        far = min(turned) < worst
        edge = worst - 2 * margin if far or room else None
        ends = (worst if edge is None else edge) - margin, best + margin
        low, high = sorted(sign * end for end in ends)
        return cls(low, high, None if edge is None else sign * edge, upwards)

    def out(self, value: float) -> bool:
        return self.edge is not None and (value < self.edge if self.upwards else value > self.edge)

    def at(self, value: float) -> float:
        """Where it is drawn."""
        return self.edge if self.edge is not None and self.out(value) else value

    @property
    def ends(self) -> tuple[float, float] | None:
        """None where all are shown, and whoever draws finds the ends."""
        return None if self.edge is None else (self.low, self.high)

    def note(self, values: Sequence[float], metric: Metric) -> str:
        """Such as `; 2 are far out, the worst 10.00 %, and stand at the edge`; "" for none."""
        out = [v / metric.factor for v in values if self.out(v)]
        if not out:
            return ""
        worst = metric.text(min(out) if self.upwards else max(out))
        if len(out) == 1:
            return f"; 1 is far out, {worst}, and stands at the edge"
        return f"; {len(out):,} are far out, the worst {worst}, and stand at the edge"


def _inside(values: Sequence[float]) -> list[float]:
    """Those that are not far below the others."""
    if len(values) < FEWEST_FOR_FENCES:
        return [*values]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    if first == third:
        return [*values]
    return [v for v in values if v >= first - FENCE * (third - first)]


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
        marks.append(_far_out(at(outside), axis, named(outside)))
    if failed and axis.edge is not None:
        places = tuple(float(i) for i, _ in failed), (axis.edge,) * len(failed)
        names = tuple(f"{r['formula']}: {r['status'].replace('_', ' ')}" for _, r in failed)
        marks.append(_at_the_edge("no score", places, "x", names))
    panel = Panel("", "trainings finished", metric.axis("validation"), tuple(marks), x_from=0.0,
                  y_range=axis.ends)  # fmt: skip
    note = axis.note(values, metric)
    if failed:
        note += f"; {len(failed):,} that failed or were stopped early have no score"
    return Figure(
        "progress", "The search", (panel,), f"one training each, n = {len(scored):,}{note}",
        panel=(7.0, 3.8),
    )  # fmt: skip


def _far_out(places: Places, axis: Axis, names: tuple[str, ...]) -> Points:
    """Scores that the axis does not reach."""
    return _at_the_edge(
        "far out", places, "triangle-down" if axis.upwards else "triangle-up", names
    )


def _at_the_edge(what: str, places: Places, symbol: str, names: tuple[str, ...]) -> Points:
    what, number = f"{what} ({len(names):,})", SYMBOLS.index(symbol)
    return Points(what, *places, style=BESIDE, symbol=number, names=names, size=5)


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


# -- what it found


def front(entries: Iterable[Entry]) -> list[Entry]:
    """The functions that are cheaper than all that score better, beyond the intervals of their
    costs, cheapest first; none where that is true of the best alone, or an interval is not known.
    Of the baselines ReLU and Swish alone count."""
    found = _timed(e for e in entries if not e.asked_for)
    points = [_score_and_cost(e) for e in found]
    kept = [found[i] for i in certain([p for p in points if p])] if all(points) else []
    if len({e.merit for e in kept}) < 2:
        return []
    return sorted(kept, key=lambda e: (e.vs_relu or 0.0, -e.merit))


def _score_and_cost(entry: Entry) -> Point | None:
    """The score as it was in the search; None where how much the cost varies is not known."""
    if entry.vs_relu is None or entry.vs_relu_range is None:
        return None
    low, high = entry.vs_relu_range
    return Spread(*[entry.merit] * 3), Spread(-entry.vs_relu, -high, -low)


def _timed(entries: Iterable[Entry]) -> list[Entry]:
    return [e for e in entries if e.val_score is not None and e.ms_per_step is not None]


def cost_figure(entries: Sequence[Entry]) -> Figure | None:
    """Scores beside time a step, and the functions that are surely cheaper than all better ones, if
    there are such."""
    timed = _timed(entries)
    if len(timed) < 2:
        return None
    metric = timed[0].metric
    relative = all(e.vs_relu is not None for e in timed)

    def cost(e: Entry) -> float:
        return float((e.vs_relu if relative else e.ms_per_step) or 0.0)

    best = front(timed)
    always = [e for e in timed if e in best or (e.beside and not e.asked_for)]
    scores, costs = [_shown(e) for e in timed], [cost(e) for e in timed]
    across = Axis.of(costs, upwards=False, always=map(cost, always))
    axis = Axis.of(scores, upwards=not metric.lower, always=map(_shown, always))

    def at(kept: Sequence[Entry]) -> Places:
        return tuple(across.at(cost(e)) for e in kept), tuple(axis.at(_shown(e)) for e in kept)

    names = [f"#{e.rank} {e.label or e.formula}" for e in best]
    short = _apart(best, at(best), at(timed))
    dear = [e for e in timed if across.out(cost(e))]
    outside = [e for e in timed if axis.out(_shown(e)) and e not in dear]
    inside = [e for e in timed if e not in dear and e not in outside]
    unit = "times ReLU's time" if relative else "ms"

    def named(kept: Sequence[Entry]) -> tuple[str, ...]:
        return tuple(f"{_named(e)}, {cost(e):.2f} {unit}" for e in kept)

    marks: list[Line | Points] = [
        Points("a function", *at(inside), style=5, symbol=0, names=named(inside), size=3.5),
    ]
    if outside:
        marks.append(_far_out(at(outside), axis, named(outside)))
    if dear:
        marks.append(_at_the_edge("far dearer", at(dear), "triangle-right", named(dear)))
    if best:
        marks += [
            Line("Pareto front", *at(best), style=0),
            Points("on the front", *at(best), style=0, names=short, written=True, size=7),
        ]
    marks += _baselines(timed, at, named)
    x = "time a step, as a multiple of ReLU's" if relative else "time a step [ms]"
    panel = Panel("", x, metric.axis("validation"), tuple(marks), across.ends, y_range=axis.ends)
    caption = _front_in_words(names, timed) + axis.note(scores, metric)
    if dear:
        caption += f"; {len(dear):,} cost more than the axis shows, up to {max(costs):.2f} {unit}"
    if missing := len(entries) - len(timed):
        caption += f"; {missing:,} without a score or a time are not shown"
    title = f"{metric.name[0].upper()}{metric.name[1:]} and cost"
    return Figure("cost", title, (panel,), caption, panel=(7.0, 4.2))


def _baselines(
    entries: Iterable[Entry],
    at: Callable[[Sequence[Entry]], Places],
    named: Callable[[Sequence[Entry]], tuple[str, ...]],
) -> Iterator[Points]:
    """Symbols of their own for ReLU and Swish, and one for all others."""
    beside = [e for e in entries if e.beside]
    for e in (e for e in beside if not e.asked_for):
        style = 1 + ALWAYS_BESIDE.index(e.label)
        yield Points(e.label, *at([e]), style=style, names=named([e]), size=7)
    if others := [e for e in beside if e.asked_for]:
        yield Points("another baseline", *at(others), style=OTHERS, names=named(others), size=5)


def _shown(entry: Entry) -> float:
    """The score as people read it."""
    return entry.metric.factor * (entry.val_score or 0.0)


def _named(entry: Entry) -> str:
    """Where the mouse is."""
    label = f" ({entry.label})" if entry.label not in ("", entry.formula) else ""
    return f"#{entry.rank} {entry.formula}{label}: {entry.metric.text(entry.val_score or 0.0)}"


def front_figure(entries: Sequence[Entry], aims: Aims | None) -> Figure | None:
    """The score beside each other score that is sought, and the front; the cost has a figure of its
    own."""
    if aims is None:
        return None
    further = [
        aim for aim in aims.further if aim != COST or any(aim.name in e.scores for e in entries)
    ]
    front = fronts(entries, aims)
    panels = [panel for aim in further if (panel := _front_panel(entries, aims, aim, front))]
    if not panels:
        return None
    counts = Counter(front.values())
    caption = (
        f"one training each; on the front of {aims}: {counts[SURE]} beyond the intervals, "
        f"{counts[MAYBE]} more by their values"
    )
    return Figure("front", "The front", tuple(panels), caption, panel=(7.0, 4.2))


def _front_panel(
    entries: Sequence[Entry], aims: Aims, aim: Metric, front: Mapping[str, str]
) -> Panel | None:
    known = [e for e in entries if e.val_score is not None and aim.name in e.scores]
    if len(known) < 2:
        return None

    def at(kept: Sequence[Entry]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        scores = tuple(aims.metric.factor * (e.val_score or 0.0) for e in kept)
        return tuple(e.scores[aim.name] for e in kept), scores

    names = tuple(f"#{e.rank} {e.formula}" for e in known)
    marks = [Points("a function", *at(known), style=5, symbol=0, names=names, size=3.5)]
    for style, (label, standing) in enumerate((("on the front", SURE), ("perhaps", MAYBE))):
        best = sorted((e for e in known if front[e.expression] == standing), key=lambda e: -e.merit)
        if best:
            short = _apart(best, at(best), at(known))
            marks.append(Points(label, *at(best), style=style, names=short, written=True, size=7))
    return Panel("", aim.axis("validation"), aims.metric.axis("validation"), tuple(marks))


def _front_in_words(names: Sequence[str], timed: Sequence[Entry]) -> str:
    if names:
        return (
            "the front, of functions that cost less than all that score better, beyond the 95 % "
            f"intervals of their costs: {'; '.join(names[-NAMED_AT_THE_FRONT:])}"
        )
    if all(e.vs_relu_range for e in timed):
        return "no front is drawn: costs differ by less than their 95 % intervals"
    return "no front is drawn: how much the costs vary was not measured"


def _apart(
    entries: Sequence[Entry],
    places: tuple[Sequence[float], Sequence[float]],
    all_places: tuple[Sequence[float], Sequence[float]],
    near: float = 0.05,
) -> tuple[str, ...]:
    """The ranks, empty where one that is better stands too near for both to be read."""
    x, y = ([v / ((max(of) - min(of)) or 1.0) for v in at]
            for at, of in zip(places, all_places, strict=True))  # fmt: skip
    written: dict[int, str] = {}
    for i in reversed(range(len(entries))):
        if all(max(abs(x[i] - x[k]), abs(y[i] - y[k])) > near for k in written):
            written[i] = f"#{entries[i].rank}"
    return tuple(written.get(i, "") for i in range(len(entries)))


# -- what each operator more brings


def complexity(entry: Entry) -> int:
    """How many operators its formula applies, those of all groups of layers together."""
    return len(re.findall(r"[^\W\d]\w*(?:\[[^]]*\])?\(", entry.expression))


@dataclass(frozen=True)
class Pick:
    """The best function of all `of` with so many `operators`; `difference` is that of its score to
    the best of all simpler ones, None for the simplest."""

    entry: Entry
    operators: int
    of: int
    difference: float | None

    @property
    def better(self) -> bool:
        """Than all that are simpler."""
        return self.difference is None or self.entry.metric.reward(self.difference) > 0


def picks(entries: Iterable[Entry]) -> list[Pick]:
    """One for each complexity, the simplest first, as symbolic regression reports what it finds. Of
    the baselines ReLU and Swish alone count."""
    groups: dict[int, list[Entry]] = {}
    for e in entries:
        if e.val_score is not None and not e.asked_for:
            groups.setdefault(complexity(e), []).append(e)
    found: list[Pick] = []
    best = -math.inf
    for operators, group in sorted(groups.items()):
        entry = max(group, key=lambda e: e.merit)
        difference = entry.metric.reward(entry.merit - best) if found else None
        found.append(Pick(entry, operators, len(group), difference))
        best = max(best, entry.merit)
    return found


def complexity_figure(
    entries: Sequence[Entry], error: Callable[[Entry], float | None]
) -> Figure | None:
    """Scores beside the number of operators, the best of each with its standard `error`, and a line
    through those that are better than all simpler ones."""
    scored = [e for e in entries if e.val_score is not None]
    found = picks(entries)
    if len(found) < 2:
        return None
    metric = scored[0].metric
    failed = [e for e in entries if e.val_score is None and e.left is None]
    values, best = [_shown(e) for e in scored], [p.entry for p in found]
    errors = [error(e) for e in best]
    reach = [metric.factor * (s or 0.0) for s in errors]
    ends = [_shown(e) + sign * s for e, s in zip(best, reach, strict=True) for sign in (-1, 1)]
    axis = Axis.of(values, upwards=not metric.lower, always=ends, room=bool(failed))

    def at(kept: Sequence[Entry]) -> Places:
        return tuple(float(complexity(e)) for e in kept), tuple(axis.at(_shown(e)) for e in kept)

    def named(kept: Sequence[Entry]) -> tuple[str, ...]:
        return tuple(map(_named, kept))

    outside = [e for e in scored if axis.out(_shown(e))]
    inside = [e for e in scored if e not in outside]
    rising = [p.entry for p in found if p.better]
    bars = tuple(math.nan if s is None else metric.factor * s for s in errors)
    marks: list[Line | Points] = [
        Points("a function", *at(inside), style=5, symbol=0, names=named(inside), size=3.5),
        Line("better than all simpler", *at(rising), style=0),
        Points("best of its complexity", *at(best), style=0, size=6, names=named(best),
               error=bars if any(errors) else ()),
        *_baselines(scored, at, named),
    ]  # fmt: skip
    if outside:
        marks.append(_far_out(at(outside), axis, named(outside)))
    if failed and axis.edge is not None:
        places = tuple(float(complexity(e)) for e in failed), (axis.edge,) * len(failed)
        names = tuple(f"{e.formula}: {e.status.replace('_', ' ')}" for e in failed)
        marks.append(_at_the_edge("no score", places, "x", names))
    caption = "bars: one standard error of the score" if any(errors) else (
        "no error is known: nothing was trained again"
    )  # fmt: skip
    caption += axis.note(values, metric)
    if failed:
        caption += f"; {len(failed):,} that failed or were rejected have no score"
    panel = Panel("", "operators in the formula", metric.axis("validation"), tuple(marks),
                  y_range=axis.ends, x_counts=True)  # fmt: skip
    return Figure("complexity", "Score and complexity", (panel,), caption, panel=(7.0, 3.8))


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
        names = tuple(r["function"] for r in mine)
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
