"""Space: candidates as numbers, of whatever kind; the named spaces, and spaces from text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product, zip_longest
from typing import Protocol, cast

import numpy as np

from actsearch.search_space.candidate import (
    MOST_GROUPS,
    Candidate,
    FunctionPerGroup,
    check_groups,
)
from actsearch.search_space.expression import INPUT_NAMES, Expr
from actsearch.search_space.numbering import Digits, check_digits, digits_of, index_of
from actsearch.search_space.operators import (
    BINARY,
    OPERATORS,
    UNARY,
    Op,
    operators_named,
)
from actsearch.search_space.parser import parse
from actsearch.search_space.text import unknown
from actsearch.search_space.units import MAX_UNITS, UnitSpace


class Space(Protocol):
    """Candidates as rows of digits. Every setting of the digits is a candidate."""

    @property
    def radices(self) -> Digits:
        """The number of choices at each digit."""
        ...

    @property
    def size(self) -> int:
        """The number of points, repeats of a candidate under other digits included."""
        ...

    @property
    def spec(self) -> str:
        """The text from which `space_from` makes it again (its name where it has one)."""
        ...

    @property
    def name(self) -> str:
        """That of a named space, or ""."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """What its functions are of: ("x",), or ("x", "g") where some are gates."""
        ...

    @property
    def operators(self) -> tuple[Op, ...]:
        """All that occur in its functions."""
        ...

    def digits(self, index: int) -> Digits:
        """Those of point `index`; raises IndexError where there is none."""
        ...

    def index(self, digits: Sequence[int]) -> int:
        """The inverse of `digits`; raises ValueError for digits of no point."""
        ...

    def decode(self, digits: Sequence[int]) -> Candidate:
        """The candidate, as it is spelt; raises ValueError for digits of no point."""
        ...

    def features(self, digits: np.ndarray) -> np.ndarray | None:
        """(N, F) numbers that describe the shapes of the candidates with `digits` (N, T); None
        where there are none."""
        ...

    def facts(self) -> list[tuple[str, str]]:
        """What it holds, as (term, value)."""
        ...


@dataclass(frozen=True)
class GroupSpace:
    """One candidate of `each` for every group of layers; the digits of the groups side by side.

    Raises ValueError for a number of groups that no candidate has.
    """

    each: Space
    groups: int

    def __post_init__(self) -> None:
        check_groups(self.groups)

    @property
    def radices(self) -> Digits:
        return self.each.radices * self.groups

    @property
    def size(self) -> int:
        return math.prod(self.radices)

    @property
    def spec(self) -> str:
        return f"groups={self.groups};{self.each.spec}"

    @property
    def name(self) -> str:
        return f"{self.each.name}-{self.groups}-groups" if self.each.name else ""

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.each.inputs

    @property
    def operators(self) -> tuple[Op, ...]:
        return self.each.operators

    def digits(self, index: int) -> Digits:
        return digits_of(index, self.radices)

    def index(self, digits: Sequence[int]) -> int:
        return index_of(digits, self.radices)

    def decode(self, digits: Sequence[int]) -> FunctionPerGroup:
        check_digits(digits, self.radices)
        n = len(self.each.radices)
        parts = (self.each.decode(digits[n * g : n * (g + 1)]) for g in range(self.groups))
        return FunctionPerGroup(tuple(expr for part in parts for expr in part.functions))

    def features(self, digits: np.ndarray) -> np.ndarray | None:
        """(N, groups F): those of the groups side by side."""
        found = [self.each.features(part) for part in np.split(digits, self.groups, axis=1)]
        known = [features for features in found if features is not None]
        return np.concatenate(known, axis=1) if len(known) == self.groups else None

    def facts(self) -> list[tuple[str, str]]:
        of_each = [(term, value) for term, value in self.each.facts() if term != "candidates"]
        return [
            ("candidates", f"{self.size:,} = {self.each.size:,}^{self.groups}"),
            ("groups", f"{self.groups} of layers, each with one of {self.each.size:,} candidates"),
            *of_each,
        ]


@dataclass(frozen=True)
class EitherSpace:
    """The candidates of two spaces, in one table. The first digit says of which; the others are
    shared, so a candidate of the one with fewer choices has several spellings."""

    one: UnitSpace
    other: UnitSpace

    @property
    def parts(self) -> tuple[UnitSpace, UnitSpace]:
        return self.one, self.other

    @property
    def radices(self) -> Digits:
        both = zip_longest(*(part.radices for part in self.parts), fillvalue=1)
        return 2, *map(max, both)

    @property
    def size(self) -> int:
        return math.prod(self.radices)

    @property
    def spec(self) -> str:
        return "+".join(part.spec for part in self.parts)

    @property
    def name(self) -> str:
        names = [part.name for part in self.parts]
        return "+".join(names) if all(names) else ""

    @property
    def inputs(self) -> tuple[str, ...]:
        return max((part.inputs for part in self.parts), key=len)

    @property
    def operators(self) -> tuple[Op, ...]:
        return tuple(dict.fromkeys(op for part in self.parts for op in part.operators))

    def digits(self, index: int) -> Digits:
        return digits_of(index, self.radices)

    def index(self, digits: Sequence[int]) -> int:
        return index_of(digits, self.radices)

    def decode(self, digits: Sequence[int]) -> Candidate:
        check_digits(digits, self.radices)
        part = self.parts[digits[0]]
        own = zip(digits[1:], part.radices, strict=False)
        return part.decode([digit % radix for digit, radix in own])

    def features(self, digits: np.ndarray) -> np.ndarray:
        """As functions of the inputs of both."""
        digits = np.asarray(digits)
        of_each = [
            part.features_of(digits[:, 1 : 1 + len(part.radices)] % part.radices, self.inputs)
            for part in self.parts
        ]
        return np.where(digits[:, :1] == 0, *of_each)

    def facts(self) -> list[tuple[str, str]]:
        sizes = " and ".join(f"{part.size:,} of {part.spec}" for part in self.parts)
        return [("candidates", f"{sizes}, in {self.size:,} spellings")]


def with_ties(space: Space) -> Space:
    """The same candidates with units whose betas are shared by all of their uses. Raises ValueError
    where no unit can be used twice."""
    if isinstance(space, GroupSpace):
        return GroupSpace(with_ties(space.each), space.groups)
    if isinstance(space, EitherSpace):
        tied = (with_ties(part) if part.units > 1 else part for part in space.parts)
        return EitherSpace(*cast(Iterable[UnitSpace], tied))
    if not isinstance(space, UnitSpace) or space.units == 1:
        raise ValueError(f"{space.spec} has no unit that is used twice; ties need two core units")
    return (
        space if space.ties else replace(space, ties=True, name=space.name and space.name + _TIED)
    )


_TIED = "-tied"


def in_groups(space: Space, groups: int) -> GroupSpace:
    """A candidate of `space` for each group; of a space that has groups already with so many."""
    return GroupSpace(space.each if isinstance(space, GroupSpace) else space, groups)


_TINY_UNARY = ("identity", "neg", "square", "relu", "sigmoid", "tanh", "sin", "softplus")
_TINY_BINARY = ("add", "mul", "max")

# What functions since 2017 need beside the paper's operators: constants, a beta that starts below
# 1, and the normal distribution function, which is GELU's gate as sigmoid is SiLU's.
_MODERN = (
    "0.1*x", "0.5*x", "x+1", "x-1", "beta[0.25]*x", "0.5*(1+erf(0.7071067811865476*x))"
)  # fmt: skip
MODERN_UNARY: tuple[Op | Expr, ...] = (*UNARY, *map(parse, _MODERN))

SPACES: dict[str, UnitSpace] = {
    "tiny": UnitSpace(
        operators_named(_TINY_UNARY, UNARY, "unary operator"),
        operators_named(_TINY_BINARY, BINARY, "binary operator"),
        name="tiny",
    ),
    "one-unit": UnitSpace(units=1, name="one-unit"),
    "two-units": UnitSpace(units=2, name="two-units"),
    "three-units": UnitSpace(units=3, name="three-units"),
    "gates": UnitSpace(units=1, name="gates", inputs=INPUT_NAMES),
    "gates-two": UnitSpace(units=2, name="gates-two", inputs=INPUT_NAMES),
    "modern-one": UnitSpace(MODERN_UNARY, units=1, name="modern-one"),
    "modern-two": UnitSpace(MODERN_UNARY, units=2, name="modern-two"),
    "modern-gates": UnitSpace(MODERN_UNARY, units=2, name="modern-gates", inputs=INPUT_NAMES),
}


def space_from(text: str, extra: Iterable[Op] = ()) -> Space:
    """A space by its name, or from `units=2;unary=identity,sin;binary=add,mul` (each part
    optional), with `inputs=x,g` of gates, with `ties=on` of units that share their betas, as
    two-units-tied does; of two with + between them the candidates of both; with
    `groups=3;` before either, one of these candidates for each group of layers."""
    parts = [part for part in text.replace(" ", "").split(";") if part]
    groups = [part for part in parts if part.startswith("groups=")]
    if not groups:
        return _either_from(text, extra)
    number = groups[0].removeprefix("groups=")
    if len(groups) > 1:
        raise ValueError(f"groups is given twice in {text!r}")
    if not number.isdecimal():
        raise ValueError(f"groups={number} is no number of groups; use 2 to {MOST_GROUPS}")
    each = ";".join(part for part in parts if part not in groups) or "one-unit"
    return GroupSpace(_either_from(each, extra), int(number))


# A plus before a space, which is not one in a formula such as x+1 or x+beta.
_JOINED = re.compile(
    rf"\+(?=(?:{'|'.join(SPACES)})(?:{_TIED})?(?:\+|$)|(?:ties|inputs|units|unary|binary)=)"
)


def _either_from(text: str, extra: Iterable[Op]) -> Space:
    extra = tuple(extra)
    texts = _JOINED.split(text) if "=" in text else text.split("+")
    parts = [_units_from(part, extra) for part in texts]
    if len(parts) > 2:
        raise ValueError(f"{text!r} joins {len(parts)} spaces; join two, as tiny+gates")
    return parts[0] if len(parts) == 1 else EitherSpace(*parts)


def _units_from(text: str, extra: Iterable[Op]) -> UnitSpace:
    if text in SPACES:
        return SPACES[text]
    if (base := text.removesuffix(_TIED)) != text and base in SPACES:
        return cast(UnitSpace, with_ties(SPACES[base]))
    if "=" not in text:
        raise ValueError(
            unknown("space", text, SPACES) + ", or 'units=2;unary=identity,sin;binary=add,mul'"
        )
    parts: dict[str, str] = {}
    for part in filter(None, text.replace(" ", "").split(";")):
        key, _, value = part.partition("=")
        if key not in ("ties", "inputs", "units", "unary", "binary"):
            known = ("groups", "ties", "inputs", "units", "unary", "binary")
            raise ValueError(unknown("part of a space", key, known))
        if key in parts:
            raise ValueError(f"{key} is given twice in {text!r}")
        parts[key] = value
    if not parts.get("units", "1").isdecimal():
        raise ValueError(f"units={parts['units']} is no number of core units; use 1 to {MAX_UNITS}")
    extra = tuple(extra)
    unary: Sequence[Op | Expr] = UNARY
    if "unary" in parts:
        unary = [_unary(name, extra) for name in re.split(r",(?![^(]*\))", parts["unary"])]
    binary: Sequence[Op] = BINARY
    if "binary" in parts:
        binary = operators_named(parts["binary"].split(","), (*BINARY, *extra), "binary operator")
    if (ties := parts.get("ties", "off")) not in ("on", "off"):
        raise ValueError(f"ties={ties} is not known; use ties=on or ties=off")
    space = UnitSpace(
        unary,
        binary,
        int(parts.get("units", "1")),
        inputs=tuple(parts.get("inputs", "x").split(",")),
    )
    return cast(UnitSpace, with_ties(space)) if ties == "on" else space


def _unary(text: str, extra: Sequence[Op]) -> Op | Expr:
    """An operator by its name, or a formula of x, as 0.5*x."""
    if re.fullmatch(r"\w*", text):
        [op] = operators_named([text], (*UNARY, *extra), "unary operator")
        return op
    return parse(text, extra)


def everything(space: Space) -> Iterable[Candidate]:
    """Every candidate, in the order of its index."""
    return (space.decode(digits) for digits in product(*map(range, space.radices)))


def extra_operators(space: Space) -> tuple[Op, ...]:
    """The operators of a space that are not the paper's."""
    return tuple(op for op in space.operators if OPERATORS.get(op.name) is not op)
