"""A pure function of jax.numpy, whose derivatives at kinks and ties are torch's."""

from __future__ import annotations

from collections.abc import Sequence

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
)
from actsearch.search_space.operators import PRODUCT, SUM

_SAME = ("sqrt", "exp", "log", "sin", "cos", "sinh", "cosh", "tanh")

_ABSOLUTE = '''\
def absolute(x):
    """|x|; its slope at 0 is 0, where that of jnp.abs is 1."""
    return x * jnp.sign(x)'''

# jnp.clip and jnp.minimum give half of the slope at the limit, torch.clamp all of it.
_CLAMP = '''\
def clamp_{end}(x, limit):
    """x held at `limit` or {word}; its slope is 1 at the limit."""
    return jnp.where(x {sign} limit, limit, x)'''

JAX = Language(
    forms={
        **ARITHMETIC,
        **{name: Form(f"jnp.{name}({{0}})") for name in _SAME},
        "abs": calls("absolute"),
        "asinh": Form("jnp.arcsinh({0})"),
        "atan": Form("jnp.arctan({0})"),
        "sigmoid": Form("jax.nn.sigmoid({0})"),
        "relu": Form("jax.nn.relu({0})"),
        "erf": Form("jax.scipy.special.erf({0})"),
        "maximum": Form("jnp.maximum({0}, {1})"),
        "minimum": Form("jnp.minimum({0}, {1})"),
        "where": Form("jnp.where({0}, {1}, {2})"),
        "clamp_min": calls("clamp_min", 2),
        "clamp_max": calls("clamp_max", 2),
        "softplus": Form("jnp.where({0.left} > {1}, {0}, jax.nn.softplus({0}))"),
        "sinc": Form("jnp.sinc({0.left} / jnp.pi)", PRODUCT),
    },
    helpers={
        "absolute": _ABSOLUTE,
        "clamp_min": _CLAMP.format(end="min", word="above", sign="<"),
        "clamp_max": _CLAMP.format(end="max", word="below", sign=">"),
    },
    spread=Form("jnp.zeros_like(x) + {0.tight}", SUM),
    imports=[("import jax", r"jax\."), ("import jax.numpy as jnp", r"jnp\.")],
)


def write(*sources: Exported) -> str:
    """`name(x, beta=...)`; betas of channels are arrays (C,), for inputs (N, ..., C)."""
    return python_file(JAX, [_part(source) for source in sources])


def _part(source: Exported) -> Part:
    helpers, main = lowered(source)
    pairs = zip(source.constants, source.betas, strict=True)
    constants: list[str] = []
    defaults = [constant(values) for values in source.betas]
    if source.channels is not None:
        constants = [f"{name} = {_array(values)}" for name, values in pairs]
        defaults = [*source.constants]
    functions = [python_function(h, JAX) for h in helpers]
    functions.append(python_function(main, JAX, defaults=defaults))
    used = [name for _, names in functions for name in names]
    return Part(source, [text for text, _ in functions], used, constants)


def _array(values: Sequence[float]) -> str:
    return constant(values) if len(values) == 1 else f"jnp.array({constant(values)})"
