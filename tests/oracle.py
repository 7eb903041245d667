"""Every operator once more, in 50-digit arithmetic, from the formulas of docs/conventions.md.

Nothing here is shared with search_space/operators.py: what both say is right or both are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath
from mpmath import mp, mpf

from actsearch.search_space.expression import Expr

mp.dps = 50

Number = Any  # mpf has no useful type


def _clamp(x: Number, low: Number, high: Number) -> Number:
    return min(max(x, low), high)


def _denominator(b: Number) -> Number:
    return max(b, mpf(1e-3)) if b >= 0 else min(b, -mpf(1e-3))


def _sinc(x: Number) -> Number:
    return mpf(1) if x == 0 else mpmath.sin(x) / x


def _sigmoid(x: Number) -> Number:
    return 1 / (1 + mpmath.exp(-x))


_SHARED: dict[str, Callable[..., Number]] = {
    "identity": lambda x: x,
    "neg": lambda x: -x,
    "abs": lambda x: abs(x),
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "scale": lambda x, beta: beta * x,
    "shift": lambda x, beta: x + beta,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tanh": mpmath.tanh,
    "asinh": mpmath.asinh,
    "atan": mpmath.atan,
    "sinc": _sinc,
    "relu": lambda x: max(x, mpf(0)),
    "min0": lambda x: min(x, mpf(0)),
    "sigmoid": _sigmoid,
    "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
    "gauss": lambda x: mpmath.exp(-(x**2)),
    "erf": mpmath.erf,
    "beta": lambda beta: beta,
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "sub": lambda a, b: a - b,
    "max": lambda a, b: max(a, b),
    "min": lambda a, b: min(a, b),
    "gate": lambda a, b: _sigmoid(a) * b,
    "mix": lambda a, b, beta: beta * a + (1 - beta) * b,
}

PLAIN: dict[str, Callable[..., Number]] = {
    **_SHARED,
    "sqrt": mpmath.sqrt,
    "log_abs": lambda x: mpmath.log(abs(x) + mpf(1e-7)),
    "exp": mpmath.exp,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "div": lambda a, b: a / (b + mpf(1e-7)),
    "rbf": lambda a, b, beta: mpmath.exp(-beta * (a - b) ** 2),
    "laplace": lambda a, b, beta: mpmath.exp(-beta * abs(a - b)),
}

GUARDED: dict[str, Callable[..., Number]] = {
    **_SHARED,
    "sqrt": lambda x: mpmath.sqrt(abs(x) + mpf(1e-6)),
    "log_abs": lambda x: mpmath.log(abs(x) + mpf(1e-3)),
    "exp": lambda x: mpmath.exp(min(x, mpf(10))),
    "sinh": lambda x: mpmath.sinh(_clamp(x, -10, 10)),
    "cosh": lambda x: mpmath.cosh(_clamp(x, -10, 10)),
    "div": lambda a, b: a / _denominator(b),
    "rbf": lambda a, b, beta: mpmath.exp(min(-beta * (a - b) ** 2, mpf(10))),
    "laplace": lambda a, b, beta: mpmath.exp(min(-beta * abs(a - b), mpf(10))),
}

SETS = {"paper": PLAIN, "guarded": GUARDED}


def value(
    expr: Expr, x: Number, betas: Sequence[Number], operators: str = "guarded", g: Number = 0
) -> Number:
    """`expr` at x, of a gate at x and g, its betas in the order of Expr.walk, those of one name
    once."""
    remaining = iter(betas)
    named: dict[str, Number] = {}

    def of(node: Expr) -> Number:
        if node.op.name in ("x", "g"):
            return mpf(x if node.op.name == "x" else g)
        if node.op.name == "constant":
            return mpf(node.value)
        inputs = [of(arg) for arg in node.args]
        if node.op.name.startswith("beta_"):
            if node.op.name not in named:
                named[node.op.name] = mpf(next(remaining))
            return named[node.op.name]
        if node.beta is not None:
            inputs.append(mpf(next(remaining)))
        return SETS[operators][node.op.name](*inputs)

    return of(expr)
