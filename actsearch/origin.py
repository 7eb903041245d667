"""What code this is: its version and digest, and what in a folder would hide it.

In a checkout the five packages below stand beside `actsearch`, and links in it lead to them; in a
wheel they lie inside. Either way they are imported as `actsearch.results` and so on.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from actsearch.results.version import own_version

PACKAGES = ("search_space", "controller", "child_models", "workers", "results")
HOME = Path(__file__).resolve().parent


@cache
def code_version() -> str:
    """Version and hash of all sources: what a driver and its workers must have in common."""
    import hashlib

    # rglob does not follow links, so each package is named; where none is a link, a file is found
    # twice and counted once.
    folders = (HOME, *(HOME / package for package in PACKAGES))
    files = {file for folder in folders for file in folder.rglob("*.py")}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(HOME)}".encode() + file.read_bytes())
    return f"{own_version()} ({digest.hexdigest()[:8]})"


def shadowing(folder: Path) -> list[str]:
    """The names in `folder` that would hide actsearch from Ray's workers, whose path starts
    there."""
    names = (folder / "actsearch.py", folder / "actsearch" / "__init__.py")
    return [str(n) for n in names if n.is_file() and n.resolve() != HOME / "__init__.py"]
