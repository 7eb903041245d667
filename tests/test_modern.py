"""Constants and start values as choices, and the functions of recent years as points of spaces."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from inspect import signature
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from actsearch.search_space.activation import Activation
from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.expression import Expr, formula
from actsearch.search_space.numbering import Digits
from actsearch.search_space.operators import UNARY
from actsearch.search_space.parser import parse
from actsearch.search_space.space import MODERN_UNARY, SPACES, space_from
from actsearch.search_space.units import UnitSpace, choice_name, digit_values

from . import oracle

T = torch.Tensor
CDF = "0.5*(1+erf(0.7071067811865476*x))"
Unit = tuple[str, str, str, str, str]  # input, unary, input, unary, binary
GELU: Unit = ("x", "identity", "x", CDF, "mul")
SQUARE: Unit = ("1", "identity", "1", "identity", "mul")
SHIFTED: Unit = ("x", "relu", "x", "shift", "mul")  # relu(x) (x + beta)
TIMES_X: Unit = ("x", "identity", "1", "identity", "mul")
TIMES_G: Unit = ("1", "identity", "g", "identity", "mul")


def digits_of(space: UnitSpace, units: list[Unit]) -> Digits:
    """Those of a candidate that is said in words; an input is x, g or the number of a unit."""
    unary = [choice_name(choice) for choice in space.unary]
    binary = [op.name for op in space.binary]
    found: list[int] = []
    for a, u, b, v, op in units:
        sources = [*space.inputs, *map(str, range(1, space.units))]
        second = sources.index(b) - (len(space.inputs) - 1 if space.units == 1 else 0)
        found += [sources.index(a), second, unary.index(u), unary.index(v), binary.index(op)]
    return tuple(found)


def same(name: str) -> Unit:
    """A unit that is one unary operator: max(a, a) = a."""
    return ("x", name, "x", name, "max")


# By name: the text, torch's or its authors' own, the space, and the units.
POINTS: dict[str, tuple[str, Callable[..., T], str, list[Unit]]] = {
    "relu2": ("relu(x)**2", lambda x: F.relu(x) ** 2, "modern-one",
              [("x", "relu", "x", "identity", "mul")]),
    "leaky_relu2": ("max(x, 0.5*x)**2", lambda x: F.leaky_relu(x, 0.5) ** 2, "modern-two",
                    [("x", "identity", "x", "0.5*x", "max"), SQUARE]),
    "asqu": ("x * max(x, beta[0.25]*x)", lambda x: torch.where(x > 0, x * x, 0.25 * x * x),
             "modern-two",
             [("x", "identity", "x", "beta[0.25]*x", "max"), TIMES_X]),
    "gelu": ("gelu(x)", F.gelu, "modern-one", [("x", "identity", "x", CDF, "mul")]),
    "silu": ("x * sigmoid(x)", F.silu, "modern-one", [("x", "identity", "x", "sigmoid", "mul")]),
    "swish": ("x * sigmoid(beta*x)", F.silu, "modern-two",
              [("x", "beta", "x", "identity", "mul"), ("x", "identity", "1", "sigmoid", "mul")]),
    "mish": ("mish(x)", F.mish, "modern-two",
             [same("softplus"), ("x", "identity", "1", "tanh", "mul")]),
    "serf": ("serf(x)", lambda x: x * torch.erf(F.softplus(x)), "modern-two",
             [same("softplus"), ("x", "identity", "1", "erf", "mul")]),
    "telu": ("telu(x)", lambda x: x * torch.tanh(torch.exp(x)), "modern-two",
             [same("exp"), ("x", "identity", "1", "tanh", "mul")]),
    "swiglu": ("x * sigmoid(x) * g", lambda x, g: F.silu(x) * g, "gates-two",
               [("x", "identity", "x", "identity", "gate"), TIMES_G]),
    "geglu": ("gelu(x) * g", lambda x, g: F.gelu(x) * g, "modern-gates",
              [("x", "identity", "x", CDF, "mul"), TIMES_G]),
    "reglu": ("relu(x) * g", lambda x, g: F.relu(x) * g, "gates",
              [("x", "relu", "g", "identity", "mul")]),
    "bilinear": ("x * g", lambda x, g: x * g, "gates", [("x", "identity", "g", "identity", "mul")]),
    "singlu": ("sin(x) * g", lambda x, g: x.sin() * g, "gates",
               [("x", "sin", "g", "identity", "mul")]),
}  # fmt: skip

# What needs more, with a choice that `modern-two` has not.
PI = f"{math.pi!r}*x"
BEYOND: dict[str, tuple[str, Callable[..., T], str, list[Unit]]] = {
    "golu": ("golu(x)", lambda x: x * torch.exp(-torch.exp(-x)), "x+1",
             [("x", "0.5*x", "x", "identity", "sub"), ("1", "exp", "1", "exp", "max"),
              ("x", "identity", "2", "gauss", "mul")]),
    "gelu + 0.1 sin": ("gelu(x) + 0.1*sin(x)", lambda x: F.gelu(x) + 0.1 * x.sin(), "x+1",
                       [("x", "identity", "x", CDF, "mul"), same("sin"),
                        ("1", "identity", "2", "0.1*x", "add")]),
    "smooth relu2": ("0.1*x * exp(asinh(5*x))", lambda x: x * (x + (x * x + 0.04).sqrt()) / 2,
                     "5*x",
                     [same("5*x"), ("1", "asinh", "1", "asinh", "max"),
                      ("x", "0.1*x", "2", "exp", "mul")]),
    "gelu-sinc": (f"gelu(x) * (1 + 0.5*sinc({PI}))", lambda x: F.gelu(x) * (1 + 0.5 * x.sinc()), PI,
                  [GELU, same(PI), ("1", "identity", "2", "sinc", "mul"),
                   ("1", "identity", "3", "0.5*x", "add")]),
}  # fmt: skip

# What has parameters: the authors' function of x and these, the betas that are as good, in the
# order in which they are read, and the units.
Betas = Callable[..., list[float]]
TRAINED: dict[str, tuple[Callable[..., T], Betas, list[Unit]]] = {
    "xsilu": (lambda x, a: x * ((1 + 2 * a) * x.sigmoid() - a), lambda a: [-2 * a],
              [("x", "identity", "x", "sigmoid", "mul"), ("x", "0.5*x", "1", "identity", "mix")]),
    "xgelu": (lambda x, a: (1 + 2 * a) * F.gelu(x) - a * x, lambda a: [-2 * a],
              [GELU, ("x", "0.5*x", "1", "identity", "mix")]),
    "xatlu": (lambda x, a: x * ((1 + 2 * a) * (x.atan() / math.pi + 0.5) - a),
              lambda a: [(1 + 2 * a) / math.pi],
              [("x", "identity", "x", "atan", "mul"), ("x", "0.5*x", "1", "scale", "add")]),
    "polyrelu of degree 2": (lambda x, a, b, c: a + b * F.relu(x) + c * F.relu(x) ** 2,
                             lambda a, b, c: [b / c, c, a],
                             [SHIFTED, ("x", "beta", "1", "scale", "add")]),
    "polyrelu of degree 3": (lambda x, a, b, c, d: a + sum(
                                 f * F.relu(x) ** k for k, f in enumerate((b, c, d), 1)),
                             lambda a, b, c, d: [c / d, b / d, d, a],
                             [SHIFTED, ("x", "relu", "1", "shift", "mul"),
                              ("x", "beta", "2", "scale", "add")]),
}  # fmt: skip


def check(space: UnitSpace, text: str, authors: Callable[..., T], units: list[Unit]) -> None:
    """The point that the units say has the authors' values, and is the function of the text."""
    found = space.decode(digits_of(space, units)).canonical("guarded")
    inputs = torch.linspace(-8, 8, 321, dtype=torch.float64)
    given = (inputs, inputs.flip(0).roll(40))[: len(found.expr.inputs)]
    torch.testing.assert_close(
        Activation(found.expr)(*given), authors(*given), rtol=1e-9, atol=1e-9
    )
    typed = candidate_from(text).canonical("guarded")
    assert same_function(found.expr, typed.functions[0])


