"""Screening and properties, against functions whose verdict is known by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from actsearch.results.filters import where
from actsearch.results.leaderboard import PROPERTIES
from actsearch.results.records import Cause
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.properties import NAMES, properties
from actsearch.search_space.analysis.screening import Flaw, Rejection, screen, screens
from actsearch.search_space.baselines import BASELINES
from actsearch.search_space.candidate import OneFunction, candidate_from
from actsearch.search_space.operators import Op
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES
from actsearch.search_space.survey import describe


def flaw(found: Rejection | None) -> str:
    return "" if found is None else found.flaw


def test_every_flaw_is_a_cause() -> None:
    causes = {cause.name: cause.value for cause in Cause}
    assert {flaw.name: flaw.value for flaw in Flaw}.items() < causes.items()


@pytest.mark.parametrize(
    ("text", "operators", "kind"),
    [
        ("sqrt(x)", "paper", "value not finite"),
        ("x * sqrt(x)", "paper", "value not finite"),
        ("cosh(x)**3 * exp(x)**3 * exp(x)**3 * exp(x)", "paper", "value not finite"),
        ("sqrt(relu(x))", "paper", "gradient not finite"),
        ("x - x", "paper", "constant"),
        ("beta", "guarded", "constant"),
        ("sigmoid(beta)", "guarded", "constant"),
        ("relu(sin(x) - 2)", "guarded", "constant"),
        ("x", "guarded", "affine in x"),
        ("-3 * x + 2", "guarded", "affine in x"),
        ("scale(x) + shift(x)", "guarded", "affine in x"),
        ("mix(x, -x)", "guarded", "affine in x"),
        ("relu(x) + min0(x)", "guarded", "affine in x"),
        ("min(relu(-x), relu(x)) + x * 0 + relu(1000*x - 9990)", "guarded", "no gradient"),
    ],
)
def test_what_is_not_worth_a_training_is_rejected_for_its_reason(
    text: str, operators: str, kind: str
) -> None:
    assert flaw(screen(parse(text), operators)) == kind


@pytest.mark.parametrize("operators", ["paper", "guarded"])
@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_is_rejected(name: str, operators: str) -> None:
    assert screen(parse(name), operators) is None


@pytest.mark.parametrize(
    "text",
    ["x*sigmoid(beta*x)", "max(x, sigmoid(x))", "cos(x) - x", "min(x, sin(x))", "atan(x)**2 - x",
     "max(x, tanh(x))", "sinc(x) + x", "x * asinh(x)**2", "erf(x) * x", "max(x, beta)", "sin(x)"],
)  # fmt: skip
def test_the_papers_winners_pass(text: str) -> None:
    assert screen(parse(text)) is None


def test_a_reason_says_where() -> None:
    assert str(screen(parse("sqrt(x)"), "paper")) == "value nan at x = -10"
    assert re.search("x = (0|-10)", str(screen(parse("sqrt(relu(x))"), "paper")))


def test_a_narrow_precision_rejects_what_overflows_in_it() -> None:
    expr = parse("cube(cube(x)) * cube(cube(x)) * cube(cube(cube(x)))")
    assert screen(expr, "paper", torch.float64) is None
    assert flaw(screen(expr, "paper", torch.float32)) == "value not finite"


def test_nothing_in_the_guarded_one_unit_space_is_not_finite() -> None:
    kinds = {flaw(rejection) for _, rejection in screens(SPACES["one-unit"]) if rejection}
    assert kinds == {"affine in x", "constant", "no gradient"}


def of(text: str) -> dict[str, Any]:
    return next(properties([parse(text)])).to_dict()


KNOWN = {
    "relu": dict(smooth=False, monotonic="increasing", bounded_below=True, bounded_above=False,
                 parity="no", at_0=0.0, slope_at_0=0.0, minimum=0.0, slope_left=0.0,
                 slope_right=1.0, operators=1, betas=0),
    "swish": dict(smooth=True, monotonic="no", bounded_below=True, bounded_above=False, parity="no",
                  at_0=0.0, slope_at_0=0.5, slope_left=0.0, slope_right=1.0, operators=3, betas=1),
    "tanh(x)": dict(smooth=True, monotonic="increasing", bounded_below=True, bounded_above=True,
                    parity="odd", slope_at_0=1.0, slope_left=0.0, slope_right=0.0),
    "x**2": dict(smooth=True, monotonic="no", bounded_below=True, bounded_above=False,
                 parity="even", minimum=0.0, slope_left=None, slope_right=None),
    "cos(x) - x": dict(smooth=True, monotonic="decreasing", bounded_below=False,
                       bounded_above=False, at_0=1.0, slope_at_0=-1.0, slope_left=-1.0),
    "sin(x)": dict(bounded_below=True, bounded_above=True, parity="odd", minimum=-1.0),
    "x * sin(x)": dict(bounded_below=False, bounded_above=False, parity="even", slope_right=None),
    "elu": dict(smooth=True, slope_at_0=1.0, monotonic="increasing"),
    "selu": dict(smooth=False),
    "relu(x)**2": dict(smooth=True),
    "max(x, sigmoid(x))": dict(smooth=False, at_0=0.5, slope_at_0=0.25),
    "softplus": dict(smooth=True, at_0=pytest.approx(math.log(2), abs=1e-5), slope_at_0=0.5),
    "log_abs(x)": dict(bounded_above=False, bounded_below=True, parity="even", smooth=False),
}  # fmt: skip


@pytest.mark.parametrize("text", KNOWN)
def test_properties_of_known_functions(text: str) -> None:
    found = of(text)
    assert {name: found[name] for name in KNOWN[text]} == KNOWN[text]


def test_the_minimum_of_swish_1_is_the_published_one() -> None:
    assert of("swish-1")["minimum"] == pytest.approx(-0.27846, abs=1e-5)


def test_tables_know_the_same_properties_as_the_search_space() -> None:
    assert PROPERTIES == NAMES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("relu(x)", (2 * math.pi) ** -0.5 / (0.5 - 1 / (2 * math.pi)) ** 0.5),
        ("x * x", 1 / 2**0.5),
        ("exp(x)", (math.e - 1) ** -0.5),
        ("sin(x)", 0.0),
        ("x + 0 * x", 0.0),
    ],
)
def test_the_mean_shift_is_that_of_a_standard_normal(text: str, expected: float) -> None:
    """By hand: E relu(z) = (2 pi)^-1/2 and E relu(z)^2 = 1/2; z^2 has 1 and 3; exp(z) is
    log-normal."""
    [found] = properties([parse(text)])
    assert found.mean_shift == pytest.approx(expected, abs=2e-6)


def test_a_constant_has_no_mean_shift() -> None:
    [found] = properties([parse("x - x")])
    assert found.mean_shift is None


def test_a_description_holds_all_that_is_known_before_training() -> None:
    found = describe(candidate_from("x * sigmoid(x)"))
    assert found.candidate.key == "mul(x, sigmoid(x))"
    assert found.candidate.formula == "x * sigmoid(x)"
    assert found.rejected is None
    assert found.properties["monotonic"] == "no"
    assert found.name == "silu"


class Custom(torch.autograd.Function):
    """An operator whose author wrote a backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return 2 * gradients[0]


