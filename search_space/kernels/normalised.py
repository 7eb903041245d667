"""An activation together with the batch normalisation before it, for GPUs: y = f(norm(z) + r).

Apart, they read and write a tensor of a small child ten times a step, and their sums are launches
of their own. Together these are two launches forward, `statistics` and f's, and two backward, f's
and `input_gradient`; the sums for scales, shifts and betas come with them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch

from actsearch.search_space.kernels import cuda
from actsearch.search_space.kernels.tracing import Traced

LAYOUT = "normalised"
MOST_PARTS = 128  # programs that find sums, for each 16 channels
PROGRAMS = 264  # of the others, two for each multiprocessor of an H100
STATISTICS = {"ROWS": 512, "num_warps": 16, "enable_fp_fusion": True}
ROWS = {"forward": 256, "backward": 128}  # half as many where a function needs the registers
FUNCTION = {"num_warps": 8}
GRADIENT = {"ROWS": 256, "num_warps": 8, "enable_fp_fusion": True}

MOST = {"MOST": MOST_PARTS}
EXACT = {"enable_fp_fusion": False}  # as in cuda.py

_HEAD = "from actsearch.search_space.kernels.normalised_triton import moments\n"
_FORWARD = """

@triton.jit(do_not_specialize=["positions", "units", "share", "parts", "adds"])
def forward(Z, R, Y, P, K, W, V, M, S, B, positions, units, share, parts, adds, eps, momentum,
            ROWS: tl.constexpr, MOST: tl.constexpr):
    # M and S are the running mean and variance
    width = units * 16
    c = tl.program_id(0) * 16 + tl.arange(0, 16)[None, :]
    mean, variance = moments(P, positions, width, share, parts, c, MOST)
    deviation = 1.0 / tl.sqrt_rn(variance + eps)
    if tl.program_id(1) == 0:
        tl.store(K + c, mean)
        tl.store(K + width + c, deviation)
        if momentum > 0.0:
            old = tl.load(M + c)
            tl.store(M + c, old + momentum * (mean - old))
            old = tl.load(S + c)
            unbiased = variance * (positions / (positions - 1.0))
            tl.store(S + c, old + momentum * (unbiased - old))
    scale = tl.load(W + c) * deviation
    shift = tl.load(V + c)
{before}    for tile in range(tl.program_id(1), tl.cdiv(positions, ROWS), tl.num_programs(1)):
        m = tile * ROWS + tl.arange(0, ROWS)[:, None]
        inside = m < positions
        i = m.to(tl.int64) * width + c
        z = tl.load(Z + i, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(R + i, mask=m < positions * adds, other=0.0).to(tl.float32)
        x = (z - mean) * scale + shift + r
{steps}"""
_BACKWARD = """

@triton.jit(do_not_specialize=["positions", "units", "share", "adds"])
def backward(Z, R, G, D, P, K, W, V, B, positions, units, share, adds, ROWS: tl.constexpr):
    width = units * 16
    c = tl.program_id(0) * 16 + tl.arange(0, 16)[None, :]
    mean = tl.load(K + c)
    deviation = tl.load(K + width + c)
    weight = tl.load(W + c)
    shift = tl.load(V + c)
{before}    for start in range(0, share, ROWS):
        m = tl.program_id(1) * share + start + tl.arange(0, ROWS)[:, None]
        inside = m < positions
        i = m.to(tl.int64) * width + c
        z = tl.load(Z + i, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(R + i, mask=m < positions * adds, other=0.0).to(tl.float32)
        gy = tl.load(G + i, mask=inside, other=0.0).to(tl.float32)
        normal = (z - mean) * deviation
        x = normal * weight + shift + r
{steps}{after}"""


def source(traced: Traced) -> cuda.Source:
    """Triton for the parts that depend on the activation."""
    [gx] = traced.ginputs
    betas = range(len(traced.betas))
    known = [f"beta{k} = tl.load(B + {k} * width + c)" for k in betas]
    name = cuda._name
    forward = [*cuda._steps(traced, [traced.y]), cuda._store("Y", traced.y)]
    gradients = [gx, *traced.gbetas]
    backward = [*cuda._steps(traced, gradients), cuda._store("D", gx)]
    backward.append(f"g = tl.where(inside, {name(gx)}, 0.0)")
    backward += ["sum0 += g", "sum1 += g * normal"]
    backward += [
        f"sum{k} += tl.where(inside, {name(node)}, 0.0)" for k, node in enumerate(traced.gbetas, 2)
    ]
    sums = range(len(traced.betas) + 2)
    zeros = [f"sum{k} = tl.zeros([ROWS, 16], tl.float32)" for k in sums]
    stores = [
        f"tl.store(P + (tl.program_id(1) * {len(sums)} + {k}) * width + c, "
        f"tl.sum(sum{k}, 0)[None, :])"
        for k in sums
    ]
    text = cuda._HEAD.replace("\n\n\n", f"\n{_HEAD}\n\n", 1)
    text += _FORWARD.format(before=cuda._lines(known, 1), steps=cuda._lines(forward, 2))
    text += _BACKWARD.format(
        before=cuda._lines([*known, *zeros], 1),
        steps=cuda._lines(backward, 2),
        after=cuda._lines(stores, 1),
    )
    bodies = {"forward": forward, "backward": backward}
    rows = {n: ROWS[n] * cuda._block(steps) // cuda.BLOCK for n, steps in bodies.items()}
    text += f"\n\nROWS = {rows}\n"
    return cuda.Source(hashlib.sha256(text.encode()).hexdigest()[:24], text, LAYOUT)


@dataclass(frozen=True)
class Normalisation:
    """Of a layer: its parameters and running moments (channels,), float32."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    eps: float
    momentum: float


class Kernel:
    """The launches of a module. Tensors are (N, C, H, W), channels last, with a multiple of 16
    channels."""

    def __init__(self, module: ModuleType) -> None:
        from actsearch.search_space.kernels import normalised_triton

        self._function: Any = module
        self._shared: Any = normalised_triton

    def forward(
        self,
        z: torch.Tensor,
        residual: torch.Tensor | None,
        norm: Normalisation,
        betas: torch.Tensor,
        *,
        training: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """y, and mean and reciprocal deviation (2, C) that `z` is normalised by: in training those
        of `z`, by which the running moments are updated, else the running ones."""
        positions, channels = _shape(z)
        share, parts = _shares(positions, STATISTICS["ROWS"]) if training else (positions, 1)
        kept = z.new_empty((2, channels), dtype=torch.float32)
        y, units = torch.empty_like(z), channels // 16
        if training:
            found = z.new_empty((parts, 2, channels), dtype=torch.float32)
        else:
            found = torch.stack((norm.running_mean, norm.running_var * positions))
        momentum = norm.momentum if training else 0.0
        with torch.cuda.device_of(z):
            if training:
                self._shared.statistics[units, parts](
                    z, found, positions, units, share, **STATISTICS
                )
            options = self._options("forward")
            self._function.forward[_grid(positions, units, options)](
                z, z if residual is None else residual, y, found, kept, norm.weight, norm.bias,
                norm.running_mean, norm.running_var, betas, positions, units, share, parts,
                int(residual is not None), norm.eps, momentum, **options,
            )  # fmt: skip
        return y, kept

    def backward(
        self,
        z: torch.Tensor,
        residual: torch.Tensor | None,
        gy: torch.Tensor,
        kept: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        betas: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The gradients of `z` and of `residual`, and (2 + betas, C) those of bias, weight and
        betas."""
        positions, channels = _shape(z)
        options = self._options("backward")
        share, parts = _shares(positions, options["ROWS"])
        units, sums = channels // 16, 2 + len(betas)
        found = z.new_empty((parts, sums, channels), dtype=torch.float32)
        totals = z.new_empty((sums, channels), dtype=torch.float32)
        gu, gz = torch.empty_like(z), torch.empty_like(z)
        with torch.cuda.device_of(z):
            self._function.backward[units, parts](
                z, z if residual is None else residual, gy, gu, found, kept, weight, bias, betas,
                positions, units, share, int(residual is not None), **options,
            )  # fmt: skip
            self._shared.input_gradient[_grid(positions, units, GRADIENT)](
                z, gu, gz, found, totals, kept, weight, positions, units, parts, sums,
                **MOST, **GRADIENT,
            )  # fmt: skip
        return gz, gu, totals

    def compile(self, element: torch.dtype) -> list[Any]:
        """As `cuda.Kernel.compile`."""
        tensors = dict.fromkeys("ZRYGD", element) | dict.fromkeys("PKWVMSB", torch.float32)
        numbers = dict.fromkeys(("eps", "momentum"), 0.1)
        found = []
        for name in self._function.ROWS:
            function, options = getattr(self._function, name), self._options(name)
            args = [(tensors | numbers).get(n, 1) for n in function.arg_names if n not in options]
            found.append(function.warmup(*args, grid=(1,), **options))
        return found

    def _options(self, name: str) -> dict[str, Any]:
        more = MOST if name == "forward" else {}
        return {"ROWS": self._function.ROWS[name], **more, **FUNCTION, **EXACT}


def _shape(z: torch.Tensor) -> tuple[int, int]:
    return z.numel() // z.shape[1], z.shape[1]


def _shares(positions: int, rows: int) -> tuple[int, int]:
    """How many positions a program has, and how many programs."""
    share = rows * -(-positions // (rows * MOST_PARTS))
    return share, -(-positions // share)


def _grid(positions: int, units: int, options: dict[str, Any]) -> tuple[int, int]:
    tiles = -(-positions // options["ROWS"])
    return units, min(tiles, max(1, PROGRAMS // units))


@cache
def load(source: cuda.Source) -> Kernel:
    """Raises ImportError where there is no Triton."""
    return Kernel(cuda.module_of(source))
