"""actsearch archive: a run as one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE
from actsearch.options import Options, RunFolder, Typed, Word
from actsearch.shown import put


@dataclass(frozen=True)
class ArchiveConfig(Options):
    """Write a run as one small file, which is read as the run is.

    top, report, plot, compare, show, export, replay and merge take it in the place of a run's
    folder. It holds all trials with their curves, and no log. A search may go on meanwhile.

    Example: actsearch archive runs/a
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    output: Annotated[str | None, Word(), Typed(short="-o", metavar="FILE")] = None
    """The file [RUN.zip]."""


def run(config: ArchiveConfig) -> int:
    from actsearch.run import Run

    target = Run.chosen(config.run).archive(config.output)
    put(f"{target}: {target.stat().st_size:,} bytes")
    return DONE
