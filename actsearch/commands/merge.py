"""actsearch merge: what other machines have found, into one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE, UsageError
from actsearch.options import Folder, Options, Typed
from actsearch.shown import counts_line, put


@dataclass(frozen=True)
class MergeConfig(Options):
    """Take into a run what other machines have found, which have searched the same.

    Space, seed, child, data and recipe must be the same. Of a trial that both have, that of RUN
    stays. Where there is no RUN yet, it is made. The others may be folders or archives, and are not
    changed.

    Example: actsearch merge runs/all runs/a elsewhere.zip
    """

    run: Annotated[str, Folder(), Typed(place="RUN")]
    """Folder of the run."""
    others: Annotated[tuple[str, ...], Folder(), Typed(place="OTHER ...")]
    """Folders or archives of the runs that are taken in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.others:
            raise UsageError("name the runs that are taken in, as 'actsearch merge RUN OTHER'")


def run(config: MergeConfig) -> int:
    from actsearch.run import Run
    from actsearch.searching.merging import merge

    found = merge(config.run, config.others)
    merged = Run.open(config.run)
    put("\n".join([*(taken.text(merged) for taken in found), counts_line(merged.counts())]))
    return DONE
