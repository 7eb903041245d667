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

from actsearch.search_space.kernels.libraries import Sizes, Tensors, cache_folder
from actsearch.search_space.kernels.program import LEAVES, Node
from actsearch.search_space.kernels.tracing import Traced, keeps_slope

# A product and a difference in one rounding would make x abs(x) - x^2 other than 0.
LAUNCH = {"enable_fp_fusion": False, "num_warps": 4}
SUMMING_PROGRAMS = 1024  # whose sums of betas' gradients a second launch adds
MOST_PROGRAMS = 65535  # in the second dimension of a grid
# Elements that a program has at a time, eight a thread: two of the widest loads, with bfloat16 one.
# A function of more steps gets half as many, since it needs the registers.
BLOCK, STEPS = 1024, 24
LONG = {"libdevice.sin(": 8, "libdevice.cos(": 8, "sinc(": 8, "sinc_slope(": 20}  # more steps
FUNCTIONS = ("exp", "log", "sin", "cos", "sinh", "cosh", "tanh", "asinh", "atan", "erf")

# Where an input is read from and its gradient, or its slope, goes.
ARRAYS = {"x": ("X", "D"), "g": ("U", "E")}

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

# Sizes come in units of UNIT elements, 16 where they can be: loads are wide where Triton knows that
# rows begin at multiples of 16 bytes. Nothing else about sizes is compiled in, so that one kernel
# serves all layers.
_FLAT = """

@triton.jit(do_not_specialize=["size"])
def {name}({pointers}, size, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < tl.cast(size, tl.int64) * UNIT
{steps}"""

# Rows of `size` elements, in which the channels come round: a tile has 16 columns of some rows (in
# bfloat16 a sector of memory each).
_COLUMNS = """

@triton.jit(do_not_specialize=["rows", "channels", "size"])
def {name}({pointers}, rows, channels, size, UNIT: tl.constexpr, ROWS: tl.constexpr):
    width = size * UNIT
    c = tl.program_id(0) * 16 + tl.arange(0, 16)[None, :]
    there = c < width
{before}    for tile in range(tl.program_id(1), tl.cdiv(rows, ROWS), tl.num_programs(1)):
        m = tile * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (m < rows) & there
        i = m.to(tl.int64) * width + c
{steps}{after}"""

# Planes of `size` elements, one a channel: a tile has some pieces of 16 elements, of one channel.
_ROWS = """

@triton.jit(do_not_specialize=["rows", "channels", "size"])
def {name}({pointers}, rows, channels, size, UNIT: tl.constexpr, ROWS: tl.constexpr):
    width = size * UNIT
    pieces = tl.cdiv(width, 16)
    c = tl.program_id(0)
    there = c < channels
{before}    for tile in range(tl.program_id(1), tl.cdiv(rows * pieces, ROWS), tl.num_programs(1)):
        m = tile * ROWS + tl.arange(0, ROWS)[:, None]
        j = m % pieces * 16 + tl.arange(0, 16)[None, :]
        inside = (m < rows * pieces) & (j < width)
        i = ((m // pieces).to(tl.int64) * channels + c) * width + j
{steps}{after}"""
# What a program has summed, a beta a row of `P`.
_SUMS = {
    "columns": "tl.store(P + (tl.program_id(1) * {betas} + {k}) * width + c, "
    "tl.sum(sum{k}, 0)[None, :], mask=there)",
    "rows": "tl.store(P + (tl.program_id(1) * {betas} + {k}) * channels + c, tl.sum(sum{k}))",
}
_TEMPLATES = {"flat": _FLAT, "columns": _COLUMNS, "rows": _ROWS}


@dataclass(frozen=True)
class Source:
    """A module with the functions `forward`, and `backward` or `sloped`; its BLOCK says how many
    elements a program of each has at a time. `layout` is flat for a function without betas, else
    columns or rows."""

    key: str
    text: str
    layout: str


def source(traced: Traced, layout: str, *, slopes: bool | None = None) -> Source:
    """Triton for an activation, whatever the type of its input; `slopes` says whether these are
    kept [where that is cheaper]."""
    arrays = [ARRAYS[node.name] for node in traced.inputs]
    given, wanted = (", ".join(names) for names in zip(*arrays, strict=True))
    load = [
        f"{node.name} = tl.load({array} + i, mask=inside, other=0.0).to(tl.float32)"
        for node, (array, _) in zip(traced.inputs, arrays, strict=True)
    ]
    gradient = ["gy = tl.load(G + i, mask=inside, other=0.0).to(tl.float32)"]
    betas = range(len(traced.betas))
    known = [f"beta{k} = tl.load(B + {k} * channels + c % channels, mask=there)" for k in betas]
    steps = [*load, *_steps(traced, [traced.y]), _store("Y", traced.y)]
    bodies = {"forward": (f"{given}, Y{', B' * bool(betas)}", steps, [])}
    if keeps_slope(traced) if slopes is None else slopes:
        steps = [*load, *_steps(traced, [traced.y, *traced.slopes]), _store("Y", traced.y)]
        steps += [_store(d, node) for (_, d), node in zip(arrays, traced.slopes, strict=True)]
        bodies["sloped"] = (f"{given}, Y, {wanted}", steps, [])
    else:
        steps = [*load, *gradient, *_steps(traced, [*traced.ginputs, *traced.gbetas])]
        steps += [_store(d, node) for (_, d), node in zip(arrays, traced.ginputs, strict=True)]
        after = []
        for k, node in enumerate(traced.gbetas):
            steps.append(f"sum{k} += tl.where(inside, {_name(node)}, 0.0)")
            after.append(_SUMS[layout].format(k=k, betas=len(betas)))
        bodies["backward"] = (f"{given}, G, {wanted}{', B, P' * bool(betas)}", steps, after)
    text = _HEAD
    for name, (pointers, steps, after) in bodies.items():
        sums = [f"sum{k} = tl.zeros([ROWS, 16], tl.float32)" for k in range(len(after))]
        text += _TEMPLATES[layout].format(
            name=name,
            pointers=pointers,
            before=_lines([*known, *sums], 1),
            steps=_lines(steps, 1 if layout == "flat" else 2),
            after=_lines(after, 1),
        )
    blocks = {name: _block(steps) for name, (_, steps, _) in bodies.items()}
    text += f"\n\nBLOCK = {blocks}\n"
    return Source(hashlib.sha256(text.encode()).hexdigest()[:24], text, layout)


