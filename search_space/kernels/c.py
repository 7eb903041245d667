"""C source of fused kernels.

`forward` writes y; `backward` recomputes from x what it needs and writes the gradients. Where that
would cost more than a second tensor does, `sloped` writes y and dy/dx together, and dy/dx is kept
for the backward pass in the place of x; of a gate the same of x and g. Each is one loop over the
elements, or several over each tile of them (`stages.py`). The compiler vectorises loops;
elementary functions are our own (`elementary.py`) but for sin and cos, which are glibc's libmvec's
where the machine has it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from actsearch.search_space.kernels import elementary
from actsearch.search_space.kernels.compiler import FUNCTIONS, machine, vector_functions
from actsearch.search_space.kernels.program import LEAVES, LOGICAL, Node
from actsearch.search_space.kernels.stages import Stage, stages
from actsearch.search_space.kernels.tracing import Traced, keeps_slope

BLOCK = 64  # rows whose beta gradients are summed in float before they join the sum in double
CHUNK = 256  # the same within a row; and elements of a tile, whose values stay in the cache
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
    "sinc": "sinc({0})",
    "sinc_slope": "sinc_slope({0})",
    **{name: f"m_{name}({{0}})" for name in (*elementary.FUNCTIONS, *FUNCTIONS)},
}
# Of these there is a faster form where exp can be seen not to overflow.
BOUNDED = ("exp", "sinh", "cosh")
LIMIT = 88.0  # exp overflows at 88.72

_HEAD = """\
#include <stdlib.h>
typedef long long integer;
#define INLINE static inline __attribute__((always_inline))
{declarations}
{elementary}
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
{forward}
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
{backward}
}}
""",
    "flat, sloped": _FLAT_FORWARD
    + """\
