"""actsearch paper: the paper's tables, and beside them what a run has measured."""

from __future__ import annotations

from dataclasses import dataclass

from actsearch.errors import DONE
from actsearch.options import Format, Int, Options, RunFolder
from actsearch.shown import put


@dataclass(frozen=True)
class PaperConfig(Options):
    """Print the paper's tables, and beside them what a run has measured.

    Table 3 is counted again, with its sign tests.

    Example: actsearch paper --table 3
    """

    run: RunFolder = None
    """Folder of a run with re-evaluations [the paper alone]."""
    table: Int = None
    """One table, 1 to 11 [all; with a run those of its data sets]."""
    format: Format = "table"
    """{names}; csv and json hold a row a score."""


def run(config: PaperConfig) -> int:
    from actsearch.results.tables import FORMATS
    from actsearch.run import Run
    from actsearch.studies.beside_paper import paper_rows, paper_text

    measured = Run.open(config.run) if config.run else None
    render = FORMATS[config.format]
    if config.format in ("table", "markdown"):
        put(paper_text(config.table, measured, render), end="")
    else:
        put(render(paper_rows(config.table, measured)), end="")
    return DONE
