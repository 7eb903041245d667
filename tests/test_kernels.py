"""Generated kernels against eager mode and float64: every operator in both sets, the one-unit
space, layouts, types, ties, poles, and what happens without a compiler."""

from __future__ import annotations

import ast
import copy
import importlib.util
import itertools
import logging
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from actsearch.reading import describe
from actsearch.search_space.activation import Activation
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.expression import Expr, X
from actsearch.search_space.kernels import c, compiler, cuda, fused, libraries
from actsearch.search_space.kernels.ahead import Ahead
from actsearch.search_space.kernels.program import Program
from actsearch.search_space.kernels.tracing import keeps_slope, trace
from actsearch.search_space.operators import BINARY, UNARY, Op
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES
from actsearch.search_space.text import OPERATOR_SETS

from .conftest import LIMIT

pytestmark = [
    pytest.mark.skipif(compiler.compiler() is None, reason="needs a C compiler"),
    pytest.mark.usefixtures("one_thread"),
]

# An even grid with 0 and the clamps in it, points close to 0 where guards act, far and random ones.
POINTS = torch.cat(
    [
        torch.linspace(-12.0, 12.0, 193),
        torch.tensor([0.0, -0.0, 1e-6, -1e-6, 1e-4, -1e-4, 1e-3, -1e-3, 40.0, -40.0, 90.0, -90.0]),
        3 * torch.randn(290, generator=torch.Generator().manual_seed(0)),
    ]
)
INPUT = POINTS.view(1, 1, 5, 99).expand(2, 3, 5, 99).contiguous()
CANCELLED = 8.0
BETAS = torch.tensor([0.0, 0.3, -1.2])  # what the channels' betas differ by


def build(exprs: Iterable[Expr], operators: str) -> None:
    """All kernels that `values` needs in one call of the compiler."""
    traced = [trace(expr, operators) for expr in exprs]
    libraries.build([c.source(t, "float32", "rows" if t.betas else "flat") for t in traced])


def values(
    expr: Expr,
    operators: str,
    kernels: str,
    x: torch.Tensor = INPUT,
    dtype: torch.dtype = torch.float32,
) -> list[torch.Tensor]:
    """Output and gradients of input and betas, as float64."""
    activation = Activation(expr, 3, operators=operators, kernels=kernels)
    activation = activation.to(x.device, torch.float64 if dtype == torch.float64 else None)
    with torch.no_grad():
        for i, beta in enumerate(activation.beta):
            beta.mul_(1 + 0.1 * i).add_(BETAS.to(beta))
    leaf = x.to(dtype).clone().requires_grad_()
    y = activation(leaf)
    if y.requires_grad:  # a constant does not
        y.backward(torch.cos(torch.arange(y.numel())).view(y.shape).to(y))
    found = [y, leaf.grad, *(beta.grad for beta in activation.beta)]
    like = [x, x, *activation.beta]
    return [
        torch.zeros_like(t).double().cpu() if g is None else g.detach().double().cpu()
        for g, t in zip(found, like, strict=True)
    ]


def differences(exprs: Iterable[Expr], operators: str, x: torch.Tensor = INPUT) -> list[str]:
    """Where a kernel is not finite though eager mode is, or the other way round, or is further from
    float64 than 1e-5 of it and 16 times the error that eager mode has thereabouts. What is compared
    of functions of both cosh and sinh ends at CANCELLED: beyond it their difference, exp(-x), has
    no digit in float32 and is the last bits of a library's two functions, or inf - inf."""
    wrong: list[str] = []
    for expr in exprs:
        kinds = ("generated", torch.float32), ("eager", torch.float32), ("eager", torch.float64)
        told = [values(expr, operators, kernels, x, dtype) for kernels, dtype in kinds]
        names = itertools.chain(("value", "gradient"), itertools.repeat("beta"))
        for name, ours, eager, exact in zip(names, *told, strict=False):
            if {"cosh", "sinh"} <= {e.op.name for e in expr.walk()}:
                if ours.shape != INPUT.shape:
                    continue  # a sum over all points
                kept = INPUT.abs() <= CANCELLED
                ours, eager, exact = (torch.where(kept, t, 0.0) for t in (ours, eager, exact))
            if not torch.equal(torch.isfinite(ours), torch.isfinite(eager)):
                wrong.append(f"{expr}: {name} not finite elsewhere than in eager mode")
            finite = torch.isfinite(ours) & torch.isfinite(eager) & torch.isfinite(exact)
            allowed = 2e-5 + 1e-5 * exact.abs() + 16 * _error_nearby(eager, exact, finite)
            off = finite & ((ours - exact).abs() > allowed)
            off &= (ours - eager).abs() > 1e-5 * eager.abs()  # ties that only float32 has
            if bool(off.any()):
                wrong.append(f"{expr}: {name}")
    return wrong


