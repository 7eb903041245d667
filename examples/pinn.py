"""Search an activation for a PINN of convection: u_t + 3 u_x = 0.05 u_xx for x in a circle.
Where u(x, 0) = sin x, its solution is exp(-0.05 t) sin(x - 3 t). Start: python examples/pinn.py
"""

from typing import Any

import torch
from torch import nn

import actsearch


def slope(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


def train(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
    hidden = [nn.Linear(3, 32), make_activation(32), nn.Linear(32, 32), make_activation(32)]
    net = nn.Sequential(*hidden, nn.Linear(32, 1))
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(1, steps + 1):
        x, t = (top * torch.rand(128, 1, requires_grad=True) for top in (6.2832, 1))
        u, first = (net(torch.cat([x.sin(), x.cos(), time], 1)) for time in (t, 0 * t))
        residual = slope(u, t) + 3 * slope(u, x) - 0.05 * slope(slope(u, x), x)
        loss = residual.square().mean() + 10 * (first - x.sin()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        report(step, loss.item())
    x, t = 6.2832 * torch.rand(2000, 1), torch.rand(2000, 1)
    exact = torch.exp(-0.05 * t) * torch.sin(x - 3 * t)
    off = net(torch.cat([x.sin(), x.cos(), t], 1)) - exact
    error, test = (off.view(2, -1).norm(dim=1) / exact.view(2, -1).norm(dim=1)).tolist()
    return {"error": error, "test_error": test}


if __name__ == "__main__":
    error = actsearch.Metric("error", "min")
    run = actsearch.search("runs/pinn", objective=train, metric=error, space="tiny", steps=500)
    print(run.table().head(9))
