"""Gates, functions of two projections: their spaces, what counts as the same, kernels, what a layer
of a child gets, and a search from start to end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mpmath import mpf
from torch import nn

import actsearch
from actsearch import cli
from actsearch.child_models.data.labelled import make_dataset
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.gated import gated_width
from actsearch.child_models.networks.gpt import GPT
from actsearch.child_models.networks.mlp import MLP
from actsearch.child_models.networks.transformer import Transformer
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.controller.strategies import STRATEGIES
from actsearch.errors import UsageError
from actsearch.results.records import ALWAYS_BESIDE, BESIDE_GATES, Trial
from actsearch.search_space.activation import Activation
from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.analysis.fingerprint import fingerprint
from actsearch.search_space.analysis.screening import Flaw, screen
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.expression import Expr, exchanged, formula
from actsearch.search_space.kernels import c, libraries
from actsearch.search_space.kernels.tracing import trace
from actsearch.search_space.operators import BINARY, OPERATORS
from actsearch.search_space.parser import parse
from actsearch.search_space.space import EitherSpace, everything, space_from
from actsearch.search_space.survey import Survey, describe, survey
from actsearch.search_space.units import digit_values

from . import oracle
from .test_kernels import CANCELLED

Arrays = tuple[np.ndarray, np.ndarray]


# -- what a gate is


@pytest.mark.parametrize(
    ("name", "gate"),
    [
        ("swiglu", lambda x, g: F.silu(x) * g),
        ("geglu", lambda x, g: F.gelu(x) * g),
        ("reglu", lambda x, g: F.relu(x) * g),
        ("bilinear", lambda x, g: x * g),
        ("glu", lambda x, g: F.glu(torch.cat([g, x], -1))),
        ("singlu", lambda x, g: x.sin() * g),
    ],
)
def test_known_gates_are_those_of_their_authors_whichever_input_is_which(
    name: str, gate: Callable[..., torch.Tensor]
) -> None:
    x, g = torch.randn(2, 40, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    torch.testing.assert_close(Activation(name)(x, g), gate(x, g))
    found = candidate_from(name).canonical("guarded")
    assert describe(found).name == name
    other = candidate_from(str(exchanged(parse(name)))).canonical("guarded")
    assert describe(other).name == name
    torch.testing.assert_close(Activation(other.key)(g, x), gate(x, g))


def test_a_gate_is_read_printed_and_written_as_people_do() -> None:
    assert str(parse("swiglu(sin(x), g)")) == "mul(mul(sin(x), sigmoid(sin(x))), g)"
    assert parse("swiglu") == parse("x * sigmoid(x) * g")
    assert formula(canonical(parse("g * (sigmoid(x) * x)"))) == "x * sigmoid(x) * g"
    assert parse("max(x, g)").inputs == ("x", "g")
    with pytest.raises(ValueError, match="reglu takes 2 arguments, not 1"):
        parse("reglu(x)")


@pytest.mark.parametrize("text", ["sin(g)", "beta + sin(g)", "max(g, beta) * 2", "sub(g, sin(g))"])
def test_a_function_of_g_alone_is_that_function_of_x(text: str) -> None:
    form = canonical(parse(text))
    assert form == canonical(exchanged(parse(text)))
    assert form.inputs == ("x",)
    assert canonical(form) == form


def test_inputs_that_differ_get_a_sentence() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"x \* g takes x and g, not 1 input"):
        Activation("x * g")(x)
    with pytest.raises(ValueError, match="takes x alone, not 2"):
        Activation("relu(x)")(x, x)
    with pytest.raises(ValueError, match=r"one shape, dtype and device, not \(2, 3\)"):
        Activation("x * g")(x, torch.zeros(3, 2))


# -- spaces


def test_the_one_unit_gates_are_the_papers_grammar_with_g_as_the_second_input() -> None:
    gates, scalars = space_from("gates"), space_from("one-unit")
    assert gates.radices == scalars.radices
    chance = random.Random(0)
    for i in chance.sample(range(gates.size), 200):
        [expr], [of_x] = (s.decode(s.digits(i)).functions for s in (gates, scalars))
        left, right = of_x.args
        assert expr == Expr(of_x.op, (left, exchanged(right)))


def test_two_units_of_gates_take_any_input() -> None:
    space = space_from("gates-two")
    assert space.radices == (2, 2, 25, 25, 10, 3, 3, 25, 25, 10)
    assert space.size == 6250**2 * 36
    names = [[op.name for op in ops] for ops in (space.unary, space.binary)]  # type: ignore[attr-defined]
    identity, mul, gate = names[0].index("identity"), *map(names[1].index, ("mul", "gate"))
    swiglu = space.decode((0, 0, identity, identity, gate, 2, 1, identity, identity, mul))
    assert describe(swiglu.canonical("guarded")).name == "swiglu"


@pytest.mark.parametrize(
    "text",
    ["gates", "gates-two", "inputs=x,g;units=1;unary=identity,sin;binary=add,mul", "tiny+gates",
     "groups=2;gates", "groups=2;tiny+gates"],
)  # fmt: skip
def test_a_space_of_gates_is_made_again_from_its_spec_and_counts(text: str) -> None:
    space, chance = space_from(text), random.Random(1)
    assert space.spec == text
    assert space_from(space.spec) == space
    assert space.inputs == ("x", "g")
    for i in [0, space.size - 1, *(chance.randrange(space.size) for _ in range(60))]:
        digits = space.digits(i)
        assert space.index(digits) == i
        candidate = space.decode(digits)
        assert candidate_from(candidate.key) == candidate
        candidate_from(candidate.formula)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("inputs=x,y;units=1", "the inputs of a space are x, or x and g, not"),
        ("tiny+gates+one-unit", "joins 3 spaces; join two, as tiny\\+gates"),
        ("tiny+gate", "did you mean 'gates'"),
    ],
)
def test_a_wrong_spec_is_answered_with_a_way_out(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        space_from(text)


def test_a_space_of_both_has_every_candidate_of_either() -> None:
    both = EitherSpace(*(space_from(t) for t in ("units=1;unary=sin,relu;binary=add,mul",
                         "inputs=x,g;units=1;unary=sin,relu,neg;binary=max")))  # type: ignore[arg-type]  # fmt: skip
    keys = {candidate.key for candidate in everything(both)}
    assert keys == {c.key for part in both.parts for c in everything(part)}
    assert both.size == 2 * 3 * 3 * 2


def test_features_are_values_and_slopes_in_the_plane() -> None:
    space = space_from("tiny+gates")
    chance = np.random.default_rng(0)
    digits = np.array([space.digits(i) for i in chance.integers(0, space.size, 40)])
    found = space.features(digits)
    assert found is not None
    assert found.shape == (40, 3 * 81)
    axis = np.linspace(-4, 4, 9)
    for row, features in zip(digits, found, strict=True):
        [expr] = space.decode(row).functions
        points = torch.tensor([(x, g) for x in axis for g in axis], dtype=torch.float64).T
        [batch] = curves([expr], points)
        values = np.sinh(features[:81])
        np.testing.assert_allclose(values, batch.value[0, 0].clamp(-1e6, 1e6), rtol=1e-9, atol=1e-9)
        if expr.inputs == ("x",):
            assert not features[162:].any()


def test_values_of_digits_are_those_of_the_expressions() -> None:
    space = space_from("gates-two")
    chance = np.random.default_rng(0)
    digits = np.array([[chance.integers(r) for r in space.radices] for _ in range(50)])
    points = torch.randn(2, 7, dtype=torch.float64, generator=torch.manual_seed(0))
    found = digit_values(space, digits, points)  # type: ignore[arg-type]
    for row, values in zip(digits, found, strict=True):
        [expr] = space.decode(row).functions
        [batch] = curves([expr], points)
        torch.testing.assert_close(values, batch.value[0, 0])


# -- what is the same, and what is rejected


@pytest.fixture(scope="module")
def gates() -> Survey:
    return survey(everything(space_from("gates")))


def test_the_gates_are_counted(gates: Survey) -> None:
    assert (gates.raw, gates.canonical) == (6250, 5995)
    assert gates.rejected == {Flaw.UNREAD: 62, Flaw.AFFINE: 59, Flaw.CONSTANT: 11}
    of_both = [c for c in gates.distinct if c.functions[0].inputs == ("x", "g")]
    assert (len(gates.distinct), len(of_both)) == (5837, 5555)
    assert (gates.up_to_exchange, gates.symmetry_classes) == (3963, 2859)


def values_at(expr: Expr, points: Iterable[tuple[float, float, list[float]]]) -> list[Any]:
    return [oracle.value(expr, x, betas, g=g) for x, g, betas in points]


def some_points(
    expr: Expr, n: int, chance: random.Random
) -> list[tuple[float, float, list[float]]]:
    def size() -> float:
        return chance.choice((-1, 1)) * 10 ** chance.uniform(-3, 3)

    return [
        (*((chance.uniform(-12, 12) if i % 2 else size()) for _ in range(2)),
         [size() for _ in range(expr.betas)])
        for i in range(n)
    ]  # fmt: skip


def agree(a: Any, b: Any) -> bool:
    return abs(a - b) <= mpf(10) ** -30 * max(1, abs(a), abs(b))


def test_no_gate_is_merged_falsely_by_values(gates: Survey) -> None:
    """In 50 digits, at random points and betas."""
    chance = random.Random(0)
    assert len(gates.merged) == 26
    for one, other in gates.merged:
        a, b = one.functions[0], other.functions[0]
        points = some_points(a, 60, chance)
        assert all(map(agree, values_at(a, points), values_at(b, points))), (a, b)


def test_no_gate_is_merged_falsely_by_rules() -> None:
    """A canonical form has the values of what it is of: betas that a rule renames are fitted by
    starting there."""
    chance, space = random.Random(1), space_from("gates")
    merged = 0
    for i in chance.sample(range(space.size), 400):
        [expr] = space.decode(space.digits(i)).functions
        form = canonical(expr)
        own = [[n.beta for n in e.walk() if n.beta is not None] for e in (expr, form)]
        g_only = not expr.reads("x") and expr.reads("g")
        merged += form != expr
        for x, g, _ in some_points(expr, 6, chance):
            there = g if g_only else x
            value, other = (
                oracle.value(expr, x, own[0], g=g),
                oracle.value(form, there, own[1], g=g),
            )
            assert agree(value, other), (expr, form, x, g)
    assert merged > 80


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("max(exp(x), relu(g))", "max(exp(x), g)", True),
        ("max(x, g) + min(x, g)", "x + g", True),
        ("x * g", "x * g + 1e-7 * sin(g)", False),
        ("max(x, g)", "max(x, g) + relu(g - 900)", False),
        ("relu(x - 3) * relu(g - 3)", "relu(x - 3) * relu(g - 3) + relu(x - g - 50)", False),
        ("beta * x * g", "beta * x * sin(g)", False),
    ],
)  # fmt: skip
def test_gates_are_compared_in_the_plane(one: str, other: str, same: bool) -> None:
    assert same_function(*(canonical(parse(t)) for t in (one, other))) == same


def test_classes_up_to_exchange_are_labels() -> None:
    for text in ("x * sigmoid(g)", "beta * x - sin(g)", "mix(x, exp(g))", "x / cosh(g)"):
        one, other = canonical(parse(text)), canonical(exchanged(parse(text)))
        a, b = fingerprint(one), fingerprint(other)
        assert a.key != b.key
        assert (a.exchange, a.symmetry) == (b.exchange, b.symmetry)
    a, b = (fingerprint(canonical(parse(t))) for t in ("tanh(x) * g", "3 - 2 * tanh(-g) * x"))
    assert a.symmetry == b.symmetry
    assert a.exchange != b.exchange


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x * g", None),
        ("max(x, g)", None),
        ("2 * x - 3 * g + 1", "affine in x and g: the network would be linear"),
        ("max(tanh(x), cosh(g))", "does not change with x: a function of one input, which"),
        ("sin(x) + min0(exp(g) - exp(g + 1))", None),
        ("relu(x - 9.9) * relu(g - 9.9)", "no gradient on 100 % of the probe"),
        ("sqrt(x - g)", "value nan at x = -10, g = -9.167"),
    ],
)
def test_gates_are_screened_in_the_plane(text: str, reason: str | None) -> None:
    found = screen(canonical(parse(text), "paper"), "paper")
    assert (found and found.reason[: len(reason or "")]) == reason


# -- slopes and kernels


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.name)
def test_slopes_of_both_inputs_are_those_of_differences(op: Any) -> None:
    expr = Expr(op, (parse("sin(x) * g"), parse("x + tanh(g)")))
    points = torch.rand(2, 20, dtype=torch.float64, generator=torch.manual_seed(0)) + 0.5
    [batch] = curves([expr], points)
    for along, slope in enumerate(batch.slopes):
        step = torch.zeros(2, 1, dtype=torch.float64)
        step[along] = 1e-6
        [above], [below] = (curves([expr], points + sign * step) for sign in (1, -1))
        by_difference = (above.value - below.value) / 2e-6
        torch.testing.assert_close(slope, by_difference, rtol=1e-5, atol=1e-6)


X, G = (
    torch.cat([torch.linspace(-9, 9, 90), torch.tensor([0.0, 1e-4, -1e-4, 11.0, -11.0, 30.0])])
    [torch.randperm(96, generator=torch.manual_seed(seed))].reshape(2, 3, 4, 4).contiguous()
    for seed in (1, 2)
)  # fmt: skip


def computed(expr: Expr, kernels: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Output and gradients of x, g and each beta, as float64."""
    activation = Activation(expr, 3, kernels=kernels).to(dtype)
    with torch.no_grad():
        for i, beta in enumerate(activation.beta):
            beta.mul_(1 + 0.1 * i).add_(torch.tensor([0.0, 0.3, -1.2]).to(beta))
    inputs = [t.to(dtype).clone().requires_grad_() for t in (X, G)]
    y = activation(*inputs)
    y.backward(torch.cos(torch.arange(y.numel())).view(y.shape).to(y))
    zeros = [torch.zeros_like(t) for t in (*inputs, *activation.beta)]
    found = [t.grad for t in (*inputs, *activation.beta)]
    grads = [z if f is None else f for z, f in zip(zeros, found, strict=True)]
    return [t.detach().double() for t in (y, *grads)]


