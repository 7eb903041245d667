"""RayThread: calls of Ray in a thread of their own, one after the other, in the order in which they
were asked for.

Ray waits for a frozen head or node in C++, where neither a time limit nor Ctrl-C reaches it. Here
only that thread waits, and its caller decides for how long. The thread lives as long as a Ray that
it has started, since Linux ends Ray's processes with the thread that made them.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

_left: list[RayThread] = []  # threads that wait for Ray and always will


def ray_is_stuck() -> bool:
    """Whether a call of Ray was left alone in this process. Ray can then not be shut down, so the
    process should end by os._exit."""
    return bool(_left)


class RayThread:
    """A daemon, so that Python does not wait for it at its end."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._work, name="ray calls", daemon=True).start()

    def start(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        while (asked := self._calls.get()) is not None:
            future, call = asked
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            del asked, future, call  # what they refer to may be large

    def end(self) -> None:
        """After the last call, let the thread go."""
        self._calls.put(None)

    def leave(self) -> None:
        """Leave the thread with the call that it waits for, and Ray as it is: what Python does to
        shut Ray down at its end would wait for ever."""
        import ray

        _left.append(self)
        atexit.unregister(ray.shutdown)
