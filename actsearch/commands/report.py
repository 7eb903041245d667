"""actsearch report: what a run has found as one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE
from actsearch.options import Count, Options, RunFolder, Typed, Word
from actsearch.shown import put


@dataclass(frozen=True)
class ReportConfig(Options):
    """Write what a run has found as one HTML file that needs nothing else.

    The verdict on test data, the ranked table, which sorts, a card with curves and code for each
    of the best functions, and the figures of 'actsearch plot'. Works while the search goes on.

    Example: actsearch report runs/a -o report.html
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    output: Annotated[str | None, Word(), Typed(short="-o", metavar="FILE")] = None
    """The file [RUN/report.html]."""
    rows: Count = 500
    """Functions in the table, the best first."""


def run(config: ReportConfig) -> int:
    from actsearch.reading.reporting import report
    from actsearch.run import Run

    put(report(Run.chosen(config.run), config.output, rows=config.rows))
    return DONE
