"""Formulas, spaces and the Activation module."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import random
import string
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actsearch.search_space.activation import Activation
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.baselines import BASELINES, SYNONYMS
from actsearch.search_space.expression import Expr, X, formula
from actsearch.search_space.operators import BINARY, UNARY, Op
from actsearch.search_space.parser import MAX_LENGTH, ParseError, parse
from actsearch.search_space.space import SPACES, space_from
from actsearch.search_space.units import UnitSpace

# -- formulas


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("x*sigmoid(beta*x)", "mul(x, sigmoid(scale(x)))"),
        ("max(x, tanh(x))", "max(x, tanh(x))"),
        ("cos(x) - x", "sub(cos(x), x)"),
        ("atan(x)**2 - x", "sub(square(atan(x)), x)"),
        ("max(x, 0.01*x)", "max(x, mul(0.01, x))"),
        ("mul(x, sigmoid(scale(x)))", "mul(x, sigmoid(scale(x)))"),
        ("-x**2", "neg(square(x))"),
        ("x^3 / 2", "mul(0.5, cube(x))"),
        ("x + beta", "shift(x)"),
        ("beta[0.25] * min0(x)", "scale[0.25](min0(x))"),
        ("x - 1", "sub(x, 1)"),
        ("x-1", "sub(x, 1)"),
        ("swish-1", "mul(x, sigmoid(x))"),
        ("swish-1 - x", "sub(mul(x, sigmoid(x)), x)"),
        ("silu(tanh(x))", "mul(tanh(x), sigmoid(tanh(x)))"),
        ("ArcTan(X)", "atan(x)"),
        ("1e-3 * x", "mul(0.001, x)"),
    ],
)
def test_formulas_that_people_write(written: str, canonical: str) -> None:
    assert str(parse(written)) == canonical
    assert parse(canonical) == parse(written)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x * sigmoidd(x)", r"'sigmoidd' at column 5 .* Did you mean sigmoid\?"),
        ("sin", "expected '\\(' but found the end at column 4 of \"sin\". Write sin\\(x\\)."),
        ("x + max", "Write max\\(x, x\\)."),
        ("sin(x", "expected '\\)' but found the end at column 6"),
        ("sin()", "found '\\)' at column 5"),
        ("max(x)", "max takes 2 arguments, not 1 at column 1"),
        ("sin(x, x)", "sin takes 1 argument, not 2 at column 1"),
        ("x ** 4", "exponent must be 2, 3 or 0.5, not '4' at column 6"),
        ("x x", "an operator or the end but found 'x' at column 3"),
        ("", "empty"),
        ("   ", "empty"),
        ("x + \u00e9", "unexpected character '\u00e9' at column 5"),
        ("\uff53in(x)", "unexpected character"),
        ("relu[2](x)", "relu has no beta"),
        ("1e999 * x", "too large"),
        ("__import__('os')", "unknown function '__import__'"),
        ("x.real", "unexpected character '.'"),
        ("x" * (MAX_LENGTH + 1), "characters; the limit is 4,096"),
        ("(" * 40 + "x", "nested more than 32 deep"),
        ("sin(" * 40 + "x" + ")" * 40, "nested more than 32 deep"),
        ("x" + " + x" * 100, "nested more than 32 deep"),
        ("-" * 40 + "x", "signs in a row"),
    ],
)
def test_a_formula_that_cannot_be_read_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ParseError, match=sentence):
        parse(text)


def sentence_for(text: str) -> str | None:
    """The sentence that `text` gets, None where it is read."""
    try:
        expr = parse(text)
    except ParseError as error:
        return str(error)
    assert parse(str(expr)) == expr
    return None


def test_every_random_string_is_read_or_gets_a_sentence() -> None:
    rng = random.Random(0)
    words = [*(op.name for op in (*UNARY, *BINARY)), *BASELINES, "x", "beta", "1", "0.5", "2"]
    signs = ["(", ")", ",", "+", "-", "*", "/", "**", "^", "[", "]", " ", "."]
    sentences: list[str | None] = []
    for _ in range(50_000):
        if rng.random() < 0.5:
            parts = (rng.choice([*words, *signs, *signs]) for _ in range(rng.randrange(1, 12)))
        else:
            parts = (rng.choice(string.printable + "\u00e9\uff58") for _ in range(8))
        sentences.append(sentence_for("".join(parts)))
    assert sentences.count(None) > 500
    assert all(s.isprintable() for s in set(sentences) if s is not None)


@pytest.mark.parametrize("name", ["one-unit", "two-units", "three-units"])
def test_every_candidates_text_reads_back(name: str) -> None:
    space, rng = SPACES[name], random.Random(1)
    for _ in range(1000):
        expr = space.expression(space.digits(rng.randrange(space.size)))
        assert parse(str(expr)) == expr
        parse(formula(expr))


def test_candidates_of_the_largest_spaces_are_within_what_the_parser_reads() -> None:
    space, rng = UnitSpace(units=6), random.Random(2)
    for _ in range(50):
        expr = space.expression(space.digits(rng.randrange(space.size)))
        assert parse(str(expr)) == expr


TORCH_BASELINES = {
    "relu": F.relu,
    "lrelu": F.leaky_relu,
    "prelu": lambda x: F.prelu(x, torch.tensor([0.25]).double()),
    "softplus": F.softplus,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "swish-1": F.silu,
    "swish": F.silu,
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_those_of_torch(name: str) -> None:
    x = torch.linspace(-8, 8, 33, dtype=torch.float64)[:, None]
    found = Activation(name, 1).double()(x)
    torch.testing.assert_close(found, TORCH_BASELINES[name](x), rtol=1e-7, atol=1e-7)


def test_a_users_operator_is_read_where_it_is_given() -> None:
    wave = Op("wave", 1, lambda x: x + torch.sin(x) ** 2)
    assert str(parse("x * wave(x)", [wave])) == "mul(x, wave(x))"
    with pytest.raises(ParseError, match="unknown function 'wave'"):
        parse("x * wave(x)")


@pytest.mark.parametrize("name", ["Wave", "my op", "1op", "\u03c3"])
def test_an_operators_name_must_be_readable(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case ASCII identifier"):
        Op(name, 1, torch.sin)


@pytest.mark.parametrize("name", ["x", "constant"])
def test_a_leafs_name_is_not_an_operators(name: str) -> None:
    """`x(x)` could not be read, and a pickled `constant` would come back as ours."""
    with pytest.raises(ValueError, match=f"'{name}' is the grammar's own; choose another"):
        Op(name, 1, torch.sin)


# -- spaces


@pytest.mark.parametrize(
    ("name", "size"),
    [("one-unit", 6_250), ("two-units", 156_250_000), ("three-units", 6_250**3 * 4 * 9),
     ("tiny", 192)],
)  # fmt: skip
def test_sizes_of_the_papers_spaces(name: str, size: int) -> None:
    assert SPACES[name].size == len(SPACES[name]) == size


def test_three_units_have_8_789_062_500_000_candidates() -> None:
    assert SPACES["three-units"].size == 8_789_062_500_000


@pytest.mark.parametrize("name", ["tiny", "one-unit"])
def test_rank_and_unrank_are_inverse_at_every_point(name: str) -> None:
    space = SPACES[name]
    digits = [space.digits(i) for i in range(space.size)]
    assert len(set(digits)) == space.size
    assert [space.index(d) for d in digits] == list(range(space.size))


@pytest.mark.parametrize("units", range(1, 7))
def test_rank_and_unrank_are_inverse_in_large_spaces(units: int) -> None:
    space, rng = UnitSpace(units=units), random.Random(units)
    for i in [0, space.size - 1, *(rng.randrange(space.size) for _ in range(200))]:
        assert space.index(space.digits(i)) == i


def test_iteration_is_in_the_order_of_the_index() -> None:
    space = SPACES["tiny"]
    assert list(space) == [space.expression(space.digits(i)) for i in range(space.size)]


def test_digits_mean_what_a_core_unit_is() -> None:
    space = SPACES["two-units"]
    names = [op.name for op in space.unary], [op.name for op in space.binary]
    sin, identity, add = names[0].index("sin"), names[0].index("identity"), names[1].index("add")
    digits = (0, 0, sin, identity, add, 1, 0, sin, identity, names[1].index("mul"))
    assert str(space.expression(digits)) == "mul(sin(add(sin(x), x)), x)"


@pytest.mark.parametrize("text", ["units=2;unary=identity,sin;binary=add,mul", "one-unit", "tiny"])
def test_a_space_is_made_again_from_its_spec(text: str) -> None:
    space = space_from(text)
    assert space_from(space.spec).radices == space.radices
    assert space_from(space.spec).spec == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("one-unti", "did you mean 'one-unit'"),
        ("units=0", "1 to 6 core units"),
        ("units=7", "1 to 6 core units"),
        ("units=two", "no number"),
        ("unary=sine", "did you mean 'sin'"),
        ("unary=sin,sin", "each once"),
        ("unray=sin", "did you mean 'unary'"),
        ("unary=", "unknown unary operator ''"),
    ],
)
def test_a_space_that_cannot_be_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        space_from(text)


@pytest.mark.parametrize(
    ("fn", "sentence"),
    [
        (lambda v: v.mul_(2), "changes its input in place"),
        (lambda v: v.nope(), "'mine' fails on a tensor: AttributeError"),
        (lambda v: None, "'mine' fails on a tensor"),
        (lambda v: v.sum(), "not elementwise"),
        (lambda v: torch.softmax(v, 0), "not elementwise"),
    ],
)
def test_a_users_operator_that_is_no_function_of_an_element_is_refused(
    fn: Any, sentence: str
) -> None:
    for op in (Op("mine", 1, fn), Op("mine", 1, torch.neg, guarded=fn)):
        with pytest.raises(ValueError, match=sentence):
            UnitSpace((UNARY[0], op), BINARY[:1])
    two = Op("mine", 2, lambda a, b: fn(b))
    with pytest.raises(ValueError, match=sentence):
        UnitSpace(UNARY[:1], (two,))
    UnitSpace((UNARY[0], Op("mine", 1, lambda v, beta: v * beta, beta=0.5)), BINARY[:1])


@pytest.mark.parametrize(
    "op",
    [
        Op("sigmoid", 1, lambda x: torch.sigmoid(2 * x)),  # "swish" would be another function
        Op("exp", 1, torch.exp),  # without its guard
        Op("scale", 1, torch.mul, beta=0.5),
        Op("max", 1, torch.relu),
        Op("gate", 2, lambda a, b: torch.tanh(a) * b),
    ],
    ids=lambda op: op.name,
)
def test_another_operator_under_a_name_of_the_papers_is_refused(op: Op) -> None:
    unary, binary = ((op,), BINARY[:1]) if op.arity == 1 else (UNARY[:1], (op,))
    sentence = (
        f"operator name '{op.name}' is one of the paper's.* choose another, as 'my_{op.name}'"
    )
    with pytest.raises(ValueError, match=sentence):
        UnitSpace(unary, binary)


def test_the_papers_operators_are_taken_as_they_are_copied_or_defined_alike() -> None:
    wave = Op("wave", 1, lambda x: x + torch.sin(x) ** 2)
    assert len(UnitSpace([*UNARY, wave]).unary) == 26
    copied = [*pickle.loads(pickle.dumps(UNARY)), *copy.deepcopy((wave,))]
    assert UnitSpace(copied).unary == (*UNARY, wave)
    UnitSpace(*([dataclasses.replace(op) for op in ops] for ops in (UNARY, BINARY)))
    UnitSpace((Op("sigmoid", 1, torch.sigmoid), wave))


def test_one_name_for_a_unary_and_a_binary_operator_is_refused() -> None:
    one, two = Op("wave", 1, torch.sin), Op("wave", 2, lambda a, b: a + b.sin())
    with pytest.raises(ValueError, match="wave is the name of a unary and of a binary operator"):
        UnitSpace((one,), (two,))


@pytest.mark.parametrize(
    ("fn", "beta", "guarded"),
    [
        (lambda a, b: a - b, None, None),
        (lambda a, b: torch.where(a > 50, a, a + b), None, None),  # far out only
        (lambda a, b: a + b, None, lambda a, b: (a + b) / b.clamp(min=1)),
        (lambda a, b, beta: beta * a + (1 - beta) * b, 0.5, None),  # where beta starts, it is
    ],
    ids=["difference", "far", "guarded", "beta"],
)
def test_a_false_commutative_is_refused(fn: Any, beta: float | None, guarded: Any) -> None:
    said = Op("mine", 2, fn, beta=beta, guarded=guarded, commutative=True)
    with pytest.raises(ValueError, match=r"'mine' is not commutative: of .* and .* it makes"):
        UnitSpace(UNARY[:1], (said,))
    UnitSpace(UNARY[:1], (dataclasses.replace(said, commutative=False),))


@pytest.mark.parametrize(
    "fn", [torch.maximum, torch.hypot, torch.logaddexp, lambda a, b: a * b + a + b]
)
def test_a_true_commutative_is_believed(fn: Any) -> None:
    UnitSpace(UNARY[:1], (Op("mine", 2, fn, commutative=True),))


def test_points_outside_a_space_are_refused() -> None:
    space = SPACES["one-unit"]
    with pytest.raises(IndexError):
        space.digits(6250)
    with pytest.raises(ValueError, match="digit 2 is 25"):
        space.index((0, 0, 25, 0, 0))
    with pytest.raises(ValueError, match="5 digits, not 4"):
        space.expression((0, 0, 0, 0))


# -- the module


@pytest.mark.parametrize(
    ("shape", "channel_dim"),
    [((5, 3), 1), ((5, 3, 7), 1), ((5, 7, 3), -1), ((5, 3, 4, 6), 1), ((5, 4, 6, 3), -1)],
)
def test_every_channel_has_its_own_beta(shape: tuple[int, ...], channel_dim: int) -> None:
    act = Activation("beta * x", 3, channel_dim=channel_dim)
    with torch.no_grad():
        act.beta[0].copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.ones(shape)
    y = act(x)
    assert y.shape == x.shape
    for channel in range(3):
        assert (y.select(channel_dim, channel) == channel + 1).all()
    y.sum().backward()
    assert act.beta[0].grad is not None
    assert (act.beta[0].grad == x.numel() / 3).all()


def test_inplace_is_swallowed_and_changes_nothing() -> None:
    x = torch.randn(4, 2)
    before = x.clone()
    assert torch.equal(Activation("relu", 2, inplace=True)(x), F.relu(before))
    assert torch.equal(x, before)


def test_another_number_of_channels_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="has 3 channels, but its input of shape"):
        Activation("beta * x", 3)(torch.ones(2, 4))


@pytest.mark.parametrize("text", ["beta", "sigmoid(0.5)", "1"])
def test_a_constant_takes_the_inputs_shape(text: str) -> None:
    assert Activation(text, 3)(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4, 4)


def test_16_bit_inputs_are_computed_in_float32_and_keep_their_type() -> None:
    x = torch.tensor([[11.5]], dtype=torch.float16)
    y = Activation("log_abs(exp(x) * exp(x))", 1, operators="paper")(x)  # exp(23) overflows float16
    assert y.dtype == torch.float16
    assert float(y) == pytest.approx(23.0, abs=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        linear = nn.Linear(4, 3)(torch.randn(2, 4))
        assert linear.dtype == torch.bfloat16
        assert Activation("swish", 3)(linear).dtype == torch.bfloat16


def test_a_module_survives_copies_pickles_and_its_state() -> None:
    act = Activation("x * sigmoid(beta*x) + mix(x, sin(x))", 4)
    with torch.no_grad():
        for beta in act.beta:
            beta.normal_()
    x = torch.randn(3, 4)
    fresh = Activation(act.expr, 4)
    fresh.load_state_dict(act.state_dict())
    for other in (copy.deepcopy(act), pickle.loads(pickle.dumps(act)), fresh):
        assert torch.equal(other(x), act(x))
    assert len(act.beta) == 2


def test_equal_parts_without_a_beta_are_computed_once_and_others_learn_apart() -> None:
    calls = 0

    def counted(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.sin(x)

    op = Op("counted", 1, counted)
    part = Expr(op, (X,))
    Activation(Expr(BINARY[0], (part, Expr(BINARY[1], (part, X)))), 1)(torch.ones(1, 1))
    assert calls == 1
    assert len(Activation("scale(x) * scale(x)", 1).beta) == 2


@pytest.mark.parametrize("name", SYNONYMS)
def test_a_users_operator_may_have_the_name_of_a_synonym(name: str) -> None:
    own = Op(name, 1, lambda x: x**3)
    assert parse(f"{name}(x)", [own]) == Expr(own, (X,))


def test_an_operator_under_a_name_of_ours_is_its_own() -> None:
    mix = Op("mix", 2, lambda a, b, beta: a * b.abs() ** beta, beta=0.25)
    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)
    expr = parse("mix(sin(x), x)", [mix])
    torch.testing.assert_close(Activation(canonical(expr), kernels="eager")(x),
                               Activation(expr, kernels="eager")(x))  # fmt: skip
