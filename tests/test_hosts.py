"""Machines that fall silent, on three hosts that are network namespaces of this one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from actsearch import errors

from .chaos import accounts, kill_tree
from .hosts import Hosts, why_not
from .test_cli import COMMAND, finished, wait_until

pytestmark = pytest.mark.slow

WORKERS = 3


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    made = Hosts(tmp_path)
    try:
        for host in range(len(made.names)):
            made.start_ray(host)
        yield made
    finally:
        made.close()


def search(hosts: Hosts, host: int, budget: int, *options: str) -> subprocess.Popen[Any]:
    """A whole search on children that sleep, its driver on `host`."""
    return hosts.start(
        host, sys.executable, "-m", "tests.chaos", "--drive", str(hosts.folder),
        "--address", hosts.address, "--trials", str(budget), *options, out="driver.out",
    )  # fmt: skip


def trained(hosts: Hosts) -> int:
    ledger = hosts.folder / "ledger"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def said(hosts: Hosts) -> str:
    return "\n".join(
        (hosts.folder / name).read_text(errors="replace")[-3000:]
        for name in ("driver.out", "driver.log")
        if (hosts.folder / name).exists()
    )


def hosts_of_queue(hosts: Hosts) -> list[int]:
    return [
        i
        for i, name in enumerate(hosts.names)
        for process in psutil.Process(hosts.nodes[name].pid).children(recursive=True)
        if "QueueActor" in " ".join(process.cmdline())
    ]


@pytest.mark.parametrize("how", ["plug", "frozen"])
def test_a_machine_that_falls_silent_does_not_end_the_search(hosts: Hosts, how: str) -> None:
    """The machine of the queue, unless that is the driver's. Nothing is lost or counted twice."""
    budget = 500
    driver = search(hosts, 0, budget, "--workers", str(WORKERS), "--seconds", "0.1")
    try:
        wait_until(lambda: trained(hosts) >= 20 or driver.poll() is not None, 300)
        assert driver.poll() is None, said(hosts)
        [queue] = hosts_of_queue(hosts)
        silent = queue or 1
        if how == "plug":
            hosts.silence(silent)
        else:
            node = psutil.Process(hosts.nodes[hosts.names[silent]].pid)
            for process in (node, *node.children(recursive=True)):
                process.send_signal(signal.SIGSTOP)
        before = trained(hosts)
        assert driver.wait(420) == 0, said(hosts)
    finally:
        kill_tree(driver)
    assert queue == 0
    assert before < budget * 0.8
    found = accounts(hosts.folder, budget)
    assert not any(found["wrong"].values()), found


def test_a_head_that_falls_silent_ends_the_search_and_it_can_be_resumed(hosts: Hosts) -> None:
    """The driver is on another machine, and Ray would end its process after a minute."""
    run = hosts.folder / "runs/a"
    driver = hosts.start(
        1, *COMMAND, "search", str(run), "--space", "one-unit", "--steps", "20",
        "--ray-address", hosts.address, out="driver.out",
    )  # fmt: skip
    try:
        wait_until(lambda: finished(run) >= 3 or driver.poll() is not None, 300)
        assert driver.poll() is None, said(hosts)
        hosts.silence(0)
        assert driver.wait(200) == errors.RESUMABLE, said(hosts)
    finally:
        kill_tree(driver)
    assert "has been silent since" in (run / "run.log").read_text()
    assert "All that had finished is stored" in (hosts.folder / "driver.out").read_text()
