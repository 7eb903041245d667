"""Candidate: what a search proposes and trains. Kinds differ in how many functions they are made
of, and in which of them a layer gets.

    relu(x)                         a function of x, or a gate of x and g, the same in every layer
    relu(x) | mul(x, sigmoid(x))    one function for each group of layers

`candidate_from` reads any kind back from its key, so the store, the workers and the reports know
texts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Protocol

from torch import nn

from actsearch.search_space.activation import Activation, MakeActivation
from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.fingerprint import Fingerprint
from actsearch.search_space.analysis.screening import Flaw, Rejection
from actsearch.search_space.expression import Expr, formula
from actsearch.search_space.operators import Op
from actsearch.search_space.parser import parse

BETWEEN = " | "  # the functions of groups; the grammar of formulas has no such sign
MOST_GROUPS = 8


class Candidate(Protocol):
    """One kind of candidate: frozen, hashable, equal by its functions.

    What is known of the functions is put together by `fingerprint`, `rejected`, `properties` and
    `named`, each given one value a function, in their order.
    """

    @property
    def functions(self) -> tuple[Expr, ...]:
        """The functions, of x or of x and g, that it is made of."""
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

    def rejected(self, found: Sequence[Rejection | None]) -> Rejection | None:
        """Why it is not trained, if it is not."""
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
    """A function of x, or a gate, the same in every layer."""

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

    def rejected(self, found: Sequence[Rejection | None]) -> Rejection | None:
        return found[0]

    def properties(self, of: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {**of[0]}

    def named(self, names: Sequence[str]) -> str:
        return names[0]

    def activations(
        self, operators: str, kernels: str, places: Callable[[], int]
    ) -> MakeActivation:
        return partial(layer_of, self.expr, operators, kernels)

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True)
class FunctionPerGroup:
    """One function for each group of layers: of three, the first third of a child's activations, in
    the order in which it makes them, has the first, and so on.

    Raises ValueError for fewer than two functions, and for more than MOST_GROUPS.
    """

    functions: tuple[Expr, ...]

    def __post_init__(self) -> None:
        check_groups(len(self.functions))

    @property
    def key(self) -> str:
        return BETWEEN.join(map(str, self.functions))

    @property
    def formula(self) -> str:
        return BETWEEN.join(map(formula, self.functions))

    def canonical(self, operators: str) -> Candidate:
        """Group by group. The same function in every group is that function, which trains the same,
        digit for digit, and so has its key."""
        forms = tuple(canonical(expr, operators) for expr in self.functions)
        return OneFunction(forms[0]) if len(set(forms)) == 1 else FunctionPerGroup(forms)

    def fingerprint(self, of: Sequence[Fingerprint]) -> Fingerprint:
        """That of the function where all groups have the same by their values."""
        if len({print_.key for print_ in of}) == 1:
            return of[0]
        parts = zip(*((print_.key, print_.symmetry, print_.exchange) for print_ in of), strict=True)
        return Fingerprint(*map("|".join, parts))

    def rejected(self, found: Sequence[Rejection | None]) -> Rejection | None:
        """A group may be affine, as layers without activation are, unless all are; a group without
        values or gradients stops every layer before it."""
        for group, rejection in enumerate(found, 1):
            if rejection is not None and rejection.flaw is not Flaw.AFFINE:
                return rejection.in_group(group)
        return found[0] if all(found) else None

    def properties(self, of: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What holds of every group, and the operators and betas of all; no values at points."""

        def shared(name: str, otherwise: str) -> Any:
            values = {one[name] for one in of}
            return values.pop() if len(values) == 1 else otherwise

        return {
            **{n: all(one[n] for one in of) for n in ("smooth", "bounded_below", "bounded_above")},
            **{name: shared(name, "no") for name in ("monotonic", "parity")},
            **{name: sum(one[name] for one in of) for name in ("operators", "betas")},
        }

    def named(self, names: Sequence[str]) -> str:
        return BETWEEN.join(names) if all(names) else ""

    def activations(
        self, operators: str, kernels: str, places: Callable[[], int]
    ) -> MakeActivation:
        """Raises ValueError where the child makes fewer activations than there are groups."""
        groups, total = len(self.functions), places()
        if total < groups:
            made = "1 activation" if total == 1 else f"{total} activations"
            raise ValueError(
                f"{groups} groups of layers need {groups} activations or more, and this child "
                f"makes {made}; use fewer groups or a deeper child"
            )
        numbers = count()

        def make(*args: Any, **options: Any) -> nn.Module:
            group = min(group_of(next(numbers), total, groups), groups - 1)
            return layer_of(self.functions[group], operators, kernels, *args, **options)

        return make

    def __str__(self) -> str:
        return self.key


def layer_of(
    expr: Expr,
    operators: str,
    kernels: str,
    *args: Any,
    gated: int | None = None,
    **options: Any,
) -> Activation:
    """`expr` for a layer, as MakeActivation says. Raises ValueError for a gate where the layer has
    no second projection."""
    if len(expr.inputs) > 1 and gated is None:
        raise ValueError(
            f"{formula(expr)} is a gate of two inputs, and this child has no second projection for "
            "it; use gpt, transformer, convnext or mlp, or a child that asks for "
            "make_activation(width, gated=width)"
        )
    return Activation(expr, *args, operators=operators, kernels=kernels, gated=gated, **options)


def is_gate(candidate: Candidate) -> bool:
    """Whether one of its functions is of two inputs."""
    return any(len(expr.inputs) > 1 for expr in candidate.functions)


def group_of(number: int, total: int, groups: int) -> int:
    """The group of activation `number` of `total`, all counted from 0: groups differ in size by one
    at most."""
    return number * groups // total


def check_groups(groups: int) -> None:
    if not 2 <= groups <= MOST_GROUPS:
        raise ValueError(f"layers fall into 2 to {MOST_GROUPS} groups, not {groups}")


def candidate_from(text: str, extra: Iterable[Op] = ()) -> Candidate:
    """The candidate that a key, a formula or a name says: functions of groups with | between them.
    `extra` are operators beyond the paper's. Raises ParseError."""
    parts = text.split(BETWEEN.strip())
    if len(parts) == 1:
        return OneFunction(parse(text, extra))
    extra = tuple(extra)
    return FunctionPerGroup(tuple(parse(part.strip(), extra) for part in parts))


def same_candidate(a: Candidate, b: Candidate, operators: str = "guarded") -> bool:
    """Whether they agree in every group of layers, wherever float64 can tell. A function alone is
    that of all groups."""
    groups = max(len(a.functions), len(b.functions))
    if {len(a.functions), len(b.functions)} - {1, groups}:
        return False
    one, other = (c.functions * (groups // len(c.functions)) for c in (a, b))
    return all(
        f == g or same_function(f, g, operators)
        for f, g in dict.fromkeys(zip(one, other, strict=True))
    )
