"""Filters of a table: `monotonic=no, betas<=1, val_accuracy>0.9`. All conditions must hold."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_ALIASES = {"cost": "x relu"}  # as a search calls it
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|<|>|=)\s*([^<>=!]+?)\s*")


def where(text: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows for which every condition holds; one without a value holds for none but `!=`.

    Column names may have `_` for a space, and capitals or none, and lack the `val` of the
    validation score. Raises ValueError, with the near name, for a column that the rows do not have,
    and for text that is no condition.
    """
    if not text.strip() or not rows:
        return list(rows)
    columns = {alias: name for alias, name in _ALIASES.items() if name in rows[0]}
    scores = [name for name in rows[0] if name.startswith("val ")]
    columns |= {_key(name.removeprefix("val ")): name for name in scores}
    columns |= {_key(name): name for name in rows[0]}
    folded = {name.lower(): name for name in columns}
    kept = list(rows)
    for part in text.split(","):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise ValueError(f"{part.strip()!r} is no condition; write for example betas<=1")
        name, sign, value = match.groups()
        name = _key(name)
        name = name if name in columns else folded.get(name.lower(), name)
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"no column {name!r}{hint} Columns: {', '.join(columns)}")
        kept = [row for row in kept if _holds(row[columns[name]], sign, value)]
    return kept


def _key(name: str) -> str:
    return name.replace(" ", "_")


def _holds(cell: Any, sign: str, value: str) -> bool:
    if cell is None or cell == "":
        return sign == "!=" if value != "none" else sign == "="
    if isinstance(cell, bool):
        if value.lower() not in (*_YES, *_NO):
            raise ValueError(f"{value!r} is neither yes nor no")
        wanted: Any = value.lower() in _YES
    elif isinstance(cell, (int, float)):
        try:
            wanted = float(value)
        except ValueError as error:
            if value == "none":
                return sign == "!="
            raise ValueError(f"{value!r} is no number to compare with") from error
    else:
        cell, wanted = str(cell), value
    return _OPERATORS[sign](cell, wanted)
