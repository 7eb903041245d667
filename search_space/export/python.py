"""A function on floats that needs Python's math module alone.

Where torch gives inf or NaN the math module raises, so what can meet such arguments calls a helper.
"""

from __future__ import annotations

import math

from actsearch.search_space.export.lowering import Exported, lowered
from actsearch.search_space.export.writing import (
    ARITHMETIC,
    CHOICE,
    Form,
    Language,
    Part,
    calls,
    constant,
    python_file,
    python_function,
)
from actsearch.search_space.kernels.program import Node

_SAFE = ("tanh", "asinh", "atan", "erf")  # at any argument
_RAISING = ("exp", "sinh", "cosh", "log", "sqrt", "sin", "cos")
LARGEST = 700.0  # what exp, sinh and cosh can take: math.exp(710) overflows

_OVERFLOW = '''\
def {name}(x):
    """math.{name}, infinite where that overflows."""
    try:
        return math.{name}(x)
    except OverflowError:
        return {infinite}'''

_DOMAIN = '''\
def {name}(x):
    """math.{name}, {elsewhere}."""
    return math.{name}(x) if {inside} else {outside}'''

_SIGMOID = '''\
def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    if x < 0:
        return math.exp(x) / (1 + math.exp(x))
    return 1 / (1 + math.exp(-x))'''

_DIVIDE = '''\
def divide(a, b):
    """a / b, infinite or NaN where b is 0."""
    return a / b if b else a * math.copysign(math.inf, b)'''

_SINC = '''\
def sinc(x):
    """sin(x) / x, 1 at 0 and NaN at infinity."""
    if not math.isfinite(x):
        return math.nan
    return math.sin(x) / x if x else 1.0'''

_MAXIMUM = '''\
def {name}(a, b):
    """The {word} of the two, NaN where one is NaN."""
    return a if a {sign} b or a != a else b'''

_WAVE = {"elsewhere": "NaN at infinity", "inside": "math.isfinite(x)", "outside": "math.nan"}
_LOG = {
    "elsewhere": "-inf at 0 and NaN below",
    "inside": "x > 0",
    "outside": "(math.nan if x else -math.inf)",
}
_SQRT = {"elsewhere": "NaN below 0", "inside": "x >= 0", "outside": "math.nan"}

_HELPERS = {
    "exp": _OVERFLOW.format(name="exp", infinite="math.inf"),
    "sinh": _OVERFLOW.format(name="sinh", infinite="math.copysign(math.inf, x)"),
    "cosh": _OVERFLOW.format(name="cosh", infinite="math.inf"),
    "sin": _DOMAIN.format(name="sin", **_WAVE),
    "cos": _DOMAIN.format(name="cos", **_WAVE),
    "log": _DOMAIN.format(name="log", **_LOG),
    "sqrt": _DOMAIN.format(name="sqrt", **_SQRT),
    "sigmoid": _SIGMOID,
    "divide": _DIVIDE,
    "sinc": _SINC,
    "maximum": _MAXIMUM.format(name="maximum", word="larger", sign=">"),
    "minimum": _MAXIMUM.format(name="minimum", word="smaller", sign="<"),
}


def _form(node: Node) -> str:
    """`math exp` for exp and so on, where the argument shows that it cannot raise."""
    return f"math {node.name}" if node.name in (*_RAISING, "div") and _harmless(node) else node.name


def _harmless(node: Node) -> bool:
    arg = node.args[-1]
    parts = arg.args
    match node.name:
        case "exp":
            if arg.name == "mul":
                return parts[1].name == "neg" and parts[1].args == parts[:1]  # -x * x
            return arg.name == "clamp_max" and _value(parts[1]) <= LARGEST
        case "sinh" | "cosh":
            return [node.name for node in (arg, *parts[:1])] == ["clamp_max", "clamp_min"] and all(
                abs(_value(limit)) <= LARGEST for limit in (parts[1], parts[0].args[1])
            )
        case "log" | "sqrt":
            found = {part.name for part in parts} & {"abs", "exp"}
            return arg.name == "add" and bool(found) and any(_value(part) > 0 for part in parts)
        case "sin" | "cos":
            return not parts  # the function's own argument
        case _:
            if [part.name for part in parts[1:]] == ["clamp_min", "clamp_max"]:  # a where
                return _value(parts[1].args[1]) > 0 > _value(parts[2].args[1])
            return abs(_value(arg)) > 0


def _value(node: Node) -> float:
    """The number that a node is, NaN where it depends on something."""
    return node.value if node.name == "const" else math.nan


PYTHON = Language(
    forms={
        **ARITHMETIC,
        **{name: Form(f"math.{name}({{0}})") for name in _SAFE},
        **{name: calls(name) for name in (*_RAISING, "sigmoid", "sinc")},
        **{f"math {name}": Form(f"math.{name}({{0}})") for name in _RAISING},
        "div": calls("divide", 2),
        "math div": ARITHMETIC["div"],
        "abs": Form("abs({0})"),
        "relu": Form("max({0}, 0.0)"),
        "maximum": calls("maximum", 2),
        "minimum": calls("minimum", 2),
        "clamp_min": Form("max({0}, {1})"),
        "clamp_max": Form("min({0}, {1})"),
        "where": Form("{1.tight} if {0} else {2.tight}", CHOICE),
        "softplus": Form("{0.tight} if {0} > {1} else math.log1p(math.exp({0}))", CHOICE),
    },
    helpers=_HELPERS,
    form=_form,
    imports=[("import math", r"math\.")],
)


def write(*sources: Exported) -> str:
    """A function `name(x, beta=...)`; betas of channels become lists without a default."""
    return python_file(PYTHON, [_part(source) for source in sources])


def _part(source: Exported) -> Part:
    helpers, main = lowered(source)
    constants: list[str] = []
    defaults: list[str] = []
    if source.channels is None:
        defaults = [constant(values) for values in source.betas]
    else:
        pairs = zip(source.constants, source.betas, strict=True)
        constants = [f"{name} = {constant(values)}" for name, values in pairs]
        constants = ["# The values of each channel, to be given one at a time.", *constants]
    functions = [python_function(h, PYTHON) for h in helpers]
    functions.append(python_function(main, PYTHON, annotation="float", defaults=defaults))
    used = [name for _, names in functions for name in names]
    return Part(source, [text for text, _ in functions], used, constants)
