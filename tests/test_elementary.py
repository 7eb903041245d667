"""The elementary functions of generated C against float64, over floats of every size, and at their
ends; and how arithmetic is cut into loops."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import actsearch
from actsearch.search_space.kernels import c, compiler, elementary, libraries
from actsearch.search_space.kernels.stages import SLOW, stages
from actsearch.search_space.kernels.tracing import COSTS, trace
from actsearch.search_space.parser import parse

pytestmark = pytest.mark.skipif(compiler.compiler() is None, reason="needs a C compiler")

ENDS = (
    88.0,
    88.7228,
    88.7229,
    89.0,
    89.4159,
    89.4160,
    90.0,
    -86.0,
    -86.0001,
    -87.4,
    -95.0,
    -103.0,
    -103.9,
    -104.0,
    -3.4437008,
    1.0504509,
    1e-40,
    -1e-40,
    1e9,
    2e9,
)
NAMES = (*elementary.FUNCTIONS, *(f"bounded_{name}" for name in c.BOUNDED))

# The exact value, and the error that is allowed in units of the last place.
Exact = Callable[[torch.Tensor], torch.Tensor]
EXACT: dict[str, tuple[Exact, float]] = {
    "exp": (torch.exp, 1.7),
    "log": (torch.log, 1.2),
    "log1p_exp": (lambda x: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs())), 2.1),
    "sigmoid": (torch.sigmoid, 2.5),
    "sinh": (torch.sinh, 1.7),
    "cosh": (torch.cosh, 1.6),
    "tanh": (torch.tanh, 1.6),
    "asinh": (torch.asinh, 2.4),
    "atan": (torch.atan, 1.8),
    "erf": (torch.erf, 1.5),
}


def source(names: tuple[str, ...] = NAMES) -> c.Source:
    """A loop over each function, `values_NAME_KEY(X, Y, n)`."""
    loop = """\
void values_{0}_@KEY@(const float *restrict X, float *restrict Y, integer n) {{
    #pragma omp simd
    for (integer i = 0; i < n; i++) Y[i] = m_{0}(X[i]);
}}
"""
    return c.named("".join(map(loop.format, names)), "float32")


def values(name: str, x: torch.Tensor) -> torch.Tensor:
    built = source()
    libraries.build([built])
    pointer, integer = libraries.POINTER, libraries.INTEGER
    loop = libraries.function(built.key, f"values_{name}", pointer, pointer, integer)
    assert loop is not None
    y = torch.empty_like(x)
    loop(x.data_ptr(), y.data_ptr(), x.numel())
    return y


def floats() -> torch.Tensor:
    """One in 20,011 of all numbers of 32 bits, and what is at the ends."""
    every = np.arange(0, 2**32, 20_011, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return torch.cat([torch.from_numpy(every), torch.tensor(ENDS)])


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_below_two_or_so_units_in_the_last_place(name: str) -> None:
    plain = name.removeprefix("bounded_")
    x = floats()
    if plain != name:
        x = x[~((x.abs() if plain != "exp" else x) > c.LIMIT)]
    exact, allowed = EXACT[plain]
    expected, ours = exact(x.double()), values(name, x).double()
    assert torch.equal(ours.isnan(), expected.isnan())
    infinite, largest = ours.isinf(), torch.finfo(torch.float32).max
    assert bool(infinite[expected.abs() > largest].all())
    assert bool((expected.abs() >= largest * (1 - 1e-6))[infinite].all())
    assert torch.equal(ours[infinite] > 0, expected[infinite] > 0)
    kept = ours.isfinite()
    difference, size = (ours - expected).abs()[kept], expected.abs()[kept]
    unit = torch.exp2(torch.floor(torch.log2(size.clamp(min=2.0**-126))) - 23)
    assert float((difference / unit).max()) < allowed


@pytest.mark.parametrize(
    "formula", ["sqrt(exp(x))", "sqrt(sigmoid(x))", "exp(x) * exp(-x)", "sinh(x) / cosh(x)"]
)
def test_what_is_nearly_nothing_still_has_a_value_and_a_slope(formula: str) -> None:
    """The numbers below 1.2e-38 have fewer digits, and no fewer values than those of eager mode."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for kernels in ("eager", "generated"):
        act = actsearch.Activation(formula, channels=1, kernels=kernels, operators="paper")
        x = torch.tensor([[-86.0, -86.95, -87.0, -87.5, -88.6, 88.73, 89.3]]).T
        x = x[x[:, 0] < 88.7] if "exp" in formula or "sigmoid" in formula else x
        x = x.requires_grad_()
        y = act(x)
        [slope] = torch.autograd.grad(y.sum(), x)
        found.append((y.detach(), slope))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_zero_keeps_its_sign_and_nan_its_kind(name: str) -> None:
    exact, _ = EXACT[name.removeprefix("bounded_")]
    zeros = torch.tensor([0.0, -0.0])
    torch.testing.assert_close(values(name, zeros), exact(zeros), rtol=1e-6, atol=0)
    assert torch.equal(values(name, zeros).signbit(), exact(zeros).signbit())
    kinds = np.array([0x7FC00000, 0xFFC00000, 0x7FC001FF, 0x7F800001, 0xFFFFFFFF], dtype=np.uint32)
    assert bool(values(name, torch.from_numpy(kinds.view(np.float32))).isnan().all())


