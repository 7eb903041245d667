"""Program: an expression and its derivative as straight-line arithmetic on scalars.

Operators are not written down a second time: each one's own function, which children train with in
eager mode, is called with a `Scalar` that notes what is done to it. What is done are a few dozen
primitives; each has its derivative here, as torch defines it, kinks and ties included. Equal nodes
are one node, so forward and backward share what they have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from search_space.expression import Expr
from search_space.operators import CONSTANT, INPUT


class UnsupportedError(Exception):
    """An operator does something for which there is no primitive; it runs in eager mode."""


@dataclass(frozen=True, eq=False)
class Node:
    """One step: a primitive applied to earlier nodes. `value` is the number of a `const`, the index
    of a `beta`."""

    index: int
    name: str
    args: tuple[Node, ...]
    value: float = 0.0


# The VJP of each primitive: (program, node, gradient) to the gradients of its arguments.
Rule = Callable[["Program", Node, Node], Sequence[Node | None]]
RULES: dict[str, Rule] = {}
LOGICAL = ("lt", "le", "eq")


class Program:
    """Nodes in the order in which they can be computed, each once."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[tuple[str, tuple[int, ...], str], Node] = {}

    def node(self, name: str, *args: Node, value: float = 0.0) -> Node:
        folded = self._folded(name, args)
        if folded is not None:
            return folded
        key = name, tuple(a.index for a in args), repr(value)
        if key not in self._known:
            made = Node(len(self.nodes), name, args, value)
            self.nodes.append(made)
            self._known[key] = made
        return self._known[key]

    def const(self, value: float) -> Node:
        return self.node("const", value=float(value))

    def _folded(self, name: str, args: tuple[Node, ...]) -> Node | None:
        """What needs no step. Nothing is dropped that could be infinite or NaN."""
        numbers = [a.value if a.name == "const" else None for a in args]
        if name == "mul" and 1.0 in numbers:
            return args[1 - numbers.index(1.0)]
        if name == "mul" and len(args) == 2:
            for a, number in zip(args, reversed(numbers), strict=True):
                if number is not None and a.name == "div" and _is(a.args[1], number):
                    return a.args[0]  # (b / c) * c
        if name == "div" and numbers[1] == 1.0:
            return args[0]
        if name in ("add", "sub") and numbers[1] == 0.0:
            return args[0]
        if name == "add" and numbers[0] == 0.0:
            return args[1]
        if name == "neg" and args[0].name == "neg":
            return args[0].args[0]
        if name == "where" and args[1] is args[-1]:
            return args[1]
        return None

    # -- building

    def add(self, a: Node, b: Node) -> Node:
        return self.node("add", *sorted((a, b), key=lambda n: n.index))

    def mul(self, a: Node, b: Node) -> Node:
        return self.node("mul", *sorted((a, b), key=lambda n: n.index))

    def sub(self, a: Node, b: Node) -> Node:
        return self.node("sub", a, b)

    def where(self, condition: Node, a: Node, b: Node) -> Node:
        return self.node("where", condition, a, b)

    def gradients(self, output: Node, seed: Node, inputs: Sequence[Node]) -> list[Node]:
        """d output / d input times `seed`, for each input: reverse mode."""
        told: dict[int, Node] = {output.index: seed}
        for node in reversed(self.nodes[: output.index + 1]):
            if node.index not in told or not node.args:
                continue
            for arg, part in zip(
                node.args, RULES[node.name](self, node, told[node.index]), strict=True
            ):
                if part is not None:
                    before = told.get(arg.index)
                    told[arg.index] = part if before is None else self.add(before, part)
        zero = self.const(0.0)
        return [told.get(i.index, zero) for i in inputs]

    def needed(self, outputs: Sequence[Node]) -> list[Node]:
        """What the outputs are computed from, in order."""
        wanted = {o.index for o in outputs}
        for node in reversed(self.nodes):
            if node.index in wanted:
                wanted |= {a.index for a in node.args}
        return [n for n in self.nodes if n.index in wanted]


def _is(node: Node, number: float) -> bool:
    return node.name == "const" and node.value == number


@dataclass(frozen=True)
class Traced:
    """An activation: `y` from `x` and the betas, and the gradients of x and of each beta from x,
    the betas and the gradient `gy`."""

    program: Program
    x: Node
    gy: Node
    betas: tuple[Node, ...]
    y: Node
    gx: Node
    gbetas: tuple[Node, ...]