def check_kernels(exprs: Iterable[Expr]) -> None:
    """Kernels are as near to float64 as eager float32 is, by 16 times its error. Of functions of
    both cosh and sinh what is compared ends at CANCELLED, as in test_kernels.py."""
    exprs = [e for e in exprs if e.inputs == ("x", "g")]
    layouts = [(t := trace(e, "guarded"), "rows" if t.betas else "flat") for e in exprs]
    libraries.build([c.source(t, "float32", layout) for t, layout in layouts])  # in one call
    for expr in exprs:
        ours, eager, exact = (
            computed(expr, kernels, dtype)
            for kernels, dtype in (("generated", torch.float32), ("eager", torch.float32),
                                   ("eager", torch.float64))
        )  # fmt: skip
        for this, other, true in zip(ours, eager, exact, strict=True):
            if {"cosh", "sinh"} <= {node.op.name for node in expr.walk()}:
                if this.shape != X.shape:
                    continue  # a sum over all points
                kept = (X.abs() <= CANCELLED) & (G.abs() <= CANCELLED)
                this, other, true = (torch.where(kept, t, 0.0) for t in (this, other, true))
            finite = torch.isfinite(other)
            assert torch.equal(finite, torch.isfinite(this)), expr
            error = (other - true).abs()[finite & torch.isfinite(true)].max()
            allowed = 3e-5 + 3e-5 * true.abs() + 16 * error
            off = finite & ((this - true).abs() > allowed)
            off &= (this - other).abs() > 1e-5 * other.abs()  # ties that only float32 has
            assert not off.any(), expr


