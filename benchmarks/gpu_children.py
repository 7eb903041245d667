"""Candidates an hour on one GPU: eager one by one, generated kernels, steps as one launch, several
children at once.

    python benchmarks/gpu_children.py [--child resnet20] [--steps 400] [--at-once 2 4 8]

Each round trains the same random functions of the one-unit space in every way in turn, on images
made up by chance, in this process and without Ray; the first round, in which kernels are compiled,
does not count, and what diverges in it is left out. An hour is that of children of
`--whole` steps. The last line is the least time that a step of ReLU can take: its products and sums
at the GPU's peak, and what must be read and written once at its bandwidth (those of an H200, if not
said). What it found on an H100 is in `h100.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from activation import sampled
from torch.utils.flop_counter import FlopCounterMode

from actsearch.child_models.data.labelled import Dataset, make_dataset
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.results.records import Outcome, Trial


@dataclass(frozen=True)
class Way:
    kernels: str = "auto"
    precision: str = "fp32"
    cuda_graphs: bool = False
    at_once: int = 1

    def __str__(self) -> str:
        words = ["eager" if self.kernels == "eager" else "generated", self.precision]
        words += ["graphs"] * self.cuda_graphs
        return ", ".join(words) + (f", {self.at_once} at once" if self.at_once > 1 else "")


def ways(at_once: Sequence[int]) -> list[Way]:
    return [
        Way(kernels="eager"),
        Way(),
        Way(cuda_graphs=True),
        Way(cuda_graphs=True, precision="tf32"),
        Way(cuda_graphs=True, precision="bf16"),
        *(Way(cuda_graphs=True, precision="bf16", at_once=k) for k in at_once),
    ]


def images(size: int, n: int = 5000) -> Dataset:
    chance = np.random.default_rng(0)
    x = chance.integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    return make_dataset("noise", (x, chance.integers(0, 10, n)), augment="crop_flip")


def trained(
    way: Way, functions: Sequence[str], given: argparse.Namespace, data: Dataset
) -> tuple[float, list[str]]:
    """Seconds for all functions, and those that did not diverge."""
    recipe = Recipe(steps=given.steps, batch_size=given.batch, precision=way.precision, lr=0.01)
    evaluator = Evaluator(
        data,
        child_from(given.child),
        recipe,
        kernels=way.kernels,
        cuda_graphs=way.cuda_graphs,
        in_turns=way.at_once > 1,
    )
    trials = [Trial(i, "search", f, evaluator.protocol_hash, 0) for i, f in enumerate(functions)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(way.at_once) as pool:
        outcomes: list[Outcome] = list(pool.map(evaluator, trials))
    seconds = time.perf_counter() - begun
    for trial, outcome in zip(trials, outcomes, strict=True):
        if outcome.status == "failed":
            raise SystemExit(f"{way}: {trial.subject}: {outcome.reason}")
    ended = [t.subject for t, o in zip(trials, outcomes, strict=True) if o.status == "ok"]
    return seconds, ended


def least(given: argparse.Namespace, data: Dataset) -> tuple[float, float]:
    """FLOP of a step of ReLU, two per multiply-add, and its bytes: every saved tensor is written
    once and read once, and its gradient too; weights, gradients and momenta are read and
    written."""
    model = child_from(given.child)(lambda *_, **__: torch.nn.ReLU(), **data.facts)
    x = torch.zeros(given.batch, *data.facts["input_shape"])
    saved: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        saved[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with (
        FlopCounterMode(display=False) as flops,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
    ):
        model(x).sum().backward()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return flops.get_total_flops(), 4 * sum(saved.values()) + 6 * weights


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--child", default="resnet20")
    parser.add_argument("--size", type=int, default=32, help="side of the images")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=400, help="that are taken")
    parser.add_argument("--whole", type=int, default=10_000, help="steps of a whole training")
    parser.add_argument("--functions", type=int, default=8)
    parser.add_argument("--at-once", type=int, nargs="*", default=(2, 4, 8))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tflops", type=float, default=67.0, help="peak in fp32")
    parser.add_argument("--terabytes", type=float, default=4.8, help="a second, of memory")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    data = images(given.size)
    functions = sampled("one-unit", given.functions)
    everything = ways(given.at_once)
    for way in everything:
        _, functions = trained(way, functions, given, data)
    if not functions:
        raise SystemExit("every function diverged; ask for more --functions")
    seconds: dict[Way, list[float]] = {way: [] for way in everything}
    for _ in range(given.rounds):
        for way in everything:
            seconds[way].append(trained(way, functions, given, data)[0])
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else "no GPU, so no graphs"
    print(
        f"{given.child}, {given.size}x{given.size}, batch {given.batch}, {device}, torch "
        f"{torch.__version__}, {len(functions)} functions of {given.steps} steps, "
        f"n = {given.rounds} rounds"
    )
    print(f"  {'':<34} {'ms a step':>9} {'an hour':>8} {'quartiles':>15} {'ratio':>6}")
    rows: list[dict[str, Any]] = []
    for way, took in seconds.items():
        an_hour = len(functions) * 3600 / np.array(took) * given.steps / given.whole
        low, median, high = np.quantile(an_hour, (0.25, 0.5, 0.75))
        ms = 1e3 * float(np.median(took)) / len(functions) / given.steps
        rows.append({"way": str(way), "ms a step": ms, "an hour": median, "low": low, "high": high})
        ratio = median / rows[0]["an hour"]
        print(f"  {way!s:<34} {ms:>9.2f} {median:>8.1f} {f'{low:.1f} to {high:.1f}':>15} "
              f"{ratio:>6.2f}")  # fmt: skip
    flop, size = least(given, data)
    by_flop, by_size = flop / given.tflops / 1e9, size / given.terabytes / 1e9
    print(
        f"  a step of ReLU: {flop / 1e9:.3g} GFLOP, {by_flop:.2g} ms; {size / 1e9:.2g} GB, "
        f"{by_size:.2g} ms at least"
    )
    if given.json:
        given.json.write_text(
            json.dumps({"device": device, "flop": flop, "bytes": size, "rows": rows})
        )


if __name__ == "__main__":
    main()
