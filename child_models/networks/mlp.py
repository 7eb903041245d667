"""A feed-forward network on flattened inputs: 784-256-64-10 on MNIST."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import nn

from actsearch.search_space.activation import MakeActivation


class MLP(nn.Module):
    """Linear layers of 256 and 64 units with the candidate between them, then the classes."""

    capturable = True  # by a CUDA graph

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        width: Annotated[int, "Units of the first layer; the second has a quarter of them."] = 256,
    ) -> None:
        super().__init__()
        hidden = max(2, width // 4)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(input_shape), width),
            make_activation(width),
            nn.Linear(width, hidden),
            make_activation(hidden),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, ...) -> (N, classes)."""
        return self.layers(x)
