"""Exported functions are run where they are meant to run, and compared with `Activation`.

Every operator, random functions of one and three units, and the baselines, in both operator sets,
at points that are negative, zero, large, and where maxima tie or guards begin.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import actsearch
from actsearch import cli, errors
from actsearch.search_space.activation import Activation
from actsearch.search_space.baselines import BASELINES
from actsearch.search_space.export.exporters import EXPORTERS
from actsearch.search_space.export.lowering import GUARDS
from actsearch.search_space.expression import Expr, X
from actsearch.search_space.kernels.compiler import compiler
from actsearch.search_space.operators import BINARY, OPERATORS, UNARY, Op
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES
from actsearch.search_space.text import OPERATOR_SETS
from actsearch.search_space.units import UnitSpace

# fmt: off
POINTS = [-1e3, -41.0, -10.0, -3.3, -1.0, -0.5, -1e-3, -1e-4, 0.0, 1e-3, 0.03, 0.5, 1.0, 2.7, 10.0,
          20.5, 41.0, 900.0]
# fmt: on
BETAS = [0.7, -0.4, 1.3, 2.1, 0.2, -1.1, 0.9, 1.7]  # not those that betas start at
EXACT, SINGLE = 1e-9, 2e-6  # tolerances of float64 and float32, of 1 + |y|

Values = tuple[np.ndarray, np.ndarray, np.ndarray]  # y (N,), dy/dx (N,), dy/dbeta (betas, N)


@dataclass(frozen=True)
class Case:
    """A function in an operator set, called `name` where it is exported."""

    text: str
    operators: str
    name: str

    @property
    def betas(self) -> list[float]:
        return BETAS[: parse(self.text).betas]

    def __str__(self) -> str:
        return f"{self.text} ({self.operators})"

    @functools.cached_property
    def exact(self) -> Values:
        return self.at(torch.tensor(POINTS, dtype=torch.float64))

    @functools.cached_property
    def blur(self) -> tuple[np.ndarray, np.ndarray]:
        """How far y and dy/dx move when x does by some units in its last place as float32."""
        x = torch.tensor(POINTS, dtype=torch.float64)
        low, high = (self.at(x * (1 + h) + h) for h in (-3e-7, 3e-7))
        y, dx = (
            np.maximum(np.abs(low[i] - self.exact[i]), np.abs(high[i] - self.exact[i]))
            for i in (0, 1)
        )
        return y, dx

    @functools.cached_property
    def single(self) -> tuple[Values, tuple[np.ndarray, np.ndarray]]:
        """The values in float32, and what float32 can know of y and dy/dx."""
        x = torch.tensor(POINTS)
        exact, rounded = self.at(x.double()), self.at(x)
        y, dx = (
            SINGLE + self.blur[i] + 3 * np.abs(exact[i] - rounded[i].astype(float)) for i in (0, 1)
        )
        return rounded, (y, dx)

    def at(self, x: torch.Tensor) -> Values:
        act = Activation(self.text, len(x), operators=self.operators).to(x.dtype)
        _fill(act.beta, self.betas)
        return values(act, x, list(act.beta))

    def exported(self, to: str) -> Any:
        return actsearch.export(self.text, to, operators=self.operators, name=self.name)

    def run(self, to: str) -> dict[str, Any]:
        """What the exported Python program defines."""
        return _executed(self.exported(to))

    def check(self, what: str, got: Any, expected: np.ndarray, tolerance: Any = EXACT) -> None:
        """Infinite where infinite and NaN where NaN. Slopes are not compared where they are NaN, or
        where plain formulas overflow: 0 times infinity depends on the order of the factors."""
        got = np.broadcast_to(np.asarray(got, dtype=np.float64), expected.shape)
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        near = np.abs(got - expected) <= tolerance * (1 + np.abs(expected))
        if what != "y":
            overflows = (np.abs(POINTS) > 100) | (np.isnan(got) & (expected == 0))
            near |= np.isnan(expected) | (overflows & (self.operators == "paper"))
        wrong = ~(same | near)
        assert not wrong.any(), f"{what} of {self}: {got[wrong]}, not {expected[wrong]}"


def values(
    fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, betas: list[torch.Tensor]
) -> Values:
    """Each point is a channel with betas of its own."""
    x = x[None].clone().requires_grad_()
    y = fn(x)
    slopes = [torch.zeros(x.shape[1], dtype=x.dtype)] * (1 + len(betas))
    if y.requires_grad:
        found = torch.autograd.grad(y.sum(), [x, *betas], allow_unused=True)
        slopes = [z if g is None else g.flatten() for g, z in zip(found, slopes, strict=True)]
    dbetas = np.array([slope.numpy() for slope in slopes[1:]]).reshape(len(betas), x.shape[1])
    return y.detach().numpy()[0], slopes[0].numpy(), dbetas


def _fill(parameters: Any, numbers: list[float]) -> None:
    with torch.no_grad():
        for parameter, number in zip(parameters, numbers, strict=True):
            parameter.fill_(number)


def _executed(source: str) -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": "exported"}
    exec(compile(source, "exported.py", "exec"), found)  # noqa: S102
    return found


def _drawn(space: UnitSpace, n: int) -> list[str]:
    rng = random.Random(1)
    return [str(space.expression(space.digits(rng.randrange(space.size)))) for _ in range(n)]


def _cases(few: int = 1) -> list[Case]:
    """Operators and baselines, and of the random functions each of so many."""
    texts = [
        *(f"{op.name}(x)" if op.arity else op.name for op in UNARY),
        *(f"{op.name}({args})" for op in BINARY for args in ("x, square(x)", "2, x", "x, 0.5")),
        *BASELINES.values(),
        *("2", "x", "x + exp(2)", "min(x, 1e300)", "sigmoid(beta)", "max(x, beta)", "sub(x, x)"),
        *_drawn(SPACES["one-unit"], 60)[::few],
        *_drawn(SPACES["three-units"], 20)[::few],
    ]
    return [
        Case(text, operators, f"f{i}_{operators}")
        for operators in OPERATOR_SETS
        for i, text in enumerate(texts)
    ]


@pytest.fixture(autouse=True)
def _infinities_may_be_subtracted() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


CASES, FEW = _cases(), _cases(few=4)


def test_python_computes_what_an_activation_does() -> None:
    for case in CASES:
        function = case.run("python")[case.name]
        got = [function(x, *case.betas) for x in POINTS]
        case.check("y", got, case.exact[0], EXACT + 1e-8 * case.blur[0])


def test_torch_computes_what_an_activation_does_and_learns_as_it_does() -> None:
    for case in CASES:
        program = case.run("torch")
        module = program[case.name.replace("_", " ").title().replace(" ", "")](len(POINTS)).double()
        betas = list(module.parameters())
        _fill(betas, case.betas)
        y, dx, dbetas = values(module, torch.tensor(POINTS, dtype=torch.float64), betas)
        case.check("y", y, case.exact[0])
        case.check("dx", dx, case.exact[1])
        case.check("dbeta", dbetas, case.exact[2])


def test_jax_computes_what_an_activation_does_with_its_slopes() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jax.config.update("jax_enable_x64", True)
    x = jax.numpy.array(POINTS)
    for case in FEW:
        betas = [jax.numpy.full(x.shape, beta) for beta in case.betas]
        with jax.disable_jit():  # 600 compilations would take longer
            y, vjp = jax.vjp(case.run("jax")[case.name], x, *betas)
            dx, *dbetas = vjp(jax.numpy.ones_like(y))
        case.check("y", y, case.exact[0], EXACT + 1e-8 * case.blur[0])
        case.check("dx", dx, case.exact[1], EXACT + 1e-8 * case.blur[1])
        case.check("dbeta", np.array(dbetas).reshape(case.exact[2].shape), case.exact[2], 1e-8)


@pytest.mark.thorough
def test_sympy_builds_the_function_that_an_activation_computes() -> None:
    """Where the activation is finite, and exponents of exponents are no astronomical numbers."""
    mpmath = pytest.importorskip("mpmath")
    import sympy

    near = np.abs(POINTS) < 3
    for case in FEW:
        program = case.run("sympy")
        betas = list(program.get("initial", {}))
        assert [float(program["initial"][b]) for b in betas] == _initial(case.text)
        function = sympy.lambdify([program["x"], *betas], program[case.name], "mpmath")
        at = [float(x) if ok else 0.0 for x, ok in zip(POINTS, near, strict=True)]
        known = near & np.isfinite(case.exact[0])
        got = [
            float(function(mpmath.mpf(x), *map(mpmath.mpf, case.betas))) if ok else y
            for x, y, ok in zip(at, case.exact[0], known, strict=True)
        ]
        case.check("y", got, case.exact[0], EXACT + 1e-8 * case.blur[0])


def _initial(text: str) -> list[float]:
    return [node.beta for node in parse(text).walk() if node.beta is not None]


def test_onnx_computes_what_an_activation_does() -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    for case in CASES:
        model = EXPORTERS["onnx"].write(_source(case))
        assert isinstance(model, bytes)
        expected, (tolerance, _) = case.single
        case.check("y", _run_onnx(model, np.float32([POINTS]))[0], expected[0], tolerance)


def _source(case: Case) -> Any:
    from actsearch.search_space.export.lowering import Exported

    betas = tuple((beta,) for beta in case.betas)
    return Exported(parse(case.text), case.operators, case.name, betas, version="0", dims=2)


def _run_onnx(model: bytes, x: np.ndarray) -> np.ndarray:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All cases in C in one translation unit: the helpers of each are renamed around it."""
    if compiler() is None:
        pytest.skip("there is no C compiler")
    folder, parts = tmp_path_factory.mktemp("c"), []
    for case in CASES:
        text = case.exported("c")
        (folder / f"{case.name}.c").write_text(text)
        helpers = re.findall(r"^static float (\w+)\(", text, re.MULTILINE)
        parts += [f"#define {name} {case.name}_{name}" for name in helpers]
        parts += [f'#include "{case.name}.c"', *(f"#undef {name}" for name in helpers)]
    (folder / "all.c").write_text("\n".join(["#include <math.h>", *parts, ""]))
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [compiler(), *strict, "all.c", "-lm", "-o", "all.so"]
    done = subprocess.run([str(c) for c in command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "all.so"))


