"""actsearch top: rank the functions of a run."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from actsearch.errors import DONE
from actsearch.options import Flag, Format, Listed, Options, RunFolder, Typed, Whole
from actsearch.shown import below, counts_line, narrow, put

if TYPE_CHECKING:
    from actsearch.run import Run

WATCH_SECONDS = 2.0


@dataclass(frozen=True)
class TopConfig(Options):
    """Rank a run's functions by validation score; works while it searches.

    Example: actsearch top runs/a -n 10 --where 'betas<=1'
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    n: Annotated[int, Whole(), Typed(short="-n")] = 20
    """How many functions."""
    format: Format = "table"
    """{names}."""
    where: Annotated[str, Listed(metavar="CONDITIONS")] = ""
    """Conditions, such as 'monotonic=no, betas<=1, val_accuracy>0.9'."""
    wide: Flag = False
    """Show every column: canonical form, symmetry class, properties."""
    watch: Flag = False
    """Show it again every two seconds."""


def run(config: TopConfig) -> int:
    from actsearch.run import Run

    chosen = Run.chosen(config.run)
    if not config.watch:
        _show(chosen, config)
        return DONE
    try:
        while True:
            if config.format == "table":
                sys.stdout.write("\x1b[2J\x1b[H")
            _show(chosen, config)
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return DONE  # there is no other way out


def _show(chosen: Run, config: TopConfig) -> None:
    from actsearch.reading.confirming import conclusion
    from actsearch.results.filters import where
    from actsearch.results.tables import FORMATS

    counts = chosen.counts()
    found = where(config.where, chosen.top_rows())
    rows = found[: config.n]
    short = config.format in ("table", "markdown") and not config.wide
    put(FORMATS[config.format]([narrow(row) for row in rows] if short else rows), end="")
    if config.format == "table":
        for line in below(rows):
            put(line)
        put(f"{chosen.path}: {counts_line(counts)}")
        if found and config.where:
            put(f"{len(found):,} of them with {config.where}")
        elif config.where:
            fractions = "; scores are fractions, as val_accuracy>0.9" * chosen.metric.fraction
            put(f"no function with {config.where}{fractions}")
        for sentence in conclusion(chosen):
            put(sentence)
    sys.stdout.flush()
