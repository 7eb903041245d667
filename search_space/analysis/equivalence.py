"""canonical(expr): one form for expressions that are the same function, so that none is trained
twice.

RULES are equations, rewritten from left to right until none applies. Each holds for every real
input and every beta in the operator set it names; a letter that stands twice on the left matches
only parts without a beta of their own, since two betas learn apart. `[p]` names a beta's value: a
rule may rename the betas of a function (`scale[p](scale[q](a)) = scale[p*q](a)`) only so that the
same set of functions stays reachable, and carries initial values along. Every rule makes `weight`
smaller, so rewriting ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import permutations

import torch

from actsearch.search_space.expression import Expr, constant, exchanged, renamed
from actsearch.search_space.operators import CONSTANT, OPERATORS, Op
from actsearch.search_space.parser import parse

# True in both operator sets.
RULES = """
identity(a) = a

neg(neg(a)) = a
neg(sub(a, b)) = sub(b, a)
add(a, neg(b)) = sub(a, b)
sub(a, neg(b)) = add(a, b)
sub(neg(a), b) = neg(add(a, b))
mul(a, neg(b)) = neg(mul(a, b))
div(neg(a), b) = neg(div(a, b))
max(neg(a), neg(b)) = neg(min(a, b))
min(neg(a), neg(b)) = neg(max(a, b))

abs(neg(a)) = abs(a)
square(neg(a)) = square(a)
cube(neg(a)) = neg(cube(a))
log_abs(neg(a)) = log_abs(a)
sin(neg(a)) = neg(sin(a))
cos(neg(a)) = cos(a)
sinh(neg(a)) = neg(sinh(a))
cosh(neg(a)) = cosh(a)
tanh(neg(a)) = neg(tanh(a))
asinh(neg(a)) = neg(asinh(a))
atan(neg(a)) = neg(atan(a))
sinc(neg(a)) = sinc(a)
gauss(neg(a)) = gauss(a)
erf(neg(a)) = neg(erf(a))
relu(neg(a)) = neg(min0(a))
min0(neg(a)) = neg(relu(a))

abs(abs(a)) = abs(a)
square(abs(a)) = square(a)
log_abs(abs(a)) = log_abs(a)
cos(abs(a)) = cos(a)
cosh(abs(a)) = cosh(a)
sinc(abs(a)) = sinc(a)
gauss(abs(a)) = gauss(a)
relu(abs(a)) = abs(a)
min0(abs(a)) = 0
abs(square(a)) = square(a)
relu(square(a)) = square(a)
min0(square(a)) = 0
abs(exp(a)) = exp(a)
relu(exp(a)) = exp(a)
min0(exp(a)) = 0
abs(cosh(a)) = cosh(a)
relu(cosh(a)) = cosh(a)
min0(cosh(a)) = 0
abs(relu(a)) = relu(a)
relu(relu(a)) = relu(a)
min0(relu(a)) = 0
abs(min0(a)) = neg(min0(a))
relu(min0(a)) = 0
min0(min0(a)) = min0(a)
abs(sigmoid(a)) = sigmoid(a)
relu(sigmoid(a)) = sigmoid(a)
min0(sigmoid(a)) = 0
abs(softplus(a)) = softplus(a)
relu(softplus(a)) = softplus(a)
min0(softplus(a)) = 0
abs(gauss(a)) = gauss(a)
relu(gauss(a)) = gauss(a)
min0(gauss(a)) = 0
abs(rbf[p](a, b)) = rbf[p](a, b)
abs(laplace[p](a, b)) = laplace[p](a, b)

gate(a, b) = mul(sigmoid(a), b)
exp(neg(square(a))) = gauss(a)
add(a, a) = mul(2, a)
sub(a, a) = 0
mul(a, a) = square(a)
max(a, a) = a
min(a, a) = a
mix[p](a, a) = a
rbf[p](a, a) = 1
laplace[p](a, a) = 1
mul(a, square(a)) = cube(a)
max(a, neg(a)) = abs(a)
min(a, neg(a)) = neg(abs(a))

add(a, 0) = a
sub(a, 0) = a
sub(0, a) = neg(a)
mul(a, 0) = 0
mul(a, 1) = a
mul(-1, a) = neg(a)
div(0, a) = 0
max(a, 0) = relu(a)
min(a, 0) = min0(a)