def test_kernels_of_some_gates_are_eager_modes() -> None:
    space = space_from("gates")
    chosen = random.Random(3).sample(range(space.size), 60)
    check_kernels(space.decode(space.digits(i)).functions[0] for i in chosen)


@pytest.mark.slow
def test_kernels_of_all_gates_are_eager_modes() -> None:
    everyone = [c.functions[0] for c in everything(space_from("gates"))]
    for start in range(0, len(everyone), 80):
        check_kernels(everyone[start : start + 80])


@pytest.mark.parametrize("text", ["swiglu", "x * sigmoid(beta * g)", "erf(x) * asinh(g)"])
def test_a_kernel_saves_one_tensor_an_input(text: str) -> None:
    activation = Activation(text, 3, kernels="generated")
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        activation(X.clone().requires_grad_(), G.clone().requires_grad_())
    assert sum(n == X.numel() for n in saved) == 2


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "one of each", "views"])
def test_a_kernel_takes_inputs_however_they_lie(layout: str) -> None:
    x, g = X, G
    if layout == "views":
        x, g = torch.cat([X, G], 3).chunk(2, 3)
    elif layout != "contiguous":
        x = x.contiguous(memory_format=torch.channels_last)
        g = g.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else g
    for text in ("swiglu", "mix(x, sin(beta * g))"):
        found = []
        for kernels in ("generated", "eager"):
            activation = Activation(text, 3, kernels=kernels)
            inputs = [t.detach().requires_grad_() for t in (x, g)]
            y = activation(*inputs)
            y.square().sum().backward()
            found.append([y.detach(), *(t.grad for t in (*inputs, *activation.beta))])
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-4)


