"""matched(): a function scaled until its slope at 0 and its second moment are another's."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.expression import Expr, constant, substitute
from actsearch.search_space.operators import OPERATORS
from actsearch.search_space.parser import parse

GUARDED = "guarded"
LARGEST_SCALE = 8.0  # of an input, and its inverse the smallest
NODES = 120  # of the quadrature over a standard normal
SMALLEST_SLOPE = 1e-3  # below it a slope cannot be matched by a scale


def matched(f: Expr, to: Expr) -> tuple[Expr, str]:
    """a f(b x) with the slope at 0 and the second moment under a standard normal of `to`, betas at
    their initial values, and how it was found. Where f has no slope at 0, or a scale of its input
    is one of its output, or no b from 1/8 to 8 will do, b is 1 and the second moment alone is
    matched. A slope at a kink is the mean of both sides'. Of several b the nearest to 1 is taken.
    """
    from scipy.optimize import root_scalar

    slope, moment = _slope(f), _moment(f, 1.0)
    aim_slope, aim_moment = _slope(to), _moment(to, 1.0)

    def off(log_b: float) -> float:
        b = math.exp(log_b)
        a = aim_slope / (b * slope)
        return math.log(a * a * _moment(f, b) / aim_moment)

    if abs(slope) > SMALLEST_SLOPE:
        edges = np.linspace(-1.0, 1.0, 201) * math.log(LARGEST_SCALE)
        values = np.array([off(x) for x in edges])
        turns = np.flatnonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0)
        roots = [root_scalar(off, bracket=edges[i : i + 2]).root for i in turns]
        roots += [float(edge) for edge, value in zip(edges, values, strict=True) if value == 0]
        if roots and np.ptp(values) > 1e-6:
            b = math.exp(min(roots, key=abs))
            a = aim_slope / (b * slope)
            return _scaled(f, a, b), "slope and second moment"
    return _scaled(f, math.sqrt(aim_moment / moment), 1.0), "second moment"


def _scaled(f: Expr, a: float, b: float) -> Expr:
    a, b = (float(f"{value:.6g}") for value in (a, b))
    inner = substitute(f, _times(b, parse("x")))
    return _times(a, inner)


def _times(factor: float, expr: Expr) -> Expr:
    return expr if factor == 1.0 else Expr(OPERATORS["mul"], (constant(factor), expr))


@lru_cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for a mean over a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes, weights / weights.sum()


def _moment(f: Expr, b: float) -> float:
    nodes, weights = _quadrature()
    return float(weights @ _values(f, b * nodes) ** 2)


def _slope(f: Expr) -> float:
    h = 1e-4
    below, above = _values(f, np.array([-h, h]))
    return float((above - below) / (2 * h))


def _values(f: Expr, points: np.ndarray) -> np.ndarray:
    import torch

    [found] = curves([f], torch.from_numpy(points), operators=GUARDED)
    return found.value[0, 0].numpy()
