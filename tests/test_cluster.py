"""A search on a running Ray cluster: real `ray start` processes on this machine, with a token."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actsearch import errors
from actsearch.run import Run

from .chaos import Cluster, kill_tree, new_token
from .test_cli import COMMAND, finished, wait_until

SEARCH = [*COMMAND, "search", "runs/a", "--space", "tiny", "--steps", "20", "--ray-address"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    kill_tree(made.head)


def start(cluster: Cluster, folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SEARCH, cluster.address, *options],
        cwd=folder,
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_workers_are_added_as_machines_join_and_a_lost_head_ends_the_search_in_time(
    cluster: Cluster, tmp_path: Path
) -> None:
    wrong = subprocess.run(
        [*SEARCH, cluster.address],
        cwd=tmp_path,
        env={**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(new_token(tmp_path / "wrong"))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert wrong.returncode == errors.ENVIRONMENT
    assert "asks for a token, and that at" in wrong.stderr

    search = start(cluster, tmp_path)
    log = tmp_path / "runs/a/run.log"
    wait_until(lambda: finished(tmp_path / "runs/a") >= 1, 120)
    node = cluster.join(cpus=1)
    try:
        wait_until(lambda: "the cluster has room for 3 workers" in log.read_text(), 60)
        [gcs] = [p for p in psutil.Process(cluster.head.pid).children(recursive=True)
                 if "gcs_server" in p.name()]  # fmt: skip
        gcs.send_signal(signal.SIGKILL)
        lost = time.monotonic()
        _, said = search.communicate(timeout=60)
        assert search.returncode == errors.RESUMABLE, said
        assert time.monotonic() - lost < 20
        assert "is gone" in said
    finally:
        kill_tree(node)
    before = {row["id"]: row for row in Run.open(tmp_path / "runs/a").rows() if row["status"]}
    assert before
    resumed = subprocess.run(
        [*COMMAND, "search", "runs/a", "--executor", "inline", "--budget", str(len(before))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert resumed.returncode == errors.DONE, resumed.stderr
    after = {row["id"]: row for row in Run.open(tmp_path / "runs/a").rows()}
    assert before.items() <= after.items()


def test_a_local_ray_leaves_a_token_that_only_its_owner_can_read(tmp_path: Path) -> None:
    token = tmp_path / ".ray" / "auth_token"
    done = subprocess.run(
        [*COMMAND, "search", "runs/a", "--space", "units=1;unary=relu,tanh;binary=mul",
         "--steps", "3", "--workers", "1"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
        | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode in (errors.DONE, errors.NO_CANDIDATE), done.stderr
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
