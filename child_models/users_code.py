"""Code of the user's own, whether an objective, a child or an operator: by which name it is found,
what its source is, and how it is sent to workers.

It is sent by value, so all of a search runs the source that its protocol has the hash of.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from actsearch.child_models.device import short
from actsearch.search_space.text import unknown

INSTALLED = ("site-packages", "dist-packages")
PACKAGE = __name__.partition(".")[0]
PLAIN = (str, bytes, int, float, complex, torch.dtype)
DEEPEST = 8  # of lists in lists, since one may hold itself


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


# -- its source


def digest_of(thing: Any) -> str:
    """The hash of the source of a function or class, and of what that uses by name of the user's
    own: functions, classes, and what `plain` knows. It is the same whether its module is imported
    or is the script."""
    first = function_of(thing)
    home = Home.of(first)
    found = {"": source_digest(thing)}
    waiting = [first]
    while waiting:
        for name, value in _used(waiting.pop(), home):
            if name in found:
                continue
            if isinstance(value, types.FunctionType | type) and home.owns(value):
                found[name] = source_digest(value)
                waiting.append(value)
            elif (text := plain(value)) is not None:
                found[name] = text
            elif home.owns(type(value)) and not isinstance(value, torch.nn.Module):
                found[name] = plain(getattr(value, "__dict__", {})) or ""
                waiting.append(type(value))
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]


def function_of(train: Any) -> Any:
    """The function or class behind a callable."""
    while isinstance(train, partial):
        train = train.func
    if isinstance(train, types.MethodType):
        return type(train.__self__)
    return train if isinstance(train, types.FunctionType | type) else type(train)


class Home(NamedTuple):
    """Where code of the user's own is: its module, and the folder of that or of its top package."""

    module: str
    folder: Path

    @classmethod
    def of(cls, thing: Any) -> Home:
        """Of a function or class."""
        module, file = thing.__module__, _file(thing.__module__)
        if file is None:
            return cls(module, Path.cwd())
        above = (0 if module == "__main__" else module.count(".")) + (file.name == "__init__.py")
        return cls(module, file.parents[above])

    def owns(self, thing: Any) -> bool:
        """Whether a function, class or module is of the user's own, in that folder or below."""
        name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
        if name in ("__main__", self.module):
            return True
        if name is None or name.partition(".")[0] in {PACKAGE, *sys.stdlib_module_names}:
            return False
        file = _file(name)
        return file is not None and self.folder in file.parents and not _among_installed(file)


def _file(module: str | None) -> Path | None:
    """Where a module's source is; None of one that has none, such as a notebook."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return None if file is None else Path(file).resolve()


def _among_installed(file: Path) -> bool:
    return any(part in INSTALLED for part in file.parts)


def _used(thing: Any, home: Home) -> Iterator[tuple[str, Any]]:
    """The values that the code of a function, or of a class's methods, has from outside, among them
    default arguments, the classes that a class is made of and its attributes, each with a name of
    its own, which tells its module where that is not `home`. (What a closure holds is part of its
    source.)"""
    if isinstance(thing, type):
        yield from ((base.__qualname__, base) for base in thing.__mro__[1:])
        for name, value in vars(thing).items():
            method = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(method, types.FunctionType):
                yield from _used(method, home)
            elif not name.startswith("__"):
                yield f"{thing.__qualname__}.{name}", value
        return
    if not isinstance(thing, types.FunctionType):
        return
    for values in (thing.__defaults__, thing.__kwdefaults__):
        if values is not None:
            yield f"{thing.__qualname__} {type(values).__name__}", values
    for cell in thing.__closure__ or ():
        with suppress(ValueError):  # that is empty
            if isinstance(held := cell.cell_contents, types.FunctionType | type):
                yield f"{thing.__qualname__} {held.__qualname__}", held
    names, known = _names(thing.__code__), thing.__globals__
    where = "" if thing.__module__ == home.module else f"{thing.__module__}."
    for name in sorted(names & known.keys()):
        value = known[name]
        if isinstance(value, types.ModuleType):
            yield from _parts(value, names, home)
        else:
            yield f"{where}{name}", value


def _parts(module: types.ModuleType, names: set[str], home: Home) -> Iterator[tuple[str, Any]]:
    """What a module of the user's own has of these names, and its modules."""
    if not home.owns(module):
        return
    for name in sorted(names & vars(module).keys()):
        value = vars(module)[name]
        if isinstance(value, types.ModuleType):
            yield from _parts(value, names - {name}, home)
        else:
            yield f"{module.__name__}.{name}", value


