"""Executors: they turn trials into outcomes, in this process or by Ray workers that pull."""
