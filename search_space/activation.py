"""Activation: an expression as an nn.Module, to put where nn.ReLU stood; act_layer() for libraries
that make their activations themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from actsearch.search_space.expression import Expr, at_betas, formula
from actsearch.search_space.kernels.fused import REASONS, Fused
from actsearch.search_space.kernels.normalised import Kernel as NormalisedKernel
from actsearch.search_space.operators import CONSTANT, INPUTS, Op
from actsearch.search_space.parser import parse
from actsearch.search_space.text import check_kernels, check_operator_set


class MakeActivation(Protocol):
    """The candidate for a layer of that width; `channel_dim` is where the channels are.

    A layer that can hand out a second projection says by `gated` how wide it is with a gate; it
    asks `inputs_of` of what it is given. Raises ValueError for a gate where it does not.
    """

    def __call__(
        self, width: int, /, *, channel_dim: int = 1, gated: int | None = None
    ) -> nn.Module: ...


def inputs_of(activation: nn.Module) -> int:
    """How many inputs what MakeActivation has made is called with: of a gate 2, x and g."""
    return getattr(activation, "inputs", 1)


# What RUN#RANK means. Runs are not known here, so the package above says it.
ranked: Callable[[str, str | None], tuple[Expr, str]] | None = None


def read(function: Expr | str, operators: str | None = None) -> tuple[Expr, str]:
    """The function that is meant and its operator set: of an expression, a formula or a name the
    one that is asked for [guarded], of RUN#RANK that of its run."""
    if isinstance(function, str) and "#" in function and ranked is not None:
        return ranked(function, operators)
    check_operator_set(operators or "guarded")
    expr = parse(function) if isinstance(function, str) else function
    return expr, operators or "guarded"


def check_one_input(expr: Expr, why: str) -> None:
    """Raises ValueError for a gate."""
    if len(expr.inputs) > 1:
        raise ValueError(
            f"{why}, and {formula(expr)} is a gate of x and g; export --to torch writes the whole "
            "block with its second projection"
        )


