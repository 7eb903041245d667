"""C source of fused kernels, and the libraries that the system's compiler makes of it.

A kernel is one loop over the elements: `forward` writes y, `backward` recomputes from x what it
needs and writes the gradients. Where that would cost more than a second tensor does, `sloped`
writes y and dy/dx together, and dy/dx is kept for the backward pass in the place of x. Loops are
vectorised by the compiler, elementary functions by glibc's libmvec where the machine has it.
Libraries are kept in a cache by the hash of all that they depend on.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from search_space.kernels.program import LOGICAL, Node
from search_space.kernels.tracing import Traced

# O1 and one vectorised loop: half the time to compile of O3, and as fast.
FLAGS = (
    "-O1", "-ftree-vectorize", "--param", "vect-epilogues-nomask=0", "-fopenmp-simd",
    "-march=native", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=off", "-w",
)  # fmt: skip
FUNCTIONS = ("exp", "log", "log1p", "sin", "cos", "sinh", "cosh", "tanh", "asinh", "atan", "erf")
BLOCK = 64  # rows whose beta gradients are summed in float before they join the sum in double
CHUNK = 256  # the same within a row
WIDE = 256  # elements that a loop over channels should have, at least
COMPILE_SECONDS = 120.0

# ns an element with 8 lanes (AVX2), about; the rest costs nothing beside memory.
COSTS = {
    "exp": 0.4, "log": 0.6, "sin": 0.4, "cos": 0.4, "sinh": 0.7, "cosh": 0.8, "tanh": 1.1,
    "asinh": 1.8, "atan": 0.9, "erf": 0.5, "sigmoid": 0.6, "log1p_exp": 1.7, "sinc": 0.8,
    "sinc_slope": 1.2, "div": 0.1, "sqrt": 0.1,
}  # fmt: skip
SECOND_TENSOR = 0.7  # ns an element to write and read dy/dx

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

# flat: no betas, (inner) elements.
# rows: (outer, channels, inner), one channel a row, such as N, C, H * W.
# columns: (outer, channels), the channels side by side, such as N, C or N * H * W, C.
_KERNELS = {
    "flat": """\
void forward_{key}(const element *restrict X, element *restrict Y, integer inner) {{
    #pragma omp simd
    for (integer i = 0; i < inner; i++) {{
        float x = from(X[i]);
{forward}
        Y[i] = to({y});
    }}
}}
void backward_{key}(const element *restrict X, const element *restrict G, element *restrict D,
                    integer inner) {{
    #pragma omp simd
    for (integer i = 0; i < inner; i++) {{
        float x = from(X[i]), gy = from(G[i]);
{backward}
        D[i] = to({gx});
    }}
}}
""",
    "flat, sloped": """\
void forward_{key}(const element *restrict X, element *restrict Y, integer inner) {{
    #pragma omp simd
    for (integer i = 0; i < inner; i++) {{
        float x = from(X[i]);
{forward}
        Y[i] = to({y});
    }}
}}
void sloped_{key}(const element *restrict X, element *restrict Y, element *restrict D,
                  integer inner) {{
    #pragma omp simd
    for (integer i = 0; i < inner; i++) {{
        float x = from(X[i]);
{sloped}
        Y[i] = to({y});
        D[i] = to({slope});
    }}
}}
""",
    "rows": """\
