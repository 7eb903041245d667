"""What is known of candidates before any is trained: every one once, and why others are not.

`describe` looks at one candidate, as the search does with each proposal; `survey` counts a whole
space. Functions are looked at many at a time, and each once, however many candidates have it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from actsearch.search_space.analysis.evaluation import NOT_DIFFERENTIABLE
from actsearch.search_space.analysis.fingerprint import Fingerprint, fingerprints
from actsearch.search_space.analysis.names import name_of
from actsearch.search_space.analysis.properties import properties
from actsearch.search_space.analysis.screening import Flaw, Rejection, screens
from actsearch.search_space.candidate import Candidate, same_candidate
from actsearch.search_space.expression import Expr


@dataclass(frozen=True)
class Described:
    """A canonical candidate with all that is known of it before training.

    `rejected` says why it is not trained, if it is not; `name` what people call it, or "".
    """

    candidate: Candidate
    fingerprint: Fingerprint
    rejected: Rejection | None
    properties: dict[str, Any]
    name: str


def describe(candidate: Candidate, operators: str = "guarded") -> Described:
    """Everything about `candidate`, which should be canonical, in some ten milliseconds.

    A user's operator that cannot be differentiated, or not in float64, leaves a candidate that is
    told apart by its text alone.
    """
    try:
        return describe_all([candidate], operators)[0]
    except NOT_DIFFERENTIABLE:
        return Described(candidate, Fingerprint(*[candidate.key] * 3), None, {}, "")


def describe_all(candidates: Sequence[Candidate], operators: str = "guarded") -> list[Described]:
    """The same of many, in half the time each; raises one of NOT_DIFFERENTIABLE where `describe`
    leaves a candidate to its text."""
    exprs = functions_of(candidates)
    prints = dict(fingerprints(exprs, operators))
    flawed = dict(screens(exprs, operators))
    found = properties(exprs, operators)
    known = {expr: one.to_dict() for expr, one in zip(exprs, found, strict=True)}
    names = {expr: name_of(expr, prints[expr].key, operators) for expr in exprs}
    return [
        Described(
            candidate,
            candidate.fingerprint([prints[e] for e in candidate.functions]),
            candidate.rejected([flawed[e] for e in candidate.functions]),
            candidate.properties([known[e] for e in candidate.functions]),
            candidate.named([names[e] for e in candidate.functions]),
        )
        for candidate in candidates
    ]


def with_fingerprints(
    candidates: Iterable[Candidate], operators: str = "guarded"
) -> Iterator[tuple[Candidate, Fingerprint]]:
    """Each candidate with its fingerprint, in order."""
    candidates = list(candidates)
    prints = dict(fingerprints(functions_of(candidates), operators))
    for candidate in candidates:
        yield candidate, candidate.fingerprint([prints[e] for e in candidate.functions])


def with_rejections(
    candidates: Iterable[Candidate], operators: str = "guarded"
) -> Iterator[tuple[Candidate, Rejection | None]]:
    """Each candidate and why it is rejected, if it is, in order."""
    candidates = list(candidates)
    flawed = dict(screens(functions_of(candidates), operators))
    for candidate in candidates:
        yield candidate, candidate.rejected([flawed[e] for e in candidate.functions])


def functions_of(candidates: Iterable[Candidate]) -> list[Expr]:
    """The functions of all of them, each once."""
    return list(dict.fromkeys(expr for c in candidates for expr in c.functions))


@dataclass
class Survey:
    """Counts of a space, one step after the other, and the seconds that each took.

    `merged` pairs candidates that only their fingerprints show to be the same with the one that is
    kept; each could become a rule. `up_to_exchange` counts gates once that differ only by which
    input is which.
    """

    raw: int
    canonical: int = 0
    rejected: Counter[Flaw] = field(default_factory=Counter)
    distinct: list[Candidate] = field(default_factory=list)
    symmetry_classes: int = 0
    up_to_exchange: int = 0
    merged: list[tuple[Candidate, Candidate]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def by_rule(self) -> int:
        """How many the rules leave of those that are not rejected."""
        return self.canonical - self.rejected.total()


def survey(
    candidates: Iterable[Candidate], operators: str = "guarded", *, screening: bool = True
) -> Survey:
    """Walk through all of `candidates`: canonical forms, screening, fingerprints."""
    clock = time.perf_counter()
    everything = list(candidates)
    found = Survey(len(everything))
    forms = list(dict.fromkeys(c.canonical(operators) for c in everything))
    found.canonical = len(forms)
    clock = _lap(found, "canonical", clock)
    if screening:
        screened = list(with_rejections(forms, operators))
        found.rejected = Counter(rejection.flaw for _, rejection in screened if rejection)
        forms = [candidate for candidate, rejection in screened if not rejection]
        clock = _lap(found, "screening", clock)
    classes: set[str] = set()
    exchanged: set[str] = set()
    groups: dict[str, list[Candidate]] = {}
    for candidate, print_ in with_fingerprints(forms, operators):
        kept = groups.setdefault(print_.key, [])
        same = next((k for k in kept if same_candidate(k, candidate, operators)), None)
        if same is None:
            kept.append(candidate)
            found.distinct.append(candidate)
            classes.add(print_.symmetry)
            exchanged.add(print_.exchange)
        else:
            found.merged.append((candidate, same))
    found.symmetry_classes, found.up_to_exchange = len(classes), len(exchanged)
    _lap(found, "fingerprints", clock)
    return found


def _lap(found: Survey, name: str, start: float) -> float:
    now = time.perf_counter()
    found.seconds[name] = now - start
    return now
