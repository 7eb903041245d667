"""Ahead: kernels of functions that are coming, built in threads: for processors many in one call of
the compiler, for GPUs one by one in processes.

A worker that finds no kernel builds its own, so nothing waits for this and nothing depends on it.
For a processor a kernel alone takes twice the time that it takes among many.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from actsearch.search_space.expression import Expr
from actsearch.search_space.kernels import c, cuda, libraries, normalised
from actsearch.search_space.kernels.builders import Builders, builders
from actsearch.search_space.kernels.compiler import CompileError
from actsearch.search_space.kernels.tracing import Traced, UnsupportedError, trace

log = logging.getLogger("actsearch")


def _serves(layout: str, traced: Traced) -> bool:
    return layout == normalised.LAYOUT or (layout == "flat") == (not traced.betas)


class Ahead:
    """Call it with functions that are coming. `kinds` are the (device, element, layout) that the
    children use; `flat` stands for functions without betas, any other layout for those with."""

    def __init__(
        self,
        kinds: Iterable[tuple[str, str, str]],
        operators: str,
        processes: Builders | None = None,
    ) -> None:
        self.kinds = sorted(kinds)
        self.operators = operators
        self._for_gpu = any(device == "cuda" for device, _, _ in self.kinds)
        self._builders = processes or builders()
        threads = self._builders.most if self._for_gpu else 1
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="kernels")
        self._last: list[Future[int]] = []
        self._told: set[Expr] = set()

    def __call__(self, exprs: Sequence[Expr]) -> None:
        new = [e for e in dict.fromkeys(exprs) if e not in self._told]
        self._told.update(new)
        if self.kinds and new:
            groups = [[e] for e in new] if self._for_gpu else [new]
            self._last = [self._threads.submit(self._build, group) for group in groups]

    def _build(self, exprs: Sequence[Expr]) -> int:
        wanted: list[tuple[Traced, str, str, str]] = []
        for expr in exprs:
            try:
                traced = trace(expr, self.operators)
            except UnsupportedError:
                continue  # it runs eagerly
            wanted += [(traced, *k) for k in self.kinds if _serves(k[2], traced)]
        try:
            for traced, device, element, layout in wanted:
                if device == "cuda":
                    fits = layout == normalised.LAYOUT
                    source = normalised.source(traced) if fits else cuda.source(traced, layout)
                    self._builders.compile(source, element)
            sources = [c.source(t, *kind) for t, device, *kind in wanted if device == "cpu"]
            return libraries.build(sources) + len(wanted) - len(sources)
        except (CompileError, OSError) as error:
            log.info("no kernels built ahead: %s", error)
            return 0

    def wait(self) -> int:
        """Until the last ones are built; returns how many of them were new, or for a GPU all."""
        return sum(future.result() for future in self._last)

    def close(self) -> None:
        """What has not begun is dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._builders.close()
