"""What a search does now, as a file in its run's folder, for whoever watches from another process.

The file is replaced every two seconds while the search runs, and removed at its end. What a killed
driver has left says nothing: the run's lock does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from actsearch.run import Run
from actsearch.searching.progress import Progress, Scored

SECONDS = 2.0
MOST = 200  # children that are named


@contextmanager
def noting(progress: Progress, run: Run) -> Iterator[None]:
    """Keep the file while the body runs. Where it cannot be written the search goes on without."""
    over = threading.Event()

    def note() -> None:
        while True:
            with suppress(OSError):
                part = run.status_file.with_suffix(".part")
                part.write_text(json.dumps(status(progress)))
                part.replace(run.status_file)
            if over.wait(SECONDS):
                return

    thread = threading.Thread(target=note, name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            run.status_file.unlink(missing_ok=True)


def status(progress: Progress) -> dict[str, Any]:
    """As plain values: times in seconds, scores as people read them."""
    children = progress.children()
    return {
        "at": time.time(),
        "seconds": time.monotonic() - progress.started,
        "workers": progress.workers,
        "done": progress.done,
        "total": progress.total,
        "running": progress.running,
        "rate": progress.rate,
        "eta": progress.eta,
        "counts": dict(progress.counts),
        "repeats": progress.repeats,
        "stopping": progress.stopping,
        "trouble": progress.trouble,
        "best": [_scored(s) for s in progress.best],
        "baselines": {name: s.text for name, s in progress.baselines.items()},
        "last": [_scored(s) for s in progress.last],
        "health": [dict(numbers) for numbers in progress.health],
        "children": [
            {
                "formula": child.trial.formula,
                "seed": child.trial.seed,
                "worker": child.worker,
                "step": child.step,
                "seconds": child.seconds,
            }
            for child in children[:MOST]
        ],
        "more": max(0, len(children) - MOST),
    }


def _scored(scored: Scored) -> dict[str, Any]:
    why = scored.text if scored.score is not None else f"{scored.status}: {scored.reason}"
    return {"formula": scored.formula, "score": why, "at": scored.at}
