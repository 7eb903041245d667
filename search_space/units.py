"""UnitSpace: compositions of core units as digits. This file alone knows what a core unit is.

A core unit is five digits (input 1, input 2, unary 1, unary 2, binary), so a space of k units has
5k. An input is x or the output of an earlier unit; the last unit is the candidate (paper, Section
2).

    one-unit 25*25*10 = 6,250    two-units 6,250^2*2*2    three-units 6,250^3*2*2*3*3

A unary choice is an operator, or a small function of x: `0.5*x`, `x+1`, or an operator whose beta
starts elsewhere, `beta[0.25]*x`.

A unit that is used twice has betas of its own each time, or with `ties` the same ones.

In a space of gates an input is also g. The unit of a space of one has x first and g second, since
the other choices are functions of x, or gates with x and g exchanged.

    gates 25*25*10 = 6,250    gates-two 6,250^2*2*2*3*3
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product

import numpy as np
import torch

from actsearch.search_space.analysis.evaluation import generic_beta
from actsearch.search_space.analysis.fingerprint import FIRST, rounded
from actsearch.search_space.candidate import OneFunction
from actsearch.search_space.expression import INPUT_NAMES, Expr, G, X, formula, substitute, tied
from actsearch.search_space.numbering import Digits, check_digits, digits_of, index_of
from actsearch.search_space.operators import (
    BINARY,
    CONSTANT,
    INPUT,
    LEAVES,
    OPERATORS,
    UNARY,
    Op,
    check_commutative,
    check_elementwise,
    check_name,
)

MAX_UNITS = 6  # keeps every candidate, its formula too, within what parse() reads
DIGITS = 5  # of a core unit
# Of features: a line, and for gates a plane.
GRID = torch.linspace(-4.0, 4.0, 33, dtype=torch.float64)
SIDE = torch.linspace(-4.0, 4.0, 9, dtype=torch.float64)
HUGE = 1e6


@dataclass(frozen=True)
class UnitSpace:
    """All compositions of `units` core units over these operators, of x or, with two `inputs`, of x
    and g. Unary choices are operators, or expressions of x. With `ties` all uses of a unit share
    its betas.

    `radices[t]` is the number of choices at digit t; `index` and `digits` are inverse to each
    other. Raises ValueError for an empty operator list, a repeated name or one of the paper's for
    another operator, a false `commutative=True`, or units outside 1..6.
    """

    unary: Sequence[Op | Expr] = UNARY
    binary: Sequence[Op] = BINARY
    units: int = 1
    name: str = ""
    inputs: tuple[str, ...] = ("x",)
    ties: bool = False
    radices: Digits = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.units <= MAX_UNITS:
            raise ValueError(f"a space has 1 to {MAX_UNITS} core units, not {self.units}")
        if self.inputs not in (INPUT_NAMES, INPUT_NAMES[:1]):
            raise ValueError(f"the inputs of a space are x, or x and g, not {self.inputs}")
        _check_operators("unary", self.unary, (0, 1))
        _check_operators("binary", self.binary, (2,))
        twice = {choice_name(c) for c in self.unary} & {op.name for op in self.binary}
        if twice:
            raise ValueError(
                f"{', '.join(sorted(twice))} is the name of a unary and of a binary operator; text "
                "could not tell them apart, so rename one"
            )
        object.__setattr__(self, "unary", tuple(self.unary))
        object.__setattr__(self, "binary", tuple(self.binary))
        u, b = len(self.unary), len(self.binary)
        choices = [1] if self.units == 1 else range(len(self.inputs), self.units + len(self.inputs))
        object.__setattr__(self, "radices", tuple(r for n in choices for r in (n, n, u, u, b)))

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
        unary, binary = (",".join(map(choice_name, c)) for c in (self.unary, self.binary))
        inputs = "" if len(self.inputs) == 1 else f"inputs={','.join(self.inputs)};"
        inputs = "ties=on;" * self.ties + inputs
        return f"{inputs}units={self.units};unary={unary};binary={binary}"

    @property
    def operators(self) -> tuple[Op, ...]:
        unary = (op for choice in self.unary for op in _operators_of(choice))
        return tuple(dict.fromkeys((*unary, *self.binary)))

    def digits(self, index: int) -> Digits:
        return digits_of(index, self.radices)

    def index(self, digits: Sequence[int]) -> int:
        return index_of(digits, self.radices)

    def decode(self, digits: Sequence[int]) -> OneFunction:
        return OneFunction(self.expression(digits))

    def expression(self, digits: Sequence[int]) -> Expr:
        """The last unit's output, as it is composed."""
        check_digits(digits, self.radices)
        values = [X, G][: len(self.inputs)]
        uses = self._uses(digits) if self.ties else [1] * self.units
        for unit in range(self.units):
            in1, in2, un1, un2, bi = digits[DIGITS * unit : DIGITS * (unit + 1)]
            left, right = (_apply(self.unary[un], X) for un in (un1, un2))
            if uses[unit] > 1:
                left, right = tied(left, f"{unit}l"), tied(right, f"{unit}r")
            left = substitute(left, values[in1])
            right = substitute(right, values[self.second + in2])
            both = Expr(self.binary[bi], (left, right))
            values.append(tied(both, f"{unit}b") if uses[unit] > 1 else both)
        return values[-1]

    def _uses(self, digits: Sequence[int]) -> list[int]:
        """How often each unit stands in the candidate."""
        first = len(self.inputs)
        uses = [0] * first + [0] * (self.units - 1) + [1]
        for unit in reversed(range(self.units)):
            in1, in2, un1, un2, _ = digits[DIGITS * unit : DIGITS * (unit + 1)]
            for source, un in ((in1, un1), (self.second + in2, un2)):
                if _apply(self.unary[un], X).reads("x"):
                    uses[source] += uses[first + unit]
        return uses[first:]

    @property
    def second(self) -> int:
        """The first choice of a unit's second input: g where the space's only unit is a gate."""
        return len(self.inputs) - 1 if self.units == 1 else 0

    def __iter__(self) -> Iterator[Expr]:
        """The expression of every candidate, in the order of its index."""
        return (self.expression(digits) for digits in product(*map(range, self.radices)))

    def features(self, digits: np.ndarray) -> np.ndarray:
        """(N, 66), of gates (N, 243): asinh of values and of slopes, by differences, on GRID, or on
        SIDE x SIDE; guarded forms, initial betas."""
        return self.features_of(digits, self.inputs)

    def features_of(self, digits: np.ndarray, inputs: tuple[str, ...]) -> np.ndarray:
        """As functions of these inputs, so that functions of x compare with gates."""
        axes = [GRID if len(inputs) == 1 else SIDE] * len(inputs)
        points = torch.cartesian_prod(*axes).view(-1, len(inputs)).T
        values = np.nan_to_num(digit_values(self, digits, points).numpy().clip(-HUGE, HUGE))
        shape, spacing = [len(axis) for axis in axes], [axis.numpy() for axis in axes]
        along = tuple(range(1, len(inputs) + 1))
        slopes = np.gradient(values.reshape(-1, *shape), *spacing, axis=along)
        parts = slopes if len(inputs) > 1 else [slopes]
        flat = (np.reshape(part, values.shape) for part in parts)
        return np.arcsinh(np.concatenate([values, *flat], axis=1))

    def facts(self) -> list[tuple[str, str]]:
        sizes = [math.prod(self.radices[DIGITS * k : DIGITS * (k + 1)]) for k in range(self.units)]
        product = " = " + " x ".join(f"{n:,}" for n in sizes) if self.units > 1 else ""
        of_inputs = [("inputs", "x and g, a second projection of the same width")]
        reused = [("ties", "all uses of a unit share its betas")] * self.ties
        return [
            ("candidates", f"{self.size:,}{product}"),
            *reused,
            *of_inputs * (len(self.inputs) > 1),
            ("core units", f"{self.units}, {len(self.radices)} choices"),
            ("unary", f"{len(self.unary)}: {', '.join(map(choice_name, self.unary))}"),
            ("binary", f"{len(self.binary)}: {', '.join(op.name for op in self.binary)}"),
        ]


