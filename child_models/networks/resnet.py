"""The CIFAR ResNets of He et al. 2016a (Section 4.2): 6n+2 layers, widths w, 2w, 4w, shortcuts
without parameters. ResNet-20 of width 16 has 269,722 parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import nn

from actsearch.child_models.networks.convolution import Conv3x3
from actsearch.child_models.networks.image_network import ImageNetwork, Size
from actsearch.child_models.networks.normalised import normalised
from actsearch.search_space.activation import MakeActivation


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the candidate follows the first, and the sum with the shortcut."""

    def __init__(self, make: MakeActivation, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(channels_in, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = make(channels)
        self.conv2 = Conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = make(channels)
        self.stride = stride
        self.new_channels = channels - channels_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = normalised(self.bn1, self.act1, self.conv1(x))
        shortcut = subsampled(x, self.stride, self.new_channels)
        return normalised(self.bn2, self.act2, self.conv2(y), shortcut)


def subsampled(x: torch.Tensor, stride: int, new_channels: int) -> torch.Tensor:
    """Shortcuts of He et al. 2016a, option A: every `stride`-th pixel, new channels filled with
    zeros."""
    if stride == 1 and new_channels == 0:
        return x
    if x.device.type == "cuda":
        return _Subsampled.apply(x, stride, new_channels)
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, new_channels))


class _Subsampled(torch.autograd.Function):
    """The same in four launches, of twenty."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, stride: int, new_channels: int) -> torch.Tensor:
        ctx.shape, ctx.stride = x.shape, stride
        part = x[:, :, ::stride, ::stride]
        n, channels, h, w = part.shape
        y = _channels_last(x, (n, channels + new_channels, h, w))
        y[:, :channels] = part
        y[:, channels:] = 0
        return y

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        [gy] = grad_outputs
        gx = _channels_last(gy, ctx.shape).zero_()
        gx[:, :, :: ctx.stride, :: ctx.stride] = gy[:, : ctx.shape[1]]
        return gx, None, None


def _channels_last(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Of any content, otherwise like `x`."""
    layout = torch.channels_last
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def stages(block: Callable[[int, int, int], nn.Module], width: int, count: int) -> nn.Sequential:
    """Three stages of `count` blocks with `width`, 2 and 4 times as many channels. The first block
    of the second and the third stage halves the images. A block is made from the channels before
    and after it, and its stride."""
    blocks: list[nn.Module] = []
    before = width
    for stage in range(3):
        for number in range(count):
            blocks.append(block(before, width << stage, 2 if stage > 0 and number == 0 else 1))
            before = width << stage
    return nn.Sequential(*blocks)


class ResNet(ImageNetwork):
    """`depth` = 6n+2."""

    normalises = True  # before each of its activations, by `normalised`

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        depth: Annotated[int, "Layers, 6n+2."] = 20,
        width: Annotated[int, "Channels of the first stage; the others have 2 and 4 times."] = 16,
        size: Size = None,
    ) -> None:
        super().__init__(input_shape, size)
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has 6n+2 layers (8, 14, 20, ...), not {depth}")
        self.conv = Conv3x3(input_shape[0], width)
        self.bn = nn.BatchNorm2d(width)
        self.act = make_activation(width)
        self.blocks = stages(partial(BasicBlock, make_activation), width, (depth - 2) // 6)
        self.head = nn.Linear(4 * width, classes)
        self.initialise()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(normalised(self.bn, self.act, self.conv(x)))
