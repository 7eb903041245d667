"""ConvNeXt (Liu et al. 2022): a ResNet as transformers are built, with the candidate in the middle
of each block, behind two projections if it is a gate. The trunk is linear and layers are normalised
before the branches, so functions of any growth learn in it, and it ranks them much as a language
model does (docs/children.md).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from actsearch.child_models.networks.gated import activated, hidden_layer
from actsearch.child_models.networks.image_network import ImageNetwork, Size
from actsearch.search_space.activation import MakeActivation

SPREAD = 0.02  # of the other initial weights
STRIDE = 2  # between stages
EPS = 1e-6


class LayerNorm(nn.LayerNorm):
    """Of the channels of images (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A depthwise convolution and an MLP of each pixel, as a branch."""

    def __init__(self, make_activation: MakeActivation, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.up, self.gate, self.act = hidden_layer(
            make_activation, width, 4 * width, width, channel_dim=-1
        )
        self.down = nn.Linear(self.up.out_features, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(activated(y, self.up, self.gate, self.act))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(ImageNetwork):
    """Stages of `width`, 2 and 4 times as many channels, each with `blocks` blocks.

    It differs from the authors' where that would take a short training long to undo: their scales
    start at 1e-6 and ours at 1; all their weights as N(0, 0.02), which shows a candidate little
    more than its value at 0, and ours as the GPT's do. ConvNeXt-T is `torchvision:convnext_tiny`.
    """

    def __init__(
        self,
        make_activation: MakeActivation,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        width: Annotated[int, "Channels of the first stage; the others have 2 and 4 times."] = 24,
        blocks: Annotated[int, "Blocks of each stage."] = 1,
        patch: Annotated[int, "Side in pixels of what becomes one pixel of the first stage."] = 4,
        size: Size = None,
    ) -> None:
        super().__init__(input_shape, size)
        least = STRIDE**2 * patch  # for a pixel in the last stage
        if (side := size or min(input_shape[1:])) < least:
            smaller = side // STRIDE**2
            raise ValueError(
                f"a ConvNeXt with patch={patch} takes images of {least} pixels a side or more, not "
                f"{side}; give {f'patch={smaller}, or ' * (smaller > 0)}size={least}"
            )
        stem = nn.Conv2d(input_shape[0], width, patch, patch)
        layers: list[nn.Module] = [stem, LayerNorm(width)]
        for stage in range(3):
            if stage > 0:
                halves = nn.Conv2d(width, 2 * width, STRIDE, STRIDE)
                layers += [LayerNorm(width), halves]
                width *= 2
            layers += [Block(make_activation, width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.LayerNorm(width, eps=EPS), nn.Linear(width, classes))
        self.initialise()

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=SPREAD)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Block):
                for projection in filter(None, (module.up, module.gate)):
                    nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
                nn.init.zeros_(module.down.weight)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
