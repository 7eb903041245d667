"""Exported, what a writer is given, and `lowered`: its expression as functions on primitives.

The primitives are those of search_space/kernels/tracing.py, so no operator is defined here again. A
guarded operator becomes a function of its own, and so does a user's; all others are inlined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from actsearch.search_space.expression import INPUT_NAMES, Expr, formula
from actsearch.search_space.kernels.program import Node, Program
from actsearch.search_space.kernels.tracing import UnsupportedError, applied
from actsearch.search_space.operators import CONSTANT, INPUTS, OPERATORS, Op, is_tied

CALL = "call "  # before the name of a helper, the name of a node that calls it

# What the guarded form of an operator does, as the comment on its function.
GUARDS = {
    "sqrt": "sqrt(|x| + 1e-6): defined everywhere, with a finite slope at 0.",
    "log_abs": "log(|x| + 1e-3): finite at 0.",
    "exp": "exp(x), x held at 10 or below.",
    "sinh": "sinh(x), x held between -10 and 10.",
    "cosh": "cosh(x), x held between -10 and 10.",
    "softplus": "log(1 + exp(x)), which is x itself beyond 40.",
    "div": "a / b, |b| held at 1e-3 or above with b's sign; 0 counts as positive.",
    "rbf": "exp(-beta * (a - b)**2), the exponent held at 10 or below.",
    "laplace": "exp(-beta * |a - b|), the exponent held at 10 or below.",
}


@dataclass(frozen=True)
class Exported:
    """A function to be exported.

    `betas` are the initial values of each beta: one number, or one a channel. `origin` says where
    the function was found, "" where somebody typed it. `dims` is the rank of a model's input.
    """

    expr: Expr
    operators: str
    name: str
    betas: tuple[tuple[float, ...], ...]
    version: str
    origin: str = ""
    dims: int = 4
    alone: bool = True  # in its file

    @property
    def beta_names(self) -> tuple[str, ...]:
        """beta; beta_1, beta_2 and so on where there are several."""
        n = len(self.betas)
        return ("beta",) if n == 1 else tuple(f"beta_{i}" for i in range(1, n + 1))

    @property
    def constants(self) -> tuple[str, ...]:
        """The names of the values that the betas start at."""
        before = "" if self.alone else f"{self.name.upper()}_"
        return tuple(f"{before}{name.upper()}" for name in self.beta_names)

    @property
    def channels(self) -> int | None:
        """How many channels the betas are given for; None where each has one value for all."""
        return next((len(values) for values in self.betas if len(values) > 1), None)

    @property
    def header(self) -> tuple[str, ...]:
        """What the exported file says of itself."""
        found = f" ({self.origin})" if self.origin else ""
        return (
            f"{self.name}({', '.join(self.expr.inputs)}) = {formula(self.expr)}",
            "",
            f"Exported by actsearch {self.version}{found}.",
            f"Operator set: {self.operators}.",
            f"In actsearch's grammar: {self.expr}",
        )


@dataclass(frozen=True)
class Function:
    """A function to be written: what each leaf is called, and the node that it returns."""

    name: str
    parameters: Mapping[Node, str]
    result: Node
    about: str = ""

    def reads(self, name: str) -> bool:
        """Whether the result depends on the parameter `name`."""
        waiting, seen = [self.result], {self.result}
        while waiting:
            new = [arg for arg in waiting.pop().args if arg not in seen]
            waiting += new
            seen.update(new)
        return any(self.parameters.get(node) == name for node in seen)


def lowered(source: Exported) -> tuple[list[Function], Function]:
    """The helpers and the function itself. Raises ValueError where an operator of the user's does
    what no primitive does."""
    program = Program()
    parameters = {program.node(name): name for name in source.expr.inputs}
    names = iter(source.beta_names)
    helpers: dict[str, Function] = {}
    shared: dict[Expr, Node] = {}

    def visit(expr: Expr) -> Node:
        if expr.own == 0 and expr in shared:
            return shared[expr]
        node = shared[expr] = made(expr)
        return node

    def made(expr: Expr) -> Node:
        op = expr.op
        if op in INPUTS:
            return program.node(op.name)
        if not expr.betas and not any(map(expr.reads, INPUT_NAMES)):
            return program.const(_number(expr, source.operators))
        args = [visit(arg) for arg in expr.args]
        if expr.beta is not None:
            number = len(parameters) - len(source.expr.inputs)
            args.append(program.node("beta", value=float(number)))
            parameters[args[-1]] = next(names)
        if not (name := helper_name(op, source.operators)):
            return applied(program, op, source.operators, args)
        if name not in helpers:
            helpers[name] = _helper(name, op, source.operators)
        return program.node(CALL + name, *args)

    result = visit(source.expr)
    return list(helpers.values()), Function(source.name, parameters, result)


def helper_name(op: Op, operators: str) -> str:
    """The function that an operator becomes; "" where it is inlined."""
    if OPERATORS.get(op.name) is not op and not is_tied(op):
        return f"op_{op.name}"
    return f"guarded_{op.name}" if operators == "guarded" and op.guarded is not None else ""


def _helper(name: str, op: Op, operators: str) -> Function:
    program = Program()
    names = [*("ab" if op.arity == 2 else "x")[: op.arity], *["beta"] * (op.beta is not None)]
    parameters = {program.node(name): name for name in names}
    try:
        result = applied(program, op, operators, list(parameters))
    except UnsupportedError as error:
        raise ValueError(
            f"the operator {op.name} cannot be exported: {error}; write it with torch's "
            "elementwise functions and arithmetic"
        ) from error
    about = GUARDS.get(op.name, "") if name.startswith("guarded_") else f"The operator {op.name}."
    return Function(name, parameters, result, about)


def _number(expr: Expr, operators: str) -> float:
    """The value of an expression without x and betas."""
    if expr.op == CONSTANT:
        return expr.value or 0.0
    args = [torch.tensor(_number(arg, operators), dtype=torch.float64) for arg in expr.args]
    value = float(expr.op.form(operators)(*args))
    if not math.isfinite(value):
        raise ValueError(f"{formula(expr)} is {value} in the operator set {operators!r}")
    return value
