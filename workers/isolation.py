"""run_alone(): one candidate in a process of its own, whose end says what the candidate is like.

A worker that dies takes its cause with it: a kill from outside and a crash inside look the same. So
a candidate that has lost a worker is tried again in a child process. A return code that no kill
from outside gives is evidence against it; SIGKILL and SIGTERM are none, and it is tried once more.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from actsearch.results.records import (
    ALONE,
    Cause,
    DeviceLostError,
    HostError,
    NoDeviceError,
    Outcome,
    Trial,
    host_error,
    is_of_the_host,
)

POLL_SECONDS = 0.05
# What a machine does to any process; the rest a process does to itself.
FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}

# How the process ends where the GPU cannot be used, or the disk, whatever the candidate.
NO_EVIDENCE = 75

_CHILD = "from actsearch.workers.isolation import child; child()"


class KilledFromOutside(Exception):
    """The process was killed, or found no GPU or no disk, which says nothing about its
    candidate."""


def run_alone(
    evaluate: Any,
    trial: Trial,
    alive: Callable[[], None],
    dumps: Callable[[Any], bytes] = pickle.dumps,
) -> Outcome:
    """Evaluate `trial` in a new process; `alive()` is called while it runs and may raise to end it.

    Returns the outcome, `crashed` with the evidence where the process ended itself. Raises
    KilledFromOutside where it was killed, HostError as `evaluate` does. `dumps` must write what
    pickle reads.
    """
    with tempfile.TemporaryDirectory(prefix="actsearch-") as folder:
        files = {name: Path(folder, name) for name in ("task", "outcome", "crash")}
        files["task"].write_bytes(dumps((evaluate, trial)))
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, folder],
            stdin=subprocess.PIPE,  # ends with this process, and the child with it
            cwd=folder,  # where no file can take the name of actsearch
            env={**os.environ, ALONE: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            while process.poll() is None:
                alive()
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
            process.communicate()
        code = process.returncode
        if code == 0 and files["outcome"].exists():
            outcome = pickle.loads(files["outcome"].read_bytes())  # noqa: S301 - of our own child
            if isinstance(outcome, HostError):
                raise outcome
            return outcome
        if code in FROM_OUTSIDE or code == NO_EVIDENCE:
            raise KilledFromOutside(f"the process of trial {trial.id} ended with {code}")
        return _crashed(code, files["crash"])


def _crashed(code: int, crash: Path) -> Outcome:
    """With such evidence as `SIGSEGV in a process of its own: Fatal Python error: ...`."""
    variant, number = ("exit", f" {code}") if code >= 0 else ("signal", f" {-code}")
    if -code in set(signal.Signals):
        variant, number = signal.Signals(-code).name, ""
    stack = crash.read_text(errors="replace").splitlines() if crash.exists() else []
    shown = "; ".join(line.strip() for line in stack if line.strip())[:300]
    reason = f"{variant}{number} in a process of its own" + (f": {shown}" if shown else "")
    return Outcome("crashed", reason, Cause.ENDED_ITSELF, variant)


def _end_with_parent(folder: Path) -> None:
    """Where the parent is killed, nobody else ends this process or removes the folder."""
    os.read(0, 1)  # nothing is ever written
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def child() -> None:
    """The new process: evaluate what the folder holds, and leave the outcome there, or the
    HostError."""
    folder = Path(sys.argv[1])
    Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    with open(folder / "crash", "w") as crash:
        faulthandler.enable(crash, all_threads=False)
        try:
            outcome = _evaluated(folder / "task")
        except NoDeviceError:
            sys.exit(NO_EVIDENCE)
        except DeviceLostError as error:
            crash.write(str(error))
            sys.exit(1)
        except HostError as error:
            outcome = error
        part = folder / "outcome.part"
        try:
            part.write_bytes(pickle.dumps(outcome))
            part.replace(folder / "outcome")
        except OSError:
            sys.exit(NO_EVIDENCE)


def _evaluated(task: Path) -> Outcome:
    doing = "a trial"
    try:
        evaluate, trial = pickle.loads(task.read_bytes())  # noqa: S301 - our parent's
        doing = f"trial {trial.id}"
        return evaluate(trial, lambda step: None)
    except Exception as error:
        if is_of_the_host(error):
            raise host_error(error, f"{doing} on {socket.gethostname()}") from error
        raise
