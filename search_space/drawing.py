"""Small drawings of a function for notebooks and reports: SVG by hand, so no figure library is
needed. Axes take the text's colour, and f and f' have colours that show on white and on black."""

from __future__ import annotations

import math
from html import escape

import torch

from actsearch.search_space.analysis.evaluation import NOT_DIFFERENTIABLE, curves
from actsearch.search_space.expression import Expr, formula

REACH = 5.0  # x goes from -REACH to REACH, and no curve is shown beyond that in y
MARGIN = 0.05  # of the height, above and below the curves
STYLES = {"f": 'stroke="#3b82f6"', "f'": 'stroke="#f97316" stroke-dasharray="4 3"'}


def curve_svg(
    expr: Expr, *, operators: str = "guarded", width: int = 280, height: int = 160
) -> str:
    """f, and f' dashed, at the initial betas, as an <svg> of this size in pixels.

    x goes from -5 to 5; y spans what the curves reach of -5 to 5, and 0. Curves are broken where
    they are not finite. Raises one of NOT_DIFFERENTIABLE where a user's operator cannot be
    evaluated and differentiated in float64.
    """
    x = torch.linspace(-REACH, REACH, width // 2 + 1, dtype=torch.float64)
    [found] = curves([expr], x, operators=operators)
    values = {"f": found.value[0, 0], "f'": found.slope[0, 0]}
    low, high = _span(torch.cat([*values.values()]))
    across = (x + REACH) / (2 * REACH) * width
    zero = _down(torch.zeros(1), low, high, height).item()
    parts = [
        f"<title>{escape(formula(expr))}</title>",
        f'<path d="M0 {zero:.1f}H{width}M{width / 2:g} 0V{height}" '
        'stroke="currentColor" opacity="0.35" fill="none"/>',
        *(
            f'<polyline points="{points}" {STYLES[name]} stroke-width="1.6" fill="none"/>'
            for name, y in values.items()
            for points in _pieces(across, _down(y, low, high, height))
        ),
        *_labels(low, high, zero, width, height),
    ]
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" font-family="sans-serif" {size}>'
    return f"{head}{''.join(parts)}</svg>"


def function_html(expr: Expr, *, operators: str = "guarded") -> str:
    """The formula with its curves below, as notebooks show a function."""
    try:
        drawn = curve_svg(expr, operators=operators)
    except NOT_DIFFERENTIABLE:
        drawn = ""
    return f"<div><code>{escape(formula(expr))}</code><br>{drawn}</div>"


def _span(values: torch.Tensor) -> tuple[float, float]:
    """The lowest and the highest y that is shown."""
    shown = [0.0, *values[torch.isfinite(values)].clamp(-REACH, REACH).tolist()]
    low, high = min(shown), max(shown)
    if high - low < 1e-9:
        low, high = -1.0, 1.0
    margin = MARGIN * (high - low)
    return low - margin, high + margin


def _down(y: torch.Tensor, low: float, high: float, height: int) -> torch.Tensor:
    """Pixels from the top, nan where `y` is not finite; what is far outside the picture comes
    nearer, for short numbers."""
    down = ((high - y) / (high - low) * height).clamp(-height, 2 * height)
    return down.where(torch.isfinite(y), torch.nan)


def _pieces(across: torch.Tensor, down: torch.Tensor) -> list[str]:
    """The points of each unbroken piece of a curve."""
    pieces: list[list[str]] = [[]]
    for x, y in zip(across.tolist(), down.tolist(), strict=True):
        if math.isnan(y):
            pieces.append([])
        else:
            pieces[-1].append(f"{x:.1f},{y:.1f}")
    return [" ".join(piece) for piece in pieces if piece]


def _labels(low: float, high: float, zero: float, width: int, height: int) -> list[str]:
    """The ends of both axes, and which curve is which."""
    above = zero - 3 if zero > height / 2 else zero + 11
    middle = width / 2 + 3
    texts = [
        (2, above, "start", f"{-REACH:g}"),
        (width - 2, above, "end", f"{REACH:g}"),
        (middle, 10, "start", f"{high:.2g}"),
        (middle, height - 3, "start", f"{low:.2g}"),
    ]
    shown = [
        f'<text x="{x:g}" y="{y:.1f}" text-anchor="{anchor}" font-size="10" '
        f'fill="currentColor" opacity="0.7">{text}</text>'
        for x, y, anchor, text in texts
    ]
    for i, (name, style) in enumerate(STYLES.items()):
        x, y = 6 + 40 * i, 10
        shown.append(f'<path d="M{x} {y - 3}h14" {style} stroke-width="1.6"/>')
        shown.append(
            f'<text x="{x + 17}" y="{y}" font-size="10" fill="currentColor">{escape(name)}</text>'
        )
    return shown
