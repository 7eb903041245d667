"""The same kernels for GPUs, as Triton source: one launch forward, one backward, and one that sums
the betas' gradients.

Triton comes with the CUDA builds of torch and compiles a kernel at its first launch. It reads the
source from a file, which is kept beside the libraries of `c.py`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from tempfile import NamedTemporaryFile
from types import ModuleType
from typing import Any

import torch

from actsearch.search_space.kernels.libraries import Sizes, cache_folder
from actsearch.search_space.kernels.program import Node
from actsearch.search_space.kernels.tracing import Traced, keeps_slope

BLOCK = 1024  # elements of a program
# A product and a difference in one rounding would make x abs(x) - x^2 other than 0.
LAUNCH = {"enable_fp_fusion": False}
FUNCTIONS = ("exp", "log", "sin", "cos", "sinh", "cosh", "tanh", "asinh", "atan", "erf")

# What each primitive is in Triton. Libdevice's functions, since Triton's own are less exact.
FORMS = {
    "neg": "-{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "libdevice.div_rn({0}, {1})",  # `/` is off by up to two units
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "eq": "{0} == {1}",
    "where": "tl.where({0}, {1}, {2})",
    "abs": "tl.abs({0})",
    "sqrt": "tl.sqrt_rn({0})",
    "sign": "tl.where({0} > 0, 1.0, 0.0) - tl.where({0} < 0, 1.0, 0.0)",
    "relu": "tl.where({0} < 0, 0.0, {0})",
    "clamp_min": "tl.where({0} < {1}, {1}, {0})",
    "clamp_max": "tl.where({0} > {1}, {1}, {0})",
    "maximum": "tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})",
    "minimum": "tl.where(({0} < {1}) | ({0} != {0}), {0}, {1})",
    "sigmoid": "1.0 / (1.0 + libdevice.exp(-{0}))",
    "log1p_exp": "libdevice.log1p(libdevice.exp({0}))",
    "sinc": "sinc({0})",
    "sinc_slope": "sinc_slope({0})",
    **{name: f"libdevice.{name}({{0}})" for name in FUNCTIONS},
}

_HEAD = """\
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def sinc(u):
    return tl.where(u == 0, 1.0, libdevice.sin(u) / tl.where(u == 0, 1.0, u))


@triton.jit
def sinc_slope(u):
    # (u cos u - sin u) / u^2; by its series where the two terms nearly cancel
    s = u * u
    series = -u * (1.0 / 3 - s * (1.0 / 30 - s * (1.0 / 840 - s * (1.0 / 45360))))
    quotient = (u * libdevice.cos(u) - libdevice.sin(u)) / tl.where(s == 0, 1.0, s)
    return tl.where(s < 0.25, series, quotient)
"""

_FLAT = """

