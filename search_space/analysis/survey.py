"""What a space holds: every function once, and why the others are not trained.

`describe` looks at one expression, as the search does with each proposal; `survey` counts a whole
space.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.fingerprint import Fingerprint, fingerprints
from actsearch.search_space.analysis.properties import properties
from actsearch.search_space.analysis.screening import screens
from actsearch.search_space.expression import Expr, formula
from actsearch.search_space.space import Space

# What a user's operator raises that cannot be evaluated and differentiated in float64.
NOT_DIFFERENTIABLE = (RuntimeError, NotImplementedError, TypeError)


@dataclass(frozen=True)
class Function:
    """A canonical expression with all that is known of it before training.

    `rejected` is the reason not to train it, or "".
    """

    expr: Expr
    fingerprint: Fingerprint
    rejected: str
    properties: dict[str, Any]

    @property
    def expression(self) -> str:
        return str(self.expr)

    @property
    def formula(self) -> str:
        return formula(self.expr)


def describe(expr: Expr, operators: str = "guarded") -> Function:
    """Everything about `expr`, which should be canonical, in some ten milliseconds.

    A user's operator that cannot be differentiated, or not in float64, leaves a function that is
    told apart by its text alone.
    """
    try:
        return describe_all([expr], operators)[0]
    except NOT_DIFFERENTIABLE:
        return Function(expr, Fingerprint(str(expr), str(expr)), "", {})


def describe_all(exprs: Sequence[Expr], operators: str = "guarded") -> list[Function]:
    """The same of many, in half the time each; raises one of NOT_DIFFERENTIABLE where
    `describe` leaves a function to its text."""
    columns = (
        fingerprints(exprs, operators),
        screens(exprs, operators),
        properties(exprs, operators),
    )
    return [
        Function(expr, found, rejected, known.to_dict())
        for (expr, found), (_, rejected), known in zip(*columns, strict=True)
    ]


@dataclass
class Survey:
    """Counts of a space, one step after the other, and the seconds that each took.

    `merged` pairs functions that only their fingerprints show to be the same with the one that is
    kept; each could become a rule.
    """

    raw: int
    canonical: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    distinct: list[Expr] = field(default_factory=list)
    symmetry_classes: int = 0
    merged: list[tuple[Expr, Expr]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def by_rule(self) -> int:
        """How many the rules leave of those that are not rejected."""
        return self.canonical - self.rejected.total()


def survey(
    exprs: Space | Iterable[Expr], operators: str = "guarded", *, screening: bool = True
) -> Survey:
    """Walk through all of `exprs`: canonical forms, screening, fingerprints."""
    clock = time.perf_counter()
    everything = list(exprs)
    found = Survey(len(everything))
    forms = list(dict.fromkeys(canonical(e, operators) for e in everything))
    found.canonical = len(forms)
    clock = _lap(found, "canonical", clock)
    if screening:
        reasons = list(screens(forms, operators))
        found.rejected = Counter(kind_of(reason) for _, reason in reasons if reason)
        forms = [expr for expr, reason in reasons if not reason]
        clock = _lap(found, "screening", clock)
    classes: set[str] = set()
    groups: dict[str, list[Expr]] = {}
    for expr, print_ in fingerprints(forms, operators):
        kept = groups.setdefault(print_.key, [])
        same = next((k for k in kept if same_function(k, expr, operators)), None)
        if same is None:
            kept.append(expr)
            found.distinct.append(expr)
            classes.add(print_.symmetry)
        else:
            found.merged.append((expr, same))
    found.symmetry_classes = len(classes)
    _lap(found, "fingerprints", clock)
    return found


def _lap(found: Survey, name: str, start: float) -> float:
    now = time.perf_counter()
    found.seconds[name] = now - start
    return now


def kind_of(reason: str) -> str:
    """A screening reason without its numbers, for counting: `value not finite`, `constant`, ..."""
    for start, kind in (
        ("value", "value not finite"),
        ("gradient", "gradient not finite"),
        ("no gradient", "no gradient"),
        ("affine", "affine in x"),
    ):
        if reason.startswith(start):
            return kind
    return reason