def trace(expr: Expr, operators: str) -> Traced:
    """Raises UnsupportedError for an operator that no primitives make up."""
    program = Program()
    x, betas = program.node("x"), []
    shared: dict[Expr, Node] = {}

    def visit(e: Expr) -> Node:
        if e.betas == 0 and e in shared:
            return shared[e]
        args = [Scalar(program, visit(arg)) for arg in e.args]
        if e.op == INPUT:
            node = x
        elif e.op == CONSTANT:
            node = program.const(e.value or 0.0)
        else:
            if e.beta is not None:
                betas.append(program.node("beta", value=float(len(betas))))
                args.append(Scalar(program, betas[-1]))
            node = Scalar.of(program, _call(e.op.form(operators), args))
        return shared.setdefault(e, node) if e.betas == 0 else node

    y = visit(expr)
    gy = program.node("gy")
    gx, *gbetas = program.gradients(y, gy, [x, *betas])
    return Traced(program, x, gy, tuple(betas), y, gx, tuple(gbetas))


def _call(fn: Callable[..., Any], args: Sequence[Scalar]) -> Any:
    try:
        return fn(*args)
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(f"{type(error).__name__}: {error}") from error


# -- what an operator's function sees in the place of a tensor


class Scalar:
    """Notes the arithmetic that is done to it, by operators, methods, and torch's functions."""

    def __init__(self, program: Program, node: Node) -> None:
        self.program = program
        self.node = node

    @staticmethod
    def of(program: Program, value: Any) -> Node:
        """The node of a Scalar or of a number."""
        if isinstance(value, Scalar):
            return value.node
        if isinstance(value, (int, float)):
            return program.const(value)
        raise UnsupportedError(f"a value of type {type(value).__name__}")

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Scalar:
        made = FUNCTIONS.get(func)
        if made is None:
            raise UnsupportedError(f"{getattr(func, '__name__', func)} has no primitive")
        return made(*args, **(kwargs or {}))

    def _binary(self, name: str, other: Any, *, swap: bool = False) -> Scalar:
        a, b = self.node, self.of(self.program, other)
        if swap:
            a, b = b, a
        make = {"add": self.program.add, "mul": self.program.mul}.get(name)
        return Scalar(self.program, make(a, b) if make else self.program.node(name, a, b))

    def _unary(self, name: str) -> Scalar:
        return Scalar(self.program, self.program.node(name, self.node))

    def __add__(self, other: Any) -> Scalar:
        return self._binary("add", other)

    def __mul__(self, other: Any) -> Scalar:
        return self._binary("mul", other)

    def __sub__(self, other: Any) -> Scalar:
        return self._binary("sub", other)

    def __rsub__(self, other: Any) -> Scalar:
        return self._binary("sub", other, swap=True)

    def __truediv__(self, other: Any) -> Scalar:
        return self._binary("div", other)

    def __rtruediv__(self, other: Any) -> Scalar:
        return self._binary("div", other, swap=True)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Scalar:
        return self._unary("neg")

    def __abs__(self) -> Scalar:
        return self._unary("abs")

    def __pow__(self, power: Any) -> Scalar:
        if power == 2:
            return self * self
        if power == 3:
            return self * self * self
        if power == 0.5:
            return self._unary("sqrt")
        raise UnsupportedError(f"a power of {power}")

    def __lt__(self, other: Any) -> Scalar:
        return self._binary("lt", other)

    def __le__(self, other: Any) -> Scalar:
        return self._binary("le", other)

    def __gt__(self, other: Any) -> Scalar:
        return self._binary("lt", other, swap=True)

    def __ge__(self, other: Any) -> Scalar:
        return self._binary("le", other, swap=True)

    def __bool__(self) -> bool:
        raise UnsupportedError("a branch that depends on values")

    def clamp(self, min: Any = None, max: Any = None) -> Scalar:
        program, node = self.program, self.node
        if min is not None:
            node = program.node("clamp_min", node, self.of(program, min))
        if max is not None:
            node = program.node("clamp_max", node, self.of(program, max))
        return Scalar(program, node)

    def __getattr__(self, name: str) -> Callable[..., Scalar]:
        """A method of a tensor: the function of torch with its name."""
        function = getattr(torch, name, None)
        if name.startswith("_") or function not in FUNCTIONS:
            raise UnsupportedError(f"{name} has no primitive")
        return lambda *args, **kwargs: FUNCTIONS[function](self, *args, **kwargs)


def _unary(name: str) -> Callable[[Scalar], Scalar]:
    return lambda a: a._unary(name)


def _binary(name: str) -> Callable[[Any, Any], Scalar]:
    def made(a: Any, b: Any) -> Scalar:
        return a._binary(name, b) if isinstance(a, Scalar) else b._binary(name, a, swap=True)

    return made


def _where(condition: Scalar, a: Any, b: Any) -> Scalar:
    program = condition.program
    return Scalar(
        program, program.where(condition.node, Scalar.of(program, a), Scalar.of(program, b))
    )


def _softplus(a: Scalar, beta: float = 1.0, threshold: float = 20.0) -> Scalar:
    if beta != 1.0:
        raise UnsupportedError("softplus with a beta")
    program = a.program
    beyond = program.node("lt", program.const(threshold), a.node)
    return Scalar(program, program.where(beyond, a.node, program.node("log1p_exp", a.node)))


