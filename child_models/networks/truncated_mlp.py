"""The feed-forward network of a post on Swish and MNIST (2017): weights and biases from a truncated
normal, one beta a layer. The standard deviation decides which activations can learn at all."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import nn

from actsearch.child_models.networks.one_beta import OneBeta
from actsearch.search_space.activation import MakeActivation


class TruncatedMLP(nn.Module):
    """784-256-64-10 on MNIST: linear layers of `width` and a quarter of it, then the classes.

    Every weight and bias is drawn from a normal distribution of standard deviation `sigma`, values
    beyond two of them drawn again, as TensorFlow's truncated_normal does.
    """

    capturable = True  # by a CUDA graph

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        sigma: Annotated[float, "Standard deviation of the initial weights and biases."] = 0.1,
        width: Annotated[int, "Units of the first layer; the second has a quarter of them."] = 256,
    ) -> None:
        super().__init__()
        hidden = max(2, width // 4)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(input_shape), width),
            OneBeta(make_activation),
            nn.Linear(width, hidden),
            OneBeta(make_activation),
            nn.Linear(hidden, classes),
        )
        for module in self.layers:
            if isinstance(module, nn.Linear):
                for parameter in (module.weight, module.bias):
                    nn.init.trunc_normal_(parameter, 0.0, sigma, -2 * sigma, 2 * sigma)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, ...) -> (N, classes)."""
        return self.layers(x)
