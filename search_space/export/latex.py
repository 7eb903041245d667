r"""One typeset formula. It shows operators as mathematics: guards and epsilons, which keep values
finite in a network, are left out."""

from __future__ import annotations

from actsearch.search_space.export.lowering import Exported
from actsearch.search_space.expression import Expr, Operand, number
from actsearch.search_space.operators import (
    ATOM,
    CONSTANT,
    INPUTS,
    OPERATORS,
    POWER,
    PRODUCT,
    SIGN,
    SUM,
    Op,
    is_tied,
)

_FRACTION = SIGN  # binds tighter than a product, looser than a power

# Each operator's template, as in `Op.notation`, and how strongly it binds. A minus binds as a sum,
# so that none follows another sign.
FORMS: dict[str, tuple[str, int]] = {
    "identity": ("{0}", ATOM),
    "neg": ("-{0.tight}", SUM),
    "abs": (r"\left|{0}\right|", ATOM),
    "square": ("{0.tight}^2", POWER),
    "cube": ("{0.tight}^3", POWER),
    "sqrt": (r"\sqrt{{{0}}}", ATOM),
    "scale": ("{beta} {0.tight}", PRODUCT),
    "shift": ("{0.left} + {beta}", SUM),
    "log_abs": (r"\log\left|{0}\right|", POWER),
    "exp": ("e^{{{0}}}", POWER),
    **{
        name: (rf"\{name}\left({{0}}\right)", ATOM)
        for name in ("sin", "cos", "sinh", "cosh", "tanh")
    },
    "asinh": (r"\operatorname{{arsinh}}\left({0}\right)", ATOM),
    "atan": (r"\arctan\left({0}\right)", ATOM),
    "sinc": (r"\operatorname{{sinc}}\left({0}\right)", ATOM),
    "relu": (r"\max\left({0}, 0\right)", ATOM),
    "min0": (r"\min\left({0}, 0\right)", ATOM),
    "sigmoid": (r"\sigma\left({0}\right)", ATOM),
    "softplus": (r"\log\left(1 + e^{{{0}}}\right)", ATOM),
    "gauss": ("e^{{-{0.atom}^2}}", POWER),
    "erf": (r"\operatorname{{erf}}\left({0}\right)", ATOM),
    "beta": ("{beta}", ATOM),
    "add": ("{0.left} + {1.tight}", SUM),
    "mul": (r"{0.left} \cdot {1.tight}", PRODUCT),
    "sub": ("{0.left} - {1.tight}", SUM),
    "div": (r"\frac{{{0}}}{{{1}}}", _FRACTION),
    "max": (r"\max\left({0}, {1}\right)", ATOM),
    "min": (r"\min\left({0}, {1}\right)", ATOM),
    "gate": (r"\sigma\left({0}\right) \cdot {1.tight}", PRODUCT),
    "rbf": (r"e^{{-{beta} \left({0} - {1.atom}\right)^2}}", POWER),
    "laplace": (r"e^{{-{beta} \left|{0} - {1.atom}\right|}}", POWER),
    "mix": (r"{beta} {0.atom} + \left(1 - {beta}\right) {1.atom}", SUM),
}


def write(*sources: Exported) -> str:
    r"""A function a line; betas are \beta, or \beta_1, \beta_2 and so on."""
    return "".join(map(_line, sources))


def _line(source: Exported) -> str:
    names = iter([name.replace("beta", r"\beta") for name in source.beta_names])

    named: dict[str, str] = {}

    def printed(expr: Expr) -> Operand:
        if expr.op in INPUTS:
            return Operand(expr.op.name, ATOM, 0)
        if expr.op == CONSTANT:
            return _number(expr.value or 0.0)
        args = [printed(arg) for arg in expr.args]
        beta = ""
        if expr.beta is not None:
            beta = named.get(expr.op.name) or next(names)
        if is_tied(expr.op):
            named[expr.op.name] = beta
            return Operand(beta, ATOM, 0)
        if expr.op is OPERATORS["identity"]:
            return args[0]
        own = OPERATORS.get(expr.op.name) is not expr.op
        template, precedence = _call(expr.op) if own else FORMS[expr.op.name]
        placed = [Operand(a.text, a.precedence, precedence, r"\left({}\right)") for a in args]
        return Operand(template.format(*placed, beta=beta), precedence, 0)

    return printed(source.expr).text + "\n"


def _call(op: Op) -> tuple[str, int]:
    """The form of a user's operator."""
    name = op.name.replace("_", r"\_")
    args = [*(f"{{{i}}}" for i in range(op.arity)), *["{beta}"] * (op.beta is not None)]
    return rf"\mathrm{{{{{name}}}}}\left({', '.join(args)}\right)", ATOM


def _number(value: float) -> Operand:
    digits, _, exponent = number(value).partition("e")
    text = rf"{digits} \cdot 10^{{{int(exponent)}}}" if exponent else digits
    precedence = SUM if value < 0 else PRODUCT if exponent else ATOM
    return Operand(text, precedence, 0)
