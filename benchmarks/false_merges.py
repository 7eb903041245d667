"""Does the search take two functions for one, or one for two? Random candidates, merged as a search
merges them, against 50-digit arithmetic.

    python benchmarks/false_merges.py [--sizes two=100000 three=20000 nasty=20000] [--points 100]

two, three  candidates of the spaces `two-units` and `three-units`
nasty       two units of operators that cancel, overflow, clamp and choose: where merging is hard

A candidate is merged by rules (its canonical form is another) or by values (`same_function` says so
of it and one that was seen before). Each merged pair is evaluated at random points, 0 < |x| <= 1e4,
and betas of both signs and sizes from 0.01 to 100. A pair is false if it differs anywhere by more
than 1e-9 of its size and 1e-12; where 50 digits say so, the point is computed once more with 1,000.

Then the opposite: functions that pass screening and were kept though they start like an earlier one
and agree with it at all of the points, with its betas in order, in another order, or with betas
that change nothing. They would be trained twice.

The operators are written here once more, from docs/conventions.md, and expressions are read from
their text, so that nothing of what is judged judges itself.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations
from random import Random
from typing import Any

import mpmath
import numpy as np
import torch
from mpmath import mp, mpf

from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.analysis.fingerprint import fingerprints
from actsearch.search_space.analysis.screening import screens
from actsearch.search_space.expression import Expr
from actsearch.search_space.space import SPACES, space_from
from actsearch.search_space.units import UnitSpace, digit_values

DIGITS, MANY_DIGITS = 50, 1000
RELATIVE, ABSOLUTE = mpf("1e-9"), mpf("1e-12")
BY_RULES = 10_000  # so many candidates are looked at that rules rewrite: the rules are few
KEPT = 5_000  # and so many functions that were kept

KINDS: dict[str, UnitSpace] = {
    "two": SPACES["two-units"],
    "three": SPACES["three-units"],
    "nasty": space_from(
        "units=2;unary=identity,neg,abs,square,cube,sqrt,scale,shift,log_abs,exp,sinh,cosh,relu,"
        "min0,sigmoid,softplus,gauss,beta;binary=mul,sub,div,max,min,laplace"
    ),
}

MATCHES = ("in order", "in another order", "that change nothing")

# -- the oracle

Number = Any  # mpf has no useful type


def _clamped(x: Number, limit: int = 10) -> Number:
    return max(-limit, min(limit, x))


def _quotient(a: Number, b: Number) -> Number:
    return a / (max(b, mpf(0.001)) if b >= 0 else min(b, mpf(-0.001)))


def _sigmoid(x: Number) -> Number:
    return 1 / (1 + mpmath.exp(-x))


GUARDED: dict[str, Callable[..., Number]] = {
    "identity": lambda x: x,
    "neg": lambda x: -x,
    "abs": lambda x: abs(x),
    "square": lambda x: x * x,
    "cube": lambda x: x * x * x,
    "sqrt": lambda x: mpmath.sqrt(abs(x) + mpf(1e-6)),
    "scale": lambda x, p: p * x,
    "shift": lambda x, p: x + p,
    "log_abs": lambda x: mpmath.log(abs(x) + mpf(0.001)),
    "exp": lambda x: mpmath.exp(min(x, 10)),
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "sinh": lambda x: mpmath.sinh(_clamped(x)),
    "cosh": lambda x: mpmath.cosh(_clamped(x)),
    "tanh": lambda x: mpmath.tanh(x),
    "asinh": mpmath.asinh,
    "atan": mpmath.atan,
    "sinc": lambda x: mpmath.sin(x) / x if x else mpf(1),
    "relu": lambda x: max(x, mpf(0)),
    "min0": lambda x: min(x, mpf(0)),
    "sigmoid": _sigmoid,
    "softplus": lambda x: x if x > 1e5 else mpmath.log1p(mpmath.exp(x)),
    "gauss": lambda x: mpmath.exp(-x * x),
    "erf": mpmath.erf,
    "beta": lambda p: p,
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "sub": lambda a, b: a - b,
    "div": _quotient,
    "max": lambda a, b: max(a, b),
    "min": lambda a, b: min(a, b),
    "gate": lambda a, b: _sigmoid(a) * b,
    "rbf": lambda a, b, p: mpmath.exp(min(-p * (a - b) ** 2, 10)),
    "laplace": lambda a, b, p: mpmath.exp(min(-p * abs(a - b), 10)),
    "mix": lambda a, b, p: p * a + (1 - p) * b,
}
WITH_BETA = ("scale", "shift", "beta", "rbf", "laplace", "mix")
_TOKENS = re.compile(r"([a-z_][a-z0-9_]*)(?:\[[^\]]*\])?|(-?[0-9][-+.e0-9]*)|([(),])")


class Program:
    """The steps that compute an expression, read from its text; its betas in the text's order,
    those of an operator's arguments before its own."""

    def __init__(self, text: str) -> None:
        self.steps: list[tuple[str, tuple[int, ...], int | None]] = []
        self.known: dict[tuple[str, tuple[int, ...]], int] = {}  # equal parts without a beta
        self.betas = 0
        self.tokens = [m.group(0) for m in _TOKENS.finditer(text)]
        self.tokens.reverse()
        self._read()
        assert not self.tokens, text

    def _read(self) -> int:
        name, args = self.tokens.pop().split("[")[0], []
        if self.tokens and self.tokens[-1] == "(":
            while self.tokens.pop() != ")":
                args.append(self._read())
        beta = None
        if name in WITH_BETA:
            beta, self.betas = self.betas, self.betas + 1
        elif (name, tuple(args)) in self.known:
            return self.known[name, tuple(args)]
        else:
            self.known[name, tuple(args)] = len(self.steps)
        self.steps.append((name, tuple(args), beta))
        return len(self.steps) - 1

    def __call__(self, x: Number, betas: Sequence[Number]) -> Number:
        values: list[Number] = []
        for name, args, beta in self.steps:
            if name in GUARDED:
                own = () if beta is None else (betas[beta],)
                values.append(GUARDED[name](*(values[i] for i in args), *own))
            else:
                values.append(x if name == "x" else mpf(float(name)))
        return values[-1]


