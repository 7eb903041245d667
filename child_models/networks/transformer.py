"""The encoder-decoder Transformer of Vaswani et al. 2017, whose feed-forward layers have the
candidate; a gate's have two projections of two thirds of the width. The base model has 44,138,496
parameters besides its embeddings.

Layers are normalised after each residual sum, positions are sines, and the embedding is shared by
both sides and the output, as published.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from actsearch.child_models.data.translation import END, PADDING, START
from actsearch.child_models.networks.gated import activated, hidden_layer
from actsearch.search_space.activation import MakeActivation

DROPOUT = 0.1

Keys = tuple[torch.Tensor, torch.Tensor]


class Attention(nn.Module):
    """Of several heads; the keys and values of a memory are computed apart, to be kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, width) -> (N, heads, L, width / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def keys(self, memory: torch.Tensor) -> Keys:
        return self._split(self.key(memory)), self._split(self.value(memory))

    def forward(
        self, x: torch.Tensor, keys: Keys, mask: torch.Tensor | None = None, causal: bool = False
    ) -> torch.Tensor:
        query = self._split(self.query(x))
        y = F.scaled_dot_product_attention(query, *keys, attn_mask=mask, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, make_activation: MakeActivation, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.gate, self.act = hidden_layer(
            make_activation, width, hidden, width, channel_dim=-1
        )
        self.down = nn.Linear(self.up.out_features, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(activated(x, self.up, self.gate, self.act))


class EncoderLayer(nn.Module):
    def __init__(
        self, make_activation: MakeActivation, width: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed_forward = FeedForward(make_activation, width, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](x + self.drop(self.attention(x, self.attention.keys(x), mask)))
        return self.norms[1](x + self.drop(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    def __init__(
        self, make_activation: MakeActivation, width: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.across = Attention(width, heads)
        self.feed_forward = FeedForward(make_activation, width, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.drop = nn.Dropout(DROPOUT)

    def forward(
        self, x: torch.Tensor, memory: Keys, mask: torch.Tensor, past: Keys | None = None
    ) -> tuple[torch.Tensor, Keys]:
        """With `past`, the keys of the tokens before, x is the one token after them; returns the
        keys of all so far too."""
        keys = self.attention.keys(x)
        if past is not None:
            keys = torch.cat((past[0], keys[0]), 2), torch.cat((past[1], keys[1]), 2)
        x = self.norms[0](x + self.drop(self.attention(x, keys, causal=past is None)))
        x = self.norms[1](x + self.drop(self.across(x, memory, mask)))
        return self.norms[2](x + self.drop(self.feed_forward(x))), keys


class Transformer(nn.Module):
    """`layers` in the encoder and as many in the decoder, of `width`, with `feedforward` hidden
    units; the base model by default."""

    def __init__(
        self,
        make_activation: MakeActivation,
        vocabulary: int,
        length: int,
        *,
        width: Annotated[int, "Numbers a token, a multiple of twice the heads."] = 512,
        layers: Annotated[int, "Layers of the encoder, and as many of the decoder."] = 6,
        heads: Annotated[int, "Heads of each attention."] = 8,
        feedforward: Annotated[int, "Hidden units of each feed-forward layer."] = 2048,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width={width} must be a multiple of twice heads={heads}")
        sizes = width, heads, feedforward
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.positions = nn.Buffer(positions(2 * length, width), persistent=False)
        self.encoder = nn.ModuleList(EncoderLayer(make_activation, *sizes) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(make_activation, *sizes) for _ in range(layers))
        self.drop = nn.Dropout(DROPOUT)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        with torch.no_grad():
            self.embedding.weight[PADDING] = 0

    def _embed(self, tokens: torch.Tensor, start: int = 0) -> torch.Tensor:
        scaled = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return self.drop(scaled + self.positions[start : start + tokens.shape[1]])

    def encode(self, source: torch.Tensor) -> tuple[list[Keys], torch.Tensor]:
        """Tokens (N, S) -> what each layer of the decoder looks at, and where it may look."""
        mask = (source != PADDING)[:, None, None, :]
        x = self._embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return [layer.across.keys(x) for layer in self.decoder], mask  # pyright: ignore

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Tokens (N, S) and (N, T) -> logits of the tokens that follow those of the target,
        (N, T, vocabulary)."""
        memories, mask = self.encode(source)
        x = self._embed(target)
        for layer, memory in zip(self.decoder, memories, strict=True):
            x, _ = layer(x, memory, mask)
        return F.linear(x, self.embedding.weight)

    def translate(self, source: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest token each time, (N, at most `longest`) after START, and whether all logits
        were finite."""
        memories, mask = self.encode(source)
        past: list[Keys | None] = [None] * len(memories)
        token = torch.full((len(source), 1), START, device=source.device)
        ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        finite = torch.ones((), dtype=torch.bool, device=source.device)
        found: list[torch.Tensor] = []
        look_every = 1 if source.device.type == "cpu" else 8  # reading a value makes a GPU wait
        for step in range(longest):
            x = self._embed(token, step)
            for i, (layer, memory) in enumerate(zip(self.decoder, memories, strict=True)):
                x, past[i] = layer(x, memory, mask, past[i])
            logits = F.linear(x[:, -1], self.embedding.weight)
            finite &= torch.isfinite(logits).all()
            token = logits.argmax(-1, keepdim=True).masked_fill(ended[:, None], PADDING)
            found.append(token)
            ended |= token[:, 0] == END
            if (step + 1) % look_every == 0 and bool(ended.all()):
                break
        return torch.cat(found, 1), finite


def positions(length: int, width: int) -> torch.Tensor:
    """(length, width): sines in the even, cosines in the odd columns (Section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)
