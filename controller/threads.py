"""One thread for a strategy's small matrices: the cores belong to the workers, and more threads
than cores are slower by far. It also keeps the arithmetic the same on every machine size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """torch and the BLAS under numpy and scikit-learn, inside this block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
