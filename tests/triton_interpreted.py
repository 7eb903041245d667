"""The kernels for GPUs, run on the CPU by Triton's interpreter and compared with eager mode:

    python -m tests.triton_interpreted [--all]

Without --all each layout but the first meets a third of the functions, fewer shapes are convolved,
and no ResNet takes a step.
Needs triton, which comes with the CUDA builds of torch. The interpreter does not know libdevice,
so numpy stands in for its functions.
"""

from __future__ import annotations

import math
import os
import runpy
import sys

os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

import actsearch
from actsearch.child_models.networks import convolution
from actsearch.child_models.networks import normalised as children
from actsearch.child_models.networks.zoo import child_from
from actsearch.search_space.activation import Activation
from actsearch.search_space.expression import Expr
from actsearch.search_space.kernels import cuda, normalised
from actsearch.search_space.kernels.fused import NO_BETAS, _loops
from actsearch.search_space.kernels.normalised_triton import moments
from actsearch.search_space.kernels.tracing import trace
from actsearch.search_space.operators import BINARY, UNARY
from actsearch.search_space.parser import parse
from actsearch.search_space.text import OPERATOR_SETS

X = parse("x")
FORMULAS = (
    "cos(x) - x", "max(x, tanh(x))", "x * sigmoid(beta * x)", "mix(x, sin(beta * x))",
    "exp(-beta * (sin(x) - atan(x))**2)", "softplus(x)", "max(x, -x)", "0.5 + beta", "2 * x",
    "max(cos(sinh(x) * x), tanh(x) + beta) * sigmoid(asinh(x) - erf(x))",
)  # fmt: skip
GATES = ("swiglu", "mix(x, sin(beta * g))", "max(x, g)", "erf(x) * asinh(g) + beta")
torch.manual_seed(0)
SHAPES = {
    "images": torch.randn(4, 3, 6, 5),
    "channels last": torch.randn(4, 3, 6, 5).to(memory_format=torch.channels_last),
    "vectors": torch.randn(70, 3),
    "many": torch.randn(3000, 3),
    "many, in whole rows of 16": torch.randn(3008, 3),
    "planes of 16": torch.randn(4, 3, 4, 8),
    "planes of 16, channels last": torch.randn(4, 3, 4, 8).to(memory_format=torch.channels_last),
    "bfloat16": torch.randn(4, 3, 6, 5).to(torch.bfloat16),
}
DEAR = {"many"}  # the interpreter takes half a second for each function


def stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, *others: Any) -> Any:
        values = np.asarray(function(x.handle.data, *(o.handle.data for o in others)), np.float32)
        return tl.core.tensor(TensorHandle(values, tl.float32), x.type)

    return call


def stand_ins() -> None:
    names = {name: getattr(np, name) for name in ("exp", "log", "log1p", "sin", "cos", "sinh",
             "cosh", "tanh")}  # fmt: skip
    names |= {
        "div_rn": np.divide,
        "asinh": np.arcsinh,
        "atan": np.arctan,
        "erf": np.vectorize(math.erf),
    }
    for name, function in names.items():
        setattr(libdevice, name, stand_in(function))


