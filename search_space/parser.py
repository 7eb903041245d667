"""From text to Expr: the formulas that people write and the canonical form that the store keeps.

    sum     := product (('+' | '-') product)*
    product := signed (('*' | '/') signed)*
    signed  := '-'* power
    power   := atom (('**' | '^') ('2' | '3' | '0.5'))?
    atom    := NUMBER | '(' sum ')' | NAME ('[' NUMBER ']')? ('(' sum (',' sum)* ')')?

A tokenizer and a recursive descent of our own, bounded in length and depth; nothing is ever
evaluated. The names are the inputs x and g, the operators', those of known functions (`gelu(x)`,
`swiglu(x, g)`), and a few synonyms.
`beta * e` reads as scale(e) and `e + beta` as shift(e); a number after a name in brackets is beta's
initial value. `beta_a` is one beta wherever it stands.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping

from actsearch.search_space.baselines import NAMED, SYNONYMS
from actsearch.search_space.expression import (
    INPUT_NAMES,
    Expr,
    G,
    X,
    constant,
    named_beta,
    substitute,
)
from actsearch.search_space.operators import CONSTANT, OPERATORS, TIED, Op

MAX_LENGTH = 4096
MAX_DEPTH = 32

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)"
    r"|(?P<sign>\*\*|[-+*/^()\[\],])|(?P<end>\Z))",
    re.ASCII,
)


class ParseError(ValueError):
    """A formula that cannot be read; the message is one sentence that names the column (from 1)."""


def parse(text: str, extra: Iterable[Op] = ()) -> Expr:
    """The expression that `text` says. `extra` are operators beyond the paper's.

    Raises ParseError, whose sentence names the column and, for an unknown name, the nearest known
    one.
    """
    if len(text) > MAX_LENGTH:
        raise ParseError(f"the formula has {len(text):,} characters; the limit is {MAX_LENGTH:,}")
    if not text.strip():
        raise ParseError("the formula is empty; write something like x * sigmoid(x)")
    reader = _Reader(text, {**OPERATORS, **{op.name: op for op in extra}})
    expr = reader.sum()
    reader.expect("end")
    return expr


class _Reader:
    def __init__(self, text: str, operators: Mapping[str, Op]) -> None:
        self.text = text
        self.operators = operators
        self.initial: dict[str, float | None] = {}  # of named betas
        self.open = 0  # parentheses and brackets open at the cursor
        self.position = 0
        self.advance()

    # -- tokens

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            self.column = self.position + len(self.text[self.position :]) + 1
            self.column -= len(self.text[self.position :].lstrip())
            raise self.error(f"unexpected character {self.text[self.column - 1]!r}")
        assert match.lastgroup is not None
        self.kind = match.lastgroup
        self.token = match[self.kind]
        if self.kind == "name":
            self.token = self._known_prefix(self.token)
        self.column = match.start(self.kind) + 1
        self.position = match.start(self.kind) + len(self.token)

    def _known_prefix(self, name: str) -> str:
        """`swish-1` is one name, `x-1` is not: a name holds a hyphen only if a table says so."""
        lower = name.lower()
        named = [b for b in NAMED if "-" in b and re.match(rf"{b}(?![A-Za-z0-9_])", lower)]
        return name[: len(named[0])] if named else name.split("-")[0]

    def error(self, what: str, hint: str = "") -> ParseError:
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        shown = shown.encode("unicode_escape").decode()
        return ParseError(f'{what} at column {self.column} of "{shown}".{hint}')

    def accept(self, *tokens: str) -> str | None:
        if self.kind != "sign" or self.token not in tokens:
            return None
        token = self.token
        self.advance()
        return token

    def expect(self, token: str) -> None:
        if self.kind == "end" and token == "end":
            return
        if self.accept(token) is None:
            wanted = "an operator or the end" if token == "end" else repr(token)
            raise self.error(f"expected {wanted} but found {self.found()}")

    def found(self) -> str:
        return "the end" if self.kind == "end" else repr(self.token)

    def nest(self) -> None:
        self.open += 1
        if self.open > MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} deep")

    # -- grammar

    def sum(self) -> Expr:
        left = self.product()
        while sign := self.accept("+", "-"):
            right = self.product()
            left = self.build("add" if sign == "+" else "sub", left, right)
        return left

    def product(self) -> Expr:
        left = self.signed()
        while sign := self.accept("*", "/"):
            right = self.signed()
            left = self.build("mul" if sign == "*" else "div", left, right)
        return left

    def signed(self) -> Expr:
        minus = 0
        while self.accept("-"):
            minus += 1
            if minus > MAX_DEPTH:
                raise self.error(f"more than {MAX_DEPTH} signs in a row")
        expr = self.power()
        for _ in range(minus):
            expr = self.build("neg", expr)
        return expr

    def power(self) -> Expr:
        base = self.atom()
        if not self.accept("**", "^"):
            return base
        names = {2.0: "square", 3.0: "cube", 0.5: "sqrt"}
        if self.kind != "number" or float(self.token) not in names:
            raise self.error(f"the exponent must be 2, 3 or 0.5, not {self.found()}")
        name = names[float(self.token)]
        self.advance()
        return self.build(name, base)

    def atom(self) -> Expr:
        if self.kind == "number":
            return constant(self.number())
        if self.kind == "name":
            return self.named()
        if self.accept("("):
            self.nest()
            inner = self.sum()
            self.expect(")")
            self.open -= 1
            return inner
        raise self.error(f"expected x, a number or a function but found {self.found()}")

    def number(self) -> float:
        negative = self.accept("-") is not None
        if self.kind != "number":
            raise self.error(f"expected a number but found {self.found()}")
        value = float(self.token)
        if not math.isfinite(value):
            raise self.error(f"the number {self.token} is too large")
        self.advance()
        return -value if negative else value

    def named(self) -> Expr:
        column, name = self.column, self.token.lower()
        if name not in self.operators:
            name = SYNONYMS.get(name, name)
        self.advance()
        if name in INPUT_NAMES:
            return X if name == "x" else G
        if name.startswith(TIED) and name not in self.operators:
            return self.tied(name)
        if name not in self.operators and name not in NAMED:
            self.column = column
            known = [*self.operators, *NAMED, *SYNONYMS, *INPUT_NAMES]
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f" Did you mean {near[0]}?" if near else " 'actsearch space' lists the operators."
            )
            raise self.error(f"unknown function {name[:40]!r}", hint)
        beta = self.brackets(name)
        bare = self.kind != "sign" or self.token != "("
        if name in NAMED and (bare or name not in self.operators):
            meant = parse(NAMED[name])
            args = (X, G) if bare else self.arguments(name, len(meant.inputs), column)
            return self.check_depth(substitute(meant, *args))
        op = self.operators[name]
        return self.check_depth(Expr(op, self.arguments(name, op.arity, column), beta))

    def tied(self, name: str) -> Expr:
        """A named beta; its initial value is said once, or each time alike."""
        said = self.brackets(name)
        value = self.initial.setdefault(name, said)
        if said is not None and said != value:
            first = 1.0 if value is None else value
            raise self.error(f"{name} starts at {first:g} before, and at {said:g} here")
        return named_beta(name.removeprefix(TIED), 1.0 if value is None else value)

    def brackets(self, name: str) -> float | None:
        if self.kind != "sign" or self.token != "[":
            return None
        known = self.operators.get(name)
        if not name.startswith(TIED) and (known is None or known.beta is None):
            raise self.error(f"{name} has no beta, so it takes no initial value")
        self.advance()
        value = self.number()
        self.expect("]")
        return value

    def arguments(self, name: str, arity: int, column: int) -> tuple[Expr, ...]:
        args: list[Expr] = []
        called = self.kind == "sign" and self.token == "("
        if arity > 0 and not called:
            meant = ", ".join(("x", "x")[:arity])
            raise self.error(f"expected '(' but found {self.found()}", f" Write {name}({meant}).")
        if called:
            self.expect("(")
            self.nest()
            if not (arity == 0 and self.token == ")"):
                args.append(self.sum())
            while self.accept(","):
                args.append(self.sum())
            self.expect(")")
            self.open -= 1
        if len(args) != arity:
            self.column = column
            raise self.error(f"{name} takes {arity} argument{'s' * (arity != 1)}, not {len(args)}")
        return tuple(args)

    # -- trees

    def build(self, name: str, *args: Expr) -> Expr:
        """The tree of an infix operator."""
        return self.check_depth(_infix(self.operators, name, args))

    def check_depth(self, expr: Expr) -> Expr:
        if expr.depth > MAX_DEPTH:
            raise self.error(f"operators nested more than {MAX_DEPTH} deep")
        return expr


def _infix(operators: Mapping[str, Op], name: str, args: tuple[Expr, ...]) -> Expr:
    """Infix notation says less than a call: beta * e is scale(e), e + beta shift(e), e / 2 is 0.5 *
    e."""
    if name == "neg" and args[0].op == CONSTANT:
        return constant(-(args[0].value or 0.0))
    if name == "div" and args[1].op == CONSTANT and args[1].value:
        inverse = 1.0 / args[1].value
        if math.isfinite(inverse):
            return Expr(operators["mul"], (constant(inverse), args[0]))
    if name in ("mul", "add"):
        absorbed = operators["scale" if name == "mul" else "shift"]
        for this, other in (args, args[::-1]):
            if this.op == operators["beta"] and other.op != operators["beta"]:
                return Expr(absorbed, (other,), this.value)
    return Expr(operators[name], args)
