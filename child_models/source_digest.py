"""digest_of(): what code of the user's own is, so that a run knows when it has changed: its source,
and the source and values of what that uses of the user's modules."""

from __future__ import annotations

import dis
import hashlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch

INSTALLED = ("site-packages", "dist-packages")
PACKAGE = __name__.partition(".")[0]
PLAIN = (str, bytes, bool, int, float, complex, range, torch.dtype, torch.device)
DEEPEST = 8  # of lists in lists


def digest_of(thing: Any) -> str:
    """The hash of the source of a function or class, and of what that uses by name of the user's
    own: functions, classes, and what `plain` knows. It is the same whether its module is imported
    or is the script."""
    first = function_of(thing)
    home = Home.of(first)
    found = {"": source_digest(thing), "of": _own_source(first)}
    waiting = [first]
    if isinstance(thing, partial):
        for given in (*thing.args, *thing.keywords.values()):
            if isinstance(given, types.FunctionType | type):
                waiting += _said_of(given, home)[1]
    while waiting:
        for name, value in _used(waiting.pop(), home):
            if name in found:
                continue
            try:
                text, more = _said_of(value, home)
            except Exception:  # of a strange object, which says nothing
                continue
            if text is not None:
                found[name] = text
                waiting += more
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]


def _said_of(value: Any, home: Home) -> tuple[str | None, list[Any]]:
    """What a value that code uses is, in text, and the functions and classes behind it that are
    the user's own; None where nothing is said."""
    if isinstance(value, partial):
        text, more = _said_of(value.func, home)
        return f"{text}{plain(value.args)}{plain(value.keywords)}", more
    if isinstance(value, types.MethodType):
        text, more = _said_of(value.__func__, home)
        return text, [*more, type(value.__self__)]
    if isinstance(value, types.FunctionType | type):
        return (_own_source(value), [value]) if home.owns(value) else (value.__qualname__, [])
    if isinstance(value, types.BuiltinFunctionType):
        return value.__qualname__, []
    if isinstance(inner := getattr(value, "__wrapped__", None), types.FunctionType):  # lru_cache
        return _said_of(inner, home)
    text, more = plain(value), []
    for part in _parts_of(value):
        if callable(part):
            said, behind = _said_of(part, home)
            text, more = f"{text} {said}", [*more, *behind]
    if home.owns(type(value)):
        if text is None and not isinstance(value, torch.nn.Module):
            text = plain(getattr(value, "__dict__", {}))
        text, more = f"{text} {_own_source(type(value))}", [type(value)]
    return text, more


def _parts_of(value: Any) -> Iterable[Any]:
    """Of a dictionary, list or tuple."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _own_source(thing: Any) -> str:
    try:
        return source_digest(thing)
    except ValueError:  # it holds what has no name outside this process
        return _text(thing)


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
        spec = getattr(sys.modules[module], "__spec__", None)  # of `python -m` in a package, too
        inner = spec.name if spec is not None else "" if module == "__main__" else module
        return cls(module, file.parents[inner.count(".") + (file.name == "__init__.py")])

    def owns(self, thing: Any) -> bool:
        """Whether a function, class or module is of the user's own, in that folder or below."""
        name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
        if name in ("__main__", self.module):
            return True
        if name is None or name.partition(".")[0] in {PACKAGE, *sys.stdlib_module_names}:
            return False
        file = _file(name)
        return file is not None and self.folder in file.parents and not _among_installed(file)

    def prefix(self, thing: Any) -> str:
        """Tells names of other modules from those of this one."""
        return "" if thing.__module__ == self.module else f"{thing.__module__}."


def _file(module: str | None) -> Path | None:
    """Where a module's source is; None of one that has none, such as a notebook."""
    file = getattr(sys.modules.get(module or ""), "__dict__", {}).get("__file__")
    return None if file is None else Path(file).resolve()


def _among_installed(file: Path) -> bool:
    return any(part in INSTALLED for part in file.parts)


def _used(thing: Any, home: Home) -> Iterator[tuple[str, Any]]:
    """The values that the code of a function, or of a class's methods, has from outside, among them
    default arguments, the classes that a class is made of and its attributes, each with a name of
    its own. (What else a closure holds is part of its source.) A global that the module's functions
    assign is a state, and no part of the code."""
    at = home.prefix(thing)
    if isinstance(thing, type):
        yield from ((f"{home.prefix(base)}{base.__qualname__}", base) for base in thing.__mro__[1:])
        for name, value in vars(thing).items():
            for method in _methods(value):
                yield from _used(method, home)
                yield f"{at}{thing.__qualname__}.{name} {method.__qualname__}", method
            if not name.startswith("__"):
                yield f"{at}{thing.__qualname__}.{name}", value
        return
    if not isinstance(thing, types.FunctionType):
        return
    for values in (thing.__defaults__, thing.__kwdefaults__):
        if values is not None:
            yield f"{at}{thing.__qualname__} {type(values).__name__}", values
    for cell in thing.__closure__ or ():
        with suppress(ValueError):  # that is empty
            if isinstance(held := cell.cell_contents, types.FunctionType | type):
                yield f"{at}{thing.__qualname__} {held.__qualname__}", held
    names, known = _names(thing.__code__), thing.__globals__
    for name in sorted(names & known.keys()):
        value = known[name]
        if issubclass(type(value), types.ModuleType):  # not isinstance, which asks strange objects
            yield from _parts(value, names, home, {__name__})
        elif name not in _assigned(known):
            yield f"{at}{name}", value


