"""actsearch plot: draw what a run has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE
from actsearch.options import OneOf, Options, RunFolder, Text, Typed, Word
from actsearch.shown import put


@dataclass(frozen=True)
class PlotConfig(Options):
    """Draw what a run has found: PNG and SVG files, and one HTML file to explore.

    Of the search: functions, progress, losses, cost, front (of several objectives), complexity,
    operators, failures, controller. Of re-evaluations: differences to ReLU, betas (how the trained
    ones are spread), preactivations (how the inputs of activations are).

    Example: actsearch plot runs/a --of cost
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    of: Annotated[
        str, OneOf("actsearch.reading.plotting:FIGURES", also=("all",)), Typed(metavar="KIND")
    ] = "all"
    """{names}."""
    function: Text = None
    """Betas and preactivations of one function alone, such as 'x*sigmoid(beta*x)'."""
    output: Annotated[str | None, Word(), Typed(short="-o", metavar="FOLDER")] = None
    """Where the files go [RUN/figures]."""


def run(config: PlotConfig) -> int:
    from actsearch.reading.plotting import plot
    from actsearch.run import Run

    for path in plot(Run.chosen(config.run), config.of, config.function, config.output):
        put(path)
    return DONE
