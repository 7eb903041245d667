"""Search an activation for an image as a function of coordinates: (x, y) -> (r, g, b), a flower of
64 x 64 pixels. A quarter of them train, a quarter choose, a quarter test; as PSNR in dB.
"""

from typing import Any

import torch
from sklearn.datasets import load_sample_image
from torch import nn

import actsearch


def pixels(row: int, column: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates and colours from 0 to 1 of every second pixel both ways, from there on."""
    image = torch.from_numpy(load_sample_image("flower.jpg")[:384, 128:512].copy()) / 255
    small = image.view(64, 6, 64, 6, 3).mean((1, 3))
    grid = torch.cartesian_prod(*[torch.linspace(-4, 4, 64)] * 2).view(64, 64, 2)
    return grid[row::2, column::2].reshape(-1, 2), small[row::2, column::2].reshape(-1, 3)


def train(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
    hidden = [m for n in (2, 64, 64) for m in (nn.Linear(n, 64), make_activation(64))]
    model = nn.Sequential(*hidden, nn.Linear(64, 3))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    (xy, rgb), chosen_by, tested_by = pixels(0, 0), pixels(0, 1), pixels(1, 1)
    for step in range(1, steps + 1):
        loss = (model(xy) - rgb).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        report(step, loss.item())
    error = [(model(xy) - rgb).square().mean().log10().item() for xy, rgb in (chosen_by, tested_by)]
    return {"PSNR": -10 * error[0], "test_PSNR": -10 * error[1]}


if __name__ == "__main__":
    metric = actsearch.Metric("PSNR", "max", unit="dB", decimals=2)
    run = actsearch.search("runs/flower", objective=train, metric=metric, space="tiny", steps=200)
    print(run.table().head(9))
