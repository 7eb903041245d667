"""name_of(): what people call a function, where it is one that they know.

By its canonical form, which is a look in a table; else by its values, as a search tells functions
apart, since the same function can be written in forms that no rule equates.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.fingerprint import fingerprints
from actsearch.search_space.baselines import FORMS
from actsearch.search_space.expression import Expr
from actsearch.search_space.parser import parse


def name_of(expr: Expr, key: str, operators: str = "guarded") -> str:
    """Such as `gelu`, or "" for a function without a name; `key` is its fingerprint's."""
    if (form := str(expr)) in FORMS:
        return FORMS[form]
    alike = _known(operators).get(key, {})
    return next((n for n, e in alike.items() if same_function(e, expr, operators)), "")


@cache
def _known(operators: str) -> Mapping[str, Mapping[str, Expr]]:
    """By the key of its fingerprint, the functions that have one, by name."""
    names = {parse(form): name for form, name in FORMS.items()}
    found: dict[str, dict[str, Expr]] = {}
    for expr, print_ in fingerprints(names, operators):
        found.setdefault(print_.key, {})[names[expr]] = expr
    return found
