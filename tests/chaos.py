"""A storm of SIGKILLs over a whole search, and the accounts afterwards.

    python -m tests.chaos --kills 1000 [--seed 0] [--trials 4000]

A real search, its store and StrategySource, runs on a Ray cluster of two nodes, on children that
sleep for 20 to 70 ms. Workers, the queue's actor, the second node and the driver itself are killed
at random moments, each once before chance chooses among them; a driver that was killed is started
again and resumes. One candidate in a hundred is poison: it aborts whatever process it runs in.
Every child notes its end in a ledger outside the store. At the end

- every trial has exactly one outcome, and the budget is spent to the last function;
- what the ledger says was finished, the store has, and the other way round;
- every poison that was tried is `crashed`, and nothing else is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

TARGETS = {"worker": 0.75, "queue": 0.1, "driver": 0.1, "node": 0.05}
PAUSE = 0.2, 0.9  # seconds between kills
ATTEMPTS = 5
MORE = 50  # functions to train where a search ends before its storm
PATIENCE = 0.95  # chance to wait once more where no child has ended since the last kill


def poisonous(expression: str) -> bool:
    return sum(map(ord, expression)) % 100 == 7


# -- the driver, a process of its own


def drive(folder: Path, address: str, budget: int, workers: int = 2, seconds: float = 0.01) -> None:
    """Search, or resume; the children sleep for `seconds` a step."""
    import logging

    from actsearch.controller.strategies import strategy_from
    from actsearch.results.store import Store
    from actsearch.search_space.space import SPACES
    from actsearch.searching.identity import Candidates, Level
    from actsearch.searching.loop import run_trials
    from actsearch.searching.progress import Progress
    from actsearch.searching.proposals import Proposals
    from actsearch.searching.ray_actors import QueueActor, WorkerActor
    from actsearch.searching.sources import StrategySource, asking
    from actsearch.workers.ray_executor import RayExecutor

    logging.basicConfig(filename=folder / "driver.log", level=logging.INFO)
    store = Store(folder / "run.sqlite", create=True)
    store.add_protocol("p", {})
    space, name = SPACES["one-unit"], "evolution"
    strategy, functions = strategy_from(name, space, 0), Candidates(store, space)
    proposals = Proposals(store, strategy, name, functions, lambda share: Level("search", "p"))
    source = StrategySource(proposals, asking(proposals, budget=budget, patience=100_000))
    if not source.anything_left():
        return
    executor = RayExecutor(
        sleeper(str(folder / "ledger"), seconds),
        workers=workers,
        address=address,
        queue_class=QueueActor,
        worker_class=WorkerActor,
    )
    try:
        run_trials(store, source, executor, Progress("chaos", "", None))
    finally:
        executor.close()


def driven(*options: Any) -> int:
    """The exit code of `drive`, as the command line's: Ray may be stuck, and is then left."""
    from actsearch.errors import exit_code
    from actsearch.workers.executor import ClusterLostError
    from actsearch.workers.ray_thread import ray_is_stuck

    code = 0
    try:
        drive(*options)
    except ClusterLostError as error:
        sys.stderr.write(f"{error}\n")
        code = exit_code(error)
    if ray_is_stuck():
        sys.stderr.flush()
        os._exit(code)
    return code


def sleeper(ledger: str, seconds: float) -> Any:
    """An evaluation that Ray sends by value, since workers know no `tests`."""

    def evaluate(trial: Any, beat: Any) -> Any:
        import time

        from actsearch.results.records import Outcome

        if sum(map(ord, trial.subject)) % 100 == 7:
            os.abort()
        for step in range(2 + trial.id % 6):
            time.sleep(seconds)
            beat(step)
        accuracy = (sum(map(ord, trial.subject)) % 97) / 100
        line = f"{trial.id} {accuracy}\n".encode()
        file = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(file, line)
        os.close(file)
        return Outcome("ok", val_score=accuracy)

    return evaluate


# -- the storm


