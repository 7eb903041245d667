"""One thread for what a search computes beside its children: tensors are small there, the cores
belong to the workers, and more threads than cores are slower by far. It also keeps the arithmetic
of a strategy the same on every machine size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch


@contextmanager
def one_thread(*modules: str) -> Iterator[None]:
    """torch, and the BLAS and OpenMP under numpy and under `modules`, inside this block. They are
    imported first: a library that is loaded later has as many threads as it likes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries(modules).limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _libraries(modules: tuple[str, ...]) -> Any:
    from threadpoolctl import ThreadpoolController

    for module in modules:
        import_module(module)
    return ThreadpoolController()
