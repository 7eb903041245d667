"""Around a training, whatever it trains: its device, and what its end is to a store.

All that goes wrong in a training becomes an Outcome with its reason; what the machine is to blame
for is raised, since it says nothing about the candidate.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from actsearch.child_models.data.data import Diverged
from actsearch.child_models.device import (
    check_still_there,
    device_name,
    free_memory,
    out_of_memory,
    short,
    usual_device,
)
from actsearch.child_models.networks.model_zoos import ZOOS, ZooModel
from actsearch.child_models.source_digest import digest_of
from actsearch.child_models.training.cuda_graph import check_whole, own_stream
from actsearch.child_models.training.looks import RacedOut, Stood
from actsearch.child_models.turns import taking_turns
from actsearch.results.metrics import Metric
from actsearch.results.records import (
    Cause,
    DeviceLostError,
    HostError,
    Outcome,
    Trial,
    host_error,
    is_of_the_host,
)
from actsearch.search_space.operators import GRAMMAR_VERSION, Op

Ended = dict[str, Any]  # fields of an outcome; `seconds` are those before this process


def hash_of(protocol: Mapping[str, Any]) -> str:
    """A protocol's name in a store: 12 hexadecimal digits."""
    text = json.dumps(protocol, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def score_of(metric: Metric) -> str:
    """The part of a protocol that says which of several scores is searched for."""
    return f"{metric.name} ({metric.direction} is better)"


def grammar_of(operators: str, extra: tuple[Op, ...]) -> dict[str, Any]:
    """The part of a protocol that says what functions compute."""
    return {
        "grammar": GRAMMAR_VERSION,
        "operators": operators,
        "extra_operators": {op.name: _digest(op) for op in extra},
    }


def _digest(op: Op) -> str:
    """What an operator of one's own computes, and where its beta starts."""
    parts = [digest_of(fn) for fn in (op.fn, op.guarded) if fn is not None]
    return " ".join(parts if op.beta in (None, 1.0) else [*parts, f"beta {op.beta!r}"])


@contextlib.contextmanager
def training_device(*, in_turns: bool) -> Iterator[torch.device]:
    """The device of a training that runs within; `in_turns` with others of this process."""
    device = usual_device()
    device_name(device)  # raises where it does not answer
    with taking_turns(device) if in_turns else contextlib.nullcontext(), own_stream(device):
        try:
            yield device
        finally:
            free_memory(device)


def outcome_of(trial: Trial, device: torch.device, train: Callable[[], Ended]) -> Outcome:
    """What `train()` ended as, timed and signed. Raises DeviceLostError where it took the GPU with
    it, HostError (DataError for data) where machine, disk or data failed."""
    start, host, name = time.perf_counter(), socket.gethostname(), device_name(device)
    check_whole()
    found = train()
    check_whole()  # another child's capture may have failed meanwhile
    found["seconds"] += time.perf_counter() - start
    if found["status"] == "failed":
        check_still_there(device, found["reason"])
    return Outcome(**found, host=host, device=name, versions=versions())


def caught(trial: Trial, device: torch.device, train: Callable[[], Ended]) -> Ended:
    """What `train()` returns, or what the exception that ended it stands for."""
    try:
        return train()
    except Diverged as end:
        return ended("diverged", str(end), end.cause, end.variant, step=end.step, curve=end.curve)
    except RacedOut as end:
        return _raced_out(str(end), end.training)
    except (DeviceLostError, HostError):
        raise
    except (Exception, SystemExit) as error:  # sys.exit() in code of the user's own
        if is_of_the_host(error):
            doing = f"training {trial.formula or trial.subject} on {socket.gethostname()}"
            raise host_error(error, doing) from error
        return _failed(error, device)


def ended(
    status: str,
    reason: str = "",
    cause: Cause | None = None,
    variant: str = "",
    seconds: float = 0.0,
    **rest: Any,
) -> Ended:
    why = {"reason": reason, "cause": cause, "variant": variant}
    return {"status": status, **why, "seconds": seconds, **rest}


def _failed(error: BaseException, device: torch.device) -> Ended:
    if out_of_memory(error, device):
        return ended("failed", f"out of memory: {short(error)}", Cause.OUT_OF_MEMORY)
    name = type(error).__name__
    return ended("failed", f"{name}: {short(error)}", Cause.EXCEPTION, name)


def _raced_out(reason: str, training: Stood) -> Ended:
    return ended(
        "raced_out",
        reason,
        Cause.RACED_OUT,
        seconds=training.earlier,
        step=training.step,
        curve=training.curve,
        milestones=tuple(training.milestones),
        ms_per_step=training.ms_per_step,
    )


def versions() -> dict[str, str]:
    """Of what a number depends on, for the record beside it; of a zoo's package where it is in
    use."""
    zoos = {name: sys.modules[name].__version__ for name in ZOOS if name in sys.modules}
    return {**own_versions(), **zoos}


def own_versions() -> dict[str, str]:
    """Of what every training depends on."""
    try:
        own = importlib.metadata.version("actsearch")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    python = platform.python_version()
    # torch's is a class of its own, to unpickle which the queue would import torch.
    return {"actsearch": own, "torch": str(torch.__version__), "python": python}


def zoo_version(build: Any) -> str:
    """The package that the network is of, such as `timm 1.0.9`, whatever the process has imported
    besides; "" of other networks."""
    if not isinstance(build, ZooModel):
        return ""
    return f"{build.zoo} {importlib.metadata.version(build.zoo)}"
