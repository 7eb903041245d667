"""Machines that fall silent, cables that are pulled and packets that are lost, on three hosts that
are network namespaces of this one. At the end the accounts are made: nothing is lost, nothing is
counted twice, and no function is convicted of what the network did."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from actsearch import errors

from .chaos import accounts, kill_tree
from .conftest import wait_until
from .hosts import Hosts, why_no_loss, why_not
from .test_cli import COMMAND, finished

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


def until_it_trains(driver: subprocess.Popen[Any], hosts: Hosts, trainings: int = 20) -> None:
    wait_until(lambda: trained(hosts) >= trainings or driver.poll() is not None, "training")
    assert driver.poll() is None, said(hosts)


def check_accounts(hosts: Hosts, budget: int) -> None:
    found = accounts(hosts.folder, budget)
    assert found["trials"] == budget
    assert not any(found["wrong"].values()), found


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
        until_it_trains(driver, hosts)
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
    check_accounts(hosts, budget)


@pytest.mark.parametrize("silent", [0, 1], ids=["head", "queue"])
def test_after_a_head_or_a_queue_that_was_cut_off_the_accounts_are_right(
    hosts: Hosts, silent: int
) -> None:
    """The driver, and the queue beside it, are on another machine than the head. Either side's
    silence ends the search, and it goes on when the cluster is whole again."""
    budget, options = 200, ("--workers", str(WORKERS), "--seconds", "0.1")
    driver = search(hosts, 1, budget, *options)
    try:
        until_it_trains(driver, hosts)
        assert hosts_of_queue(hosts) == [1]
        hosts.silence(silent)
        wait_until(lambda: driver.poll() is not None, "the end of the search")
        assert driver.poll() == errors.RESUMABLE, said(hosts)
        before = trained(hosts)
        hosts.reconnect(silent)
        for host in (1, 2):  # Ray ends nodes that were silent for long
            hosts.restart_ray(host)
        driver = search(hosts, 1, budget, *options)
        assert driver.wait(420) == 0, said(hosts)
    finally:
        kill_tree(driver)
    assert before < budget * 0.8
    check_accounts(hosts, budget)


def test_cables_that_are_pulled_and_plugged_in_again_cost_nothing(hosts: Hosts) -> None:
    """Of each machine in turn that only trains: for seconds, which connections outlive, and for so
    long that the cluster may give the machine up."""
    budget = 500
    driver = search(hosts, 0, budget, "--workers", str(WORKERS), "--seconds", "0.1")
    try:
        until_it_trains(driver, hosts)
        for host, seconds in ((1, 2), (2, 5), (1, 10), (2, 30)):
            hosts.silence(host)
            time.sleep(seconds)
            hosts.reconnect(host)
            time.sleep(2)
        before = trained(hosts)
        assert driver.wait(420) == 0, said(hosts)
    finally:
        kill_tree(driver)
    assert before < budget, "the search had ended before the last cable was plugged in"
    check_accounts(hosts, budget)


@pytest.mark.parametrize("percent", [2, 20])
def test_lost_packets_cost_nothing_but_time(hosts: Hosts, percent: int) -> None:
    """Of all machines, in both directions, from some trainings on to the end."""
    if reason := why_no_loss():
        pytest.skip(reason)
    budget = 150
    driver = search(hosts, 0, budget, "--workers", str(WORKERS), "--seconds", "0.1")
    try:
        until_it_trains(driver, hosts)
        for host in range(len(hosts.names)):
            hosts.lose(host, percent)
        before = trained(hosts)
        assert driver.wait(420) == 0, said(hosts)
        assert sum(map(hosts.lost, range(len(hosts.names)))) > 10
    finally:
        kill_tree(driver)
    assert before < budget * 0.8
    check_accounts(hosts, budget)


def test_a_head_that_falls_silent_ends_the_search_and_it_can_be_resumed(hosts: Hosts) -> None:
    """The driver is on another machine, and Ray would end its process after a minute."""
    run = hosts.folder / "runs/a"
    driver = hosts.start(
        1, *COMMAND, "search", str(run), "--space", "one-unit", "--steps", "20",
        "--ray-address", hosts.address, out="driver.out",
    )  # fmt: skip
    try:
        wait_until(lambda: finished(run) >= 3 or driver.poll() is not None, "training")
        assert driver.poll() is None, said(hosts)
        hosts.silence(0)
        assert driver.wait(200) == errors.RESUMABLE, said(hosts)
    finally:
        kill_tree(driver)
    assert "has been silent since" in (run / "run.log").read_text()
    assert "All that had finished is stored" in (hosts.folder / "driver.out").read_text()