class Cluster:
    """A head and nodes as on machines of their own, by `ray start`, with a token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(new_token(folder / "token")),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        place = ("--head", f"--port={port}", "--include-dashboard=false")
        self.head = until_it_runs(lambda: self._start(*place), folder / "nodes.out")

    def join(self, cpus: int = 2) -> subprocess.Popen[bytes]:
        """Another node."""
        return self._start(f"--address={self.address}", cpus=cpus)

    def _start(self, *options: str, cpus: int = 2) -> subprocess.Popen[bytes]:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", *options, f"--num-cpus={cpus}", "--block"]
        with open(self.folder / "nodes.out", "ab") as out:
            return subprocess.Popen(
                [*command, "--disable-usage-stats"],
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=self.environment,
            )


def new_token(file: Path) -> Path:
    file.touch(mode=0o600)
    file.write_text(secrets.token_hex(32))
    return file


class Storm:
    """The cluster, the driver, and the kills."""

    def __init__(self, folder: Path, budget: int, seed: int) -> None:
        self.folder = folder
        self.budget = budget
        self.random = random.Random(seed)
        self.targets = self._targets()
        self.target = next(self.targets)
        self.cluster = Cluster(folder)
        self.node = self.cluster.join()
        self.kills: Counter[str] = Counter()
        self.drivers = 0
        self.done = 0
        self.driver = self._start_driver()

    def _start_driver(self) -> subprocess.Popen[bytes]:
        self.drivers += 1
        command = [sys.executable, "-m", "tests.chaos", "--drive", str(self.folder)]
        with open(self.folder / "driver.out", "ab") as out:
            return subprocess.Popen(
                [*command, "--address", self.cluster.address, "--trials", str(self.budget)],
                stdout=out,
                stderr=out,
                env=self.cluster.environment,
            )

    def _targets(self) -> Iterator[str]:
        """Each once, then by their weights."""
        yield from self.random.sample([*TARGETS], len(TARGETS))
        while True:
            yield from self.random.choices([*TARGETS], [*TARGETS.values()])

    def _done(self) -> int:
        """Bytes of the ledger."""
        ledger = self.folder / "ledger"
        return ledger.stat().st_size if ledger.exists() else 0

    def _processes(self, name: str) -> list[psutil.Process]:
        """Our cluster's actors of this name."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if process.name().startswith("ray::") and name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def strike(self) -> None:
        """Kill the target, if there is one of its kind. Mostly wait until a child has ended since
        the last kill: on a slow machine no worker would ever start."""
        done = self._done()
        if done == self.done and self.random.random() < PATIENCE:
            return
        self.done = done
        if self._killed(self.target):
            self.kills[self.target] += 1
            self.target = next(self.targets)

    def _killed(self, target: str) -> bool:
        """Whether there was something to kill. What the storm has started starts again."""
        if target == "driver":
            self.driver.send_signal(signal.SIGKILL)
            self.driver.wait()
            self.driver = self._start_driver()
            return True
        if target == "node":
            kill_tree(self.node)
            self.node = self.cluster.join()
            return True
        processes = self._processes("WorkerActor" if target == "worker" else "QueueActor")
        if not processes:
            return False
        try:
            self.random.choice(processes).kill()
        except psutil.Error:
            return False
        return True

    def blow(self, kills: int) -> None:
        """Until `kills` strikes were dealt and the search has ended; on a fast machine it is
        given more to do meanwhile."""
        while True:
            code = self.driver.poll()
            if code is not None:
                if code == 0 and self.kills.total() >= kills:
                    return
                if code == 0:
                    self.budget += MORE
                    self.driver = self._start_driver()
                    continue
                tail = (self.folder / "driver.out").read_text(errors="replace")[-2000:]
                raise SystemExit(f"the driver ended with {code}:\n{tail}")
            if self.kills.total() < kills:
                time.sleep(self.random.uniform(*PAUSE))
                self.strike()
            else:
                time.sleep(0.2)

    def close(self) -> None:
        for process in (self.driver, self.node, self.cluster.head):
            kill_tree(process)


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """SIGKILL to a process and all that it has started."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    process.wait()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=10)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until_it_runs(start: Callable[[], subprocess.Popen[Any]], out: Path) -> subprocess.Popen[Any]:
    """A process of `ray start` that says in the file `out` that it runs. Ray gives up after 30
    seconds, which a busy machine may need, so there are several attempts."""
    for _ in range(ATTEMPTS):
        said = out.stat().st_size if out.exists() else 0
        node = start()
        while node.poll() is None:
            if b"Ray runtime started" in out.read_bytes()[said:]:
                return node
            time.sleep(0.2)
        kill_tree(node)
    raise RuntimeError(out.read_text(errors="replace")[-2000:])


def accounts(folder: Path, budget: int) -> dict[str, Any]:
    """What must hold, as counts that must be 0, beside what happened."""
    from actsearch.results.store import Store

    store = Store(folder / "run.sqlite", readonly=True)
    rows = [row for row in store.rows("search") if row["status"] != "rejected"]
    lines = [line.split() for line in (folder / "ledger").read_text().splitlines()]
    ledger = Counter(int(trial) for trial, _ in lines)
    scores = {int(trial): float(accuracy) for trial, accuracy in lines}
    ok = {row["id"]: row["val_score"] for row in rows if row["status"] == "ok"}
    crashed = [row for row in rows if row["status"] == "crashed"]
    names = Counter(row["expression"] for row in rows)
    open_proposals = store.open_proposals("evolution")
    store.close()
    return {
        "trials": len(rows),
        "ok": len(ok),
        "crashed": len(crashed),
        "trained more than once": sum(n > 1 for n in ledger.values()),
        "wrong": {
            "waiting": sum(row["status"] is None for row in rows),
            "not in the budget": abs(len(rows) - budget),
            "twice": sum(n > 1 for n in names.values()),
            "ok without a ledger line": len(ok.keys() - ledger.keys()),
            "ledger line without an outcome": len(ledger.keys() - ok.keys()),
            "other score than the ledger": sum(scores.get(i, a) != a for i, a in ok.items()),
            "neither ok nor crashed": sum(row["status"] not in (None, "ok", "crashed")
                                          for row in rows),
            "innocent called crashed": sum(not poisonous(row["expression"]) for row in crashed),
            "poison called ok": sum(poisonous(row["expression"]) for row in rows
                                    if row["status"] == "ok"),
            "proposals never told": len(open_proposals),
        },
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=None, help="functions to train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="keep the run and its logs here")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.01, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        return driven(Path(given.drive), given.address, given.trials, given.workers, given.seconds)
    budget = given.trials or min(3000, 100 + 8 * given.kills)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = given.folder or temporary
        Path(folder).mkdir(exist_ok=True)
        storm = Storm(Path(folder), budget, given.seed)
        try:
            storm.blow(given.kills)
        finally:
            storm.close()
        found = accounts(Path(folder), storm.budget)
    found |= {"kills": dict(storm.kills), "drivers": storm.drivers}
    found["seconds"] = round(time.monotonic() - start, 1)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return int(any(found["wrong"].values()))


if __name__ == "__main__":
    sys.exit(main())
