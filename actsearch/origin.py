"""Makes sure that `results`, `workers` and our other generic names are ours.

Ray puts the driver's folder first on each worker's path, so a user's own `results.py` there would
be imported in the place of our package. A finder for just these names goes first; a foreign module
that was imported earlier cannot be undone, so it is refused with a sentence.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

PACKAGES = ("search_space", "controller", "child_models", "workers", "results")
ROOT = Path(__file__).resolve().parent.parent


class _OwnPackages(MetaPathFinder):
    """Finds each of PACKAGES beside actsearch, wherever the path would lead."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in PACKAGES:
            return None
        folder = ROOT / fullname
        return importlib.util.spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def guard() -> None:
    """Install the finder; raises ImportError where a foreign module has one of our names."""
    for name in PACKAGES:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is not None and (file is None or ROOT / name != Path(file).resolve().parent):
            raise ImportError(
                f"a module named {name!r} from {file} is loaded, but actsearch needs its own "
                f"package of that name from {ROOT}; rename yours, or import actsearch first"
            )
    if not any(isinstance(finder, _OwnPackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OwnPackages())


@cache
def code_version() -> str:
    """Version and hash of all sources: what a driver and its workers must have in common."""
    import hashlib
    import importlib.metadata  # a command starts sooner without

    digest = hashlib.sha256()
    for package in sorted((*PACKAGES, "actsearch")):
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{file.relative_to(ROOT)}".encode() + file.read_bytes())
    return f"{importlib.metadata.version('actsearch')} ({digest.hexdigest()[:8]})"


def shadowing(folder: Path) -> list[str]:
    """The names in `folder` that would hide the actsearch package itself from Ray's workers."""
    names = (folder / "actsearch.py", folder / "actsearch" / "__init__.py")
    ours = ROOT / "actsearch" / "__init__.py"
    return [str(name) for name in names if name.is_file() and name.resolve() != ours]


def shadowed(folder: Path) -> list[str]:
    """Files in `folder` with the names of our packages: they are passed over, which is worth
    saying."""
    found = [folder / f"{n}.py" for n in PACKAGES] + [folder / n / "__init__.py" for n in PACKAGES]
    return [str(f) for f in found if f.is_file() and f.resolve().parent.parent != ROOT]