def test_a_gate_in_bfloat16_is_computed_in_float32() -> None:
    x, g = (t.bfloat16() for t in (X, G))
    for kernels in ("eager", "generated"):
        y = Activation("swiglu", kernels=kernels)(x, g)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, (F.silu(x.float()) * g.float()).bfloat16())


# -- children


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("build", "plain", "gated"),
    [
        (lambda make: GPT(make, 128, 64), 120_576, 120_488),
        (lambda make: MLP(make, input_shape=(1, 28, 28), classes=10), 218_058, 217_994),
        (lambda make: Transformer(make, 100, 20, width=64, heads=4, layers=1, feedforward=256),
         123_136, None),
    ],
)  # fmt: skip
def test_a_child_with_a_gate_has_the_parameters_of_one_without(
    build: Callable[[Any], nn.Module], plain: int, gated: int | None
) -> None:
    counts = [parameters(build(candidate_from(text).activations("guarded", "eager", lambda: 2)))
              for text in ("relu(x)", "x * g")]  # fmt: skip
    assert counts[0] == plain
    assert gated is None or counts[1] == gated
    assert abs(counts[1] - counts[0]) < 0.002 * counts[0]


def test_widths_of_gates_are_two_thirds_and_wide_ones_multiples_of_eight() -> None:
    assert gated_width(256, 64, 64) == 170
    assert gated_width(3072, 768, 768) == 2048
    assert gated_width(2048, 512, 512) == 1368
    assert gated_width(1, 1, 1) == 1


