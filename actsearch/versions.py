"""The versions that the tests were run with. Others are used all the same, with a word about it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

# The oldest release of each that large parts of the tests were run with, and the newest, with all.
TESTED = {"torch": ("2.11", "2.14"), "torchvision": ("0.26", "0.29")}


def untested() -> Iterator[str]:
    """A sentence for each installed package that is outside its tested range."""
    for name, (oldest, newest) in TESTED.items():
        installed = importlib.metadata.version(name)
        if not _release(oldest) <= _release(installed) <= _release(newest):
            yield (
                f"{name} {installed} is outside the range that the tests were run with, {oldest} "
                f"to {newest}; it probably works, and if it does not, install one of these"
            )


def _release(version: str) -> tuple[int, ...]:
    """Major and minor version: (2, 14) of "2.14.1+cpu"."""
    return tuple(int(part) for part in version.split(".")[:2])
