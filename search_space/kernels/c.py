"""C source of fused kernels.

A kernel is one loop over the elements: `forward` writes y, `backward` recomputes from x what it
needs and writes the gradients. Where that would cost more than a second tensor does, `sloped`
writes y and dy/dx together, and dy/dx is kept for the backward pass in the place of x; of a gate
the same of x and g. Loops are vectorised by the compiler, elementary functions by glibc's libmvec
where the machine has it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actsearch.search_space.kernels.compiler import FUNCTIONS, machine, vector_functions
from actsearch.search_space.kernels.program import LEAVES, LOGICAL, Node
from actsearch.search_space.kernels.tracing import Traced, keeps_slope

BLOCK = 64  # rows whose beta gradients are summed in float before they join the sum in double
CHUNK = 256  # the same within a row
WIDE = 256  # elements that a loop over channels should have, at least

# What each primitive is in C; {0}, {1}, {2} are its arguments. A comparison is a mask of all ones
# or none, and `pick` has no branch: behind branches the compiler hides calls, and then vectorises
# nothing.
FORMS = {
    "neg": "-{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "lt": "-({0} < {1})",
    "le": "-({0} <= {1})",
    "eq": "-({0} == {1})",
    "where": "pick({0}, {1}, {2})",
    "abs": "__builtin_fabsf({0})",
    "sqrt": "__builtin_sqrtf({0})",
    "sign": "(float)(({0} > 0) - ({0} < 0))",
    "relu": "pick(-({0} < 0), 0.0f, {0})",
    "clamp_min": "pick(-({0} < {1}), {1}, {0})",
    "clamp_max": "pick(-({0} > {1}), {1}, {0})",
    "maximum": "pick(-({0} > {1}) | -({0} != {0}), {0}, {1})",
    "minimum": "pick(-({0} < {1}) | -({0} != {0}), {0}, {1})",
    "sigmoid": "1.0f / (1.0f + m_exp(-{0}))",
    "log1p_exp": "m_log1p(m_exp({0}))",
    "sinc": "sinc({0})",
    "sinc_slope": "sinc_slope({0})",
    **{name: f"m_{name}({{0}})" for name in FUNCTIONS if name != "log1p"},
}

_HEAD = """\
#include <stdlib.h>
typedef long long integer;
#define INLINE static inline __attribute__((always_inline))
{declarations}
INLINE float pick(int mask, float a, float b) {{
    union {{ float f; int i; }} u = {{ a }}, v = {{ b }};
    u.i = (u.i & mask) | (v.i & ~mask);
    return u.f;
}}
/* Several short rows of channels are run through as one, with the betas repeated: loops over eight
   channels are slow. */
INLINE integer repeats(integer outer, integer channels) {{
    integer times = 1;
    while (times * channels < {wide} && outer % (2 * times) == 0) times *= 2;
    return times;
}}
INLINE float *repeated(const float *B, integer betas, integer channels, integer times) {{
    float *wide = malloc(betas * times * channels * sizeof(float));
    for (integer k = 0; k < betas; k++)
        for (integer i = 0; i < times * channels; i++)
            wide[k * times * channels + i] = B[k * channels + i % channels];
    return wide;
}}
/* Sums of the repeated channels in float join those of each channel in double. */
INLINE void fold(float *part, double *total, integer times, integer channels) {{
    for (integer t = 0; t < times; t++)
        for (integer c = 0; c < channels; c++) {{
            total[c] += part[t * channels + c];
            part[t * channels + c] = 0;
        }}
}}
INLINE float sinc(float u) {{
    int zero = -(u == 0);
    return pick(zero, 1.0f, m_sin(u) / pick(zero, 1.0f, u));
}}
/* (u cos u - sin u) / u^2; by its series where the two terms nearly cancel */
INLINE float sinc_slope(float u) {{
    float s = u * u;
    float series = -u * (1.0f / 3 - s * (1.0f / 30 - s * (1.0f / 840 - s * (1.0f / 45360))));
    float quotient = (u * m_cos(u) - m_sin(u)) / pick(-(s == 0), 1.0f, s);
    return pick(-(s < 0.25f), series, quotient);
}}
"""

_FLOAT = """\
typedef float element;
INLINE float from(element v) { return v; }
INLINE element to(float v) { return v; }
"""

_BFLOAT16 = """\
typedef unsigned short element;
INLINE float from(element v) {
    union { unsigned u; float f; } b = { (unsigned)v << 16 };
    return b.f;
}
INLINE element to(float v) { /* to the nearest, ties to even; NaN stays NaN */
    union { float f; unsigned u; } b = { v };
    unsigned rounded = (b.u + 0x7fff + ((b.u >> 16) & 1)) >> 16;
    unsigned nan = -(unsigned)(v != v);
    return (nan & 0x7fc0) | (~nan & rounded);
}
"""

ELEMENTS = {"float32": _FLOAT, "bfloat16": _BFLOAT16}

_FLAT_FORWARD = """\
void forward_{key}({given}, element *restrict Y, integer inner) {{
    #pragma omp simd
    for (integer i = 0; i < inner; i++) {{
        float {read};
{forward}
        Y[i] = to({y});
    }}
}}
"""

# flat: no betas, (inner) elements.
# rows: (outer, channels, inner), one channel a row, such as N, C, H * W.
# columns: (outer, channels), the channels side by side, such as N, C or N * H * W, C.
_KERNELS = {
    "flat": _FLAT_FORWARD
    + """\
