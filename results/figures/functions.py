"""Figures (plots.py) of functions: f and f', of a gate f over x at some g, for galleries, reports
and notebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import torch

from actsearch.results.figures.plots import BESIDE, Figure, Line, Panel, to_svg
from actsearch.search_space.analysis.evaluation import NOT_DIFFERENTIABLE, curves
from actsearch.search_space.expression import Expr, formula
from actsearch.search_space.parser import parse

REACH = 5.0  # x goes from -REACH to REACH, and no curve is shown beyond that in y
POINTS = 401
TALLER = 1.25  # a panel than f's values; slopes are cut there
SIZE = (3.4, 2.5)  # of a panel, in inches
PRIME = "\N{PRIME}"
_RELU = parse("relu(x)")
FAMILY = (-2.0, -1.0, 0.0, 1.0, 2.0)  # values of g


@dataclass(frozen=True)
class Curve:
    """What is drawn of a function at x, by name: f and f' or, of a gate, f at each g; with betas at
    their initial values, not finite where they are not."""

    title: str
    x: tuple[float, ...]
    lines: dict[str, tuple[float, ...]]


def values_and_slopes(
    expr: Expr, x: torch.Tensor, operators: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """f and f' at x (N,), in float64, at the initial betas. Raises one of NOT_DIFFERENTIABLE where
    a user's operator cannot be evaluated and differentiated in float64."""
    [batch] = curves([expr], x, operators=operators)
    return batch.value[0, 0], batch.slope[0, 0]


def values_over(expr: Expr, x: torch.Tensor, operators: str) -> dict[str, torch.Tensor]:
    """What is drawn of a function at x (N,), by name; raises as `values_and_slopes` does."""
    if len(expr.inputs) == 1:
        return dict(zip(("f", "f'"), values_and_slopes(expr, x, operators), strict=True))
    points = torch.cartesian_prod(torch.tensor(FAMILY, dtype=x.dtype), x).T.flip(0)
    [batch] = curves([expr], points, operators=operators)
    rows = batch.value[0, 0].view(len(FAMILY), -1)
    return {f"g = {g:g}": row for g, row in zip(FAMILY, rows, strict=True)}


def curve_of(expr: Expr, operators: str = "guarded", title: str = "") -> Curve:
    """From -REACH to REACH; raises as `values_and_slopes` does."""
    x = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    found = values_over(expr, x, operators)
    lines = {name: tuple(values.tolist()) for name, values in found.items()}
    return Curve(title, tuple(x.tolist()), lines)


def gallery_figure(found: Sequence[Curve]) -> Figure | None:
    """f and f' of each, a panel a function, as high as f is."""
    if not found:
        return None
    panels = tuple(map(_panel, found))
    drawn = ["f and its derivative f'"] * any("f'" in curve.lines for curve in found)
    drawn += ["gates f(x, g) over x"] * any("f'" not in curve.lines for curve in found)
    caption = f"{', '.join(drawn)}, betas at their initial values"
    return Figure("functions", "The best functions", panels, caption, panel=SIZE)


def function_svg(expr: Expr, operators: str = "guarded") -> str:
    """f, and f' dashed, or f at each g, as an <svg>; raises as `values_and_slopes` does."""
    return to_svg(Figure("function", "", (_panel(curve_of(expr, operators)),), panel=SIZE))


def card(expr: Expr, operators: str = "guarded") -> tuple[str, str]:
    """The same before ReLU's curves in grey, on axes chosen for f and for most of f', and a note on
    what lies outside them, "" for nothing; a gate is drawn alone. Raises as `values_and_slopes`
    does."""
    curve = curve_of(expr, operators)
    if "f'" not in curve.lines:
        return function_svg(expr, operators), _outside(curve, _panel(curve).y_range)
    panel = _panel(curve)
    heights = heights_with_slope(curve)
    beside = tuple(
        replace(line, label=f"ReLU's {line.label}", style=BESIDE)
        for line in _lines(curve_of(_RELU, operators))
    )
    panel = replace(panel, marks=(*beside, *panel.marks), y_range=heights)
    return to_svg(Figure("card", "", (panel,), panel=SIZE, legend=False)), _outside(curve, heights)


def function_html(expr: Expr, operators: str = "guarded") -> str:
    """The formula with its curves below, as notebooks show a function."""
    try:
        drawn = function_svg(expr, operators)
    except NOT_DIFFERENTIABLE:
        drawn = ""
    return f"<div><code>{escape(formula(expr))}</code><br>{drawn}</div>"


def _panel(c: Curve) -> Panel:
    heights = _heights([y for name, values in c.lines.items() if name != "f'" for y in values])
    return Panel(c.title, "x", "", _lines(c), (c.x[0], c.x[-1]), y_range=heights, at=(0.0,))


def _lines(c: Curve) -> tuple[Line, ...]:
    return tuple(
        Line(name, c.x, _broken(values), style=i, dash=int(name == "f'"))
        for i, (name, values) in enumerate(c.lines.items())
    )


def _broken(y: Sequence[float]) -> tuple[float, ...]:
    """A line has a gap where there is no finite value."""
    return tuple(v if math.isfinite(v) else math.nan for v in y)


def _heights(f: Sequence[float]) -> tuple[float, float]:
    """Where f's values are, from -1 to 1 at least and from -REACH to REACH at most."""
    values = [min(max(y, -REACH), REACH) for y in f if math.isfinite(y)]
    low, high = min([-1.0, *values]), max([1.0, *values])
    middle, half = (low + high) / 2, TALLER * (high - low) / 2
    return middle - half, middle + half


def heights_with_slope(c: Curve) -> tuple[float, float]:
    """Those of f, and of the middle nine tenths of its slopes."""
    slopes = sorted(y for y in c.lines["f'"] if math.isfinite(y))
    cut = len(slopes) // 20
    return _heights([*c.lines["f"], *slopes[cut : len(slopes) - cut]])


def _outside(c: Curve, heights: tuple[float, float] | None) -> str:
    """How much of each line the axes do not show, how far it goes, and where there is no value; ""
    for nothing."""
    assert heights is not None
    low, high = heights
    told: list[str] = []
    for name, values in ((name.replace("'", PRIME), values) for name, values in c.lines.items()):
        finite = [y for y in values if math.isfinite(y)]
        out = [y for y in finite if not low <= y <= high]
        if out:
            furthest = max(out, key=abs)
            told.append(f"{name} on {_share(len(out), values)}, to {furthest:.3g}")
        if len(finite) < len(values):
            told.append(f"{name} has no value on {_share(len(values) - len(finite), values)}")
    return f"Beyond these axes, of the x shown: {'; '.join(told)}." if told else ""


def _share(some: int, of: Sequence[float]) -> str:
    """Of `of`, at least one per cent."""
    return f"{max(1, round(100 * some / len(of)))} %"
