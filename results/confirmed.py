"""The scores of a search as they are confirmed: which trainings are of candidates, which of
baselines, and what is believed of all (`expectation.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from actsearch.results.expectation import Beliefs, Scores, believe
from actsearch.results.metrics import Metric
from actsearch.results.records import KINDS


class Confirmed:
    """Trainings of the kinds `search` and `confirm` by what they are of. `own` is the seed of the
    search, from which others are counted; `beside` are the subjects of baselines."""

    def __init__(self, own: int, beside: Iterable[str]) -> None:
        self.own = own
        self.beside = frozenset(beside)
        self._first: dict[int, tuple[str, float | None]] = {}  # by trial; None: it failed
        self._again: dict[str, dict[int, float | None]] = {}

    def add(self, trial: int, kind: str, subject: str, seed: int, reward: float | None) -> None:
        """A training that has ended. Of its `reward` higher is better; None where it failed."""
        self.__dict__.pop("beliefs", None)
        if KINDS[kind].confirms:
            self._again.setdefault(subject, {})[seed - self.own] = reward
        else:
            self._first[trial] = (subject, reward)

    @property
    def latest(self) -> list[float | None]:
        """The rewards of the candidates' first trainings, in the order of their trials."""
        return [reward for _, (subject, reward) in self._ordered if subject not in self.beside]

    @property
    def _ordered(self) -> list[tuple[int, tuple[str, float | None]]]:
        """By trial, whatever ended first, so that a resumed search sees the same."""
        return sorted(self._first.items())

    @property
    def trials(self) -> Mapping[str, int]:
        """By subject the trial of its first training."""
        return {subject: trial for trial, (subject, _) in self._ordered}

    @property
    def candidates(self) -> dict[str, float]:
        """The first rewards of those that have not failed with any seed."""
        return {
            subject: reward
            for _, (subject, reward) in self._ordered
            if reward is not None
            and subject not in self.beside
            and None not in self._again.get(subject, {}).values()
        }

    def again(self, subject: str) -> Mapping[int, float | None]:
        """Its further trainings by seed, failures among them."""
        return self._again.get(subject, {})

    @cached_property
    def beliefs(self) -> Beliefs | None:
        """None below 10 candidates that trained."""
        found = self.candidates
        again = {f: _ended(self._again[f]) for f in sorted(self._again) if f in found}
        baselines = {
            subject: {0: reward, **_ended(self._again.get(subject, {}))}
            for _, (subject, reward) in self._ordered
            if reward is not None and subject in self.beside
        }
        return believe(found, again, baselines)


def _ended(scores: Mapping[int, float | None]) -> Scores:
    """In the order of seeds, without failures."""
    return {seed: y for seed, y in sorted(scores.items()) if y is not None}


def confirmed(
    search: Iterable[Mapping[str, Any]], confirm: Iterable[Mapping[str, Any]], metric: Metric
) -> Confirmed | None:
    """From the rows of a store; None where nothing was trained again."""
    ended = [row for row in confirm if row["status"] is not None]
    if not ended:
        return None
    whole = (row for row in search if KINDS[row["kind"]].ranked)
    rows = [row for row in whole if row["status"] not in (None, "rejected")]
    if not rows:
        return None
    found = Confirmed(rows[0]["seed"], (row["expression"] for row in rows if row["beside"]))
    for row in (*rows, *ended):
        score = row["val_score"]
        reward = None if score is None else metric.reward(score)
        found.add(row["id"], row["kind"], row["expression"], row["seed"], reward)
    return found
