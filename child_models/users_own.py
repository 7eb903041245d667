"""Objective: a training of the user's own, `train(make_activation, seed, steps, report)`: by which
name it is found, what its source is, and how it is sent to workers.

It is sent by value, so all of a search runs the source that its protocol has the hash of.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from actsearch.child_models.device import short
from actsearch.child_models.networks.zoo import source_digest
from actsearch.search_space.text import unknown

Train = Callable[..., Mapping[str, float]]
CALL = "(make_activation, seed, steps, report)"
EXAMPLE = "my_module:train"


@dataclass(frozen=True)
class Objective:
    """`name` is how it is shown, `digest` what a run's identity keeps: the name, and a hash of the
    source that it consists of."""

    name: str
    train: Train = field(compare=False, repr=False)
    digest: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.name, _by_value(self.name, self.train), self.digest)

    def check_sent(self) -> None:
        """Raises ValueError where it holds what no worker can be sent."""
        _by_value(self.name, self.train)


def objective_from(given: str | Train | Objective) -> Objective:
    """An Objective from `my_module:train`, or a function. Raises ValueError where there is none of
    that name, where its module fails, and where it takes other arguments."""
    if isinstance(given, Objective):
        return given
    train = _named(given) if isinstance(given, str) else given
    if not callable(train) or isinstance(train, nn.Module):
        raise ValueError(
            f"the objective is a {type(train).__name__}; give a function train{CALL} that returns "
            "scores by name"
        )
    name = getattr(train, "__qualname__", type(train).__qualname__).split(".<locals>.")[-1]
    try:
        signature = inspect.signature(train)
    except ValueError:  # of some that are written in C
        signature = None
    if signature is not None:
        try:
            signature.bind(*"1234")
        except TypeError:
            raise ValueError(
                f"the objective {name} takes {signature}, but it is called as {name}{CALL}"
            ) from None
    return Objective(name, train, f"{name}-{_digest(train)}")


def _named(text: str) -> Any:
    """What `my_module:train` names, of an installed module or one in this folder."""
    module, _, name = text.partition(":")
    if not (module and name):
        raise ValueError(f"the objective {text!r} needs a module and a function, as {EXAMPLE}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"the objective {text}: {module} needs {error.name}") from error
        raise ValueError(
            f"the objective {text}: there is no module {module} in {here}, nor installed"
        ) from error
    except Exception as error:
        raise ValueError(
            f"the objective {text}: importing {module} ends with {type(error).__name__}: "
            f"{short(error)}"
        ) from error
    if not hasattr(found, name):
        known = [key for key, value in vars(found).items() if inspect.isfunction(value)]
        raise ValueError(unknown(f"function of {module}", name, known))
    return getattr(found, name)


# -- sent to workers


def _by_value(name: str, train: Train) -> bytes:
    """With the functions and values of its module that it uses, so that no worker has to find that
    module, nor finds a later one."""
    pickler: Any = importlib.import_module("ray.cloudpickle")
    module = sys.modules.get(getattr(_function(train), "__module__", None) or "")
    own = module is not None and module.__name__ != "__main__"
    if own:
        pickler.register_pickle_by_value(module)
    try:
        return pickler.dumps(train)
    except Exception as error:
        raise ValueError(
            f"the objective {name} cannot be sent to Ray's workers ({short(error)}); make what it "
            "holds inside of it, or train in this process with executor 'inline'"
        ) from error
    finally:
        if own:
            pickler.unregister_pickle_by_value(module)


def _received(name: str, sent: bytes, digest: str) -> Objective:
    return Objective(name, importlib.import_module("ray.cloudpickle").loads(sent), digest)


# -- its source


def _digest(train: Train) -> str:
    """The hash of its source, and of what that uses by name of the same folder: functions, classes,
    plain values and arrays. It is the same whether its module is imported or is the script."""
    home = _function(train)
    found = {"": source_digest(train)}
    waiting = [home]
    while waiting:
        for name, value in _used(waiting.pop(), home.__module__):
            if name in found:
                continue
            if _is_own(value, home):
                found[name] = source_digest(value)
                waiting.append(value)
            elif (text := _plain(value)) is not None:
                found[name] = text
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]


def _function(train: Any) -> Any:
    """The function or class behind a callable."""
    while isinstance(train, partial):
        train = train.func
    if isinstance(train, types.MethodType):
        return type(train.__self__)
    return train if isinstance(train, types.FunctionType | type) else type(train)


def _used(thing: Any, home: str) -> Iterator[tuple[str, Any]]:
    """The values that the code of a function, or of a class's methods, has from outside, each with
    a name of its own, which tells its module where that is not `home`. (What a closure holds is
    part of its source.)"""
    if isinstance(thing, type):
        for value in vars(thing).values():
            method = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(method, types.FunctionType):
                yield from _used(method, home)
        return
    if not isinstance(thing, types.FunctionType):
        return
    for cell in thing.__closure__ or ():
        with suppress(ValueError):  # that is empty
            if isinstance(held := cell.cell_contents, types.FunctionType | type):
                yield f"{thing.__qualname__} {held.__qualname__}", held
    names, known = _names(thing.__code__), thing.__globals__
    where = "" if thing.__module__ == home else f"{thing.__module__}."
    for name in sorted(names & known.keys()):
        value = known[name]
        yield f"{where}{name}", value
        if isinstance(value, types.ModuleType):
            for part in sorted(names & vars(value).keys()):
                if _is_own(vars(value)[part], thing):
                    yield f"{value.__name__}.{part}", vars(value)[part]


def _names(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _is_own(value: Any, home: Any) -> bool:
    """Whether a function or class is of the same module or folder."""
    if not isinstance(value, types.FunctionType | type):
        return False
    if value.__module__ == home.__module__:
        return True
    try:
        return Path(inspect.getfile(value)).parent == Path(inspect.getfile(home)).parent
    except (TypeError, OSError):
        return False


def _plain(value: Any) -> str | None:
    """What a number, a text, an array or the like is; None for other things."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, dict):
        value = sorted(value.items(), key=repr)
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return None if None in parts else f"({', '.join(cast(list[str], parts))})"
    return repr(value) if isinstance(value, str | bytes | int | float | complex) else None
