"""What is drawn: figures (plots.py) from the courses of trainings and from histograms of
what became of their activations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actsearch.results.claims import Course
from actsearch.results.figures.plots import Bars, Figure, Line, Panel, Points
from actsearch.results.statistics import estimate

LONGEST = 80  # characters of a file's name
BAND = "mean over seeds, band of one standard error"


def file_name(text: str) -> str:
    """`text` without what a file's name had better not have, and no longer than one may be."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower())[:LONGEST].strip("-.") or "x"


# -- courses


def course_figures(courses: Sequence[Course], names: Sequence[str]) -> list[Figure]:
    """Accuracy against step for each setting, betas against step, accuracy beside time. `names`
    fixes the colour of each activation."""
    if not courses:
        return []
    settings = list(dict.fromkeys(c.setting for c in courses))
    figures = [_accuracy(s, [c for c in courses if c.setting == s], names) for s in settings]
    beta = _betas(courses, settings, names)
    return [*figures, *([beta] if beta.panels else []), _cost(courses, settings, names)]


def _accuracy(setting: str, courses: Sequence[Course], names: Sequence[str]) -> Figure:
    lines = tuple(
        line
        for i, name in enumerate(names)
        if (line := _mean_line(name, _of(courses, name), _per_cent, i, i)) is not None
    )
    panel = Panel("", "step", "validation accuracy [%]", lines)
    return Figure(
        f"accuracy-{file_name(setting)}",
        f"Accuracy along the training, {setting}",
        (panel,),
        f"{BAND}; {_n(courses)}",
    )


def _per_cent(course: Course) -> list[float]:
    return [100 * accuracy for accuracy in course.accuracy]


def _betas(courses: Sequence[Course], settings: Sequence[str], names: Sequence[str]) -> Figure:
    panels: list[Panel] = []
    for name in names:
        for setting in settings:
            mine = [c for c in _of(courses, name) if c.setting == setting and c.betas]
            layers = len(mine[0].betas[0]) if mine else 0
            found = [
                _mean_line(f"layer {i + 1}", mine, lambda c, i=i: [b[i] for b in c.betas], i, i)
                for i in range(layers)
            ]
            lines = tuple(line for line in found if line is not None)
            if lines:
                panels.append(Panel(f"{name}, {setting}", "step", "beta", lines))
    title = "Beta of each layer along the training"
    return Figure("betas-by-step", title, tuple(panels), f"{BAND}; {_n(courses)}")


def _cost(courses: Sequence[Course], settings: Sequence[str], names: Sequence[str]) -> Figure:
    panels: list[Panel] = []
    for setting in settings:
        points: list[Points] = []
        for i, name in enumerate(names):
            mine = [c for c in _of(courses, name) if c.setting == setting]
            if mine:
                score = estimate([100 * c.test_accuracy for c in mine])
                seconds = estimate([c.seconds_an_epoch for c in mine])
                error = () if score.standard_error is None else (score.standard_error,)
                points.append(Points(name, (seconds.mean,), (score.mean,), error, i))
        axes = ("time an epoch [s]", "test accuracy [%]")
        panels.append(Panel(setting, *axes, tuple(points), x_from=0.0))
    caption = f"mean over seeds, bars of one standard error; {_n(courses)}"
    return Figure("accuracy-and-time", "Accuracy beside time an epoch", tuple(panels), caption)


def _of(courses: Iterable[Course], name: str) -> list[Course]:
    return [c for c in courses if c.name == name]


def _n(courses: Iterable[Course]) -> str:
    return f"n = {len({c.seed for c in courses})} seeds"


def _mean_line(
    label: str,
    courses: Sequence[Course],
    values: Callable[[Course], Sequence[float | None]],
    style: int,
    dash: int,
) -> Line | None:
    """The mean over courses at the steps that all of them have; None where there are none."""
    tables = [
        {s: v for s, v in zip(c.steps, values(c), strict=True) if v is not None} for c in courses
    ]
    steps = sorted(set.intersection(*map(set, tables))) if tables else []
    if not steps:
        return None
    means = [estimate([table[step] for table in tables]) for step in steps]
    errors = [m.standard_error for m in means]
    low = tuple(m.mean - e for m, e in zip(means, errors, strict=True) if e is not None)
    high = tuple(m.mean + e for m, e in zip(means, errors, strict=True) if e is not None)
    y = tuple(m.mean for m in means)
    return Line(label, tuple(map(float, steps)), y, low, high, style, dash)


# -- what became of the activations


@dataclass(frozen=True)
class Inspected:
    """A function in a model, over its seeds: for each of its betas the values of all layers and
    channels, and the summed histogram of its inputs (`low`, `high`, `counts`, `below`, `above`)."""

    function: str
    model: str
    name: str
    seeds: int
    betas: tuple[tuple[float, ...], ...] = ()
    preactivations: Mapping[str, Any] | None = None


BETA_AXIS = (-0.5, 2.0)  # the paper's, Figure 7; wider where the values are
BETA_BINS = 50


def beta_figure(of: Inspected) -> Figure | None:
    """Histograms of trained betas (the paper's Figure 7), one panel a beta of the function."""
    panels = tuple(
        _beta_panel(of.model + (f", beta {i + 1}" if len(of.betas) > 1 else ""), values)
        for i, values in enumerate(of.betas)
        if values
    )
    if not panels:
        return None
    return Figure(f"betas-{of.name}", f"Trained betas of {of.function}", panels, _seeds(of))


def _beta_panel(title: str, values: Sequence[float]) -> Panel:
    edges, counts = histogram(values, BETA_BINS, BETA_AXIS)
    note = f"{len(values):,} values\nmean {sum(values) / len(values):.3f}"
    bars = Bars("betas", edges, tuple(count / len(values) for count in counts))
    return Panel(title, "beta", "share of betas", (bars,), (edges[0], edges[-1]), note=note)


def histogram(
    values: Sequence[float], bins: int, axis: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Edges and counts of bins of one width, over `axis` or as far as the values go."""
    low, high = min(axis[0], *values), max(axis[1], *values)
    width = (high - low) / bins
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / width))] += 1
    return tuple(low + width * i for i in range(bins + 1)), tuple(counts)


def preactivation_figure(of: Inspected) -> Figure | None:
    """The histogram of the activations' inputs after training (the paper's Figure 6)."""
    found = of.preactivations
    if not found:
        return None
    counts, low, high = found["counts"], found["low"], found["high"]
    total = sum(counts) + found["below"] + found["above"]
    width = (high - low) / len(counts)
    edges = tuple(low + width * i for i in range(len(counts) + 1))
    bump = sum(c for c, a in zip(counts, edges, strict=False) if -5 <= a < 0) / total
    note = f"in -5..0: {bump:.1%}\nbelow: {found['below'] / total:.1%}"
    note += f"\nabove: {found['above'] / total:.1%}"
    bars = Bars("inputs", edges, tuple(c / total for c in counts))
    panel = Panel(
        of.model, "input of the activation", "share of inputs", (bars,), (low, high), note=note
    )
    title = f"Inputs of {of.function} after training"
    return Figure(f"preactivations-{of.name}", title, (panel,), _seeds(of))


def _seeds(of: Inspected) -> str:
    return f"all layers and channels, n = {of.seeds} seed{'s' * (of.seeds != 1)}"