void sloped_{key}({given}, element *restrict Y, {wanted},
                  integer inner) {{
{sloped}
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
{forward}
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
{backward}
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
{forward}
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
{backward}
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
    places = Places(traced, layout)
    betas = range(len(traced.betas))
    template = "flat, sloped" if layout == "flat" and keeps_slope(traced) else layout
    y = Sink(traced.y, places.written("Y", traced.y))
    gradients = places.sinks(traced.ginputs)
    return _KERNELS[template].format(
        key="@KEY@",
        given=", ".join(f"const element *restrict {array}" for array, _ in places.arrays),
        wanted=", ".join(f"element *restrict {array}" for _, array in places.arrays),
        rows="\n".join(places.row(array, "const element") for array, _ in places.arrays),
        gradient_rows="\n".join(places.row(array, "element") for _, array in places.arrays),
        betas="\n".join(f"            float beta{b} = B[{b} * channels + c];" for b in betas),
        forward=places.loops(traced, [y]),
        sloped=places.loops(traced, [y, *places.sinks(traced.slopes)]),
        backward=places.loops(traced, [*gradients, *places.sums(traced.gbetas)]),
        block=BLOCK,
        n_betas=len(traced.betas),
    )


@dataclass(frozen=True)
class Sink:
    """A node whose value leaves the loop, by a statement; `total` is a variable that it adds to."""

    node: Node
    statement: str
    total: str = ""


class Places:
    """Where, in a layout, values are read from and written to, and the loops that do so."""

    def __init__(self, traced: Traced, layout: str) -> None:
        self.layout = layout
        self.arrays = [_ARRAYS[node.name] for node in traced.inputs]
        self.index, self.size = ("c", "width") if layout == "columns" else ("i", "inner")
        self.indent = {"flat": 4, "rows": 12, "columns": 8}[layout] * " "
        reads = [
            ("gy", "G"),
            *((n.name, a) for n, (a, _) in zip(traced.inputs, self.arrays, strict=True)),
        ]
        self.reads = {name: f"from({self._named(a)}[{self.index}])" for name, a in reads}

    def _named(self, array: str) -> str:
        """The array, or its row."""
        return array if self.layout == "flat" else f"{array.lower()}s"

    def row(self, array: str, kind: str) -> str:
        start = {"flat": "", "rows": "(o * channels + c) * inner", "columns": "o * width"}
        return (
            f"{self.indent}{kind} *restrict {self._named(array)} = {array} + {start[self.layout]};"
        )

    def written(self, array: str, node: Node) -> str:
        return f"{self._named(array)}[{self.index}] = to({_name(node)});"

    def sinks(self, nodes: Sequence[Node]) -> list[Sink]:
        """Gradients, or slopes, of the inputs."""
        pairs = zip(self.arrays, nodes, strict=True)
        return [Sink(node, self.written(array, node)) for (_, array), node in pairs]

    def sums(self, nodes: Sequence[Node]) -> list[Sink]:
        """Gradients of the betas."""
        if self.layout == "rows":
            return [Sink(g, f"sum{b} += {_name(g)};", f"sum{b}") for b, g in enumerate(nodes)]
        return [Sink(g, f"part[{b} * width + c] += {_name(g)};") for b, g in enumerate(nodes)]

    def loops(self, traced: Traced, sinks: Sequence[Sink]) -> str:
        """One loop over all elements, or, tile by tile, a loop for each stage."""
        cut = stages(traced.program, [sink.node for sink in sinks])
        totals = [sink.total for sink in sinks if sink.total]
        if len(cut) == 1 and not totals:
            return self._loop(cut[0], sinks, {}, ("0", self.size), self.indent)
        later = {node for stage in cut for node in stage.known}
        kept = {node: f"kept[{k}][{self.index} - start]" for k, node in enumerate(_sorted(later))}
        inside = self.indent + "    "
        size = self.size
        lines = [
            f"{self.indent}for (integer start = 0; start < {size}; start += {CHUNK}) {{",
            f"{inside}integer end = start + {CHUNK} < {size} ? start + {CHUNK} : {size};",
            *[f"{inside}float kept[{len(kept)}][{CHUNK}];"] * bool(kept),
            *(f"{inside}float {total} = 0;" for total in totals),
            *(self._loop(stage, sinks, kept, ("start", "end"), inside) for stage in cut),
            *(f"{inside}total[{b} * channels + c] += {t};" for b, t in enumerate(totals)),
            f"{self.indent}}}",
        ]
        return "\n".join(lines)

    def _loop(
        self,
        stage: Stage,
        sinks: Sequence[Sink],
        kept: Mapping[Node, str],
        ends: tuple[str, str],
        indent: str,
    ) -> str:
        i, (begin, end) = self.index, ends
        leaving = [sink for sink in sinks if sink.node in stage.outputs]
        totals = ", ".join(sink.total for sink in leaving if sink.total)
        lines = [f"#pragma omp simd{f' reduction(+:{totals})' if totals else ''}"]
        lines += [f"for (integer {i} = {begin}; {i} < {end}; {i}++) {{"]
        for node in stage.nodes:
            if node in stage.known:
                lines.append(f"    float {_name(node)} = {kept[node]};")
            elif node.name in FORMS:
                kind = "int" if node.name in LOGICAL else "float"
                lines.append(f"    {kind} {_name(node)} = {_form(node)};")
                if node in kept:
                    lines.append(f"    {kept[node]} = {_name(node)};")
            elif node.name in self.reads:
                lines.append(f"    float {_name(node)} = {self.reads[node.name]};")
            elif node.name == "beta" and self.layout == "columns":
                lines.append(f"    float {_name(node)} = wide[{int(node.value)} * width + c];")
        lines += [f"    {sink.statement}" for sink in leaving]
        return "\n".join(indent + line for line in [*lines, "}"])


def _sorted(nodes: Iterable[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: node.index)


def _form(node: Node) -> str:
    form = FORMS[node.name].format(*map(_name, node.args))
    if node.name in BOUNDED and _bounded(node):
        return form.replace("m_", "m_bounded_", 1)
    return form


def _bounded(node: Node) -> bool:
    """Whether the argument of exp is never above LIMIT, that of sinh or cosh on neither side."""
    [a] = node.args
    if a.name == "clamp_max" and _within_limit(a.args[1]):
        below = a.args[0]
        return node.name == "exp" or (below.name == "clamp_min" and _within_limit(below.args[1]))
    if a.name == "neg" and node.name == "exp":
        [b] = a.args
        return b.name in ("abs", "exp") or (b.name == "mul" and b.args[0] is b.args[1])
    return False


def _within_limit(node: Node) -> bool:
    return node.name == "const" and abs(node.value) <= LIMIT


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
    return _HEAD.format(declarations="\n".join(lines), elementary=elementary.source(), wide=WIDE)
