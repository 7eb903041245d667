"""actsearch worker: add this machine to a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE
from actsearch.options import Int, Options, RunFolder, Whole, Word
from actsearch.shown import say


@dataclass(frozen=True)
class WorkerConfig(Options):
    """Add this machine to a Ray cluster, for as long as this command runs.

    Searches on that cluster that were started without --workers use it within seconds.

    Example: actsearch worker --ray-address 10.0.0.1:6379
    """

    ray_address: Annotated[str, Word()]
    """The cluster's head, such as 10.0.0.1:6379."""
    run: RunFolder = None
    """Folder of a run on a shared disk: leave the cluster when its search has ended."""
    cpus: Int = None
    """Cores to offer [all]."""
    gpus: Annotated[int | None, Whole(0)] = None
    """GPUs to offer [all]."""


def run(config: WorkerConfig) -> int:
    from actsearch.run import Run
    from actsearch.searching.cluster import join

    searched = Run.open(config.run) if config.run else None
    for line in join(config.ray_address, searched, cpus=config.cpus, gpus=config.gpus):
        say(line)
    return DONE
