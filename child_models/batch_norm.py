"""Batch normalisation of images that lie channels last, for training on a processor.

torch's runs through the channels of one pixel at a time: with eight of them it takes three times as
long as the loops here, which run through several pixels as one, as those of activations do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from search_space.kernels import c, libraries
from search_space.kernels.compiler import CompileError
from search_space.kernels.fused import complain
from search_space.kernels.libraries import DOUBLE, INTEGER, POINTER, Call

# X, Y, G, D: (rows, channels), input, output and their gradients. M, R: a channel's mean and
# 1 / sqrt(variance + eps). Sums over a block of rows in float join those of all in double, and
# variances as Chan, Golub and LeVeque 1979 join them, so X is read once for both.
CODE = """\
INLINE integer least(integer a, integer b) { return a < b ? a : b; }
/* How many rows are run through as one; unlike with `repeats`, the last run may have fewer. */
INLINE integer times_of(integer rows, integer channels) {
    integer times = 1;
    while (times * channels < @WIDE@ && 2 * times <= rows) times *= 2;
    return times;
}
INLINE void moments(const float *restrict X, double *mean, double *squares,
                    integer times, integer rows, integer channels) {
    integer width = times * channels, whole = rows * channels;
    float *restrict part = calloc(width, sizeof(float));
    float *restrict around = calloc(width, sizeof(float));
    double *sum = malloc(channels * sizeof(double)), *square = malloc(channels * sizeof(double));
    for (integer block = 0; block < whole; block += @BLOCK@ * width) {
        integer end = least(block + @BLOCK@ * width, whole);
        double before = block / channels, here = (end - block) / channels;
        for (integer c = 0; c < channels; c++) sum[c] = square[c] = 0;
        for (integer o = block; o < end; o += width) {
            const float *restrict x = X + o;
            integer n = least(width, end - o);
            #pragma omp simd
            for (integer i = 0; i < n; i++) part[i] += x[i];
        }
        fold(part, sum, times, channels);
        for (integer i = 0; i < width; i++) around[i] = sum[i % channels] / here;
        for (integer o = block; o < end; o += width) {
            const float *restrict x = X + o;
            integer n = least(width, end - o);
            #pragma omp simd
            for (integer i = 0; i < n; i++) {
                float apart = x[i] - around[i];
                part[i] += apart * apart;
            }
        }
        fold(part, square, times, channels);
        for (integer c = 0; c < channels; c++) {
            double apart = sum[c] / here - mean[c];
            mean[c] += apart * here / (before + here);
            squares[c] += square[c] + apart * apart * before * here / (before + here);
        }
    }
    free(part), free(around), free(sum), free(square);
}
void forward_@KEY@(const float *restrict X, float *restrict Y, const float *W, const float *B,
                   float *M, float *R, float *moving_mean, float *moving_variance,
                   double momentum, double eps, integer rows, integer channels) {
    integer times = times_of(rows, channels), width = times * channels, whole = rows * channels;
    double *mean = calloc(channels, sizeof(double)), *squares = calloc(channels, sizeof(double));
    moments(X, mean, squares, times, rows, channels);
    for (integer c = 0; c < channels; c++) {
        M[c] = mean[c];
        R[c] = 1 / __builtin_sqrt(squares[c] / rows + eps);
        moving_mean[c] = momentum * mean[c] + (1 - momentum) * moving_mean[c];
        moving_variance[c] =
            momentum * squares[c] / (rows - 1) + (1 - momentum) * moving_variance[c];
    }
    float *restrict around = repeated(M, 1, channels, times);
    float *restrict scale = repeated(R, 1, channels, times);
    float *restrict shift = repeated(B, 1, channels, times);
    for (integer i = 0; i < width; i++) scale[i] *= W[i % channels];
    for (integer o = 0; o < whole; o += width) {
        const float *restrict x = X + o;
        float *restrict y = Y + o;
        integer n = least(width, whole - o);
        #pragma omp simd
        for (integer i = 0; i < n; i++) y[i] = (x[i] - around[i]) * scale[i] + shift[i];
    }
    free(mean), free(squares), free(around), free(scale), free(shift);
}
void backward_@KEY@(const float *restrict X, const float *restrict G, float *restrict D,
                    const float *W, const float *M, const float *R, float *DW, float *DB,
                    integer rows, integer channels) {
    integer times = times_of(rows, channels), width = times * channels, whole = rows * channels;
    float *restrict around = repeated(M, 1, channels, times);
    float *restrict scale = repeated(R, 1, channels, times);
    float *restrict g_part = calloc(width, sizeof(float));
    float *restrict gx_part = calloc(width, sizeof(float));
    double *g_sum = calloc(channels, sizeof(double)), *gx_sum = calloc(channels, sizeof(double));
    for (integer o = 0; o < whole; o += width) {
        const float *restrict x = X + o, *restrict g = G + o;
        integer n = least(width, whole - o);
        #pragma omp simd
        for (integer i = 0; i < n; i++) {
            g_part[i] += g[i];
            gx_part[i] += g[i] * (x[i] - around[i]);
        }
        if ((o / width + 1) % @BLOCK@ == 0 || o + n == whole) {
            fold(g_part, g_sum, times, channels);
            fold(gx_part, gx_sum, times, channels);
        }
    }
    for (integer c = 0; c < channels; c++) {
        DB[c] = g_sum[c];
        DW[c] = gx_sum[c] * R[c];
    }
    for (integer i = 0; i < width; i++) {
        integer c = i % channels;
        scale[i] *= W[c];
        g_part[i] = g_sum[c] / rows;
        gx_part[i] = gx_sum[c] / rows * R[c] * R[c];
    }
    for (integer o = 0; o < whole; o += width) {
        const float *restrict x = X + o, *restrict g = G + o;
        float *restrict d = D + o;
        integer n = least(width, whole - o);
        #pragma omp simd
        for (integer i = 0; i < n; i++)
            d[i] = scale[i] * (g[i] - g_part[i] - (x[i] - around[i]) * gx_part[i]);
    }
    free(around), free(scale), free(g_part), free(gx_part), free(g_sum), free(gx_sum);
}
""".replace("@BLOCK@", str(c.BLOCK)).replace("@WIDE@", str(c.WIDE))


def use_kernels(model: nn.Module) -> None:
    """Every nn.BatchNorm2d of `model` becomes a BatchNorm2d; those of subclasses stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm2d


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, and by our own loops in training on a processor, for float32 that lies channels
    last. Runs on one thread, and can be differentiated once."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self._fits(input) or (loops := _loops()) is None:
            return super().forward(input)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        moving = (self.running_mean, self.running_var)
        return _Normalised.apply(
            input, self.weight, self.bias, moving, self.momentum, self.eps, loops
        )

    def _fits(self, x: torch.Tensor) -> bool:
        return (
            self.training
            and self.momentum is not None
            and self.eps > 0
            and type(x) is torch.Tensor
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and x.ndim == 4
            and x.shape[1] == self.num_features
            and x.numel() > self.num_features
            and x.is_contiguous(memory_format=torch.channels_last)
            and all(
                t is not None
                and t.device == x.device
                and t.dtype == x.dtype
                and t.shape == (self.num_features,)
                and t.is_contiguous()
                for t in (self.weight, self.bias, self.running_mean, self.running_var)
            )
        )


