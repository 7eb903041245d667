"""External: a user's command that is asked for formulas, by lines of JSON (docs/proposers.md).

It is started anew with each session and told the whole table, so a search resumes without a state
of it. Threads write to it and read from it: a command that does not listen holds nothing up, and
one that does not answer for SILENCE seconds ends the search in a sentence.
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
from collections.abc import Iterable, Iterator, Mapping
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


class ProposerError(HostError):
    """The command ended, fell silent, or answered something else. Nothing is lost by that."""


class External:
    """A Proposer. `log_file` has what the command writes to stderr; `table` holds what is known
    when it starts. Raises UsageError where there is no such command."""

    def __init__(
        self,
        command: str,
        metric: Metric,
        table: Iterable[Mapping[str, Any]],
        log_file: Path,
        extra: Iterable[Op] = (),
    ) -> None:
        self.command = command
        self.metric = metric
        self.extra = tuple(extra)
        self.log_file = log_file
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None: it has ended
        self._out: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._news = True  # since it had nothing to propose
        self._process = self._started()
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._write, self._read)]
        for thread in self._threads:
            thread.start()
        for row in table:
            if row["status"] is not None:
                said = (row[name] for name in ("status", "val_score", "reason"))
                self._tell(row["formula"], row["expression"], *said)

    def _started(self) -> subprocess.Popen[str]:
        try:
            with open(self.log_file, "a") as stderr:
                return subprocess.Popen(
                    shlex.split(self.command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
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
            while line := stdout.readline(LINE):
                self._lines.put(line)
        self._lines.put(None)
        with contextlib.suppress(OSError):
            stdout.close()

    def take(self, n: int) -> list[Candidate]:
        """Asks for `n` formulas and waits for them. After an answer without any it is asked again
        when there is an outcome that it does not know."""
        for _ in range(PATIENCE):
            if n == 0 or not self._news:
                return []
            self._out.put({"ask": n})
            texts = self._answer()
            self._news = bool(texts)
            if found := list(self._candidates(texts[:n])):
                return found
        raise self._error(f"gave no formula that can be read in {PATIENCE} answers")

    def _answer(self) -> list[str]:
        try:
            line = self._lines.get(timeout=SILENCE)
        except queue.Empty:
            raise self._error(f"did not answer for {SILENCE:g} seconds") from None
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
        for thread in self._threads:
            thread.join(GRACE)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
