"""run.log: all that actsearch says while a run is open."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("actsearch")


class RunLog(logging.FileHandler):
    """What cannot be logged, on a full disk, is not worth a traceback in the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # it opens the file first, and its folder may be gone
            super().emit(record)


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """All that actsearch logs, tracebacks too, goes to this file."""
    handler = RunLog(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    before, log.propagate = (log.level, log.propagate), False
    log.setLevel(logging.INFO)
    try:
        yield
    except BaseException:
        log.exception("ended by an exception")
        raise
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
        with contextlib.suppress(OSError):
            handler.close()
