"""Expr, the tree that every candidate is: an operator and the expressions it is applied to.

`str(e)` is the canonical text, `mul(x, sigmoid(scale(x)))`, which parses back to an equal tree;
`formula(e)` is what people read, `x * sigmoid(beta * x)`. Each occurrence of an operator with a
beta has a beta of its own, but those that have a name, `beta_a`, are one parameter wherever they
stand. The inputs of an expression are x or, of a gate, x and g.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase
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
    is_tied,
    tied_beta,
)

INPUT_NAMES = tuple(op.name for op in INPUTS)


@dataclass(frozen=True)
class Expr:
    """An operator applied to expressions. Immutable, hashable, equal by structure.

    `value` is the number of a CONSTANT, or beta's initial value where it differs from the
    operator's.
    `betas` is how many trainable parameters a channel has, `names` of those with a name, and `own`
    how many have none; `operators` how many are applied, not counting x, numbers and a bare beta.
    """

    op: Op
    args: tuple[Expr, ...] = ()
    value: float | None = None
    betas: int = field(init=False, compare=False, repr=False)
    own: int = field(init=False, compare=False, repr=False)
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)
    operators: int = field(init=False, compare=False, repr=False)
    _reads: int = field(init=False, compare=False, repr=False)  # a bit for each of INPUTS
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.args) != self.op.arity:
            raise ValueError(
                f"{self.op.name} takes {self.op.arity} argument(s), not {len(self.args)}"
            )
        # Asked for often, and the parts know theirs already.
        named = is_tied(self.op)
        own = (self.beta is not None and not named) + sum(arg.own for arg in self.args)
        names = (self.op.name,) if named else ()
        if any(arg.names for arg in self.args):
            names = tuple(dict.fromkeys(name for arg in self.args for name in arg.names))
        operators = (self.op.arity > 0) + sum(arg.operators for arg in self.args)
        reads = 0 if self.args else _BITS.get(self.op.name, 0)
        for arg in self.args:
            reads |= arg._reads
        object.__setattr__(self, "_reads", reads)
        object.__setattr__(self, "_hash", hash((self.op.name, self.args, self.value)))
        object.__setattr__(self, "own", own)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "betas", own + len(names))
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

    def owners(self) -> Iterator[Expr]:
        """The nodes that own a beta, in the order of `walk()`, those of one name once."""
        seen: set[str] = set()
        for node in self.walk():
            if node.beta is not None and node.op.name not in seen:
                if is_tied(node.op):
                    seen.add(node.op.name)
                yield node

    @property
    def initial(self) -> tuple[float, ...]:
        """Where each beta starts, in the order of `owners()`."""
        return tuple(float(node.beta) for node in self.owners() if node.beta is not None)

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


def _negated(b: Expr) -> Expr:
    return constant(-(b.value or 0.0)) if b.op == CONSTANT else _of("neg", b)


# What an operator with a beta is where beta is the expression `b`.
_AT_BETA: Mapping[str, Callable[..., Expr]] = {
    "beta": lambda b: b,
    "scale": lambda b, x: _of("mul", b, x),
    "shift": lambda b, x: _of("add", x, b),
    "rbf": lambda b, x, y: _of("exp", _of("mul", _negated(b), _of("square", _of("sub", x, y)))),
    "laplace": lambda b, x, y: _of("exp", _of("mul", _negated(b), _of("abs", _of("sub", x, y)))),
    "mix": lambda b, x, y: _of("add", _of("mul", b, x), _of("mul", _of("sub", constant(1), b), y)),
}


def at_betas(expr: Expr, betas: Iterable[float]) -> Expr:
    """`expr` with numbers in the place of its betas, in the order of `owners()`. An operator of a
    user keeps its beta, with the number as the initial value."""
    numbers = iter(betas)
    named: dict[str, float] = {}

    def fixed(expr: Expr) -> Expr:
        args = tuple(map(fixed, expr.args))
        if expr.beta is None:
            return Expr(expr.op, args, expr.value)
        if is_tied(expr.op):
            if expr.op.name not in named:
                named[expr.op.name] = next(numbers)
            return constant(named[expr.op.name])
        value = next(numbers)
        if OPERATORS.get(expr.op.name) is not expr.op:
            return Expr(expr.op, args, value)
        return _AT_BETA[expr.op.name](constant(value), *args)

    return fixed(expr)


def tied(expr: Expr, name: str) -> Expr:
    """`expr` with its own betas replaced by some that have names which begin so; those of a user's
    operators stay."""
    args = tuple(tied(arg, f"{name}{i}") for i, arg in enumerate(expr.args)) if expr.own else ()
    if not expr.own or expr.beta is None or OPERATORS.get(expr.op.name) is not expr.op:
        return Expr(expr.op, args, expr.value) if args else expr
    return _AT_BETA[expr.op.name](named_beta(name, expr.beta), *args)


def named_beta(name: str, initial: float = 1.0) -> Expr:
    """`beta_NAME`, which starts at `initial`."""
    return Expr(tied_beta(name), (), None if initial == 1.0 else float(initial))


def renamed(expr: Expr) -> Expr:
    """`expr` with named betas called a, b, c and so on, as they come; one that stands alone has no
    name."""
    counts = Counter(node.op.name for node in expr.walk() if is_tied(node.op))
    letters = iter(ascii_lowercase)
    new: dict[str, str] = {n: next(letters) for n in expr.names if counts[n] > 1}

    def of(expr: Expr) -> Expr:
        if is_tied(expr.op):
            if expr.op.name in new:
                return Expr(tied_beta(new[expr.op.name]), (), expr.value)
            return Expr(OPERATORS["beta"], (), expr.value)
        return Expr(expr.op, tuple(map(of, expr.args)), expr.value)

    return of(expr) if counts else expr


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
