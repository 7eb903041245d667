"""join(): make this machine a node of a Ray cluster, so that a search on it starts workers here.

The driver of the search places and replaces the workers (`workers/ray_pool.py`); this only
starts Ray's own process for a machine, and ends it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from actsearch.errors import EnvironmentProblem
from actsearch.run import Run
from actsearch.workers.executor import ClusterLostError
from actsearch.workers.ray_start import check_cluster

LOOK_SECONDS = 1.0
END_SECONDS = 20.0


def join(
    address: str, run: Run | None = None, *, cpus: int | None = None, gpus: int | None = None
) -> Iterator[str]:
    """Start a node of the cluster at `address`; yields what to tell the user, and returns when the
    node has ended: by SIGINT or SIGTERM or, where a `run` is given, when its search has.

    Raises ExecutorError where the cluster cannot be joined, ClusterLostError where it has gone.
    """
    if run is not None and run.driver() is None:
        raise EnvironmentProblem(f"nothing runs in {run.path}; start the search first")
    check_cluster(address)
    with _signals() as received, tempfile.TemporaryFile("w+") as said:
        with _node(address, cpus, gpus, said) as node:
            yield f"Joined the cluster at {address}; Ctrl-C takes this machine out again."
            while not received and (run is None or run.driver() is not None):
                time.sleep(LOOK_SECONDS)
                if node.poll() is not None:
                    raise ClusterLostError(
                        f"Ray's node on this machine has ended{_why(said)}. The search goes on "
                        "without it; the same command joins again."
                    )
        yield "Left the cluster. What was being trained here starts again elsewhere."


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM."""
    received: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        received.append(signum)

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def _node(
    address: str, cpus: int | None, gpus: int | None, said: IO[str]
) -> Iterator[subprocess.Popen[str]]:
    """Ray's process for a node, in a session of its own: Ctrl-C reaches only us, and we end it."""
    ray = Path(sys.executable).with_name("ray")
    options = [f"--num-{name}={n}" for name, n in (("cpus", cpus), ("gpus", gpus)) if n is not None]
    node = subprocess.Popen(
        [str(ray), "start", f"--address={address}", "--block", "--disable-usage-stats", *options],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        text=True,
        env={**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        start_new_session=True,
    )
    try:
        yield node
    finally:
        node.terminate()
        try:
            node.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def _why(said: IO[str]) -> str:
    """Ray's own last words, as `: words`."""
    said.seek(0)
    lines = [line.strip() for line in said if line.strip()]
    return f": {lines[-1]}" if lines else ""
