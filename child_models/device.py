"""How a batch and a forward pass meet a device: its memory, its precision, the order of images in
memory."""

from __future__ import annotations

import torch
from torch import nn

from actsearch.child_models.recipe import Recipe


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's precision, for forward passes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def on_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch from main memory; the GPU copies it while the host goes on."""
    if device.type == "cpu":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)


def memory_format(model: nn.Module) -> torch.memory_format:
    """Channels first, unless the model says that it never looks at strides."""
    return getattr(model, "memory_format", torch.contiguous_format)