def choice_name(choice: Op | Expr) -> str:
    """What stands for it in the text of a space: a name, or a formula without spaces."""
    return choice.name if isinstance(choice, Op) else formula(choice).replace(" ", "")


def _operators_of(choice: Op | Expr) -> list[Op]:
    if isinstance(choice, Op):
        return [choice]
    return [node.op for node in choice.walk() if node.op.name not in LEAVES]


def _check_operators(kind: str, choices: Sequence[Op | Expr], arities: tuple[int, ...]) -> None:
    if any(not isinstance(choice, Op | Expr) for choice in choices):
        raise TypeError(f"{kind} operators are Ops; space_from('units=...') takes names")
    for choice in choices:
        if isinstance(choice, Expr) and (1 not in arities or choice.reads("g")):
            raise ValueError(f"{formula(choice)} cannot be a {kind} choice: write one in x alone")
    names, ops = [*map(choice_name, choices)], [op for c in choices for op in _operators_of(c)]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a space needs at least one {kind} operator, each once: {names}")
    wrong = [op.name for op in choices if isinstance(op, Op) and op.arity not in arities]
    if wrong:
        raise ValueError(f"not {kind} operators: {', '.join(wrong)}")
    for op in ops:
        if OPERATORS.get(op.name) is op:
            continue
        check_name(op)
        if op.arity > 0:
            check_elementwise(op)
            check_commutative(op)


def _apply(choice: Op | Expr, value: Expr) -> Expr:
    if isinstance(choice, Expr):
        return substitute(choice, value)
    if choice is OPERATORS["identity"]:
        return value
    return Expr(choice, (value,)[: choice.arity])


# -- keys of digits, for millions of candidates