def test_a_gpt_computes_the_feed_forward_block_of_its_gate() -> None:
    make = candidate_from("swiglu").activations("guarded", "eager", lambda: 2)
    torch.manual_seed(0)
    block: Any = GPT(make, 50, 16).blocks[0]
    with torch.no_grad():
        block.down.weight.normal_()
    x = torch.randn(2, 16, 64)
    h = block.norm2(x)
    expected = block.down(F.silu(block.up(h)) * block.gate(h))
    after = block(x) - x  # attention's last weights are 0 at first
    torch.testing.assert_close(after, expected + block.attention.out.bias, rtol=1e-4, atol=1e-4)
    assert block.up.weight.detach().std() == pytest.approx(64**-0.5, rel=0.05)
    assert block.gate.weight.detach().std() == pytest.approx(64**-0.5, rel=0.05)


@pytest.mark.parametrize("child", ["cnn", "resnet8", "densenet", "truncated_mlp"])
def test_a_child_without_a_second_projection_says_so(child: str) -> None:
    with pytest.raises(ValueError, match="a gate of two inputs, and this child has no second") as e:
        evaluator(child).build("mul(x, g)")
    named = str(e.value).partition("; use ")[2]
    assert all(name in named for name in ("gpt", "transformer", "convnext", "mlp"))