@triton.jit
def {name}({pointers}, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
{steps}
"""

# A tile of positions (rows) and channels (columns); `inner` positions of a channel lie together.
_TILES = """

@triton.jit
def {name}({pointers}, positions, channels, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (m < positions) & (c < channels)
    i = (m // inner) * channels * inner + c * inner + m % inner
{steps}
"""


@dataclass(frozen=True)
class Source:
    """A module with the functions `forward`, and `backward` or `sloped`."""

    key: str
    text: str


def source(traced: Traced) -> Source:
    """Triton for an activation, whatever the type and the layout of its input."""
    betas = len(traced.betas)
    load = ["x = tl.load(X + i, mask=inside, other=0.0).to(tl.float32)"]
    gradient = ["gy = tl.load(G + i, mask=inside, other=0.0).to(tl.float32)"]
    known = [
        f"beta{k} = tl.load(B + {k} * channels + c, mask=c < channels, other=0.0)"
        for k in range(betas)
    ]
    template = _TILES if betas else _FLAT
    parameters = ", B" if betas else ""
    forward = [*load, *known, *_steps(traced, [traced.y]), _store("Y", traced.y)]
    text = _HEAD + _function(template, "forward", f"X, Y{parameters}", forward)
    if keeps_slope(traced):
        steps = [*load, *_steps(traced, [traced.y, traced.slope])]
        steps += [_store("Y", traced.y), _store("D", traced.slope)]
        text += _function(template, "sloped", "X, Y, D", steps)
    else:
        steps = [*load, *gradient, *known, *_steps(traced, [traced.gx, *traced.gbetas])]
        steps.append(_store("D", traced.gx))
        for k, node in enumerate(traced.gbetas):
            steps.append(f"part{k} = tl.sum(tl.where(inside, {_name(node)}, 0.0), 0)[None, :]")
            place = f"P + (tl.program_id(0) * {betas} + {k}) * channels + c"
            steps.append(f"tl.store({place}, part{k}, mask=c < channels)")
        pointers = "X, G, D, B, P" if betas else "X, G, D"
        text += _function(template, "backward", pointers, steps)
    return Source(hashlib.sha256(text.encode()).hexdigest()[:24], text)


def _function(template: str, name: str, pointers: str, steps: Sequence[str]) -> str:
    body = "\n".join(f"    {step}" for step in steps)
    return template.format(name=name, pointers=pointers, steps=body)


def _store(pointer: str, node: Node) -> str:
    return f"tl.store({pointer} + i, {_name(node)}, mask=inside)"


def _steps(traced: Traced, outputs: Sequence[Node]) -> list[str]:
    lines: list[str] = []
    for node in traced.program.needed(outputs):
        if node.name == "const":
            value = repr(node.value) if math.isfinite(node.value) else f'float("{node.value}")'
            lines.append(f"{_name(node)} = tl.full(x.shape, {value}, tl.float32)")
        elif node.name in FORMS:
            text = FORMS[node.name].format(*map(_name, node.args))
            lines.append(f"{_name(node)} = {text}")
    return lines


def _name(node: Node) -> str:
    if node.name == "beta":
        return f"beta{int(node.value)}"
    return node.name if node.name in ("x", "gy") else f"v{node.index}"


class Kernel:
    """The launches of a module; tensors are dense, and lie alike."""

    def __init__(self, module: ModuleType) -> None:
        self._module: Any = module
        self.keeps_slope = hasattr(module, "sloped")

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, betas: torch.Tensor | None, sizes: Sizes
    ) -> None:
        with torch.cuda.device_of(x):
            if betas is None:
                self._module.forward[_blocks(x)](x, y, x.numel(), BLOCK=BLOCK, **LAUNCH)
            else:
                grid, tile = _tiles(sizes)
                self._module.forward[grid](x, y, betas, *_numbers(sizes), **tile, **LAUNCH)

    def sloped(self, x: torch.Tensor, y: torch.Tensor, slope: torch.Tensor) -> None:
        with torch.cuda.device_of(x):
            self._module.sloped[_blocks(x)](x, y, slope, x.numel(), BLOCK=BLOCK, **LAUNCH)

    def backward(
        self,
        x: torch.Tensor,
        gy: torch.Tensor,
        gx: torch.Tensor,
        betas: torch.Tensor | None,
        sizes: Sizes,
    ) -> torch.Tensor | None:
        """Writes `gx`; returns the gradients of the betas."""
        with torch.cuda.device_of(x):
            if betas is None:
                self._module.backward[_blocks(x)](x, gy, gx, x.numel(), BLOCK=BLOCK, **LAUNCH)
                return None
            grid, tile = _tiles(sizes)
            parts = torch.empty((grid[0], *betas.shape), dtype=torch.float32, device=x.device)
            self._module.backward[grid](x, gy, gx, betas, parts, *_numbers(sizes), **tile, **LAUNCH)
            return parts.sum(0)


def _blocks(x: torch.Tensor) -> tuple[int]:
    return (-(-x.numel() // BLOCK),)


def _numbers(sizes: Sizes) -> Sizes:
    """Positions, channels, and how many positions of a channel lie together."""
    outer, channels, inner = sizes
    return outer * inner, channels, inner


def _tiles(sizes: Sizes) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and shape of the tiles: along the elements that lie together."""
    positions, channels, inner = _numbers(sizes)
    columns = 1 if inner > 1 else min(128, 1 << (channels - 1).bit_length())
    rows = BLOCK // columns
    grid = (-(-positions // rows), -(-channels // columns))
    return grid, {"ROWS": rows, "COLUMNS": columns}


@cache
def load(source: Source) -> Kernel:
    """The kernel of a source; raises ImportError where there is no Triton."""
    file = cache_folder() / f"{source.key}.py"
    text = source.text.encode()
    if not file.exists() or file.read_bytes() != text:  # one that was cut short is written again
        with NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
            part.write(text)
        os.replace(part.name, file)  # whole, whoever else writes it
    spec = importlib.util.spec_from_file_location(f"actsearch_kernel_{source.key}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Kernel(module)