def digit_keys(space: UnitSpace, digits: np.ndarray, operators: str = "guarded") -> np.ndarray:
    """64-bit keys of candidates given as digits (N, len(space.radices)), without building
    expressions.

    Equal keys say "the same function on the first grid at two settings of beta", to BITS bits. Each
    beta's value goes with its place in the digits, so fewer functions with betas are merged than by
    `fingerprint`.
    """
    if len(space.inputs) > 1:
        raise ValueError("keys of digits are of functions of x")
    digits = _sorted_arguments(space, np.asarray(digits))
    first = _unit_table(space, operators)
    u, b = len(space.unary), len(space.binary)
    rows = (digits[:, 2] * u + digits[:, 3]) * b + digits[:, 4]
    values = [FIRST.expand(len(digits), 2, -1), first[torch.from_numpy(rows)]]
    for unit in range(1, space.units):
        values.append(_unit_values(space, unit, digits, values, operators, (1, 2)))
    codes = rounded(values[-1].numpy()).reshape(len(digits), -1)
    return (codes * _HASH[: codes.shape[1]]).sum(axis=1)


def digit_values(
    space: UnitSpace, digits: np.ndarray, points: torch.Tensor, operators: str = "guarded"
) -> torch.Tensor:
    """Values (N, M) of candidates given as digits (N, len(space.radices)) at `points`, (M,) of x or
    (inputs, M), at their initial betas, without building expressions."""
    digits = np.asarray(digits)
    rows = points.view(-1, points.shape[-1])[: len(space.inputs)]
    values = [row.expand(len(digits), 1, -1) for row in rows]
    for unit in range(space.units):
        values.append(_unit_values(space, unit, digits, values, operators, (INITIAL,)))
    return values[-1][:, 0]


INITIAL = 0  # the setting in which betas have their initial values

_HASH = np.random.default_rng(0).integers(-(2**62), 2**62, 4096) | 1


def _sorted_arguments(space: UnitSpace, digits: np.ndarray) -> np.ndarray:
    """Digits with the arguments of commutative operators in order."""
    digits = digits.copy()
    commutative = np.array([op.commutative for op in space.binary])
    for unit in range(space.units):
        i = DIGITS * unit
        in1, in2, un1, un2, bi = (digits[:, i + k] for k in range(DIGITS))
        swap = commutative[bi] & ((in1 > in2) | ((in1 == in2) & (un1 > un2)))
        for a, b in ((i, i + 1), (i + 2, i + 3)):
            digits[swap, a], digits[swap, b] = digits[swap, b], digits[swap, a]
    return digits


@lru_cache(maxsize=4)
def _unit_table(space: UnitSpace, operators: str) -> torch.Tensor:
    """The first unit for every choice of its operators: (unary * unary * binary, 2, points)."""
    u, b = len(space.unary), len(space.binary)
    grid = np.stack(np.meshgrid(*map(np.arange, (u, u, b)), indexing="ij"), -1).reshape(-1, 3)
    digits = np.concatenate([np.zeros((len(grid), 2), np.int64), grid], axis=1)
    inputs = [FIRST.expand(len(digits), 2, -1)]
    return _unit_values(space, 0, digits, inputs, operators, (1, 2))


def _unit_values(
    space: UnitSpace,
    unit: int,
    digits: np.ndarray,
    values: list[torch.Tensor],
    operators: str,
    settings: tuple[int, ...],
) -> torch.Tensor:
    """One core unit for all candidates, an operator at a time: (N, settings, points)."""
    in1, in2, un1, un2, bi = (digits[:, DIGITS * unit + k] for k in range(DIGITS))
    how = operators, settings
    a = _by_operator(space.unary, un1, [_chosen(values, in1)], 3 * unit, *how)
    b = _by_operator(space.unary, un2, [_chosen(values, space.second + in2)], 3 * unit + 1, *how)
    return _by_operator(space.binary, bi, [a, b], 3 * unit + 2, *how)


def _chosen(values: list[torch.Tensor], choice: np.ndarray) -> torch.Tensor:
    chosen = values[0].clone()
    for i in range(1, len(values)):
        at = torch.from_numpy(np.flatnonzero(choice == i))
        chosen[at] = values[i][at]
    return chosen


def _by_operator(
    ops: Sequence[Op | Expr],
    choice: np.ndarray,
    inputs: list[torch.Tensor],
    number: int,
    operators: str,
    settings: tuple[int, ...],
) -> torch.Tensor:
    out = torch.empty_like(inputs[0])

    def applied(op: Op, arguments: list[torch.Tensor], initial: float | None) -> torch.Tensor:
        if initial is not None:
            betas = [initial if s == INITIAL else generic_beta(s, number) for s in settings]
            arguments = [*arguments, torch.tensor(betas, dtype=out.dtype)[None, :, None]]
        return op.form(operators)(*arguments)

    def of(expr: Expr, x: torch.Tensor) -> torch.Tensor:
        if expr.op == CONSTANT:
            return torch.tensor(expr.value, dtype=out.dtype)
        return x if expr.op == INPUT else applied(expr.op, [of(a, x) for a in expr.args], expr.beta)

    for i in np.unique(choice):
        op, at = ops[i], torch.from_numpy(np.flatnonzero(choice == i))
        if isinstance(op, Expr):
            result = of(op, inputs[0][at])
        else:
            result = applied(op, [x[at] for x in inputs][: op.arity], op.beta)
        out[at] = result.expand(len(at), *out.shape[1:])
    return out
