"""Elementary functions in C that the compiler inlines and vectorises.

A call of a vector library is more than its arithmetic: the caller can keep no vector in a register
across it, and the compiler can share nothing between two calls, as exp(|x|) of sinh and cosh. Each
function here is arithmetic and selections without a branch. So its value does not depend on where
an element stands in a loop, and there are vectors wherever the compiler has them. Errors are below
2.5 units in the last place (`tests/test_elementary.py`); NaN stays NaN.
"""

from __future__ import annotations

FUNCTIONS = ("exp", "log", "log1p_exp", "sigmoid", "sinh", "cosh", "tanh", "asinh", "atan", "erf")

# Coefficients from the constant one on, as benchmarks/minimax.py prints them.
# fmt: off
POLYNOMIALS = {
    "exp": (0.49999994, 0.16666521, 0.041668393, 0.0083686765, 0.0013813898),
    "log": (0.3333391, -0.25001335, 0.19963162, -0.16577664, 0.14913686, -0.14266469,
            0.08702567),
    "log1p": (1.0, -0.49999902, 0.33329952, -0.24954073, 0.1967576, -0.15305342, 0.10603585,
              -0.05696177, 0.019854017, -0.0032448645),
    "sinh": (0.16666716, 0.008330286, 0.00020372018),
    "tanh": (-0.333333, 0.13331926, -0.05378399, 0.020796569, -0.0058959145),
    "asinh": (-0.16666462, 0.074943356, -0.044104896, 0.027872706, -0.015686516, 0.0061963075,
              -0.0011827778),
    "atan": (-0.33333153, 0.19993782, -0.14211145, 0.106664106, -0.075531796, 0.04322441,
             -0.016376331, 0.0029229608),
    "erf": (0.12837917, -0.37612626, 0.11283585, -0.026853813, 0.005188336, -0.0008010315,
            7.854399e-05),
    "erfc": (0.9862751, -1.0488806, 0.79386973, -0.43299913, 0.16493514, -0.041283738,
             0.0060603633, -0.00039335745),
}
# fmt: on