def _names(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def plain(value: Any, depth: int = 0) -> str | None:
    """What a number, a text, an array or the like is, and a list, dictionary or dataclass of them;
    None for other things, which in one of those are `?`."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        if value.dtype == torch.bfloat16:  # which numpy does not know
            return f"bfloat16 {plain(value.float())}"
        value = value.numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, np.generic):
        value = value.item()
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, types.SimpleNamespace):
        value = vars(value)
    if isinstance(value, dict):
        value = sorted(value.items(), key=_by_key)
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        if depth == DEEPEST:
            return None
        return f"({', '.join(plain(part, depth + 1) or '?' for part in value)})"
    return repr(value) if value is None or isinstance(value, PLAIN) else None


def _by_key(item: tuple[Any, Any]) -> str:
    return repr(item[0])


def told(value: Any) -> str | None:
    """As `plain`, and which function or class it is: of a library by its name, else by its
    source."""
    if isinstance(value, partial):
        return f"{told(value.func)}{plain(value.args)}{plain(value.keywords)}"
    value = getattr(value, "__func__", value)  # of a method
    if not isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return plain(value)
    name = f"{value.__module__}.{value.__qualname__}"
    return name if is_installed(value) else digest_of(value)


def is_installed(thing: Any) -> bool:
    """Whether a function or class is of an installed library, whose source nobody looks at, or of
    this package, wherever it lies."""
    if thing.__module__ == "__main__":
        return False
    if str(thing.__module__).partition(".")[0] == PACKAGE:
        return True
    try:
        return _among_installed(Path(inspect.getfile(thing)))
    except (TypeError, OSError):
        return True  # of Python itself


def source_digest(function: Callable[..., Any]) -> str:
    """The hash of a function's source, and of what it was given with it: an edited model or
    operator makes another run. Raises ValueError where that has no name outside this process."""
    return hashlib.sha256(_source(function, ()).encode()).hexdigest()[:12]


def _source(thing: Any, seen: tuple[Any, ...]) -> str:
    """What a value is, in words that are the same in each process. `seen` are the things that
    lead here, since a function can hold itself."""
    if any(thing is one for one in seen):
        return "itself"
    within = (*seen, thing)

    def words(parts: Iterable[Any]) -> str:
        return f"({', '.join(_source(part, within) for part in parts)})"

    match thing:
        case partial():
            return "partial" + words([thing.func, thing.args, thing.keywords])
        case types.MethodType():
            return words([thing.__func__, thing.__self__])
        case types.FunctionType() | type():
            cells = getattr(thing, "__closure__", None) or ()
            return _text(thing) + (words(c.cell_contents for c in cells) if cells else "")
        case types.BuiltinFunctionType() | types.ModuleType():
            return getattr(thing, "__qualname__", thing.__name__)
        case types.CodeType():
            return words([thing.co_code.hex(), *thing.co_names, *thing.co_consts])
        case dict():
            return words(sorted(thing.items(), key=lambda item: str(item[0])))
        case list() | tuple():
            return words(thing)
    text = repr(thing)
    if not re.search(r" at 0x[0-9a-f]+", text):
        return text
    if not hasattr(thing, "__dict__"):
        raise ValueError(
            f"{text} could not be told from another one when a run is resumed; use a function"
        )
    return words([type(thing), vars(thing)])


def _text(thing: Any) -> str:
    """A function or class as it was written; where nobody kept that, its code. Several lambdas of a
    line are written alike, so each has its code too."""
    code = getattr(thing, "__code__", None)
    try:
        text = inspect.getsource(thing)
    except (OSError, TypeError):
        text = f"{thing.__module__}.{thing.__qualname__}"
    else:
        code = code if text.count("lambda") > 1 and thing.__name__ == "<lambda>" else None
    return text if code is None else text + _source(code, ())
