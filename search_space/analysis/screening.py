"""screen(expr): why a function is not worth a training, found in a millisecond.

Measured over the one-unit space with plain formulas, 490 of 6,250 functions are not finite
somewhere on [-5, 5] and others are constant or linear; a network with one of them
fails or is linear.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch

from actsearch.search_space.analysis.evaluation import Curves, by_inputs, curves
from actsearch.search_space.expression import Expr

REACH = 10.0  # preactivations after batch normalisation rarely leave it
POINTS = 201
SIDE = 25  # points of the plane's grid along each input
DEAD = 0.99  # share of the probe without a gradient
_SETTINGS = 3


class Flaw(StrEnum):
    """What makes a function useless, for code."""

    VALUE = "value not finite"
    GRADIENT = "gradient not finite"
    CONSTANT = "constant"
    AFFINE = "affine in x"
    UNREAD = "an input unread"
    NO_GRADIENT = "no gradient"


@dataclass(frozen=True)
class Rejection:
    """Why a function is not worth a training: `reason` says it to people; `variant` tells apart
    what is counted apart within a flaw."""

    flaw: Flaw
    reason: str
    variant: str = ""

    def in_group(self, number: int) -> Rejection:
        """The same, of a candidate that has the function in one group of its layers."""
        variant = f"{self.variant} (group)".strip()
        return Rejection(self.flaw, f"{self.reason} (group {number})", variant)

    def __str__(self) -> str:
        return self.reason


def probe(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Where functions are probed: an even grid with 0 in it, and points close to 0."""
    grid = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    close = torch.tensor([1e-6, -1e-6, 1e-3, -1e-3], dtype=torch.float64)
    return torch.cat([grid, close]).to(dtype)


def plane(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Where gates are probed, (2, points): an even grid with (0, 0) in it, and points close to the
    axes and to the diagonals."""
    grid = torch.linspace(-REACH, REACH, SIDE, dtype=torch.float64)
    inner = torch.cartesian_prod(grid, grid)
    along = torch.linspace(-REACH, REACH, 2 * SIDE + 1, dtype=torch.float64)
    near = [(along, along * side + close) for side in (0, 1, -1) for close in (1e-3, -1e-3)]
    near += [(close * torch.ones_like(along), along) for close in (1e-3, -1e-3)]
    return torch.cat([inner.T, *(torch.stack(pair) for pair in near)], 1).to(dtype)


def screens(
    exprs: Iterable[Expr], operators: str = "guarded", dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Expr, Rejection | None]]:
    """Each expression and why it is rejected, if it is; `dtype` is the child's."""
    for inputs, alike in by_inputs(exprs):
        points = probe(dtype) if inputs == 1 else plane(dtype)
        for batch in curves(alike, points, settings=_SETTINGS, operators=operators):
            yield from zip(batch.exprs, _rejections(batch, points), strict=True)


def screen(
    expr: Expr, operators: str = "guarded", dtype: torch.dtype = torch.float32
) -> Rejection | None:
    """Why `expr` is rejected, if it is."""
    return next(screens([expr], operators, dtype))[1]


def _rejections(batch: Curves, points: torch.Tensor) -> list[Rejection | None]:
    """The first flaw that each expression has; all of them see the initial betas."""
    value, inputs = batch.value, points.view(-1, points.shape[-1])
    constant, affine = _constant(value), _affine(value, inputs)
    evenly = POINTS if len(inputs) == 1 else SIDE * SIDE  # without the points close to 0
    still = torch.stack([slope[..., :evenly].abs() < 1e-8 for slope in batch.slopes])
    dead = still.all(0).double().mean(2).amin(1)  # at the setting of beta with the most gradient
    unread = torch.stack([(slope.abs() < 1e-8).all(2).all(1) for slope in batch.slopes])
    bad_value = ~torch.isfinite(value[:, 0])
    bad_slope = ~torch.stack([torch.isfinite(slope[:, 0]) for slope in batch.slopes]).all(0)
    some_bad = (bad_value | bad_slope).any(1)
    names = batch.exprs[0].inputs
    of = " and ".join(names)
    rejections: list[Rejection | None] = []
    for i in range(len(batch.exprs)):
        if some_bad[i]:
            is_value = bool(bad_value[i].any())
            at = int((bad_value if is_value else bad_slope)[i].nonzero()[0])
            seen = [value] if is_value else batch.slopes
            found = next(v for v in (float(s[i, 0, at]) for s in seen) if not math.isfinite(v))
            where = zip(names, inputs[:, at].tolist(), strict=True)
            place = ", ".join(f"{name} = {float(number):.4g}" for name, number in where)
            rejections.append(_not_finite(is_value, found, place))
        elif constant[i]:
            rejections.append(Rejection(Flaw.CONSTANT, "constant"))
        elif affine[i]:
            reason = f"affine in {of}: the network would be linear"
            rejections.append(Rejection(Flaw.AFFINE, reason))
        elif len(names) > 1 and unread[:, i].any():
            name = names[int(unread[:, i].nonzero()[0])]
            reason = f"does not change with {name}: a function of one input, which needs no gate"
            rejections.append(Rejection(Flaw.UNREAD, reason, name))
        elif dead[i] > DEAD:
            reason = f"no gradient on {100 * float(dead[i]):.0f} % of the probe"
            rejections.append(Rejection(Flaw.NO_GRADIENT, reason))
        else:
            rejections.append(None)
    return rejections


def _not_finite(is_value: bool, found: float, place: str) -> Rejection:
    name, flaw = ("value", Flaw.VALUE) if is_value else ("gradient", Flaw.GRADIENT)
    return Rejection(flaw, f"{name} {found} at {place}", f"{found}")


def _constant(values: torch.Tensor) -> torch.Tensor:
    """Whether no setting of beta changes with x: (expressions,)."""
    spread = values.amax(2) - values.amin(2)
    return (spread <= 1e-6 * values.abs().amax(2).clamp(min=1.0)).all(1)


def _affine(values: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Whether every setting of beta is a straight line, or a plane, to the precision of the values.

    Each input's slope is found by itself, since the grids are symmetric: no input is correlated
    with another on them."""
    y = values.double()
    line = y.mean(2, keepdim=True)
    for x in inputs.double():
        centred = x - x.mean()
        slope = (y * centred).sum(2, keepdim=True) / (centred * centred).sum()
        line = line + slope * centred
    error = (y - line).abs().amax(2)
    return (error <= 1e-5 * y.abs().amax(2).clamp(min=1e-3)).all(1)
