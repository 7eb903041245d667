"""Objective: a training of the user's own, `train(make_activation, seed, steps, report)`: by which
name it is found, what its source is, and how it is sent to workers.

It is sent by value, so all of a search runs the source that its protocol has the hash of.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from actsearch.child_models.source_digest import digest_of, function_of
from actsearch.child_models.users_code import by_value, found, from_bytes

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
        return _received, (self.name, self._sent(), self.digest)

    def check_sent(self) -> None:
        """Raises ValueError where it holds what no worker can be sent."""
        self._sent()

    def _sent(self) -> bytes:
        return by_value(self.train, f"the objective {self.name}", [function_of(self.train)])


def objective_from(given: str | Train | Objective) -> Objective:
    """An Objective from `my_module:train`, or a function. Raises ValueError where there is none of
    that name, where its module fails, and where it takes other arguments."""
    if isinstance(given, Objective):
        return given
    train = found(given, "objective", EXAMPLE) if isinstance(given, str) else given
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
    return Objective(name, train, f"{name}-{digest_of(train)}")


def _received(name: str, sent: bytes, digest: str) -> Objective:
    return Objective(name, from_bytes(sent), digest)
