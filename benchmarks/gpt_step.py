"""A GPT's training step with generated activations, beside the same step with torch's own GELU.

    python benchmarks/gpt_step.py [--sample 8] [--rounds 60]

Each round takes a step of every model in turn on the same batch, in one process and one thread, so
that other work on the machine slows all of them alike. A ratio is the median over rounds of the
quotients within a round, of processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from activation import sampled
from torch import nn

from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import task_of
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import RECIPES
from actsearch.child_models.training.optimisers import optimiser_of, step_of
from actsearch.search_space.activation import Activation
from actsearch.search_space.parser import parse

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=8, help="random functions of each space")
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    text, recipe = load("stdlib"), RECIPES["gpt"]
    task = task_of(text, CPU)
    batches = task.batches(recipe, seed=0)

    def step(make: Callable[..., nn.Module]) -> Callable[[object], object]:
        torch.manual_seed(0)
        model = child_from("gpt")(make, **text.facts)
        return step_of(model, optimiser_of(model, recipe), task, recipe)

    groups = {"one-unit": sampled("one-unit", given.sample),
              "three-units": sampled("three-units", given.sample)}  # fmt: skip
    gelu = step(lambda *_, **__: nn.GELU())
    steps = {
        (group, function): step(partial(Activation, parse(function), kernels="generated"))
        for group, functions in groups.items()
        for function in functions
    }
    ratios: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for _ in range(given.rounds):
        batch = next(batches)
        reference = seconds(gelu, batch)
        for key, one in steps.items():
            ratios[key].append(seconds(one, batch) / reference)
    print(f"torch {torch.__version__}, one thread, n = {given.rounds} rounds")
    for (group, function), found in ratios.items():
        print(f"  {group:<12} {np.median(found):.3f}  {function}")
    for group in groups:
        medians = [np.median(r) for (name, _), r in ratios.items() if name == group]
        print(f"  {group}: mean {np.mean(medians):.3f} of {len(medians)} functions "
              f"({min(medians):.3f} to {max(medians):.3f})")  # fmt: skip


def seconds(step: Callable[[object], object], batch: object) -> float:
    begun = time.thread_time()
    step(batch)
    return time.thread_time() - begun


if __name__ == "__main__":
    main()