def _error_nearby(eager: torch.Tensor, exact: torch.Tensor, finite: torch.Tensor) -> torch.Tensor:
    """Eager mode's error, the largest among neighbouring points (or channels), relative or not: at
    a single point it may be right by chance where the function amplifies every rounding."""
    error = (eager - exact).abs().masked_fill(~finite, 0.0)
    relative = (error / exact.abs().clamp(min=1e-300)).clamp(max=1.0)
    if error.ndim == 1:
        return error.max().expand_as(error)
    order = POINTS.argsort()

    def highest(values: torch.Tensor) -> torch.Tensor:
        rows = values.reshape(-1, len(POINTS))[:, order]
        found = torch.nn.functional.max_pool1d(rows[:, None], 21, 1, 10)[:, 0]
        return found[:, order.argsort()].reshape(values.shape)

    return torch.maximum(highest(error), highest(relative) * exact.abs())


def test_the_points_meet_what_can_go_wrong() -> None:
    assert INPUT.numel() == 2 * 3 * len(POINTS)
    assert {0.0, 10.0, -10.0} <= set(POINTS.tolist())


@pytest.mark.parametrize("operators", OPERATOR_SETS)
def test_every_operator_agrees_with_eager_mode(operators: str) -> None:
    inner = [Expr(op, (X,) * op.arity) for op in UNARY]
    pairs = itertools.product(BINARY, [(X, Expr(UNARY[10], (X,))), (Expr(UNARY[14], (X,)), X)])
    exprs = [*inner, *(Expr(op, args) for op, args in pairs)]
    build(exprs, operators)
    assert differences(exprs, operators) == []


def one_unit(operators: str, every: int, start: int = 0) -> list[Expr]:
    space = SPACES["one-unit"]
    points = (space.digits(i) for i in range(start, space.size, every))
    return list(dict.fromkeys(canonical(space.expression(p), operators) for p in points))


@pytest.mark.parametrize("operators", OPERATOR_SETS)
def test_a_sample_of_the_one_unit_space_agrees_with_eager_mode(operators: str) -> None:
    exprs = one_unit(operators, 103)
    build(exprs, operators)
    assert differences(exprs, operators) == []


@pytest.mark.slow
@pytest.mark.parametrize("operators", OPERATOR_SETS)
def test_the_whole_one_unit_space_agrees_with_eager_mode(operators: str) -> None:
    exprs = one_unit(operators, 1)
    assert len(exprs) > 3900
    for start in range(0, len(exprs), 50):
        build(exprs[start : start + 50], operators)
    assert differences(exprs, operators) == []


def test_units_composed_of_units_agree_with_eager_mode() -> None:
    space = SPACES["three-units"]
    generator = torch.Generator().manual_seed(1)
    points = [
        tuple(int(torch.randint(r, (), generator=generator)) for r in space.radices)
        for _ in range(25)
    ]
    exprs = [canonical(space.expression(p)) for p in points]
    build(exprs, "guarded")
    assert differences(exprs, "guarded") == []


TIES = ("max(x, tanh(x))", "min(x, abs(x))", "max(x, -x)", "abs(x)", "relu(x)", "x / abs(x)")


