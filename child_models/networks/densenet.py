"""DenseNet-BC of Huang et al. 2017 (Section 4.1), for images of CIFAR's size."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from actsearch.child_models.networks.image_network import ImageNetwork, Size
from actsearch.search_space.activation import MakeActivation


class DenseLayer(nn.Module):
    """1x1 to four times the growth, 3x3 to the growth; its output joins its input."""

    def __init__(self, make: MakeActivation, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.act1 = make(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.act2 = make(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(self.act1(self.norm1(x)))
        return torch.cat([x, self.conv2(self.act2(self.norm2(y)))], 1)


class Transition(nn.Module):
    """Half the channels, half the side."""

    def __init__(self, make: MakeActivation, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.act = make(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(self.act(self.norm(x))), 2)


class DenseNet(ImageNetwork):
    """`depth` is 6n+4: three blocks of n layers, each of which adds `width` channels (the growth
    rate).

    DenseNet-BC of depth 100 and growth 12 has 0.8 million parameters, as published. Convolutions
    start as in the authors' `models/densenet.lua`: deviation sqrt(2 / (k k outputs)), which is
    fan-out.
    """

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        depth: Annotated[int, "Layers, 6n+4."] = 100,
        width: Annotated[int, "Channels that a layer adds, the growth rate."] = 12,
        size: Size = None,
    ) -> None:
        super().__init__(input_shape, size)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"a DenseNet-BC has 6n+4 layers (10, 16, ..., 100), not {depth}")
        channels = 2 * width
        self.conv = nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for block in range(3):
            if block > 0:
                layers.append(Transition(make_activation, channels))
                channels //= 2
            for _ in range((depth - 4) // 6):
                layers.append(DenseLayer(make_activation, channels, width))
                channels += width
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels)
        self.act = make_activation(channels)
        self.head = nn.Linear(channels, classes)
        self.initialise()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.layers(self.conv(x))))
