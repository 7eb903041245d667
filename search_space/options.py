"""Options in text: `ppo:lr=0.001,batch_size=32`, for whatever is chosen by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from actsearch.search_space.operators import unknown

Kind = type | tuple[str, ...]  # int, float, bool, or the words that are allowed


def split(text: str) -> tuple[str, str]:
    """`name:options` as (name, options); no options are ""."""
    name, _, options = text.partition(":")
    return name.strip(), options


def read(owner: str, text: str, known: Mapping[str, Kind]) -> dict[str, Any]:
    """The options in `text`, in the order of `known`; raises ValueError with a way out."""
    found: dict[str, Any] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        key, _, value = part.partition("=")
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
    try:
        number = kind(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    except ValueError:
        example = {int: "a whole number, as 8", float: "a number, as 0.01"}[kind]
        raise ValueError(f"{owner}:{key}={value} needs {example}") from None
