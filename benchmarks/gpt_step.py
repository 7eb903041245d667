"""A GPT's training step with generated activations, beside the same step with torch's own GELU.

    python benchmarks/gpt_step.py [--sample 8] [--rounds 60]
    python benchmarks/gpt_step.py --small --rounds 30    # GPT-2 small in bfloat16, needs: a GPU

Each round takes a step of every model in turn on the same batch, in one process and one thread, so
that other work on the machine slows all of them alike. A ratio is the median over rounds of the
quotients within a round, of processor time; on a GPU of its own time, by events. `--small` takes
the square of ReLU and ASQU (a leaky one with a beta for each channel; Essential AI 2025) on random
tokens, as torch's operators too, and says what memory a step takes at most.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from activation import sampled
from torch import nn

from actsearch.child_models.data.sources import load
from actsearch.child_models.data.text import Text, tokens
from actsearch.child_models.evaluate import task_of
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import RECIPES, Recipe
from actsearch.child_models.training.optimisers import optimiser_of, step_of
from actsearch.search_space.activation import Activation
from actsearch.search_space.parser import parse

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = "gpt:width=768,layers=12,heads=12,tied=1"  # GPT-2 small
SQUARES = {"square of ReLU": "max(x, 0) * x", "ASQU": "x * max(x, beta * x)"}
Step = Callable[[object], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=8, help="random functions of each space")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--small", action="store_true", help="GPT-2 small, squares of ReLU")
    parser.add_argument("--child", default=SMALL, help="with --small")
    parser.add_argument("--batch", type=int, default=16, help="windows, with --small")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.small:
        squares(given)
    else:
        sampled_functions(given)


def sampled_functions(given: argparse.Namespace) -> None:
    step = Steps("gpt", load("stdlib"), RECIPES["gpt"])
    groups = {"one-unit": sampled("one-unit", given.sample),
              "three-units": sampled("three-units", given.sample)}  # fmt: skip
    steps = {
        f"{group:<12} {function}": step.of(function, "generated")
        for group, functions in groups.items()
        for function in functions
    }
    medians = interleaved(step, steps, given.rounds)
    for group in groups:
        ratios = [r for name, r in medians.items() if name.startswith(group)]
        print(f"  {group}: mean {np.mean(ratios):.3f} of {len(ratios)} functions "
              f"({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip


def squares(given: argparse.Namespace) -> None:
    ids = np.random.default_rng(0).integers(0, 50_257, 1_000_000)
    recipe = replace(RECIPES["gpt"], batch_size=given.batch, precision="bf16")
    step = Steps(given.child, tokens(ids, context=1024, vocabulary=50_257), recipe)
    steps = {"square of ReLU, torch's own": step.of_torch(lambda x: F.relu(x).square())}
    for name, function in SQUARES.items():
        for kernels in ("generated", "eager"):
            steps[f"{name}, {kernels}"] = step.of(function, kernels)
    medians = interleaved(step, steps, given.rounds)
    base = medians["square of ReLU, generated"]
    print(
        f"  ASQU over the square of ReLU, both generated: {medians['ASQU, generated'] / base:.3f}"
    )


class Steps:
    """Steps of a child with one function and another."""

    def __init__(self, child: str, text: Text, recipe: Recipe) -> None:
        self.child, self.text, self.recipe = child, text, recipe
        self.task = task_of(text, DEVICE)

    def of(self, function: str, kernels: str) -> Step:
        return self._of(partial(Activation, parse(function), kernels=kernels))

    def of_torch(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Step:
        return self._of(lambda *_, **__: Plain(function))

    def _of(self, make: Callable[..., nn.Module]) -> Step:
        torch.manual_seed(0)
        model = child_from(self.child)(make, **self.text.facts).to(DEVICE)
        return step_of(model, optimiser_of(model, self.recipe), self.task, self.recipe)


class Plain(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def interleaved(step: Steps, steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """The median of each one's quotients to GELU, which are printed; three rounds before them do
    not count."""
    batches = step.task.batches(step.recipe, seed=0)
    gelu = step.of_torch(F.gelu)
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    reference: list[float] = []
    peaks = dict.fromkeys(steps, 0)
    for number in range(-3, rounds):
        batch = next(batches)
        took = seconds(gelu, batch)[0]
        for name, one in steps.items():
            spent, peaks[name] = seconds(one, batch)
            if number >= 0:
                ratios[name].append(spent / took)
        reference += [took] * (number >= 0)
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "one thread"
    print(f"torch {torch.__version__}, {where}, n = {rounds} rounds; "
          f"GELU {1e3 * np.median(reference):.2f} ms a step")  # fmt: skip
    medians = {name: float(np.median(found)) for name, found in ratios.items()}
    for name, ratio in medians.items():
        print(f"  {ratio:.3f}  {name}" + (f", {peaks[name] / 1e9:.2f} GB" if peaks[name] else ""))
    return medians


def seconds(step: Step, batch: object) -> tuple[float, int]:
    """Of the device's own time, and the bytes of a GPU that the step took beside what it found."""
    if DEVICE.type == "cpu":
        begun = time.thread_time()
        step(batch)
        return time.thread_time() - begun, 0
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    begun.record()
    step(batch)
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended) / 1e3, torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    main()
