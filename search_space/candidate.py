"""Candidate: what a search proposes and trains. Kinds differ in how many functions they are made
of, and in which of them a layer gets.

`candidate_from` reads any kind back from its key, so the store, the workers and the reports know
texts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from actsearch.search_space.activation import Activation, MakeActivation
from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.fingerprint import Fingerprint
from actsearch.search_space.expression import Expr, formula
from actsearch.search_space.operators import Op
from actsearch.search_space.parser import parse


class Candidate(Protocol):
    """One kind of candidate: frozen, hashable, equal by its functions.

    What is known of the functions is put together by `fingerprint`, `rejected`, `properties` and
    `named`, each given one value a function, in their order.
    """

    @property
    def functions(self) -> tuple[Expr, ...]:
        """The functions of x that it is made of."""
        ...

    @property
    def key(self) -> str:
        """The text that `candidate_from` reads back; of a canonical candidate its identity."""
        ...

    @property
    def formula(self) -> str:
        """What people read."""
        ...

    def canonical(self, operators: str) -> Candidate: ...

    def fingerprint(self, of: Sequence[Fingerprint]) -> Fingerprint: ...

    def rejected(self, reasons: Sequence[str]) -> str:
        """The reason not to train it, or ""."""
        ...

    def properties(self, of: Sequence[Mapping[str, Any]]) -> dict[str, Any]: ...

    def named(self, names: Sequence[str]) -> str:
        """What people call it, or ""."""
        ...

    def activations(
        self, operators: str, kernels: str, places: Callable[[], int]
    ) -> MakeActivation:
        """What a child is built with. `places()` is how many activations this child makes."""
        ...


@dataclass(frozen=True)
class OneFunction:
    """A function of x, the same in every layer."""

    expr: Expr

    @property
    def functions(self) -> tuple[Expr, ...]:
        return (self.expr,)

    @property
    def key(self) -> str:
        return str(self.expr)

    @property
    def formula(self) -> str:
        return formula(self.expr)

    def canonical(self, operators: str) -> OneFunction:
        return OneFunction(canonical(self.expr, operators))

    def fingerprint(self, of: Sequence[Fingerprint]) -> Fingerprint:
        return of[0]

    def rejected(self, reasons: Sequence[str]) -> str:
        return reasons[0]

    def properties(self, of: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {**of[0]}

    def named(self, names: Sequence[str]) -> str:
        return names[0]

    def activations(
        self, operators: str, kernels: str, places: Callable[[], int]
    ) -> MakeActivation:
        return partial(Activation, self.expr, operators=operators, kernels=kernels)

    def __str__(self) -> str:
        return self.key

    def _repr_html_(self) -> str:
        return self.expr._repr_html_()


def candidate_from(text: str, extra: Iterable[Op] = ()) -> Candidate:
    """The candidate that a key, a formula or a name says; `extra` are operators beyond the paper's.
    Raises ParseError."""
    return OneFunction(parse(text, extra))


def same_candidate(a: Candidate, b: Candidate, operators: str = "guarded") -> bool:
    """Whether they agree function for function, wherever float64 can tell."""
    return len(a.functions) == len(b.functions) and all(
        f == g or same_function(f, g, operators)
        for f, g in zip(a.functions, b.functions, strict=True)
    )
