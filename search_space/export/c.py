"""Functions of C99 on floats: the value, and its derivative with respect to each input."""

from __future__ import annotations

from collections.abc import Sequence

from actsearch.search_space.export.lowering import Exported, Function, lowered
from actsearch.search_space.export.writing import (
    ARITHMETIC,
    CHOICE,
    Form,
    Language,
    calls,
    constant,
    written,
)
from actsearch.search_space.kernels.tracing import trace

FLT_MAX = 3.4028234663852886e38
_SAME = ("sqrt", "exp", "log", "sin", "cos", "sinh", "cosh", "tanh", "asinh", "atan", "erf")

# NaN passes through all of them, which it does not through fmaxf and fminf.
_CHOOSE = "static float {name}(float a, float b) {{\n    return {condition} ? {yes} : {no};\n}}"

_SINC_SLOPE = """\
/* (x cos x - sin x) / x^2; by its series where the two terms nearly cancel. */
static float sinc_slope(float x) {
    float s = x * x;
    if (s < 0.25f)
        return -x * (1.0f / 3 - s * (1.0f / 30 - s * (1.0f / 840 - s * (1.0f / 45360))));
    return (x * cosf(x) - sinf(x)) / s;
}"""


def literal(value: float) -> str:
    """A constant of type float; one beyond its range is infinite, as in torch."""
    if abs(value) > FLT_MAX:
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value!r}f"


C = Language(
    forms={
        **ARITHMETIC,
        **{name: Form(f"{name}f({{0}})") for name in _SAME},
        "abs": Form("fabsf({0})"),
        "relu": Form("maximum({0}, 0.0f)", helper="maximum"),
        "sign": calls("sign"),
        "sigmoid": calls("sigmoid"),
        "sinc": calls("sinc"),
        "sinc_slope": calls("sinc_slope"),
        "maximum": calls("maximum", 2),
        "minimum": calls("minimum", 2),
        "clamp_min": calls("maximum", 2),
        "clamp_max": calls("minimum", 2),
        "where": Form("{0} ? {1.tight} : {2.tight}", CHOICE),
        "softplus": Form("{0.tight} > {1} ? {0.tight} : log1pf(expf({0}))", CHOICE),
    },
    helpers={
        "sign": "static float sign(float x) {\n    return (float)((x > 0.0f) - (x < 0.0f));\n}",
        "sigmoid": "static float sigmoid(float x) {\n    return 1.0f / (1.0f + expf(-x));\n}",
        "sinc": "static float sinc(float x) {\n    return x == 0.0f ? 1.0f : sinf(x) / x;\n}",
        "sinc_slope": _SINC_SLOPE,
        "maximum": _CHOOSE.format(name="maximum", condition="a > b || a != a", yes="a", no="b"),
        "minimum": _CHOOSE.format(name="minimum", condition="a < b || a != a", yes="a", no="b"),
    },
    number=literal,
)


def write(source: Exported) -> str:
    """`name(x, beta)` and `name_dx(x, beta)`, of a gate also `name_dg`; initial betas are constants
    `name_beta`."""
    helpers, main = lowered(source)
    traced = trace(source.expr, source.operators)
    leaves = dict(zip((*traced.inputs, *traced.betas), main.parameters.values(), strict=True))
    slopes = [
        Function(
            f"{main.name}_d{node.name}",
            leaves,
            slope,
            f"The derivative of {main.name} with respect to {node.name}.",
        )
        for node, slope in zip(traced.inputs, traced.slopes, strict=True)
    ]
    static = [_function(h, "static ") for h in helpers]
    public = [_function(f, "") for f in (main, *slopes)]
    used = dict.fromkeys(name for _, names in (*static, *public) for name in names)
    parts = [
        "\n".join(["/*", *(f" * {line}".rstrip() for line in source.header), " */"]),
        "#include <math.h>",
        *(C.helpers[name] for name in used),
        *(text for text, _ in static),
        *_constants(source),
        *(text for text, _ in public),
    ]
    return "\n\n".join(parts) + "\n"


def _function(function: Function, storage: str) -> tuple[str, Sequence[str]]:
    """The text of a function, and the helpers of the language that it calls."""
    body = written(function, C)
    parameters = ", ".join(f"float {name}" for name in function.parameters.values())
    lines = [f"/* {function.about} */"] if function.about else []
    lines += [f"{storage}float {function.name}({parameters}) {{"]
    unread = [name for name in function.parameters.values() if not function.reads(name)]
    lines += [f"    (void){name};" for name in unread]
    lines += [f"    const float {name} = {text};" for name, text in body.steps]
    return "\n".join([*lines, f"    return {body.result};", "}"]), body.helpers


def _constants(source: Exported) -> list[str]:
    if not source.betas:
        return []
    lines = [f"/* Where the betas start{'; one number a channel' * bool(source.channels)}. */"]
    for name, values in zip(source.beta_names, source.betas, strict=True):
        size = f"[{len(values)}]" if len(values) > 1 else ""
        value = constant(values, "{}", literal)
        lines.append(f"const float {source.name}_{name}{size} = {value};")
    return ["\n".join(lines)]
