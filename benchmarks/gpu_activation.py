"""What an activation costs by itself on a GPU: its share of the bandwidth that a copy has.

    python benchmarks/gpu_activation.py [--shape 128,16,32,32] [--sample 20] [--json FILE]

Torch's own ReLU, some functions by name and random ones of the space `one-unit`, in float32 and
bfloat16, images channels last, as generated code and (`--eager`) as torch's operators one after
another. Forward must read x and write y; backward must read x and the gradient of y and write that
of x. The share is these bytes, over the time they took, over the bandwidth of a copy. The passes go
over so many images, all forward and then all backward, that a GPU's second cache holds none of what
comes next, and are launched as graphs, so the host costs nothing. Medians over rounds. Kernels are
compiled ahead, which is timed; `--block`, `--steps` and `--programs` change them (`cuda.py`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from activation import NAMED, sampled
from torch import nn

from actsearch.search_space.activation import Activation
from actsearch.search_space.kernels import cuda
from actsearch.search_space.kernels.ahead import Ahead
from actsearch.search_space.parser import parse

ELEMENTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AWAY = 256e6  # bytes between two uses of the same; the second cache of an H100 has 50 MB
Work = Callable[[], Any]


class Relu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x)


@dataclass(frozen=True)
class Passes:
    """One variant: all its forward passes, and all its backward passes."""

    function: str
    kernels: str
    element: str
    forward: Work
    backward: Work


def images(
    shape: Sequence[int], element: torch.dtype, device: torch.device, away: float = AWAY
) -> list[torch.Tensor]:
    """As many as it takes that they are `away` bytes; two at least."""
    one = int(np.prod(shape)) * element.itemsize
    return [
        torch.randn(*shape, device=device, dtype=element).to(memory_format=torch.channels_last)
        for _ in range(max(2, -int(-away // one)))
    ]


def as_graph(work: Work, device: torch.device, pool: Any = None) -> tuple[Work, Any]:
    """What does `work` again, and what `work` returned, which lies where it is written."""
    if device.type != "cuda":
        return work, work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        kept = work()
    return graph.replay, kept


def passes(
    module: nn.Module, xs: Sequence[torch.Tensor], gys: Sequence[torch.Tensor]
) -> tuple[Work, Work]:
    device = xs[0].device
    module = module.to(device)
    leaves = [x.detach().requires_grad_() for x in xs]

    def backward(ys: Sequence[torch.Tensor]) -> list[Any]:
        return [
            torch.autograd.grad(y, [x, *module.parameters()], gy, retain_graph=True)
            for y, x, gy in zip(ys, leaves, gys, strict=False)
        ]

    backward([module(leaves[0])])  # compiles, and takes memory
    pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
    forward, ys = as_graph(lambda: [module(x) for x in leaves], device, pool)
    again, kept = as_graph(lambda: backward(ys), device, pool)
    # What the graphs write stays theirs as long as they are in use.
    return forward, lambda: (again(), kept)[0]


def seconds(work: Work, device: torch.device) -> float:
    if device.type != "cuda":
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    work()
    events[1].record()
    events[1].synchronize()
    return events[0].elapsed_time(events[1]) / 1e3


def bandwidth(xs: Sequence[torch.Tensor], rounds: int) -> float:
    """Bytes a second that copies read and write."""
    device, others = xs[0].device, [torch.empty_like(x) for x in xs]
    copy, _ = as_graph(lambda: [y.copy_(x) for x, y in zip(xs, others, strict=True)], device)
    found = [seconds(copy, device) for _ in range(rounds + 1)][1:]
    return 2 * sum(x.nbytes for x in xs) / float(np.median(found))


def compiled_ahead(functions: Sequence[str], device: torch.device) -> float:
    """Seconds to compile what all of them need."""
    begun = time.perf_counter()
    kinds = [(device.type, e, layout) for e in ELEMENTS for layout in ("flat", "columns")]
    ahead = Ahead(kinds, "guarded")
    ahead([parse(f) for f in functions])
    ahead.wait()
    took = time.perf_counter() - begun
    ahead.close()
    return took


def row(
    done: Passes, forward: float, backward: float, size: int, count: int, copy: float
) -> dict[str, Any]:
    """`forward` and `backward` in seconds for `count` tensors of `size` bytes, `copy` in bytes a
    second."""
    return {
        "function": done.function,
        "kernels": done.kernels,
        "element": done.element,
        "forward_us": forward / count * 1e6,
        "backward_us": backward / count * 1e6,
        "forward_share": 2 * size * count / forward / copy,
        "backward_share": 3 * size * count / backward / copy,
        "share": 5 * size * count / (forward + backward) / copy,
    }


def measured(
    given: argparse.Namespace, functions: Sequence[str], device: torch.device
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A row a variant, and the bandwidth of a copy by type of element."""
    shape = tuple(map(int, given.shape.split(",")))
    rows: list[dict[str, Any]] = []
    copies: dict[str, float] = {}
    for element, dtype in ELEMENTS.items():
        xs, gys = (images(shape, dtype, device, given.away) for _ in range(2))
        copies[element] = bandwidth(xs, given.rounds)
        variants = [("relu", "torch", lambda: Relu())]
        for f in functions:
            for kernels in ("generated", "eager") if given.eager else ("generated",):
                variants.append((f, kernels, lambda f=f, k=kernels: _module(f, shape[1], k)))
        for function, kernels, make in variants:  # one at a time: each has gigabytes
            done = Passes(function, kernels, element, *passes(make(), xs, gys))
            times = [
                (seconds(done.forward, device), seconds(done.backward, device))
                for _ in range(given.rounds + 1)
            ][1:]
            forward, backward = np.median(times, axis=0)
            rows.append(row(done, forward, backward, xs[0].nbytes, len(xs), copies[element]))
    return rows, copies


