"""What training made of the activations: their betas and their inputs (paper, Figures 6 and 7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from actsearch.child_models.data.data import Task
from actsearch.child_models.recipe import Recipe
from actsearch.search_space.activation import Activation
from actsearch.search_space.expression import Expr

LIMIT = 10.0  # the paper's axis
BINS = 80
EXAMPLES = 500  # of the validation split


def activations(model: nn.Module) -> list[Activation]:
    return [m for m in model.modules() if isinstance(m, Activation)]


def rounded(value: float) -> float | None:
    """To four digits; None where it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def inspection(
    model: nn.Module, task: Task, recipe: Recipe, beat: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """`betas`: for each beta of the functions its values over all layers and channels that have it.
    `preactivations`: how many inputs of activations lie in each of 80 bins from -10 to 10, below
    and above, over 500 examples of the validation split."""
    found = activations(model)
    of_function: dict[Expr, list[Activation]] = {}
    for activation in found:
        of_function.setdefault(activation.expr, []).append(activation)
    betas = [
        [rounded(v) for a in alike for v in a.beta[i].tolist()]
        for alike in of_function.values()
        for i in range(len(alike[0].beta))
    ]
    counts = torch.zeros(BINS + 2, dtype=torch.long)

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        for given in inputs:
            x = given.detach().float().nan_to_num()
            bins = ((x + LIMIT) * (BINS / (2 * LIMIT))).floor().clamp(-1, BINS).long() + 1
            counts.add_(torch.bincount(bins.flatten(), minlength=BINS + 2).cpu())

    hooks = [a.register_forward_pre_hook(count) for a in found]
    try:
        task.score(model, recipe, "val", EXAMPLES, beat)
    finally:
        for hook in hooks:
            hook.remove()
    below, *inside, above = counts.tolist()
    histogram = {"low": -LIMIT, "high": LIMIT, "counts": inside, "below": below, "above": above}
    return {"betas": betas, "preactivations": histogram}
