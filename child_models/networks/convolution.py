"""Conv3x3: a 3x3 convolution of few channels, which a GPU computes by kernels of our own.

cuDNN's are made for many channels: with 16 of them a ResNet-20 spends half of its step in
convolutions that move their tensors at a fifth of the memory's speed.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import Any

import torch
from torch import nn

log = logging.getLogger("actsearch")

CHANNELS = 16, 32, 64  # of a kernel; the input may have fewer, as images do
# By channels of what comes out: outputs side by side and groups of them that a program has at a
# time, and its warps. Of weights also how many loads are ahead, and how many programs sum, at most.
# From a sweep on an H100.
CONVOLVE = {16: (2, 128, 4), 32: (2, 128, 8), 64: (1, 64, 4)}
INPUTS = {16: (128, 8), 32: (128, 8), 64: (64, 4)}
WEIGHTS = {16: (64, 4, 3, 128), 32: (64, 8, 3, 32), 64: (32, 4, 3, 32)}
FUSED = {"enable_fp_fusion": True}  # a product and a sum in one rounding


class Conv3x3(nn.Conv2d):
    """(N, C, H, W) -> (N, channels, h, w) with padding 1 and no bias; the parameters, and up to
    rounding the values, are those of nn.Conv2d."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels, 3, stride, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._fits(x) and kernels() is not None:
            try:
                return _Convolution.apply(x, self.weight, self.stride[0])
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # Triton's, which may refuse a card
                refuse(f"{type(error).__name__}: {error}")
        return super().forward(x)

    def _fits(self, x: torch.Tensor) -> bool:
        """Under autocast to bfloat16 on a GPU, where images and weights lie channels last."""
        return (
            x.device.type == "cuda"
            and torch.is_autocast_enabled("cuda")
            and torch.get_autocast_dtype("cuda") == torch.bfloat16
            and self.out_channels in CHANNELS
            and (self.in_channels in CHANNELS or self._is_first(x))
            and not _refused
            and max(x.numel(), x.numel() // self.in_channels * self.out_channels) < 2**31
            and x.is_contiguous(memory_format=torch.channels_last)
            and self.weight.is_contiguous(memory_format=torch.channels_last)
        )

    def _is_first(self, x: torch.Tensor) -> bool:
        """Whether the input is the data, of which nobody asks a gradient."""
        return self.in_channels <= 16 and not x.requires_grad


_refused: list[str] = []  # why this process goes on with cuDNN


def refuse(reason: str) -> None:
    log.warning("convolutions are cuDNN's: %s", reason)
    _refused.append(reason)


@functools.cache
def kernels() -> ModuleType | None:
    """None where there is no Triton."""
    try:
        from actsearch.child_models.networks import convolution_triton
    except ImportError as error:
        log.warning("convolutions are cuDNN's: %s", error)
        return None
    return convolution_triton


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return convolved(x, weight, stride)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gy = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        gx = input_gradient(gy, weight, x, ctx.stride) if ctx.needs_input_grad[0] else None
        return gx, weight_gradient(x, gy, weight, ctx.stride), None


def convolved(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """(N, CI, H, W) and (CO, CI, 3, 3) -> (N, CO, OH, OW), on a GPU in bfloat16."""
    n, _, h, w = x.shape
    shape = n, len(weight), (h - 1) // stride + 1, (w - 1) // stride + 1
    element = torch.bfloat16 if x.device.type == "cuda" else x.dtype
    y = torch.empty(shape, dtype=element, device=x.device, memory_format=torch.channels_last)
    _convolve(x, weight, y, stride, turned=False)
    return y


def input_gradient(
    gy: torch.Tensor, weight: torch.Tensor, x: torch.Tensor, stride: int
) -> torch.Tensor:
    """That of `x`, from that of its convolution."""
    gx = torch.empty_like(x)
    if stride == 1:
        _convolve(gy, weight, gx, 1, turned=True)
        return gx
    n, ci, h, w = x.shape
    rows, warps = INPUTS[ci]
    with torch.cuda.device_of(x):
        _kernels().input_gradient[(_parts(n * h * w, rows),)](
            gy, weight, gx, n * h * w, **_sizes(x, gy, stride), ROWS=rows, num_warps=warps, **FUSED
        )
    return gx


def _convolve(
    x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor, stride: int, *, turned: bool
) -> None:
    n, co, oh, ow = y.shape
    side, rows, warps = CONVOLVE[co]
    if stride > 1 or ow % side:
        side = 1
    with torch.cuda.device_of(x):
        _kernels().convolve[(_parts(n * oh * ow, rows * side),)](
            x, weight, y, n * oh * ow, **_sizes(x, y, stride), KP=_power((side + 2) * x.shape[1]),
            SIDE=side, TURNED=turned, ROWS=rows, num_warps=warps, **FUSED,
        )  # fmt: skip


def weight_gradient(
    x: torch.Tensor, gy: torch.Tensor, weight: torch.Tensor, stride: int
) -> torch.Tensor:
    """That of `weight`, in its layout and type."""
    n, co, oh, ow = gy.shape
    ci, positions = x.shape[1], n * oh * ow
    rows, warps, stages, most = WEIGHTS[co]
    share = rows * _parts(positions, rows * most)
    programs, block = _parts(positions, share), 64
    parts = torch.empty(programs, 9 * ci * co, dtype=torch.float32, device=x.device)
    gradient = torch.empty_like(weight)
    with torch.cuda.device_of(x):
        _kernels().weight_gradient[programs, 3](
            x, gy, parts, positions, share, **_sizes(x, gy, stride), KP=_power(3 * ci), ROWS=rows,
            num_warps=warps, num_stages=stages, **FUSED,
        )  # fmt: skip
        _kernels().weight_gradient_sum[(_parts(9 * ci * co, block),)](
            parts, gradient, programs, CI=ci, CO=co, MOST=most, BLOCK=block, **FUSED
        )
    return gradient


def _kernels() -> ModuleType:
    found = kernels()
    assert found is not None
    return found


def _sizes(x: torch.Tensor, y: torch.Tensor, stride: int) -> dict[str, int]:
    """Of a convolution from what is like `x` to what is like `y`."""
    (ci, h, w), (co, oh, ow) = x.shape[1:], y.shape[1:]
    return {"H": h, "W": w, "OH": oh, "OW": ow, "S": stride, "CI": ci, "CO": co}


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


def _power(n: int) -> int:
    """The power of two from `n` on, but what a product of matrices takes at least."""
    return max(16, 1 << (n - 1).bit_length())
