"""A training step that a GPU takes as one launch.

The kernels of a small child are over before the host has launched the next one, so its GPU waits. A
CUDA graph is captured once and replayed as a whole. It repeats the very kernels of its capture on
the same memory: batches are copied into its own, the learning rate lies on the device, and what the
host decides within a step is decided once and for all. So only models are trained like this that
say, by an attribute `capturable`, that their host decides nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from actsearch.results.records import ALONE, DeviceLostError

log = logging.getLogger(__name__)

WARM_UP = 3  # steps before the capture, in which kernels are compiled and libraries choose theirs
WAITS = "called a synchronizing"  # torch's words; once a process it also says what its mode is like

_thread = threading.local()
_broken: list[str] = []  # why nothing more can be trained in this process

# A batch in, its loss and the norm of its gradient out.
Step = Callable[[Any], tuple[torch.Tensor, torch.Tensor]]


def check_whole() -> None:
    """Raises DeviceLostError where a capture has failed in this process."""
    if _broken:
        raise DeviceLostError(_broken[0])


def can_be_captured(model: nn.Module, device: torch.device) -> bool:
    """A suspect that is tried alone is not: the capture may be what it was lost in."""
    alone = ALONE in os.environ
    return device.type == "cuda" and getattr(model, "capturable", False) and not alone


@contextmanager
def watched() -> Iterator[list[str]]:
    """What a GPU makes the host wait for, as far as torch knows, in warnings."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += [str(w.message) for w in caught if WAITS in str(w.message)]


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """All that is launched within goes to a stream that graphs can be captured in; the default one
    allows none."""
    if device.type != "cuda":
        yield
        return
    stream, outer = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(outer)
    try:
        with torch.cuda.stream(stream):
            yield
    except BaseException:
        with suppress(Exception):  # where the GPU is gone, that is what is to be said
            outer.wait_stream(stream)
        raise
    outer.wait_stream(stream)


def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all children of a thread: each stream that is used keeps a workspace of cuBLAS's."""
    if not hasattr(_thread, "stream"):
        _thread.stream = torch.cuda.Stream(device)
    return _thread.stream


class CapturedStep:
    """`step` as it is for WARM_UP batches, then a replay of what it does. It stays as it is where
    its host waits for a value, and for batches of other shapes.

    `step` must launch the same kernels each time, drop the gradients before it computes new ones,
    and end with `optimiser.step()`. The loss and the norm that come back are overwritten by the
    next step.
    """

    def __init__(self, step: Step, optimiser: torch.optim.Optimizer, device: torch.device) -> None:
        self._step = step
        self._before = WARM_UP
        self._waits = ""  # why there is to be no graph
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: tuple[torch.Tensor, ...] = ()
        self._out: tuple[torch.Tensor, torch.Tensor] | None = None
        for group in optimiser.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)  # read by each replay
            if "capturable" in group:
                group["capturable"] = True

    def __call__(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        if self._before > 0:
            self._before -= 1
            if self._before:
                return self._step(batch)
            return self._last_launched(tuple(t.clone() for t in batch))  # as the graph's own lie
        if self._graph is None and self._waits == "":
            self._capture(batch)
        if self._graph is None or self._out is None or not _alike(batch, self._batch):
            return self._step(batch)
        for own, new in zip(self._batch, batch, strict=True):
            own.copy_(new)
        self._graph.replay()
        return self._out

    def _last_launched(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        with watched() as waits:
            out = self._step(batch)
        if waits:
            self._waits = " ".join(waits[0].split())[:200]
            log.warning("trains without a CUDA graph, since its host waits: %s", self._waits)
        return out

    @property
    def how(self) -> str:
        """What became of it, for the record."""
        if self._graph is not None:
            return "captured"
        return f"launched: {self._waits}" if self._waits else "launched"  # it ended before

    def _capture(self, batch: tuple[torch.Tensor, ...]) -> None:
        """Nothing is computed here. A capture that fails leaves torch's random numbers and memory
        of this process as they are within one, so nothing more is trained in it. `torch.cuda.graph`
        would wait for all streams of the device and empty torch's cache, which others share."""
        self._batch = tuple(t.clone() for t in batch)
        graph = torch.cuda.CUDAGraph()
        try:
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._out = self._step(self._batch)
            except BaseException:
                with suppress(RuntimeError):  # of the capture, which says less
                    graph.capture_end()
                raise
            graph.capture_end()
            self._graph = graph
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            why = " ".join(str(error).split())[:200]
            _broken.append(
                f"a step could not be captured as a CUDA graph ({why}), after which this process "
                "cannot train; use --cuda-graphs off"
            )
            raise DeviceLostError(_broken[0]) from error


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def _alike(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    return len(some) == len(others) and all(
        a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride()
        for a, b in zip(some, others, strict=True)
    )
