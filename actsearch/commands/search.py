"""actsearch search: train a network with each function of a space, and rank them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actsearch.errors import DONE, RESUMABLE
from actsearch.options import Flag
from actsearch.settings import SearchOptions
from actsearch.shown import below, counts_line, head, put, say

if TYPE_CHECKING:
    from actsearch.run import Run


@dataclass(frozen=True)
class SearchConfig(SearchOptions):
    """Search a space: train a child network with each function, and rank them.

    The same command on the same folder goes on where it stopped; --budget is the total. What is not
    said comes from the run if there is one, else from the preset.

    Example: actsearch search runs/a --strategy random --budget 50
    """

    dry_run: Flag = False
    """Show the plan and stop."""


def run(config: SearchConfig) -> int:
    from rich.console import Console

    from actsearch.searching.launch import check_found, run_plan
    from actsearch.searching.loop import STOPPED
    from actsearch.searching.plan import make_plan

    plan = make_plan(config, dry=config.dry_run)
    say(*plan.lines(), "")
    if config.dry_run:
        return DONE
    start = time.monotonic()
    reason, notes = run_plan(plan, Console(stderr=True))
    if reason != STOPPED or any(n for s, n in plan.run.counts().items() if s != "waiting"):
        check_found(plan.run)
    put("\n".join(_closing(plan.run, reason, notes, time.monotonic() - start)))
    return RESUMABLE if reason == STOPPED else DONE


def _closing(searched: Run, reason: str, notes: Sequence[str], seconds: float) -> list[str]:
    """The end of a search: the ranked head, the counts, and what to type next."""
    from actsearch.reading.confirming import conclusion
    from actsearch.results.tables import duration, to_text
    from actsearch.searching.loop import STOPPED

    entries = searched.leaderboard()
    best = head(entries, searched.aims)
    hours = sum(e.seconds for e in entries)
    path = shlex.quote(str(searched.path))
    lost = "; nothing is lost, the same command goes on" if reason == STOPPED else ""
    first = next((e for e in entries if e.rank is not None and not e.beside), None)
    following = [
        f"the run is in {searched.path}; next:",
        f"  actsearch reevaluate {path} --top 5 --seeds 3",
        f"  actsearch report {path}",
        f"  actsearch export {path}#{first.rank if first else 1}",
    ]
    return [
        to_text(best),
        *below(best),
        counts_line(searched.counts()),
        *conclusion(searched),
        *_front_in_words(searched, path),
        f"ended: {reason}{lost}",
        *notes,
        *searched.slower(),
        f"{duration(seconds)} this time, {duration(hours)} of training in all",
        *(following if first else [f"the run is in {searched.path}"]),
    ]


def _front_in_words(searched: Run, path: str) -> list[str]:
    """Of a search with several aims: how many functions are on its front, and what shows them."""
    from actsearch.results.front import MAYBE, SURE, fronts

    if (aims := searched.aims) is None:
        return []
    found = [*fronts(searched.leaderboard(), aims).values()]
    return [
        f"on the front of {aims}: {found.count(SURE):,} beyond the intervals, "
        f"{found.count(MAYBE):,} more by their values; actsearch top {path} --where 'front!=no'"
    ]
