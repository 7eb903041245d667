"""Notebooks show a function with its curves. `search_space` draws nothing, so importing actsearch
tells a notebook how; a drawing is imported when the first one is shown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actsearch.search_space.activation import Activation
    from actsearch.search_space.expression import Expr


def expression_html(expr: Expr) -> str:
    """The formula and its curves, guarded, at the initial betas."""
    from actsearch.results.figures.functions import function_html

    return function_html(expr)


def activation_html(activation: Activation) -> str:
    """The same of what training has made of a function."""
    from actsearch.results.figures.functions import function_html

    return function_html(activation.fixed(), activation.operators)


SHOWN = (
    ("actsearch.search_space.expression", "Expr", expression_html),
    ("actsearch.search_space.activation", "Activation", activation_html),
)


def register(shell: Any) -> None:
    """Tell IPython's `shell`, by names: nothing of ours is imported for it."""
    html = shell.display_formatter.formatters["text/html"]
    for module, name, function in SHOWN:
        html.for_type_by_name(module, name, function)


def register_here() -> None:
    """Where this process is a notebook's."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    if shell:
        register(shell)
