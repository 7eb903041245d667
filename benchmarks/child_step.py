"""Milliseconds a training step, by child, memory format, precision and activation.

    python benchmarks/child_step.py [--child resnet20] [--rounds 5] [--compile] [--json FILE]

Each round takes a few steps of every variant in turn, one thread, in this process; the table shows
medians over rounds with their quartiles, and the ratio to the first row: ReLU by torch's operators
one after another, in float32, channels first, with the plain optimiser, as a simple training loop
has them. The last lines are means over random functions of the spaces.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from activation import sampled
from torch import nn

from actsearch.child_models.networks.zoo import child_from
from actsearch.search_space.activation import Activation

FUNCTIONS = {
    "relu": "relu(x)",
    "swish": "x * sigmoid(beta * x)",
    "one unit": "exp(-beta * abs(sin(x) - atan(x)))",
    "three units": "max(cos(sinh(x) * x), tanh(x) + beta) * sigmoid(asinh(x) - erf(x))",
}
STEPS = 3  # a round
LEARNING_RATE = 1e-6  # children that diverge take slower steps, and in a search none at all


@dataclass(frozen=True)
class Variant:
    function: str
    kernels: str
    channels_last: bool
    bfloat16: bool


NAIVE = ("eager", False, False)
OURS = ("generated", True, False)
WAYS = (NAIVE, ("eager", True, False), ("generated", False, False), OURS, ("generated", True, True))


def step_of(variant: Variant, child: str, size: int, batch: int) -> Callable[[], None]:
    """One training step of a new model."""
    torch.manual_seed(0)
    formula = FUNCTIONS.get(variant.function, variant.function)
    kernels = "eager" if variant.kernels == "compiled" else variant.kernels
    make = partial(Activation, formula, kernels=kernels)
    model: nn.Module = child_from(child)(make, input_shape=(3, size, size), classes=10)
    x, y = torch.randn(batch, 3, size, size), torch.randint(10, (batch,))
    if variant.channels_last:
        model, x = (
            model.to(memory_format=torch.channels_last),
            x.to(memory_format=torch.channels_last),
        )
    if variant.kernels == "compiled":
        model.compile()
    naive = (variant.kernels, variant.channels_last, variant.bfloat16) == NAIVE
    optimiser = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=0.9, fused=None if naive else True
    )

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--child", default="resnet20")
    parser.add_argument("--size", type=int, default=32, help="side of the images")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=6, help="random functions of each space")
    parser.add_argument("--compile", action="store_true", help="by torch.compile too: minutes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ways = [*WAYS, ("compiled", True, False)] if given.compile else WAYS
    named = [Variant(function, *way) for function in FUNCTIONS for way in ways]
    spaces = {s: sampled(s, given.sample) for s in ("one-unit", "three-units")}
    drawn = {
        (space, way): [Variant(function, *way) for function in functions]
        for space, functions in spaces.items()
        for way in (NAIVE, OURS)
    }
    variants = [*named, *(v for group in drawn.values() for v in group)]
    steps = {v: step_of(v, given.child, given.size, given.batch) for v in variants}
    for step in steps.values():
        step()
    times: dict[Variant, list[float]] = {v: [] for v in variants}
    for _ in range(given.rounds):
        for variant, step in steps.items():
            begun = time.process_time()
            for _ in range(STEPS):
                step()
            times[variant].append((time.process_time() - begun) / STEPS * 1e3)

    print(
        f"{given.child}, {given.size}x{given.size}, batch {given.batch}, one thread of "
        f"{os.cpu_count()}, torch {torch.__version__}, n = {given.rounds} rounds of {STEPS}"
    )
    print(f"  {'activation':<12} {'kernels':<10} {'layout':<14} {'type':<9} {'ms':>7} "
          f"{'quartiles':>14} {'x eager relu':>13}")  # fmt: skip
    relu = np.median(times[named[0]])
    rows = []
    for v in variants:
        low, median, high = np.quantile(times[v], (0.25, 0.5, 0.75))
        rows.append({**asdict(v), "ms": median, "low": low, "high": high})
        if v not in named:
            continue
        layout = "channels last" if v.channels_last else "channels first"
        kind = "bfloat16" if v.bfloat16 else "float32"
        print(f"  {v.function:<12} {v.kernels:<10} {layout:<14} {kind:<9} {median:>7.1f} "
              f"{f'{low:.1f}-{high:.1f}':>14} {median / relu:>13.2f}")  # fmt: skip
    for (space, (kernels, *_)), group in drawn.items():
        ratios = [np.median(times[v]) / relu for v in group]
        print(f"  {len(group)} random of {space}, {kernels}: mean {np.mean(ratios):.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps({"arguments": vars(given) | {"json": None}, "rows": rows}))


if __name__ == "__main__":
    main()
