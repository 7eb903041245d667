"""Every operator against 50-digit arithmetic: values and gradients, every precision, both sets."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from mpmath import mpf

from actsearch.search_space.activation import Activation
from actsearch.search_space.expression import Expr, X
from actsearch.search_space.operators import BINARY, UNARY, Op
from actsearch.search_space.parser import parse
from actsearch.search_space.text import OPERATOR_SETS

from . import oracle
from .conftest import case

BETA = 0.75
OTHERS = [-3.1, -0.4, 0.6, 2.7]  # second arguments of binary operators
CANCELLING = {"sub", "add", "shift", "mix", "log_abs", "sin", "cos", "rbf", "laplace", "gauss"}
EVERY = (*UNARY, *BINARY)
ORDINARY = [s * v for v in (1e-30, 1e-6, 1e-3, 0.3, 1.0, 3.0, 10.0, 100.0, 1e4) for s in (1, -1)]
UNITS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}
MIDDLE = [-30.0, -9.5, -2.5, -1.0, -0.125, 0.0, 1e-4, 0.25, 1.0, 1.5, 4.0, 9.0, 31.0]
FAR = [s * 10.0**e for e in (-38, -30, -10, -4, 2, 3, 5, 9, 15, 30, 38) for s in (-1, 1)]


def applied(op: Op, other: float = 0.0) -> Expr:
    """The operator on x, and on a number as its second argument; beta starts at BETA."""
    beta = BETA if op.beta is not None and op.beta != BETA else None
    args = {0: (), 1: (X,), 2: (X, parse(repr(other)))}[op.arity]
    return Expr(op, args, beta)


def others(op: Op) -> list[float]:
    return OTHERS if op.arity == 2 else [0.0]


def exact(expr: Expr, x: float, operators: str) -> mpf | None:
    """The value in 50 digits, None where it is no real number."""
    try:
        value = oracle.value(expr, mpf(x), [BETA] * expr.betas, operators)
    except (ZeroDivisionError, ValueError):
        return None
    return value if isinstance(value, mpf) and mpmath.isfinite(value) else None


def slope(expr: Expr, x: float, operators: str) -> mpf | None:
    h = mpf(10) ** -20
    values = [exact(expr, mpf(x) + s * h, operators) for s in (-1, 1)]
    if any(v is None for v in values):
        return None
    return (values[1] - values[0]) / (2 * h)


def module(expr: Expr, operators: str, dtype: torch.dtype) -> Activation:
    built = Activation(expr, 1, operators=operators)
    return built.double() if dtype == torch.float64 else built


@pytest.mark.parametrize("operators", OPERATOR_SETS)
@pytest.mark.parametrize("dtype", UNITS, ids=lambda dtype: str(dtype)[6:])
def test_values_are_right_to_the_last_digits_over_the_range_of_every_precision(
    operators: str, dtype: torch.dtype
) -> None:
    for op in EVERY:
        with case(op.name):
            assert_values_are_right(op, operators, dtype)


def assert_values_are_right(op: Op, operators: str, dtype: torch.dtype) -> None:
    unit, largest = UNITS[dtype], torch.finfo(dtype).max
    checked = 0
    for other in others(op):
        expr = applied(op, other)
        x = torch.tensor([v for v in MIDDLE + FAR if abs(v) <= largest], dtype=dtype)[:, None]
        found = module(expr, operators, dtype)(x)[:, 0].double()
        for value, got in zip(x[:, 0].double().tolist(), found.tolist(), strict=True):
            expected = exact(expr, value, operators)
            if expected is None:
                assert not math.isfinite(got), f"{expr} at {value} is {got}"
            elif not math.isfinite(got):
                assert operators == "paper" or abs(expected) > largest
            elif abs(expected) <= largest:
                bound = 8 * unit * scale_of(expr, value, other, operators, expected)
                assert abs(got - float(expected)) <= bound, f"{expr} at {value}: {got}, {expected}"
                checked += 1
    assert checked >= len(MIDDLE) // 2


def scale_of(expr: Expr, x: float, other: float, operators: str, value: mpf) -> float:
    """What a rounding error is relative to: the value, what the input's last digit moves, and the
    terms of the formula."""
    moved = slope(expr, x, operators)
    terms = abs(x) + abs(other) + 1.0 if expr.op.name in CANCELLING else 1e-3
    if expr.op.name == "softplus" and operators == "paper":
        terms = 1.0
    shift = 0.0 if moved is None else min(abs(float(moved) * x), 1e300)
    return abs(float(value)) + shift + terms


@pytest.mark.parametrize("operators", OPERATOR_SETS)
@pytest.mark.parametrize("dtype", UNITS, ids=lambda dtype: str(dtype)[6:])
def test_gradients_are_those_of_the_formula_in_every_precision(
    operators: str, dtype: torch.dtype
) -> None:
    for op in EVERY:
        with case(op.name):
            assert_gradients_are_right(op, operators, dtype)


def assert_gradients_are_right(op: Op, operators: str, dtype: torch.dtype) -> None:
    wanted = [-7.3, -2.1, -0.7, 0.35, 1.9, 6.1, -90.0, 70.0, -1e3, 3e4, 1e-3, -2e-5]
    for other in others(op):
        expr = applied(op, other)
        points = torch.tensor(wanted, dtype=dtype)[:, None].requires_grad_()
        y = module(expr, operators, dtype)(points)
        if not y.requires_grad or op.name == "beta":
            continue
        [found] = torch.autograd.grad(y.sum(), points)
        pairs = zip(points[:, 0].double().tolist(), found[:, 0].double().tolist(), strict=True)
        for value, got in pairs:
            expected = slope(expr, value, operators)
            if expected is None or abs(expected) > torch.finfo(dtype).max or _steep(op, value):
                continue
            if not math.isfinite(got):
                assert operators == "paper", (expr, value)
                continue
            wide = dtype in (torch.float32, torch.float64)  # 16 bits are computed in float32
            tolerance = UNITS[dtype] * (256 * (1 + abs(value)) if wide else 4)
            bound = tolerance * max(1.0, abs(float(expected)))
            if op.name == "sinc":  # torch's derivative subtracts nearly equal terms close to 0
                bound += 8 * UNITS[dtype] / abs(value)
            assert abs(got - float(expected)) <= bound, (expr, value, got, float(expected))


def _steep(op: Op, x: float) -> bool:
    """Where the last digit of the input already changes the gradient beyond recognition."""
    return op.name in ("sin", "cos", "sinc", "cube", "square") and abs(x) > 50


@pytest.mark.parametrize("operators", OPERATOR_SETS)
def test_gradcheck_in_double_precision(operators: str) -> None:
    for op in EVERY:
        with case(op.name):
            assert_gradcheck(op, operators)


def assert_gradcheck(op: Op, operators: str) -> None:
    x = torch.tensor([[0.31, 1.7], [0.9, 2.6]], dtype=torch.float64, requires_grad=True)
    if operators == "guarded" and op.name not in ("sqrt", "log_abs"):
        x = (x.detach() * torch.tensor([1.0, -1.0], dtype=torch.float64)).requires_grad_()
    built = Activation(applied(op, 0.52), 2, operators=operators).double()
    inputs = (x, *built.beta)
    assert torch.autograd.gradcheck(lambda x, *betas: built(x), inputs, check_undefined_grad=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_ordinary_input_makes_a_guarded_operator_or_its_gradient_infinite(
    dtype: torch.dtype,
) -> None:
    for op in EVERY:
        with case(op.name):
            assert_finite(op, dtype)


def assert_finite(op: Op, dtype: torch.dtype) -> None:
    for other in others(op) + ([0.0, 1e-5] if op.arity == 2 else []):
        x = torch.tensor([0.0, *ORDINARY], dtype=dtype)[:, None]
        if dtype == torch.float16:  # x^3 of 1e4 is beyond float16, whatever computes it
            x = x[x.abs() <= 10][:, None]
        x.requires_grad_()
        y = Activation(applied(op, other), 1)(x)
        assert torch.isfinite(y).all()
        if y.requires_grad and op.name != "beta":
            [gradient] = torch.autograd.grad(y.float().sum(), x)
            assert torch.isfinite(gradient.float()).all()


@pytest.mark.parametrize(
    ("text", "x", "expected"),
    [("sqrt(x)", -1.0, math.nan), ("exp(x)", 100.0, math.inf), ("cosh(x)", 100.0, math.inf),
     ("softplus(x)", 100.0, math.inf), ("1 / (x - 1)", 1.0, 1e7)],
)  # fmt: skip
def test_the_paper_set_keeps_the_hazards_of_the_plain_formulas(
    text: str, x: float, expected: float
) -> None:
    found = float(Activation(text, 1, operators="paper")(torch.tensor([[x]])))
    assert found == pytest.approx(expected, nan_ok=True)


def gradient_at(text: str, x: float) -> float:
    point = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
    Activation(text, 1)(point).sum().backward()
    assert point.grad is not None
    return float(point.grad)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("relu(x)", 0.0), ("min0(x)", 0.0), ("abs(x)", 0.0), ("sinc(x)", 0.0), ("sqrt(x)", 0.0),
     ("max(x, 2*x)", 1.5), ("min(x, sin(x))", 1.0), ("max(x, tanh(x))", 1.0)],
)  # fmt: skip
def test_gradients_at_kinks_and_ties_are_the_documented_ones(text: str, expected: float) -> None:
    assert gradient_at(text, 0.0) == expected


def test_sinc_is_the_unnormalised_one() -> None:
    x = torch.tensor([[0.0], [math.pi], [math.pi / 2]], dtype=torch.float64)
    found = Activation("sinc(x)", 1)(x)[:, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 2 / math.pi]).double())


def test_there_are_the_papers_25_unary_and_10_binary_operators() -> None:
    assert (len(UNARY), len(BINARY)) == (25, 10)
    assert {op.name for op in (*UNARY, *BINARY)} == oracle.PLAIN.keys() == oracle.GUARDED.keys()
    assert sum(op.beta is not None for op in UNARY) == 3
    assert sum(op.beta is not None for op in BINARY) == 3


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in BINARY])
def test_commutative_is_said_of_the_operators_that_are(op: Op) -> None:
    a, b = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    beta = [torch.tensor(0.3)] if op.beta is not None else []
    for operators in OPERATOR_SETS:
        fn = op.form(operators)
        assert torch.allclose(fn(a, b, *beta), fn(b, a, *beta)) == op.commutative
