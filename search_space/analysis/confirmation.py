"""same_function(a, b): whether two expressions with the same fingerprint are the same function.

Values at sample points are evidence, not proof, so the samples are many and lie where functions
that look alike part: betas of both signs and all sizes, inputs from 0 to REACH, and both sides of
every place where a part crosses 0 or a guard's limit, or an operator's arguments cross each other;
there `max`, `abs` and the guards change what they do, perhaps for a thousandth of the line. Gates
are compared in the plane of x and g, and on lines along either.

Two values are the same if they agree to RELATIVE of their size or to ABSOLUTE, or if they differ by
no more than rounding explains: by what random changes of the last bits of every operator's inputs
do to them. Where float64 overflows, both have to. Nothing is claimed of points where rounding
leaves no digit, of |x| > REACH, and of betas whose size is outside SMALLEST to LARGEST; and a
difference at less than about one of 10,000 points may go unseen.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from actsearch.search_space.expression import Expr
from actsearch.search_space.operators import CONSTANT, EXP_LIMIT, INPUTS, is_tied

RELATIVE, ABSOLUTE = 1e-10, 1e-12
REACH = 1e4  # beyond it exp(x), clamped at 22,026, and max(x, exp(x)) part
SMALLEST, LARGEST = 1e-3, 1e3  # sizes of betas
SAMPLES = 16_384  # pairs of a point and a choice of betas
FEW = 256  # of them come first: most pairs that differ do so there
# Choices of betas (of a gate for each input, with one of the other), and points of an input,
# between which crossings are sought.
LINES, ON_A_LINE = 64, 128
CROSSINGS = 2_048  # at most so many are looked at
BISECTIONS = 20
LAST_BITS = 2.0**-50  # four units in the last place
ROUNDING = 32.0  # how far beyond the change that we have seen another one may go
UNCLEAR = 0.5  # of the samples may say nothing


def same_function(a: Expr, b: Expr, operators: str = "guarded") -> bool:
    """Whether two expressions agree, beta for beta, wherever float64 can tell; see above."""
    if a.betas != b.betas or a.inputs != b.inputs:
        return False
    points, betas = _samples(a.betas, len(a.inputs))
    unclear = 0
    for part in (slice(FEW), slice(FEW, None)):
        found = _unclear(a, b, points[:, part], betas[:, part], operators)
        if found is None:
            return False
        unclear += found
    if unclear > UNCLEAR * SAMPLES:
        return False
    places = (_crossings(expr, operators) for expr in (a, b))
    return all(_unclear(a, b, *place, operators) is not None for place in places)


def _unclear(
    a: Expr, b: Expr, points: torch.Tensor, betas: torch.Tensor, operators: str
) -> int | None:
    """How many values differ by what rounding may explain; None where one differs by more."""
    one, two = (_values(expr, points, betas, operators)[-1] for expr in (a, b))
    close = torch.isclose(one, two, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    if bool(close.all()):
        return 0
    points, betas, gap = points[:, ~close], betas[:, ~close], _change(one, two)[~close]
    rounding = sum(_rounding(expr, points, betas, operators) for expr in (a, b))
    return None if bool((gap > ROUNDING * rounding).any()) else len(gap)


def _rounding(
    expr: Expr, points: torch.Tensor, betas: torch.Tensor, operators: str
) -> torch.Tensor:
    """The largest change of `expr` at points (inputs, N) when every part changes in its last
    bits."""
    value = _values(expr, points, betas, operators)[-1]
    noise = torch.Generator().manual_seed(0)
    shaken = (_values(expr, points, betas, operators, noise)[-1] for _ in range(3))
    return torch.stack([_change(other, value) for other in shaken]).amax(0)


def _change(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|a - b|: 0 where both are the same infinity or undefined, infinite where only one is."""
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, (a - b).abs().nan_to_num(torch.inf))


def _values(
    expr: Expr,
    points: torch.Tensor,
    betas: torch.Tensor,
    operators: str,
    noise: torch.Generator | None = None,
) -> list[torch.Tensor]:
    """The values (N,) of the parts of `expr`, itself last, at points (inputs, N) and betas
    (betas, N); with `noise` each operator's inputs are changed in their LAST_BITS."""
    parts: list[torch.Tensor] = []
    known: dict[Expr, torch.Tensor] = {}
    own = iter(betas)
    named: dict[str, torch.Tensor] = {}

    def of(expr: Expr) -> torch.Tensor:
        if expr in known:
            return known[expr]
        if expr.op in INPUTS:
            value = points[INPUTS.index(expr.op)]
        elif expr.op == CONSTANT:
            value = torch.full_like(points[0], expr.value or 0.0)
        else:
            inputs = [of(arg) for arg in expr.args]
            if expr.beta is not None:
                beta = named.get(expr.op.name)
                beta = next(own) if beta is None else beta
                if is_tied(expr.op):
                    named[expr.op.name] = beta
                inputs.append(beta)
            if noise is not None:
                inputs = [_shaken(value, noise) for value in inputs]
            value = expr.op.form(operators)(*inputs).expand_as(points[0])
            if expr.op.arity == 2:
                parts.append(inputs[0] - inputs[1])
        if expr.own == 0:
            known[expr] = value
        parts.append(value)
        return value

    of(expr)
    return parts


