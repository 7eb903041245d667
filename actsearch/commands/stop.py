"""actsearch stop: ask a search to stop."""

from __future__ import annotations

from dataclasses import dataclass

from actsearch.errors import DONE
from actsearch.options import Options, RunFolder
from actsearch.shown import say


@dataclass(frozen=True)
class StopConfig(Options):
    """Ask a search to stop: its running children finish, and nothing is lost.

    Example: actsearch stop runs/a
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""


def run(config: StopConfig) -> int:
    from actsearch.run import Run

    holder = Run.chosen(config.run).stop()
    say(f"Asked {holder} to stop; its running children finish first. Nothing is lost.")
    return DONE
