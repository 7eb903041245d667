"""Whether a cluster's head answers, asked without Ray: the greeting of HTTP/2, which every gRPC
server returns at once. A process that is frozen still has its connections accepted by the system,
but greets nobody, and Ray's own calls then wait in C++ for minutes.
"""

from __future__ import annotations

import logging
import os
import socket
import time

from actsearch.workers.executor import ClusterLostError

log = logging.getLogger("actsearch.workers")

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # RFC 9113, 3.4: no settings
SETTINGS = 4  # type of the first frame that comes back
ANSWER_SECONDS = 3.0
LOOK_SECONDS = 5.0
HEAD_SECONDS = 45.0  # Ray itself ends the process, without a word, after 60


def greet(address: str, seconds: float) -> None:
    """Raises OSError where `address` cannot be reached, TimeoutError (an OSError) where nothing is
    said within `seconds`, and ValueError where another than a gRPC server speaks."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return  # it answers only in TLS, and that it listens has to do
        connection.sendall(GREETING)
        with connection.makefile("rb") as answer:
            frame = answer.read(9)
    if len(frame) < 9 or frame[3] != SETTINGS:
        raise ValueError(f"answered {frame!r}")


class Head:
    """The head of the cluster at `address`, and since when it has been silent. Time in which nobody
    looked, as while this process was suspended, does not count."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._looked = self._heard = time.monotonic()
        self._since = ""

    @property
    def trouble(self) -> str:
        """What to tell the user; "" while the head answers."""
        if not self._since:
            return ""
        silent = time.monotonic() - self._heard
        return (
            f"Ray's head at {self.address} has been silent since {self._since} ({silent:.0f} s); "
            f"after {HEAD_SECONDS:g} s the search ends and can be resumed"
        )

    def look(self, *, at_once: bool = False) -> None:
        """Once in LOOK_SECONDS, unless `at_once`; raises ClusterLostError where the head is gone,
        or has been silent for HEAD_SECONDS."""
        since = time.monotonic() - self._looked
        if not at_once and since < LOOK_SECONDS:
            return
        self._heard += max(0.0, since - 2 * LOOK_SECONDS)
        try:
            greet(self.address, ANSWER_SECONDS)
        except ConnectionRefusedError as error:
            raise self.lost(f"is gone ({error})") from error
        except (OSError, ValueError) as error:
            self._silent(error)
        else:
            self._heard, self._since = time.monotonic(), ""
        finally:
            self._looked = time.monotonic()

    def _silent(self, error: Exception) -> None:
        silent = time.monotonic() - self._heard
        if silent >= HEAD_SECONDS:
            raise self.lost(f"has not answered for {silent:.0f} s ({error})") from error
        if not self._since:
            self._since = time.strftime("%H:%M:%S", time.localtime(time.time() - silent))
            log.warning("%s", self.trouble)

    def lost(self, what: str) -> ClusterLostError:
        return ClusterLostError(
            f"Ray's head at {self.address} {what}. All that had finished is stored; "
            "when it is back, the same command goes on."
        )
