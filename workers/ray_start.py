"""Starting Ray, or joining a cluster: whether it answers, its token, and what Ray does to the
environment. Ray is imported inside, since variables decide on its start.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from actsearch.workers.executor import ExecutorError
from actsearch.workers.ray_head import greet
from actsearch.workers.ray_thread import RayThread

CHECK_SECONDS = 5.0  # for a head to greet, and again for it to look at the token


def start_ray(address: str | None, gpus: int | None = None) -> None:
    """A local Ray unless `address` says which; never one that happens to run on this machine. A
    local one hands out `gpus` (None: those that it sees, with or without a CUDA build of torch)."""
    import ray

    options: dict[str, Any] = {"address": address or "local"}
    if address is None:
        options["num_cpus"] = os.cpu_count() or 1
        options["num_gpus"] = gpus
        options["include_dashboard"] = False
    try:
        with _environment():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        _protect_token()
    except (
        Exception
    ) as error:  # Ray raises a plain one where its own processes do not start in time
        where = f"Ray at {address}" if address else "a local Ray"
        raise ExecutorError(
            f"cannot reach {where}: {error}. Without Ray, --executor inline trains in this process."
        ) from error


def check_cluster(address: str) -> None:
    """Raises ExecutorError within seconds where Ray would try for minutes: nothing answers at
    `address`, or it asks for another token. To be called before Ray is imported."""
    _check_listening(address)
    _offer_token()
    _check_token(address)


def _check_listening(address: str) -> None:
    """Ray waits minutes for a head that is not there; a greeting tells in seconds."""
    if not address.rpartition(":")[2].isdecimal():
        return
    port = address.rpartition(":")[2]
    try:
        greet(address, CHECK_SECONDS)
    except (TimeoutError, ValueError) as error:
        raise _not_ray(address, error) from error
    except OSError as error:
        raise ExecutorError(
            f"nothing answers at {address} ({error}); start Ray there with "
            f"'ray start --head --port {port}', or leave --ray-address out"
        ) from error


def _not_ray(address: str, error: Exception) -> ExecutorError:
    return ExecutorError(
        f"what listens at {address} does not answer as a Ray head does ({error}): another server, "
        "or a head that hangs; give --ray-address the address that 'ray start --head' printed, or "
        "leave it out"
    )


def _token_file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", os.path.expanduser("~/.ray/auth_token")))


def _offer_token() -> None:
    """A cluster may ask for the token; Ray offers it only if told so before it is imported."""
    if "RAY_AUTH_TOKEN" in os.environ or _token_file().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    elif os.environ.get("RAY_AUTH_MODE") == "token":  # Ray would abort the process
        raise ExecutorError(
            f"RAY_AUTH_MODE is token, but there is no token at {_token_file()}; copy it from the "
            "head, with mode 0600"
        )


def _check_token(address: str) -> None:
    """Ray itself says after 20 seconds that it failed to connect, and not why; and it asks a server
    that is not Ray for 40."""
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
    from ray.exceptions import AuthenticationError

    if address.startswith("ray://"):
        return
    thread = RayThread()
    try:
        thread.start(lambda: GcsClient(address=address)).result(CHECK_SECONDS)
    except FutureTimeoutError as error:
        thread.leave()
        raise _not_ray(address, TimeoutError(f"silent for {CHECK_SECONDS:g} s")) from error
    except AuthenticationError as error:
        have = f"that at {_token_file()} is another" if _token_file().exists() else "there is none"
        raise ExecutorError(
            f"Ray at {address} asks for a token, and {have}; copy the head's ~/.ray/auth_token "
            f"to {_token_file()}, with mode 0600"
        ) from error
    except Exception as error:
        raise _not_ray(address, error) from error
    finally:
        thread.end()


def _protect_token() -> None:
    """Ray writes its token readable by all; whoever reads it can run code on the cluster."""
    file = _token_file()
    with suppress(OSError):
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)


@contextmanager
def _environment() -> Iterator[None]:
    """Ray's start leaves variables behind that change later starts; put back what was there."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    before = os.environ.get("RAY_AUTH_MODE")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("RAY_AUTH_MODE", None)
        else:
            os.environ["RAY_AUTH_MODE"] = before
