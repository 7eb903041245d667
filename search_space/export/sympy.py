"""A short program that builds the function as an expression of sympy, for algebra and limits."""

from __future__ import annotations

from actsearch.search_space.export.lowering import Exported, lowered
from actsearch.search_space.export.writing import (
    ARITHMETIC,
    Form,
    Language,
    Part,
    calls,
    constant,
    python_file,
    python_function,
    written,
)
from actsearch.search_space.expression import number

_SAME = (
    "sqrt", "exp", "log", "sin", "cos", "sinh", "cosh", "tanh", "asinh", "atan", "erf", "sinc",
)  # fmt: skip

SYMPY = Language(
    forms={
        **ARITHMETIC,
        **{name: Form(f"sp.{name}({{0}})") for name in _SAME},
        "abs": Form("sp.Abs({0})"),
        "sigmoid": calls("sigmoid"),
        "relu": Form("sp.Max({0}, 0)"),
        "maximum": Form("sp.Max({0}, {1})"),
        "minimum": Form("sp.Min({0}, {1})"),
        "clamp_min": Form("sp.Max({0}, {1})"),
        "clamp_max": Form("sp.Min({0}, {1})"),
        "where": Form("sp.Piecewise(({1}, {0}), ({2}, True))"),
        "softplus": Form("sp.log(1 + sp.exp({0}))"),
    },
    helpers={"sigmoid": "def sigmoid(x):\n    return 1 / (1 + sp.exp(-x))"},
    number=number,
    imports=[("import sympy as sp", "")],
)


def write(source: Exported) -> str:
    """`name`, an expression in its inputs and the betas; `initial`, the values of these."""
    helpers, main = lowered(source)
    functions = [python_function(h, SYMPY) for h in helpers]
    body = written(main, SYMPY)
    used = [name for _, names in functions for name in names] + list(body.helpers)
    symbols = [*source.expr.inputs, *source.beta_names]
    many = f'{", ".join(symbols)} = sp.symbols("{" ".join(symbols)}", real=True)'
    steps = [f"{name} = {text}" for name, text in body.steps]
    program = "\n".join([*steps, f"{source.name} = {body.result}"])
    pairs = zip(source.beta_names, source.betas, strict=True)
    initial = ", ".join(f"{name}: {constant(values, number=number)}" for name, values in pairs)
    constants = [many, *[f"initial = {{{initial}}}"] * bool(source.betas)]
    texts = [*(text for text, _ in functions), program]
    return python_file(SYMPY, [Part(source, texts, used, constants)])
