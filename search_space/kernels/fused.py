"""Fused: an expression as one autograd function that saves one tensor an input for its backward
pass."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from actsearch.search_space.expression import Expr
from actsearch.search_space.kernels import c, cuda, libraries, normalised
from actsearch.search_space.kernels.compiler import CompileError
from actsearch.search_space.kernels.tracing import Traced, UnsupportedError, trace

log = logging.getLogger("actsearch")

ELEMENTS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
Kernel = libraries.Kernel | cuda.Kernel

# Called with a source and its element before the first launch, which else compiles for a second. A
# package above, in which others may wait for that, knows better where.
compile_first: Callable[[cuda.Source, str], None] | None = None


class Fused:
    """`expr` by generated kernels, each found at its first use: a small network calls it a thousand
    times a second, so a call looks up no expression."""

    def __init__(self, expr: Expr, operators: str) -> None:
        self.expr = expr
        self.operators = operators
        self._kernels: dict[tuple[str, torch.dtype, str], Kernel | None] = {}
        self._normalised: list[normalised.Kernel | None] = []  # at most one
        self.unfit = ""  # what no kernel takes of the inputs that came last

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kernels": {}, "_normalised": []}

    def __call__(
        self, inputs: Sequence[torch.Tensor], betas: Sequence[torch.Tensor], channel_dim: int
    ) -> torch.Tensor | None:
        """`expr` of `inputs`, which are alike, or None where there is no kernel for their device,
        type or operators, or betas lie on another device.

        `betas` have the length of dimension `channel_dim` of the inputs. The result can be
        differentiated once.
        """
        x = inputs[0]
        device = x.device
        if device.type not in ("cpu", "cuda") or x.dtype not in ELEMENTS:
            self.unfit = f"there are no kernels for {x.dtype} on {device.type}"
            return None
        if x.numel() == 0 or any(beta.device != device for beta in betas):
            return None
        dim = channel_dim % x.ndim
        in_rows = all(t.is_contiguous() for t in inputs)
        if not in_rows and not (all(map(_channels_last, inputs)) and (dim == 1 or not betas)):
            inputs = [t.contiguous() for t in inputs]
            x = inputs[0]
        if not betas:
            found = self._kernel(x, "flat", betas, NO_BETAS)
            needed = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
            return found and _Flat.apply(found, needed, *inputs)
        layout, sizes = _loops(x, dim)
        found = self._kernel(x, layout, betas, sizes)
        return found and _WithBetas.apply(found, sizes, len(inputs), *inputs, *betas)

    @property
    def kinds(self) -> set[tuple[str, str]]:
        """(element, layout) of the kernels that were found so far."""
        found = {(ELEMENTS[dtype], layout) for (_, dtype, layout), k in self._kernels.items() if k}
        return found | ({("bfloat16", "normalised")} if any(self._normalised) else set())

    def normalised(
        self, z: torch.Tensor, betas: Sequence[torch.Tensor]
    ) -> normalised.Kernel | None:
        """For `expr` of a batch normalisation of `z`, (N, C, H, W), channels last, on a GPU."""
        if not self._normalised:
            self._normalised.append(normalised_kernel(self.expr, self.operators))
            found = self._normalised[0]
            if found is not None and (why := _normalised_trouble(found, z, betas)):
                self._normalised[0], REASONS[self.expr] = None, why
        return self._normalised[0]

    def _kernel(
        self, x: torch.Tensor, layout: str, betas: Sequence[torch.Tensor], sizes: libraries.Sizes
    ) -> Kernel | None:
        key = x.device.type, x.dtype, layout
        if key not in self._kernels:
            found = kernel(self.expr, self.operators, x.device.type, ELEMENTS[x.dtype], layout)
            given = [x] * len(self.expr.inputs)
            if isinstance(found, cuda.Kernel) and (why := _trouble(found, given, betas, sizes)):
                found, REASONS[self.expr] = None, why
            self._kernels[key] = found
        return self._kernels[key]


NO_BETAS = (0, 0, 0)
REASONS: dict[Expr, str] = {}  # why functions have no kernel in this process


@lru_cache(maxsize=4096)
def kernel(expr: Expr, operators: str, device: str, element: str, layout: str) -> Kernel | None:
    """A kernel, built if need be; None where there is none."""
    try:
        traced = trace(expr, operators)
        if device == "cuda":
            return _for_gpu(expr, traced, element, layout)
        source = c.source(traced, element, layout)
        kind = {"with_betas": layout != "flat", "inputs": len(traced.inputs)}
        return libraries.opened(source, partial(libraries.load, **kind))
    except UnsupportedError as reason:
        REASONS[expr] = str(reason)
        log.info("%s runs eagerly: %s", expr, reason)
    except (CompileError, OSError, ImportError) as reason:
        REASONS[expr] = complain(reason)
    return None


@lru_cache(maxsize=4096)
def normalised_kernel(expr: Expr, operators: str) -> normalised.Kernel | None:
    """None where there is none."""
    try:
        source = normalised.source(trace(expr, operators))
        if compile_first is not None:
            compile_first(source, "bfloat16")
        return normalised.load(source)
    except UnsupportedError:
        pass  # `kernel` says it
    except Exception as error:  # Triton's, and of what it finds in the cache
        REASONS[expr] = complain(error)
    return None


@torch.no_grad()
def _normalised_trouble(
    found: normalised.Kernel, z: torch.Tensor, betas: Sequence[torch.Tensor]
) -> str:
    """As `_trouble`; what is launched here counts for nothing."""
    channels = z.shape[1]
    ones = torch.ones(channels, device=z.device)
    stacked = torch.stack([b.expand(channels) for b in betas]).float() if betas else ones[:0, None]
    norm = normalised.Normalisation(ones, ones, ones.clone(), ones.clone(), 1e-5, 0.1)
    try:
        y, kept = found.forward(z, None, norm, stacked)
        found.backward(z, None, y, kept, ones, ones, stacked)
    except torch.OutOfMemoryError:
        raise  # eager mode would need more
    except Exception as error:
        return complain(error)
    return ""


def _for_gpu(expr: Expr, traced: Traced, element: str, layout: str) -> Kernel | None:
    try:
        source = cuda.source(traced, layout)
        if compile_first is not None:
            compile_first(source, element)
        return cuda.load(source)
    except Exception as error:  # Triton's, and of what it finds in the cache
        REASONS[expr] = complain(error)
        return None


def complain(error: Exception) -> str:
    """Says it in the log, once; returns it."""
    own = isinstance(error, CompileError | OSError)
    reason = str(error) if own else f"{type(error).__name__}: {error}"
    _log(reason)
    return reason


@lru_cache(maxsize=1)
def _log(reason: str) -> None:
    log.warning("no generated kernels, activations run eagerly: %s", reason)


@torch.no_grad()
def _trouble(
    found: cuda.Kernel,
    inputs: Sequence[torch.Tensor],
    betas: Sequence[torch.Tensor],
    sizes: libraries.Sizes,
) -> str:
    """Why it cannot be used, or "". All is launched once, since Triton compiles only now."""
    stacked = stacked_rows(betas) if betas else None
    try:
        y, *ginputs = (torch.empty_like(t) for t in (inputs[0], *inputs))
        found.forward(inputs, y, stacked, sizes)
        if found.keeps_slope:
            found.sloped(inputs, y, ginputs)
        else:
            found.backward(inputs, y, ginputs, stacked, sizes)
    except torch.OutOfMemoryError:
        raise  # eager mode would need more
    except Exception as error:
        return complain(error)
    return ""


def stacked_rows(betas: Sequence[torch.Tensor]) -> torch.Tensor:
    """A beta a row; one alone is not copied."""
    if len(betas) == 1:
        return betas[0].float().contiguous()[None]
    return torch.stack([*betas]).float()


def _loops(x: torch.Tensor, dim: int) -> tuple[str, libraries.Sizes]:
    """rows or columns, and (outer, channels, inner), of a tensor as it lies in memory."""
    channels, inner = x.shape[dim], math.prod(x.shape[dim + 1 :])
    if x.is_contiguous() and inner > 1:
        return "rows", (x.numel() // (channels * inner), channels, inner)
    return "columns", (x.numel() // channels, channels, 1)


def _channels_last(x: torch.Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


class _Flat(torch.autograd.Function):
    """Without betas."""

    @staticmethod
    def forward(
        ctx: Any, found: Kernel, differentiated: bool, *inputs: torch.Tensor
    ) -> torch.Tensor:
        y = torch.empty_like(inputs[0])  # keeps the strides of a dense tensor
        if differentiated and found.keeps_slope:
            slopes = [torch.empty_like(t) for t in inputs]
            found.sloped(inputs, y, slopes)
            ctx.save_for_backward(*slopes)
        else:
            found.forward(inputs, y, None, NO_BETAS)
            ctx.save_for_backward(*inputs)
        ctx.kernel = found
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        [gy] = grad_outputs
        saved = ctx.saved_tensors
        if ctx.kernel.keeps_slope:
            return None, None, *(gy * slope for slope in saved)
        ginputs = [torch.empty_like(t) for t in saved]
        ctx.kernel.backward(saved, _lying_as(saved[0], gy), ginputs, None, NO_BETAS)
        return None, None, *ginputs


class _WithBetas(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        found: Kernel,
        sizes: libraries.Sizes,
        count: int,
        *tensors: torch.Tensor,
    ) -> torch.Tensor:
        """Of `count` inputs, and the betas after them."""
        inputs, stacked = tensors[:count], stacked_rows(tensors[count:])
        y = torch.empty_like(inputs[0])
        found.forward(inputs, y, stacked, sizes)
        ctx.save_for_backward(*inputs, stacked)
        ctx.kernel, ctx.sizes = found, sizes
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        [gy] = grad_outputs
        *inputs, betas = ctx.saved_tensors
        ginputs = [torch.empty_like(t) for t in inputs]
        gy = _lying_as(inputs[0], gy)
        gbetas = ctx.kernel.backward(inputs, gy, ginputs, betas, ctx.sizes)
        return None, None, None, *ginputs, *gbetas.unbind()


def _lying_as(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """`gradient` with the strides of `x`."""
    if gradient.stride() == x.stride():
        return gradient
    return torch.empty_like(x).copy_(gradient)
