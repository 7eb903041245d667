"""A small plain CNN: two 5x5 convolutions with pooling, one hidden layer. No normalisation, so a
candidate meets raw preactivations."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from actsearch.search_space.activation import MakeActivation


class CNN(nn.Module):
    """conv(width) pool conv(2 width) pool linear(4 width) linear(classes)."""

    memory_format = torch.channels_last  # faster, and only rounding differs
    capturable = True  # by a CUDA graph

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        width: Annotated[int, "Channels of the first convolution; the second has twice."] = 32,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 4:
            raise ValueError(
                f"a CNN takes images (C, H, W) of 4x4 or more, not inputs of shape {input_shape}"
            )
        channels, height, side = input_shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 5, padding=2),
            make_activation(width),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 5, padding=2),
            make_activation(2 * width),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (height // 4) * (side // 4), 4 * width),
            make_activation(4 * width),
            nn.Linear(4 * width, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, classes)."""
        return self.layers(x)
