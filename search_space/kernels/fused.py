"""Fused: an expression as one autograd function that saves only its input."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from search_space.expression import Expr
from search_space.kernels import c
from search_space.kernels.tracing import UnsupportedError, trace
from search_space.operators import CONSTANT, INPUT, OPERATORS

log = logging.getLogger("actsearch")

WIDE = 256  # elements that a loop over channels should have, at least
ELEMENTS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


Own = tuple[Callable[..., torch.Tensor], ...]


def own_functions(expr: Expr, operators: str) -> Own:
    """The functions of a user's operators. Expressions are equal where the operators' names are, so
    these say which kernel is meant."""
    ops = [node.op for node in expr.walk()]
    paper = (INPUT, CONSTANT, *OPERATORS.values())
    return tuple(op.form(operators) for op in ops if not any(op is row for row in paper))


@lru_cache(maxsize=4096)
def kernel(
    expr: Expr, operators: str, own: Own, element: str, layout: str
) -> tuple[c.Call, c.Call] | None:
    """The two functions of a kernel, built if need be; None where there is none. `own` is
    `own_functions(expr, operators)`."""
    try:
        source = c.source(trace(expr, operators), element, layout)
        c.build([source])
        return c.load(source.key)
    except UnsupportedError as reason:
        log.info("%s runs eagerly: %s", expr, reason)
    except (c.CompileError, OSError) as reason:
        complain(str(reason))
    return None


@lru_cache(maxsize=1)
def complain(reason: str) -> None:
    """Once."""
    log.warning("no generated kernels, activations run eagerly: %s", reason)


def fused(
    expr: Expr,
    operators: str,
    own: Own,
    x: torch.Tensor,
    betas: Sequence[torch.Tensor],
    channel_dim: int,
) -> torch.Tensor | None:
    """`expr` of `x`, or None where there is no kernel for its device, its type or its operators.

    `own` is `own_functions(expr, operators)`. `betas` have the length of dimension `channel_dim` of
    `x`. The result can be differentiated once.
    """
    if x.device.type != "cpu" or x.dtype not in ELEMENTS or x.numel() == 0:
        return None
    dim = channel_dim % x.ndim
    if not x.is_contiguous() and not (_channels_last(x) and (dim == 1 or not betas)):
        x = x.contiguous()
    layout, sizes = _loops(x, dim, bool(betas))
    functions = kernel(expr, operators, own, ELEMENTS[x.dtype], layout)
    if functions is None:
        return None
    stacked = torch.stack([b.float() for b in betas]) if betas else None
    if stacked is not None and layout == "columns":
        stacked, sizes = _wider(stacked, sizes)
    return _Function.apply(x, stacked, functions, sizes)


def _loops(x: torch.Tensor, dim: int, has_betas: bool) -> tuple[str, tuple[int, int, int]]:
    """rows or columns, and (outer, channels, inner), of a tensor as it lies in memory."""
    if not has_betas:
        return "rows", (1, 1, x.numel())
    channels, inner = x.shape[dim], math.prod(x.shape[dim + 1 :])
    if x.is_contiguous() and inner > 1:
        return "rows", (x.numel() // (channels * inner), channels, inner)
    return "columns", (x.numel() // channels, channels, 1)


def _wider(
    betas: torch.Tensor, sizes: tuple[int, int, int]
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Several short rows as one, with the betas repeated: loops over eight channels are slow."""
    outer, channels, _ = sizes
    times = 1
    while times * channels < WIDE and outer % (2 * times) == 0:
        times *= 2
    return betas.repeat(1, times), (outer // times, times * channels, 1)


def _channels_last(x: torch.Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        betas: torch.Tensor | None,
        functions: tuple[c.Call, c.Call],
        sizes: tuple[int, int, int],
    ) -> torch.Tensor:
        y = torch.empty_like(x)  # keeps the strides of a dense tensor
        functions[0](x.data_ptr(), y.data_ptr(), 0 if betas is None else betas.data_ptr(), *sizes)
        ctx.save_for_backward(x, betas)
        ctx.backward_of, ctx.sizes = functions[1], sizes
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        [gy] = grad_outputs
        x, betas = ctx.saved_tensors
        if gy.stride() != x.stride():
            gy = torch.empty_like(x).copy_(gy)
        gx = torch.empty_like(x)
        if betas is None:
            pointers, gbetas = (0, 0, 0), None
        else:
            gbetas = torch.zeros(betas.shape, dtype=torch.float64)
            part = torch.zeros_like(betas)
            pointers = betas.data_ptr(), gbetas.data_ptr(), part.data_ptr()
        ctx.backward_of(x.data_ptr(), gy.data_ptr(), gx.data_ptr(), *pointers, *ctx.sizes)
        return gx, None if gbetas is None else gbetas.float(), None, None
