"""Triton kernels forward and backward, an autograd function around them, and a module with the
state_dict of `Activation`. The file needs torch and triton alone, and a GPU to run on."""

from __future__ import annotations

import re

from actsearch.search_space.export.lowering import GUARDS, Exported, helper_name
from actsearch.search_space.export.writing import constant
from actsearch.search_space.kernels import cuda
from actsearch.search_space.kernels.tracing import UnsupportedError, trace

_CHECK = '''\
def _check(x, *others):
    """Kernels read as many numbers of each as x has."""
    if x.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"x is float32 or bfloat16 here, not {x.dtype}")
    for t in others:
        if (t.shape, t.dtype, t.device) != (x.shape, x.dtype, x.device):
            raise ValueError(
                f"x and g have one shape, dtype and device, not {tuple(x.shape)} {x.dtype} on "
                f"{x.device} and {tuple(t.shape)} {t.dtype} on {t.device}"
            )


'''

# Each function's programs see BLOCK elements at a time; a size in units of 16 lets loads be wide.
_FLAT = '''\
def _launch(kernel, block, *tensors):
    n = tensors[0].numel()
    unit = 16 if n % 16 == 0 else 1
    grid = (triton.cdiv(n, block),)
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](*tensors, n // unit, UNIT=unit, BLOCK=block, **OPTIONS)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, {inputs}):
        y = torch.empty_like(x)
        _launch(forward, BLOCK["forward"], {inputs}, y)
        ctx.save_for_backward({inputs})
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gy):
        gradients = [torch.empty_like(t) for t in ctx.saved_tensors]
        tensors = (*ctx.saved_tensors, gy.contiguous(), *gradients)
        _launch(backward, BLOCK["backward"], *tensors)
        return tuple(gradients)


class {type}(nn.Module):
    """`{name}` of CUDA tensors of any shape, float32 or bfloat16{alike}, which can be
    differentiated once. `channels`, `channel_dim` and `inplace` are accepted and ignored."""

    def __init__(self, channels=None, *, channel_dim=-1, inplace=False):
        super().__init__()

    def forward(self, {inputs}):
        _check({inputs})
        return _Function.apply({contiguous})
'''

_BETAS = '''\
PROGRAMS = 1024  # whose sums of betas' gradients are added


def _grid(x, channels, block):
    rows, across = x.numel() // channels, triton.cdiv(channels, 16)
    return across, min(triton.cdiv(rows, block // 16), max(1, PROGRAMS // across))


def _launch(kernel, block, channels, *tensors):
    rows, unit = tensors[0].numel() // channels, 16 if channels % 16 == 0 else 1
    sizes = rows, channels, channels // unit
    with torch.cuda.device_of(tensors[0]):
        kernel[_grid(tensors[0], channels, block)](
            *tensors, *sizes, UNIT=unit, ROWS=block // 16, **OPTIONS
        )


class _Function(torch.autograd.Function):
    """`betas` is (betas, channels), float32."""

    @staticmethod
    def forward(ctx, betas, {inputs}):
        y = torch.empty_like(x)
        _launch(forward, BLOCK["forward"], betas.shape[1], {inputs}, y, betas)
        ctx.save_for_backward(betas, {inputs})
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gy):
        betas, *inputs = ctx.saved_tensors
        gradients = [torch.empty_like(t) for t in inputs]
        block = BLOCK["backward"]
        shape = _grid(gy, betas.shape[1], block)[1], *betas.shape
        parts = torch.empty(shape, dtype=torch.float32, device=gy.device)
        tensors = (*inputs, gy.contiguous(), *gradients, betas, parts)
        _launch(backward, block, betas.shape[1], *tensors)
        return parts.sum(0), *gradients


class {type}(nn.Module):
    """`{name}` of CUDA tensors (..., channels), float32 or bfloat16{alike}, which can be
    differentiated once; a beta has a value a channel. `inplace` is accepted and ignored."""

    def __init__(self, channels{default}, *, channel_dim=-1, inplace=False):
        super().__init__()
        if channel_dim != -1:
            raise ValueError("channels are the last dimension here; permute the input")
        self.channels = channels
        initial = [torch.tensor(beta).expand(channels).clone() for beta in ({initial},)]
        self.beta = nn.ParameterList(initial)

    def forward(self, {inputs}):
        _check({inputs})
        if x.shape[-1:] != (self.channels,):
            there = x.shape[-1] if x.ndim else 0
            raise ValueError(f"the last dimension has {{there}} channels, not {{self.channels}}")
        if self.beta[0].device != x.device:
            raise ValueError(f"the betas are on {{self.beta[0].device}} and x on {{x.device}}")
        return _Function.apply(torch.stack([*self.beta]).float(), {contiguous})
'''


def _guards(source: Exported) -> list[str]:
    """What the guards do that are in the kernels."""
    ops = dict.fromkeys(node.op for node in source.expr.walk() if node.op.name in GUARDS)
    guarded = [op for op in ops if helper_name(op, source.operators).startswith("guarded_")]
    return [f"{op.name} is {GUARDS[op.name]}" for op in guarded]


_HELPER = re.compile(r"@triton\.jit\ndef (sinc\w*)\(")  # functions that kernels may call


def write(source: Exported) -> str:
    """Raises ValueError for an operator of the user's that no primitives make up."""
    try:
        traced = trace(source.expr, source.operators)
    except UnsupportedError as error:
        raise ValueError(f"{source.expr} cannot be written in Triton: {error}") from error
    kernels = cuda.source(traced, "columns" if traced.betas else "flat", slopes=False).text
    imports, *parts = kernels.rstrip().split("\n\n\n")
    main = "\n".join(part for part in parts if not _HELPER.match(part))
    used = [p for p in parts if not (m := _HELPER.match(p)) or f" {m[1]}(" in main]
    names = source.expr.inputs
    pairs = zip(source.constants, source.betas, strict=True)
    starts = [f"{name} = {constant(values)}" for name, values in pairs]
    host = _CHECK + (_BETAS if traced.betas else _FLAT).format(
        type="".join(part.capitalize() for part in source.name.split("_")),
        name=source.name,
        alike=", alike" * (len(names) > 1),
        default=f"={source.channels}" if source.channels else "",
        inputs=", ".join(names),
        contiguous=", ".join(f"{name}.contiguous()" for name in names),
        initial=", ".join(source.constants),
    )
    docstring = "\n".join(['"""' + source.header[0], *source.header[1:], *_guards(source), '"""'])
    head = [
        docstring,
        f"import torch\n{imports}\nfrom torch import nn",
        "\n".join([f"OPTIONS = {cuda.LAUNCH!r}", *starts]),
    ]
    return "\n\n\n".join(["\n\n".join(head), *used, host])
