"""Figures (results/figures/plots.py) of courses: how the trainings of an experiment went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from actsearch.results.figures.plots import Figure, Line, Panel, Points
from actsearch.results.figures.trainings import file_name
from actsearch.results.statistics import estimate
from actsearch.studies.claims import Course

BAND = "mean over seeds, band of one standard error"


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
