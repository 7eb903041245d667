"""Figures (plots.py) of functions: f and f', for galleries, reports and notebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch

from actsearch.results.figures.plots import Figure, Line, Panel, to_svg
from actsearch.search_space.analysis.evaluation import NOT_DIFFERENTIABLE, curves
from actsearch.search_space.expression import Expr, formula

REACH = 5.0  # x goes from -REACH to REACH, and no curve is shown beyond that in y
POINTS = 401
TALLER = 1.25  # a panel than f's values; slopes are cut there
SIZE = (3.4, 2.5)  # of a panel, in inches


@dataclass(frozen=True)
class Curve:
    """f and f' at x, with betas at their initial values; not finite where they are not."""

    title: str
    x: tuple[float, ...]
    f: tuple[float, ...]
    slope: tuple[float, ...]


def values_and_slopes(
    expr: Expr, x: torch.Tensor, operators: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """f and f' at x (N,), in float64, at the initial betas. Raises one of NOT_DIFFERENTIABLE where
    a user's operator cannot be evaluated and differentiated in float64."""
    [batch] = curves([expr], x, operators=operators)
    return batch.value[0, 0], batch.slope[0, 0]


def curve_of(expr: Expr, operators: str = "guarded", title: str = "") -> Curve:
    """From -REACH to REACH; raises as `values_and_slopes` does."""
    x = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    f, slope = values_and_slopes(expr, x, operators)
    return Curve(title, *(tuple(v.tolist()) for v in (x, f, slope)))


def gallery_figure(found: Sequence[Curve]) -> Figure | None:
    """f and f' of each, a panel a function, as high as f is."""
    if not found:
        return None
    panels = tuple(map(_panel, found))
    caption = "f and its derivative f', betas at their initial values"
    return Figure("functions", "The best functions", panels, caption, panel=SIZE)


def function_svg(expr: Expr, operators: str = "guarded") -> str:
    """f, and f' dashed, as an <svg>; raises as `values_and_slopes` does."""
    return to_svg(Figure("function", "", (_panel(curve_of(expr, operators)),), panel=SIZE))


def function_html(expr: Expr, operators: str = "guarded") -> str:
    """The formula with its curves below, as notebooks show a function."""
    try:
        drawn = function_svg(expr, operators)
    except NOT_DIFFERENTIABLE:
        drawn = ""
    return f"<div><code>{escape(formula(expr))}</code><br>{drawn}</div>"


def _panel(c: Curve) -> Panel:
    value = Line("f", c.x, _broken(c.f))
    slope = Line("f'", c.x, _broken(c.slope), style=1, dash=1)
    ends = (c.x[0], c.x[-1])
    return Panel(c.title, "x", "", (value, slope), ends, y_range=_heights(c.f), at=(0.0,))


def _broken(y: Sequence[float]) -> tuple[float, ...]:
    """A line has a gap where there is no finite value."""
    return tuple(v if math.isfinite(v) else math.nan for v in y)


def _heights(f: Sequence[float]) -> tuple[float, float]:
    """Where f's values are, from -1 to 1 at least and from -REACH to REACH at most."""
    values = [min(max(y, -REACH), REACH) for y in f if math.isfinite(y)]
    low, high = min([-1.0, *values]), max([1.0, *values])
    middle, half = (low + high) / 2, TALLER * (high - low) / 2
    return middle - half, middle + half
