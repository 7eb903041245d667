"""Search spaces as mixed-radix numbers: candidate i is the i-th setting of a row of digits.

A core unit is five digits (input 1, input 2, unary 1, unary 2, binary), so a space of k units has
5k. An input is x or the output of an earlier unit; the last unit is the candidate (paper, Section
2).

    one-unit 25*25*10 = 6,250    two-units 6,250^2*2*2    three-units 6,250^3*2*2*3*3
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from actsearch.search_space.expression import Expr, X
from actsearch.search_space.operators import (
    BINARY,
    OPERATORS,
    UNARY,
    Op,
    check_commutative,
    check_elementwise,
    check_name,
    operators_named,
)
from actsearch.search_space.text import unknown

Digits = tuple[int, ...]
MAX_UNITS = 6  # keeps every candidate, its formula too, within what parse() reads


@dataclass(frozen=True)
class Space:
    """All compositions of `units` core units over these operators.

    `radices[t]` is the number of choices at digit t; `index` and `digits` are inverse to each
    other. Raises ValueError for an empty operator list, a repeated name or one of the paper's for
    another operator, a false `commutative=True`, or units outside 1..6.
    """

    unary: Sequence[Op] = UNARY
    binary: Sequence[Op] = BINARY
    units: int = 1
    name: str = ""
    radices: Digits = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.units <= MAX_UNITS:
            raise ValueError(f"a space has 1 to {MAX_UNITS} core units, not {self.units}")
        for kind, ops, arities in (("unary", self.unary, (0, 1)), ("binary", self.binary, (2,))):
            if any(not isinstance(op, Op) for op in ops):
                raise TypeError(f"{kind} operators are Ops; space_from('units=...') takes names")
            names = [op.name for op in ops]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"a space needs at least one {kind} operator, each once: {names}")
            wrong = [op.name for op in ops if op.arity not in arities]
            if wrong:
                raise ValueError(f"not {kind} operators: {', '.join(wrong)}")
            for op in ops:
                if OPERATORS.get(op.name) is op:
                    continue
                check_name(op)
                if op.arity > 0:
                    check_elementwise(op)
                    check_commutative(op)
        twice = {op.name for op in self.unary} & {op.name for op in self.binary}
        if twice:
            raise ValueError(
                f"{', '.join(sorted(twice))} is the name of a unary and of a binary operator; text "
                "could not tell them apart, so rename one"
            )
        object.__setattr__(self, "unary", tuple(self.unary))
        object.__setattr__(self, "binary", tuple(self.binary))
        u, b = len(self.unary), len(self.binary)
        radices = [r for unit in range(1, self.units + 1) for r in (unit, unit, u, u, b)]
        object.__setattr__(self, "radices", tuple(radices))

    @property
    def size(self) -> int:
        """The number of points, repeats of a function under other digits included."""
        return math.prod(self.radices)

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True  # len() cannot say sizes beyond 2**63

    @property
    def spec(self) -> str:
        """The text from which `space_from` makes this space again (its name where it has one)."""
        if self.name:
            return self.name
        unary, binary = (",".join(op.name for op in ops) for ops in (self.unary, self.binary))
        return f"units={self.units};unary={unary};binary={binary}"

    def digits(self, index: int) -> Digits:
        """Unrank: the digits of point `index`, most significant first."""
        if not 0 <= index < self.size:
            raise IndexError(f"point {index} is outside 0..{self.size - 1}")
        digits: list[int] = []
        for radix in reversed(self.radices):
            index, digit = divmod(index, radix)
            digits.append(digit)
        return tuple(reversed(digits))

    def index(self, digits: Sequence[int]) -> int:
        """Rank: the point that these digits stand for."""
        self.check(digits)
        index = 0
        for digit, radix in zip(digits, self.radices, strict=True):
            index = index * radix + digit
        return index

    def check(self, digits: Sequence[int]) -> None:
        if len(digits) != len(self.radices):
            raise ValueError(f"this space has {len(self.radices)} digits, not {len(digits)}")
        for t, (digit, radix) in enumerate(zip(digits, self.radices, strict=True)):
            if not 0 <= digit < radix:
                raise ValueError(f"digit {t} is {digit}; it goes from 0 to {radix - 1}")

    def decode(self, digits: Sequence[int]) -> Expr:
        """The expression of a candidate: the only place that knows what a core unit is."""
        self.check(digits)
        values = [X]
        for unit in range(self.units):
            in1, in2, un1, un2, bi = digits[5 * unit : 5 * unit + 5]
            left = _apply(self.unary[un1], values[in1])
            right = _apply(self.unary[un2], values[in2])
            values.append(Expr(self.binary[bi], (left, right)))
        return values[-1]

    def __iter__(self) -> Iterator[Expr]:
        """Every candidate in the order of its index."""
        return (self.decode(digits) for digits in product(*map(range, self.radices)))

    def sizes_by_unit(self) -> list[int]:
        """The number of choices that each core unit has."""
        return [math.prod(self.radices[5 * k : 5 * k + 5]) for k in range(self.units)]


def _apply(op: Op, value: Expr) -> Expr:
    if op is OPERATORS["identity"]:
        return value
    return Expr(op, (value,)[: op.arity])


_TINY_UNARY = ("identity", "neg", "square", "relu", "sigmoid", "tanh", "sin", "softplus")
_TINY_BINARY = ("add", "mul", "max")

SPACES: dict[str, Space] = {
    "tiny": Space(
        operators_named(_TINY_UNARY, UNARY, "unary operator"),
        operators_named(_TINY_BINARY, BINARY, "binary operator"),
        name="tiny",
    ),
    "one-unit": Space(units=1, name="one-unit"),
    "two-units": Space(units=2, name="two-units"),
    "three-units": Space(units=3, name="three-units"),
}


def space_from(text: str, extra: Iterable[Op] = ()) -> Space:
    """A space by its name, or from `units=2;unary=identity,sin;binary=add,mul` (each part
    optional)."""
    if text in SPACES:
        return SPACES[text]
    if "=" not in text:
        raise ValueError(
            unknown("space", text, SPACES) + ", or 'units=2;unary=identity,sin;binary=add,mul'"
        )
    parts: dict[str, str] = {}
    for part in filter(None, text.replace(" ", "").split(";")):
        key, _, value = part.partition("=")
        if key not in ("units", "unary", "binary"):
            raise ValueError(unknown("part of a space", key, ("units", "unary", "binary")))
        if key in parts:
            raise ValueError(f"{key} is given twice in {text!r}")
        parts[key] = value
    if not parts.get("units", "1").isdecimal():
        raise ValueError(f"units={parts['units']} is no number of core units; use 1 to {MAX_UNITS}")
    tables = {"unary": (*UNARY, *extra), "binary": (*BINARY, *extra)}
    chosen = {
        kind: operators_named(parts[kind].split(","), table, f"{kind} operator")
        for kind, table in tables.items()
        if kind in parts
    }
    return Space(
        chosen.get("unary", UNARY), chosen.get("binary", BINARY), int(parts.get("units", "1"))
    )


def extra_operators(space: Space) -> tuple[Op, ...]:
    """The operators of a space that are not the paper's."""
    ops = (*space.unary, *space.binary)
    return tuple(op for op in ops if OPERATORS.get(op.name) is not op)
