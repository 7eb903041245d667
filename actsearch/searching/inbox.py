"""Inbox: the formulas that `actsearch propose` and `--start` hand to a search, through its folder.

Each waits in a file of its own, which is there whole or not at all, until a search has made a trial
of it and committed that. A search that is killed in between finds the file again, and the function
known: so none is lost, and none is trained twice.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from actsearch.errors import written
from actsearch.results.records import Outcome, Trial
from actsearch.run import Run, write_whole
from actsearch.search_space.candidate import Candidate, candidate_from
from actsearch.search_space.operators import Op

log = logging.getLogger("actsearch")


class Inbox:
    """A Proposer: what waits in the folder of a run, oldest first."""

    def __init__(self, run: Run, extra: Iterable[Op] = ()) -> None:
        self.folder = run.proposed
        self.extra = tuple(extra)
        self._taken: list[Path] = []
        self._refused: set[Path] = set()

    def put(self, candidates: Iterable[Candidate]) -> None:
        """Those that do not wait there yet. Raises EnvironmentProblem where they cannot be
        written."""
        there = self.waiting()
        new = [key for key in dict.fromkeys(c.key for c in candidates) if key not in there]
        stem = f"{time.time_ns()}-{secrets.token_hex(4)}"  # of this call alone
        with written(self.folder):
            for i, key in enumerate(new):
                self.folder.mkdir(exist_ok=True)
                write_whole(self.folder / f"{stem}-{i:04}.txt", f"{key}\n")

    def waiting(self) -> set[str]:
        """Their keys."""
        return {candidate.key for _, candidate in self._read()}

    def take(self, n: int) -> list[Candidate]:
        """The oldest `n`. Their files go at the next call, since their trials are committed by
        then."""
        for path in self._taken:
            path.unlink(missing_ok=True)
        found = list(islice(self._read(), n))
        self._taken = [path for path, _ in found]
        return [candidate for _, candidate in found]

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Nobody waits for it: who proposes looks into the store."""

    def _read(self) -> Iterator[tuple[Path, Candidate]]:
        """Without those that are no formulas, or that a search has taken meanwhile."""
        for path in sorted(self.folder.glob("*.txt")):
            try:
                yield path, candidate_from(path.read_text().strip(), self.extra)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                if path not in self._refused:
                    log.warning("%s holds no formula and is left alone: %s", path, error)
                self._refused.add(path)
