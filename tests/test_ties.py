"""Betas that have a name are one parameter: in text, values, kernels, exports, and in the units of
a space that are used twice."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import actsearch
from actsearch.controller.strategies import STRATEGIES
from actsearch.errors import UsageError
from actsearch.search_space.activation import Activation
from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.fingerprint import fingerprint
from actsearch.search_space.candidate import OneFunction, candidate_from
from actsearch.search_space.expression import Expr, at_betas, formula
from actsearch.search_space.kernels.tracing import trace
from actsearch.search_space.operators import is_tied
from actsearch.search_space.parser import ParseError, parse
from actsearch.search_space.space import SPACES, space_from, with_ties
from actsearch.search_space.units import UnitSpace

from . import oracle

XSILU = "x * ((1 + 2*beta_a[0.1])*sigmoid(x) - beta_a)"  # Huang 2024, arXiv:2405.20768


def test_a_beta_with_a_name_is_one_parameter_wherever_it_stands() -> None:
    act = Activation(XSILU, 3)
    assert [tuple(beta.shape) for beta in act.beta] == [(3,)]
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    act.double()
    y = act(x)
    gate, a = torch.sigmoid(x), act.beta[0]
    torch.testing.assert_close(y, x * ((1 + 2 * a) * gate - a))
    y.sum().backward()
    assert act.beta[0].grad is not None
    torch.testing.assert_close(act.beta[0].grad, (x * (2 * gate - 1)).sum(0))
    assert formula(act) == "x * ((1 + 2 * 0.1) * sigmoid(x) - 0.1)"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (XSILU, "mul(x, sub(mul(sigmoid(x), add(1, mul(2, beta_a[0.1]))), beta_a[0.1]))"),
        ("sin(beta_z*x) + x*beta_z", "add(mul(beta_a, x), sin(mul(beta_a, x)))"),
        ("sin(beta_z * x)", "sin(scale(x))"),  # a name that stands once is none
        ("tanh(beta_a*x) + tanh(beta_a*x)", "mul(2, tanh(scale(x)))"),
        ("tanh(beta_a*x) + tanh(beta_b*x)", "add(tanh(scale(x)), tanh(scale(x)))"),
        ("max(beta_q*g, sin(beta_q)*x)", "max(mul(x, sin(beta_a)), mul(beta_a, g))"),
    ],
)
def test_a_canonical_form_has_names_in_their_order_and_reads_back(text: str, form: str) -> None:
    found = canonical(parse(text))
    assert str(found) == form
    assert canonical(found) == found
    assert parse(str(found)) == found
    assert canonical(parse(formula(found))) == found


def test_two_initial_values_of_one_name_get_a_sentence() -> None:
    assert parse("beta_a[2] * x + beta_a").initial == (2.0,)
    with pytest.raises(ParseError, match="beta_a starts at 1 before, and at 2 here at column 23"):
        parse("beta_a * x + beta_a[2]")


def test_functions_that_share_a_beta_differ_from_those_that_do_not() -> None:
    tied, apart = (
        canonical(parse(t)) for t in ("beta_a*x + sin(beta_a*x)", "beta*x + sin(beta*x)")
    )
    assert (tied.betas, apart.betas) == (1, 2)
    assert fingerprint(tied).key != fingerprint(apart).key
    assert not same_function(tied, apart)
    other = canonical(parse("sin(x*beta_b) - (-x)*beta_b"))
    assert other == tied or same_function(other, tied)


def tied_candidates(n: int, space: str = "two-units-tied") -> list[tuple[Expr, Expr]]:
    """Candidates that share betas, and the same without ties."""
    ties, plain = space_from(space), space_from(space.removesuffix("-tied"))
    chance, found = random.Random(0), []
    while len(found) < n:
        digits = ties.digits(chance.randrange(ties.size))
        one, other = (s.decode(digits).functions[0] for s in (ties, plain))
        if one.names:
            found.append((one, other))
    return found


def test_uses_of_a_unit_compute_what_they_do_without_ties_where_betas_are_equal() -> None:
    """In 50 digits, at the initial betas."""
    for tied, apart in tied_candidates(40):
        x = random.Random(str(tied)).uniform(-3, 3)
        one = oracle.value(tied, x, tied.initial)
        other = oracle.value(apart, x, apart.initial)
        assert abs(one - other) <= 1e-12 * max(1, abs(one)), tied
        form = canonical(tied)
        again = oracle.value(form, x, form.initial)
        assert abs(one - again) <= 1e-12 * max(1, abs(one)), tied


@pytest.mark.parametrize("kernels", ["eager", "generated"])
def test_named_betas_learn_by_the_sum_of_their_gradients(kernels: str) -> None:
    x = torch.randn(40, 4, generator=torch.manual_seed(0)) * 2
    for tied, _ in tied_candidates(12):
        expr = canonical(tied)
        act = Activation(expr, 4, kernels=kernels)
        act(x).square().mean().backward()
        exact = Activation(expr, 4).double()
        exact(x.double()).square().mean().backward()
        assert len(act.beta) == expr.betas == len(trace(expr, "guarded").betas)
        for ours, true in zip(act.beta, exact.beta, strict=True):
            assert ours.grad is not None
            assert true.grad is not None
            torch.testing.assert_close(ours.grad.double(), true.grad, rtol=1e-3, atol=1e-3)


def test_numbers_in_the_place_of_named_betas_are_one_number_each() -> None:
    fixed = at_betas(parse("beta_a*x + sin(beta_a*x) + beta*x"), [3.0, 5.0])
    assert formula(fixed) == "3 * x + sin(3 * x) + 5 * x"


# -- spaces


def test_a_unit_that_is_used_once_is_as_without_ties() -> None:
    ties, plain = space_from("three-units-tied"), SPACES["three-units"]
    chance = random.Random(1)
    same = 0
    for _ in range(300):
        digits = ties.digits(chance.randrange(ties.size))
        one, other = ties.decode(digits), plain.decode(digits)
        assert isinstance(one, OneFunction)
        same += one == other
        counts = [n for n in one.expr.walk() if is_tied(n.op)]
        assert one == other or len(counts) > one.expr.betas - one.expr.own
    assert 100 < same < 300


@pytest.mark.parametrize(
    "text",
    ["two-units-tied", "gates-two-tied", "ties=on;units=2;unary=identity,scale;binary=add,mul",
     "groups=2;two-units-tied", "tiny+two-units-tied"],
)  # fmt: skip
def test_a_space_with_ties_is_made_again_from_its_spec(text: str) -> None:
    space, chance = space_from(text), random.Random(1)
    assert space.spec == text
    assert space_from(space.spec) == space
    for i in (chance.randrange(space.size) for _ in range(60)):
        candidate = space.decode(space.digits(i))
        assert candidate_from(candidate.key) == candidate
        candidate_from(candidate.formula)


def test_ties_need_a_unit_that_can_be_used_twice() -> None:
    with pytest.raises(ValueError, match="tiny has no unit that is used twice; ties need two core"):
        with_ties(SPACES["tiny"])
    with pytest.raises(ValueError, match="ties=yes is not known; use ties=on or ties=off"):
        space_from("ties=yes;units=2")
    both = with_ties(space_from("tiny+gates-two"))
    assert both.spec == "tiny+gates-two-tied"


def test_a_choice_of_several_betas_is_shared_whole() -> None:
    space = UnitSpace([parse("beta * sin(beta*x)")], [*UnitSpace().binary[:1]], 2, ties=True)
    found = space.expression((0, 0, 0, 0, 0, 1, 1, 0, 0, 0))
    apart = UnitSpace(space.unary, space.binary, 2).expression((0, 0, 0, 0, 0, 1, 1, 0, 0, 0))
    assert (apart.betas, found.own, len(found.names)) == (12, 4, 4)


# -- search and export


def net(make_activation: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), make_activation(6), nn.Linear(6, 3))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_searches_with_ties(
    tmp_path: Path, blobs: tuple[np.ndarray, np.ndarray], strategy: str
) -> None:
    if strategy == "surrogate":
        strategy = "surrogate:initial=2,pool=20"
    options: dict[str, Any] = {"steps": 4, "batch_size": 16, "executor": "inline", "quiet": True}
    options |= {"child": net, "dataset": blobs, "budget": 4, "strategy": strategy}
    run = actsearch.search(
        tmp_path, space="ties=on;units=2;unary=scale,sin;binary=mul,max", **options
    )
    assert run.config["identity"]["space"].startswith("ties=on;units=2")
    assert run.counts()["ok"] > 0


def test_ties_are_an_option_of_the_search(tmp_path: Path, blobs: Any) -> None:
    options: dict[str, Any] = {"steps": 2, "batch_size": 16, "executor": "inline", "quiet": True}
    run = actsearch.search(tmp_path / "run", space="two-units", ties="on", strategy="random",
                           budget=2, child=net, dataset=blobs, **options)  # fmt: skip
    assert run.config["identity"]["space"] == "two-units-tied"
    with pytest.raises((UsageError, ValueError), match="ties need two core units"):
        actsearch.search(tmp_path / "other", space="tiny", ties="on", child=net, dataset=blobs,
                         **options)  # fmt: skip


def exported(folder: Path, to: str) -> Path:
    (folder / f"{to}.py").write_text(str(actsearch.export(XSILU, to)))
    return folder / f"{to}.py"


def test_exports_have_one_parameter_a_name(tmp_path: Path) -> None:
    x = torch.linspace(-3, 3, 24, dtype=torch.float64).view(8, 3)
    expected = Activation(XSILU, 3)(x)
    module, python = (runpy.run_path(str(exported(tmp_path, to))) for to in ("torch", "python"))
    found = module["Activation"](3)
    assert found.state_dict().keys() == Activation(XSILU, 3).state_dict().keys()
    torch.testing.assert_close(found(x), expected, rtol=1e-6, atol=1e-6)
    values = [python["activation"](v, 0.1) for v in x.flatten().tolist()]
    assert values == pytest.approx(expected.flatten().tolist(), abs=1e-6)
    assert str(actsearch.export(XSILU, "latex")).count(r"\beta") == 2
    assert "beta_1" not in str(actsearch.export(XSILU, "c"))
    assert "BETA = 0.1" in str(actsearch.export(XSILU, "triton"))