def _methods(value: Any) -> list[types.FunctionType]:
    """The functions behind an attribute of a class."""
    kind, found = type(value), [value]
    if issubclass(kind, staticmethod | classmethod):
        found = [value.__func__]
    elif issubclass(kind, property):
        found = [value.fget, value.fset, value.fdel]
    elif issubclass(kind, cached_property):
        found = [value.func]
    return [f for f in found if issubclass(type(f), types.FunctionType)]


def _parts(
    module: types.ModuleType, names: set[str], home: Home, seen: set[str]
) -> Iterator[tuple[str, Any]]:
    """What a module of the user's own has of these names, and its modules."""
    if module.__name__ in seen or not home.owns(module):
        return
    seen.add(module.__name__)
    for name in sorted(names & vars(module).keys() - _assigned(vars(module))):
        value = vars(module)[name]
        if issubclass(type(value), types.ModuleType):
            yield from _parts(value, names, home, seen)
        else:
            yield f"{module.__name__}.{name}", value


def _assigned(known: Mapping[str, Any]) -> set[str]:
    """The globals that functions of a module assign, by `global`."""
    own = (f for f in known.values() if issubclass(type(f), types.FunctionType))
    return {name for f in own if f.__globals__ is known for name in _stored(f.__code__)}


@lru_cache(4096)
def _stored(code: types.CodeType) -> frozenset[str]:
    inner = (_stored(c) for c in code.co_consts if isinstance(c, types.CodeType))
    own = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}
    return frozenset(own).union(*inner)


def _names(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def plain(value: Any, within: tuple[Any, ...] = ()) -> str | None:
    """What a number, a text, an array or the like is, and a list, dictionary or dataclass of them;
    None for other things, which in one of those are `?`. `within` are the things that hold it."""
    if isinstance(value, torch.Tensor):
        return _numbers(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, np.generic):
        value = value.item()
    if len(within) == DEEPEST or any(value is one for one in within):
        return None
    of = (*within, value)
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, types.SimpleNamespace):
        value = vars(value)
    if isinstance(value, dict):
        return f"({', '.join(sorted(_pair(item, of) for item in value.items()))})"
    if isinstance(value, set | frozenset):
        return f"({', '.join(sorted(plain(part, of) or '?' for part in value))})"
    if isinstance(value, list | tuple):
        return f"({', '.join(plain(part, of) or '?' for part in value)})"
    if isinstance(value, PurePath):
        return str(value)
    kind = next((kind for kind in PLAIN if isinstance(value, kind)), type(None))
    return kind.__repr__(value) if value is None or isinstance(value, PLAIN) else None


def _pair(item: tuple[Any, Any], within: tuple[Any, ...]) -> str:
    return f"({', '.join(plain(part, within) or '?' for part in item)})"


def _numbers(tensor: torch.Tensor) -> str | None:
    """None of one that numpy cannot have, such as a sparse one."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # which numpy does not know
        return f"bfloat16 {_numbers(tensor.float())}"
    try:
        return plain(tensor.cpu().resolve_conj().resolve_neg().numpy())
    except (RuntimeError, TypeError):
        return None


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
            return _text(thing) + (words(map(_held, cells)) if cells else "")
        case types.BuiltinFunctionType() | types.ModuleType():
            return getattr(thing, "__qualname__", thing.__name__)
        case types.CodeType():
            return words([thing.co_code.hex(), *thing.co_names, *thing.co_consts])
        case dict():
            return words(sorted(thing.items(), key=lambda item: str(item[0])))
        case list() | tuple():
            return words(thing)
        case set() | frozenset():
            return f"({', '.join(sorted(_source(part, within) for part in thing))})"
        case np.ndarray() | torch.Tensor():
            return plain(thing) or repr(thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        return words(
            [type(thing).__qualname__, *(getattr(thing, f.name, None) for f in fields(thing))]
        )
    text = repr(thing)
    if not re.search(r" at 0x[0-9a-f]+", text):
        return text
    if not hasattr(thing, "__dict__"):
        raise ValueError(
            f"{text} could not be told from another one when a run is resumed; use a function"
        )
    return words([type(thing), vars(thing)])


def _held(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return None


def _text(thing: Any) -> str:
    """A function or class as it was written; where nobody kept that, its code. Several lambdas of a
    line are written alike, so each has its code too."""
    code = getattr(thing, "__code__", None)
    try:
        text = inspect.getsource(thing if code is None else code)  # and not what it wraps
    except (OSError, TypeError):
        text = thing.__qualname__
    else:
        code = code if text.count("lambda") > 1 and thing.__name__ == "<lambda>" else None
    return text if code is None else text + _source(code, ())
