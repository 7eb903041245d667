"""Exit codes, and which error means which. The message of every error here is for the user."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actsearch.results.records import HostError

DONE, UNEXPECTED, USAGE, NO_CANDIDATE, ENVIRONMENT, RUN_UNAVAILABLE = 0, 1, 2, 3, 4, 5
RESUMABLE, INTERRUPTED = 75, 130


class UsageError(Exception):
    """Something was asked for that cannot be; the message says what can."""


class NoCandidateError(Exception):
    """A search ended without one function that trained."""


class RunError(Exception):
    """A run is in use by another driver, or was made with other settings."""


class RunLostError(HostError):
    """The run's folder is no more the one that this driver holds."""


class EnvironmentProblem(Exception):
    """The machine or the folder does not allow what was asked for."""


@contextmanager
def written(path: str | Path) -> Iterator[None]:
    """Around the writing of a file or folder: where the system refuses, a sentence says so."""
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error.strerror}") from error


# By name, so that looking up an exit code imports nothing.
_CODES = {
    "actsearch.errors.UsageError": USAGE,
    "actsearch.errors.NoCandidateError": NO_CANDIDATE,
    "actsearch.errors.EnvironmentProblem": ENVIRONMENT,
    "actsearch.errors.RunError": RUN_UNAVAILABLE,
    "actsearch.search_space.parser.ParseError": USAGE,
    "builtins.ValueError": USAGE,
    "actsearch.child_models.data.data.DataError": ENVIRONMENT,
    "actsearch.workers.executor.ExecutorError": ENVIRONMENT,
    "actsearch.workers.executor.ClusterLostError": RESUMABLE,
    "actsearch.results.records.DeviceLostError": ENVIRONMENT,
    "actsearch.results.records.HostError": RESUMABLE,  # RunLostError among them
    "actsearch.results.store.DiskFullError": RESUMABLE,
    "actsearch.results.store.DiskFaultError": RESUMABLE,
    "actsearch.results.store.StoreError": RUN_UNAVAILABLE,
    "builtins.ModuleNotFoundError": ENVIRONMENT,
    "builtins.ImportError": ENVIRONMENT,
}


def exit_code(error: BaseException) -> int:
    """The code for an error that the user can act on, or UNEXPECTED."""
    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__]
    return next((_CODES[name] for name in names if name in _CODES), UNEXPECTED)


def known_errors() -> Iterator[type[BaseException]]:
    """Every class that has an exit code; for the test that they exist."""
    for name in _CODES:
        module, _, cls = name.rpartition(".")
        yield getattr(importlib.import_module(module), cls)
