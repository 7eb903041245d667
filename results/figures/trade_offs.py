"""Figures (plots.py) of what a better score costs: time a step, another score that is sought, or
one operator more. Each is None where there is nothing to draw."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from actsearch.results.aims import COST, Aims
from actsearch.results.figures.axes import OTHERS, Axis, Places, at_the_edge, far_out
from actsearch.results.figures.plots import Figure, Line, Panel, Points
from actsearch.results.front import MAYBE, SURE, Point, Spread, certain, fronts
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import Metric
from actsearch.results.records import ALWAYS_BESIDE
from actsearch.results.tables import brief

NAMED_AT_THE_FRONT = 8


# -- cost, and other scores


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

    names = [f"#{e.rank} {e.label or brief(e.formula)}" for e in best]
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
        marks.append(far_out(at(outside), axis, named(outside)))
    if dear:
        marks.append(at_the_edge("far dearer", at(dear), "triangle-right", named(dear)))
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


# -- one operator more


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
        marks.append(far_out(at(outside), axis, named(outside)))
    if failed and axis.edge is not None:
        places = tuple(float(complexity(e)) for e in failed), (axis.edge,) * len(failed)
        names = tuple(f"{e.formula}: {e.status.replace('_', ' ')}" for e in failed)
        marks.append(at_the_edge("no score", places, "x", names))
    caption = "bars: one standard error of the score" if any(errors) else (
        "no error is known: nothing was trained again"
    )  # fmt: skip
    if any(e.asked_for for e in scored):
        caption += "; of the baselines ReLU and Swish alone count for the line"
    caption += axis.note(values, metric)
    if failed:
        caption += f"; {len(failed):,} that failed or were rejected have no score"
    panel = Panel("", "operators in the formula", metric.axis("validation"), tuple(marks),
                  y_range=axis.ends, x_counts=True)  # fmt: skip
    return Figure("complexity", "Score and complexity", (panel,), caption, panel=(7.0, 3.8))
