"""Code of the user's own, whether an objective, a child or an operator: by which name it is found,
and how it is sent to workers.

It is sent by value, so all of a search runs the source that its protocol has the hash of
(source_digest.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actsearch.child_models.device import short
from actsearch.search_space.text import unknown


def found(text: str, what: str, example: str) -> Any:
    """What `my_module:train` names, of an installed module or one in this folder; `what` it is to
    be and an `example` are for people. Raises ValueError where nothing has that name, and where
    its module fails."""
    module, _, name = text.partition(":")
    if not (module and name):
        raise ValueError(f"the {what} {text!r} needs a module and a name in it, as {example}")
    here = _with_this_folder()
    if (hidden := _behind_pythons_own(module)) is not None:
        raise ValueError(
            f"the {what} {text}: {hidden.stem} is the name of a module of Python's own, which is "
            f"found instead of {hidden.name} in {here}; give {hidden.name} another name"
        )
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"the {what} {text}: {module} needs {error.name}") from error
        raise ValueError(
            f"the {what} {text}: there is no module {module} in {here}, nor installed"
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"the {what} {text}: importing {module} ends with {type(error).__name__}: "
            f"{short(error)}"
        ) from error
    if not hasattr(home, name):
        known = [k for k, v in vars(home).items() if callable(v) and not k.startswith("_")]
        raise ValueError(unknown(f"name in {module}", name, known))
    return getattr(home, name)


def is_module(name: str) -> bool:
    """Whether there is a module of this name in this folder, or installed."""
    _with_this_folder()
    return all(part.isidentifier() for part in name.split(".")) and (
        importlib.util.find_spec(name.partition(".")[0]) is not None
    )


def _with_this_folder() -> str:
    """This folder, in which modules are looked for from now on."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return here


def _behind_pythons_own(module: str) -> Path | None:
    """The file or folder here that `module` would be, were its name not one of the standard
    library's."""
    name = module.partition(".")[0]
    if name not in sys.stdlib_module_names:
        return None
    places = (Path.cwd() / f"{name}.py", Path.cwd() / name)
    spec = importlib.util.find_spec(name)
    origin = Path((spec and spec.origin) or "").resolve()
    ours = [p for p in places if p.exists() and p.resolve() not in (origin, origin.parent)]
    return ours[0] if ours else None


# -- sent to workers


def by_value(thing: Any, what: str, homes: Iterable[Any]) -> bytes:
    """`thing` as bytes, with the functions and values that it uses of the modules of `homes`, which
    are functions and classes; so no worker has to find these modules, nor finds later ones. Raises
    ValueError where it holds what nobody can be sent."""
    pickler: Any = importlib.import_module("ray.cloudpickle")
    names = {home.__module__ for home in homes} - {"__main__"}
    with ExitStack() as stack:
        for module in (sys.modules[name] for name in sorted(names) if name in sys.modules):
            pickler.register_pickle_by_value(module)
            stack.callback(pickler.unregister_pickle_by_value, module)
        try:
            return pickler.dumps(thing)
        except Exception as error:
            raise ValueError(
                f"{what} cannot be sent to Ray's workers ({short(error)}); make what it holds "
                "inside of it, or train in this process with executor 'inline'"
            ) from error


def from_bytes(sent: bytes) -> Any:
    return importlib.import_module("ray.cloudpickle").loads(sent)
