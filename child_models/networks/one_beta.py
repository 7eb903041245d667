"""OneBeta: an activation whose betas are one value a layer, whatever the layer's width."""

from __future__ import annotations

import torch
from torch import nn

from actsearch.search_space.activation import MakeActivation


class OneBeta(nn.Module):
    """An activation of one channel, to which the whole layer is that channel.

    Takes (N, C) and (N, C, H, W); neither is copied, channels last or not.
    """

    def __init__(self, make_activation: MakeActivation) -> None:
        super().__init__()
        self.activation = make_activation(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape, dtype and layout of `x` are kept."""
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            return self._one_channel(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self._one_channel(x)

    def _one_channel(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(x.unsqueeze(1)).squeeze(1)
