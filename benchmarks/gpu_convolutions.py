"""Convolutions of few channels on a GPU: ours beside cuDNN's, and how far both are off.

    python benchmarks/gpu_convolutions.py [--batch 128] [--json FILE]

Microseconds of each convolution of a ResNet-20 and of its two gradients in bfloat16, launched
twenty times in a graph (median of five replays), on one batch that the second cache may hold; then
the relative distance of a whole ResNet-20's gradients and logits to those in float32. `h100.py`
prints what these were on an H100.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from actsearch.child_models.networks import convolution
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.training.state import _drop_counters
from actsearch.search_space.activation import Activation

LAYERS = ((3, 16, 32, 1), (16, 16, 32, 1), (16, 32, 32, 2), (32, 32, 16, 1), (32, 64, 16, 2),
          (64, 64, 8, 1))  # fmt: skip  # channels in and out, side, stride
FUNCTIONS = ("relu(x)", "x * sigmoid(beta * x)", "exp(-beta * abs(sin(x) - atan(x)))",
             "mix(x, sin(beta * x))", "cos(x) - x")  # fmt: skip
LAUNCHES = 20
LAST = torch.channels_last


def microseconds(work: Callable[[], Any]) -> float:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(LAUNCHES):
                work()
        took = []
        for _ in range(6):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            graph.replay()
            end.record(stream)
            stream.synchronize()
            took.append(1e3 * begin.elapsed_time(end) / LAUNCHES)
    return statistics.median(took[1:])


def layer(ci: int, co: int, side: int, stride: int, batch: int) -> list[dict[str, Any]]:
    x = torch.randn(batch, ci, side, side, device="cuda").to(torch.bfloat16, memory_format=LAST)
    weight = torch.randn(co, ci, 3, 3, device="cuda").to(memory_format=LAST)
    narrow = weight.to(torch.bfloat16, memory_format=LAST)
    gy = torch.randn_like(F.conv2d(x, narrow, None, stride, 1))

    def theirs(inputs: bool) -> Any:
        mask = [inputs, not inputs, False]
        sizes = [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1
        return torch.ops.aten.convolution_backward(gy, x, narrow, None, *sizes, mask)

    pairs = {
        "output": (
            lambda: F.conv2d(x, narrow, None, stride, 1),
            lambda: convolution.convolved(x, weight, stride),
        ),
        "gradient of its weights": (
            lambda: theirs(False),
            lambda: convolution.weight_gradient(x, gy, weight, stride),
        ),
    }
    if ci in convolution.CHANNELS:
        pairs["gradient of its input"] = (
            lambda: theirs(True),
            lambda: convolution.input_gradient(gy, weight, x, stride),
        )
    sizes = {"in": ci, "out": co, "side": side, "stride": stride}
    return [
        {"what": what, **sizes, "cudnn_us": microseconds(a), "own_us": microseconds(b)}
        for what, (a, b) in pairs.items()
    ]


def whole(function: str, ours: bool, narrow: bool, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients and, after the step, logits of a ResNet-20, from the same weights and images."""
    torch.manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, device="cuda").to(memory_format=LAST)
    y = torch.randint(0, 10, (batch,), device="cuda")
    make = partial(Activation, function, kernels="auto" if ours else "eager")
    model = child_from("resnet20")(make, input_shape=(3, 32, 32), classes=10)
    model.to("cuda", memory_format=LAST)  # pyright: ignore[reportCallIssue]
    _drop_counters(model)
    for module in () if ours else model.modules():
        if isinstance(module, convolution.Conv3x3):
            module._fits = lambda x: False
    with torch.autocast("cuda", torch.bfloat16, enabled=narrow):
        F.cross_entropy(model(x), y).backward()
        model.eval()
        with torch.no_grad():
            logits = model(x).float()
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(found), logits


def distances(function: str, batch: int) -> dict[str, Any]:
    exact = whole(function, ours=False, narrow=False, batch=batch)
    row: dict[str, Any] = {"function": function, "grad": {}, "logits": {}}
    for name, ours in (("ours", True), ("cudnn", False)):
        for part, value, reference in zip(
            ("grad", "logits"), whole(function, ours, True, batch), exact, strict=True
        ):
            row[part][name] = float((value - reference).norm() / reference.norm())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this measures a GPU's kernels, and torch sees no GPU here")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    rows = [row for sizes in LAYERS for row in layer(*sizes, given.batch)]
    for row in rows:
        print(
            f"{row['in']:>3} to {row['out']}, side {row['side']}, stride {row['stride']}, "
            f"{row['what']}: cuDNN {row['cudnn_us']:.1f} us, ours {row['own_us']:.1f} us"
        )
    far = [distances(function, given.batch) for function in FUNCTIONS]
    for row in far:
        print(f"{row['function']}: gradients {row['grad']}, logits {row['logits']}")
    if given.json:
        given.json.write_text(json.dumps({"convolutions": rows, "numerics": far}))


if __name__ == "__main__":
    main()
