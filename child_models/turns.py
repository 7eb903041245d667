"""Several trainings in one process, for a GPU that one of them leaves idle.

Each is in a thread of its own, and one of them at a time has the turn: it alone runs Python,
launches kernels and draws random numbers. While it waits for its stream of the GPU the next one has
the turn. Random numbers and torch's global settings go with the turn, so a training computes what
it would have computed alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


class _Turn:
    """A lock that goes to whoever has waited longest."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self) -> None:
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    @property
    def wanted(self) -> bool:
        return bool(self._waiting)

    def release(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


_turn = _Turn()
_outside: list[list[Any]] = []  # the globals there, once for each block that has not ended
# Of a thread: `device`, where it takes turns, and `seconds`, for which it has waited for them.
_thread = threading.local()


@contextmanager
def taking_turns(device: torch.device) -> Iterator[None]:
    """What is within runs while no other such block does, but for the waits in it. Each begins with
    the globals that there were outside."""
    _acquire()
    try:
        outside = _outside[0] if _outside else _globals(device)
        _outside.append(outside)
        try:
            _begin(outside, device)
            _thread.device = device
            yield
        except BaseException:
            with suppress(Exception):  # where the GPU is gone, that is what is to be said
                _set_globals(outside, device)
            raise
        else:
            _set_globals(outside, device)
        finally:
            _thread.device = None
            _outside.pop()
    finally:
        _turn.release()


def pass_on() -> None:
    """Others that wait have the turn before this thread goes on. A GPU's queue holds a few steps of
    each training, so this is how it has work of several."""
    device = getattr(_thread, "device", None)
    if device is not None and _turn.wanted:
        with released():
            pass


def in_turns() -> bool:
    """Whether this thread has a turn, for which others may wait."""
    return getattr(_thread, "device", None) is not None


@contextmanager
def released() -> Iterator[None]:
    """Others have the turn within, if this thread has it. What is within launches nothing and draws
    no random numbers."""
    device = getattr(_thread, "device", None)
    if device is None:
        yield
        return
    mine = _globals(device)
    _turn.release()
    try:
        yield
    except BaseException:
        _acquire()
        with suppress(Exception):  # where the GPU is gone, that is what is to be said
            _set_globals(mine, device)
        raise
    _acquire()
    _set_globals(mine, device)


def wait() -> None:
    """Until the GPU has done what this thread has launched; meanwhile others have the turn. Without
    turns nothing happens, since reading a value waits, nor on a processor that nobody waits for."""
    device = getattr(_thread, "device", None)
    if device is None or (device.type == "cpu" and not _turn.wanted):
        return
    if device.type == "cpu":
        with released():
            time.sleep(0)
        return
    done = torch.cuda.Event()  # to wait for a stream would be a warning in another's `watched`
    done.record(torch.cuda.current_stream(device))
    with released():
        done.synchronize()


def waited() -> float:
    """Seconds that this thread has waited for its turn so far, ever since it began; not those for
    its own stream."""
    return getattr(_thread, "seconds", 0.0)


def _acquire() -> None:
    begun = time.monotonic()
    _turn.acquire()
    _thread.seconds = waited() + time.monotonic() - begun


def _begin(outside: list[Any], device: torch.device) -> None:
    """Random numbers of a GPU as outside, but in a state of one's own: graphs of several children
    would draw from the one that they share, whatever its value was when they were launched."""
    _set_globals(outside, device)
    if device.type == "cuda":
        generator = _generator(device)
        generator.graphsafe_set_state(generator.clone_state())


def _globals(device: torch.device) -> list[Any]:
    """What trainings set or use up, and a process has once."""
    found: list[Any] = [torch.get_rng_state()]
    if device.type == "cuda":
        found += [_generator(device).graphsafe_get_state()]
        found += [flags.allow_tf32 for flags in _precision_flags()]
    return found


def _set_globals(values: list[Any], device: torch.device) -> None:
    torch.set_rng_state(values[0])
    if device.type == "cuda":
        _generator(device).graphsafe_set_state(values[1])
        for flags, allowed in zip(_precision_flags(), values[2:], strict=True):
            flags.allow_tf32 = allowed


def _generator(device: torch.device) -> torch.Generator:
    return torch.cuda.default_generators[device.index or torch.cuda.current_device()]


def _precision_flags() -> list[Any]:
    return [torch.backends.cudnn, torch.backends.cuda.matmul]