def evaluator(child: str = "mlp", steps: int = 12) -> Evaluator:
    chance = np.random.default_rng(0)
    x = chance.integers(0, 255, (120, 1, 8, 8), dtype=np.uint8)
    data = make_dataset("grey", (x, np.arange(120) % 3))
    return Evaluator(data, child_from(child), Recipe(steps=steps, batch_size=16))


@pytest.mark.parametrize("kernels", ["generated", "eager"])
def test_a_gate_trains_its_betas_and_both_projections(kernels: str) -> None:
    evaluate = evaluator()
    evaluate.kernels, evaluate.inspect = kernels, True
    outcome = evaluate(Trial(0, "reevaluate", "mul(x, sigmoid(scale(g)))", "", 1))
    assert outcome.status == "ok", outcome.reason
    assert any(b != 1.0 for b in outcome.details["betas"][0])
    histogram = outcome.details["preactivations"]
    seen = sum(histogram["counts"]) + histogram["below"] + histogram["above"]
    model: Any = evaluate.build("mul(x, g)")
    widths = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)][:-1]
    assert seen % sum(widths) == 0


def test_a_user_s_child_hands_out_a_second_projection_by_asking() -> None:
    class Net(nn.Module):
        def __init__(self, make_activation: Any, input_shape: Any, classes: int) -> None:
            super().__init__()
            self.act = make_activation(12, gated=8)
            width = self.act.channels
            self.flat = nn.Flatten()
            self.up, self.gate = nn.Linear(64, width), nn.Linear(64, width)
            self.out = nn.Linear(width, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.flat(x)
            inputs = (self.up(x), self.gate(x))[: self.act.inputs]
            return self.out(self.act(*inputs))

    evaluate = evaluator()
    evaluate.child = child_from(Net)
    for key, width in (("relu(x)", 12), ("mul(x, g)", 8)):
        built: Any = evaluate.build(key)
        assert built.up.out_features == width
        assert evaluate(Trial(0, "search", key, "", 0)).status == "ok"


def test_models_of_others_take_functions_of_x_alone() -> None:
    with pytest.raises(ValueError, match="a gate of x and g; export --to torch writes"):
        actsearch.replace_activations(nn.Sequential(nn.ReLU()), "swiglu", torch.zeros(1, 2))
    with pytest.raises(ValueError, match="act_layer= takes a function of x"):
        actsearch.act_layer("swiglu")


# -- a search

QUICK: dict[str, Any] = {"steps": 12, "batch_size": 16, "executor": "inline", "quiet": True}


def search(folder: Path, blobs: Arrays, **options: Any) -> actsearch.Run:
    given = {"child": "mlp:width=16", "dataset": blobs, "space": "tiny+gates", **QUICK, **options}
    return actsearch.search(folder, **given)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "random+halving:eta=2,cohort=4"])
