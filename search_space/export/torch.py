"""A plain function, and an nn.Module with the interface and the state_dict of `Activation`; of a
gate also a feed-forward block that holds it."""

from __future__ import annotations

from collections.abc import Sequence

from actsearch.search_space.export.lowering import Exported, lowered
from actsearch.search_space.export.writing import (
    ARITHMETIC,
    Form,
    Language,
    Part,
    constant,
    python_file,
    python_function,
)
from actsearch.search_space.operators import PRODUCT, SUM

_SAME = (
    "abs", "sqrt", "exp", "log", "sin", "cos", "sinh", "cosh", "tanh", "asinh", "atan", "erf",
    "sigmoid", "relu",
)  # fmt: skip

TORCH = Language(
    forms={
        **ARITHMETIC,
        **{name: Form(f"torch.{name}({{0}})") for name in _SAME},
        "maximum": Form("torch.maximum({0}, {1})"),
        "minimum": Form("torch.minimum({0}, {1})"),
        "where": Form("torch.where({0}, {1}, {2})"),
        "clamp_min": Form("torch.clamp({0}, min={1})"),
        "clamp_max": Form("torch.clamp({0}, max={1})"),
        "softplus": Form("nn.functional.softplus({0}, threshold={1})"),
        "sinc": Form("torch.sinc({0.left} / math.pi)", PRODUCT),
    },
    helpers={},
    array=lambda value: f"x.new_tensor({value!r})",
    spread=Form("torch.zeros_like(x) + {0.tight}", SUM),
    imports=[("import math\n", r"math\."), ("import torch\nfrom torch import nn", "")],
)

_MODULE = '''\
class {type}(nn.Module):
    """`{name}`{betas}, {place}.

    {inputs}
    """

    def __init__(
        self, {channels}, *, channel_dim: int = 1, inplace: bool = False
    ) -> None:
        super().__init__()
{init}
    def forward(self, {typed}) -> torch.Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward({floats}).to(x.dtype)
{forward}'''

_BLOCK = '''\
class {type}MLP(nn.Module):
    """down({name}(up(x), gate(x))), a feed-forward block (..., width) -> (..., width).

    By default it has the parameters of a block with one projection and 4 * width hidden units.
    """

    def __init__(self, width: int, hidden: int | None = None, *, bias: bool = True) -> None:
        super().__init__()
        hidden = hidden or 8 * width // 3
        self.up = nn.Linear(width, hidden, bias=bias)
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.act = {type}(hidden, channel_dim=-1)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.up(x), self.gate(x)))'''

_INPUTS = """\
Takes (N, C), (N, C, L) and (N, C, H, W); for sequences (N, L, C) give channel_dim=-1. 16-bit
    inputs are computed in float32. `inplace` is accepted and ignored."""

_ANY_INPUTS = """\
Takes any shape; 16-bit inputs are computed in float32. `channels`, `channel_dim` and `inplace`
    are accepted and ignored."""

_INIT = """\
        self.channels = channels
        self.channel_dim = channel_dim
        initial = [torch.tensor(beta).expand(channels).clone() for beta in ({initial},)]
        self.beta = nn.ParameterList(initial)
"""

_FORWARD = """\
        shape = [1] * x.ndim
        shape[self.channel_dim] = self.channels
        return {name}({given}, *(beta.to(x.dtype).view(shape) for beta in self.beta))"""


_PER_GROUP = '''\
GROUPS = ({types})


def make_activation(number: int, total: int, *args, **options) -> nn.Module:
    """Activation `number` of the `total` of a network, counted from 0 in the order of its layers:
    the first of {n} groups of layers gets {first}, the last {last}."""
    if not 0 <= number < total or total < {n}:
        raise ValueError("number is from 0 to total - 1, and total is {n} or more")
    return GROUPS[number * {n} // total](*args, **options)'''


def write(*sources: Exported) -> str:
    """Of several sources, one for each group of layers, also a function that makes the module of
    any layer."""
    types = [_type(source) for source in sources]
    names = {"types": ", ".join(types), "n": len(types), "first": types[0], "last": types[-1]}
    last = [_PER_GROUP.format(**names)] if len(sources) > 1 else []
    return python_file(TORCH, [_part(source) for source in sources], last)


def _part(source: Exported) -> Part:
    helpers, main = lowered(source)
    functions = [*helpers, main]
    texts = [python_function(f, TORCH, annotation="torch.Tensor")[0] for f in functions]
    pairs = zip(source.constants, source.betas, strict=True)
    constants = [f"{name} = {constant(values)}" for name, values in pairs]
    block = [_BLOCK.format(type=_type(source), name=source.name)] * (len(source.expr.inputs) > 1)
    return Part(source, [*texts, _module(source, source.constants), *block], (), constants)


def _type(source: Exported) -> str:
    return "".join(part.capitalize() for part in source.name.split("_"))


def _module(source: Exported, constants: Sequence[str]) -> str:
    trainable = "a trainable beta" if len(constants) == 1 else f"{len(constants)} trainable betas"
    default = f" = {source.channels}" if source.channels else ""
    inputs = source.expr.inputs
    gate = "called with two projections of the same shape"
    return _MODULE.format(
        type=_type(source),
        name=source.name,
        place="to put where nn.ReLU stood" if len(inputs) == 1 else gate,
        typed=", ".join(f"{name}: torch.Tensor" for name in inputs),
        floats=", ".join(f"{name}.float()" for name in inputs),
        inputs=_INPUTS if constants else _ANY_INPUTS,
        betas=f" with {trainable} a channel" if constants else "",
        channels=f"channels: int{default}" if constants else "channels: int | None = None",
        init=_INIT.format(initial=", ".join(constants)) if constants else "",
        forward=_FORWARD.format(name=source.name, given=", ".join(inputs))
        if constants
        else f"        return {source.name}({', '.join(inputs)})",
    )
