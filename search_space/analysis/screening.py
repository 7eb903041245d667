"""screen(expr): why a function is not worth a training, found in a millisecond.

Measured over the one-unit space with plain formulas, 490 of 6,250 functions are not finite
somewhere on [-5, 5] and others are constant or linear; a network with one of them
fails or is linear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch

from actsearch.search_space.analysis.evaluation import Curves, curves
from actsearch.search_space.expression import Expr

REACH = 10.0  # preactivations after batch normalisation rarely leave it
POINTS = 201
DEAD = 0.99  # share of the probe without a gradient
_SETTINGS = 3


class Flaw(StrEnum):
    """What makes a function useless, for code."""

    VALUE = "value not finite"
    GRADIENT = "gradient not finite"
    CONSTANT = "constant"
    AFFINE = "affine in x"
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


def screens(
    exprs: Iterable[Expr], operators: str = "guarded", dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Expr, Rejection | None]]:
    """Each expression and why it is rejected, if it is; `dtype` is the child's."""
    points = probe(dtype)
    for batch in curves(exprs, points, settings=_SETTINGS, operators=operators):
        yield from zip(batch.exprs, _rejections(batch, points), strict=True)


def screen(
    expr: Expr, operators: str = "guarded", dtype: torch.dtype = torch.float32
) -> Rejection | None:
    """Why `expr` is rejected, if it is."""
    return next(screens([expr], operators, dtype))[1]


def _rejections(batch: Curves, points: torch.Tensor) -> list[Rejection | None]:
    """The first flaw that each expression has; all of them see the initial betas."""
    value, slope = batch.value, batch.slope
    constant, affine = _constant(value), _affine(value, points)
    still = slope[..., :POINTS].abs() < 1e-8  # without the points close to 0
    dead = still.double().mean(2).amin(1)  # at the setting of beta with the most gradient
    bad_value, bad_slope = ~torch.isfinite(value[:, 0]), ~torch.isfinite(slope[:, 0])
    some_bad = (bad_value | bad_slope).any(1)
    rejections: list[Rejection | None] = []
    for i in range(len(batch.exprs)):
        if some_bad[i]:
            is_value = bool(bad_value[i].any())
            at = int((bad_value if is_value else bad_slope)[i].nonzero()[0])
            found = float((value if is_value else slope)[i, 0, at])
            rejections.append(_not_finite(is_value, found, float(points[at])))
        elif constant[i]:
            rejections.append(Rejection(Flaw.CONSTANT, "constant"))
        elif affine[i]:
            reason = "affine in x: the network would be linear"
            rejections.append(Rejection(Flaw.AFFINE, reason))
        elif dead[i] > DEAD:
            reason = f"no gradient on {100 * float(dead[i]):.0f} % of the probe"
            rejections.append(Rejection(Flaw.NO_GRADIENT, reason))
        else:
            rejections.append(None)
    return rejections


def _not_finite(is_value: bool, found: float, x: float) -> Rejection:
    name, flaw = ("value", Flaw.VALUE) if is_value else ("gradient", Flaw.GRADIENT)
    return Rejection(flaw, f"{name} {found} at x = {x:.4g}", f"{found}")


def _constant(values: torch.Tensor) -> torch.Tensor:
    """Whether no setting of beta changes with x: (expressions,)."""
    spread = values.amax(2) - values.amin(2)
    return (spread <= 1e-6 * values.abs().amax(2).clamp(min=1.0)).all(1)


def _affine(values: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Whether every setting of beta is a straight line, to the precision of the values."""
    x, y = points.double(), values.double()
    centred = x - x.mean()
    slope = (y * centred).sum(2, keepdim=True) / (centred * centred).sum()
    line = y.mean(2, keepdim=True) + slope * centred
    error = (y - line).abs().amax(2)
    return (error <= 1e-5 * y.abs().amax(2).clamp(min=1e-3)).all(1)
