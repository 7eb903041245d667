"""Ahead: kernels of functions that are coming, built many in one call of the compiler, in a thread.

A worker that finds no kernel builds its own, so nothing waits for this and nothing depends on it:
alone a kernel takes twice the processor time that it takes among many.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from actsearch.search_space.expression import Expr
from actsearch.search_space.kernels import c, libraries
from actsearch.search_space.kernels.compiler import CompileError
from actsearch.search_space.kernels.tracing import UnsupportedError, trace

log = logging.getLogger("actsearch")


class Ahead:
    """Call it with functions that are coming. `kinds` are the (element, layout) that the children
    use; `flat` stands for functions without betas, any other layout for those with."""

    def __init__(self, kinds: Iterable[tuple[str, str]], operators: str) -> None:
        self.kinds = sorted(kinds)
        self.operators = operators
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kernels")
        self._last: Future[int] | None = None

    def __call__(self, exprs: Sequence[Expr]) -> None:
        if self.kinds and exprs:
            self._last = self._thread.submit(self._build, list(exprs))

    def _build(self, exprs: Sequence[Expr]) -> int:
        sources: list[c.Source] = []
        for expr in exprs:
            try:
                traced = trace(expr, self.operators)
            except UnsupportedError:
                continue  # it runs eagerly
            layouts = [k for k in self.kinds if (k[1] == "flat") == (not traced.betas)]
            sources += [c.source(traced, element, layout) for element, layout in layouts]
        try:
            return libraries.build(sources)
        except (CompileError, OSError) as error:
            log.info("no kernels built ahead: %s", error)
            return 0

    def wait(self) -> int:
        """Until the last ones are built; returns how many of them were new."""
        return 0 if self._last is None else self._last.result()

    def close(self) -> None:
        """What has not begun is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)
