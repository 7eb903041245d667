"""A decoder as language models are: GPT-2's (Radford et al. 2019), with the candidate in its MLPs.

Layers are normalised before each branch, positions are learnt, biases are everywhere but in the
output. A gate has two projections of two thirds of the width. GPT-2's initial weights, N(0, 0.02)
everywhere, leave the input of the candidate so near to 0 that a ranking is one of f(0): so `up`
begins as N(0, 1 / width), and what ends a branch as 0.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from actsearch.child_models.networks.gated import activated, hidden_layer
from actsearch.search_space.activation import MakeActivation

SPREAD = 0.02  # of the other initial weights, as GPT-2's


class Attention(nn.Module):
    """Causal, of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = self.inputs(x).unflatten(2, (3, self.heads, -1))  # (N, T, 3, heads, width / heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, make_activation: MakeActivation, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up, self.gate, self.act = hidden_layer(
            make_activation, width, 4 * width, width, channel_dim=-1
        )
        self.down = nn.Linear(self.up.out_features, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(activated(self.norm2(x), self.up, self.gate, self.act))


class GPT(nn.Module):
    """Small enough by default for a search on a processor; GPT-2 small is
    `gpt:width=768,layers=12,heads=12,tied=1` with 50,257 tokens and a context of 1,024, and has
    124,439,808 parameters."""

    capturable = True

    def __init__(
        self,
        make_activation: MakeActivation,
        vocabulary: int,
        context: int,
        *,
        width: Annotated[int, "Numbers a token, a multiple of the heads."] = 64,
        layers: Annotated[int, "Layers, each of attention and an MLP."] = 2,
        heads: Annotated[int, "Heads of each attention."] = 4,
        tied: Annotated[int, "With 1 the output has the embedding's weights, as in GPT-2."] = 0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(make_activation, width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self._initialise(width)
        if tied:
            self.output.weight = self.embedding.weight

    def _initialise(self, width: int) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=SPREAD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.normal_(module.up.weight, std=width**-0.5)
                if module.gate is not None:
                    nn.init.normal_(module.gate.weight, std=width**-0.5)
                nn.init.zeros_(module.down.weight)
                nn.init.zeros_(module.attention.out.weight)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (N, T), T at most the context -> logits of the token after each,
        (N, T, vocabulary)."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))
