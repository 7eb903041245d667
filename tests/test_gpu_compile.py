"""What Triton makes of the kernels for an H100, compiled without one: registers, the width of
loads, and how many kernels a child causes."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.expression import Expr, X
from actsearch.search_space.kernels import cuda
from actsearch.search_space.kernels.fused import NO_BETAS, _loops
from actsearch.search_space.kernels.tracing import Traced, trace
from actsearch.search_space.operators import BINARY, UNARY
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES
from actsearch.search_space.text import OPERATOR_SETS

triton = pytest.importorskip("triton", reason="triton is not installed: no CUDA build of torch")
driver = triton.runtime.driver
GPUTarget: Any = pytest.importorskip("triton.backends.compiler").GPUTarget
ELEMENTS = (torch.float32, torch.bfloat16)
SWISH, FLAT = "x * sigmoid(beta * x)", "cos(x) - x"
OPERATOR = 96  # registers of a thread, at most: an operator, and random functions of spaces
MOST = {"one-unit": 128, "three-units": 255}
H100 = GPUTarget("cuda", 90, 32)


class WithoutGPU:
    """A driver that says there is an H100, and notes the grids of launches instead."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, int, int]] = []
        self.utils = self

    def get_current_target(self) -> Any:
        return H100

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}

    def load_binary(self, *args: Any) -> tuple[Any, ...]:
        return None, None, 0, 0, 1024

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        return lambda *args: self.grids.append(args[:3])


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WithoutGPU]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = WithoutGPU()
    monkeypatch.setattr(driver, "_active", found)
    cuda.load.cache_clear()
    yield found
    cuda.load.cache_clear()


def sources(traced: Traced) -> list[cuda.Source]:
    layouts = ("columns", "rows") if traced.betas else ("flat",)
    return [cuda.source(traced, layout) for layout in layouts]


def used(kernel: Any) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack."""
    file = Path(kernel.metadata_group[f"{kernel.name}.cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.findall(rf"{word}:(\d+)", said)[0]) for word in ("REG", "STACK"))
    return registers, stack


def check(all_sources: Iterable[tuple[cuda.Source, torch.dtype]], most: int) -> None:
    """Each compiles, with so many registers at most and without spills. Sine and cosine of large
    numbers have 32 bytes on the stack."""
    for source, element in all_sources:
        for kernel in cuda.load(source).compile(element):
            registers, stack = used(kernel)
            waves = re.search(r"libdevice\.(sin|cos)\(", source.text.partition("def forward")[2])
            waves = waves or "= sinc" in source.text
            assert registers <= most, (registers, source.text)
            assert stack <= (32 if waves else 0), (stack, source.text)


def operators(*sets: str) -> list[cuda.Source]:
    """One source each where the sets do not differ."""
    exprs = [Expr(op, (X,) * op.arity) for op in UNARY]
    exprs += [Expr(op, (X, parse("atan(x)"))) for op in BINARY]
    found = [sources(trace(e, name)) for e in exprs for name in sets]
    return list({s.key: s for s in itertools.chain(*found)}.values())


def functions(space: str, count: int) -> list[cuda.Source]:
    chance = torch.Generator().manual_seed(0)
    found: list[cuda.Source] = []
    for _ in range(count):
        digits = [int(torch.randint(r, (), generator=chance)) for r in SPACES[space].radices]
        found += sources(trace(canonical(SPACES[space].expression(tuple(digits))), "guarded"))
    return found


def test_every_operator_compiles_without_spills(gpu: WithoutGPU) -> None:
    some = [s for s in operators("guarded") if s.layout != "rows"]
    check(zip(some, itertools.cycle(ELEMENTS), strict=False), OPERATOR)


@pytest.mark.slow
def test_every_operator_of_both_sets_compiles_for_all_types_and_layouts(gpu: WithoutGPU) -> None:
    check(itertools.product(operators(*OPERATOR_SETS), ELEMENTS), OPERATOR)


@pytest.mark.parametrize("space", MOST)
def test_random_functions_compile_without_spills(space: str, gpu: WithoutGPU) -> None:
    check(zip(functions(space, 3)[::2], itertools.cycle(ELEMENTS), strict=False), MOST[space])


@pytest.mark.slow
@pytest.mark.parametrize("space", MOST)
def test_many_random_functions_compile_without_spills(space: str, gpu: WithoutGPU) -> None:
    check(itertools.product(functions(space, 100), ELEMENTS), MOST[space])


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(("text", "layout"), [(SWISH, "columns"), (SWISH, "rows"), (FLAT, "flat")])
def test_loads_and_stores_are_of_16_bytes(
    text: str, layout: str, element: torch.dtype, gpu: WithoutGPU
) -> None:
    kernel = cuda.load(cuda.source(trace(parse(text), "guarded"), layout))
    for compiled, wide in zip(kernel.compile(element), (2, 3), strict=True):  # x, y; x, gy, gx
        block = 1024 * (4 if element == torch.float32 else 2) // (128 * 16)  # of a thread
        found = re.findall(r"(?:ld|st)\.global\.v4\.b32", compiled.asm["ptx"])
        assert len(found) == wide * block


WIDTHS = {16: 32, 32: 16, 64: 8}  # and the side of the images, in a ResNet-20


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("text", [SWISH, FLAT, "softplus(x) + tanh(x)"])
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_all_layers_of_a_resnet20_and_its_evaluation_share_a_kernel(
    text: str, element: torch.dtype, memory: torch.memory_format, gpu: WithoutGPU
) -> None:
    traced, compiled = trace(parse(text), "guarded"), []
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda src, **_: compiled.append(src.name)
        for (width, side), n in itertools.product(WIDTHS.items(), (128, 500)):
            x = torch.empty(n, width, side, side, dtype=element).to(memory_format=memory)
            betas = torch.ones(len(traced.betas), width) if traced.betas else None
            layout, sizes = ("flat", NO_BETAS) if betas is None else _loops(x, 1)
            kernel = cuda.load(cuda.source(traced, layout))
            kernel.forward(x, x, betas, sizes)
            if kernel.keeps_slope:
                kernel.sloped(x, x, x)
            else:
                kernel.backward(x, x, x, betas, sizes)
    assert sorted(compiled) == sorted(["forward", "sloped" if kernel.keeps_slope else "backward"])


def test_what_was_compiled_ahead_is_what_a_launch_asks_for(gpu: WithoutGPU) -> None:
    hits: list[bool] = []
    x = torch.empty(128, 16, 8, 8)
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda cache_hit, **_: hits.append(cache_hit)
        for text, betas in ((SWISH, torch.ones(1, 16)), (FLAT, None)):
            layout, sizes = ("flat", NO_BETAS) if betas is None else _loops(x, 1)
            source = cuda.source(trace(parse(text), "guarded"), layout)
            cuda.load(source).compile(x.dtype)
            cuda.load.cache_clear()  # as in another process
            cuda.load(source).forward(x, x, betas, sizes)
            cuda.load(source).backward(x, x, x, betas, sizes)
    assert hits == [False, False, True, True] * 2