def test_every_strategy_searches_gates_and_functions(
    tmp_path: Path, blobs: Arrays, strategy: str
) -> None:
    if strategy == "surrogate":
        strategy = "surrogate:initial=2,pool=20"
    run = search(tmp_path, blobs, strategy=strategy, budget=5)
    beside = {*ALWAYS_BESIDE, *BESIDE_GATES, "identity"}
    rows = run.functions()
    assert beside <= {row["label"] for row in rows}
    found = [r for r in rows if r["candidate"] and r["status"] not in (None, "rejected")]
    assert len(found) == 5
    assert run.config["identity"]["space"] == "tiny+gates"


def test_groups_of_layers_have_a_gate_or_a_function_each(tmp_path: Path, blobs: Arrays) -> None:
    run = search(tmp_path, blobs, space="groups=2;tiny+gates-two", strategy="random", budget=4)
    found = [row for row in run.functions() if " | " in row["expression"]]
    parts = [expr for row in found for expr in candidate_from(row["expression"]).functions]
    assert {len(expr.inputs) for expr in parts} == {1, 2}
    assert all(row["status"] in ("ok", "diverged", "rejected") for row in found)


def test_a_search_of_gates_goes_on_as_one_that_was_not_broken_off(
    tmp_path: Path, blobs: Arrays
) -> None:
    options: dict[str, Any] = {"space": "gates-two", "steps": 3,
                               "strategy": "evolution:population=4,tournament=2"}  # fmt: skip
    whole = search(tmp_path / "whole", blobs, budget=8, **options)
    search(tmp_path / "broken", blobs, budget=3, **options)
    on = search(tmp_path / "broken", blobs, budget=8, **options)

    def found(run: actsearch.Run) -> list[tuple[Any, ...]]:
        names = ("expression", "status", "val_score")
        return [tuple(row[name] for name in names) for row in run.rows()]

    assert found(on) == found(whole)