@pytest.mark.thorough
@pytest.mark.parametrize(("what", "suffix"), [("y", ""), ("dx", "_dx")])
def test_c_compiles_without_a_warning_and_computes_what_an_activation_does(
    library: ctypes.CDLL, what: str, suffix: str
) -> None:
    for case in CASES:
        function = library[case.name + suffix]
        function.restype = ctypes.c_float
        function.argtypes = [ctypes.c_float] * (1 + len(case.betas))
        got = [function(x, *case.betas) for x in POINTS]
        index = ("y", "dx").index(what)
        expected, tolerances = case.single
        case.check(what, got, expected[index], tolerances[index])


@pytest.mark.parametrize(
    ("to", "allowed"),
    [("python", {"math"}), ("torch", {"math", "torch"}), ("jax", {"jax"}), ("sympy", {"sympy"})],
)
def test_exported_python_imports_its_library_alone(to: str, allowed: set[str]) -> None:
    for case in FEW:
        names: set[str] = set()
        for node in ast.walk(ast.parse(case.exported(to))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
        assert names <= allowed, case


ALONE = """
import sys, torch

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "actsearch":
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
try:
    import actsearch
except ImportError:
    for program, type, x, y in torch.load(sys.argv[1]):
        space = {"__name__": "alone"}
        exec(program, space)
        torch.testing.assert_close(space[type](x.shape[1])(x), y)
    print("alone")
"""


@pytest.mark.thorough
def test_an_exported_module_works_where_actsearch_is_not(tmp_path: Path) -> None:
    x = torch.linspace(-4, 4, 30).view(2, 3, 5)
    given = [
        (actsearch.export(name), name.title().replace("-", ""), x, Activation(name, 3)(x).detach())
        for name in BASELINES
    ]
    torch.save(given, tmp_path / "given.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(tmp_path / "given.pt")],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "alone\n", done.stderr


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 6), {}),
        ((2, 6, 3, 5), {}),
        ((2, 7, 6), {"channel_dim": -1}),
        ((2, 6, 3), {"inplace": True}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_exported_module_takes_what_an_activation_takes_and_its_state_dict(
    shape: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype
) -> None:
    text = "mix(exp(x), scale(x))"
    act = Activation(text, 6, **options)
    for beta in act.beta:
        nn.init.normal_(beta)
    module = _executed(actsearch.export(text))["Activation"](6, **options)
    module.load_state_dict(act.state_dict())
    x = torch.randn(shape).to(dtype)
    assert torch.equal(module(x), act(x))
    assert module(x).dtype == dtype


# -- betas of a trained model

SWISH = "x * sigmoid(beta * x)"


class Trained(nn.Module):
    """Two Swishes whose betas have been learnt, a third layer with two betas a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.act1, self.act2 = Activation(SWISH, 3), Activation(SWISH, 3)
        self.other = Activation("scale(x) + scale(sin(x))", 3)
        for parameter in self.parameters():
            nn.init.normal_(parameter)


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, Trained]:
    torch.manual_seed(0)
    model = Trained()
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "model.pt")
    return tmp_path / "model.pt", model


def test_betas_of_a_trained_layer_are_exported_one_a_channel(
    weights: tuple[Path, Trained],
) -> None:
    path, model = weights
    given: Any = {"weights": path, "layer": "act2"}
    x = torch.randn(4, 3, 5)
    expected = model.act2(x).detach()
    betas = model.act2.beta[0].detach().numpy()

    module = _executed(actsearch.export("swish", **given))["Swish"]()
    assert torch.equal(module(x), expected)
    python = _executed(actsearch.export("swish", "python", **given))
    assert np.float32(python["BETA"]).tolist() == betas.tolist()
    assert python["swish"](2.0, python["BETA"][1]) == pytest.approx(
        model.act2(torch.full((1, 3), 2.0))[0, 1].item(), rel=1e-6
    )
    sympy = _executed(actsearch.export("swish", "sympy", **given))
    assert np.float32(next(iter(sympy["initial"].values()))).tolist() == betas.tolist()
    code = str(actsearch.export("swish", "c", **given))
    [numbers] = re.findall(r"swish_beta\[3\] = \{([^}]*)\}", code)
    assert np.float32([n.strip("f \n") for n in numbers.split(",")[:-1]]).tolist() == betas.tolist()


def test_betas_of_a_trained_layer_reach_jax_and_onnx(weights: tuple[Path, Trained]) -> None:
    path, model = weights
    pytest.importorskip("jax", reason="jax is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    x = torch.randn(4, 3, 5)
    expected = model.act2(x).detach().numpy()
    given: Any = {"weights": path, "layer": "act2"}
    swish = _executed(actsearch.export("swish", "jax", **given))["swish"]
    got = swish(x.movedim(1, -1).numpy())  # channels last
    np.testing.assert_allclose(np.moveaxis(np.asarray(got), -1, 1), expected, rtol=1e-5, atol=1e-6)
    model_file = actsearch.export("swish", "onnx", dims=3, **given)
    assert isinstance(model_file, bytes)
    np.testing.assert_allclose(_run_onnx(model_file, x.numpy()), expected, rtol=1e-5, atol=1e-6)


def test_one_value_for_all_channels_and_layers_stays_one_number(tmp_path: Path) -> None:
    model = nn.Sequential(Activation(SWISH, 3), Activation(SWISH, 8))
    _fill(model.parameters(), [0.3, 0.3])
    torch.save(model.state_dict(), tmp_path / "w.pt")
    text = str(actsearch.export("swish", weights=tmp_path / "w.pt"))
    assert "\nBETA = 0.3\n" in text
    assert "channels: int," in text


# -- formulas


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("swish", r"x \cdot \sigma\left(\beta x\right)"),
        ("scale(x) + scale(sin(x))", r"\beta_1 x + \beta_2 \sin\left(x\right)"),
        ("max(x, 0.01*x)", r"\max\left(x, 0.01 \cdot x\right)"),
        ("square(exp(x)) / (x - 1)", r"\frac{\left(e^{x}\right)^2}{x - 1}"),
        ("x - (x - -x)", r"x - \left(x - \left(-x\right)\right)"),
        ("1e-07 * x", r"1 \cdot 10^{-7} \cdot x"),
    ],
)
def test_latex_is_what_a_person_would_write(text: str, expected: str) -> None:
    assert actsearch.export(text, "latex") == expected + "\n"


@pytest.mark.thorough
def test_latex_is_typeset_on_one_line() -> None:
    mathtext = pytest.importorskip("matplotlib.mathtext", reason="matplotlib is not installed")
    parser = mathtext.MathTextParser("path")
    for case in FEW:
        line, end = case.exported("latex").split("\n")
        assert not end
        parser.parse(f"${line}$")


def test_a_module_says_which_of_its_arguments_matter() -> None:
    with_beta, without = (str(actsearch.export(name)) for name in ("swish", "relu"))
    assert "give channel_dim=-1" in with_beta
    assert "Takes any shape" in without
    assert "channel_dim=-1" not in without


def test_every_file_says_what_it_is_and_each_guard_what_it_does() -> None:
    assert {op.name for op in OPERATORS.values() if op.guarded is not None} == set(GUARDS)
    for to in set(EXPORTERS) - {"latex", "onnx"}:
        text = str(actsearch.export("exp(x) / x", to, operators="guarded"))
        for said in ("exp(x) / x", "div(exp(x), x)", "actsearch 0", "guarded.", GUARDS["exp"]):
            assert said in text, (to, said)
        plain = str(actsearch.export("exp(x) / x", to, operators="paper"))
        assert "guarded_" not in plain


# -- operators of the user's

WAVE = Op("wave", 1, lambda x: torch.where(x > 0.5, x.clamp(-1, 2), torch.log(x)))
GROW = Op("grow", 2, lambda a, b, beta: torch.sin(beta * a) / b, beta=0.5)
SORTED = Op("sorted_up", 1, lambda x: torch.sort(x).values)
OWN = UnitSpace(unary=[*UNARY, WAVE, SORTED], binary=[*BINARY, GROW], units=1)


def test_an_operator_of_the_users_becomes_a_function() -> None:
    text = "grow(wave(x), x)"
    expected = Activation(parse(text, (WAVE, GROW)), 1)(
        torch.tensor([[-1.0, 0.0, 0.3, 0.7, 9.0]]).T
    )
    x = [-1.0, 0.0, 0.3, 0.7, 9.0]
    expected = expected.detach().flatten().numpy()
    python = _executed(actsearch.export(text, "python", space=OWN))["activation"]
    np.testing.assert_allclose([python(v) for v in x], expected, rtol=1e-6)
    function = _executed(actsearch.export(text, "torch", space=OWN))["activation"]
    np.testing.assert_allclose(function(torch.tensor(x), 0.5), expected, rtol=1e-6)
    assert r"\mathrm{grow}\left(\mathrm{wave}\left(x\right), x, \beta\right)" in str(
        actsearch.export(text, "latex", space=OWN)
    )


# fmt: off
HARD = [
    Op("turn", 1, lambda x: torch.relu(torch.where(x > 1, 1 - x, x))),  # a choice in an argument
    Op("step", 1, lambda x: (x > 0) * x + (x <= -1)),  # comparisons as numbers
    Op("corner", 1, lambda x: torch.log(torch.abs(x) + x)),  # log of 0
    Op("below", 1, lambda x: torch.log(torch.abs(x) + -2.0)),  # log of what is negative
    Op("steep", 1, lambda x: torch.exp(x.clamp(max=1000.0)) + torch.sinh(x.clamp(-800.0, 800.0))),
    Op("fold", 1, lambda x: 1 / (x.clamp(min=0) - x.clamp(max=0))),  # 1 / |x|
]
# fmt: on


@pytest.mark.parametrize("op", HARD, ids=lambda op: op.name)
def test_an_operator_of_the_users_is_exported_as_it_is_computed(op: Op, tmp_path: Path) -> None:
    x = [-900.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0, 900.0]
    exact = op.fn(torch.tensor(x, dtype=torch.float64)).numpy()
    single = op.fn(torch.tensor(x)).numpy()
    expr = Expr(op, (X,))
    python = _executed(actsearch.export(expr, "python"))["activation"]
    np.testing.assert_allclose([python(v) for v in x], exact, rtol=EXACT)
    module = _executed(actsearch.export(expr, "torch"))["Activation"]()
    np.testing.assert_allclose(module(torch.tensor(x)), single, rtol=SINGLE)
    if (cc := compiler()) is None:
        return
    (tmp_path / "f.c").write_text(str(actsearch.export(expr, "c")))
    built = [str(cc), "-shared", "-fPIC", "-o", "f.so", "f.c", "-lm"]
    subprocess.run(built, cwd=tmp_path, check=True)
    function = ctypes.CDLL(str(tmp_path / "f.so")).activation
    function.restype = ctypes.c_float
    np.testing.assert_allclose([function(ctypes.c_float(v)) for v in x], single, rtol=1e-5)


def test_a_comparison_can_be_a_number_in_sympy_and_onnx() -> None:
    pytest.importorskip("sympy")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    step, x = next(op for op in HARD if op.name == "step"), [-3.0, -0.5, 0.0, 2.0]
    expected = step.fn(torch.tensor(x)).numpy()
    program = _executed(actsearch.export(Expr(step, (X,)), "sympy"))
    found = [float(program["activation"].subs(program["x"], v)) for v in x]
    np.testing.assert_allclose(found, expected, rtol=SINGLE)
    model = actsearch.export(Expr(step, (X,)), "onnx", dims=2)
    assert isinstance(model, bytes)
    np.testing.assert_allclose(_run_onnx(model, np.float32([x]))[0], expected)


@pytest.mark.parametrize(
    ("text", "operators"),
    [
        ("exp(x * abs(x))", "paper"),
        ("exp(x * exp(x))", "paper"),
        ("sinc(cube(cube(cube(x))))", "guarded"),
        ("exp(-x * x)", "paper"),
    ],
)
def test_python_is_infinite_or_nan_where_torch_is(text: str, operators: str) -> None:
    x = [-1e300, -1e10, -100.0, -0.0, 1.0, 100.0, 1e10, 1e300]
    act = Activation(text, operators=operators)
    python = _executed(actsearch.export(text, "python", operators=operators))["activation"]
    expected = act(torch.tensor(x, dtype=torch.float64)).detach().numpy()
    np.testing.assert_allclose([python(v) for v in x], expected, rtol=EXACT)


@pytest.mark.parametrize("to", ["torch", "c"])
def test_an_operator_that_no_primitives_make_up_is_refused_in_a_sentence(to: str) -> None:
    with pytest.raises(ValueError, match="operator sorted_up cannot be exported: sort has no prim"):
        actsearch.export("sorted_up(x)", to, space=OWN)


# -- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> actsearch.Run:
    """A finished search with the plain operators."""
    space = "units=1;unary=identity,exp;binary=add,mul"
    return actsearch.search(
        tmp_path_factory.mktemp("runs") / "a", space=space, operators="paper", steps=2,
        executor="inline", quiet=True,
    )  # fmt: skip


def test_a_rank_of_a_run_is_exported_in_the_runs_operator_set(
    run: actsearch.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run.leaderboard()[0]
    file = tmp_path / "best.py"
    assert cli.main(["export", f"{run.path}#1", "--to", "python", "-o", str(file)]) == errors.DONE
    assert capsys.readouterr().out == f"{file}\n"
    text = file.read_text()
    assert best.expression in text
    assert f"(rank 1 of {run.path.name})" in text  # and not where it lies on this machine
    assert "Operator set: paper." in text
    assert cli.main(["export", "relu", "--to", "latex"]) == errors.DONE
    assert capsys.readouterr().out == "\\max\\left(x, 0\\right)\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["RUN#99"], errors.NO_CANDIDATE, "has no rank 99; its ranks are 1 to "),
        (["RUN#x"], errors.USAGE, "is no RUN#RANK"),
        (["RUN#1", "--operators", "guarded"], errors.USAGE, "searched with the operator set paper"),
        (["BARE#1"], errors.USAGE, "has no config.json that says its operator set"),
        (["nowhere#1"], errors.RUN_UNAVAILABLE, "nowhere"),
        (["sinn(x)"], errors.USAGE, "Did you mean sin"),
        (["relu", "--name", "while"], errors.USAGE, "cannot be called 'while'"),
        (["relu", "--name", "Relu"], errors.USAGE, "cannot be called 'Relu'"),
        (["relu", "--from-weights", "WEIGHTS"], errors.USAGE, "has no beta"),
        (["swish", "--layer", "act1"], errors.USAGE, "give both"),
        (["swish", "--from-weights", "WEIGHTS"], errors.USAGE, "by --layer: act1, act2"),
        (["swish", "--from-weights", "WEIGHTS", "--layer", "act3"], errors.USAGE, "did you mean"),
        (["swish", "--from-weights", "WEIGHTS", "--to", "latex"], errors.USAGE, "betas by name"),
        (["swish", "--from-weights", "nowhere.pt"], errors.ENVIRONMENT, "cannot read nowhere.pt"),
        (["swish", "--from-weights", "TEXT"], errors.USAGE, "torch.save(model.state_dict(), FILE)"),
        (["mix(mix(x, sin(x)), beta)", "--from-weights", "WEIGHTS"], errors.USAGE, "with 3 betas"),
        (["relu", "-o", "nowhere/relu.py"], errors.ENVIRONMENT, "cannot write nowhere/relu.py"),
        (["sqrt(-1) * x", "--operators", "paper"], errors.USAGE, "is nan in the operator set"),
        (["relu", "--to", "onnx", "-o", "f", "--dims", "1"], errors.USAGE, "--dims 1 is too small"),
    ],
)
def test_what_cannot_be_exported_gets_a_sentence_and_its_exit_code(
    arguments: list[str], code: int, says: str, run: actsearch.Run,
    weights: tuple[Path, Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "text").write_text("not weights")
    shutil.copytree(run.path, tmp_path / "bare", ignore=shutil.ignore_patterns("config.json"))
    places = {
        "RUN": run.path,
        "BARE": tmp_path / "bare",
        "WEIGHTS": weights[0],
        "TEXT": tmp_path / "text",
    }
    for name, path in places.items():
        arguments = [a.replace(name, str(path)) for a in arguments]
    assert cli.main(["export", *arguments]) == code
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_onnx_wants_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "relu", "--to", "onnx"]) == errors.USAGE
    said = capsys.readouterr().err
    assert said.startswith("actsearch: --to onnx writes a binary file")
    assert said.endswith("-o swish.onnx\n")


def test_without_the_package_onnx_a_sentence_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(["export", "relu", "--to", "onnx", "-o", "relu.onnx"]) == errors.ENVIRONMENT
    assert "pip install onnx" in capsys.readouterr().err
