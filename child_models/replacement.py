"""replace_activations(): a function of the grammar in the place of a model's activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from search_space.activation import Activation
from search_space.expression import Expr
from search_space.parser import parse


class Site(nn.Module):
    """The activations in the place of one module: one for each of its calls in a forward pass,
    since a model may call one ReLU several times, with several widths."""

    def __init__(self, make: Callable[[int], nn.Module], channel_dim: int) -> None:
        super().__init__()
        self.make = make
        self.channel_dim = channel_dim
        self.activations = nn.ModuleList()
        self.complete = False
        self.call = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.complete and self.call == len(self.activations):
            self.activations.append(self.make(x.shape[self.channel_dim]).to(x.device))
        activation = self.activations[self.call % len(self.activations)]
        self.call += 1
        return activation(x)


class _Restart:
    """Before each forward pass of the model its sites count their calls from 0."""

    def __init__(self, sites: list[Site]) -> None:
        self.sites = sites

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        for site in self.sites:
            site.call = 0


def replace_activations(
    model: nn.Module,
    function: str | Expr,
    example: Any,
    *,
    match: type[nn.Module] | Iterable[type[nn.Module]] = nn.ReLU,
    channel_dim: int = 1,
    operators: str = "guarded",
    kernels: str = "eager",
) -> int:
    """Put `function` in the place of every module of the types `match`, and return how many calls
    of such modules there are in a forward pass; each has parameters of its own.

    `example` is an input of the model, or a tuple of inputs, which is run once, as in training, to
    see where and how wide they are; give a batch of two or more to a model with batch
    normalisation. Raises ValueError where no such module is called. Activations that a model calls
    as functions (`F.relu(x)`) are no modules and stay.
    """
    types = (match,) if isinstance(match, type) else tuple(match)
    expr = parse(function) if isinstance(function, str) else function

    def make(width: int) -> nn.Module:
        return Activation(
            expr, width, channel_dim=channel_dim, operators=operators, kernels=kernels
        )

    sites = _swap(model, types, lambda: Site(make, channel_dim))
    if not sites:
        names = ", ".join(t.__name__ for t in types)
        found = sorted({type(m).__name__ for m in model.modules() if not list(m.children())})
        raise ValueError(
            f"the model has no {names} to replace; its modules are {', '.join(found)}. "
            "Give match=(nn.SiLU, ...), and note that F.relu(x) is no module"
        )
    model.register_forward_pre_hook(_Restart(sites))
    _run_once(model, example if isinstance(example, tuple) else (example,))
    for site in sites:
        site.complete = True
    return sum(len(site.activations) for site in sites)


@torch.no_grad()
def _run_once(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A forward pass that leaves statistics, mode and randomness as they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = {module: module.training for module in model.modules()}
    with torch.random.fork_rng():
        model.train()(*inputs)
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])
    for module in model.modules():
        module.training = modes.get(module, model.training)


def _swap(
    model: nn.Module, types: tuple[type[nn.Module], ...], make: Callable[[], Site]
) -> list[Site]:
    """One site for each module, even where the model holds it in several places."""
    known: dict[nn.Module, Site] = {}
    for parent in list(model.modules()):
        if isinstance(parent, Site):
            continue
        for name, module in list(parent._modules.items()):
            if module is not None and type(module) in types:
                if module not in known:
                    known[module] = make().train(module.training)
                setattr(parent, name, known[module])
    return list(known.values())
