"""Batch normalisation by our own loops, against torch's."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from child_models import batch_norm
from child_models.batch_norm import BatchNorm2d, use_kernels
from child_models.datasets import make_dataset
from child_models.evaluate import Evaluator
from child_models.recipe import Recipe
from child_models.zoo import child_from
from search_space.kernels import compiler, libraries
from search_space.kernels.compiler import CompileError

needs_compiler = pytest.mark.skipif(compiler.compiler() is None, reason="no C compiler")


def pair(channels: int, **options: Any) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    """Ours and torch's, alike."""
    theirs = nn.BatchNorm2d(channels, **options)
    if theirs.affine:
        nn.init.uniform_(theirs.weight)
        nn.init.normal_(theirs.bias)
    ours = nn.Sequential(copy.deepcopy(theirs))
    use_kernels(ours)
    assert type(ours[0]) is BatchNorm2d
    return ours[0], theirs


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).to(memory_format=torch.channels_last)


def refuses(*_: Any) -> None:
    raise AssertionError("our loops were asked for")


def all_of(norm: nn.BatchNorm2d, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """Output, moving statistics, and the gradients of input, weight and bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    x = x.to(norm.weight.dtype).requires_grad_()
    y = norm(x)
    gradients = torch.autograd.grad(y, [x, norm.weight, norm.bias], gradient.to(y.dtype))
    return [y.detach(), norm.running_mean.clone(), norm.running_var.clone(), *gradients]


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@needs_compiler
@pytest.mark.parametrize(
    "shape",
    [(64, 8, 14, 14), (5, 3, 7, 7), (2, 64, 1, 1), (3, 300, 4, 5), (1, 1, 40, 41), (33, 16, 9, 9)],
)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_outputs_gradients_and_moving_statistics_are_torchs(
    shape: tuple[int, ...], offset: float
) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(shape[1], momentum=0.3, eps=1e-3)
    exact = copy.deepcopy(theirs).double()
    for _ in range(3):  # the moving statistics move on
        x, gradient = images(*shape) + offset, images(*shape)
        results = [all_of(norm, x, gradient) for norm in (ours, theirs, exact)]
        for i, (mine, torchs, right) in enumerate(zip(*results, strict=True)):
            bound = max(2e-6, 3 * error(torchs, right), 2**-24 * offset)  # inputs' own digits
            assert error(mine, right) < bound, i
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 3
    ours.eval(), theirs.eval()
    assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6 * max(1.0, offset))


@needs_compiler
def test_long_sums_round_less_than_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = pair(8)
    exact = copy.deepcopy(theirs).double()
    x = images(64, 8, 32, 33) + 3
    gradient = torch.rand(x.shape).to(memory_format=torch.channels_last)  # no two cancel
    mine, torchs, right = (all_of(norm, x, gradient) for norm in (ours, theirs, exact))
    assert error(mine[5], right[5]) < 6e-8  # that of the bias: the sum of all
    for a, b, c in zip(mine, torchs, right, strict=True):
        assert error(a, c) <= error(b, c)


@needs_compiler
def test_a_gradient_that_lies_otherwise_is_the_same() -> None:
    ours, _ = pair(6)
    x = images(4, 6, 5, 5).requires_grad_()
    y = ours(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(4, 6, 5, 5)
    [first] = torch.autograd.grad(y, x, gradient, retain_graph=True)
    [second] = torch.autograd.grad(y, x, gradient.to(memory_format=torch.channels_last))
    assert torch.equal(first, second)
    [third] = torch.autograd.grad(ours(x).sum(), x)  # an expanded gradient
    assert third.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("options", "x"),
    [
        ({}, torch.randn(4, 6, 5, 5)),
        ({}, images(4, 6, 5, 5).double()),
        ({}, images(4, 6, 5, 5).bfloat16()),
        ({"affine": False}, images(4, 6, 5, 5)),
        ({"track_running_stats": False}, images(4, 6, 5, 5)),
        ({"momentum": None}, images(4, 6, 5, 5)),
    ],
)
def test_what_our_loops_are_not_for_is_torchs(
    options: dict[str, Any], x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_norm, "_loops", refuses)
    ours, theirs = pair(6, **options)
    if x.dtype == torch.float64:
        ours, theirs = ours.double(), theirs.double()
    assert torch.equal(ours(x), theirs(x))
    if theirs.running_mean is not None:
        assert torch.equal(ours.running_mean, theirs.running_mean)  # type: ignore[arg-type]


def test_evaluation_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "_loops", refuses)
    ours, theirs = pair(6)
    x = images(4, 6, 5, 5)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def no_compiler(sources: Any) -> int:
    raise CompileError("no C compiler")


@pytest.mark.parametrize("build", [no_compiler, lambda sources: 0])
def test_where_nothing_can_be_built_or_loaded_it_is_torchs(
    build: Callable[[Any], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(libraries, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(libraries, "build", build)
    source = batch_norm.c.named(batch_norm.CODE, "float32")
    (tmp_path / f"{source.key}.so").write_text("no library")
    batch_norm._loops.cache_clear()
    try:
        assert batch_norm._loops() is None
        ours, theirs = pair(6)
        x = images(4, 6, 5, 5)
        assert torch.equal(ours(x), theirs(x))
    finally:
        batch_norm._loops.cache_clear()


def test_errors_are_torchs() -> None:
    ours, _ = pair(6)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(images(1, 6, 1, 1))
    with pytest.raises(RuntimeError, match="6"):
        ours(images(4, 5, 3, 3))
    ours.running_mean = torch.zeros(5)
    with pytest.raises(RuntimeError, match="running_mean"):
        ours(images(4, 6, 3, 3))
    ours, _ = pair(6)
    ours.running_var = torch.ones(6, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="Float"):
        ours(images(4, 6, 3, 3))
    ours, _ = pair(6, eps=0.0)
    with pytest.raises(ValueError, match="eps"):
        ours(images(4, 6, 3, 3))


def test_other_devices_and_kinds_of_tensors_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our loops would read addresses that are none here."""
    monkeypatch.setattr(batch_norm, "_loops", refuses)
    ours, _ = pair(6)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        assert ours(fake.from_tensor(images(4, 6, 5, 5))).shape == (4, 6, 5, 5)
    meta = copy.deepcopy(ours).to("meta")
    assert meta(images(4, 6, 5, 5).to("meta")).shape == (4, 6, 5, 5)
    with suppress(RuntimeError):  # torch's, for an input and weights on different devices
        meta(images(4, 6, 5, 5))


def test_weights_that_are_views_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "_loops", refuses)
    ours, theirs = pair(6)
    x, weight = images(4, 6, 5, 5), torch.rand(6, 2)[:, 0]
    outputs = [torch.func.functional_call(m, {"weight": weight}, (x,)) for m in (ours, theirs)]
    assert torch.equal(*outputs)


