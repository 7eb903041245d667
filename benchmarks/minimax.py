"""The polynomials of `search_space/kernels/elementary.py`, computed anew.

    python benchmarks/minimax.py

For each function the polynomial of the least largest relative error on its interval, by Remez'
exchange, and rounded to float32; the error before and after rounding is printed in units of 2^-24,
half a last place of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mpmath
import numpy as np
from mpmath import mpf

Function = Callable[[mpf], mpf]


@dataclass(frozen=True)
class Polynomial:
    """p of `degree` that is nearest to `target` on [low, high]. It is part of the function `whole`,
    in which it stands times `factor`; errors count relative to the whole."""

    name: str
    low: float
    high: float
    degree: int
    target: Function
    factor: Function
    whole: Function


def one(t: mpf) -> mpf:
    return mpf(1)


def odd(f: Function) -> Function:
    """(f(x) / x - 1) / x^2 as a function of x^2."""
    return lambda s: (f(mpmath.sqrt(s)) / mpmath.sqrt(s) - 1) / s


def over_root(f: Function) -> Function:
    """f(x) / x as a function of x^2."""
    return lambda s: f(mpmath.sqrt(s)) / mpmath.sqrt(s)


# fmt: off
POLYNOMIALS = (
    # exp(r) = 1 + r + r^2 p(r), r up to half of ln 2
    Polynomial("exp", -0.34660, 0.34660, 4,
               lambda r: (mpmath.exp(r) - 1 - r) / r**2, lambda r: r**2, mpmath.exp),
    # log(1 + f) = f - f^2 / 2 + f^3 p(f), 1 + f between the roots of 1/2 and 2
    Polynomial("log", -0.29290, 0.41422, 6,
               lambda f: (mpmath.log1p(f) - f + f**2 / 2) / f**3, lambda f: f**3, mpmath.log1p),
    # log(1 + e) = e p(e), e = exp(-|x|)
    Polynomial("log1p", 0, 1, 9, lambda e: mpmath.log1p(e) / e, lambda e: e, mpmath.log1p),
    # odd functions near 0: x + x s p(s), s = x^2
    Polynomial("sinh", 0, 1, 2, odd(mpmath.sinh), lambda s: s, over_root(mpmath.sinh)),
    Polynomial("tanh", 0, 0.36, 4, odd(mpmath.tanh), lambda s: s, over_root(mpmath.tanh)),
    Polynomial("asinh", 0, 1, 6, odd(mpmath.asinh), lambda s: s, over_root(mpmath.asinh)),
    Polynomial("atan", 0, 1, 7, odd(mpmath.atan), lambda s: s, over_root(mpmath.atan)),
    # erf(x) = x + x p(x^2) near 0; beyond 1 it is 1 - exp(-x^2) p(x)
    Polynomial("erf", 0, 1, 6, lambda s: over_root(mpmath.erf)(s) - 1, one, over_root(mpmath.erf)),
    Polynomial("erfc", 1, 4, 7, lambda x: mpmath.exp(x**2) * mpmath.erfc(x),
               lambda x: mpmath.exp(-x**2), mpmath.erf),
)
# fmt: on


@mpmath.workdps(40)
def minimax(wanted: Polynomial) -> tuple[list[mpf], mpf]:
    """Coefficients from the constant one on, and the largest relative error."""
    low, high, n = mpf(wanted.low), mpf(wanted.high), wanted.degree + 2
    nodes = [(low + high) / 2 - (high - low) / 2 * mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * n))
             for i in range(n)]  # fmt: skip
    grid = [low + (high - low) * (i + mpf(1) / 3) / 2000 for i in range(2000)]  # never 0
    weight = {t: _weight(wanted, t) for t in grid}
    target = {t: wanted.target(t) for t in grid}
    for _ in range(30):
        rows = [
            [t**k for k in range(n - 1)] + [(-1) ** i / _weight(wanted, t)]
            for i, t in enumerate(nodes)
        ]
        *coefficients, level = mpmath.lu_solve(
            mpmath.matrix(rows), mpmath.matrix([wanted.target(t) for t in nodes])
        )
        errors = [weight[t] * (value(coefficients, t) - target[t]) for t in grid]
        nodes = _extrema(grid, errors, n)
        worst = max(map(abs, errors))
        if worst <= abs(level) * mpf("1.001"):
            break
    return coefficients, worst


def _weight(wanted: Polynomial, t: mpf) -> mpf:
    return wanted.factor(t) / wanted.whole(t)


def _extrema(grid: Sequence[mpf], errors: Sequence[mpf], n: int) -> list[mpf]:
    """The largest error of each stretch of one sign, the n neighbours that hold the largest."""
    found: list[int] = []
    for i, error in enumerate(errors):
        if found and (error > 0) == (errors[found[-1]] > 0):
            if abs(error) > abs(errors[found[-1]]):
                found[-1] = i
        else:
            found.append(i)
    while len(found) > n:
        found.pop(0 if abs(errors[found[0]]) < abs(errors[found[-1]]) else -1)
    assert len(found) == n, "no alternating errors; start from another degree"
    return [grid[i] for i in found]


def value(coefficients: Sequence[mpf], t: mpf) -> mpf:
    return mpmath.polyval(list(reversed(coefficients)), t)


def rounded(coefficients: Sequence[mpf]) -> list[np.float32]:
    return [np.float32(float(c)) for c in coefficients]


def main() -> None:
    for wanted in POLYNOMIALS:
        coefficients, worst = minimax(wanted)
        printed = rounded(coefficients)
        grid = [
            mpf(wanted.low) + (mpf(wanted.high) - mpf(wanted.low)) * (i + mpf(1) / 3) / 500
            for i in range(500)
        ]
        after = max(
            abs(
                _weight(wanted, t) * (value([mpf(float(c)) for c in printed], t) - wanted.target(t))
            )
            for t in grid
        )
        print(f"{wanted.name}: {float(worst * 2**24):.4f}, rounded {float(after * 2**24):.4f}")
        print("   ", ", ".join(str(c) for c in printed))


if __name__ == "__main__":
    main()