def bounds_of_loops() -> None:
    """Scalars are arrays of length 1 there, which numpy since 2.4 does not take for an integer."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def compare(expr: Expr, operators: str, x: torch.Tensor) -> None:
    activation = Activation(expr, 3, operators=operators)
    with torch.no_grad():
        for i, beta in enumerate(activation.beta):
            beta.add_((i + 1) * torch.tensor([0.0, 0.3, -1.2]))
    inputs = [x, x.flip(0) * 0.7 + 0.1][: len(expr.inputs)]
    leaves = [t.clone().requires_grad_() for t in inputs]
    expected = activation(*leaves)
    gy = torch.empty_like(x).copy_(torch.cos(torch.arange(x.numel())).view(x.shape))
    if expected.requires_grad:
        expected.backward(gy)
    betas = torch.stack([b.detach() for b in activation.beta]) if activation.beta else None
    layout, sizes = ("flat", NO_BETAS) if betas is None else _loops(x, 1)
    kernel = cuda.load(cuda.source(trace(expr, operators), layout))
    y, *ginputs = (torch.empty_like(x) for _ in (x, *inputs))
    kernel.forward(inputs, y, betas, sizes)
    gbetas = None
    if kernel.keeps_slope:
        kernel.sloped(inputs, y, ginputs)
        ginputs = [gy * slope for slope in ginputs]
    else:
        gbetas = kernel.backward(inputs, gy, ginputs, betas, sizes)
    close = 2e-4 if x.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(y, expected.detach(), rtol=close, atol=close, equal_nan=True)
    for ours, leaf in zip(ginputs, leaves, strict=True):
        grad = torch.zeros_like(x) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(ours, grad, rtol=close, atol=close, equal_nan=True)
    for ours, beta in zip([] if gbetas is None else gbetas, activation.beta, strict=True):
        assert beta.grad is not None
        torch.testing.assert_close(ours, beta.grad, rtol=10 * close, atol=100 * close)


def compare_exported(text: str, folder: Path) -> None:
    """A file of `export --to triton` and the module that it is of."""
    file = folder / "exported.py"
    file.write_text(str(actsearch.export(text, "triton", name="my_gate")))
    ours = Activation(text, 6, channel_dim=-1)
    theirs = runpy.run_path(str(file))["MyGate"](6)
    theirs.load_state_dict({k: v + 0.3 for k, v in ours.state_dict().items()})
    ours.load_state_dict(theirs.state_dict())
    found: list[list[torch.Tensor]] = []
    for activation in (ours, theirs):
        torch.manual_seed(1)
        inputs = [torch.randn(5, 70, 6).requires_grad_() for _ in range(ours.inputs)]
        y = activation(*inputs)
        (y * torch.cos(torch.arange(y.numel())).view(y.shape)).sum().backward()
        grads = [t.grad for t in (*inputs, *activation.parameters()) if t.grad is not None]
        found.append([y.detach(), *grads])
    torch.testing.assert_close(*found, rtol=2e-4, atol=2e-3)
    whole = [torch.zeros(2, 6) for _ in range(ours.inputs)]
    refused = [[t.double() for t in whole]]
    if ours.inputs == 2:
        refused.append([torch.zeros(2, 6), torch.zeros(1, 6)])
    for inputs in refused:
        try:
            theirs(*inputs)
        except ValueError:
            continue
        raise AssertionError(f"{text} takes {[(t.shape, t.dtype) for t in inputs]}")


def some_images() -> torch.Tensor:
    x = torch.randn(5, 32, 6, 7).to(torch.bfloat16)
    return x.to(memory_format=torch.channels_last)


def compare_normalised(expr: Expr, residual: torch.Tensor | None) -> None:
    """With batch normalisation and the activation in float32, in training."""
    z, gy = some_images(), some_images()
    norm, activation = torch.nn.BatchNorm2d(32), Activation(expr, 32)
    with torch.no_grad():
        for parameter in (norm.weight, norm.bias, *activation.beta):
            parameter.add_(0.3 * torch.randn(32))
    moments = [m.clone() for m in (norm.running_mean, norm.running_var)]
    leaf = z.float().requires_grad_()
    added = None if residual is None else residual.float().requires_grad_()
    u = norm(leaf)
    expected = activation(u if added is None else u + added)
    expected.backward(gy.float())

    weight, bias = norm.weight.detach(), norm.bias.detach()
    rows = [b.detach() for b in activation.beta]
    betas = torch.stack(rows) if rows else torch.empty(0, 32)
    kernel = normalised.load(normalised.source(trace(expr, "guarded")))
    of = normalised.Normalisation(weight, bias, *moments, norm.eps, norm.momentum or 0.0)
    y, kept = kernel.forward(z, residual, of, betas)
    gz, gu, totals = kernel.backward(z, residual, gy, kept, weight, bias, betas)
    found = [y, gz, totals[0], totals[1], *totals[2:], *moments]
    wanted = [expected, leaf.grad, norm.bias.grad, norm.weight.grad]
    wanted += [*(b.grad for b in activation.beta), norm.running_mean, norm.running_var]
    if added is not None:
        found, wanted = [*found, gu], [*wanted, added.grad]
    for ours, theirs in zip(found, wanted, strict=True):
        assert theirs is not None
        torch.testing.assert_close(ours.float(), theirs.detach(), rtol=3e-2, atol=3e-2)


@triton.jit
def moments_alone(P, Y, positions, MOST: tl.constexpr):
    c = tl.arange(0, 16)[None, :]
    mean, variance = moments(P, positions, 16, positions, 1, c, MOST)
    tl.store(Y + c, mean)
    tl.store(Y + 16 + c, variance)


def compare_moments(positions: int) -> None:
    """The running ones, of so many that a product with them would not fit in 32 bits."""
    found = torch.zeros(2, 16)
    kept = torch.stack((torch.full((16,), 2.0), torch.full((16,), 0.25 * positions)))
    moments_alone[(1,)](kept, found, positions, MOST=normalised.MOST_PARTS)
    torch.testing.assert_close(found, torch.tensor([[2.0], [0.25]]).expand(2, 16))


def compare_convolution(shape: tuple[int, ...], channels: int, stride: int) -> None:
    layout = torch.channels_last
    x = torch.randn(shape).to(memory_format=layout).requires_grad_()
    weight = torch.randn(channels, shape[1], 3, 3).to(memory_format=layout).requires_grad_()
    expected = F.conv2d(x, weight, None, stride, 1)
    gy = torch.randn_like(expected).contiguous(memory_format=layout)
    expected.backward(gy)
    leaf, weights = x.detach(), weight.detach()
    pairs = [
        (convolution.convolved(leaf, weights, stride), expected.detach()),
        (convolution.weight_gradient(leaf, gy, weights, stride), weight.grad),
    ]
    if shape[1] in convolution.CHANNELS:
        pairs.append((convolution.input_gradient(gy, weights, leaf, stride), x.grad))
    for ours, theirs in pairs:
        assert theirs is not None
        assert ours.stride() == theirs.stride()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def compare_children() -> None:
    """A step of a ResNet, and its scores after it, in float32 by all of a GPU's kernels."""
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    found: list[list[torch.Tensor]] = []
    for fits in (False, True):
        convolution.Conv3x3._fits = lambda self, x, fits=fits: fits
        children._fits = lambda norm, z, fits=fits: fits
        torch.manual_seed(0)
        make = partial(Activation, "x * sigmoid(beta * x)", kernels="auto" if fits else "eager")
        model = child_from("resnet8")(make, input_shape=(3, 8, 8), classes=4)
        model.to(memory_format=torch.channels_last)
        F.cross_entropy(model(x), torch.arange(2)).backward()
        model.eval()
        with torch.no_grad():
            scores = model(x)
        moments = [m for name, m in model.named_buffers() if not name.endswith("tracked")]
        found.append(
            [scores, *moments, *(p.grad for p in model.parameters() if p.grad is not None)]
        )
    kinds = {k for m in model.modules() if isinstance(m, Activation) for k in m.kernel_kinds}
    assert kinds == {("bfloat16", normalised.LAYOUT)}
    assert len(found[0]) == len(found[1])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def main() -> None:
    everything = "--all" in sys.argv
    np.seterr(all="ignore")
    stand_ins()
    bounds_of_loops()
    for i, (name, x) in enumerate(SHAPES.items()):
        some = (*FORMULAS[i % 3 :: 3], *GATES[i % 2 :: 2])
        few = (*FORMULAS[::3], *GATES[::2])
        every = few if name in DEAR else (*FORMULAS, *GATES)
        for text in every if i == 0 or everything else some:
            compare(parse(text), "guarded", x)
    with TemporaryDirectory() as folder:
        for text in ("swiglu", "x * sigmoid(beta * x) * sinc(g) + beta", "x * sigmoid(beta * x)"):
            compare_exported(text, Path(folder))
    for op in (*UNARY, *BINARY):
        name = "images" if op in UNARY else "channels last"
        expr = Expr(op, (X, parse("sin(x)"))[: op.arity])
        code: set[str] = set()  # which the sets have in common of most operators
        for operators in OPERATOR_SETS:
            traced = trace(expr, operators)
            source = cuda.source(traced, "columns" if traced.betas else "flat")
            if source.text not in code:
                code.add(source.text)
                compare(expr, operators, SHAPES[name])
    for text in ("cos(x) - x", "mix(x, sin(beta * x))", FORMULAS[-1]):
        for residual in (None, some_images()):
            compare_normalised(parse(text), residual)
    compare_moments(2**25)
    compare_convolution((1, 1, 6, 5), 16, 1)  # of an odd width
    compare_convolution((1, 32, 5, 6), 64, 2)
    compare_convolution((2, convolution.CHANNELS[0], 4, 8), convolution.CHANNELS[0], 1)
    if everything:
        compare_convolution((2, 3, 8, 8), 16, 1)
        compare_convolution((2, 16, 8, 8), 32, 2)
        for channels in convolution.CHANNELS[1:]:
            compare_convolution((2, channels, 4, 8), channels, 1)
        compare_children()
    sys.stdout.write("equal\n")


if __name__ == "__main__":
    main()
