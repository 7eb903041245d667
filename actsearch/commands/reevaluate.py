"""actsearch reevaluate: train a run's best functions again, scored on test data."""

from __future__ import annotations

from dataclasses import dataclass

from actsearch.errors import DONE, RESUMABLE
from actsearch.options import Format
from actsearch.settings import ReevaluateOptions
from actsearch.shown import below, put


@dataclass(frozen=True)
class ReevaluateConfig(ReevaluateOptions):
    """Train a run's best functions again, with several seeds, scored on test data.

    Any children and data sets will do. ReLU and Swish are always beside them, with the same seeds;
    differences to ReLU are paired by seed. Settings of a training that are
    not said are those of the search. The same command goes on where it stopped.

    Example: actsearch reevaluate runs/a --top 5 --seeds 3
    """

    format: Format = "table"
    """{names}."""


def run(config: ReevaluateConfig) -> int:
    from rich.console import Console

    from actsearch.reading.comparison import luck
    from actsearch.results.tables import FORMATS
    from actsearch.run import Run
    from actsearch.searching.loop import STOPPED
    from actsearch.searching.reevaluation import run_reevaluation

    rows, reason = run_reevaluation(config, Console(stderr=True))
    put(FORMATS[config.format](rows), end="")
    if config.format == "table":
        for line in below(rows):
            put(line)
        if not config.functions and (sentence := luck(Run.chosen(config.run))):
            put(sentence)
    return RESUMABLE if reason == STOPPED else DONE