@needs_compiler
def test_a_users_default_type_is_not_ours() -> None:
    ours, theirs = pair(4096)
    x = images(2, 4096, 2, 2)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        y = ours(x)
    finally:
        torch.set_default_dtype(before)
    assert torch.allclose(y, theirs(x), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_saved_tensors_may_come_back_in_another_layout() -> None:
    ours, theirs = pair(6)
    x, gradients = images(4, 6, 5, 5), []
    for norm in (ours, theirs.double()):
        z = x.to(norm.weight.dtype).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: t.clone(memory_format=torch.contiguous_format), lambda t: t
        ):
            y = norm(z)
        gradients.append(torch.autograd.grad(y.square().sum(), z)[0].float())
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_values_that_are_not_finite_show() -> None:
    ours, theirs = pair(2)
    x = images(4, 2, 3, 3)
    x[1, 0, 2, 2] = torch.inf
    mine, torchs = ours(x), theirs(x)
    assert torch.equal(mine.isnan(), torchs.isnan())
    assert not mine[:, 0].isfinite().any()
    assert mine[:, 1].isfinite().all()


@needs_compiler
def test_it_is_differentiated_once() -> None:
    ours, _ = pair(6)
    x = images(4, 6, 5, 5).requires_grad_()
    [first] = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_child_has_it_but_in_eager_mode() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8, 3)).astype(np.uint8), np.arange(60) % 3
    data, child = make_dataset("pictures", (x, y)), child_from("resnet8:width=4")
    models = {
        kernels: Evaluator(data, child, Recipe(steps=2), kernels=kernels).build("relu(x)")
        for kernels in ("auto", "eager")
    }
    kinds = {
        kernels: {type(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
        for kernels, model in models.items()
    }
    assert kinds == {"auto": {BatchNorm2d}, "eager": {nn.BatchNorm2d}}
    models["eager"].load_state_dict(models["auto"].state_dict())
    again = pickle.loads(pickle.dumps(models["auto"]))
    assert str(again) == str(models["eager"])


def test_other_libraries_subclasses_stay() -> None:
    class Theirs(nn.BatchNorm2d):
        pass

    model = nn.Sequential(Theirs(3), nn.BatchNorm1d(3))
    use_kernels(model)
    assert [type(m) for m in model] == [Theirs, nn.BatchNorm1d]