@pytest.mark.parametrize("name", POINTS)
def test_a_function_of_recent_years_is_a_point(name: str) -> None:
    text, authors, space, units = POINTS[name]
    check(SPACES[space], text, authors, units)


@pytest.mark.parametrize("name", BEYOND)
def test_a_function_beyond_two_units_is_one_of_more(name: str) -> None:
    text, authors, choice, units = BEYOND[name]
    unary = dict.fromkeys((*MODERN_UNARY, parse(choice)))
    check(UnitSpace(tuple(unary), units=len(units)), text, authors, units)


def test_smooth_relu2_is_that_of_its_name_where_no_guard_holds_exp() -> None:
    short, known = parse("0.1*x * exp(asinh(5*x))"), parse("smooth_relu2")
    assert same_function(canonical(short, "paper"), canonical(known, "paper"), "paper")


@pytest.mark.parametrize("name", TRAINED)
def test_a_function_with_parameters_is_a_point_at_all_their_values(name: str) -> None:
    authors, betas, units = TRAINED[name]
    space = UnitSpace(MODERN_UNARY, units=len(units))
    act = Activation(space.decode(digits_of(space, units)).canonical("guarded").expr).double()
    x, chance = torch.linspace(-8, 8, 321, dtype=torch.float64), random.Random(0)
    for _ in range(20):
        own = [chance.uniform(-3, 3) for _ in signature(betas).parameters]
        for parameter, value in zip(act.beta, betas(*own), strict=True):
            torch.nn.init.constant_(parameter, value)
        torch.testing.assert_close(act(x), authors(x, *own), rtol=1e-9, atol=1e-9)


