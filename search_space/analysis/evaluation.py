"""Values and slopes of many expressions on one grid: equal parts once, equal operators in one call.

Slopes come by differentiating the same functions that children train with, operator by operator,
and the chain rule, so there is no second definition of an operator. (Torch's forward mode would do
it in one pass, but takes seconds to load and half a millisecond for each sum with a number.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import torch

from actsearch.search_space.expression import Expr
from actsearch.search_space.operators import CONSTANT, INPUTS, Op, is_tied

# What a user's operator raises that cannot be evaluated and differentiated in float64.
NOT_DIFFERENTIABLE = (RuntimeError, NotImplementedError, TypeError)


NAMED = 1000  # the numbers of named betas begin here, for `generic_beta`


@dataclass(frozen=True)
class Curves:
    """Expressions on a grid: `value`, and for each input a slope in `slopes`, all (expressions,
    settings, points)."""

    exprs: list[Expr]
    value: torch.Tensor
    slopes: tuple[torch.Tensor, ...]

    @property
    def slope(self) -> torch.Tensor:
        """That of x."""
        return self.slopes[0]


def generic_beta(setting: int, number: int) -> float:
    """The `number`-th beta of an expression at a setting: values without relation to each other.

    Setting 0 is kept for the initial values. From setting 3 on betas are large, since
    max(beta, cosh(x)) shows its beta only beyond 1.
    """
    fraction = math.modf((number + 1) * 0.6180339887498949 + setting * 0.7548776662466927)[0]
    sign = -1.0 if (number + setting) % 3 == 2 else 1.0
    return sign * (0.3 + 1.5 * fraction) * (1.0 if setting < 3 else 4.0)


def curves(
    exprs: Iterable[Expr],
    points: torch.Tensor,
    *,
    settings: int = 1,
    operators: str = "guarded",
    chunk: int = 500,
) -> Iterator[Curves]:
    """Expressions at `points`, (N,) of x or (2, N) of x and g, in their dtype, `chunk` at a time:
    at the initial betas and, for `settings` > 1, at settings - 1 generic choices of them."""
    waiting = iter(exprs)
    while batch := list(islice(waiting, chunk)):
        yield _Batch(batch, settings).evaluate(points, operators)


def by_inputs(exprs: Iterable[Expr]) -> Iterator[tuple[int, Iterator[Expr]]]:
    """Expressions in order, those with the same number of inputs that stand side by side
    together."""
    return groupby(exprs, key=lambda expr: len(expr.inputs))


@dataclass(frozen=True)
class _Node:
    """A part of an expression: where its value goes, and where its arguments' values are."""

    slot: int
    op: Op
    args: tuple[int, ...]
    constant: float
    betas: tuple[float, ...]  # the value of its own beta at each setting


class _Batch:
    """The distinct parts of some expressions, by depth."""

    def __init__(self, exprs: list[Expr], settings: int) -> None:
        self.exprs = exprs
        self.settings = settings
        self.slots: dict[tuple[Expr, int], int] = {}
        self.depths: list[int] = []
        self.levels: list[dict[str, list[_Node]]] = []
        self.roots = [self._add(expr, 0) for expr in exprs]

    def _add(self, expr: Expr, first: int) -> int:
        """The slot of `expr`; `first` is the number of its first own beta in the whole."""
        key = (expr, first if expr.own else -1)
        if key in self.slots:
            return self.slots[key]
        args: list[int] = []
        number = first
        for arg in expr.args:
            args.append(self._add(arg, number))
            number += arg.own
        betas: tuple[float, ...] = ()
        if expr.beta is not None:
            if is_tied(expr.op):
                number = NAMED + sum(map(ord, expr.op.name))
            generic = (generic_beta(s, number) for s in range(1, self.settings))
            betas = (expr.beta, *generic)
        slot = self.slots[key] = len(self.slots)
        depth = 1 + max((self.depths[a] for a in args), default=-1)
        self.depths.append(depth)
        if depth == len(self.levels):
            self.levels.append({})
        constant = (expr.value or 0.0) if expr.op == CONSTANT else 0.0
        node = _Node(slot, expr.op, tuple(args), constant, betas)
        self.levels[depth].setdefault(expr.op.name, []).append(node)
        return slot

    @torch.no_grad()
    def evaluate(self, points: torch.Tensor, operators: str) -> Curves:
        inputs = points.view(-1, points.shape[-1])
        shape = (len(self.slots), self.settings, inputs.shape[1])
        value, slopes = points.new_zeros(shape), [points.new_zeros(shape) for _ in inputs]
        for level in self.levels:
            for nodes in level.values():
                out = torch.tensor([node.slot for node in nodes])
                value[out], found = self._apply(nodes, inputs, operators, value, slopes)
                for slope, of_nodes in zip(slopes, found, strict=True):
                    slope[out] = of_nodes
        roots = torch.tensor(self.roots)
        return Curves(self.exprs, value[roots], tuple(slope[roots] for slope in slopes))

    def _apply(
        self,
        nodes: list[_Node],
        points: torch.Tensor,
        operators: str,
        value: torch.Tensor,
        slopes: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Value and slopes of nodes with the same operator, (nodes, settings, points)."""
        shape = (len(nodes), *value.shape[1:])
        op = nodes[0].op
        if op in INPUTS:
            this = INPUTS.index(op)
            ones = (points.new_full((), float(this == i)).expand(shape) for i in range(len(slopes)))
            return points[this].expand(shape), [*ones]
        totals = [points.new_zeros(shape) for _ in slopes]
        if op == CONSTANT:
            numbers = points.new_tensor([node.constant for node in nodes])
            return numbers[:, None, None].expand(shape), totals
        places = [torch.tensor([node.args[i] for node in nodes]) for i in range(op.arity)]
        inputs = [value[at].requires_grad_() for at in places]
        betas: list[torch.Tensor] = []
        if op.beta is not None:
            betas.append(points.new_tensor([node.betas for node in nodes])[:, :, None])
        with torch.enable_grad():
            result = op.form(operators)(*inputs, *betas)
            summed = result.sum()  # torch imports sympy for the gradients of anything but a number
        if result.requires_grad:
            partial = torch.autograd.grad(summed, inputs, allow_unused=True)
            for at, derivative in zip(places, partial, strict=True):
                if derivative is not None:
                    for total, slope in zip(totals, slopes, strict=True):
                        total += derivative * slope[at]
        return result.detach().expand(shape), totals
