"""Program: straight-line arithmetic on scalars, and its derivative by reverse mode.

A few dozen primitives; each has its derivative here, as torch defines it, kinks and ties included.
Equal nodes are one node, so forward and backward share what they have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


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
LEAVES = ("x", "g", "gy")  # nodes that are given, by their names


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


def _slope_at_limits() -> bool:
    """A clamp has its whole slope at its limit up to torch 2.13, and none there from 2.14 on."""
    x = torch.zeros((), requires_grad=True)
    [slope] = torch.autograd.grad(x.clamp(min=0.0), x)
    return bool(slope)


_WITHIN = "le" if _slope_at_limits() else "lt"


@_rule("clamp_min")
def _clamp_min(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return p.where(p.node(_WITHIN, n.args[1], n.args[0]), g, p.const(0.0)), None


@_rule("clamp_max")
def _clamp_max(p: Program, n: Node, g: Node) -> Sequence[Node | None]:
    return p.where(p.node(_WITHIN, n.args[0], n.args[1]), g, p.const(0.0)), None


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
