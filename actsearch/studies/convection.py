"""A physics-informed network (Raissi et al. 2019) for the convection of a wave on a circle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from actsearch.search_space.activation import MakeActivation

WIDTH, POINTS = 32, 128
SPEED, DIFFUSION = 3.0, 0.05
TESTED = 1000  # points each for the error and for the test error


@dataclass(frozen=True)
class Convection:
    """An objective: u_t + 3 u_x = 0.05 u_xx with u(x, 0) = sin x, solved by Adam with the rate
    `lr`, which falls in a cosine. Scores are relative L2 errors to exp(-0.05 t) sin(x - 3 t) at
    points that were not trained on."""

    lr: float = 3e-3

    def __call__(
        self,
        make_activation: MakeActivation,
        seed: int,
        steps: int,
        report: Callable[[int, float], None],
    ) -> dict[str, float]:
        net = nn.Sequential(
            nn.Linear(3, WIDTH), make_activation(WIDTH),
            nn.Linear(WIDTH, WIDTH), make_activation(WIDTH), nn.Linear(WIDTH, 1),
        )  # fmt: skip
        points = torch.Generator().manual_seed(seed)  # the same whatever the activation draws

        def u(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return net(torch.cat([x.sin(), x.cos(), t], dim=1))

        def drawn(n: int) -> tuple[torch.Tensor, torch.Tensor]:
            x, t = torch.rand(2, n, 1, generator=points)
            return 2 * math.pi * x, t

        optimiser = torch.optim.Adam(net.parameters(), self.lr)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for step in range(1, steps + 1):
            x, t = (z.requires_grad_() for z in drawn(POINTS))
            here = u(x, t)
            along = _slope(here, x)
            residual = _slope(here, t) + SPEED * along - DIFFUSION * _slope(along, x)
            loss = residual.square().mean() + 10 * (u(x, 0 * t) - x.sin()).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            falling.step()
            report(step, loss.item())
        with torch.no_grad():
            return {"error": _error(u, *drawn(TESTED)), "test_error": _error(u, *drawn(TESTED))}


def _slope(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


def _error(
    u: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, t: torch.Tensor
) -> float:
    exact = torch.exp(-DIFFUSION * t) * torch.sin(x - SPEED * t)
    return ((u(x, t) - exact).norm() / exact.norm()).item()
