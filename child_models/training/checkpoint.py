"""Checkpoints: how far a training has come, on disk, from where it goes on after a kill.

Model, optimiser, losses, random numbers and the place in the batches are all of it, so what is
resumed ends as the unbroken training does, to the last digit. A file that is damaged, or of another
code, torch, machine or trial, is left alone and the training starts over; one that cannot be
written costs the training nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actsearch.child_models.training.state import Training
from actsearch.results.records import Trial

log = logging.getLogger(__name__)

DIGEST = hashlib.sha256().digest_size  # torch.load compares no sums, and takes flipped bits as data


@dataclass(frozen=True)
class Checkpoints:
    """Those of a run, in `folder`, each written anew `every` so many seconds by a worker that has
    the run's folder on its disk. `code` is the version and digest of what computes."""

    folder: Path
    every: float
    code: str

    def of(self, trial: Trial, identity: Mapping[str, Any]) -> Checkpoint:
        """`identity` is all that the training depends on besides `code`."""
        text = json.dumps({"code": self.code, **identity}, sort_keys=True)
        return Checkpoint(self.folder / f"{trial.id}.pt", self.every, text)

    def forget(self, trial: Trial, *_: Any) -> None:
        """A callback: its outcome is stored."""
        for file in (self.folder / f"{trial.id}.pt", *self.folder.glob(f"{trial.id}-*.part")):
            with suppress(OSError):
                file.unlink(missing_ok=True)


class Checkpoint:
    """The look that writes that of one training. It comes after all others, which are not taken
    again."""

    def __init__(self, file: Path, every: float, identity: str) -> None:
        self._file, self._every, self._identity = file, every, identity
        self._next = time.monotonic() + every
        self._silent = False  # what a disk refuses is said once

    def due(self, step: int) -> bool:
        return step > 0 and time.monotonic() >= self._next

    def __call__(self, training: Training) -> None:
        if training.checked < training.step:  # it has become due after the reading
            return
        try:
            _write(self._file, {"identity": self._identity, **training.state()})
        except Exception as error:
            if not self._silent:
                log.warning("no checkpoint in %s: %s", self._file, error)
            self._silent = True
        self._next = time.monotonic() + self._every

    def resumed(self, new: Callable[[], Training]) -> Training:
        """A `new` training, gone as far as the checkpoint if there is one that fits."""
        training = new()
        try:
            state = _read(self._file, self._identity)
            if state is not None:
                training.restore(state)
                log.info("%s goes on after step %d", self._file, training.step)
            return training
        except Exception as error:
            log.warning("%s is not used, and its training starts over: %s", self._file, error)
        torch.manual_seed(training.seed)
        return new()


def _write(file: Path, state: Mapping[str, Any]) -> None:
    """In one step. By way of memory, since torch's own writer ends badly where a disk is full."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    file.parent.mkdir(exist_ok=True)
    part = file.with_name(f"{file.stem}-{os.getpid()}.part")
    try:
        with open(part, "wb") as out:
            out.write(buffer.getbuffer())
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _read(file: Path, identity: str) -> dict[str, Any] | None:
    """None where there is no file. Raises ValueError where it is damaged or another's, and what
    the disk and torch.load do."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
        raise ValueError("it is damaged")
    state = torch.load(io.BytesIO(content[:-DIGEST]), map_location="cpu", weights_only=True)
    found, wanted = json.loads(state["identity"]), json.loads(identity)
    names = [n for n in {**found, **wanted} if found.get(n) != wanted.get(n)]
    if names:
        told = ", ".join(f"{n} {found.get(n)}, here {wanted.get(n)}" for n in names)
        raise ValueError(f"it was written with {told}")
    return state
