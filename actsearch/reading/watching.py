"""watch(): a run in a browser while it goes on, from a small server on this machine alone.

It serves three things below a random token, and reads the run as any reader does: the page, what
the driver says that it does now (`searching/status.py`), and the report, made anew as outcomes
come, in this process. The driver does nothing for it but write a small file.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from actsearch.errors import EnvironmentProblem, RunError
from actsearch.reading.reporting import contents, filled, policy, render, template
from actsearch.results.store import StoreError
from actsearch.run import Run

HOST = "127.0.0.1"
SHARE = 0.2  # of a core at most that making reports takes
LEAST_SECONDS = 5.0  # between two reports
ROWS = 500
SILENCE = 30.0  # seconds in which a client that says nothing is let go
NOTHING = "<!DOCTYPE html><meta charset=utf-8><title>report</title><p>Nothing has finished yet."


class Watched:
    """A run, and its report as it was made last."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.page = NOTHING
        self.version = 0  # how many outcomes the report has
        self._making = threading.Lock()
        self._again = 0.0  # when a report may be made next

    def now(self) -> dict[str, Any]:
        """What the page is told."""
        self._renew()
        return {
            "time": time.time(),
            "there": self.run.there,
            "driver": self.run.driver(),
            "status": self.run.status(),
            "steps": self.run.settings.get("steps"),
            "report": self.version,
        }

    def _renew(self) -> None:
        """Have the report made where there is something new, unless it is being made."""
        if self._making.acquire(blocking=False):
            threading.Thread(target=self._make, daemon=True).start()

    def _make(self) -> None:
        try:
            outcomes = self._outcomes()
            if outcomes == self.version or time.monotonic() < self._again:
                return
            began = time.thread_time()
            self.page = render(contents(self.run, ROWS))
            self.version = outcomes
            took = time.thread_time() - began
            self._again = time.monotonic() + max(LEAST_SECONDS, took / SHARE)
        except (RunError, StoreError, sqlite3.Error):
            pass  # nothing has finished yet, or the folder is being moved; the next look says
        finally:
            self._making.release()

    def _outcomes(self) -> int:
        with closing(self.run.store(readonly=True)) as store:
            return store.finished()


def server(run: Run, port: int = 0) -> tuple[ThreadingHTTPServer, str]:
    """A server that is bound and not started yet, and the address of its page. Raises
    EnvironmentProblem where the port is taken."""
    token = secrets.token_urlsafe(16)
    watched = Watched(run)
    source = template("watch.html")
    page = filled(source, {"name": run.name})
    answers: dict[str, Callable[[], tuple[str, str]]] = {
        f"/{token}/": lambda: (page, "text/html"),
        f"/{token}/now.json": lambda: (json.dumps(watched.now()), "application/json"),
        f"/{token}/report": lambda: (watched.page, "text/html"),
    }
    try:
        made = _Server((HOST, port), _Handler)
    except OSError as error:
        why = f"port {port} cannot be used ({error.strerror}); --port 0 takes one that is free"
        raise EnvironmentProblem(why) from error
    made.answers = answers
    made.policy = policy(source, more="; connect-src 'self'; frame-src 'self'")
    return made, f"http://{HOST}:{made.server_port}/{token}/"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: dict[str, Callable[[], tuple[str, str]]]
    policy: str

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing where a browser has gone before it had its answer; the terminal is the user's."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "actsearch", ""
    timeout = SILENCE

    def do_GET(self) -> None:
        hosts = [f"{host}:{self.server.server_port}" for host in (HOST, "localhost")]
        answer = self.server.answers.get(self.path)
        # A page of elsewhere whose name leads here would have another host.
        if answer is None or self.headers.get("Host") not in hosts:
            self.send_error(404)
            return
        text, kind = answer()
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        if not self.path.endswith("/report"):  # which has a policy of its own
            self.send_header("Content-Security-Policy", self.server.policy)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the user's."""
