"""A feed-forward network on flattened inputs: 784-256-64-10 on MNIST."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import nn

from actsearch.child_models.networks.gated import GatedLayer, hidden_layer
from actsearch.search_space.activation import MakeActivation


class MLP(nn.Module):
    """Linear layers of 256 and 64 units with the candidate between them, then the classes. With a
    gate each has two narrower projections, with as many parameters."""

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
        layers: list[nn.Module] = [nn.Flatten()]
        before = math.prod(input_shape)
        for units, after in ((width, hidden), (hidden, classes)):
            up, gate, act = hidden_layer(make_activation, before, units, after)
            layers += [up, act] if gate is None else [GatedLayer(up, gate, act)]
            before = up.out_features
        self.layers = nn.Sequential(*layers, nn.Linear(before, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, ...) -> (N, classes)."""
        return self.layers(x)
