"""What batch normalisation before an activation needs besides the activation itself, as Triton
kernels: tiles of 16 channels beside some positions of a (positions, channels) tensor in 16 bits,
with sums in float32."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["positions", "units", "share"])
def statistics(Z, P, positions, units, share, ROWS: tl.constexpr):
    """P (programs, 2, channels): mean, and summed squares of the distance to it, over `share`
    positions each, by Welford's rule."""
    width = units * 16
    c = tl.program_id(0) * 16 + tl.arange(0, 16)[None, :]
    begin = tl.program_id(1) * share
    row = tl.arange(0, ROWS)[:, None]
    mean = tl.zeros([ROWS, 16], tl.float32)
    squares = tl.zeros([ROWS, 16], tl.float32)
    steps = 0.0
    for start in range(0, share, ROWS):
        steps += 1.0
        m = begin + start + row
        inside = m < positions
        z = tl.load(Z + m.to(tl.int64) * width + c, mask=inside, other=0.0).to(tl.float32)
        apart = z - mean
        mean += tl.where(inside, apart / steps, 0.0)
        squares += tl.where(inside, apart * (z - mean), 0.0)
    seen = tl.minimum(positions - begin, share) - row
    count = tl.maximum((seen + ROWS - 1) // ROWS, 0).to(tl.float32)
    whole = tl.sum(count * mean, 0)[None, :] / tl.maximum(tl.sum(count), 1.0)
    apart = mean - whole
    squares = tl.sum(squares + count * apart * apart, 0)[None, :]
    at = tl.program_id(1) * 2 * width + c
    tl.store(P + at, whole)
    tl.store(P + at + width, squares)


@triton.jit
def moments(P, positions, width, share, parts, c, MOST: tl.constexpr):
    """Mean and biased variance of the channels `c` from what `statistics` has found."""
    p = tl.arange(0, MOST)[:, None]
    there = p < parts  # beyond, a product of `share` can be too large
    count = tl.where(there, tl.minimum(positions - p * share, share), 0).to(tl.float32)
    means = tl.load(P + p * 2 * width + c, mask=there, other=0.0)
    squares = tl.load(P + (p * 2 + 1) * width + c, mask=there, other=0.0)
    mean = tl.sum(count * means, 0)[None, :] / positions
    apart = means - mean
    return mean, tl.sum(squares + count * apart * apart, 0)[None, :] / positions


@triton.jit(do_not_specialize=["positions", "units", "parts", "sums"])
def input_gradient(
    Z, G, D, P, T, K, W, positions, units, parts, sums, ROWS: tl.constexpr, MOST: tl.constexpr
):  # fmt: skip
    """D, the gradient of what was normalised, from G, that of what came out, and from P (parts,
    sums, channels), of which the first two are G's sum and that of its product with what was
    normalised; their totals go to T (sums, channels). K (2, channels) are mean and reciprocal
    deviation, W the scales."""
    width = units * 16
    c = tl.program_id(0) * 16 + tl.arange(0, 16)[None, :]
    p = tl.arange(0, MOST)[:, None]
    at = p * sums * width + c
    shift = tl.sum(tl.load(P + at, mask=p < parts, other=0.0), 0)[None, :]
    scale = tl.sum(tl.load(P + at + width, mask=p < parts, other=0.0), 0)[None, :]
    if tl.program_id(1) == 0:
        tl.store(T + c, shift)
        tl.store(T + width + c, scale)
        for k in range(2, sums):
            total = tl.sum(tl.load(P + at + k * width, mask=p < parts, other=0.0), 0)[None, :]
            tl.store(T + k * width + c, total)
    mean = tl.load(K + c)
    deviation = tl.load(K + width + c)
    weight = tl.load(W + c) * deviation
    shift /= positions
    scale /= positions
    for tile in range(tl.program_id(1), tl.cdiv(positions, ROWS), tl.num_programs(1)):
        m = tile * ROWS + tl.arange(0, ROWS)[:, None]
        inside = m < positions
        i = m.to(tl.int64) * width + c
        z = tl.load(Z + i, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(G + i, mask=inside, other=0.0).to(tl.float32)
        d = weight * (g - shift - (z - mean) * deviation * scale)
        tl.store(D + i, d.to(D.dtype.element_ty), mask=inside)
