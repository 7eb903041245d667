"""A search on a running Ray cluster: real `ray start` processes on this machine, with a token."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import actsearch.searching.cluster
from actsearch import errors
from actsearch.errors import EnvironmentProblem
from actsearch.origin import HOME, PACKAGES
from actsearch.run import Run

from .chaos import Cluster, kill_tree, new_token
from .conftest import LIMIT, wait_until
from .test_cli import COMMAND, finished

SEARCH = [*COMMAND, "search", "runs/a", "--space", "one-unit", "--steps", "20", "--ray-address"]


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


def join(cluster: Cluster, folder: Path, *options: str, code: Path | None = None) -> Any:
    """`actsearch worker`, with the code in another folder if one is given."""
    path = {"PYTHONPATH": str(code)} if code else {}
    return subprocess.Popen(
        [*COMMAND, "worker", "--ray-address", cluster.address, "--cpus", "1", *options],
        cwd=folder,
        env={**cluster.environment, **path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def other_code(folder: Path) -> Path:
    """A copy of the packages that differs in one comment."""
    for package in (*PACKAGES, "actsearch"):
        shutil.copytree(HOME.parent / package, folder / package, symlinks=True)
    with open(folder / "results" / "records.py", "a") as file:
        file.write("# another version\n")
    return folder


@pytest.mark.thorough
def test_a_wrong_token_is_named(cluster: Cluster, tmp_path: Path) -> None:
    wrong = {**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(new_token(tmp_path / "wrong"))}
    for command in ("search", "worker"):
        done = subprocess.run(
            [*COMMAND, command, "--ray-address", cluster.address],
            cwd=tmp_path,
            env=wrong,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == errors.ENVIRONMENT
        assert "asks for a token, and that at" in done.stderr


@pytest.mark.slow
def test_machines_join_and_leave_and_a_lost_head_ends_the_search_in_time(
    cluster: Cluster, tmp_path: Path
) -> None:
    search = start(cluster, tmp_path)
    run, log = tmp_path / "runs/a", tmp_path / "runs/a/run.log"
    wait_until(lambda: finished(run) >= 1)
    nodes = [join(cluster, tmp_path, "runs/a")]
    try:
        wait_until(lambda: "the cluster has room for 3 workers" in log.read_text())
        nodes[0].send_signal(signal.SIGINT)
        _, said = nodes[0].communicate(timeout=LIMIT)
        assert nodes[0].returncode == errors.DONE, said
        assert "Left the cluster" in said
        wait_until(lambda: "the cluster has room for 2 workers" in log.read_text())

        nodes.append(join(cluster, tmp_path, code=other_code(tmp_path / "other")))
        wait_until(lambda: "the search goes on without it" in log.read_text())
        before = finished(run)
        wait_until(lambda: finished(run) > before)

        [gcs] = [p for p in psutil.Process(cluster.head.pid).children(recursive=True)
                 if "gcs_server" in p.name()]  # fmt: skip
        gcs.send_signal(signal.SIGKILL)
        _, said = search.communicate(timeout=LIMIT)
        assert search.returncode == errors.RESUMABLE, said
        assert "is gone" in said
    finally:
        for process in (search, *nodes):
            kill_tree(process)
            process.communicate()
    before = {row["id"]: row for row in Run.open(run).rows() if row["status"]}
    assert before
    resumed = subprocess.run(
        [*COMMAND, "search", "runs/a", "--executor", "inline", "--budget", str(len(before))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert resumed.returncode == errors.DONE, resumed.stderr
    after = {row["id"]: row for row in Run.open(run).rows()}
    assert before.items() <= after.items()


@pytest.mark.slow
def test_a_frozen_head_is_said_and_ctrl_c_ends_the_search_meanwhile(
    cluster: Cluster, tmp_path: Path
) -> None:
    search = start(cluster, tmp_path)
    run, log = tmp_path / "runs/a", tmp_path / "runs/a/run.log"
    try:
        wait_until(lambda: finished(run) >= 1)
        head = psutil.Process(cluster.head.pid)
        for process in (head, *head.children(recursive=True)):
            process.suspend()
        wait_until(lambda: "has been silent since" in log.read_text())

        def ended() -> bool:
            search.send_signal(signal.SIGINT)  # the first asks for a drain
            time.sleep(1)
            return search.poll() is not None

        wait_until(ended)
        _, said = search.communicate()
    finally:
        kill_tree(search)
    assert search.returncode == errors.INTERRUPTED, said
    assert "the same command goes on" in said


def test_a_machine_of_a_run_leaves_when_the_search_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a process that sleeps in the place of Ray's node."""
    nodes: list[subprocess.Popen[str]] = []

    @contextlib.contextmanager
    def sleeper(*args: Any) -> Iterator[subprocess.Popen[str]]:
        nodes.append(subprocess.Popen(["sleep", "60"], text=True))
        yield nodes[-1]
        nodes[-1].kill()
        nodes[-1].wait()

    monkeypatch.setattr(actsearch.searching.cluster, "_node", sleeper)
    monkeypatch.setattr(actsearch.searching.cluster, "check_cluster", lambda address: None)
    monkeypatch.setattr(actsearch.searching.cluster, "LOOK_SECONDS", 0.05)
    run = Run(tmp_path / "a")
    with pytest.raises(EnvironmentProblem, match="nothing runs in"):
        next(actsearch.searching.cluster.join("host:1", run))
    said = []
    with run.locked():
        joined = actsearch.searching.cluster.join("host:1", run)
        said.append(next(joined))
        assert nodes[0].poll() is None
    said += joined
    assert [line.split()[0] for line in said] == ["Joined", "Left"]
    assert nodes[0].poll() is not None