@cache
def _loops() -> tuple[Call, Call] | None:
    """The functions of CODE, built if need be; None where they cannot be."""
    try:
        return libraries.opened(c.named(CODE, "float32"), _functions)
    except (CompileError, OSError) as reason:
        complain(str(reason))
        return None


def _functions(key: str) -> tuple[Call, Call]:
    pointers, sizes = [POINTER] * 8, (INTEGER, INTEGER)
    forward = libraries.function(key, "forward", *pointers, DOUBLE, DOUBLE, *sizes)
    backward = libraries.function(key, "backward", *pointers, *sizes)
    assert forward is not None
    assert backward is not None
    return forward, backward


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        moving: Sequence[torch.Tensor],
        momentum: float,
        eps: float,
        loops: tuple[Call, Call],
    ) -> torch.Tensor:
        channels = x.shape[1]
        mean, scale = x.new_empty(channels), x.new_empty(channels)
        y = torch.empty_like(x)
        tensors = (x, y, weight, bias, mean, scale, *moving)
        loops[0](*(t.data_ptr() for t in tensors), momentum, eps, x.numel() // channels, channels)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.loop = loops[1]
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        channels, last = x.shape[1], torch.channels_last
        gradient = gradient.contiguous(memory_format=last)
        x = x.contiguous(memory_format=last)  # hooks on saved tensors may have changed that
        gx, gw, gb = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        tensors = (x, gradient, gx, weight, mean, scale, gw, gb)
        ctx.loop(*(t.data_ptr() for t in tensors), x.numel() // channels, channels)
        return gx, gw, gb, None, None, None, None
