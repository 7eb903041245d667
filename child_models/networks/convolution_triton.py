"""3x3 convolutions of few channels as Triton kernels: images and weights lie channels last, and
products of 16-bit numbers are summed in float32.

What a kernel row of the input holds for an output, three pixels, lies in one piece of memory, and
what it holds for two outputs beside each other, four. So a convolution is three products of
matrices, one a kernel row, whose first factor is read as it lies. SIDE outputs are taken together;
KP is the power of two from (SIDE + 2) * CI on, with zeros beyond the piece.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _piece(
    X, m, k, kh, there, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr,
    S: tl.constexpr, CI: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """(groups, KP) of the input: what kernel row `kh` sees at the groups `m` of SIDE outputs."""
    groups: tl.constexpr = OW // SIDE  # of a row
    left = (m % groups) * (SIDE * S) - 1
    row = (m // groups % OH) * S - 1 + kh
    column = left + k // CI
    inside = there & (row >= 0) & (row < H) & (column >= 0) & (column < W)
    image = m // (OH * groups)
    at = ((image * H + row) * W + left) * CI + k
    return tl.load(X + at, mask=inside & (k < ((SIDE - 1) * S + 3) * CI), other=0.0)


@triton.jit
def _weights(
    F, k, j, kh, S: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, TURNED: tl.constexpr
):  # fmt: skip
    """(KP, SIDE * CO): those of kernel row `kh` that lead from a piece to a group."""
    kw = k // CI - j // CO * S
    if TURNED:
        at = (k % CI * 9 + (2 - kh) * 3 + 2 - kw) * CO + j % CO
    else:
        at = j % CO * (9 * CI) + (kh * 3 + kw) * CI + k % CI
    return tl.load(F + at, mask=(kw >= 0) & (kw < 3), other=0.0)


@triton.jit(do_not_specialize=["positions"])
def convolve(
    X, F, Y, positions, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr,
    S: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, KP: tl.constexpr, SIDE: tl.constexpr,
    TURNED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Y = X * F of stride S; with TURNED the gradient of the input of a convolution from CO to CI
    channels of stride 1, from that of its output."""
    m = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    k = tl.arange(0, KP)
    j = tl.arange(0, SIDE * CO)[None, :]
    there = m * SIDE < positions
    sums = tl.zeros([ROWS, SIDE * CO], tl.float32)
    for kh in tl.static_range(3):
        x = _piece(X, m, k[None, :], kh, there, H, W, OH, OW, S, CI, SIDE)
        f = _weights(F, k[:, None], j, kh, S, CI, CO, TURNED)
        sums = tl.dot(x.to(Y.dtype.element_ty), f.to(Y.dtype.element_ty), sums)
    tl.store(Y + m * (SIDE * CO) + j, sums.to(Y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["positions"])
def input_gradient(
    G, F, D, positions, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr,
    S: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """D, the gradient of the input, from G, that of the output, for any stride."""
    m = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    ci = tl.arange(0, CI)[None, :]
    co = tl.arange(0, CO)
    sums = tl.zeros([ROWS, CI], tl.float32)
    for tap in tl.static_range(9):
        down = m // W % H + 1 - tap // 3
        right = m % W + 1 - tap % 3
        hits = (down % S == 0) & (right % S == 0) & (m < positions)
        inside = hits & (down >= 0) & (down < OH * S) & (right >= 0) & (right < OW * S)
        at = ((m // (H * W) * OH + down // S) * OW + right // S) * CO + co[None, :]
        g = tl.load(G + at, mask=inside, other=0.0)
        f = tl.load(F + co[:, None] * (9 * CI) + tap * CI + ci).to(G.dtype.element_ty)
        sums = tl.dot(g, f, sums)
    tl.store(D + m * CI + ci, sums.to(D.dtype.element_ty), mask=m < positions)


@triton.jit(do_not_specialize=["positions", "share"])
def weight_gradient(
    X, G, P, positions, share, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr,
    OW: tl.constexpr, S: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, KP: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """P (programs, 3, 3 * CI, CO): the gradient of the weights over `share` positions each."""
    kh = tl.program_id(1)
    k = tl.arange(0, KP)
    c = tl.arange(0, CO)[None, :]
    sums = tl.zeros([KP, CO], tl.float32)
    for start in range(0, share, ROWS):
        m = (tl.program_id(0) * share + start + tl.arange(0, ROWS))[:, None]
        x = _piece(X, m, k[None, :], kh, m < positions, H, W, OH, OW, S, CI, 1).to(
            G.dtype.element_ty
        )
        g = tl.load(G + m * CO + c, mask=m < positions, other=0.0)
        sums = tl.dot(tl.trans(x), g, sums)
    at = ((tl.program_id(0) * 3 + kh) * (3 * CI) + k[:, None]) * CO + c
    tl.store(P + at, sums, mask=(k < 3 * CI)[:, None])


@triton.jit(do_not_specialize=["programs"])
def weight_gradient_sum(
    P, D, programs, CI: tl.constexpr, CO: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """D (CO, 3, 3, CI): the sum of P over its programs."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    p = tl.arange(0, MOST)[:, None]
    inside = (i < 9 * CI * CO)[None, :] & (p < programs)
    parts = tl.load(P + p * (9 * CI * CO) + i[None, :], mask=inside, other=0.0)
    tl.store(D + i % CO * (9 * CI) + i // CO, tl.sum(parts, 0), mask=i < 9 * CI * CO)
