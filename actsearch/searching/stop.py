"""Stop: how a search is asked to end, by a signal or by `actsearch stop`."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from actsearch.run import Run

LOOK_SECONDS = 0.5  # between looks for a request to stop


class Stop:
    """The first SIGINT or SIGTERM asks for a drain, the second interrupts at once. So does the file
    by which `actsearch stop` asks. A look raises RunLostError where the run is another by now."""

    def __init__(self, run: Run) -> None:
        self.requested = False
        self.run = run
        self._looked = 0.0

    def __call__(self) -> bool:
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self.run.check_held()
            self.requested = self.requested or self.run.stop_request.exists()
        return self.requested

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """To be entered after Ray has started, since that replaces the handler of SIGTERM."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