def _module(function: str, channels: int, kernels: str) -> Activation:
    return Activation(function, channels, kernels=kernels)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="128,16,32,32")
    parser.add_argument("--sample", type=int, default=20, help="functions of one-unit")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--eager", action="store_true", help="measure torch's operators as well")
    parser.add_argument("--away", type=float, default=AWAY, help="bytes between two uses")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--block", type=int, default=cuda.BLOCK, help="elements of a program")
    parser.add_argument("--steps", type=int, default=cuda.STEPS, help="beyond which it has half")
    parser.add_argument("--programs", type=int, default=cuda.SUMMING_PROGRAMS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cuda.BLOCK, cuda.STEPS, cuda.SUMMING_PROGRAMS = given.block, given.steps, given.programs
    device = torch.device(given.device)
    torch.manual_seed(0)
    functions = list(dict.fromkeys([*NAMED, *sampled("one-unit", given.sample)]))
    compile_seconds = compiled_ahead(functions, device)
    rows, copies = measured(given, functions, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    print(f"{name}, torch {torch.__version__}, {given.shape}, channels last, n = {given.rounds}; "
          + ", ".join(f"copy {v / 1e12:.2f} TB/s in {k}" for k, v in copies.items()))  # fmt: skip
    print(f"  {len(functions)} functions compiled ahead in {compile_seconds:.1f} s")
    print(f"  {'function':<38} {'kernels':<10} {'type':<9} {'us fwd':>7} {'us bwd':>7} "
          f"{'share':>6} {'fwd':>5} {'bwd':>5}")  # fmt: skip
    for r in rows:
        print(f"  {r['function'][:38]:<38} {r['kernels']:<10} {r['element']:<9} "
              f"{r['forward_us']:>7.1f} {r['backward_us']:>7.1f} {r['share']:>6.2f} "
              f"{r['forward_share']:>5.2f} {r['backward_share']:>5.2f}")  # fmt: skip
    for element in ELEMENTS:
        shares = [
            r["share"] for r in rows if (r["element"], r["kernels"]) == (element, "generated")
        ]
        print(f"  generated, {element}: share median {np.median(shares):.2f}, "
              f"10 % {np.quantile(shares, 0.1):.2f}, least {min(shares):.2f}")  # fmt: skip
    if given.json:
        found = {"device": name, "torch": torch.__version__, "rounds": given.rounds}
        found |= {"block": given.block, "steps": given.steps, "programs": given.programs}
        found |= {"shape": given.shape, "copy": copies, "compile_seconds": compile_seconds}
        given.json.write_text(json.dumps(found | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
