"""The layer before a candidate, whatever the candidate's inputs: one projection, or for a gate two
narrower ones that have as many parameters with what reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from actsearch.search_space.activation import MakeActivation, inputs_of

# Wider layers have a multiple of eight, for the wide loads of GPUs.
ALIGNED_FROM, ALIGNED = 512, 8


def gated_width(hidden: int, inputs: int, outputs: int) -> int:
    """The width of a gate's layer that has the parameters of one of width `hidden`, where `outputs`
    numbers are made of it: hidden (inputs + 1 + outputs) / (2 (inputs + 1) + outputs), which is two
    thirds between layers of the same width (Shazeer 2020)."""
    width = hidden * (inputs + 1 + outputs) / (2 * (inputs + 1) + outputs)
    step = ALIGNED if hidden >= ALIGNED_FROM else 1
    return max(1, step * int(width / step + (step > 1) / 2))


def hidden_layer(
    make_activation: MakeActivation, inputs: int, hidden: int, outputs: int, **options: Any
) -> tuple[nn.Linear, nn.Linear | None, nn.Module]:
    """The projection to x, that to g where the candidate is a gate, and the candidate, for
    `activated`. `options` are those of `make_activation`."""
    narrower = gated_width(hidden, inputs, outputs)
    act = make_activation(hidden, gated=narrower, **options)
    if inputs_of(act) == 1:
        return nn.Linear(inputs, hidden), None, act
    return nn.Linear(inputs, narrower), nn.Linear(inputs, narrower), act


def activated(
    x: torch.Tensor, up: nn.Linear, gate: nn.Linear | None, act: nn.Module
) -> torch.Tensor:
    """(..., inputs) -> (..., hidden)."""
    return act(up(x)) if gate is None else act(up(x), gate(x))


class GatedLayer(nn.Module):
    """The same as one module, for nn.Sequential."""

    def __init__(self, up: nn.Linear, gate: nn.Linear, act: nn.Module) -> None:
        super().__init__()
        self.up, self.gate, self.act = up, gate, act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return activated(x, self.up, self.gate, self.act)