@lru_cache(maxsize=20_000)
def program(expr: Expr) -> Program:
    return Program(str(expr))


def differ(
    a: Expr, b: Expr, x: float, betas: Sequence[float], others: Sequence[float] | None = None
) -> str:
    """Both values where they differ, or ""; `others` are b's betas where they are not a's."""
    exact = [mpf(x), *map(mpf, betas)], [mpf(x), *map(mpf, betas if others is None else others)]
    for digits in (DIGITS, MANY_DIGITS):
        with mp.workdps(digits):
            one, two = (program(e)(v[0], v[1:]) for e, v in zip((a, b), exact, strict=True))
            if abs(one - two) <= RELATIVE * max(abs(one), abs(two)) + ABSOLUTE:
                return ""
    return f"{mpmath.nstr(one, 8)} and {mpmath.nstr(two, 8)}"


def any_x(chance: Random) -> float:
    """Half within -10..10, half of any size from 1e-4 to 1e4."""
    if chance.random() < 0.5:
        return chance.uniform(-10, 10)
    return chance.choice((-1, 1)) * 10 ** chance.uniform(-4, 4)


def any_beta(chance: Random) -> float:
    """Of either sign and any size from 0.01 to 100, in 10 bits: rules multiply and add exactly."""
    mantissa, exponent = np.frexp(10 ** chance.uniform(-2, 2))
    return chance.choice((-1, 1)) * float(np.ldexp(round(mantissa * 1024) / 1024, exponent))


# -- what is merged


@dataclass
class Found:
    """Counts of a kind, and what is wrong, a line each."""

    candidates: int
    by_rules: int = 0
    by_values: int = 0
    distinct: list[Expr] = field(default_factory=list)
    pairs: list[tuple[Expr, Expr]] = field(default_factory=list)
    false_rules: list[str] = field(default_factory=list)
    false_values: list[str] = field(default_factory=list)
    missed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    seconds: float = 0.0  # of comparing what has the same fingerprint


