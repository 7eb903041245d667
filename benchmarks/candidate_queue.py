"""What the queue, the loop and the store cost.

    python benchmarks/candidate_queue.py [--seconds 5]

queue    workers with children of `--child` seconds on the queue alone, on a simulated clock: what a
         trial costs, and how long workers wait when the queue's actor serves one call at a time
store    transactions with one outcome each while a reader ranks, and without
trials   10,000 trivial trials through a real search (strategy, store, executor in this process):
         trials a second, and the driver's memory on the way
ray      the same through a real local Ray with two workers, fewer trials
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from actsearch.controller.strategies import strategy_from
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.space import SPACES
from actsearch.searching.identity import Functions, Level
from actsearch.searching.loop import run_trials
from actsearch.searching.progress import Progress
from actsearch.searching.proposals import Proposals
from actsearch.searching.ray_actors import QueueActor, WorkerActor
from actsearch.searching.sources import StrategySource, asking
from actsearch.workers.candidate_queue import CandidateQueue
from actsearch.workers.executor import Executor, InlineExecutor
from actsearch.workers.ray_executor import AHEAD, RayExecutor

CHILD_SECONDS = 60.0
MIB = 2**20


def simulated(workers: int, child: float, rounds: int = 20) -> tuple[float, float]:
    """Real microseconds a trial in the queue, and the share of the simulated time that workers wait
    if the queue's actor serves one call at a time."""
    now = 0.0
    queue = CandidateQueue(clock=lambda: now)
    trials = rounds * workers
    spent, done, number = 0.0, 0, 0
    ends: list[tuple[float, int, int]] = []  # (when, worker, lease)
    asking = [*range(workers)]
    free_at, waited = 0.0, 0.0  # when the actor is free; what workers have waited
    chance = np.random.default_rng(0)
    while done < trials:
        begun = time.perf_counter()
        for _ in range(workers * AHEAD + len(asking) - (number - done - len(ends))):
            queue.put(Trial(number, "search", "x", "p", 0))
            number += 1
        spent += time.perf_counter() - begun
        for worker in asking:
            begun = time.perf_counter()
            lease: Any = queue.lease(str(worker))
            took = time.perf_counter() - begun
            spent += took
            free_at = max(free_at, now) + took
            waited += free_at - now
            seconds = child * chance.lognormal(0.0, 0.3)
            heapq.heappush(ends, (free_at + seconds, worker, lease.number))
        asking = []
        now, worker, lease = heapq.heappop(ends)
        begun = time.perf_counter()
        queue.beat(lease, 1)
        queue.complete(lease, Outcome("ok", val_score=0.5))
        queue.reclaim()
        queue.drain()
        spent += time.perf_counter() - begun
        done += 1
        asking = [worker]
    return spent / trials * 1e6, waited / (workers * now)


def commits(seconds: float, *, reader: bool) -> tuple[float, float]:
    """Median and 99th percentile of a commit in ms."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.sqlite")
        store = Store(path, create=True)
        store.add_protocol("p", {})
        ended = threading.Event()

        def rank() -> None:
            beside = Store(path, readonly=True)
            while not ended.is_set():
                sorted(beside.rows("search"), key=lambda r: r["val_score"] or 0.0)
            beside.close()

        thread = threading.Thread(target=rank)
        if reader:
            thread.start()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            begun = time.perf_counter()
            with store.transaction():
                trial = store.submit("search", f"f{len(times)}", "p", 0)
                store.record(trial, Outcome("ok", val_score=0.5))
            times.append(time.perf_counter() - begun)
        ended.set()
        if reader:
            thread.join()
        store.close()
    return float(np.median(times)) * 1e3, float(np.quantile(times, 0.99)) * 1e3


def trivial(trial: Trial, beat: Any) -> Outcome:
    return Outcome("ok", val_score=(sum(map(ord, trial.expression)) % 97) / 100)


def searched(executor: Executor, budget: int) -> tuple[float, list[float]]:
    """Trials a second of a search, and the driver's memory in MiB at ten points."""
    process, memory = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "run.sqlite"), create=True)
        store.add_protocol("p", {})
        space = SPACES["two-units"]
        strategy, functions = strategy_from("random", space, 0), Functions(store, space)
        level = Level("search", "p")
        proposals = Proposals(store, strategy, "random", functions, lambda share: level)
        source = StrategySource(proposals, asking(proposals, budget=budget, patience=100_000))

        def look() -> bool:
            if source.tally.done >= len(memory) * budget / 10:
                memory.append(process.memory_info().rss / MIB)
            return False

        begun = time.perf_counter()
        run_trials(store, source, executor, Progress("queue", "", budget), look)
        seconds = time.perf_counter() - begun
        memory.append(process.memory_info().rss / MIB)
        store.close()
    return budget / seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each part of `store`")
    parser.add_argument("--child", type=float, default=CHILD_SECONDS, help="seconds of a child")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--ray-trials", type=int, default=1000)
    given = parser.parse_args()

    print(f"queue: children of {given.child:g} s")
    for workers in (1, 10, 100, 1000, 2000):
        micro, waiting = simulated(workers, given.child)
        print(f"  {workers:>5} workers: {micro:6.1f} us a trial, waiting {waiting:.2%} of the time")

    print("store: one outcome a transaction, synced to disk")
    for reader in (False, True):
        median, worst = commits(given.seconds, reader=reader)
        beside = "beside a reader that ranks all the time" if reader else "alone"
        print(f"  {beside}: median {median:.2f} ms, 99 % {worst:.2f} ms")

    rate, memory = searched(InlineExecutor(trivial), given.trials)
    print(f"trials: {given.trials:,} in this process: {rate:.0f} a second; MiB at each tenth:")
    print("  " + " ".join(f"{m:.0f}" for m in memory))

    executor = RayExecutor(trivial, workers=2, queue_class=QueueActor, worker_class=WorkerActor)
    try:
        rate, memory = searched(executor, given.ray_trials)
    finally:
        executor.close()
    print(f"ray: {given.ray_trials:,} with 2 workers: {rate:.0f} a second; MiB at each tenth:")
    print("  " + " ".join(f"{m:.0f}" for m in memory))


if __name__ == "__main__":
    main()
