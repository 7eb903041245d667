"""What the residual and dense networks for images share: their input, their layout, their head."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

Size = Annotated[int | None, "Side in pixels that images are averaged down to [their own]."]


class ImageNetwork(nn.Module):
    """`features` and then a linear `head` on their means; a subclass makes both and then calls
    `initialise`. `size`, if given, is the side that images are averaged down to first."""

    memory_format = torch.channels_last  # faster, and only rounding differs
    capturable = True  # by a CUDA graph
    counts_no_batches = True  # nor reads how many there were
    head: nn.Module

    def __init__(self, input_shape: tuple[int, ...], size: int | None) -> None:
        super().__init__()
        if len(input_shape) != 3:
            name = type(self).__name__
            ways = {
                1: "; the child mlp takes any shape",
                2: "; grey images are (1, H, W), which is x[:, None]",
            }
            raise ValueError(
                f"a {name} takes images (C, H, W), not inputs of shape {input_shape}"
                f"{ways.get(len(input_shape), '')}"
            )
        self.size = size

    def initialise(self) -> None:
        """He et al. 2015, for every convolution, by fan-out."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, channels, h, w)."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, classes)."""
        if self.size is not None:
            x = F.adaptive_avg_pool2d(x, self.size)
        return self.head(self.features(x).mean((2, 3)))
