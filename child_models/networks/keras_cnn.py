"""The CNN of many Keras notebooks on MNIST, with one beta a layer: two 5x5 convolutions, two 3x3
ones, a hidden layer, dropout after each of the three blocks."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from actsearch.child_models.networks.one_beta import OneBeta
from actsearch.search_space.activation import MakeActivation


class KerasCNN(nn.Module):
    """conv5 conv5 (width) pool, conv3 conv3 (2 width) pool, linear (8 width), linear (classes).

    All convolutions keep the image's size ("same"). Initial values are Keras's own: weights
    uniform by Glorot and Bengio 2010, biases 0.
    """

    memory_format = torch.channels_last  # faster, and only rounding differs
    capturable = True  # by a CUDA graph

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        width: Annotated[int, "Channels of the first convolutions; the others have twice."] = 32,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 4:
            raise ValueError(
                f"a keras_cnn takes images (C, H, W) of 4x4 or more, not inputs of shape "
                f"{input_shape}"
            )
        channels, height, side = input_shape
        self.layers = nn.Sequential(
            *_block(make_activation, channels, width, 5),
            *_block(make_activation, width, 2 * width, 3),
            nn.Flatten(),
            nn.Linear(2 * width * (height // 4) * (side // 4), 8 * width),
            OneBeta(make_activation),
            nn.Dropout(0.5),
            nn.Linear(8 * width, classes),
        )
        for module in self.layers:
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, classes), logits of the sigmoids that the notebooks end in."""
        return self.layers(x)


def _block(
    make_activation: MakeActivation, inputs: int, width: int, kernel: int
) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, width, kernel, padding=kernel // 2),
        OneBeta(make_activation),
        nn.Conv2d(width, width, kernel, padding=kernel // 2),
        OneBeta(make_activation),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
    ]
