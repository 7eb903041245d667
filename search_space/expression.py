"""Expr, the tree that every candidate is: an operator and the expressions it is applied to.

`str(e)` is the canonical text, `mul(x, sigmoid(scale(x)))`, which parses back to an equal tree;
`formula(e)` is what people read, `x * sigmoid(beta * x)`. Each occurrence of an operator with a
beta has a beta of its own. Its inputs are x or, of a gate, x and g.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from actsearch.search_space.operators import (
    ATOM,
    CONSTANT,
    INPUT,
    INPUTS,
    OPERATORS,
    SECOND,
    SIGN,
    Op,
)

INPUT_NAMES = tuple(op.name for op in INPUTS)


@dataclass(frozen=True)
class Expr:
    """An operator applied to expressions. Immutable, hashable, equal by structure.

    `value` is the number of a CONSTANT, or beta's initial value where it differs from the
    operator's.
    `betas` is how many trainable parameters a channel has; `operators` how many are applied, not
    counting x, numbers and a bare beta.
    """

    op: Op
    args: tuple[Expr, ...] = ()
    value: float | None = None
    betas: int = field(init=False, compare=False, repr=False)
    operators: int = field(init=False, compare=False, repr=False)
    _reads: int = field(init=False, compare=False, repr=False)  # a bit for each of INPUTS
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.args) != self.op.arity:
            raise ValueError(
                f"{self.op.name} takes {self.op.arity} argument(s), not {len(self.args)}"
            )
        # Asked for often, and the parts know theirs already.
        betas = (self.beta is not None) + sum(arg.betas for arg in self.args)
        operators = (self.op.arity > 0) + sum(arg.operators for arg in self.args)
        reads = 0 if self.args else _BITS.get(self.op.name, 0)
        for arg in self.args:
            reads |= arg._reads
        object.__setattr__(self, "_reads", reads)
        object.__setattr__(self, "_hash", hash((self.op.name, self.args, self.value)))
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "operators", operators)

    def __reduce__(self) -> tuple[type[Expr], tuple[Op, tuple[Expr, ...], float | None]]:
        """Without the hash, which is another in another process."""
        return Expr, (self.op, self.args, self.value)

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        if self.op == CONSTANT:
            return number(self.value or 0.0)
        name = self.op.name if self.value is None else f"{self.op.name}[{number(self.value)}]"
        return f"{name}({', '.join(map(str, self.args))})" if self.args else name

    __repr__ = __str__

    def walk(self) -> Iterator[Expr]:
        """Every node, arguments before the operator that uses them, repeats included."""
        for arg in self.args:
            yield from arg.walk()
        yield self

    @property
    def beta(self) -> float | None:
        """The initial value of this node's own beta, or None where it has none."""
        return self.value if self.value is not None and self.op != CONSTANT else self.op.beta

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it is a function of: ("x",), or ("x", "g") of a gate. A number counts as of x."""
        return INPUT_NAMES if self._reads & _BITS["g"] else INPUT_NAMES[:1]

    def reads(self, name: str) -> bool:
        """Whether the input of this name is in it."""
        return bool(self._reads & _BITS[name])

    @property
    def depth(self) -> int:
        return 1 + max((arg.depth for arg in self.args), default=0)


_BITS = {name: 1 << i for i, name in enumerate(INPUT_NAMES)}
X, G = Expr(INPUT), Expr(SECOND)


def constant(value: float) -> Expr:
    return Expr(CONSTANT, (), float(value))


def number(value: float) -> str:
    """The shortest text that reads back as the same float: 2, 0.01, 1e-07."""
    return repr(value).removesuffix(".0")


def substitute(expr: Expr, x: Expr, g: Expr = G) -> Expr:
    """`expr` with `x` and `g` in the place of its inputs."""
    if expr.op in INPUTS:
        return x if expr.op == INPUT else g
    return Expr(expr.op, tuple(substitute(arg, x, g) for arg in expr.args), expr.value)


def exchanged(expr: Expr) -> Expr:
    """`expr` with x and g in each other's place."""
    return substitute(expr, G, X)


def _of(name: str, *args: Expr) -> Expr:
    return Expr(OPERATORS[name], args)


# What an operator with a beta is where beta is the number `b`.
_AT_BETA: Mapping[str, Callable[..., Expr]] = {
    "beta": lambda b: constant(b),
    "scale": lambda b, x: _of("mul", constant(b), x),
    "shift": lambda b, x: _of("add", x, constant(b)),
    "rbf": lambda b, x, y: _of("exp", _of("mul", constant(-b), _of("square", _of("sub", x, y)))),
    "laplace": lambda b, x, y: _of("exp", _of("mul", constant(-b), _of("abs", _of("sub", x, y)))),
    "mix": lambda b, x, y: _of(
        "add", _of("mul", constant(b), x), _of("mul", _of("sub", constant(1), constant(b)), y)
    ),
}


def at_betas(expr: Expr, betas: Iterable[float]) -> Expr:
    """`expr` with numbers in the place of its betas, in the order of `walk()`. An operator of a
    user keeps its beta, with the number as the initial value."""
    numbers = iter(betas)

    def fixed(expr: Expr) -> Expr:
        args = tuple(map(fixed, expr.args))
        if expr.beta is None:
            return Expr(expr.op, args, expr.value)
        value = next(numbers)
        if OPERATORS.get(expr.op.name) is not expr.op:
            return Expr(expr.op, args, value)
        return _AT_BETA[expr.op.name](value, *args)

    return fixed(expr)


class _Written(Protocol):
    def formula(self) -> str: ...


def formula(function: Expr | _Written) -> str:
    """The function in the notation that people write, such as `x * sigmoid(beta * x)`; of an
    Activation with its betas as they are now, `x * sigmoid(1.37 * x)`."""
    return _print(function).text if isinstance(function, Expr) else function.formula()


@dataclass(frozen=True)
class Operand:
    """A printed argument, with the parentheses that its place in a template needs."""

    text: str
    precedence: int
    outer: int  # binding strength of the operator that it is an argument of
    parentheses: str = "({})"

    def __str__(self) -> str:
        return self.text

    def _unless(self, bound: bool) -> str:
        return self.text if bound else self.parentheses.format(self.text)

    @property
    def left(self) -> str:
        return self._unless(self.precedence >= self.outer)

    @property
    def tight(self) -> str:
        return self._unless(self.precedence > self.outer)

    @property
    def atom(self) -> str:
        return self._unless(self.precedence == ATOM)


def _print(expr: Expr) -> Operand:
    op = expr.op
    if op == CONSTANT:
        text = number(expr.value or 0.0)
        return Operand(text, SIGN if text.startswith("-") else ATOM, 0)
    printed = [_print(arg) for arg in expr.args]
    args = [Operand(p.text, p.precedence, op.precedence) for p in printed]
    beta = "beta" if expr.value is None else f"beta[{number(expr.value)}]"
    if op.notation == "{0}":
        return printed[0]
    if op.notation is not None:
        return Operand(op.notation.format(*args, beta=beta), op.precedence, 0)
    name = op.name if expr.value is None else f"{op.name}[{number(expr.value)}]"
    return Operand(f"{name}({', '.join(map(str, args))})" if args else name, ATOM, 0)
