"""The optimisers of recipe.py, and a step of training as a function of its batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from actsearch.child_models.data.data import Task
from actsearch.child_models.device import memory_format
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training.cuda_graph import Step
from actsearch.search_space.activation import Activation


class _Uncompiled:
    """torch's own methods, without what keeps them out of compiled graphs: that imports torch's
    whole compiler, 2 s of every process, and nothing here is compiled."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class SGD(_Uncompiled, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class Adam(_Uncompiled, torch.optim.Adam):
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(_Uncompiled, torch.optim.AdamW):
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


# From groups of parameters.
OPTIMISERS: dict[str, Callable[[Any, Recipe], torch.optim.Optimizer]] = {
    "sgd": lambda groups, r: SGD(groups, r.lr, r.momentum, fused=True),
    "nesterov": lambda groups, r: SGD(groups, r.lr, r.momentum, nesterov=True, fused=True),
    "adam": lambda groups, r: Adam(groups, r.lr, fused=True),
    "adam-0.98": lambda groups, r: Adam(groups, r.lr, betas=(0.9, 0.98), eps=1e-9, fused=True),
    "adamw": lambda groups, r: AdamW(groups, r.lr, betas=(0.9, 0.95), fused=True),
}


def optimiser_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    return OPTIMISERS[recipe.optimiser](_weight_decay_groups(model, recipe), recipe)


def _weight_decay_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Weights and biases decay, but for adamw only what has two dimensions; the betas of an
    Activation do not (recipe.py says why)."""
    kept = {id(b) for m in model.modules() if isinstance(m, Activation) for b in m.beta}
    if recipe.optimiser == "adamw":
        kept |= {id(p) for p in model.parameters() if p.ndim < 2}
    decayed = [p for p in model.parameters() if id(p) not in kept]
    free = [p for p in model.parameters() if id(p) in kept]
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": recipe.weight_decay}]
    return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups


def step_of(model: nn.Module, optimiser: torch.optim.Optimizer, task: Task, recipe: Recipe) -> Step:
    """What a step of training does with a batch: its loss and the norm of its gradient."""
    model.train()
    model.to(memory_format=memory_format(model))  # pyright: ignore[reportCallIssue]
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        optimiser.zero_grad(set_to_none=True)
        loss = task.loss(model, batch, recipe)
        loss.backward()
        norm = nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
        if recipe.clip:
            nn.utils.clip_grads_with_norm_(parameters, recipe.clip, norm)
        optimiser.step()
        return loss.detach(), norm

    return step
