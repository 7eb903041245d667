"""`actsearch` and `python -m actsearch`: an interrupt ends the command at once, imports included.

An exception that is raised within an import may be lost there, or come out as a traceback of the
library that was loading. Nothing is written while modules load, so then the process just ends;
elsewhere an interrupt is the usual KeyboardInterrupt, until a search lets its children finish.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # that of actsearch.errors, which is not imported yet
_IMPORTS = "<frozen importlib._bootstrap>"


def _interrupted(signum: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            os.write(2, b"Interrupted.\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> int:
    # Read when torch and numpy load. Tensors are small here and each child has a core, so threads
    # would wait for each other: on a busy machine `space gates --distinct` took minutes by them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under nohup and in scripts
        signal.signal(signal.SIGINT, _interrupted)
    try:
        from actsearch.cli import main as command

        return command()
    except KeyboardInterrupt:  # between what the command itself catches
        os.write(2, b"Interrupted.\n")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