def _sinc(a: Scalar) -> Scalar:
    return (a * math.pi)._unary("sinc")  # torch's is sin(pi a) / (pi a)


FUNCTIONS: dict[Any, Callable[..., Scalar]] = {
    **{getattr(torch, n): _unary(n) for n in ("neg", "abs", "sqrt", "exp", "log", "sin", "cos",
       "sinh", "cosh", "tanh", "asinh", "atan", "sigmoid", "relu", "erf")},
    **{getattr(torch, n): _binary(n) for n in ("add", "mul", "sub", "div", "maximum", "minimum")},
    F.relu: _unary("relu"),
    F.softplus: _softplus,
    torch.square: lambda a: a * a,
    torch.clamp: lambda a, min=None, max=None: a.clamp(min, max),
    torch.where: _where,
    torch.sinc: _sinc,
}  # fmt: skip


# -- derivatives, as in torch's derivatives.yaml


def _rule(name: str) -> Callable[[Rule], Rule]:
    def note(rule: Rule) -> Rule:
        RULES[name] = rule
        return rule

    return note


def _simple(name: str, slope: Callable[[Program, Node, Node], Node]) -> None:
    """A primitive of one argument whose gradient is g times its slope(program, argument, value)."""
    RULES[name] = lambda p, n, g: (p.mul(g, slope(p, n.args[0], n)),)


def _one_minus_square(p: Program, a: Node, y: Node) -> Node:
    return p.sub(p.const(1.0), p.mul(y, y))


def _over(p: Program, a: Node, b: Node) -> Node:
    return p.node("div", a, b)


def _sum_of_squares(p: Program, a: Node) -> Node:
    return p.add(p.mul(a, a), p.const(1.0))


_simple("neg", lambda p, a, y: p.const(-1.0))
_simple("abs", lambda p, a, y: p.node("sign", a))
_simple("sqrt", lambda p, a, y: _over(p, p.const(0.5), y))
_simple("exp", lambda p, a, y: y)
_simple("log", lambda p, a, y: _over(p, p.const(1.0), a))
_simple("sin", lambda p, a, y: p.node("cos", a))
_simple("cos", lambda p, a, y: p.node("neg", p.node("sin", a)))
_simple("sinh", lambda p, a, y: p.node("cosh", a))
_simple("cosh", lambda p, a, y: p.node("sinh", a))
_simple("tanh", _one_minus_square)
_simple("asinh", lambda p, a, y: _over(p, p.const(1.0), p.node("sqrt", _sum_of_squares(p, a))))
_simple("atan", lambda p, a, y: _over(p, p.const(1.0), _sum_of_squares(p, a)))
_simple("sigmoid", lambda p, a, y: p.mul(y, p.sub(p.const(1.0), y)))
_simple("log1p_exp", lambda p, a, y: p.node("sigmoid", a))
_simple("sinc", lambda p, a, y: p.node("sinc_slope", a))
_simple("erf", lambda p, a, y: p.mul(
    p.const(2 / math.sqrt(math.pi)), p.node("exp", p.node("neg", p.mul(a, a)))
))  # fmt: skip


def _no_gradient(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return [None] * len(n.args)


for _name in (*LOGICAL, "sign", "sinc_slope"):
    RULES[_name] = _no_gradient


@_rule("add")
def _add(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return g, g


@_rule("sub")
def _sub(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return g, p.node("neg", g)


@_rule("mul")
def _mul(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return p.mul(g, n.args[1]), p.mul(g, n.args[0])


@_rule("div")
def _div(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    b = n.args[1]
    return _over(p, g, b), p.mul(p.node("neg", g), _over(p, n, b))


@_rule("relu")
def _relu(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    zero = p.const(0.0)
    return (p.where(p.node("le", n, zero), zero, g),)


@_rule("where")
def _where_rule(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    zero = p.const(0.0)
    return None, p.where(n.args[0], g, zero), p.where(n.args[0], zero, g)


@_rule("clamp_min")
def _clamp_min(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return p.where(p.node("le", n.args[1], n.args[0]), g, p.const(0.0)), None


@_rule("clamp_max")
def _clamp_max(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return p.where(p.node("le", n.args[0], n.args[1]), g, p.const(0.0)), None


def _extremum(p: Program, n: Node, g: Node, loses: Callable[[Node, Node], Node]) -> list[Node]:
    """Half of the gradient each at a tie, none for the side that loses."""
    a, b = n.args
    tied = p.where(p.node("eq", a, b), p.mul(g, p.const(0.5)), g)
    zero = p.const(0.0)
    return [p.where(loses(a, b), zero, tied), p.where(loses(b, a), zero, tied)]


@_rule("maximum")
def _maximum(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return _extremum(p, n, g, lambda a, b: p.node("lt", a, b))


@_rule("minimum")
def _minimum(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return _extremum(p, n, g, lambda a, b: p.node("lt", b, a))