@pytest.mark.parametrize("text", TIES)
@pytest.mark.parametrize("operators", OPERATOR_SETS)
def test_ties_kinks_and_poles_are_those_of_eager_mode(text: str, operators: str) -> None:
    at = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-5, torch.inf, -torch.inf, torch.nan])
    x = at.view(1, 1, -1).expand(1, 3, -1)
    for ours, eager in zip(
        values(parse(text), operators, "generated", x),
        values(parse(text), operators, "eager", x),
        strict=True,
    ):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-7, equal_nan=True)


SHAPES = {
    "images": torch.randn(4, 3, 6, 5),
    "channels last": torch.randn(4, 3, 6, 5).to(memory_format=torch.channels_last),
    "vectors": torch.randn(70, 3),
    "one vector": torch.randn(1, 3),
    "series": torch.randn(4, 3, 7),
    "a slice": torch.randn(4, 3, 6, 10)[..., ::2],
    "permuted": torch.randn(6, 5, 3, 4).permute(3, 2, 0, 1),
    "empty": torch.randn(0, 3, 2, 2),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("text", ["x * sigmoid(beta * x)", "cos(x) - x"])
def test_every_shape_and_layout(name: str, text: str) -> None:
    x = SHAPES[name]
    kernels = "auto" if name == "empty" else "generated"
    ours, eager = (values(parse(text), "guarded", k, x) for k in (kernels, "eager"))
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    y = Activation(text, 3, kernels=kernels)(x)
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        assert y.stride() == x.stride()


def test_channels_in_the_last_dimension() -> None:
    x = torch.randn(4, 9, 3)
    made = [Activation("mix(x, sin(beta * x))", 3, channel_dim=-1, kernels=k)
            for k in ("generated", "eager")]  # fmt: skip
    for activation in made:
        with torch.no_grad():
            for beta in activation.beta:
                beta.add_(BETAS)
        activation(x).square().sum().backward()
    torch.testing.assert_close(made[0](x), made[1](x))
    for ours, eager in zip(made[0].beta, made[1].beta, strict=True):
        torch.testing.assert_close(ours.grad, eager.grad)


LAST = {
    "series": torch.randn(4, 9, 3),
    "images": torch.randn(2, 5, 4, 3),
    "channels last": torch.randn(2, 5, 4, 3).to(memory_format=torch.channels_last),
    "permuted from channels first": torch.randn(2, 3, 5, 4).permute(0, 2, 3, 1),
    "permuted from channels last": torch.randn(2, 3, 5, 4)
    .to(memory_format=torch.channels_last).permute(0, 2, 3, 1),
    "transposed": torch.randn(4, 3, 9).transpose(1, 2),
    "one token": torch.randn(4, 1, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", LAST)
def test_channels_in_the_last_dimension_of_every_layout(name: str) -> None:
    found = []
    for kernels in ("generated", "eager"):
        x = LAST[name].detach().requires_grad_()
        activation = Activation("x * sigmoid(beta * x)", 3, channel_dim=-1, kernels=kernels)
        with torch.no_grad():
            activation.beta[0].copy_(torch.tensor([0.5, 1.0, 2.0]))
        y = activation(x)
        y.square().sum().backward()
        found.append((y, x.grad, activation.beta[0].grad))
    beta = torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(found[0][0], LAST[name] * torch.sigmoid(beta * LAST[name]))
    for ours, eager in zip(*found, strict=True):
        torch.testing.assert_close(ours, eager)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_bfloat16_is_computed_in_float32_and_rounded_once(layout: str) -> None:
    x = INPUT.to(torch.bfloat16).to(memory_format=getattr(torch, f"{layout}_format", None)
                                    or getattr(torch, layout))  # fmt: skip
    for text in ("x * sigmoid(beta * x)", "exp(-beta * (sin(x) - atan(x))**2)", "max(x, tanh(x))"):
        ours = values(parse(text), "guarded", "generated", x, torch.bfloat16)
        eager = values(parse(text), "guarded", "eager", x, torch.bfloat16)
        for a, b in zip(ours[:2], eager[:2], strict=True):
            torch.testing.assert_close(a, b, rtol=1 / 128, atol=1e-6)  # one last digit
        for a, b in zip(ours[2:], eager[2:], strict=True):
            torch.testing.assert_close(a, b, rtol=2e-2, atol=0.5)  # eager sums in bfloat16 steps


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan_and_infinities() -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    doubled = Activation("x + x", 1, kernels="generated")(every.view(-1, 1)).view(-1)
    torch.testing.assert_close(doubled, every + every, rtol=0, atol=0, equal_nan=True)
    scaled = Activation("0.3 * x", 1, kernels="generated")(every.view(-1, 1)).view(-1)
    exact = (every.float() * 0.3).to(torch.bfloat16)
    torch.testing.assert_close(scaled, exact, rtol=0, atol=0, equal_nan=True)


def saved(module: nn.Module, x: torch.Tensor) -> int:
    """Tensors of the size of `x` that are kept for the backward pass, each storage once."""
    kept: set[int] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() >= x.numel():
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x.clone().requires_grad_())
    assert y.requires_grad
    return len(kept)


@pytest.mark.parametrize(
    "text",
    ["x * sigmoid(beta * x)", "exp(-beta * (sin(x) - atan(x))**2)", "max(x, tanh(x)) * sin(x)"],
)
def test_one_tensor_is_saved(text: str) -> None:
    assert saved(Activation(text, 3, kernels="generated"), INPUT) == 1
    assert saved(Activation(text, 3), INPUT) > 1


@pytest.mark.parametrize("text", ["cos(x) - x", "x * sigmoid(beta * x)"])
def test_nothing_is_saved_where_no_gradient_is_wanted(text: str) -> None:
    activation = Activation(text, 3, kernels="generated")
    leaf = INPUT.clone().requires_grad_()
    with torch.no_grad():
        y = activation(leaf)
    assert y.grad_fn is None
    torch.testing.assert_close(y, activation(leaf).detach(), rtol=0, atol=0)
    frozen = activation.requires_grad_(False)(INPUT)
    assert frozen.grad_fn is None


@pytest.mark.parametrize("text", ["cos(x) - x", "x * sigmoid(beta * x)"])
def test_a_gradient_can_be_taken_twice_of_one_output(text: str) -> None:
    leaf = INPUT.clone().requires_grad_()
    y = Activation(text, 3, kernels="generated")(leaf)
    one, two = (torch.autograd.grad(y.sum(), leaf, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_a_users_operator_is_fused_and_one_that_cannot_be_runs_eagerly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wave = Op("wave", 1, lambda x: x + torch.sin(x) ** 2)
    assert differences([Expr(wave, (X,))], "guarded") == []
    sorting = Op("sorting", 1, lambda x: torch.sort(x, dim=1).values)
    branching = Op("branching", 1, lambda x: x if x.sum() > 0 else -x)
    for op in (sorting, branching):
        expr = Expr(op, (X,))
        with caplog.at_level(logging.INFO, "actsearch"):
            ours = Activation(expr, 3, kernels="auto")(INPUT)
        torch.testing.assert_close(ours, Activation(expr, 3)(INPUT))
        with pytest.raises(RuntimeError, match="no generated kernel for"):
            Activation(expr, 3, kernels="generated")(INPUT)


@pytest.mark.parametrize("name", ["exp", "sinh", "cosh"])
def test_one_bound_does_not_hide_that_the_other_side_overflows(name: str) -> None:
    function, far = getattr(torch, name), torch.tensor([-500.0, -95.0, 0.0, 95.0, 500.0])
    for bounds in ((None, 10.0), (-10.0, None), (-100.0, 10.0), (-10.0, 100.0), (-88.0, 88.0)):
        op = Op("bounded", 1, lambda x, b=bounds: function(x.clamp(*b)))
        y = Activation(Expr(op, (X,)), 1, kernels="generated")(far.view(-1, 1)).view(-1)
        torch.testing.assert_close(y, function(far.clamp(*bounds)), rtol=1e-6, atol=2e-38)


def test_infinite_bounds_are_bounds() -> None:
    one_sided = Op("one_sided", 1, lambda x: x.clamp(-float("inf"), 1.0).clamp(max=float("inf")))
    assert differences([Expr(one_sided, (X,))], "guarded") == []


def test_a_copy_of_an_activation_finds_its_own_kernels() -> None:
    activation = Activation("cos(x) - beta * x", 3, kernels="generated")
    expected = activation(INPUT)
    torch.testing.assert_close(copy.deepcopy(activation)(INPUT), expected, rtol=0, atol=0)


def test_operators_of_one_name_that_do_different_things_are_not_mixed_up() -> None:
    one, two = (Expr(Op("wave", 1, f), (X,)) for f in (torch.sin, torch.cos))
    assert str(one) == str(two)
    for expr, function in ((one, torch.sin), (two, torch.cos)):
        y = Activation(expr, 3, kernels="generated")(INPUT)
        torch.testing.assert_close(y, function(INPUT), rtol=1e-5, atol=1e-5)


def test_other_types_and_a_second_derivative_run_eagerly_or_say_so() -> None:
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y = Activation("sin(x)", 3, kernels="auto")(x)
    [slope] = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(slope.sum(), x)[0], -torch.sin(x))
    single = torch.randn(5, 3, requires_grad=True)
    [slope] = torch.autograd.grad(
        Activation("sin(x)", 3, kernels="generated")(single).sum(), single, create_graph=True
    )
    assert not slope.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        slope.sum().backward()


@pytest.mark.parametrize("text", ["x * sigmoid(beta * x)", "x * sigmoid(beta * x) * g"])
def test_tensors_on_other_devices_are_refused_before_a_kernel_reads_them(text: str) -> None:
    x = torch.randn(2, 3)
    layer = Activation(text, 3, kernels="auto")
    given = [x] * layer.inputs
    layer(*given)
    with pytest.raises(RuntimeError, match="meta"):
        Activation(text, 3, kernels="auto").to("meta")(*given)
    if layer.inputs == 2:
        with pytest.raises(ValueError, match=r"cpu and .* on meta"):
            layer(x, x.to("meta"))


def test_an_activation_says_which_type_has_no_kernels() -> None:
    layer = Activation("sin(x)", 3, kernels="auto")
    layer(torch.randn(2, 3, dtype=torch.float64))
    assert layer.why_eager == "there are no kernels for torch.float64 on cpu"
    layer(torch.randn(2, 3))
    assert layer.why_eager == ""


def test_many_rows_do_not_lose_digits_of_a_betas_gradient() -> None:
    x = torch.rand(300_000, 2) + 0.5
    for channel_dim, shaped in ((1, x), (1, x.t().reshape(1, 2, -1).contiguous())):
        activation = Activation("beta * x", 2, channel_dim=channel_dim, kernels="generated")
        activation(shaped).sum().backward()
        exact = x.double().sum(0)
        torch.testing.assert_close(activation.beta[0].grad.double(), exact, rtol=2e-6, atol=0)


def test_the_cache_is_used_again_and_belongs_to_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = c.source(trace(parse("sin(x) * 0.123"), "guarded"), "float32", "flat")
    assert libraries.build([source, source]) == 1
    assert libraries.build([source]) == 0
    folder = tmp_path / "actsearch" / "kernels"
    assert [f.name for f in folder.iterdir()] == [f"{source.key}.so"]
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(compiler.CompileError, match="can be written by others"):
        libraries.build([source])


@pytest.mark.parametrize("above", [".", "actsearch"])
def test_a_cache_below_a_folder_that_everybody_can_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = libraries.cache_folder()
    shared = tmp_path / "cache" / above
    shared.chmod(0o777)
    with pytest.raises(compiler.CompileError, match="can be written by everybody") as refused:
        libraries.cache_folder()
    assert str(shared.resolve()) in str(refused.value)
    shared.chmod(0o1777)  # nobody moves what belongs to another
    assert libraries.cache_folder() == folder


def test_kernels_are_built_ahead_as_the_child_will_ask_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unfused = Op("sorting", 1, lambda x: torch.sort(x, dim=1).values)
    exprs = [parse("sin(x) * 0.25"), parse("x + 0.5 * beta"), Expr(unfused, (X,))]
    ahead = Ahead([("cpu", "float32", "flat"), ("cpu", "float32", "columns")], "guarded")
    ahead(exprs)
    assert ahead.wait() == 2
    monkeypatch.setattr(libraries, "_compile", None)  # nothing more is built
    for expr in exprs[:2]:
        x = torch.randn(4, 3)
        y = Activation(expr, 3, kernels="generated")(x)
        torch.testing.assert_close(y, Activation(expr, 3)(x))
    ahead.close()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    monkeypatch.setattr(compiler, "compiler", lambda: None)
    ahead = Ahead([("cpu", "float32", "flat")], "guarded")
    ahead(exprs)
    assert ahead.wait() == 0
    ahead.close()


def test_a_library_that_was_cut_short_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = c.source(trace(parse("sin(x) * 0.375"), "guarded"), "float32", "flat")
    libraries.build([source])
    [file] = libraries.cache_folder().glob("*.so")
    file.write_bytes(file.read_bytes()[:100])
    y = Activation("sin(x) * 0.375", 3, kernels="generated")(INPUT)
    torch.testing.assert_close(y, INPUT.sin() * 0.375)
    assert len(file.read_bytes()) > 1000
    assert "functions as vectors" in describe._kernels()  # what doctor says
    for file in libraries.cache_folder().glob("*.so"):
        file.unlink()
        file.write_bytes(b"")
    libraries.load.cache_clear()
    assert "functions as vectors" in describe._kernels()
    assert any(file.stat().st_size for file in libraries.cache_folder().glob("*.so"))


LOADED = """
import sys, torch
from actsearch.search_space.activation import Activation
x = torch.linspace(-3, 3, 300).view(2, 3, 50)
for text in sys.argv[1:]:
    y = Activation(text, 3, kernels="generated")(x)
    torch.testing.assert_close(y, Activation(text, 3)(x))
"""
# By four processes at once, for whom one has imported torch.
LOADED_BY_FOUR = f"""
import os, sys, torch, actsearch.search_space.activation
forked = []
while len(forked) < 4 and 0 not in forked:
    forked.append(os.fork())
if 0 in forked:
    exec({LOADED!r})
    os._exit(0)
sys.exit(any([os.waitpid(child, 0)[1] for child in forked]))
"""


def sealed(text: str) -> tuple[c.Source, Path]:
    """A library that was built, of this formula."""
    source = c.source(trace(parse(text), "guarded"), "float32", "flat")
    libraries.build([source])
    return source, libraries.cache_folder() / f"{source.key}.so"


def test_a_library_that_was_cut_short_anywhere_or_changed_is_known_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every length of a real one, and a flip of every 97th byte."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, file = sealed("sin(x) * 0.4375")
    content = file.read_bytes()
    assert libraries._whole(file)
    copy = tmp_path / "copy.so"
    copy.write_bytes(content)
    with open(copy, "r+b") as opened:
        for length in range(len(content) - 1, -1, -1):
            opened.truncate(length)
            assert not libraries._whole(copy), f"{length} of {len(content)} bytes"
    for place in range(0, len(content), 97):
        copy.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        assert not libraries._whole(copy), f"byte {place} of {len(content)}"
    copy.write_bytes(content + b"0")
    assert not libraries._whole(copy)
    assert not libraries._whole(tmp_path / "none.so")


@pytest.mark.thorough
def test_a_process_that_meets_a_library_cut_short_at_any_page_trains_and_builds_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a process was killed by SIGBUS for 11 of 19 lengths."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = [f"sin(x) * {1 + i / 64}" for i in range(19)]
    files = []
    for i, text in enumerate(texts):
        _, file = sealed(text)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) * i // len(texts)])
        files.append(file)
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *texts], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert all(libraries._whole(file) for file in files)


@pytest.mark.thorough
def test_processes_that_build_the_same_library_at_once_all_find_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = [f"cos(x) * {1 + i / 64}" for i in range(4)]
    for text in texts:  # each begins with a library that was cut short
        _, file = sealed(text)
        file.write_bytes(file.read_bytes()[:9000])
    done = subprocess.run([sys.executable, "-c", LOADED_BY_FOUR, *texts], timeout=300)
    assert done.returncode == 0
    files = sorted(libraries.cache_folder().iterdir())
    assert len(files) == len(texts)  # and nothing of the building is left
    assert all(map(libraries._whole, files))


@pytest.mark.parametrize("broken", ["none", "refusing"])
def test_without_a_working_compiler_activations_run_eagerly_and_it_is_said_once(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "compiler", lambda: None if broken == "none" else "/bin/false")
    for cached in (fused.kernel, fused._log):
        cached.cache_clear()
    with caplog.at_level(logging.WARNING, "actsearch"):
        for text in ("sin(x)", "cos(x)"):
            torch.testing.assert_close(
                Activation(text, 3, kernels="auto")(INPUT), Activation(text, 3)(INPUT)
            )
    assert len(caplog.records) == 1
    assert "activations run eagerly" in caplog.text
    for cached in (fused.kernel, fused._log):
        cached.cache_clear()


def test_the_source_is_one_that_can_be_read() -> None:
    text = c.source(trace(parse("x * sigmoid(beta * x)"), "guarded"), "float32", "rows").text
    assert "float x = from(xs[i]);" in text
    assert len(re.findall("m_sigmoid", text)) == 2  # once forward, once backward
    text = c.source(trace(parse("tanh(exp(x))"), "guarded"), "float32", "flat").text
    assert "= kept[0][i - start];" in text  # tanh waits for exp in a loop of its own


def test_source_for_gpus_is_python_for_the_whole_grammar() -> None:
    for operators in OPERATOR_SETS:
        for expr in one_unit(operators, 37):
            traced = trace(expr, operators)
            for layout in ("columns", "rows") if traced.betas else ("flat",):
                source = cuda.source(traced, layout)
                body = ast.parse(source.text).body
                functions = {n.name for n in body if isinstance(n, ast.FunctionDef)}
                assert functions >= {"forward", "sloped" if keeps_slope(traced) else "backward"}
                assert cuda.source(trace(expr, operators), layout) == source


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="no triton beside this torch"
)
@pytest.mark.parametrize(
    "options", [[], pytest.param(["--all"], marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_kernels_for_gpus_agree_with_eager_mode_in_tritons_interpreter(options: list[str]) -> None:
    command = [sys.executable, "-m", "tests.triton_interpreted", *options]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.stdout == "equal\n", done.stderr[-3000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
@pytest.mark.parametrize("operators", OPERATOR_SETS)
def test_kernels_on_a_gpu_agree_with_eager_mode(operators: str, layout: str) -> None:
    x = INPUT.cuda().to(memory_format=getattr(torch, layout))
    exprs = [Expr(op, (X,) * op.arity) for op in UNARY]
    exprs += [Expr(op, (X, parse("sin(x)"))) for op in BINARY]
    exprs += one_unit(operators, 103) if layout == "channels_last" else []
    assert differences(exprs, operators, x) == []


def test_a_gpu_kernel_that_does_not_compile_leaves_its_function_to_eager_mode(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refusing:
        @property
        def BLOCK(self) -> dict[str, int]:
            return {"forward": 1024}

        @property
        def forward(self) -> object:
            raise RuntimeError("triton: no such architecture")

    fused._log.cache_clear()
    kernel = cuda.Kernel(Refusing(), "flat")  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "actsearch"):
        assert "no such architecture" in fused._trouble(kernel, [INPUT], [], fused.NO_BETAS)
    assert "no such architecture" in caplog.text
    fused._log.cache_clear()


def test_steps_that_change_nothing_are_dropped() -> None:
    program = Program()
    zero, one, x = program.const(0.0), program.const(1.0), program.node("x")
    assert program.node("neg", program.node("neg", x)) is x
    assert program.add(zero, x) is program.add(x, zero) is program.sub(x, zero) is x
    assert program.mul(one, x) is program.mul(x, one) is program.node("div", x, one) is x
    assert program.sub(zero, x) is not x
