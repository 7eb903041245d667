"""trace(expr): an activation as a Program.

Operators are not written down a second time: each one's own function, which children train with in
eager mode, is called with a `Scalar` that notes what is done to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from actsearch.search_space.expression import Expr
from actsearch.search_space.kernels.program import LOGICAL, Node, Program
from actsearch.search_space.operators import CONSTANT, INPUTS, Op

# ns an element with 8 lanes (AVX2), about; the rest costs nothing beside memory.
COSTS = {
    "exp": 0.4, "log": 0.6, "sin": 0.4, "cos": 0.4, "sinh": 0.7, "cosh": 0.8, "tanh": 1.1,
    "asinh": 1.8, "atan": 0.9, "erf": 0.5, "sigmoid": 0.6, "log1p_exp": 1.7, "sinc": 0.8,
    "sinc_slope": 1.2, "div": 0.1, "sqrt": 0.1,
}  # fmt: skip
SECOND_TENSOR = 0.7  # ns an element to write and read a slope


class UnsupportedError(Exception):
    """An operator does something for which there is no primitive; it runs in eager mode."""


@dataclass(frozen=True)
class Traced:
    """An activation: `y` from its `inputs`, x or x and g, and the betas; its `slopes`, dy by each
    input; and the gradients of each input and of each beta from these and the gradient `gy`."""

    program: Program
    inputs: tuple[Node, ...]
    gy: Node
    betas: tuple[Node, ...]
    y: Node
    slopes: tuple[Node, ...]
    ginputs: tuple[Node, ...]
    gbetas: tuple[Node, ...]


def trace(expr: Expr, operators: str) -> Traced:
    """Raises UnsupportedError for an operator that no primitives make up."""
    program = Program()
    inputs, betas = [program.node(name) for name in expr.inputs], []
    shared: dict[Expr, Node] = {}

    def visit(e: Expr) -> Node:
        if e.own == 0 and e in shared:
            return shared[e]
        args = [visit(arg) for arg in e.args]
        if e.op in INPUTS:
            node = inputs[INPUTS.index(e.op)]
        elif e.op == CONSTANT:
            node = program.const(e.value or 0.0)
        else:
            if e.beta is not None:
                betas.append(program.node("beta", value=float(len(betas))))
                args.append(betas[-1])
            node = applied(program, e.op, operators, args)
        return shared.setdefault(e, node) if e.own == 0 else node

    y = visit(expr)
    gy = program.node("gy")
    slopes = program.gradients(y, program.const(1.0), inputs)
    found = program.gradients(y, gy, [*inputs, *betas])
    return Traced(
        program,
        tuple(inputs),
        gy,
        tuple(betas),
        y,
        tuple(slopes),
        tuple(found[: len(inputs)]),
        tuple(found[len(inputs) :]),
    )


def applied(program: Program, op: Op, operators: str, args: Sequence[Node]) -> Node:
    """`op` in the operator set `operators`, applied to nodes (its beta last)."""
    scalars = [Scalar(program, arg) for arg in args]
    return Scalar.of(program, _call(op.form(operators), scalars))


def keeps_slope(traced: Traced) -> bool:
    """Whether the slopes are kept for the backward pass, not the inputs."""
    if traced.betas:
        return False
    apart = _cost(traced, [traced.y]) + _cost(traced, traced.ginputs)
    together = _cost(traced, [traced.y, *traced.slopes])
    return apart - together > SECOND_TENSOR * len(traced.inputs)


def _cost(traced: Traced, outputs: Sequence[Node]) -> float:
    return sum(COSTS.get(node.name, 0.0) for node in traced.program.needed(outputs))


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
        """The node of a Scalar or of a number; a comparison counts as 1 or 0."""
        if isinstance(value, Scalar):
            if value.node.name in LOGICAL:
                return program.where(value.node, program.const(1.0), program.const(0.0))
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
        a, b = self.of(self.program, self), self.of(self.program, other)
        if swap:
            a, b = b, a
        make = {"add": self.program.add, "mul": self.program.mul}.get(name)
        return Scalar(self.program, make(a, b) if make else self.program.node(name, a, b))

    def _unary(self, name: str) -> Scalar:
        return Scalar(self.program, self.program.node(name, self.of(self.program, self)))

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