def test_the_papers_spaces_keep_their_sizes_and_the_new_ones_have_theirs() -> None:
    sizes = {name: space.size for name, space in SPACES.items()}
    assert sizes == {
        "tiny": 192, "one-unit": 6250, "two-units": 156_250_000,
        "three-units": 8_789_062_500_000, "gates": 6250, "gates-two": 1_406_250_000,
        "modern-one": 31 * 31 * 10, "modern-two": (31 * 31 * 10) ** 2 * 4,
        "modern-gates": (31 * 31 * 10) ** 2 * 36,
    }  # fmt: skip
    assert SPACES["modern-one"].unary[: len(UNARY)] == UNARY


# -- constants


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("2 * (3 * x)", "mul(6, x)"),
        ("(x + 1) + 2", "add(3, x)"),
        ("0.5 * (2 * sin(x))", "sin(x)"),
        ("(x + 1) - 1", "sub(add(1, x), 1)"),
        ("2 + (x - 2)", "add(2, sub(x, 2))"),
        ("beta * (2 * x)", "scale(mul(2, x))"),  # says how fast beta learns
        ("1e200 * (1e200 * x)", "mul(1e+200, mul(1e+200, x))"),  # no number is that large
    ],
)
def test_constants_in_a_row_are_one(text: str, form: str) -> None:
    found = canonical(parse(text))
    assert str(found) == form
    assert canonical(found) == found
    for x in (-3.7, 0.2, 5.5):
        one, other = (oracle.value(e, x, [1.0] * e.betas) for e in (parse(text), found))
        assert math.isclose(one, other, rel_tol=1e-12)


def test_what_rules_leave_of_constants_values_merge() -> None:
    for one, other in (("(x + 1) - 1", "x"), ("relu(0.5 * x)", "0.5 * relu(x)")):
        assert same_function(canonical(parse(one)), canonical(parse(other)))


# -- choices


def test_a_choice_may_be_a_formula_of_x_and_a_space_is_made_again_from_its_text() -> None:
    text = "units=1;unary=identity,0.5*x,x+1,beta[0.25]*x,max(x,0.5*x),silu(x);binary=mul"
    space = space_from(text)
    assert space.size == 36
    assert space_from(space.spec) == space
    keys = {space.decode(space.digits(i)).key for i in range(space.size)}
    assert "mul(scale[0.25](x), max(x, mul(0.5, x)))" in keys
    assert {"scale", "max", "mul", "sigmoid"} <= {op.name for op in space.operators}
    both = space_from(f"{text}+gates")
    assert space_from(both.spec) == both


def test_a_sum_is_a_formula_wherever_the_choices_stand() -> None:
    parts = ("units=1", "binary=mul", "unary=identity,x+beta")
    first, *others = (space_from(";".join(order)) for order in permutations(parts))
    assert all(other == first for other in others)
    assert space_from("units=2+tiny").size == 2 * space_from("units=2").size


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("sin(g)", r"sin\(g\) cannot be a unary choice: write one in x alone"),
        ("0.5*y", "unknown function 'y'"),
        ("sine", "did you mean 'sin'"),
        ("sin(x", r"expected '\)'"),
        ("x+1,x+1", "each once"),
    ],
)
def test_a_wrong_choice_is_answered_with_a_way_out(choice: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        space_from(f"units=1;unary=identity,{choice};binary=add")


def test_values_of_digits_are_those_of_the_expressions() -> None:
    space, chance = SPACES["modern-two"], np.random.default_rng(0)
    digits = np.array([[chance.integers(r) for r in space.radices] for _ in range(60)])
    points = torch.linspace(-3, 3, 13, dtype=torch.float64)
    for row, values in zip(digits, digit_values(space, digits, points), strict=True):
        [batch] = curves([space.decode(row).expr], points)
        torch.testing.assert_close(values, batch.value[0, 0])


def test_a_canonical_form_with_constants_has_the_values_of_what_it_is_of() -> None:
    """In 50 digits, at the initial betas."""
    space, chance = SPACES["modern-two"], random.Random(0)
    for _ in range(150):
        expr: Expr = space.decode(space.digits(chance.randrange(space.size))).expr
        form = canonical(expr)
        for x in (chance.uniform(-9, 9), chance.uniform(-1, 1)):
            betas = [[n.beta for n in e.walk() if n.beta is not None] for e in (expr, form)]
            one, other = (oracle.value(e, x, b) for e, b in zip((expr, form), betas, strict=True))
            assert abs(one - other) <= 1e-12 * max(1, abs(one)), formula(expr)