def drawn(space: UnitSpace, count: int, seed: int) -> np.ndarray:
    """Digits (count, digits of the space) of random candidates."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, radix, count) for radix in space.radices], 1)


def not_alone(space: UnitSpace, digits: np.ndarray) -> np.ndarray:
    """The candidates with the initial values, to four digits, of another: all that may be merged,
    found without building expressions."""
    points, names = torch.tensor(FEW, dtype=torch.float64), []
    for piece in np.array_split(digits, len(digits) // 5_000 + 1):
        names += map(rounded, digit_values(space, piece, points).tolist())
    often = Counter(names)
    return digits[[often[name] > 1 for name in names]]


FEW = (-4.31, -2.17, -0.83, 0.37, 1.29, 3.71)


def rounded(values: Iterable[float]) -> str:
    return " ".join(f"{v:.3e}" if abs(v) > 1e-9 else "0" for v in values)


def with_betas(expr: Expr, betas: Iterator[float]) -> Expr:
    args = tuple(with_betas(arg, betas) for arg in expr.args)
    return Expr(expr.op, args, expr.value if expr.beta is None else next(betas))


def betas_of(expr: Expr) -> list[float]:
    return [node.beta for node in expr.walk() if node.beta is not None]


def false_rule(expr: Expr, chance: Random) -> str:
    """Where `expr` differs from its canonical form, or "", at one point."""
    moved = with_betas(expr, (any_beta(chance) for _ in range(expr.betas)))
    form, x = canonical(moved), any_x(chance)
    found = differ(expr, form, x, betas_of(moved), betas_of(form))
    return f"{expr} = {form} at {x}: {found}" if found else ""


def false_value(a: Expr, b: Expr, points: int, chance: Random) -> str:
    """Where two functions that were merged differ, or ""."""
    for _ in range(points):
        x, betas = any_x(chance), [any_beta(chance) for _ in range(a.betas)]
        if found := differ(a, b, x, betas):
            return f"{a} = {b} at {x}, {betas}: {found}"
    return ""


def hunt(space: UnitSpace, count: int, points: int, seed: int) -> Found:
    """Merge random candidates as a search does, and judge every merge."""
    chance, found, digits = Random(seed), Found(count), drawn(space, count, seed)
    for row in digits[:BY_RULES].tolist():
        expr = space.expression(row)
        if canonical(expr) != expr:
            found.by_rules += 1
            if wrong := false_rule(expr, chance):
                found.false_rules.append(wrong)
    forms = dict.fromkeys(canonical(space.expression(d)) for d in not_alone(space, digits).tolist())
    groups: dict[str, list[Expr]] = defaultdict(list)
    for expr, print_ in fingerprints(forms):
        kept, start = groups[print_.key], time.perf_counter()
        same = next((k for k in kept if same_function(k, expr)), None)
        found.seconds += time.perf_counter() - start
        if same is None:
            kept.append(expr)
            found.distinct.append(expr)
        else:
            found.pairs.append((same, expr))
    found.by_values = len(found.pairs)
    for a, b in found.pairs:
        if wrong := false_value(a, b, points, chance):
            found.false_values.append(wrong)
    return found


# -- what is not


def missed(found: Found, points: int, chance: Random) -> None:
    """Note functions that were kept and would be trained twice."""
    trained = [expr for expr, rejection in screens(found.distinct[:KEPT]) if not rejection]
    for group in alike_at_first(trained):
        for i, b in enumerate(group):
            kinds = ((how_alike(a, b, points, chance), a) for a in group[:i])
            kind, a = next((found for found in kinds if found[0]), ("", b))
            if kind:
                found.missed[kind].append(f"{a} and {b}")


def how_alike(a: Expr, b: Expr, points: int, chance: Random) -> str:
    """One of MATCHES if two functions agree at all points, or ""."""
    initial = betas_of(a)
    for order in permutations(range(a.betas)):
        again = [initial[i] for i in order] == betas_of(b)
        if again and not differ_somewhere(a, b, order, points, chance):
            return MATCHES[list(order) != sorted(order)]
    if (a.betas or b.betas) and not differ_somewhere(a, b, [-1] * b.betas, points, chance):
        return MATCHES[2]
    return ""


def alike_at_first(exprs: Iterable[Expr]) -> Iterable[list[Expr]]:
    """Functions with the same initial values, to four digits, at a few points."""
    groups: dict[str, list[Expr]] = defaultdict(list)
    for batch in curves(exprs, torch.tensor(FEW, dtype=torch.float64)):
        for expr, values in zip(batch.exprs, batch.value[:, 0].tolist(), strict=True):
            groups[rounded(values)].append(expr)
    return groups.values()


def differ_somewhere(a: Expr, b: Expr, matched: Sequence[int], points: int, chance: Random) -> bool:
    """`matched` holds, for each beta of b, the number of the beta of a that it equals, or -1."""
    for _ in range(points):
        x, betas = any_x(chance), [any_beta(chance) for _ in range(a.betas)]
        others = [betas[i] if i >= 0 else any_beta(chance) for i in matched]
        if differ(a, b, x, betas, others):
            return True
    return False


def merges(found: Found) -> Iterator[str]:
    """What was merged, and each false merge."""
    checked = min(BY_RULES, found.candidates)
    rules = f"{found.by_rules:,} of {checked:,}, {len(found.false_rules)} falsely"
    yield f"  rewritten by rules   {rules}"
    yield f"  merged by values     {found.by_values:,}, {len(found.false_values)} falsely"
    yield f"  comparing by values  {found.seconds:.1f} s"
    yield from (f"  false: {line}" for line in (*found.false_rules, *found.false_values))


def twice(found: Found) -> Iterator[str]:
    """What was kept though it is the same as another."""
    kept = min(KEPT, len(found.distinct))
    counts = ", ".join(f"{len(found.missed[kind])} with betas {kind}" for kind in MATCHES)
    yield f"  kept twice           of {kept:,} that start like others: {counts}"
    for kind in MATCHES:
        yield from (f"  twice, betas {kind}: {line}" for line in found.missed[kind])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = ["two=100000", "three=20000", "nasty=20000"]
    parser.add_argument("--sizes", nargs="+", default=default, metavar="KIND=N")
    parser.add_argument("--points", type=int, default=100, help="of each pair merged by values")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for size in given.sizes:
        name, _, count = size.partition("=")
        found = hunt(KINDS[name], int(count), given.points, given.seed)
        print("\n".join((f"{name}: {found.candidates:,} candidates", *merges(found))), flush=True)
        missed(found, given.points, Random(given.seed))
        print("\n".join(twice(found)), flush=True)


if __name__ == "__main__":
    main()