@pytest.mark.thorough
def test_gates_are_ranked_raced_reevaluated_shown_and_reported(
    tmp_path: Path, blobs: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    run = search(tmp_path / "run", blobs, space="gates-two", strategy="random", budget=24,
                 racing="loss:4=0.3")  # fmt: skip
    assert run.counts()["raced_out"] > 0
    labels = {row["name"] for row in actsearch.shown.head(run.leaderboard())}
    assert {"swiglu", "relu"} <= labels
    table = actsearch.reevaluate(run, functions=["x * sin(g)"], seeds=2, dataset=blobs, **QUICK)
    names = {"x * sin(g)", "relu(x)", "x * sigmoid(beta * x)", "x * sigmoid(x) * g"}
    assert set(table["formula"]) == names
    page = actsearch.report(run).read_text()
    assert "g = -2" in page
    assert "A gate f(x, g) is drawn over x at some values of g." in page
    assert cli.main(["plot", str(run.path), "--of", "functions", "-o", str(tmp_path / "f")]) == 0
    assert cli.main(["show", "x * sigmoid(x) * g"]) == 0
    out = capsys.readouterr().out
    assert "name           swiglu" in out
    assert "g = 2 ▲" in out


def test_a_cnn_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this child has no second projection"):
        actsearch.search(tmp_path / "run", space="gates-two", child="resnet8", steps=2, quiet=True,
                         executor="inline", budget=1)  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_gate_beside_a_search_of_functions_needs_a_second_projection(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "space": "tiny", "child": "truncated_mlp", "dataset": "mnist5k", "executor": "inline",
        "quiet": True, "budget": 1, "steps": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="this child has no second projection"):
        actsearch.search(tmp_path / "run", baselines="gates", **options)
    assert not (tmp_path / "run").exists()


def train(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
    act = make_activation(4)
    report(1, float(act(torch.zeros(1, 4)).sum()))
    return {"loss": 1.0}


def test_an_objective_without_a_second_projection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the objective train fails with a gate: .*no second"):
        actsearch.search(tmp_path / "run", space="gates", objective=train, minimise="loss",
                         executor="inline", quiet=True, budget=1)  # fmt: skip
    with pytest.raises(UsageError, match=r"the objective train fails with a gate: .*no second"):
        actsearch.reevaluate(tmp_path / "again", functions=["x * g"], objective=train,
                             minimise="loss", executor="inline", quiet=True, seeds=1)  # fmt: skip


def test_the_plan_says_the_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["search", str(tmp_path / "r"), "--space", "gates-two", "--child", "mlp",
                     "--dataset", "mnist5k", "--steps", "2", "--dry-run",
                     "--executor", "inline"])  # fmt: skip
    assert code == 0
    out = "".join(capsys.readouterr())
    assert "two narrower projections: 217,994 parameters beside 218,058 of ReLU" in out


# -- export

TEXT = "mix(x * sigmoid(beta * x), sqrt(g)) + max(x, exp(g))"


def run_of(code: str | bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(str(code), "exported.py", "exec"), found)  # noqa: S102
    return found


def test_an_exported_gate_is_a_module_and_a_block() -> None:
    found = run_of(actsearch.export(TEXT, "torch"))
    ours, theirs = Activation(TEXT, 3), found["Activation"](3)
    assert torch.equal(theirs(X, G), ours(X, G))
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    x = X.bfloat16()
    assert torch.equal(theirs(x, G.bfloat16()), ours(x, G.bfloat16()))
    block = run_of(actsearch.export("swiglu", "torch"))["SwigluMLP"](48)
    x = torch.randn(5, 7, 48)
    expected = block.down(F.silu(block.up(x)) * block.gate(x))
    torch.testing.assert_close(block(x), expected)
    plain = nn.Sequential(nn.Linear(48, 192), nn.ReLU(), nn.Linear(192, 48))
    assert parameters(block) == pytest.approx(parameters(plain), rel=0.01)


def test_an_exported_gate_computes_the_same_in_python_and_c(tmp_path: Path) -> None:
    points = list(zip(X.flatten()[:40].tolist(), G.flatten()[:40].tolist(), strict=True))
    inputs = [t.flatten()[:40].double() for t in (X, G)]
    expected = Activation(TEXT)(*inputs).tolist()
    python = run_of(actsearch.export(TEXT, "python"))["activation"]
    assert [python(*p) for p in points] == pytest.approx(expected, rel=1e-12)
    code = str(actsearch.export(TEXT, "c", name="my_gate"))
    for name in ("my_gate", "my_gate_dx", "my_gate_dg"):
        assert f"float {name}(float x, float g, float beta_1, float beta_2)" in code
    assert str(actsearch.export("swiglu", "latex")).strip() == (
        r"x \cdot \sigma\left(x\right) \cdot g"
    )
    symbols = run_of(actsearch.export("x * sin(g)", "sympy"))
    found = symbols["singlu"].subs({symbols["x"]: 2, symbols["g"]: 0.5})
    assert float(found) == pytest.approx(2 * math.sin(0.5))


def test_an_exported_gate_runs_in_jax_and_onnx() -> None:
    onnx = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = onnx.InferenceSession(actsearch.export(TEXT, "onnx"))
    [y] = session.run(None, {"x": X.numpy(), "g": G.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), Activation(TEXT)(X, G).detach(), rtol=1e-4,
                               atol=1e-4)  # fmt: skip


def test_every_operator_reads_g_as_it_reads_x() -> None:
    x, g = torch.randn(2, 2, 3, dtype=torch.float64, generator=torch.manual_seed(1))
    for op in OPERATORS.values():
        expr = Expr(op, (parse("g"),) * op.arity)
        of_x = Expr(op, (parse("x"),) * op.arity)
        if op.arity:
            assert torch.equal(Activation(expr)(x, g), Activation(of_x)(g))
