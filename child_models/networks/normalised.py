"""normalised: an activation of a batch normalisation, as one function where a GPU gains by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from actsearch.search_space.activation import Activation
from actsearch.search_space.kernels.fused import stacked_rows
from actsearch.search_space.kernels.normalised import Kernel, Normalisation


def normalised(
    norm: nn.BatchNorm2d, act: nn.Module, z: torch.Tensor, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """act(norm(z)), or act(norm(z) + residual)."""
    kernel = _kernel(norm, act, z)
    if kernel is not None:
        if residual is not None:
            residual = residual.to(z.dtype).contiguous(memory_format=torch.channels_last)
        of = Normalisation(
            norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps, norm.momentum
        )  # type: ignore[arg-type]
        betas = [beta.expand(norm.num_features) for beta in act.beta]
        if norm.training:
            return _Normalised.apply(z, residual, norm.weight, norm.bias, of, kernel, *betas)
        return kernel.forward(z, residual, of, _rows(betas, norm.weight), training=False)[0]
    y = norm(z)
    return act(y if residual is None else y + residual)


def _kernel(norm: nn.BatchNorm2d, act: nn.Module, z: torch.Tensor) -> Kernel | None:
    hooked = act._forward_pre_hooks or act._forward_hooks  # somebody looks at what comes between
    if hooked or not isinstance(act, Activation) or not _fits(norm, z):
        return None
    return act.normalised_kernel(z)


def _fits(norm: nn.BatchNorm2d, z: torch.Tensor) -> bool:
    return (
        z.device.type == "cuda"
        and z.dtype == torch.bfloat16
        and (norm.training or not torch.is_grad_enabled())
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.num_batches_tracked is None
        and norm.num_features % 16 == 0
        and norm.weight.dtype == torch.float32
        and 1 < z.numel() // z.shape[1] < 2**31
        and z.is_contiguous(memory_format=torch.channels_last)
    )


def _rows(betas: Sequence[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """(betas, channels), of no beta too."""
    return stacked_rows(betas) if betas else weight.new_empty((0, len(weight)))


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        norm: Normalisation,
        kernel: Kernel,
        *betas: torch.Tensor,
    ) -> torch.Tensor:
        stacked = _rows(betas, weight)
        y, kept = kernel.forward(z, residual, norm, stacked)
        ctx.save_for_backward(z, residual, kept, weight, bias, stacked)
        ctx.kernel = kernel
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        z, residual, kept, weight, bias, betas = ctx.saved_tensors
        gy = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        gz, gu, totals = ctx.kernel.backward(z, residual, gy, kept, weight, bias, betas)
        gbias, gweight, *gbetas = totals.unbind()
        return gz, None if residual is None else gu, gweight, gbias, None, None, *gbetas
