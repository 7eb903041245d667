"""EXPORTERS: what a function can be exported to, one row each. No torch here: the writers are
imported when they write."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actsearch.search_space.text import load

if TYPE_CHECKING:
    from actsearch.search_space.export.lowering import Exported


@dataclass(frozen=True)
class Exporter:
    """`module` beside this one has `write(*sources)`, which returns the file, bytes where it is not
    text. `text` says what it is, `values` whether it holds values of betas, or only their names,
    `several` whether it can hold several sources."""

    module: str
    text: str
    values: bool = True
    several: bool = False

    def write(self, *sources: Exported) -> str | bytes:
        return load(f"{__package__}.{self.module}:write")(*sources)


EXPORTERS: Mapping[str, Exporter] = {
    "python": Exporter("python", "a function of Python's math", several=True),
    "torch": Exporter("torch", "an nn.Module", several=True),
    "jax": Exporter("jax", "a function of jax.numpy", several=True),
    "sympy": Exporter("sympy", "an expression of SymPy"),
    "latex": Exporter("latex", "the bare formula", values=False, several=True),
    "onnx": Exporter("onnx", "a model of ONNX, which needs -o"),
    "c": Exporter("c", "a function of C"),
    "triton": Exporter("triton", "kernels for GPUs, and an nn.Module of them"),
}

# What exported files use themselves: words of C, functions of math.h, names of ours.
_WORDS = """
auto break case char const default do double enum extern float goto inline int long main register
restrict short signed sizeof static struct switch typedef union unsigned void volatile
abs acos acosh asin asinh atan atanh cbrt ceil cos cosh erf erfc exp expm1 fabs floor fmax fmin fmod
gamma hypot j0 j1 jn log log1p log2 max min pow round signbit sin sinh sqrt super tan tanh trunc y0
y1 yn
a b g x initial jax jnp math nn sp torch
"""
# The templates of those that write text, whose helpers have names of their own.
_TEMPLATES = ("python:PYTHON", "jax:JAX", "sympy:SYMPY", "c:C")
_NUMBERED = re.compile(r"t\d+|beta(_\d+)?|(guarded|op)_.*")


def _taken() -> set[str]:
    helpers = (load(f"{__package__}.{home}").helpers for home in _TEMPLATES)
    return set(_WORDS.split()).union(*helpers)


def check_name(name: str) -> str:
    """`name`, if an exported function can have it in every language."""
    valid = name.isascii() and name.isidentifier() and name.islower()
    if not valid or keyword.iskeyword(name) or name in _taken() or _NUMBERED.fullmatch(name):
        raise ValueError(
            f"an exported function cannot be called {name!r}; give a lower-case ASCII identifier "
            "that no language uses itself, like 'my_activation'"
        )
    return name