void backward_{key}({given}, const element *restrict G, {wanted},
                    integer inner) {{
    #pragma omp simd
    for (integer i = 0; i < inner; i++) {{
        float {read}, gy = from(G[i]);
{backward}
{write_gradients}
    }}
}}
""",
    "flat, sloped": _FLAT_FORWARD
    + """\
void sloped_{key}({given}, element *restrict Y, {wanted},
                  integer inner) {{
    #pragma omp simd
    for (integer i = 0; i < inner; i++) {{
        float {read};
{sloped}
        Y[i] = to({y});
{write_slopes}
    }}
}}
""",
    "rows": """\
void forward_{key}({given}, element *restrict Y, const float *restrict B,
                   integer outer, integer channels, integer inner) {{
    for (integer o = 0; o < outer; o++)
        for (integer c = 0; c < channels; c++) {{
{rows}
            element *restrict ys = Y + (o * channels + c) * inner;
{betas}
            #pragma omp simd
            for (integer i = 0; i < inner; i++) {{
                float {read};
{forward}
                ys[i] = to({y});
            }}
        }}
}}
void backward_{key}({given}, const element *restrict G, {wanted},
                    const float *restrict B, float *restrict DB,
                    integer outer, integer channels, integer inner) {{
    double *restrict total = calloc({n_betas} * channels, sizeof(double));
    for (integer o = 0; o < outer; o++)
        for (integer c = 0; c < channels; c++) {{
{rows}
            const element *restrict gs = G + (o * channels + c) * inner;
{gradient_rows}
{betas}
            for (integer start = 0; start < inner; start += {chunk}) {{
                integer end = start + {chunk} < inner ? start + {chunk} : inner;
{sums}
                #pragma omp simd{reduction}
                for (integer i = start; i < end; i++) {{
                    float {read}, gy = from(gs[i]);
{backward}
{write_gradients}
{add}
                }}
{store}
            }}
        }}
    for (integer k = 0; k < {n_betas} * channels; k++) DB[k] = total[k];
    free(total);
}}
""",
    "columns": """\
void forward_{key}({given}, element *restrict Y, const float *restrict B,
                   integer outer, integer channels, integer inner) {{
    integer times = repeats(outer, channels), width = times * channels;
    float *restrict wide = repeated(B, {n_betas}, channels, times);
    for (integer o = 0; o < outer / times; o++) {{
{rows}
        element *restrict ys = Y + o * width;
        #pragma omp simd
        for (integer c = 0; c < width; c++) {{
            float {read};
{betas}
{forward}
            ys[c] = to({y});
        }}
    }}
    free(wide);
}}
void backward_{key}({given}, const element *restrict G, {wanted},
                    const float *restrict B, float *restrict DB,
                    integer outer, integer channels, integer inner) {{
    integer times = repeats(outer, channels), width = times * channels;
    float *restrict wide = repeated(B, {n_betas}, channels, times);
    float *restrict part = calloc({n_betas} * width, sizeof(float));
    double *restrict total = calloc({n_betas} * channels, sizeof(double));
    for (integer o = 0; o < outer / times; o++) {{
{rows}
        const element *restrict gs = G + o * width;
{gradient_rows}
        #pragma omp simd
        for (integer c = 0; c < width; c++) {{
            float {read}, gy = from(gs[c]);
{betas}
{backward}
{write_gradients}
{add}
        }}
        if ((o + 1) % {block} == 0 || o + 1 == outer / times)
            for (integer k = 0; k < {n_betas}; k++)
                fold(part + k * width, total + k * channels, times, channels);
    }}
    for (integer k = 0; k < {n_betas} * channels; k++) DB[k] = total[k];
    free(wide), free(part), free(total);
}}
""",
}


@dataclass(frozen=True)
class Source:
    """A kernel's C functions: `forward_KEY`, and `backward_KEY` or `sloped_KEY`."""

    key: str
    element: str
    text: str


def source(traced: Traced, element: str, layout: str) -> Source:
    """C for an activation; `layout` is `rows` or `columns` for one with betas, else `flat`,
    `element` float32 or bfloat16."""
    return named(_body(traced, layout), element)


def named(body: str, element: str) -> Source:
    """C functions whose names end in `@KEY@`, with the key for that: a hash of all that they depend
    on."""
    whole = "\n".join((_head(), ELEMENTS[element], body, *machine()))
    digest = hashlib.sha256(whole.encode()).hexdigest()[:24]
    return Source(digest, element, body.replace("@KEY@", digest))


