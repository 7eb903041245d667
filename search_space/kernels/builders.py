"""Builders: processes in which Triton compiles for the GPU of this machine, since much of Triton is
Python and would stop this one.

What they compile lies in Triton's cache, where the launch finds it.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from queue import LifoQueue
from typing import Any

import torch

from actsearch.search_space.kernels import cuda, normalised
from actsearch.search_space.kernels.compiler import CompileError

COMMAND = (sys.executable, "-P", "-c",
           "from actsearch.search_space.kernels.builders import serve; serve()")  # fmt: skip


class Builders:
    """At most so many processes, each begun when it is needed. They end with this
    one."""

    def __init__(self, most: int, command: Sequence[str] = COMMAND) -> None:
        self.most = most
        self._command = command
        self._free: LifoQueue[subprocess.Popen[str] | None] = LifoQueue()  # those begun on top
        for _ in range(most):
            self._free.put(None)

    def compile(self, source: cuda.Source, element: str) -> None:
        """Returns when it is compiled; raises CompileError where it cannot be."""
        process = self._free.get()
        try:
            if process is not None and process.poll() is not None:
                process.communicate()  # closes its pipes
                process = None
            process = process or self._begun()
            reason = _asked(process, {"source": asdict(source), "element": element})
        except (OSError, ValueError) as error:
            if process is not None:
                process.kill()
                process.communicate()
                process = None
            raise CompileError(f"a process that compiles for the GPU ended: {error}") from error
        finally:
            self._free.put(process)
        if reason:
            raise CompileError(reason)

    def close(self) -> None:
        """Ends the processes; others are begun if need be."""
        for process in [self._free.get() for _ in range(self.most)]:
            if process is not None:
                process.communicate()  # closes its input, at which it ends
            self._free.put(None)

    def _begun(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )


@cache
def builders() -> Builders:
    """Those of this process, with which they end."""
    found = Builders(max(1, min(8, (os.cpu_count() or 1) // 2)))
    atexit.register(found.close)
    return found


def _asked(process: subprocess.Popen[str], request: dict[str, Any]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def serve() -> None:
    """The process: a request a line, and a line in answer, why not or nothing."""
    os.nice(10)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what compilers print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        reason = ""
        try:
            source = cuda.Source(**request["source"])
            load = normalised.load if source.layout == normalised.LAYOUT else cuda.load
            load(source).compile(getattr(torch, request["element"]))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(reason) + "\n")
        answers.flush()
