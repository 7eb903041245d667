"""Search an activation function for one's own model and data, in this process, in some seconds.

python examples/own_model.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

import actsearch


def rings(n: int = 1200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points on three noisy rings, and which ring each is on."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    angle, radius = rng.uniform(0, 2 * np.pi, n), 1 + y + 0.25 * rng.normal(size=n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32), y


def net(make_activation: Callable[[int], nn.Module], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, 16), make_activation(16), nn.Linear(16, 16), make_activation(16),
        nn.Linear(16, classes),
    )  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = actsearch.search(
            Path(folder) / "rings",
            space="tiny",
            strategy="random",
            budget=20,
            child=net,
            dataset=rings(),
            steps=150,
            executor="inline",
        )
        print(run.table(wide=True)[["rank", "formula", "val accuracy", "monotonic"]].head(8))
        print(
            actsearch.reevaluate(
                run, child=net, dataset=rings(), steps=150, top=3, seeds=3, executor="inline"
            )
        )


if __name__ == "__main__":
    main()