# ln 2 is taken off in two parts, the first of nine bits, so n times it is exact without FMA too.
# Adding 1.5 * 2^23 rounds to an integer and leaves that in the last bits. `signed_as` keeps -0.
_C = """\
#ifdef __FP_FAST_FMAF
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#define INFINITE __builtin_inff()
#define NAN (INFINITE - INFINITE)
INLINE float bits(int i) {
    union { int i; float f; } u = { i };
    return u.f;
}
INLINE int bits_of(float f) {
    union { float f; int i; } u = { f };
    return u.i;
}
INLINE float pick(int mask, float a, float b) {
    return bits((bits_of(a) & mask) | (bits_of(b) & ~mask));
}
INLINE float signed_as(float a, float b) {
    return bits((bits_of(a) & 0x7fffffff) | (bits_of(b) & ~0x7fffffff));
}
@polynomials@
/* exp(x) = 2^n exp(r), x = n ln 2 + r, |r| <= ln 2 / 2: its scale 2^n as bits, and exp(r) */
typedef struct { float y; unsigned n; } exp_parts;
INLINE exp_parts parts_of_exp(float x) {
    float shifted = FMA(x, 1.44269504f, 12582912.0f), n = shifted - 12582912.0f;
    float r = FMA(n, 2.12194440e-4f, FMA(n, -0.693359375f, x));
    exp_parts parts = { FMA(FMA(p_exp(r), r, 1.0f), r, 1.0f), (unsigned)bits_of(shifted) };
    return parts;
}
/* exp(x) / 2^halvings, or 0 for x < -86 */
INLINE float scaled_exp(float x, unsigned halvings) {
    exp_parts e = parts_of_exp(x);
    return pick(-(x < -86.0f), 0.0f, e.y * bits((int)((e.n + 127u - halvings) << 23)));
}
/* The same for all x: where it may have fewer digits than a normal number, 2^64 is taken out of the
   scale until the end. */
INLINE float whole_exp(float x, unsigned halvings) {
    exp_parts e = parts_of_exp(x);
    unsigned small = (unsigned)-(x < -86.0f) & 64u;
    float y = e.y * bits((int)((e.n + 127u - halvings + small) << 23));
    return pick(-(x < -104.0f), 0.0f, y * bits((int)((127u - small) << 23)));
}
/* `bounded` are for arguments that are never above 88. */
INLINE float m_bounded_exp(float x) { return whole_exp(x, 0); }
INLINE float m_exp(float x) { return pick(-(x > 88.722832f), INFINITE, 2 * whole_exp(x, 1)); }

INLINE float m_sigmoid(float x) {
    float e = m_bounded_exp(-__builtin_fabsf(x));
    return pick(-(x < 0), e, 1.0f) / (1 + e);
}
/* log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)) */
INLINE float m_log1p_exp(float x) {
    float e = m_bounded_exp(-__builtin_fabsf(x));
    return FMA(e, p_log1p(e), pick(-(x < 0), 0.0f, x));
}

/* exp(x) / 2, which overflows later than exp */
INLINE float half_exp(float x) { return pick(-(x > 89.41598f), INFINITE, 2 * scaled_exp(x, 2)); }
INLINE float cosh_by(float half) { return half + 0.25f / half; }
INLINE float m_cosh(float x) { return cosh_by(half_exp(__builtin_fabsf(x))); }
INLINE float m_bounded_cosh(float x) { return cosh_by(scaled_exp(__builtin_fabsf(x), 1)); }
INLINE float sinh_by(float half, float x) {
    float s = x * x;
    return signed_as(pick(-(s < 1), FMA(x * s, p_sinh(s), x), half - 0.25f / half), x);
}
INLINE float m_sinh(float x) { return sinh_by(half_exp(__builtin_fabsf(x)), x); }
INLINE float m_bounded_sinh(float x) { return sinh_by(scaled_exp(__builtin_fabsf(x), 1), x); }
INLINE float m_tanh(float x) {
    float s = x * x, e = scaled_exp(-2 * __builtin_fabsf(x), 0);
    return signed_as(pick(-(s < 0.36f), FMA(x * s, p_tanh(s), x), (1 - e) / (1 + e)), x);
}

/* log(2^n x) for a normal number x: x = 2^k (1 + f), 1 + f between the roots of 1/2 and 2 */
INLINE float log_scaled(float x, float n) {
    int i = (int)((unsigned)bits_of(x) - 0x3f3504f3); /* the root of 1/2 */
    float f = bits((i & 0x007fffff) + 0x3f3504f3) - 1.0f, s = f * f;
    n += (float)(i >> 23);
    float y = FMA(f * s, p_log(f), FMA(n, -2.12194440e-4f, -0.5f * s));
    return FMA(n, 0.693359375f, y + f);
}
INLINE float m_log(float x) {
    int small = -(x < 1.17549435e-38f); /* not normal */
    float y = log_scaled(pick(small, x * 8388608.0f, x), pick(small, -23.0f, 0.0f));
    y = pick(-(x < INFINITE), y, x);
    return pick(-(x < 0), NAN, pick(-(x == 0), -INFINITE, y));
}
/* beyond 1 it is log(|x| + sqrt(x^2 + 1)), and log(2 |x|) where x^2 may overflow */
INLINE float m_asinh(float x) {
    float s = x * x, z = __builtin_fabsf(x);
    int large = -(z > 1e9f);
    float y = log_scaled(pick(large, z, z + __builtin_sqrtf(1.0f + s)), pick(large, 1.0f, 0.0f));
    y = pick(-(z < INFINITE), y, z);
    return signed_as(pick(-(s < 1), FMA(x * s, p_asinh(s), x), y), x);
}
/* beyond 1 it is pi / 2 - atan(1 / |x|) */
INLINE float m_atan(float x) {
    float z = __builtin_fabsf(x);
    int large = -(z > 1);
    float w = pick(large, -1 / z, z), s = w * w;
    return signed_as(FMA(w * s, p_atan(s), w) + pick(large, 1.57079633f, 0.0f), x);
}
/* beyond 1 it is 1 - exp(-x^2) p(|x|), of which nothing is left beyond 4 */
INLINE float m_erf(float x) {
    float s = x * x, z = __builtin_fabsf(x), near = pick(-(z > 4), 4.0f, z);
    float far = 1 - scaled_exp(-s, 0) * p_erfc(near);
    return signed_as(pick(-(s < 1), FMA(x, p_erf(s), x), far), x);
}
"""


def source() -> str:
    """All of them, each `m_NAME`; they need the macro INLINE."""
    return _C.replace("@polynomials@", "\n".join(map(_polynomial, POLYNOMIALS)))


def _polynomial(name: str) -> str:
    *lower, nested = [f"{c!r}f" for c in POLYNOMIALS[name]]
    for coefficient in reversed(lower):
        nested = f"FMA({nested}, t, {coefficient})"
    return f"INLINE float p_{name}(float t) {{\n    return {nested};\n}}"
