"""Residual networks with the activation before each convolution: ResNet-164 of He et al. 2016b and
Wide ResNets of Zagoruyko and Komodakis 2016, for images of CIFAR's size.

Where a block changes the shape, its shortcut is a 1x1 convolution of the activated input, and both
branches share that activation, as in the authors' code.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from actsearch.child_models.networks.image_network import ImageNetwork, Size
from actsearch.search_space.activation import MakeActivation


class PreActBlock(nn.Module):
    """Two 3x3 convolutions or, as a bottleneck, 1x1, 3x3 and 1x1 to four times the width."""

    def __init__(
        self, make: MakeActivation, channels_in: int, channels: int, stride: int, bottleneck: bool
    ) -> None:
        super().__init__()
        if bottleneck:
            shapes = [(channels_in, channels, 1, 1), (channels, channels, 3, stride),
                      (channels, 4 * channels, 1, 1)]  # fmt: skip
        else:
            shapes = [(channels_in, channels, 3, stride), (channels, channels, 3, 1)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(shape[0]) for shape in shapes)
        self.acts = nn.ModuleList(make(shape[0]) for shape in shapes)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, step, padding=kernel // 2, bias=False)
            for a, b, kernel, step in shapes
        )
        out = shapes[-1][1]
        self.projection = None
        if stride != 1 or channels_in != out:
            self.projection = nn.Conv2d(channels_in, out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, shortcut = x, x
        for i, (norm, act, conv) in enumerate(zip(self.norms, self.acts, self.convs, strict=True)):
            y = act(norm(y))
            if i == 0 and self.projection is not None:
                shortcut = self.projection(y)
            y = conv(y)
        return y + shortcut


class _PreActNet(ImageNetwork):
    def __init__(
        self,
        make_activation: MakeActivation,
        input_shape: tuple[int, ...],
        classes: int,
        blocks: int,
        width: int,
        size: int | None,
        bottleneck: bool,
    ) -> None:
        super().__init__(input_shape, size)
        self.conv = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        channels_in = 16
        for stage in range(3):
            channels = 16 * width << stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(
                    PreActBlock(make_activation, channels_in, channels, stride, bottleneck)
                )
                channels_in = 4 * channels if bottleneck else channels
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels_in)
        self.act = make_activation(channels_in)
        self.head = nn.Linear(channels_in, classes)
        self.initialise()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.blocks(self.conv(x))))


class PreActResNet(_PreActNet):
    """`depth` is 9n+2; stages of `width` times 16, 32 and 64 channels and their bottlenecks' four
    times as many.

    ResNet-164 has 1,703,258 parameters for ten classes.
    """

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        depth: Annotated[int, "Layers, 9n+2."] = 164,
        width: Annotated[int, "Stages have so many times 16, 32 and 64 channels."] = 1,
        size: Size = None,
    ) -> None:
        if depth < 11 or (depth - 2) % 9:
            raise ValueError(
                f"a pre-activation ResNet has 9n+2 layers (11, 20, ..., 164), not {depth}"
            )
        blocks = (depth - 2) // 9
        super().__init__(make_activation, input_shape, classes, blocks, width, size, True)


class WideResNet(_PreActNet):
    """`depth` is 6n+4; stages of `width` times 16, 32 and 64 channels, without dropout.

    WRN-28-10 has 36,479,194 parameters for ten classes.
    """

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        depth: Annotated[int, "Layers, 6n+4."] = 28,
        width: Annotated[int, "Stages have so many times 16, 32 and 64 channels."] = 10,
        size: Size = None,
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"a Wide ResNet has 6n+4 layers (10, 16, ..., 28), not {depth}")
        blocks = (depth - 4) // 6
        super().__init__(make_activation, input_shape, classes, blocks, width, size, False)
