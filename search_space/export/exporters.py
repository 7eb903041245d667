"""EXPORTERS: what a function can be exported to, one row each."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from actsearch.search_space.export import c, jax, latex, onnx, python, sympy, torch


@dataclass(frozen=True)
class Exporter:
    """`write` returns the file, bytes where it is no text. `values` says whether it holds values
    of betas, or only their names, `several` whether a file can hold several sources."""

    write: Callable[..., str | bytes]
    values: bool = True
    several: bool = False


EXPORTERS: Mapping[str, Exporter] = {
    "python": Exporter(python.write, several=True),
    "torch": Exporter(torch.write, several=True),
    "jax": Exporter(jax.write, several=True),
    "sympy": Exporter(sympy.write),
    "latex": Exporter(latex.write, values=False, several=True),
    "onnx": Exporter(onnx.write),
    "c": Exporter(c.write),
}

# What exported files use themselves: words of C, functions of math.h, names of ours.
_WORDS = """
auto break case char const default do double enum extern float goto inline int long main register
restrict short signed sizeof static struct switch typedef union unsigned void volatile
abs acos acosh asin asinh atan atanh cbrt ceil cos cosh erf erfc exp expm1 fabs floor fmax fmin fmod
gamma hypot j0 j1 jn log log1p log2 max min pow round signbit sin sinh sqrt super tan tanh trunc y0
y1 yn
a b x initial jax jnp math nn sp torch
"""
_HELPERS = {*python.PYTHON.helpers, *jax.JAX.helpers, *sympy.SYMPY.helpers, *c.C.helpers}
_TAKEN = frozenset(_WORDS.split()) | _HELPERS
_NUMBERED = re.compile(r"t\d+|beta(_\d+)?|(guarded|op)_.*")


def check_name(name: str) -> str:
    """`name`, if an exported function can have it in every language."""
    valid = name.isascii() and name.isidentifier() and name.islower()
    if not valid or keyword.iskeyword(name) or name in _TAKEN or _NUMBERED.fullmatch(name):
        raise ValueError(
            f"an exported function cannot be called {name!r}; give a lower-case ASCII identifier "
            "that no language uses itself, like 'my_activation'"
        )
    return name
