"""The version of this package, as records, reports and exported code name it."""

from __future__ import annotations


def own_version() -> str:
    """As installed, or `not installed` where its sources are only on the path."""
    import importlib.metadata  # a command starts sooner without

    try:
        return importlib.metadata.version("actsearch")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