class Activation(nn.Module):
    """`expr`, an expression, a formula, a known function's name or RUN#RANK, as `runs/tiny#1`,
    applied elementwise to x or, a gate, to x and g, every beta a trainable parameter with one value
    a channel, or one for the whole layer where `channels` is None, as of nn.PReLU.

    Takes (N, C), (N, C, L) and (N, C, H, W); for sequences (N, L, C) give `channel_dim=-1`; without
    `channels` any shape. The output has the input's shape and dtype; 16-bit inputs, under autocast
    too, are computed in float32. `operators` is the operator set, `guarded` or `paper` [that of the
    run, else guarded]. `kernels` is `eager` for torch's operators one after another, `auto` for one
    generated kernel where there can be one (a CPU with a C compiler; saves only its input, and can
    be differentiated once), `generated` to insist on it. What torch.compile compiles are torch's
    operators, whichever of these it is. `inplace` is accepted and ignored, since
    code that was written for nn.ReLU passes it. A gate has `gated` channels where that is given, as
    layers do that are narrower with two projections. Raises ValueError where the input's channels
    are not `channels`, and where x and g are not alike.
    """

    def __init__(
        self,
        expr: Expr | str,
        channels: int | None = None,
        *,
        channel_dim: int = 1,
        operators: str | None = None,
        kernels: str = "eager",
        inplace: bool = False,
        gated: int | None = None,
    ) -> None:
        super().__init__()
        check_kernels(kernels)
        if channels is not None and channels < 1:
            raise ValueError(
                f"channels={channels} is too small; use 1 or more, or None for one beta a layer"
            )
        self.expr, self.operators = read(expr, operators)
        self.channels = channels if gated is None or self.inputs == 1 else gated
        self.channel_dim = channel_dim
        self.kernels = kernels
        self._fused = None if kernels == "eager" else Fused(self.expr, self.operators)
        self.beta = nn.ParameterList()
        self._steps: list[tuple[Op, float, tuple[int, ...], int | None]] = []
        self._slots: dict[Expr, int] = {}
        self._output = self._compile(self.expr)

    @property
    def inputs(self) -> int:
        """2 of a gate, else 1."""
        return len(self.expr.inputs)

    def _compile(self, expr: Expr) -> int:
        """Add the steps that compute `expr`; returns its slot. Equal parts without a beta of
        their own share, so named betas are one parameter."""
        if expr in self._slots:
            return self._slots[expr]
        read = expr.op in INPUTS
        args = (INPUTS.index(expr.op),) if read else tuple(map(self._compile, expr.args))
        beta = None
        if expr.beta is not None:
            beta = len(self.beta)
            width = 1 if self.channels is None else self.channels
            self.beta.append(nn.Parameter(torch.full((width,), float(expr.beta))))
        self._steps.append((expr.op, expr.value or 0.0, args, beta))
        if expr.own == 0:
            self._slots[expr] = len(self._steps) - 1
        return len(self._steps) - 1

    def forward(self, x: torch.Tensor, *g: torch.Tensor) -> torch.Tensor:
        """Of x, or of x and g of a gate, which have the same shape, dtype and device."""
        if g or self.inputs > 1:
            self._check_alike(x, g)
        fused = None if torch.compiler.is_compiling() else self._fused
        if fused is not None and (y := self._generated(fused, x, *g)) is not None:
            return y
        if x.dtype in (torch.float16, torch.bfloat16):
            with torch.autocast(x.device.type, enabled=False):
                return self._evaluate(x.float(), *(t.float() for t in g)).to(x.dtype)
        return self._evaluate(x, *g)

    def _check_alike(self, x: torch.Tensor, g: Sequence[torch.Tensor]) -> None:
        if len(g) + 1 != self.inputs:
            takes = "x and g" if self.inputs > 1 else "x alone"
            raise ValueError(f"{formula(self.expr)} takes {takes}, not {len(g) + 1} input(s)")
        kinds = [(tuple(t.shape), t.dtype, t.device) for t in (x, *g)]
        if kinds[0] != kinds[1]:
            one, other = (f"{shape} {dtype} on {device}" for shape, dtype, device in kinds)
            raise ValueError(
                f"x and g of a gate have one shape, dtype and device, not {one} and {other}"
            )

    def _generated(self, fused: Fused, *inputs: torch.Tensor) -> torch.Tensor | None:
        """By a generated kernel; None where there is none for these inputs."""
        x = inputs[0]
        self._beta_shape(x)
        dim, betas = self.channel_dim, [*self.beta]
        if self.channels is None:  # the same for all of some dimension
            if x.ndim == 0:
                return None
            dim = min(1, x.ndim - 1)
            betas = [beta.expand(x.shape[dim]) for beta in betas]
        y = fused(inputs, betas, dim)
        if y is None and self.kernels == "generated":
            raise RuntimeError(
                f"no generated kernel for {self.expr} on {x.device.type}, {x.dtype}, strides "
                f"{tuple(x.stride())}; kernels='auto' falls back to eager mode"
            )
        return y

    def normalised_kernel(self, z: torch.Tensor) -> NormalisedKernel | None:
        """For this function of a batch normalisation of `z`, on a GPU; None where there is none."""
        if self._fused is None or self.channel_dim not in (1, 1 - z.ndim) or self.inputs > 1:
            return None
        self._beta_shape(z)
        return self._fused.normalised(z, [*self.beta])

    @property
    def kernel_kinds(self) -> set[tuple[str, str]]:
        """(element, layout) of the generated kernels in use: what its inputs looked like."""
        return set() if self._fused is None else self._fused.kinds

    @property
    def why_eager(self) -> str:
        """Why it is computed in eager mode although kernels were asked for, as far as it is known
        by now, or ""."""
        if self._fused is None or self.kernel_kinds:
            return ""
        return self._fused.unfit or REASONS.get(self.expr, "")

    def _evaluate(self, *inputs: torch.Tensor) -> torch.Tensor:
        x = inputs[0]
        betas = [b.to(x.dtype).view(self._beta_shape(x)) for b in self.beta]
        values: list[torch.Tensor] = []
        for (
            op,
            value,
            args,
            beta,
        ) in self._steps:  # torch.compile follows, but compares no operators
            if op.name == CONSTANT.name:
                values.append(_constant(value, x))
            elif op.arity == 0 and beta is None:
                values.append(inputs[args[0]])
            else:
                given = [values[i] for i in args]
                fn = op.form(self.operators)
                values.append(fn(*given) if beta is None else fn(*given, betas[beta]))
        y = values[self._output]
        return y if y.shape == x.shape else y.expand_as(x)

    def _beta_shape(self, x: torch.Tensor) -> tuple[int, ...]:
        if self.channels is None:
            return (1,) * x.ndim
        if not -x.ndim <= self.channel_dim < x.ndim:
            raise ValueError(
                f"this activation has {self.channels} channels in dimension {self.channel_dim}, "
                f"which its input of shape {tuple(x.shape)} does not have; without channels= it "
                "has one beta for the layer"
            )
        if x.shape[self.channel_dim] != self.channels:
            raise ValueError(
                f"this activation has {self.channels} channels, but its input of shape "
                f"{tuple(x.shape)} has {x.shape[self.channel_dim]} in dimension "
                f"{self.channel_dim}; "
                "give channels= the width of the layer, and channel_dim=-1 for (N, L, C)"
            )
        shape = [1] * x.ndim
        shape[self.channel_dim] = self.channels
        return tuple(shape)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Put every beta at its initial value, as where a library has made the model without
        memory (on the meta device) and had no weights for it."""
        for beta, value in zip(self.beta, self.expr.initial, strict=True):
            beta.fill_(value)

    def fixed(self) -> Expr:
        """The function as it is now: in the place of each beta its mean over the channels, to four
        digits."""
        return at_betas(self.expr, [float(f"{beta.detach().mean():.4g}") for beta in self.beta])

    def formula(self) -> str:
        """That of `fixed()`, such as `x * sigmoid(1.37 * x)`. Where channels have learnt different
        betas it is a summary, and the function of no one channel."""
        return formula(self.fixed())

    def extra_repr(self) -> str:
        width = "" if self.channels is None else f", channels={self.channels}"
        return f"{formula(self.expr)}{width}"


def act_layer(
    function: Expr | str,
    channels: int | None = None,
    *,
    channel_dim: int = 1,
    operators: str | None = None,
    kernels: str = "eager",
) -> type[Activation]:
    """A class for timm's `act_layer=`, torchvision's `activation_layer=` and transformers'
    `ACT2FN["name"] =`, which are called without a width, with `inplace=True` at most.

    Each layer has one value of every beta, so that its parameters exist when the model is built,
    for an optimiser or a checkpoint; with `channels` it has one a channel, and all layers must have
    this width. (`replace_activations` finds each layer's width.) The other options are those of
    Activation, which instances are.
    """
    expr, operators = read(function, operators)
    check_one_input(expr, "act_layer= takes a function of x")
    options: dict[str, Any] = {
        "channel_dim": channel_dim,
        "operators": operators,
        "kernels": kernels,
    }
    Activation(expr, channels, **options)  # raises here, where they were written, what is wrong

    class ActLayer(Activation):
        def __init__(self, inplace: bool = False) -> None:
            super().__init__(expr, channels, **options)

        def __reduce__(self) -> tuple[Any, ...]:
            """A copy is a plain Activation: it differs only in how it is made, and can be pickled
            without this class."""
            return _empty, (), self.__dict__

        def _get_name(self) -> str:
            return Activation.__name__

    return ActLayer


def _empty() -> Activation:
    return Activation.__new__(Activation)


def _constant(value: float, x: torch.Tensor) -> torch.Tensor:
    """As x.new_tensor(value), for which a GPU would wait."""
    fits = abs(value) <= torch.finfo(x.dtype).max
    return x.new_full((), value if fits else math.copysign(math.inf, value))
