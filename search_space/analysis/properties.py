"""Properties of a function at its initial betas, found numerically: the columns that tables filter
by.

They are what dense sampling shows, not proofs: a bump narrower than the grid goes unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import torch

from actsearch.search_space.analysis.evaluation import by_inputs, curves
from actsearch.search_space.expression import Expr

STEP = 0.0025
_HALF = 4000  # steps on each side: -10..10
_DENSE = torch.arange(-_HALF, _HALF + 1, dtype=torch.float64) * STEP
_OUT = 10.0 * 1.0631 ** torch.arange(1, 201, dtype=torch.float64)  # to 2,000,000
_FAR_AT = 75  # _OUT[75] is about 1,000: beyond it nothing new may happen to a bounded function
_SLOPES_AT = torch.tensor([5e5, 1e6, 2e6], dtype=torch.float64)
_BESIDE_0 = torch.tensor([-1e-7, 1e-7], dtype=torch.float64)
_POINTS = torch.cat([_DENSE, -_OUT, _OUT, -_SLOPES_AT, _SLOPES_AT, _BESIDE_0])
_CENTRE = _HALF
_NORMAL = torch.softmax(-(_DENSE**2) / 2, 0)  # shares of a standard normal; 1e-23 lies beyond
_SUSPECTS = 8  # intervals looked at closely for a kink
_HALVINGS = 24


@dataclass(frozen=True)
class Properties:
    """`smooth` says that f' has no jump; `monotonic` is increasing, decreasing or no; `parity` odd,
    even or no; `minimum` the least value on -10..10; slopes at infinity are None where they do not
    settle (x^2, x sin x). `mean_shift` is |E f(z)| / sd f(z) of a standard normal z: how far f
    moves the mean of normalised inputs, in deviations (Brock et al. 2021, arXiv:2101.08692); None
    for constants and where f is not finite."""

    smooth: bool
    monotonic: str
    bounded_below: bool
    bounded_above: bool
    parity: str
    at_0: float | None
    slope_at_0: float | None
    minimum: float | None
    slope_left: float | None
    slope_right: float | None
    mean_shift: float | None
    operators: int
    betas: int

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


NAMES = tuple(Properties.__dataclass_fields__)


@dataclass(frozen=True)
class GateProperties:
    """Of a gate f(x, g): `smooth` and `monotonic` are along lines on which one input stays,
    `parity` compares f(-x, -g), `minimum` is over the square from -10 to 10, and `mean_shift` is
    that of independent standard normal inputs; the rest is as of a function of x."""

    smooth: bool
    monotonic: str
    bounded_below: bool
    bounded_above: bool
    parity: str
    at_0: float | None
    minimum: float | None
    mean_shift: float | None
    operators: int
    betas: int

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def properties(
    exprs: Iterable[Expr], operators: str = "guarded"
) -> Iterator[Properties | GateProperties]:
    """The properties of each expression, in order."""
    for inputs, alike in by_inputs(exprs):
        points, chunk = (_POINTS, 50) if inputs == 1 else (_PLANE, 20)
        for batch in curves(alike, points, operators=operators, chunk=chunk):
            for i, expr in enumerate(batch.exprs):
                value, slopes = batch.value[i, 0], [slope[i, 0] for slope in batch.slopes]
                if inputs == 1:
                    yield _properties(expr, value, slopes[0], operators)
                else:
                    yield _gate_properties(expr, value, slopes, operators)


def _properties(expr: Expr, value: torch.Tensor, slope: torch.Tensor, operators: str) -> Properties:
    near, left, right, slopes_left, slopes_right, _ = value.split(
        [len(_DENSE), len(_OUT), len(_OUT), 3, 3, 2]
    )
    near_slope = slope[: len(_DENSE)].clone()
    one_sided = slope[-2:].mean()
    slope_at_0 = float(near_slope[_CENTRE])
    if abs(float(slope[-2] - slope[-1])) < 1e-3 < abs(slope_at_0 - float(one_sided)):
        slope_at_0 = float(one_sided)
    near_slope[_CENTRE] = one_sided  # relu(x) + min0(x) has slope 0 at 0 alone
    scale = max(1e-12, float(torch.nan_to_num(near, 0.0, 0.0, 0.0).abs().max()))
    return Properties(
        smooth=_smooth(near_slope, _DENSE, lambda x: _slope(expr, x, 0, operators)),
        monotonic=_monotonic(near, scale),
        bounded_below=_bounded(near, left, right),
        bounded_above=_bounded(-near, -left, -right),
        parity=_parity(near, near.flip(0), scale),
        at_0=_number(near[_CENTRE]),
        slope_at_0=_number(slope_at_0),
        minimum=_number(near.min()),
        slope_left=_asymptotic_slope(slopes_left, -1.0),
        slope_right=_asymptotic_slope(slopes_right, 1.0),
        mean_shift=_mean_shift(near, _NORMAL),
        operators=expr.operators,
        betas=expr.betas,
    )


# -- of gates: lines on which one input ascends and the other stays, a square, and rays to far out

_LINE = torch.arange(-1200, 1201, dtype=torch.float64) / 120.0  # kinks lie between its points
_KEPT = (-1.7, 0.6, 1.3)
_AXIS = torch.linspace(-10.0, 10.0, 81, dtype=torch.float64)
_SQUARE = torch.cartesian_prod(_AXIS, _AXIS).T
_SQUARE_CENTRE = _SQUARE.shape[1] // 2
_WEIGHTS = torch.softmax(-(_SQUARE**2).sum(0) / 2, 0)  # shares of two standard normals


def _on(line: torch.Tensor, kept: float, along: int) -> torch.Tensor:
    """(2, N): `line` as input number `along`, with `kept` as the other."""
    both = [line, torch.full_like(line, kept)]
    return torch.stack(both if along == 0 else both[::-1])


_LINES = [(kept, along) for along in (0, 1) for kept in _KEPT]
_FAR = torch.cat([torch.arange(1.0, 10.0, dtype=torch.float64), _OUT])
_RAYS = [
    torch.stack([a * _FAR, b * _FAR])
    for a, b in ((1.0, 1.1), (1.0, -1.1), (-1.0, 1.1), (-1.0, -1.1))
] + [_on(sign * _FAR, kept, along) for kept, along in _LINES for sign in (1.0, -1.0)]
_PLANE = torch.cat([_SQUARE, *(_on(_LINE, *line) for line in _LINES), *_RAYS], 1)
_PLANE_SIZES = [_SQUARE.shape[1], *[len(_LINE)] * len(_LINES), *[len(_FAR)] * len(_RAYS)]


def _gate_properties(
    expr: Expr, value: torch.Tensor, slopes: list[torch.Tensor], operators: str
) -> GateProperties:
    square, *others = value.split(_PLANE_SIZES)
    lines, rays = others[: len(_LINES)], others[len(_LINES) :]
    _, *along_lines = zip(*(slope.split(_PLANE_SIZES) for slope in slopes), strict=True)
    scale = max(1e-12, float(torch.nan_to_num(square, 0.0, 0.0, 0.0).abs().max()))
    monotonic = {_monotonic(line, scale) for line in lines}
    smooth = all(
        _smooth(
            of_inputs[along],
            _LINE,
            lambda t, kept=kept, along=along: _slope(expr, _on(t, kept, along), along, operators),
        )
        for (kept, along), of_inputs in zip(_LINES, along_lines, strict=False)
    )
    return GateProperties(
        smooth=smooth,
        monotonic=monotonic.pop() if len(monotonic) == 1 else "no",
        bounded_below=_bounded(square, *rays),
        bounded_above=_bounded(-square, *(-ray for ray in rays)),
        parity=_parity(square, square.flip(0), scale),
        at_0=_number(square[_SQUARE_CENTRE]),
        minimum=_number(square.min()),
        mean_shift=_mean_shift(square, _WEIGHTS),
        operators=expr.operators,
        betas=expr.betas,
    )


def _number(value: torch.Tensor | float) -> float | None:
    number = float(value)
    return float(f"{number:.6g}") + 0.0 if math.isfinite(number) else None


def _monotonic(near: torch.Tensor, scale: float) -> str:
    steps = near.diff()
    rounding = 1e-12 * scale
    if bool((steps >= -rounding).all()):
        return "increasing"
    return "decreasing" if bool((steps <= rounding).all()) else "no"


def _parity(near: torch.Tensor, mirrored: torch.Tensor, scale: float) -> str:
    if torch.allclose(near, mirrored, rtol=0.0, atol=1e-9 * scale):
        return "even"
    return "odd" if torch.allclose(near, -mirrored, rtol=0.0, atol=1e-9 * scale) else "no"


def _mean_shift(near: torch.Tensor, shares: torch.Tensor) -> float | None:
    mean = (shares * near).sum()
    sd = (shares * (near - mean) ** 2).sum().sqrt()
    return round(float(mean.abs() / sd), 6) if float(sd) > 1e-9 * float(mean.abs()) else None


def _bounded(near: torch.Tensor, *sides: torch.Tensor) -> bool:
    """Whether nothing beyond 1,000 is lower than what was before."""
    for side in sides:
        before, after = torch.cat([near, side[:_FAR_AT]]), side[_FAR_AT:]
        if bool(torch.isnan(before).any() | torch.isnan(after).any()):
            return False
        low = float(before.min())
        if float(after.min()) < low - 1e-3 * max(1.0, abs(low)):
            return False
    return math.isfinite(float(near.min()))


def _asymptotic_slope(values: torch.Tensor, sign: float) -> float | None:
    """The slope over 500,000..1,000,000 where it is that over the next million too."""
    if not bool(torch.isfinite(values).all()):
        return None
    inner, outer = float(values[1] - values[0]) / 5e5, float(values[2] - values[1]) / 1e6
    if abs(inner - outer) > 1e-2 + 1e-3 * abs(outer):
        return None
    return round(sign * outer, 2) + 0.0


def _slope(expr: Expr, points: torch.Tensor, along: int, operators: str) -> torch.Tensor:
    """(N,): that of input number `along`."""
    [batch] = curves([expr], points, operators=operators)
    return batch.slopes[along][0, 0]


SlopeAt = Callable[[torch.Tensor], torch.Tensor]


def _smooth(slope: torch.Tensor, line: torch.Tensor, slope_at: SlopeAt) -> bool:
    """Whether the largest step of f' on a line shrinks with the grid: to a quarter on one four
    times finer.

    A kink's step stays as it is; what lies between is looked at closely.
    """
    if not bool(torch.isfinite(slope).all()):
        return False
    coarse, fine = float(slope[::4].diff().abs().max()), float(slope.diff().abs().max())
    if fine < 1e-6 or fine <= 0.3 * coarse:
        return True
    return fine < 0.9 * coarse and _smooth_close_up(slope.diff().abs(), line, slope_at)


def _smooth_close_up(steps: torch.Tensor, line: torch.Tensor, slope_at: SlopeAt) -> bool:
    """Halve the intervals with the largest steps of f', following the larger half."""
    widest = steps.topk(_SUSPECTS).indices
    left, right, before = line[widest], line[widest + 1], steps[widest]
    after = before
    for _ in range(_HALVINGS):
        middle = (left + right) / 2
        points = torch.stack([left, middle, right], 1).flatten()
        first, second = slope_at(points).view(-1, 3).diff(dim=1).abs().unbind(1)
        left = torch.where(first > second, left, middle)
        right = torch.where(first > second, middle, right)
        after = torch.maximum(first, second)
    return not bool((after > 0.01 * before.clamp(min=1e-4)).any())