add(relu(a), min0(a)) = a
sub(relu(a), min0(a)) = abs(a)
sub(min0(a), relu(a)) = neg(abs(a))
mul(relu(a), min0(a)) = 0
sub(a, relu(a)) = min0(a)
sub(a, min0(a)) = relu(a)
sub(relu(a), a) = neg(min0(a))
sub(min0(a), a) = neg(relu(a))
max(a, relu(a)) = relu(a)
min(a, relu(a)) = a
max(a, min0(a)) = a
min(a, min0(a)) = min0(a)
max(relu(a), min0(a)) = relu(a)
min(relu(a), min0(a)) = min0(a)
add(a, abs(a)) = mul(2, relu(a))
sub(a, abs(a)) = mul(2, min0(a))
sub(abs(a), a) = neg(mul(2, min0(a)))
max(a, abs(a)) = abs(a)
min(a, abs(a)) = a
max(neg(a), abs(a)) = abs(a)
min(neg(a), abs(a)) = neg(a)
max(neg(a), relu(a)) = abs(a)
max(abs(a), relu(a)) = abs(a)
min(abs(a), relu(a)) = relu(a)
max(abs(a), min0(a)) = abs(a)
min(abs(a), min0(a)) = min0(a)
add(abs(a), min0(a)) = relu(a)
sub(abs(a), relu(a)) = neg(min0(a))
sub(relu(a), abs(a)) = min0(a)
mul(a, relu(a)) = square(relu(a))
mul(a, min0(a)) = square(min0(a))
mul(abs(a), relu(a)) = square(relu(a))
mul(abs(a), min0(a)) = neg(square(min0(a)))
mul(abs(a), abs(b)) = abs(mul(a, b))

neg(beta[p]) = beta[-p]
mul(beta[p], a) = scale[p](a)
add(beta[p], a) = shift[p](a)
sub(a, beta[p]) = shift[-p](a)
sub(beta[p], a) = shift[p](neg(a))
neg(scale[p](a)) = scale[-p](a)
scale[p](neg(a)) = scale[-p](a)
scale[p](scale[q](a)) = scale[p*q](a)
scale[p](beta[q]) = beta[p*q]
shift[p](shift[q](a)) = shift[p+q](a)
shift[p](beta[q]) = beta[p+q]
add(shift[p](a), b) = shift[p](add(a, b))
sub(shift[p](a), b) = shift[p](sub(a, b))
sub(a, shift[p](b)) = shift[-p](sub(a, b))
mul(scale[p](a), b) = scale[p](mul(a, b))
div(scale[p](a), b) = scale[p](div(a, b))
"""

# True only where sqrt(x) is sqrt(|x| + eps), the guarded set.
GUARDED_RULES = """
sqrt(neg(a)) = sqrt(a)
sqrt(abs(a)) = sqrt(a)
abs(sqrt(a)) = sqrt(a)
relu(sqrt(a)) = sqrt(a)
min0(sqrt(a)) = 0
div(a, 1) = a
"""


@dataclass(frozen=True)
class Rule:
    """`left` becomes `right`; `betas` gives the right side's beta values from those of the left."""

    text: str
    left: Expr
    right: Expr
    betas: tuple[str, ...]  # of the right side in order: p, -p, p*q, p+q
    names: tuple[str, ...]  # of the left side in order


_VARIABLES = tuple(Op(name, 0, lambda x: x) for name in "abc")
_BETA_FORMS: dict[str, Callable[[float, float], float]] = {
    "p": lambda p, q: p,
    "q": lambda p, q: q,
    "-p": lambda p, q: -p,
    "p*q": lambda p, q: p * q,
    "p+q": lambda p, q: p + q,
}

_MARKS = {form: 1001.0 + i for i, form in enumerate(_BETA_FORMS)}  # parse() reads numbers there
_FORM_OF = {mark: form for form, mark in _MARKS.items()}


def _rule(text: str) -> Rule:
    marked = text
    for form, mark in _MARKS.items():
        marked = marked.replace(f"[{form}]", f"[{mark}]")
    left, right = (parse(side, _VARIABLES) for side in marked.split("="))
    names, betas = (
        tuple(_FORM_OF[n.value] for n in side.walk() if n.value in _FORM_OF)
        for side in (left, right)
    )
    return Rule(text, left, right, betas, names)


@cache
def rules(operators: str) -> dict[str, list[Rule]]:
    """The rules of an operator set by the operator at the root of their left side.

    In the set `paper` a part may be undefined or infinite somewhere, so a rule that drops a part
    (`sub(a, a) = 0`) does not hold there.
    """
    texts = RULES + (GUARDED_RULES if operators == "guarded" else "")
    found: dict[str, list[Rule]] = {}
    for rule in map(_rule, filter(None, texts.splitlines())):
        if operators == "guarded" or variables(rule.left) == variables(rule.right):
            found.setdefault(rule.left.op.name, []).append(rule)
    return found


def variables(expr: Expr) -> set[str]:
    """The letters that stand for any expression in a rule's side."""
    return {node.op.name for node in expr.walk() if node.op in _VARIABLES}


def canonical(expr: Expr, operators: str = "guarded") -> Expr:
    """The form whose text is a candidate's identity: the same for functions that the rules equate,
    whatever named betas are called.

    canonical(canonical(e)) is canonical(e). Initial values of beta are carried along, so the result
    starts as the same function and reaches the same ones. A function of g alone becomes the same
    one of x: which of two projections it is given makes no difference.
    """
    form = _canonical(renamed(expr), operators)
    for _ in range(len(form.names)):  # a name says where its part stands, and where says the name
        form = _canonical(renamed(form), operators)
    return (
        form if form.reads("x") or not form.reads("g") else _canonical(exchanged(form), operators)
    )


