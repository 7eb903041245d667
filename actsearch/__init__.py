"""actsearch: search a grammar for activation functions, train networks with each, rank them
honestly.

    import actsearch
    run = actsearch.search("runs/mine", space="tiny", budget=20)
    run.table()                                     # a pandas DataFrame, best first
    run.best().formula                              # such as x * sin(x)
    act = actsearch.Activation("x * sigmoid(beta * x)", channels=64)   # or "runs/mine#1"

Names are loaded when they are first used, so importing actsearch is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from actsearch.notebooks import register_here

if TYPE_CHECKING:
    from actsearch.child_models.data.text import tokens
    from actsearch.functions import Activation, act_layer, replace_activations
    from actsearch.reading.comparison import compare
    from actsearch.reading.exporting import export
    from actsearch.reading.reporting import report
    from actsearch.results.metrics import Metric
    from actsearch.run import Run
    from actsearch.search_space.expression import formula
    from actsearch.search_space.operators import BINARY, UNARY, Op
    from actsearch.search_space.parser import parse
    from actsearch.search_space.space import UnitSpace as Space
    from actsearch.searching.launch import search
    from actsearch.searching.merging import merge
    from actsearch.searching.proposing import propose
    from actsearch.searching.reevaluation import reevaluate

__all__ = [
    "BINARY",
    "UNARY",
    "Activation",
    "Metric",
    "Op",
    "Run",
    "Space",
    "act_layer",
    "compare",
    "export",
    "formula",
    "merge",
    "parse",
    "propose",
    "reevaluate",
    "replace_activations",
    "report",
    "search",
    "tokens",
]

_HOMES = {
    "search": "actsearch.searching.launch",
    "Run": "actsearch.run",
    "propose": "actsearch.searching.proposing",
    "merge": "actsearch.searching.merging",
    "reevaluate": "actsearch.searching.reevaluation",
    "compare": "actsearch.reading.comparison",
    "export": "actsearch.reading.exporting",
    "report": "actsearch.reading.reporting",
    "Metric": "actsearch.results.metrics",
    "replace_activations": "actsearch.functions",
    "parse": "actsearch.search_space.parser",
    "formula": "actsearch.search_space.expression",
    "Activation": "actsearch.functions",
    "act_layer": "actsearch.functions",
    "tokens": "actsearch.child_models.data.text",
    "Space": "actsearch.search_space.space",
    "Op": "actsearch.search_space.operators",
    "UNARY": "actsearch.search_space.operators",
    "BINARY": "actsearch.search_space.operators",
}


_NAMES = {"Space": "UnitSpace"}  # where that of the home is another


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'actsearch' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), _NAMES.get(name, name))


register_here()
