"""canonical(expr): one form for expressions that are the same function, so that none is trained
twice."""

from __future__ import annotations

from search_space.expression import Expr


def canonical(expr: Expr) -> Expr:
    """The form whose text is a candidate's identity: no identity nodes, commutative arguments in
    order."""
    if expr.op.name == "identity":
        return canonical(expr.args[0])
    args = tuple(map(canonical, expr.args))
    if expr.op.commutative:
        args = tuple(sorted(args, key=order))
    value = None if expr.value == expr.op.beta else expr.value
    return Expr(expr.op, args, value)


def order(expr: Expr) -> tuple[int, str]:
    """Small expressions first: numbers and x before what is made of them, then by text."""
    return expr.operators, str(expr)