@lru_cache(maxsize=200_000)
def _canonical(expr: Expr, operators: str) -> Expr:
    args = tuple(_canonical(arg, operators) for arg in expr.args)
    value = None if expr.op != CONSTANT and expr.value == expr.op.beta else expr.value
    expr = _ordered(Expr(expr.op, args, value))
    folded = _folded(expr, operators)
    if folded is not None:
        return folded
    joined = _joined(expr, operators)
    if joined is not None:
        return _canonical(joined, operators)
    for rule in rules(operators).get(expr.op.name, ()):
        binding = next(_matches(rule.left, expr, {}, {}), None)
        if binding is not None:
            return _canonical(_build(rule.right, *binding), operators)
    return expr


def _ordered(expr: Expr) -> Expr:
    """Arguments of a commutative operator in order; mix(a, b) is mix(b, a) with 1 - beta."""
    if expr.op.arity != 2:
        return expr
    a, b = expr.args
    if order(a) <= order(b):
        return expr
    if expr.op.commutative:
        return Expr(expr.op, (b, a), expr.value)
    if expr.op is OPERATORS["mix"] and expr.beta is not None:
        return _with_beta(expr.op, (b, a), 1 - expr.beta)
    return expr


def order(expr: Expr) -> tuple[bool, int, str]:
    """What reads g last, so that a gate reads `x * sigmoid(x) * g`; then small expressions first,
    numbers and inputs before what is made of them; then by text."""
    return expr.reads("g"), expr.operators, str(expr)


def _folded(expr: Expr, operators: str) -> Expr | None:
    """The number that an operator without beta makes of numbers."""
    if not expr.args or expr.op.beta is not None or any(a.op != CONSTANT for a in expr.args):
        return None
    inputs = [torch.tensor(a.value, dtype=torch.float64) for a in expr.args]
    value = float(expr.op.form(operators)(*inputs))
    return constant(value) if math.isfinite(value) else None


def _joined(expr: Expr, operators: str) -> Expr | None:
    """Two constants in a row as one: k (m a) = (k m) a and k + (m + a) = (k + m) + a. A beta before
    a constant stays beside it, since the constant says how fast the beta learns."""
    if expr.op.name not in ("mul", "add") or expr.args[0].op != CONSTANT:
        return None
    outer, inner = expr.args
    if inner.op is not expr.op or inner.args[0].op != CONSTANT:
        return None
    both = _folded(Expr(expr.op, (outer, inner.args[0])), operators)
    return None if both is None else Expr(expr.op, (both, inner.args[1]))


def _matches(
    pattern: Expr, expr: Expr, bound: dict[str, Expr], betas: dict[str, float]
) -> Iterator[tuple[dict[str, Expr], dict[str, float]]]:
    """Every way to read `expr` as `pattern`: what the letters stand for, and the betas' values."""
    if pattern.op in _VARIABLES:
        name = pattern.op.name
        if name not in bound:
            yield {**bound, name: expr}, betas
        elif bound[name] == expr and expr.own == 0:
            yield bound, betas
        return
    if pattern.op != expr.op:
        return
    if pattern.op == CONSTANT:
        if pattern.value == expr.value:
            yield bound, betas
        return
    if expr.beta is not None:
        if pattern.value is None or expr.beta is None:
            return
        betas = {**betas, _FORM_OF[pattern.value]: expr.beta}
    orders = permutations(expr.args) if expr.op.commutative else (expr.args,)
    for args in orders:
        found = [(bound, betas)]
        for sub, arg in zip(pattern.args, args, strict=True):
            found = [m for b in found for m in _matches(sub, arg, *b)]
        yield from found


def _build(pattern: Expr, bound: dict[str, Expr], betas: dict[str, float]) -> Expr:
    """`pattern` with its letters and betas filled in."""
    if pattern.op in _VARIABLES:
        return bound[pattern.op.name]
    args = tuple(_build(arg, bound, betas) for arg in pattern.args)
    if pattern.op.beta is None:
        return Expr(pattern.op, args, pattern.value)
    assert pattern.value is not None
    form = _BETA_FORMS[_FORM_OF[pattern.value]]
    return _with_beta(pattern.op, args, form(betas.get("p", 0.0), betas.get("q", 0.0)))


def _with_beta(op: Op, args: tuple[Expr, ...], beta: float) -> Expr:
    return Expr(op, args, None if beta == op.beta else beta)


_PULLED = ("neg", "scale", "shift")  # unary operators that rules move outwards


def weight(expr: Expr, letters: dict[str, float] | None = None) -> float:
    """A measure that every rule makes smaller, for any weights of its letters from 2 upwards."""
    if letters and expr.op.name in letters:
        return letters[expr.op.name]
    if expr.op == CONSTANT:
        return 1
    args = [weight(arg, letters) for arg in expr.args]
    if not args:
        return 2
    if len(args) == 1:
        return args[0] + 1 if expr.op.name in _PULLED else 2 * args[0] + 1
    return (6 * args[0] + 20 if expr.op.name == "gate" else 3 * args[0]) + 3 * args[1] + 1
