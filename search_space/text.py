"""What people type: names that are looked up in tables, and options, as `ppo:lr=0.001,epochs=2`.

No torch here, nor in any table of names, so that --help and the check of a choice are instant. Rows
of such a table say where what they name is found, as `module:name`; `load` imports it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

OPERATOR_SETS = ("paper", "guarded")
KERNELS = ("auto", "generated", "eager")

Kind = type | tuple[str, ...]  # int, float, str, or the words that are allowed


@dataclass(frozen=True)
class Option:
    """An option of whatever is chosen by name, with a sentence."""

    name: str
    kind: Kind
    default: Any
    text: str


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence for a name that is not in a table: the nearest name, then all of them."""
    known = list(known)
    return f"unknown {kind} {name!r}{nearest(name, known)} Known: {', '.join(known)}"


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of a sentence that names the nearest of what is `known`, if there is one; whether
    letters are capitals does not count."""
    small = {word.lower(): word for word in known}
    near = get_close_matches(str(name).lower(), small, n=1)
    return f"; did you mean {small[near[0]]!r}?" if near else "."


def check_among(kind: str, name: object, known: Iterable[str]) -> None:
    """Raises ValueError for a name that is not `known`."""
    known = list(known)
    if name not in known:
        raise ValueError(unknown(kind, name, known))


def check_operator_set(name: str) -> None:
    check_among("operator set", name, OPERATOR_SETS)


def check_kernels(name: str) -> None:
    check_among("kind of kernels", name, KERNELS)


def load(home: str) -> Any:
    """What a row names by its home, such as `actsearch.controller.ppo:PPO`."""
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def docstrings(config: type) -> dict[str, str]:
    """The docstring of each field of a dataclass, in one line, those of base classes too."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        [tree] = ast.parse(inspect.getsource(cls)).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def split(text: str) -> tuple[str, str]:
    """`name:options` as (name, options); no options are ""."""
    name, _, options = text.partition(":")
    return name.strip(), options


def read(owner: str, text: str, known: Mapping[str, Kind]) -> dict[str, Any]:
    """The options in `text`, in the order of `known`; raises ValueError with a way out."""
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, _, value = map(str.strip, part.partition("="))
        if not known:
            raise ValueError(f"{owner} takes no options, so not {key!r}")
        if key not in known:
            raise ValueError(unknown(f"option of {owner}", key, known))
        found[key] = _value(owner, key, value, known[key])
    return {key: found[key] for key in known if key in found}


def written(name: str, options: Mapping[str, Any]) -> str:
    """The text from which `name` and `options` are read again."""
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}:{text}" if text else name


def _value(owner: str, key: str, value: str, kind: Kind) -> Any:
    if isinstance(kind, tuple):
        if value not in kind:
            raise ValueError(f"{owner}:{key}={value} is not known; use {' or '.join(kind)}")
        return value
    if kind is str:
        if not value:
            raise ValueError(f"{owner}:{key}= needs a value behind it")
        return value
    try:
        number = kind(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    except ValueError:
        example = {int: "a whole number, as 8", float: "a number, as 0.01"}[kind]
        raise ValueError(f"{owner}:{key}={value} needs {example}") from None
