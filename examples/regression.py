"""Search an activation for a tabular regression: diabetes of 442 patients, a year later.

python examples/regression.py
"""

from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import actsearch


def r2(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return 1 - ((model(x) - y).square().mean() / y.var(correction=0)).item()


def train(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
    table, target = (torch.tensor(a).float() for a in load_diabetes(return_X_y=True))
    x, y = table * len(table) ** 0.5, ((target - 152) / 77)[:, None]  # variances of 1
    model = nn.Sequential(nn.Linear(10, 32), make_activation(32), nn.Linear(32, 1))
    optimiser = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    for step in range(1, steps + 1):
        loss = (model(x[:264]) - y[:264]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        report(step, loss.item())
    return {"R2": r2(model, x[264:353], y[264:353]), "test_R2": r2(model, x[353:], y[353:])}


if __name__ == "__main__":
    run = actsearch.search("runs/diabetes", objective=train, metric="R2", space="tiny", steps=100)
    print(run.table().head(10))
