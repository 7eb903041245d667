"""Executors: they turn trials into outcomes, in this process or by Ray workers that pull."""

if __name__ != "actsearch.workers":
    raise ImportError("this package is actsearch.workers; import it by that name")
