"""actsearch show: what a function is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE
from actsearch.options import OperatorSet, Options, Typed, Word
from actsearch.shown import put


@dataclass(frozen=True)
class ShowConfig(Options):
    """Say what a function is: its form, operators, parameters, plots of f and f'.

    Example: actsearch show mish
    """

    formula: Annotated[str, Word(), Typed(place="FORMULA")]
    """Such as 'x*sigmoid(beta*x)', a name as mish, or runs/tiny#3: the third of a run."""
    operators: OperatorSet = None
    """Operator set in which it is evaluated: {names} [that of the run, else guarded]."""


def run(config: ShowConfig) -> int:
    from actsearch.reading.describe import show_lines

    put("\n".join(show_lines(config.formula, config.operators)))
    return DONE