@pytest.mark.parametrize("name", NAMES)
def test_a_value_does_not_depend_on_its_place(name: str) -> None:
    """Vectors and what is left after them have the same digits."""
    x = 4 * torch.randn(67, generator=torch.Generator().manual_seed(0))
    whole = values(name, x)
    for size in range(1, 67):
        torch.testing.assert_close(
            values(name, x[-size:].clone()), whole[-size:], rtol=0, atol=0, equal_nan=True
        )


def test_each_is_vectorised(tmp_path: Path) -> None:
    text = c.unit([source()], "float32")
    (tmp_path / "loops.c").write_text(text)
    found = str(compiler.compiler())
    flags = [flag for flag in compiler.FLAGS if flag != "-shared"]
    command = [found, *flags, "-fopt-info-vec-optimized", "-c", "loops.c", "-o", "loops.o"]
    if "Free Software Foundation" not in subprocess.getoutput(f"{found} --version"):
        pytest.skip("only gcc says which loops it vectorises")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loops = [
        i for i, line in enumerate(text.splitlines(), 1) if "for (integer i = 0; i < n" in line
    ]
    vectorised = {
        int(line.split(":")[1]) for line in done.stderr.splitlines() if "vectorized" in line
    }
    assert len(loops) == len(NAMES)
    assert set(loops) <= vectorised


@pytest.mark.parametrize("name", ["exp", "tanh", "erf"])
def test_the_script_prints_the_coefficients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    script = importlib.import_module("minimax")
    [wanted] = [p for p in script.POLYNOMIALS if p.name == name]
    coefficients, worst = script.minimax(wanted)
    assert (
        tuple(float(str(k)) for k in script.rounded(coefficients)) == (elementary.POLYNOMIALS[name])
    )
    assert worst < 2.0**-24


CHAINS = (
    "x",
    "cos(x) - x",
    "tanh(sin(exp(x))) + erf(x)",
    "exp(-beta * abs(cosh(exp(-beta * (beta - asinh(x))**2)) - erf(x)))",
)


@pytest.mark.parametrize("text", CHAINS)
def test_slow_functions_of_one_loop_do_not_depend_on_each_other(text: str) -> None:
    traced = trace(parse(text), "guarded")
    outputs = [traced.y, *traced.ginputs, *traced.gbetas]
    made: set[object] = set()
    left: list[object] = []
    for stage in stages(traced.program, outputs):
        assert stage.known <= made
        behind: dict[object, bool] = {}
        for node in stage.nodes:
            below = node not in stage.known and any(behind[a] for a in node.args)
            assert not (below and node.name in SLOW)
            behind[node] = below or (node.name in SLOW and node not in stage.known)
        made.update(n for n in stage.nodes if n.name in COSTS)
        left += stage.outputs
    assert set(left) == set(outputs)
    assert len(left) == len(set(outputs))
