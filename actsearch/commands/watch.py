"""actsearch watch: a run in a browser while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE
from actsearch.options import Flag, Options, RunFolder, Whole
from actsearch.shown import put, say


@dataclass(frozen=True)
class WatchConfig(Options):
    """Show a run in a browser while it goes on: what is trained now, and its report.

    The page is served on this machine alone, under an address that nobody can guess, and only
    reads; Ctrl-C ends it, and the search goes on. From another machine: ssh -L PORT:127.0.0.1:PORT.

    Example: actsearch watch runs/a
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    port: Annotated[int, Whole(0)] = 0
    """Port of the server, 0 for one that is free."""
    open: Flag = False
    """Open the page in the browser."""


def run(config: WatchConfig) -> int:
    import webbrowser

    from actsearch.reading.watching import server
    from actsearch.run import Run

    serving, address = server(Run.chosen(config.run), config.port)
    with serving:
        put(address)
        say("Ctrl-C ends this; the search goes on.")
        if config.open:
            webbrowser.open(address)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            return DONE
    return DONE
