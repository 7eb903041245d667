"""Several trainings in one process, for a GPU that one of them leaves idle.

Each is in a thread of its own, and one of them at a time has the turn: it alone runs Python,
launches kernels and draws random numbers. While it waits for its stream of the GPU another has the
turn. Random numbers and torch's global settings go with the turn, so a training computes what it
would have computed alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_turn = threading.Lock()
_before: list[list[Any]] = []  # the globals outside, once for each block that has not ended
_thread = threading.local()  # `device`, where the thread takes turns


@contextmanager
def taking_turns(device: torch.device) -> Iterator[None]:
    """What is within runs while no other such block does, but for the waits in it. Each begins with
    the globals that there were outside."""
    with _turn:
        outside = _before[0] if _before else _globals(device)
        _before.append(outside)
        _set_globals(outside, device)
        _thread.device = device
        try:
            yield
        finally:
            _thread.device = None
            _before.pop()
            _set_globals(outside, device)


def wait() -> None:
    """Until the GPU has done what this thread has launched; meanwhile others have the turn. Without
    turns nothing happens: reading a value waits."""
    device = getattr(_thread, "device", None)
    if device is None:
        return
    mine = _globals(device)
    _turn.release()
    try:
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        else:
            time.sleep(0)
    finally:
        _turn.acquire()
        _set_globals(mine, device)


def _globals(device: torch.device) -> list[Any]:
    """What trainings set or use up, and a process has once."""
    found: list[Any] = [torch.get_rng_state()]
    if device.type == "cuda":
        found += [torch.cuda.get_rng_state(device)]
        found += [flags.allow_tf32 for flags in _precision_flags()]
    return found


def _set_globals(values: list[Any], device: torch.device) -> None:
    torch.set_rng_state(values[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(values[1], device)
        for flags, allowed in zip(_precision_flags(), values[2:], strict=True):
            flags.allow_tf32 = allowed


def _precision_flags() -> list[Any]:
    return [torch.backends.cudnn, torch.backends.cuda.matmul]
