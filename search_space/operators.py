"""Every operator of the search space, one row each, in two operator sets.

A row holds the plain formula of the paper (Ramachandran et al. 2017, Section 3) and, where that
formula can overflow, divide by zero or leave the reals, a guarded form. The set named `paper` uses
the plain column, `guarded` the safe one; which set was used is part of a run's identity, since a
guard changes the function. Every choice that the paper leaves open is written down in
docs/conventions.md.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from actsearch.search_space.text import check_operator_set, unknown

GRAMMAR_VERSION = 1  # part of a run's identity: to be raised when a formula below changes
PAPER_EPSILON = 1e-7  # log(|x| + eps) and x1 / (x2 + eps); the paper names eps but gives no value
GUARD_EPSILON = 1e-3  # the same two in the guarded set: bounds their gradients by 1e3 and 1e6
SQRT_EPSILON = 1e-6  # sqrt(|x| + eps): the gradient at 0 stays at most 500
LEAVES = ("x", "g", "constant")  # the inputs and a typed number, which are in no table
EXP_LIMIT = 10.0  # exp, sinh and cosh see their argument clamped here: exp(10) = 22,026

SUM, PRODUCT, SIGN, POWER, ATOM = 1, 2, 3, 4, 5  # binding strength of a printed formula


@dataclass(frozen=True)
class Op:
    """One operator: a name, its number of arguments, and how to compute and print it.

    `fn` takes `arity` tensors, then the tensor beta if `beta` (beta's initial value) is not None.
    `guarded` is its safe form, `fn` itself where None. `notation` is a format string over the
    arguments: `{0}` as it is, `{0.left}`, `{0.tight}` and `{0.atom}` with parentheses where needed.
    Two operators are equal when their names, arities, functions and betas are: an operator that was
    defined anew under its old name is another one.
    """

    name: str
    arity: int
    fn: Callable[..., torch.Tensor]
    beta: float | None = None
    commutative: bool = field(default=False, compare=False)
    notation: str | None = field(default=None, compare=False)
    precedence: int = field(default=ATOM, compare=False)
    guarded: Callable[..., torch.Tensor] | None = None

    def __post_init__(self) -> None:
        if not (self.name.isascii() and self.name.isidentifier() and self.name.islower()):
            raise ValueError(
                f"operator name {self.name!r} must be a lower-case ASCII identifier, like 'my_op'"
            )
        if self.name in LEAVES and self.arity > 0:
            raise ValueError(f"operator name {self.name!r} is the grammar's own; choose another")
        if self.arity not in (0, 1, 2):
            raise ValueError(f"operator {self.name!r} has arity {self.arity}; use 0, 1 or 2")

    def form(self, operators: str) -> Callable[..., torch.Tensor]:
        """The function that this operator stands for in the operator set `paper` or `guarded`."""
        check_operator_set(operators)
        return self.guarded if operators == "guarded" and self.guarded is not None else self.fn

    def __reduce__(self) -> tuple[Callable[..., Op], tuple[Any, ...]]:
        """Our own rows are pickled by name, since their functions have none."""
        if OPERATORS.get(self.name) is self or self.name in LEAVES:
            return _row, (self.name,)
        values = (self.name, self.arity, self.fn, self.beta, self.commutative, self.notation)
        return Op, (*values, self.precedence, self.guarded)


def check_elementwise(op: Op) -> None:
    """Raises ValueError, with the operator's name, for one that fails, changes its input, or whose
    values depend on more than the element itself."""
    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)  # no matter whose last digit
    inputs = [x, x.flip(0) + 0.25][: op.arity]
    beta = () if op.beta is None else (torch.tensor(op.beta, dtype=x.dtype),)
    for form in {op.fn, op.guarded or op.fn}:
        given = [a.clone() for a in inputs]
        try:
            whole, part = form(*given, *beta), form(*(a[3:5].clone() for a in inputs), *beta)
            y, few = torch.as_tensor(whole).expand_as(x), torch.as_tensor(part).expand_as(x[3:5])
        except Exception as error:
            raise ValueError(
                f"operator {op.name!r} fails on a tensor: {type(error).__name__}: {error}"
            ) from error
        if not all(map(torch.equal, given, inputs)):
            raise ValueError(
                f"operator {op.name!r} changes its input in place, which spoils whatever else uses "
                "the input; return a new tensor, as 2 * x for x.mul_(2)"
            )
        if not torch.allclose(y[3:5], few, equal_nan=True):
            raise ValueError(
                f"operator {op.name!r} is not elementwise: its values depend on other elements"
            )


def check_name(op: Op) -> None:
    """Raises ValueError for an operator with the name of one of the paper's that is another: the
    formulas of baselines would mean it."""
    if op != OPERATORS.get(op.name, op):
        raise ValueError(
            f"operator name {op.name!r} is one of the paper's, and formulas such as the baselines' "
            f"use it; choose another, as 'my_{op.name}'"
        )


def check_commutative(op: Op) -> None:
    """Raises ValueError for an operator that is said to be commutative and is not."""
    if not op.commutative or op.arity != 2:
        return
    chance = torch.Generator().manual_seed(0)
    sizes = 10 ** (torch.rand(2, 500, generator=chance, dtype=torch.float64) * 5 - 3)
    a, b = torch.where(torch.rand(2, 500, generator=chance) < 0.5, -sizes, sizes)
    for form in {op.fn, op.guarded or op.fn}:
        for beta in (None,) if op.beta is None else (op.beta, -0.7, 2.3):
            own = () if beta is None else (torch.tensor(beta, dtype=a.dtype),)
            one, other = form(a, b, *own).expand_as(a), form(b, a, *own).expand_as(a)
            apart = ~torch.isclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)
            if bool(apart.any()):
                i = int(apart.nonzero()[0])
                raise ValueError(
                    f"operator {op.name!r} is not commutative: of {float(a[i]):.4g} and "
                    f"{float(b[i]):.4g} it makes {float(one[i]):.4g}, and in the other order "
                    f"{float(other[i]):.4g}; leave commutative=True out"
                )


def _guarded_exp(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(x.clamp(max=EXP_LIMIT))


def _guarded_div(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a / b with |b| held at GUARD_EPSILON or more, keeping b's sign (0 counts as positive)."""
    return a / torch.where(b >= 0, b.clamp(min=GUARD_EPSILON), b.clamp(max=-GUARD_EPSILON))


def _sinc(x: torch.Tensor) -> torch.Tensor:
    """sin(x)/x, unnormalised; torch.sinc is sin(pi x)/(pi x) and has a finite gradient at 0."""
    return torch.sinc(x / math.pi)


def _softplus(x: torch.Tensor) -> torch.Tensor:
    return F.softplus(x, 1.0, 40.0)  # log(1 + exp(x)) - x < 5e-18 beyond 40: exact in float64


# fmt: off
INPUT = Op("x", 0, lambda x: x)  # the preactivation, a leaf
SECOND = Op("g", 0, lambda g: g)  # a second projection of the same width, a leaf of gates
CONSTANT = Op("constant", 0, torch.as_tensor)  # a number that someone typed, a leaf

INPUTS = (INPUT, SECOND)

# A beta that has a name is one parameter wherever it stands in an expression.
TIED = "beta_"


def tied_beta(name: str) -> Op:
    """The leaf `beta_NAME`, 1 at first."""
    return Op(TIED + name, 0, _itself, beta=1.0)


def is_tied(op: Op) -> bool:
    return op.fn is _itself


def _itself(beta: torch.Tensor) -> torch.Tensor:
    return beta


UNARY: tuple[Op, ...] = (
    Op("identity", 1, lambda x: x, notation="{0}"),
    Op("neg", 1, torch.neg, notation="-{0.tight}", precedence=SIGN),
    Op("abs", 1, torch.abs),
    Op("square", 1, torch.square, notation="{0.tight}**2", precedence=POWER),
    Op("cube", 1, lambda x: x * x * x, notation="{0.tight}**3", precedence=POWER),
    Op("sqrt", 1, torch.sqrt, guarded=lambda x: torch.sqrt(torch.abs(x) + SQRT_EPSILON)),
    Op("scale", 1, operator.mul, beta=1.0, notation="{beta} * {0.tight}", precedence=PRODUCT),
    Op("shift", 1, operator.add, beta=0.0, notation="{0.left} + {beta}", precedence=SUM),
    Op("log_abs", 1, lambda x: torch.log(torch.abs(x) + PAPER_EPSILON),
       guarded=lambda x: torch.log(torch.abs(x) + GUARD_EPSILON)),
    Op("exp", 1, torch.exp, guarded=_guarded_exp),
    Op("sin", 1, torch.sin),
    Op("cos", 1, torch.cos),
    Op("sinh", 1, torch.sinh, guarded=lambda x: torch.sinh(x.clamp(-EXP_LIMIT, EXP_LIMIT))),
    Op("cosh", 1, torch.cosh, guarded=lambda x: torch.cosh(x.clamp(-EXP_LIMIT, EXP_LIMIT))),
    Op("tanh", 1, torch.tanh),
    Op("asinh", 1, torch.asinh),
    Op("atan", 1, torch.atan),
    Op("sinc", 1, _sinc),
    Op("relu", 1, torch.relu),  # max(x, 0), gradient 0 at 0
    Op("min0", 1, lambda x: -torch.relu(-x)),  # min(x, 0), gradient 0 at 0
    Op("sigmoid", 1, torch.sigmoid),
    Op("softplus", 1, lambda x: torch.log(1 + torch.exp(x)), guarded=_softplus),
    Op("gauss", 1, lambda x: torch.exp(-x * x), notation="exp(-{0.atom}**2)"),
    Op("erf", 1, torch.erf),
    Op("beta", 0, lambda beta: beta, beta=1.0, notation="{beta}"),  # the trainable constant
)

BINARY: tuple[Op, ...] = (
    Op("add", 2, operator.add, commutative=True, notation="{0.left} + {1.tight}", precedence=SUM),
    Op("mul", 2, operator.mul, commutative=True, notation="{0.left} * {1.tight}",
       precedence=PRODUCT),
    Op("sub", 2, operator.sub, notation="{0.left} - {1.tight}", precedence=SUM),
    Op("div", 2, lambda a, b: a / (b + PAPER_EPSILON), guarded=_guarded_div,
       notation="{0.left} / {1.tight}", precedence=PRODUCT),
    Op("max", 2, torch.maximum, commutative=True),  # half the gradient each at a tie
    Op("min", 2, torch.minimum, commutative=True),
    Op("gate", 2, lambda a, b: torch.sigmoid(a) * b,
       notation="sigmoid({0}) * {1.tight}", precedence=PRODUCT),
    Op("rbf", 2, lambda a, b, beta: torch.exp(-beta * torch.square(a - b)), beta=1.0,
       commutative=True, guarded=lambda a, b, beta: _guarded_exp(-beta * torch.square(a - b)),
       notation="exp(-{beta} * ({0} - {1.atom})**2)"),
    Op("laplace", 2, lambda a, b, beta: torch.exp(-beta * torch.abs(a - b)), beta=1.0,
       commutative=True, guarded=lambda a, b, beta: _guarded_exp(-beta * torch.abs(a - b)),
       notation="exp(-{beta} * abs({0} - {1.atom}))"),
    Op("mix", 2, lambda a, b, beta: beta * a + (1 - beta) * b, beta=0.5),
)
# fmt: on

OPERATORS: Mapping[str, Op] = {op.name: op for op in (*UNARY, *BINARY)}


def _row(name: str) -> Op:
    return {"x": INPUT, "g": SECOND, "constant": CONSTANT, **OPERATORS}[name]


def operators_named(names: Iterable[str], table: Iterable[Op], kind: str) -> tuple[Op, ...]:
    """The rows of `table` with these names, in the order given; raises ValueError for an unknown
    one."""
    rows: dict[str, Op] = {op.name: op for op in table}
    return tuple(_lookup(name, rows, kind) for name in names)


def _lookup(name: str, rows: Mapping[str, Any], kind: str) -> Any:
    if name not in rows:
        raise ValueError(unknown(kind, name, rows))
    return rows[name]
