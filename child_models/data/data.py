"""What a data set is to a child and to a run: the protocols Data and Task, its one error, its
splits; and what every reader of files asks: are the bytes damaged, and do they fit in memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from actsearch.child_models.recipe import Recipe
from actsearch.results.metrics import Metric
from actsearch.results.records import Cause, HostError

if TYPE_CHECKING:
    import torch
    from torch import nn

SPLIT_SEED = 0  # of the cut between train and validation: one for all runs, so that they compare
CHUNK = 2**24  # bytes of a file that are read at once


class DataError(HostError):
    """Data that cannot be had or used; the message names it and says what to do."""


class Diverged(Exception):
    """The child is not finite any more. `step` counts from 1; None: after the last one taken, which
    whoever trains knows, as it knows the loss `curve` up to there. `cause` and `variant` are those
    of an Outcome."""

    def __init__(
        self,
        reason: str,
        step: int | None = None,
        curve: tuple[tuple[int, float], ...] = (),
        *,
        cause: Cause = Cause.OTHER,
        variant: str = "",
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.variant = variant
        self.step = step
        self.curve = curve


def not_finite(what: str, split: str) -> Diverged:
    """`what` are logits or other outputs of a child."""
    where = f"on the {split} split"
    return Diverged(f"{what} not finite {where}", cause=Cause.LOGITS, variant=where)


class Task(Protocol):
    """A data set on a device, and what a child is trained for. A score is a finite number of
    the data's metric; it raises Diverged where the child's outputs are not finite, and calls `beat`
    after each batch."""

    device: torch.device

    def batches(self, recipe: Recipe, seed: int, start: int = 0) -> Iterator[Any]:
        """Without end, the same for the same seed; from number `start` on, for a training that goes
        on from its checkpoint."""
        ...

    def loss(self, model: nn.Module, batch: Any, recipe: Recipe) -> torch.Tensor: ...

    def score(
        self,
        model: nn.Module,
        recipe: Recipe,
        split: str,
        examples: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> float: ...


class Data(Protocol):
    """What a child is trained on: its `facts` are what a child may ask for, `metric` is what its
    score is (or a name of METRICS), `sizes` are the numbers of examples in `train`, `val` and
    `test`, and `digest` stands for all of it in a run's identity."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def metric(self) -> Metric | str: ...

    @property
    def facts(self) -> dict[str, Any]: ...

    @property
    def sizes(self) -> dict[str, int]: ...

    def on(self, device: torch.device) -> Task: ...


def split(
    name: str, count: int, has_test: bool, val_size: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of `count` examples train, validate and, where there is no other test split, test (a
    fifth). Raises DataError where none are left to validate on."""
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    cut = 0 if has_test else count // 5
    test, order = order[:cut], order[cut:]
    held = len(order) // 10 if val_size is None else val_size
    if not 0 < held < len(order):
        raise DataError(f"{name}: {len(order)} examples are too few for a validation split")
    return order[held:], order[:held], test


def parts_of(name: str, arrays: Any) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
    """Train and test split of (x, y) or (x_train, y_train, x_test, y_test); raises DataError for
    anything else."""
    if not isinstance(arrays, tuple | list) or len(arrays) not in (2, 4):
        several = isinstance(arrays, tuple | list) and len(arrays) != 1
        has = f"{len(arrays)} arrays" if several else "one array"
        raise DataError(
            f"{name}: {has}; give inputs and what is to be predicted, as (x, y) or "
            "(x_train, y_train, x_test, y_test); token ids (n,) need --task language-model"
        )
    try:
        x, y, *test = map(np.asarray, arrays)
    except ValueError as error:
        raise DataError(
            f"{name}: rows of different lengths are no array; give all examples the same shape"
        ) from error
    return (x, y), (test[0], test[1]) if test else None


def first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def readable(what: object, kind: str) -> Iterator[None]:
    """Around the reading of a file: damaged bytes end the libraries that read them in nearly any
    exception, and it becomes a DataError. A full memory and a DataError pass."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{what} is no readable {kind}: {first_line(error)}") from error


def content_of(file: Path, room: int) -> bytes:
    """All bytes of a file, of one that ends in .gz those within it. Raises DataError where it
    cannot be read, and where so many times its bytes do not fit in memory."""
    opened = gzip.open if file.suffix == ".gz" else open
    content = bytearray()
    try:
        with opened(file, "rb") as binary:
            while chunk := binary.read(CHUNK):  # a few bytes of .gz may be any number of text
                content += chunk
                check_fits(file, room * len(content))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return bytes(content)


def check_fits(what: object, needed: int) -> None:
    """Raises DataError where that many bytes are more than the free memory."""
    free = free_memory()
    if free is not None and needed > free:
        raise DataError(
            f"{what} needs {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are "
            "free here; give fewer or smaller examples"
        )


def free_memory() -> int | None:
    """Bytes, at most those of this container; None where the system does not say."""
    known: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        [line] = [line for line in lines if line.startswith("MemAvailable:")]
        known.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(known, default=None)
