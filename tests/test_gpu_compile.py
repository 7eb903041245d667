"""What Triton makes of the kernels for an H100, compiled without one: registers, the width of
loads, and how many kernels a child causes."""

from __future__ import annotations

import itertools
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import actsearch
from actsearch.child_models.networks import convolution
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.expression import Expr, X
from actsearch.search_space.kernels import cuda, normalised
from actsearch.search_space.kernels.ahead import Ahead
from actsearch.search_space.kernels.builders import Builders
from actsearch.search_space.kernels.compiler import CompileError
from actsearch.search_space.kernels.fused import NO_BETAS, _loops
from actsearch.search_space.kernels.tracing import Traced, trace
from actsearch.search_space.operators import BINARY, UNARY, Op
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES
from actsearch.search_space.text import OPERATOR_SETS

triton = pytest.importorskip("triton", reason="triton is not installed: no CUDA build of torch")
driver = triton.runtime.driver
GPUTarget: Any = pytest.importorskip("triton.backends.compiler").GPUTarget
ELEMENTS = (torch.float32, torch.bfloat16)
SWISH, FLAT = "x * sigmoid(beta * x)", "cos(x) - x"
SLOPED = "softplus(x) + tanh(x)"
OPERATOR = 96  # registers of a thread, at most: an operator, and random functions of spaces
MOST = {"one-unit": 96, "three-units": 208, "gates": 128}
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


@contextmanager
def noting_hits() -> Iterator[list[bool]]:
    """Whether each kernel was found in Triton's cache."""
    hits: list[bool] = []
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda cache_hit, **_: hits.append(cache_hit)
        yield hits