def unit(sources: Iterable[Source], element: str) -> str:
    """A translation unit that holds the kernels of `sources`, which are all of this element."""
    return "\n".join((_head(), ELEMENTS[element], *(s.text for s in sources)))


# Where an input is read from and its gradient, or its slope, goes: arrays, and rows of these.
_ARRAYS = {"x": ("X", "D"), "g": ("U", "E")}


def _body(traced: Traced, layout: str) -> str:
    rows = layout == "rows"
    indent = " " * {"flat": 8, "rows": 16, "columns": 12}[layout]
    betas = range(len(traced.betas))
    row = "B[{} * channels + c]" if rows else "wide[{} * width + c]"
    load = "\n".join(f"            float beta{b} = {row.format(b)};" for b in betas)
    gradients = [*traced.ginputs, *traced.gbetas]
    inside = indent + "    " * rows  # the backward loop of rows is in chunks
    if rows:
        sums = "\n".join(f"{indent}float sum{b} = 0;" for b in betas)
        add = "\n".join(f"{inside}sum{b} += {_name(g)};" for b, g in enumerate(traced.gbetas))
        store = "\n".join(f"{indent}total[{b} * channels + c] += sum{b};" for b in betas)
        names = ", ".join(f"sum{b}" for b in betas)
    else:
        sums, store, names = "", "", ""
        add = "\n".join(
            f"{inside}part[{b} * width + c] += {_name(g)};" for b, g in enumerate(traced.gbetas)
        )
    template = "flat, sloped" if layout == "flat" and keeps_slope(traced) else layout
    return _KERNELS[template].format(
        key="@KEY@",
        **_places(traced, layout, inside),
        betas=load,
        forward=_steps(traced, [traced.y], indent),
        sloped=_steps(traced, [traced.y, *traced.slopes], indent),
        backward=_steps(traced, gradients, inside),
        y=_name(traced.y),
        sums=sums,
        reduction=f" reduction(+:{names})" if names else "",
        add=add,
        store=store,
        block=BLOCK,
        chunk=CHUNK,
        n_betas=len(traced.betas),
    )


def _places(traced: Traced, layout: str, indent: str) -> dict[str, str]:
    """How each input is given and read, and its gradient or slope is written."""
    arrays = [_ARRAYS[node.name] for node in traced.inputs]
    at = "c" if layout == "columns" else "i"
    if layout != "flat":
        start = {"rows": "(o * channels + c) * inner", "columns": "o * width"}[layout]
        outer = {"rows": 12, "columns": 8}[layout] * " "
    else:
        start = outer = ""

    def named(array: str) -> str:
        """The array, or its row."""
        return array if layout == "flat" else f"{array.lower()}s"

    def row(array: str, kind: str) -> str:
        return f"{outer}{kind} *restrict {named(array)} = {array} + {start};"

    def written(nodes: Sequence[Node]) -> str:
        return "\n".join(
            f"{indent}{named(array)}[{at}] = to({_name(node)});"
            for (_, array), node in zip(arrays, nodes, strict=True)
        )

    return {
        "given": ", ".join(f"const element *restrict {array}" for array, _ in arrays),
        "wanted": ", ".join(f"element *restrict {array}" for _, array in arrays),
        "rows": "\n".join(row(array, "const element") for array, _ in arrays),
        "gradient_rows": "\n".join(row(array, "element") for _, array in arrays),
        "read": ", ".join(
            f"{node.name} = from({named(array)}[{at}])"
            for node, (array, _) in zip(traced.inputs, arrays, strict=True)
        ),
        "write_gradients": written(traced.ginputs),
        "write_slopes": written(traced.slopes),
    }


def _steps(traced: Traced, outputs: Sequence[Node], indent: str) -> str:
    lines: list[str] = []
    for node in traced.program.needed(outputs):
        if node.name in FORMS:
            kind = "int" if node.name in LOGICAL else "float"
            text = FORMS[node.name].format(*map(_name, node.args))
            lines.append(f"{indent}{kind} {_name(node)} = {text};")
    return "\n".join(lines)


def _name(node: Node) -> str:
    if node.name == "const":
        return _number(node.value)
    if node.name == "beta":
        return f"beta{int(node.value)}"
    return node.name if node.name in LEAVES else f"v{node.index}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "(0.0f/0.0f)"
    text = f"{abs(value)!r}f" if math.isfinite(value) else "__builtin_inff()"
    return f"(-{text})" if value < 0 else text


def _head() -> str:
    """Declarations under names of our own: the compiler would merge sin and cos of one argument
    into a call that is no vector function."""
    lines = []
    for name in FUNCTIONS:
        simd = ', simd("notinbranch")' if name in vector_functions() else ""
        lines.append(
            f'extern float m_{name}(float) __asm__("{name}f") '
            f"__attribute__((const, nothrow{simd}));"
        )
    return _HEAD.format(declarations="\n".join(lines), wide=WIDE)
