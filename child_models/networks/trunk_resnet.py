"""A ResNet for CIFAR whose trunk is linear, so that functions of any growth can be compared.

In the ResNets of He et al. 2016a a candidate acts on the sum of all that came before, so a square
is squared again in every block and overflows; in those of 2016b its values add up unchecked. Here a
batch normalisation ends each branch and nothing acts on the sum: as in the linear bottlenecks of
MobileNetV2 (Sandler et al. 2018, Section 3.2). The scale of a candidate's values then cancels.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import nn

from actsearch.child_models.networks.convolution import Conv3x3
from actsearch.child_models.networks.image_network import ImageNetwork, Size
from actsearch.child_models.networks.normalised import normalised
from actsearch.child_models.networks.resnet import stages, subsampled
from actsearch.search_space.activation import MakeActivation


class TrunkBlock(nn.Module):
    """x + BN(conv(act(BN(x)))), of a 3x3 convolution."""

    def __init__(self, make: MakeActivation, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.act = make(channels_in)
        self.conv = Conv3x3(channels_in, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - channels_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv(normalised(self.bn1, self.act, x)))
        return y + subsampled(x, self.stride, self.new_channels)


class TrunkResNet(ImageNetwork):
    """`depth` = 6n+2 layers: a convolution, 2n branches in each of three stages, and a linear layer
    on the trunk."""

    normalises = True  # before each of its activations, by `normalised`

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        depth: Annotated[int, "Layers, 6n+2."] = 8,
        width: Annotated[int, "Channels of the first stage; the others have 2 and 4 times."] = 16,
        size: Size = None,
    ) -> None:
        super().__init__(input_shape, size)
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a trunk ResNet has 6n+2 layers (8, 14, 20, ...), not {depth}")
        self.conv = Conv3x3(input_shape[0], width)
        self.blocks = stages(partial(TrunkBlock, make_activation), width, (depth - 2) // 3)
        self.head = nn.Linear(4 * width, classes)
        self.initialise()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.conv(x))
