"""Which trial a point of a space leads to. In the loop, only this file knows what candidates are.

Two points are one candidate where their canonical forms have one key, or else where their
fingerprints are equal and the values of their functions on a second grid agree. A candidate has one
trial a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actsearch.controller.strategy import Digits
from actsearch.errors import UsageError
from actsearch.results.records import Trial
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.search_space.analysis.evaluation import NOT_DIFFERENTIABLE
from actsearch.search_space.candidate import Candidate, candidate_from, same_candidate
from actsearch.search_space.operators import Op
from actsearch.search_space.space import Space, space_from
from actsearch.search_space.survey import Described, describe, describe_all


def space_of(run: Run, spec: str, call: str) -> Space:
    """The space of a run; raises UsageError, with the `call` that takes it, for one that has
    operators of a user's own, which only that user has."""
    try:
        return space_from(spec)
    except ValueError as error:
        raise UsageError(
            f"{run.path} has operators of a space of your own; from Python, {call}"
        ) from error


@dataclass(frozen=True)
class Level:
    """How a search trial is trained: its kind, and the protocol's hash."""

    kind: str
    protocol: str


def submit_candidate(
    store: Store, found: Described, level: Level, seed: int, label: str = ""
) -> Trial:
    """A search trial of this candidate, with what is known of it before training."""
    candidate, key = found.candidate, found.fingerprint
    store.add_function(candidate.key, key.key, key.symmetry, found.properties)
    names = {"formula": candidate.formula, "label": label}
    return store.submit(level.kind, candidate.key, level.protocol, seed, **names)


class Candidates:
    """The candidates of a space, as far as a run knows them."""

    def __init__(
        self,
        store: Store,
        space: Space,
        operators: str = "guarded",
        extra: tuple[Op, ...] = (),
        seed: int = 0,
    ) -> None:
        self.store = store
        self.space = space
        self.operators = operators
        self.extra = extra
        self.seed = seed
        self._foreseen: dict[str, Described] = {}

    def foresee(self, coming: Sequence[Digits]) -> list[Described]:
        """Look at those of these candidates that are new: together they take half the time."""
        forms = dict.fromkeys(map(self._canonical, coming))
        new = [form for form in forms if not self.store.has_function(form.key)]
        try:
            found = describe_all(new, self.operators) if new else []
        except NOT_DIFFERENTIABLE:
            found = []  # each is looked at alone, when its turn comes
        self._foreseen = {known.candidate.key: known for known in found}
        return found

    def trial(self, digits: Digits, level: Level) -> tuple[Trial, Described | None]:
        """The trial of this candidate at this level; with what was found of the candidate where the
        trial is new, with None where it was there."""
        return self.trial_of(self._canonical(digits), level)

    def trial_of(self, candidate: Candidate, level: Level) -> tuple[Trial, Described | None]:
        """The same of a canonical candidate, of the space or not."""
        trial, found = self.look(candidate, level)
        if trial is None:
            assert found is not None
            return submit_candidate(self.store, found, level, self.seed, found.name), found
        if found is not None:
            self.store.merge(found.candidate.key, trial.subject)
        return trial, None

    def look(self, candidate: Candidate, level: Level) -> tuple[Trial | None, Described | None]:
        """The trial of a canonical candidate, if it has one, and what was found of the candidate
        where its key alone did not say. Nothing is written."""
        key = self.store.merged_into(candidate.key)
        trial = self.store.find(level.kind, key, level.protocol, self.seed)
        if trial is not None:
            return trial, None
        if key != candidate.key:
            candidate = candidate_from(key, self.extra)
        found = self._foreseen.get(key) or describe(candidate, self.operators)
        return self._alike(found, level), found

    def _alike(self, found: Described, level: Level) -> Trial | None:
        """The trial of a candidate that only its values show to be this one."""
        this = (level.kind, level.protocol, self.seed)
        for trial in self.store.alike(found.fingerprint.key, this):
            known = candidate_from(trial.subject, self.extra)
            if same_candidate(known, found.candidate, self.operators):
                return trial
        return None

    def _canonical(self, digits: Digits) -> Candidate:
        return self.space.decode(digits).canonical(self.operators)
