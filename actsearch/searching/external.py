"""External: a user's command that is asked for formulas, by lines of JSON (docs/proposers.md).

It is started anew with each session and told the whole table, so a search resumes without a state
of it. Threads write to it and read from it: a command that does not listen holds nothing up, one
that babbles is read no further than it was asked, and one that does not answer for SILENCE seconds
ends the search in a sentence. While it thinks and children are in training, the search goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from actsearch.errors import UsageError
from actsearch.results.metrics import Metric
from actsearch.results.records import HostError, Outcome, Trial
from actsearch.search_space.candidate import Candidate, candidate_from
from actsearch.search_space.operators import Op

log = logging.getLogger("actsearch")

SILENCE = 300.0  # seconds for an answer
PATIENCE = 100  # answers in a row of which no formula can be read
LINE = 1_000_000  # characters of an answer, at most
GRACE = 2.0  # seconds for the command to end by itself
LOOK = 0.5  # seconds between looks at what else there is to do than to wait for an answer
LOG = 10_000_000  # bytes of its stderr that are kept


class ProposerError(HostError):
    """The command ended, fell silent, or answered something else. Nothing is lost by that."""


class External:
    """A Proposer. `log_file` has what the command writes to stderr; `table` holds what is known
    when it starts. While `busy()` or `should_stop()`, an answer that is not there yet is not waited
    for. Raises UsageError where there is no such command."""

    def __init__(
        self,
        command: str,
        metric: Metric,
        table: Iterable[Mapping[str, Any]],
        log_file: Path,
        extra: Iterable[Op] = (),
        busy: Callable[[], bool] = lambda: False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.command = command
        self.metric = metric
        self.extra = tuple(extra)
        self.log_file = log_file
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None: it has ended
        self._out: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self.busy = busy
        self.should_stop = should_stop
        self._news = True  # since it had nothing to propose
        self._asked: float | None = None  # when, where the answer is still to come
        self._most = 0  # how many were asked for
        self._closing = False
        self._to_read = threading.Semaphore(0)  # as many lines as it was asked for
        self._left: deque[str] = deque()  # of its last answer, more than there was room for
        self._process = self._started()
        targets = (self._write, self._read, self._keep)
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()
        for row in table:
            if row["status"] is not None:
                said = (row[name] for name in ("status", "val_score", "reason"))
                self._tell(row["formula"], row["expression"], *said)

    def _started(self) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                shlex.split(self.command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is for the search alone
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"external:{self.command} does not start: {error}") from error

    def _write(self) -> None:
        stdin = _pipe(self._process.stdin)
        with contextlib.suppress(OSError, ValueError):
            while (message := self._out.get()) is not None:
                stdin.write(json.dumps(message) + "\n")
                stdin.flush()
        with contextlib.suppress(OSError, ValueError):
            stdin.close()

    def _read(self) -> None:
        stdout = _pipe(self._process.stdout)
        with contextlib.suppress(OSError, ValueError):
            while self._to_read.acquire() and not self._closing:
                if not (line := stdout.readline(LINE)):
                    break
                self._lines.put(line)
        self._lines.put(None)
        with contextlib.suppress(OSError):
            stdout.close()

    def _keep(self) -> None:
        """What it writes to stderr, up to LOG bytes of a session; more is read and dropped, since
        a full pipe would stop it."""
        stderr, left = _pipe(self._process.stderr), LOG
        with contextlib.suppress(OSError, ValueError), open(self.log_file, "ab", 0) as file:
            while said := os.read(stderr.fileno(), 65_536):
                file.write(said[:left])
                left = max(0, left - len(said))
        with contextlib.suppress(OSError):
            stderr.close()

    def take(self, n: int) -> list[Candidate]:
        """Asks for `n` formulas and waits for them, unless there is something else to do. After an
        answer without any it is asked again when there is an outcome that it does not know."""
        for _ in range(PATIENCE):
            if n == 0 or not (self._left or self._news):
                return []
            if not self._left:
                texts = self._answer(n)
                if texts is None:
                    return []
                self._left.extend(texts)
                self._news = bool(texts)
            now = [self._left.popleft() for _ in range(min(n, len(self._left)))]
            if found := list(self._candidates(now)):
                return found
        raise self._error(f"gave no formula that can be read in {PATIENCE} answers")

    def _answer(self, n: int) -> list[str] | None:
        """At most as many texts as it was asked for; None where it thinks yet."""
        if self._asked is None:
            self._asked, self._most = time.monotonic(), n
            self._out.put({"ask": n})
            self._to_read.release()
        while (line := self._line()) == "":
            if time.monotonic() > self._asked + SILENCE:
                raise self._error(f"did not answer for {SILENCE:g} seconds")
            if self.busy() or self.should_stop():
                return None
        self._asked = None
        return self._texts(line)[: self._most]

    def _line(self) -> str | None:
        """A line of its output, "" where none has come, None at its end."""
        ended = self._process.poll() is not None
        try:
            return self._lines.get(timeout=min(LOOK, SILENCE))
        except queue.Empty:
            return None if ended else ""  # a child of it may hold the pipe

    def _texts(self, line: str | None) -> list[str]:
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
            code = self._process.poll()
            raise self._error("closed its output" if code is None else f"ended with code {code}")
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(line)
            texts = answer.get("formulas") if isinstance(answer, dict) else None
            if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
                return texts
        raise self._error(f"""answered {line.strip()[:60]!r} and not {{"formulas": ["..."]}}""")

    def _candidates(self, texts: Iterable[str]) -> Iterator[Candidate]:
        """Those that can be read; of the others it is told why not."""
        for text in texts:
            try:
                yield candidate_from(text, self.extra)
            except ValueError as error:
                self._tell(text, "", "refused", None, str(error))

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Whoever proposed it."""
        said = (outcome.status, outcome.val_score, outcome.reason)
        self._tell(trial.formula, trial.subject, *said)

    def _tell(
        self, formula: str, expression: str, status: str, score: float | None, reason: str
    ) -> None:
        self._news = True
        told = {"formula": formula, "expression": expression, "status": status, "score": score}
        how = {"metric": self.metric.name, "better": self.metric.direction, "reason": reason}
        self._out.put({"outcome": told | how})

    def _error(self, what: str) -> ProposerError:
        return ProposerError(
            f"the proposer {self.command!r} {what}; see {self.log_file}. All that had finished is "
            "stored; once it is mended, the same command goes on."
        )

    def close(self) -> None:
        """Closes its input, which tells it to end, and ends it if it does not."""
        self._out.put(None)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            log.info("the proposer %r did not end with its input, and was killed", self.command)
        with contextlib.suppress(OSError):  # and what it has started
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._closing = True
        self._to_read.release()
        for thread in self._threads:
            thread.join(GRACE)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