void forward_{key}(const element *restrict X, element *restrict Y, const float *restrict B,
                   integer outer, integer channels, integer inner) {{
    for (integer o = 0; o < outer; o++)
        for (integer c = 0; c < channels; c++) {{
            const element *restrict xs = X + (o * channels + c) * inner;
            element *restrict ys = Y + (o * channels + c) * inner;
{betas}
            #pragma omp simd
            for (integer i = 0; i < inner; i++) {{
                float x = from(xs[i]);
{forward}
                ys[i] = to({y});
            }}
        }}
}}
void backward_{key}(const element *restrict X, const element *restrict G, element *restrict D,
                    const float *restrict B, float *restrict DB,
                    integer outer, integer channels, integer inner) {{
    double *restrict total = calloc({n_betas} * channels, sizeof(double));
    for (integer o = 0; o < outer; o++)
        for (integer c = 0; c < channels; c++) {{
            const element *restrict xs = X + (o * channels + c) * inner;
            const element *restrict gs = G + (o * channels + c) * inner;
            element *restrict ds = D + (o * channels + c) * inner;
{betas}
            for (integer start = 0; start < inner; start += {chunk}) {{
                integer end = start + {chunk} < inner ? start + {chunk} : inner;
{sums}
                #pragma omp simd{reduction}
                for (integer i = start; i < end; i++) {{
                    float x = from(xs[i]), gy = from(gs[i]);
{backward}
                    ds[i] = to({gx});
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
void forward_{key}(const element *restrict X, element *restrict Y, const float *restrict B,
                   integer outer, integer channels, integer inner) {{
    integer times = repeats(outer, channels), width = times * channels;
    float *restrict wide = repeated(B, {n_betas}, channels, times);
    for (integer o = 0; o < outer / times; o++) {{
        const element *restrict xs = X + o * width;
        element *restrict ys = Y + o * width;
        #pragma omp simd
        for (integer c = 0; c < width; c++) {{
            float x = from(xs[c]);
{betas}
{forward}
            ys[c] = to({y});
        }}
    }}
    free(wide);
}}
void backward_{key}(const element *restrict X, const element *restrict G, element *restrict D,
                    const float *restrict B, float *restrict DB,
                    integer outer, integer channels, integer inner) {{
    integer times = repeats(outer, channels), width = times * channels;
    float *restrict wide = repeated(B, {n_betas}, channels, times);
    float *restrict part = calloc({n_betas} * width, sizeof(float));
    double *restrict total = calloc({n_betas} * channels, sizeof(double));
    for (integer o = 0; o < outer / times; o++) {{
        const element *restrict xs = X + o * width;
        const element *restrict gs = G + o * width;
        element *restrict ds = D + o * width;
        #pragma omp simd
        for (integer c = 0; c < width; c++) {{
            float x = from(xs[c]), gy = from(gs[c]);
{betas}
{backward}
            ds[c] = to({gx});
{add}
        }}
        if ((o + 1) % {block} == 0 || o + 1 == outer / times)
            for (integer k = 0; k < {n_betas}; k++)
                for (integer c = 0; c < width; c++) {{
                    total[k * channels + c % channels] += part[k * width + c];
                    part[k * width + c] = 0;
                }}
    }}
    for (integer k = 0; k < {n_betas} * channels; k++) DB[k] = total[k];
    free(wide), free(part), free(total);
}}
""",
}


class CompileError(Exception):
    """There is no compiler, or it refuses; the message says which."""


@dataclass(frozen=True)
class Source:
    """A kernel's C functions: `forward_KEY`, and `backward_KEY` or `sloped_KEY`."""

    key: str
    element: str
    text: str


def source(traced: Traced, element: str, layout: str) -> Source:
    """C for an activation; `layout` is `rows` or `columns` for one with betas, else `flat`,
    `element` float32 or bfloat16."""
    body = _body(traced, layout)
    digest = hashlib.sha256("\n".join((element, body, *machine())).encode()).hexdigest()[:24]
    return Source(digest, element, body.replace("@KEY@", digest))


def _body(traced: Traced, layout: str) -> str:
    rows = layout == "rows"
    indent = " " * {"flat": 8, "rows": 16, "columns": 12}[layout]
    betas = range(len(traced.betas))
    row = "B[{} * channels + c]" if rows else "wide[{} * width + c]"
    load = "\n".join(f"            float beta{b} = {row.format(b)};" for b in betas)
    gradients = [traced.gx, *traced.gbetas]
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
        betas=load,
        forward=_steps(traced, [traced.y], indent),
        sloped=_steps(traced, [traced.y, traced.slope], indent),
        backward=_steps(traced, gradients, inside),
        y=_name(traced.y),
        slope=_name(traced.slope),
        gx=_name(traced.gx),
        sums=sums,
        reduction=f" reduction(+:{names})" if names else "",
        add=add,
        store=store,
        block=BLOCK,
        chunk=CHUNK,
        n_betas=len(traced.betas),
    )


def keeps_slope(traced: Traced) -> bool:
    """Whether dy/dx is kept for the backward pass, not x."""
    if traced.betas:
        return False
    apart = _cost(traced, [traced.y]) + _cost(traced, [traced.gx])
    return apart - _cost(traced, [traced.y, traced.slope]) > SECOND_TENSOR


def _cost(traced: Traced, outputs: Sequence[Node]) -> float:
    return sum(COSTS.get(node.name, 0.0) for node in traced.program.needed(outputs))


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
    return node.name if node.name in ("x", "gy") else f"v{node.index}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "(0.0f/0.0f)"
    text = f"{abs(value)!r}f" if math.isfinite(value) else "__builtin_inff()"
    return f"(-{text})" if value < 0 else text


# -- the machine


@cache
def machine() -> tuple[str, ...]:
    """What a library depends on besides its source."""
    return (" ".join(FLAGS), _compiler_version(), _processor(), " ".join(vector_functions()))


@cache
def compiler() -> str | None:
    """The system's C compiler ($CC, cc, gcc or clang), None where there is none."""
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@cache
def _compiler_version() -> str:
    found = compiler()
    if found is None:
        return ""
    done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=20)
    return done.stdout.partition("\n")[0]


@cache
def _processor() -> str:
    """`-march=native` means another thing on another machine that shares the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return " ".join(dict.fromkeys(s for s in lines if s.startswith(("model name", "flags"))))


@cache
def vector_functions() -> tuple[str, ...]:
    """The functions that libmvec has for vectors of float."""
    if platform.machine() != "x86_64":
        return ()
    try:
        library = ctypes.CDLL("libmvec.so.1")
    except OSError:
        return ()
    return tuple(name for name in FUNCTIONS if hasattr(library, f"_ZGVdN8v_{name}f"))


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


# -- libraries


def cache_folder() -> Path:
    """Where libraries are kept, readable and writable by their owner alone."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "actsearch" / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise CompileError(f"{folder} can be written by others, who could put code there")
    return folder


def build(sources: Iterable[Source]) -> int:
    """Compile what the cache does not have, all in one call of the compiler a type of element;
    returns how many that were. Raises CompileError."""
    folder = cache_folder()
    wanted = {s.key: s for s in sources if not (folder / f"{s.key}.so").exists()}
    for element in ELEMENTS:
        group = [s for s in wanted.values() if s.element == element]
        if group:
            _compile(group, element, folder)
    return len(wanted)


def _compile(group: Sequence[Source], element: str, folder: Path) -> None:
    found = compiler()
    if found is None:
        raise CompileError("no C compiler ($CC, cc, gcc, clang)")
    text = "\n".join((_head(), ELEMENTS[element], *(s.text for s in group)))
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as temporary:
        code, library = Path(temporary, "kernels.c"), Path(temporary, "kernels.so")
        code.write_text(text)
        libraries = ["-lmvec"] if vector_functions() else []
        command = [found, *FLAGS, str(code), "-o", str(library), *libraries, "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompileError(f"{found}: {error}") from error
        if done.returncode != 0:
            raise CompileError(f"{found} ended with {done.returncode}: {done.stderr[:500]}")
        for i, s in enumerate(group):  # one file under several names
            part = Path(temporary, f"{i}.so")
            os.link(library, part)
            part.replace(folder / f"{s.key}.so")


Call = Callable[..., None]
Sizes = tuple[int, int, int]  # outer, channels, inner: how the betas' channels lie in memory


@dataclass(frozen=True)
class Kernel:
    """The functions of a library, on tensors that are dense and lie alike; `sizes` are for betas.
    It has `backward` or, where dy/dx is kept, `sloped`."""

    forward_loop: Call
    backward_loop: Call | None
    sloped_loop: Call | None

    @property
    def keeps_slope(self) -> bool:
        return self.sloped_loop is not None

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, betas: torch.Tensor | None, sizes: Sizes
    ) -> None:
        if betas is None:
            self.forward_loop(x.data_ptr(), y.data_ptr(), x.numel())
        else:
            self.forward_loop(x.data_ptr(), y.data_ptr(), betas.data_ptr(), *sizes)

    def sloped(self, x: torch.Tensor, y: torch.Tensor, slope: torch.Tensor) -> None:
        assert self.sloped_loop is not None
        self.sloped_loop(x.data_ptr(), y.data_ptr(), slope.data_ptr(), x.numel())

    def backward(
        self,
        x: torch.Tensor,
        gy: torch.Tensor,
        gx: torch.Tensor,
        betas: torch.Tensor | None,
        sizes: Sizes,
    ) -> torch.Tensor | None:
        """Writes `gx`; returns the gradients of the betas."""
        assert self.backward_loop is not None
        if betas is None:
            self.backward_loop(x.data_ptr(), gy.data_ptr(), gx.data_ptr(), x.numel())
            return None
        gbetas = torch.empty_like(betas)
        self.backward_loop(*(t.data_ptr() for t in (x, gy, gx, betas, gbetas)), *sizes)
        return gbetas


@cache
def load(key: str, *, with_betas: bool) -> Kernel:
    """The kernel of a source that was built."""
    library = ctypes.CDLL(str(cache_folder() / f"{key}.so"))
    pointer, integer = ctypes.c_void_p, ctypes.c_longlong

    def function(name: str, pointers: int, integers: int) -> Call | None:
        found = getattr(library, f"{name}_{key}", None)
        if found is not None:
            found.argtypes = [pointer] * pointers + [integer] * integers
            found.restype = None
        return found

    shapes = ((3, 3), (5, 3)) if with_betas else ((2, 1), (3, 1))
    forward = function("forward", *shapes[0])
    assert forward is not None
    return Kernel(forward, function("backward", *shapes[1]), function("sloped", 3, 1))