def launched(text: str, x: torch.Tensor) -> None:
    traced = trace(parse(text), "guarded")
    betas = torch.ones(len(traced.betas), x.shape[1]) if traced.betas else None
    layout, sizes = ("flat", NO_BETAS) if betas is None else _loops(x, 1)
    kernel = cuda.load(cuda.source(traced, layout))
    inputs = [x] * len(traced.inputs)
    kernel.forward(inputs, x, betas, sizes)
    if kernel.keeps_slope:
        kernel.sloped(inputs, x, inputs)
    else:
        kernel.backward(inputs, x, inputs, betas, sizes)


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
    numbers have 32 bytes on the stack, and may save two values around that."""
    for source, element in all_sources:
        for kernel in cuda.load(source).compile(element):
            registers, stack = used(kernel)
            waves = re.search(r"libdevice\.(sin|cos)\(", source.text.partition("def forward")[2])
            waves = waves or "= sinc" in source.text
            assert registers <= most, (registers, source.text)
            assert stack <= (40 if waves else 0), (stack, source.text)


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


@pytest.mark.thorough
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


MEMORIES = (torch.channels_last, torch.contiguous_format)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(
    ("text", "memories"),
    [*((SWISH, (memory,)) for memory in MEMORIES), (FLAT, MEMORIES), (SLOPED, MEMORIES)],
)
def test_all_layers_of_a_resnet20_and_its_evaluation_share_a_kernel(
    text: str,
    memories: tuple[torch.memory_format, ...],
    element: torch.dtype,
    gpu: WithoutGPU,
) -> None:
    """Both ways in which images lie in memory, where no beta is looked up by its channel."""
    with noting_hits() as hits:
        for (width, side), n, memory in itertools.product(WIDTHS.items(), (128, 500), memories):
            x = torch.empty(n, width, side, side, dtype=element)
            launched(text, x.to(memory_format=memory))
    assert hits == [False, False]


@pytest.mark.parametrize("text", ["swiglu", "x * sigmoid(beta * x) * g", SWISH])
def test_an_exported_file_compiles_for_a_gpu_and_launches_once_each_way(
    text: str, gpu: WithoutGPU, tmp_path: Path
) -> None:
    (tmp_path / "found.py").write_text(str(actsearch.export(text, "triton", name="found")))
    layer = runpy.run_path(str(tmp_path / "found.py"))["Found"](64)
    inputs = [torch.zeros(8, 32, 64, requires_grad=True) for _ in parse(text).inputs]
    with noting_hits() as hits:
        layer(*inputs).sum().backward()
    assert hits == [False, False]
    assert all(t.grad is not None for t in (*inputs, *layer.parameters()))
    if "beta" in text:
        with pytest.raises(ValueError, match="last dimension has 8 channels, not 64"):
            layer(*(t.view(64, 32, 8) for t in inputs))


def test_a_gpus_betas_gradients_are_few_sums(gpu: WithoutGPU) -> None:
    launched(SWISH, torch.empty(500, 64, 32, 32).to(memory_format=torch.channels_last))
    launched(SWISH, torch.empty(500, 64, 32, 32))
    assert [x * y for x, y, _ in gpu.grids[1::2]] == [1024, 1024]


LAYERS = (  # of a ResNet-20: channels in and out, side, stride
    (3, 16, 32, 1), (16, 16, 32, 1), (16, 32, 32, 2), (32, 32, 16, 1), (32, 64, 16, 2),
    (64, 64, 8, 1),
)  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize(
    "layers",
    [
        pytest.param((LAYERS[0], LAYERS[2], LAYERS[5]), id="some"),
        pytest.param(LAYERS, id="all", marks=pytest.mark.slow),
    ],
)
def test_the_convolutions_of_a_resnet20_compile_without_spills(
    layers: tuple[tuple[int, int, int, int], ...], gpu: WithoutGPU
) -> None:
    made: list[tuple[int, int]] = []
    layout = torch.channels_last
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda src, metadata_group, **_: made.append(
            used(SimpleNamespace(name=src.name, metadata_group=metadata_group))
        )
        for width, channels, side, stride in layers:
            x = torch.empty(2, width, side, side, dtype=torch.bfloat16).to(memory_format=layout)
            weight = torch.empty(channels, width, 3, 3).to(memory_format=layout)
            y = convolution.convolved(x, weight, stride)
            convolution.weight_gradient(x, y, weight, stride)
            if width > 3:
                convolution.input_gradient(y, weight, x, stride)
    n = len(layers)
    assert len(made) == 3 * n + n - 1  # forward, weights and their sum; inputs but the images'
    assert max(registers for registers, _ in made) <= 224
    assert max(stack for _, stack in made) == 0


SERVE = """
import sys
sys.path[:0] = {path}
from actsearch.search_space.kernels.builders import serve
from tests import test_gpu_compile as here
here.driver._active = here.WithoutGPU()
serve()
"""


@pytest.fixture
def processes(gpu: WithoutGPU) -> Iterator[Builders]:
    path = [str(Path(__file__).parent.parent)]
    found = Builders(1, (sys.executable, "-c", SERVE.format(path=path)))
    yield found
    found.close()


def test_kernels_for_gpus_are_compiled_ahead_by_processes(processes: Builders) -> None:
    exprs = [parse(text) for text in (SWISH, FLAT)]
    unfused = Op("sorting", 1, lambda x: torch.sort(x, dim=1).values)
    kinds = [("cuda", "bfloat16", "flat"), ("cuda", "bfloat16", "columns")]
    ahead = Ahead(kinds, "guarded", processes)
    ahead([*exprs, Expr(unfused, (X,))])
    assert ahead.wait() == 2
    ahead.close()
    with noting_hits() as hits:
        for text in (SWISH, FLAT):
            x = torch.empty(2, 16, 8, 8, dtype=torch.bfloat16)
            launched(text, x.to(memory_format=torch.channels_last))
    assert hits == [True] * 4


@pytest.mark.thorough
def test_what_a_process_cannot_compile_is_said_and_the_process_lives_on(
    processes: Builders,
) -> None:
    with pytest.raises(CompileError, match="no_such_name"):
        processes.compile(cuda.Source("0" * 24, "no_such_name", "flat"), "float32")
    source = cuda.source(trace(parse(FLAT), "guarded"), "flat")
    processes.compile(source, "float32")
    process = processes._free.queue[-1]
    assert process is not None
    process.kill()
    process.wait()
    processes.compile(source, "float32")  # by another


@pytest.mark.parametrize("text", [SWISH, FLAT])
def test_one_normalised_kernel_serves_all_layers_as_it_was_compiled_ahead(
    text: str, gpu: WithoutGPU
) -> None:
    source = normalised.source(trace(parse(text), "guarded"))
    with noting_hits() as hits:
        for compiled in normalised.load(source).compile(torch.bfloat16):
            assert used(compiled) <= (128, 32)  # registers, with which two programs fit
    assert hits == [False, False]
    normalised.load.cache_clear()  # as in another process
    kernel = normalised.load(source)
    compiled_now: list[str] = []
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda src, cache_hit, **_: compiled_now.extend(
            [] if cache_hit else [src.name]
        )
        for (width, side), n in itertools.product(WIDTHS.items(), (128, 500)):
            z = torch.empty(n, width, side, side, dtype=torch.bfloat16)
            z = z.to(memory_format=torch.channels_last)
            ones, betas = torch.ones(width), torch.ones(text.count("beta"), width)
            norm = normalised.Normalisation(ones, ones, ones, ones, 1e-5, 0.1)
            for residual in (None, z):
                _, kept = kernel.forward(z, residual, norm, betas)
                kernel.forward(z, residual, norm, betas, training=False)
                kernel.backward(z, residual, z, kept, ones, ones, betas)
    assert not {"forward", "backward"} & set(compiled_now)
    assert len(compiled_now) == len(set(compiled_now))
    normalised.load.cache_clear()