def test_an_operator_is_looked_at_with_the_derivative_that_its_author_wrote() -> None:
    op = Op("custom", 1, lambda x: Custom.apply(x))
    assert describe(candidate_from("custom(x)", [op])).properties["slope_at_0"] == 2.0
    assert describe(candidate_from("custom(x)", [op])).properties["at_0"] == 0.0


def test_an_operator_that_was_defined_anew_is_looked_at_anew() -> None:
    for function, rejected in ((torch.zeros_like, "constant"), (torch.sin, "None")):
        op = Op("wave", 1, function)
        candidate = OneFunction(canonical(parse("wave(x)", [op])))
        assert candidate.expr.op is op
        assert str(describe(candidate).rejected) == rejected


def _float32_only(x: torch.Tensor) -> torch.Tensor:
    if x.dtype != torch.float32:
        raise TypeError("float32 only")
    return torch.sin(x)


def test_an_operator_that_cannot_be_looked_at_is_searched_all_the_same() -> None:
    op = Op("single", 1, _float32_only)
    one, two = (describe(candidate_from(text, [op])) for text in ("single(x)", "x * single(x)"))
    assert one.rejected is two.rejected is None
    assert one.properties == {}
    assert one.fingerprint.key != two.fingerprint.key


ROWS = [
    {"formula": "a", "val accuracy": 0.9, "betas": 0, "smooth": True, "slope_left": None},
    {"formula": "b", "val accuracy": 0.5, "betas": 2, "smooth": False, "slope_left": 1.0},
    {"formula": "c", "val accuracy": None, "betas": 1, "smooth": True, "slope_left": 0.0},
]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", "abc"),
        ("betas<=1", "ac"),
        ("smooth=yes", "ac"),
        ("smooth=no", "b"),
        ("val_accuracy>0.6", "a"),
        ("val_accuracy>=0.5, betas>1", "b"),
        ("slope_left=none", "a"),
        ("slope_left!=none", "bc"),
        ("formula=b", "b"),
        ("formula != b", "ac"),
        ("val accuracy>=0.5, betas>1", "b"),
        ("Accuracy>=0.5, betas>1", "b"),
        ("smooth=NO", "b"),
    ],
)
def test_filters_keep_the_rows_for_which_every_condition_holds(text: str, kept: str) -> None:
    assert "".join(row["formula"] for row in where(text, ROWS)) == kept


def test_a_filter_knows_scores_by_their_own_names() -> None:
    rows = [{"val r2": 0.1, "val R2": 0.9, "val cost": 0.5, "x relu": 1.5, "val top-5 (%)": 0.7}]
    assert where("R2>0.5, cost<1, top-5 (%)>=0.7", rows) == rows
    assert where("r2>0.5", rows) == []
    assert where("cost<1", [{"x relu": 1.5}]) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("beta<=1", "did you mean 'betas'"),
        ("betas", "no condition"),
        ("betas<=x", "no number"),
        ("smooth=maybe", "neither yes nor no"),
        ("'; DROP TABLE--", "no condition"),
    ],
)
def test_a_filter_that_cannot_be_read_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        where(text, ROWS)