def _shaken(value: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    change = torch.rand(value.shape, generator=noise, dtype=value.dtype) * 2 - 1
    return value * (1 + LAST_BITS * change)


def _drawn(n: int, least: float, most: float, chance: torch.Generator) -> torch.Tensor:
    """`n` numbers of either sign whose sizes are spread evenly over the powers of ten."""
    sizes, signs = torch.rand(2, n, generator=chance, dtype=torch.float64)
    return torch.where(signs < 0.5, -1.0, 1.0) * least * (most / least) ** sizes


def _some_x(n: int, chance: torch.Generator) -> torch.Tensor:
    """`n` points: 0, half of the others within -12..12, half of any size up to REACH."""
    x = _drawn(n, 1e-5, REACH, chance)
    x[::2] = torch.rand(len(x[::2]), generator=chance, dtype=torch.float64) * 24 - 12
    x[0] = 0.0
    return x


@lru_cache
def _samples(count: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (inputs, SAMPLES) and betas (count, SAMPLES)."""
    chance = torch.Generator().manual_seed(1)
    x = _some_x(SAMPLES, chance)
    betas = _drawn(count * SAMPLES, SMALLEST, LARGEST, chance).view(count, SAMPLES)
    others = (_shuffled(_some_x(SAMPLES, chance), chance) for _ in range(inputs - 1))
    return torch.stack([x, *others]), betas


def _shuffled(values: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    return values[torch.randperm(len(values), generator=chance)]


@lru_cache
def _lines(count: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (inputs, lines, ON_A_LINE), on each line with one input ascending, and betas
    (count, lines, ON_A_LINE); what does not ascend a line keeps."""
    chance = torch.Generator().manual_seed(2)
    lines = LINES if count or inputs > 1 else 1
    ascending = _some_x(LINES * ON_A_LINE, chance).view(lines, -1).sort(1).values
    betas = _drawn(count * lines, SMALLEST, LARGEST, chance).view(count, lines, 1)
    betas = betas.expand(count, *ascending.shape)
    if inputs == 1:
        return ascending[None], betas
    kept = _shuffled(_some_x(lines, chance), chance)[:, None].expand_as(ascending)
    both = torch.stack([torch.cat([ascending, kept]), torch.cat([kept, ascending])])
    return both, torch.cat([betas, betas], 1)


@lru_cache(maxsize=16)  # what is kept is compared with one after the other
def _crossings(expr: Expr, operators: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on both sides of the places where a part of `expr` crosses 0 or a guard's limit, or
    two arguments each other: (inputs, N), and betas (betas, N)."""
    points, betas = _lines(expr.betas, len(expr.inputs))
    sides = _sides(expr, points.flatten(1), betas.flatten(1), operators)
    sides = sides.view(-1, *points.shape[1:])
    part, line, at = (sides[..., 1:] != sides[..., :-1]).nonzero(as_tuple=True)
    chosen = torch.randperm(len(part), generator=torch.Generator().manual_seed(3))[:CROSSINGS]
    part, line, at = part[chosen], line[chosen], at[chosen]
    left, right, own = points[:, line, at], points[:, line, at + 1], betas[:, line, at]
    before = sides[part, line, at]
    for _ in range(BISECTIONS):
        middle = (left + right) / 2
        same = _sides(expr, middle, own, operators)[part, torch.arange(len(part))] == before
        left, right = torch.where(same, middle, left), torch.where(same, right, middle)
    return torch.cat([left, right], 1), torch.cat([own, own], 1)


def _sides(expr: Expr, points: torch.Tensor, betas: torch.Tensor, operators: str) -> torch.Tensor:
    """On which side of 0 and of a guard's limits each part is: (3 parts, N), boolean."""
    parts = torch.stack(_values(expr, points, betas, operators))
    return torch.cat([parts > limit for limit in (0.0, EXP_LIMIT, -EXP_LIMIT)])