def _block(steps: Sequence[str]) -> int:
    text = "\n".join(steps)
    inlined = sum(count * text.count(name) for name, count in LONG.items())
    return BLOCK if len(steps) + inlined <= STEPS else BLOCK // 2


def _lines(steps: Sequence[str], depth: int) -> str:
    return "".join(f"{'    ' * depth}{step}\n" for step in steps)


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
    return node.name if node.name in LEAVES else f"v{node.index}"


@dataclass(frozen=True)
class Tiling:
    """How the functions with betas see a tensor."""

    numbers: tuple[int, int, int]  # rows, channels, size
    unit: int
    across: int  # programs beside each other: of 16 columns each, or of a channel
    along: int  # rows of tiles
    rounds: int  # how often the channels come round in a row


def tiling(layout: str, sizes: Sizes) -> Tiling:
    """Where channels lie side by side, several positions are one row, so that 16 divides it."""
    outer, channels, inner = sizes
    if layout == "rows":
        unit = 16 if inner % 16 == 0 else 1
        along = outer * -(-inner // 16)
        return Tiling((outer, channels, inner // unit), unit, channels, along, 1)
    rounds, unit = 16 // math.gcd(channels, 16), 16
    if outer % rounds:
        rounds, unit = 1, 1
    rows, width = outer // rounds, rounds * channels
    return Tiling((rows, channels, width // unit), unit, -(-width // 16), rows, rounds)


class Kernel:
    """The launches of a module; tensors are dense, and lie alike."""

    def __init__(self, module: ModuleType, layout: str) -> None:
        self._module: Any = module
        self._layout = layout
        self.keeps_slope = hasattr(module, "sloped")

    def forward(
        self,
        inputs: Tensors,
        y: torch.Tensor,
        betas: torch.Tensor | None,
        sizes: Sizes,
    ) -> None:
        if betas is None:
            self._flat("forward", *inputs, y)
        else:
            tiles = tiling(self._layout, sizes)
            grid = tiles.across, min(self._tiles("forward", tiles), MOST_PROGRAMS)
            self._launch("forward", grid, (*inputs, y, betas), tiles.numbers, tiles.unit)

    def sloped(self, inputs: Tensors, y: torch.Tensor, slopes: Tensors) -> None:
        self._flat("sloped", *inputs, y, *slopes)

    def backward(
        self,
        inputs: Tensors,
        gy: torch.Tensor,
        ginputs: Tensors,
        betas: torch.Tensor | None,
        sizes: Sizes,
    ) -> torch.Tensor | None:
        """Writes `ginputs`; returns the gradients of the betas."""
        if betas is None:
            self._flat("backward", *inputs, gy, *ginputs)
            return None
        tiles = tiling(self._layout, sizes)
        wanted = max(1, SUMMING_PROGRAMS // tiles.across)
        grid = tiles.across, min(self._tiles("backward", tiles), wanted)
        shape = grid[1], len(betas), tiles.rounds, sizes[1]
        parts = torch.empty(shape, dtype=torch.float32, device=gy.device)
        tensors = (*inputs, gy, *ginputs, betas, parts)
        self._launch("backward", grid, tensors, tiles.numbers, tiles.unit)
        return parts.sum((0, 2))

    def compile(self, element: torch.dtype) -> list[Any]:
        """Compile for the active driver's GPU what launches will ask for, into Triton's cache;
        launches nothing. Returns Triton's kernels."""
        found = []
        for name in self._module.BLOCK:
            function = getattr(self._module, name)
            pointers = [n for n in function.arg_names if len(n) == 1]
            types = [torch.float32 if n in "BP" else element for n in pointers]
            numbers = [1] * (1 if self._layout == "flat" else 3)
            found.append(function.warmup(*types, *numbers, grid=(1,), **self._options(name, 16)))
        return found

    def _flat(self, name: str, *tensors: torch.Tensor) -> None:
        n = tensors[0].numel()
        unit = 16 if n % 16 == 0 else 1
        self._launch(name, (-(-n // self._module.BLOCK[name]),), tensors, (n // unit,), unit)

    def _launch(
        self,
        name: str,
        grid: tuple[int, ...],
        tensors: Sequence[torch.Tensor],
        numbers: Sequence[int],
        unit: int,
    ) -> None:
        with torch.cuda.device_of(tensors[0]):
            getattr(self._module, name)[grid](*tensors, *numbers, **self._options(name, unit))

    def _options(self, name: str, unit: int) -> dict[str, Any]:
        block = self._module.BLOCK[name]
        shape = {"BLOCK": block} if self._layout == "flat" else {"ROWS": block // 16}
        return {"UNIT": unit, **shape, **LAUNCH}

    def _tiles(self, name: str, tiles: Tiling) -> int:
        return -(-tiles.along // (self._module.BLOCK[name] // 16))


@cache
def load(source: Source) -> Kernel:
    """The kernel of a source; raises ImportError where there is no Triton."""
    return Kernel(module_of(source), source.layout)


def module_of(source: Source) -> ModuleType:
    """Imported from a file of the cache."""
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
    return module
