"""What an activation costs by itself: time forward and backward, and what it saves for backward.

    python benchmarks/activation.py [--shape 128,16,32,32] [--sample 20] [--json FILE]

Torch's own ReLU and SiLU, some functions by name, and random functions of the spaces `one-unit` and
`three-units`, each as torch's operators one after another ("eager") and as generated code. One
thread, images channels last; each round runs every variant once, and the table shows medians.
Before that, the random functions' kernels are built one by one and all at once, in an empty cache.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from actsearch.search_space.activation import Activation
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.screening import screen
from actsearch.search_space.expression import formula
from actsearch.search_space.kernels import c, libraries
from actsearch.search_space.kernels.tracing import trace
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES

NAMED = ("relu(x)", "x * sigmoid(x)", "x * sigmoid(beta * x)", "max(x, tanh(x))", "cos(x) - x",
         "exp(-beta * (sin(x) - atan(x))**2)")  # fmt: skip
KINDS = ("eager", "generated")
Apply = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Case:
    group: str
    function: str
    kernels: str
    apply: Apply


def sampled(space: str, count: int, seed: int = 0) -> list[str]:
    """Different functions of a space that would be trained."""
    chance = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        digits = tuple(int(chance.integers(r)) for r in SPACES[space].radices)
        expr = canonical(SPACES[space].expression(digits))
        if not screen(expr):
            found.setdefault(formula(expr))
    return list(found)


def cases(channels: int, sample: int) -> list[Case]:
    found = [Case("torch", "relu", "torch", F.relu), Case("torch", "silu", "torch", F.silu)]
    groups = {"named": list(NAMED), **{s: sampled(s, sample) for s in ("one-unit", "three-units")}}
    for group, functions in groups.items():
        for function in functions:
            for kernels in KINDS:
                module = Activation(function, channels, kernels=kernels)
                found.append(Case(group, function, kernels, module))
    return found


def saved(apply: Apply, x: torch.Tensor) -> tuple[int, float]:
    """How many tensors of the size of x the backward pass keeps, and MB of all."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = apply(x)
    del y
    return sum(size >= x.nbytes // 4 for size in kept.values()), sum(kept.values()) / 1e6


def timed(apply: Apply, x: torch.Tensor, gy: torch.Tensor) -> tuple[float, float]:
    """ns an element, forward and backward."""
    begun = time.process_time()
    y = apply(x)
    between = time.process_time()
    y.backward(gy)
    ended = time.process_time()
    x.grad = None
    return (between - begun) * 1e9 / x.numel(), (ended - between) * 1e9 / x.numel()


def builds(functions: Sequence[str]) -> tuple[float, float]:
    """Seconds of processor time, here and in the compiler, to build the kernels of `functions`
    (columns, or flat without betas): one by one, and all at once; each a function."""
    kernels = [trace(parse(f), "guarded") for f in functions]
    sources = [c.source(t, "float32", "columns" if t.betas else "flat") for t in kernels]

    def cost(batches: list[list[c.Source]]) -> float:
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.dict(os.environ, {"XDG_CACHE_HOME": folder}),
        ):
            before = os.times()
            for batch in batches:
                libraries.build(batch)
            return sum(after - b for after, b in zip(os.times()[:4], before[:4], strict=True))

    return cost([[s] for s in sources]) / len(sources), cost([sources]) / len(sources)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="128,16,32,32")
    parser.add_argument("--sample", type=int, default=20, help="functions of each space")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = tuple(map(int, given.shape.split(",")))
    x = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()
    gy = torch.randn_like(x)
    built = {space: builds(sampled(space, given.sample)) for space in ("one-unit", "three-units")}
    everything = cases(shape[1], given.sample)
    for case in everything:
        timed(case.apply, x, gy)
    times: list[list[tuple[float, float]]] = [[] for _ in everything]
    for _ in range(given.rounds):
        for i, case in enumerate(everything):
            times[i].append(timed(case.apply, x, gy))

    rows: list[dict[str, Any]] = []
    for case, measured in zip(everything, times, strict=True):
        forward, backward = np.median(measured, axis=0)
        total = [f + b for f, b in measured]
        tensors, megabytes = saved(case.apply, x)
        rows.append(
            {
                "group": case.group,
                "function": case.function,
                "kernels": case.kernels,
                "forward": forward,
                "backward": backward,
                "total": float(np.median(total)),
                "low": np.quantile(total, 0.25),
                "high": np.quantile(total, 0.75),
                "saved": tensors,
                "saved_mb": megabytes,
            }
        )
    relu = rows[0]["total"]
    print(f"{given.shape}, float32, channels last, one thread of {os.cpu_count()}, torch "
          f"{torch.__version__}, n = {given.rounds}; ns an element")  # fmt: skip
    print(f"  {'function':<38} {'kernels':<10} {'forward':>7} {'backward':>8} {'total':>6} "
          f"{'quartiles':>11} {'x relu':>6} {'saved':>5} {'MB':>6}")  # fmt: skip
    for r in rows:
        if r["group"] in ("torch", "named"):
            print(f"  {r['function']:<38} {r['kernels']:<10} {r['forward']:>7.2f} "
                  f"{r['backward']:>8.2f} {r['total']:>6.2f} "
                  f"{r['low']:>5.2f}-{r['high']:<5.2f} {r['total'] / relu:>6.2f} "
                  f"{r['saved']:>5} {r['saved_mb']:>6.1f}")  # fmt: skip
    for group in ("one-unit", "three-units"):
        for kernels in KINDS:
            these = [r for r in rows if (r["group"], r["kernels"]) == (group, kernels)]
            total = [r["total"] for r in these]
            print(f"  {f'{len(these)} random of {group}':<38} {kernels:<10} median "
                  f"{np.median(total):.2f}, mean {np.mean(total):.2f}, 90 % "
                  f"{np.quantile(total, 0.9):.2f}; saved "
                  f"{np.mean([r['saved'] for r in these]):.1f} tensors, "
                  f"{np.mean([r['saved_mb'] for r in these]):.1f} MB")  # fmt: skip
    for space, (alone, together) in built.items():
        print(f"  to build a kernel of {space}: {alone:.3f} s of processor time alone, "
              f"{together:.3f} s among {given.sample}")  # fmt: skip
    if given.json:
        arguments = vars(given) | {"json": None}
        machine = {"cpus": os.cpu_count(), "torch": torch.__version__}
        given.json.write_text(
            json.dumps(
                {"arguments": arguments, "machine": machine, "rows": rows, "builds": built},
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
