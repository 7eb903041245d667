"""Does each strategy beat random search? Tasks without training, the same evaluations for all.

    python benchmarks/strategies.py run [--task hard-two] [--strategy ppo] [--budget 300 3000]
                                        [--seeds 30] [--first-seed 0] [--out ROWS.jsonl]
    python benchmarks/strategies.py say ROWS.jsonl
    python benchmarks/strategies.py overhead

bandit      `two-units`; every choice of a digit has a hidden value, drawn anew for each seed, and a
            candidate is worth the mean of its choices' values. The ceiling is the mean of the
            largest value of each digit, which one point of the space has.
recover     `two-units`; a candidate is worth 1 / (1 + d), d its root mean square distance to
            x * sigmoid(x) on a grid of -5..5 at the initial betas. So many points are that function
            that screening random ones finds it; the table says how many.
hard-two    `two-units`; a candidate is worth 1 / (1 + d / sd), d its distance to a target drawn
            anew for each seed, sd the target's standard deviation on the grid. A target is finite
            there, of size 10 at most, has an sd of 0.1 or more, leaves a tenth of it or more beside
            its best straight line, and equals none of 30,000 random points of the space.
hard-three  the same with `three-units`, whose targets and random points have three units.

A search ends when it has found the ceiling or the target (to 1e-9, at the initial betas), or has
spent its budget of evaluations; a repeat of a function costs nothing. `run --out` appends a row for
each search, one JSON object a line, and skips those that the file has. Settings are chosen with
the seeds 100 and up, by `--first-seed 100`, and reported with others.

Of a strategy and its searches the tables say:

    found              share of searches that found it
    best               median best worth as a share of the ceiling, and quartiles
    above random       mean difference of the best to random search, paired by seed, with a 95 %
                       interval
    evaluations        median number until it was found, and quartiles
    spent              median number until the search ended, which is also where 2,000 repeats came
                       in a row
    p                  of a one-sided Mann-Whitney test against random search: a search is better if
                       it found it sooner, or did not and had a better best
    ms                 processor time of `ask` and `tell` for each evaluation
    benchmark's ms     processor time of all else for each evaluation
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from actsearch.controller.strategies import strategy_from
from actsearch.controller.strategy import Digits, Proposal, Reward, Strategy
from actsearch.results.statistics import interval
from actsearch.results.tables import Row, to_markdown
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.expression import Expr
from actsearch.search_space.operators import CONSTANT, INPUT
from actsearch.search_space.space import SPACES
from actsearch.search_space.units import UnitSpace, digit_values
from actsearch.studies.known_results import Known
from actsearch.studies.replay import play

GRID = torch.linspace(-5.0, 5.0, 101, dtype=torch.float64)
SWISH = (GRID * torch.sigmoid(GRID)).numpy()
FOUND = 1 - 1e-9  # of the ceiling
RANDOM = "random"
RIVALS = ("evolution", "surrogate", "ppo", "ppo:mode=async", "ppo:model=none")
WORKERS = 4  # on their way at once for the asynchronous mode
PATIENCE = 2000  # repeats in a row after which a search ends
SCREENED = 30_000  # random points none of which is a hard target
BASE = 120_000  # random points among which the target of `recover` is counted
CHUNK = 2000
KEPT = 20_000  # curves of parts of functions, and functions, that are kept
LARGEST, LEAST_SD, CURVED = 10.0, 0.1, 0.1
QUARTILES = (0.5, 0.25, 0.75)


class Worth(Protocol):
    """What a candidate is worth: never more than `ceiling`, which a point of the space reaches."""

    @property
    def ceiling(self) -> float: ...

    def __call__(self, digits: Digits, share: float) -> Known: ...


class Bandit:
    """Hidden values of the choices."""

    def __init__(self, space: UnitSpace, seed: int) -> None:
        random = np.random.default_rng([seed, 1])
        self.values = [random.random(radix) for radix in space.radices]

    @property
    def ceiling(self) -> float:
        return float(np.mean([values.max() for values in self.values]))

    def __call__(self, digits: Digits, share: float) -> Known:
        worth = [float(v[d]) for v, d in zip(self.values, digits, strict=True)]
        return Known(str(digits), float(np.mean(worth)))


class Closeness:
    """1 / (1 + d / scale), d the root mean square distance to the curve `target` (101,)."""

    ceiling = 1.0

    def __init__(self, space: UnitSpace, target: np.ndarray, scale: float = 1.0) -> None:
        self.space, self.target, self.scale = space, target, scale
        self._known = lru_cache(KEPT)(self._worth)

    def __call__(self, digits: Digits, share: float) -> Known:
        return self._known(canonical(self.space.expression(digits)))

    def _worth(self, expr: Expr) -> Known:
        [reward] = self.rewards(curve(expr).numpy()[None])
        return Known(str(expr), float(reward) if math.isfinite(reward) else None)

    def rewards(self, values: np.ndarray) -> np.ndarray:
        """(N, 101) -> (N,), NaN for a curve that is not finite."""
        apart = np.clip(values - self.target, -1e6, 1e6)
        worth = 1 / (1 + np.sqrt(np.mean(apart**2, axis=1)) / self.scale)
        return np.where(np.isfinite(values).all(axis=1), worth, np.nan)

    def equal(self, values: np.ndarray) -> int:
        """How many of these curves are the target."""
        return int((self.rewards(values) >= FOUND).sum())


@lru_cache(KEPT)
def curve(expr: Expr) -> torch.Tensor:
    """Values (101,) on GRID at the initial betas; candidates have many parts in common."""
    if expr.op == INPUT:
        return GRID
    if expr.op == CONSTANT:
        return torch.full_like(GRID, expr.value or 0.0)
    arguments = [curve(arg) for arg in expr.args]
    if expr.beta is not None:
        arguments.append(torch.tensor(expr.beta, dtype=GRID.dtype))
    return expr.op.form("guarded")(*arguments).expand_as(GRID)


def recover(space: UnitSpace, seed: int) -> Closeness:
    return Closeness(space, SWISH)


def hard(space: UnitSpace, seed: int) -> Closeness:
    return hard_target(space, seed)[1]


def hard_target(space: UnitSpace, seed: int) -> tuple[Digits, Closeness]:
    """The target of a seed, as digits too: the first of its random points that will do."""
    random = np.random.default_rng([seed, 2])
    while True:
        [point] = uniform(space, random, 1)
        [values] = digit_values(space, point[None], GRID).numpy()
        if wanted(values):
            worth = Closeness(space, values, float(values.std()))
            if not worth.equal(screened(space)):
                return tuple(point.tolist()), worth


def wanted(values: np.ndarray) -> bool:
    """Whether a curve (101,) is finite, bounded and curved."""
    if not np.isfinite(values).all() or np.abs(values).max() > LARGEST or values.std() < LEAST_SD:
        return False
    line = np.polynomial.Polynomial.fit(GRID.numpy(), values, 1)
    return bool((values - line(GRID.numpy())).std() >= CURVED * values.std())


@lru_cache(1)
def screened(space: UnitSpace) -> np.ndarray:
    """The curves (30,000, 101) of random points."""
    return np.concatenate(list(random_curves(space, SCREENED, seed=1)))


def random_curves(space: UnitSpace, n: int, seed: int) -> Iterator[np.ndarray]:
    """The curves of `n` random points, some at a time."""
    random = np.random.default_rng([seed, 3])
    for start in range(0, n, CHUNK):
        points = uniform(space, random, min(CHUNK, n - start))
        yield digit_values(space, points, GRID).numpy()


def uniform(space: UnitSpace, random: np.random.Generator, n: int) -> np.ndarray:
    """(n, T) digits."""
    return random.integers(space.radices, size=(n, len(space.radices)))


def base_rate(worth: Closeness, n: int) -> int:
    """How many of `n` random points are the target."""
    return sum(map(worth.equal, random_curves(worth.space, n, seed=0)))


@dataclass(frozen=True)
class Task:
    space: UnitSpace
    budget: int
    worth: Callable[[UnitSpace, int], Worth]  # of a seed


TASKS: Mapping[str, Task] = {
    "bandit": Task(SPACES["two-units"], 300, Bandit),
    "recover": Task(SPACES["two-units"], 1000, recover),
    "hard-two": Task(SPACES["two-units"], 300, hard),
    "hard-three": Task(SPACES["three-units"], 300, hard),
}


class Timed:
    """A strategy, and the processor time that it took."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self.seconds = 0.0

    def ask(self, n: int) -> Sequence[Proposal]:
        with self._counted():
            return self.inner.ask(n)

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        with self._counted():
            self.inner.tell(proposal, reward)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.seconds += time.process_time() - begun

    @property
    def exhausted(self) -> bool:
        return self.inner.exhausted

    def peek(self, n: int) -> Sequence[Digits]:
        return self.inner.peek(n)

    def health(self) -> dict[str, float]:
        return self.inner.health()

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


@dataclass(frozen=True)
class Job:
    """A search: what a row of the file is known by."""

    task: str
    budget: int
    strategy: str
    seed: int

    @classmethod
    def of(cls, row: Row) -> Job:
        return cls(row["task"], row["budget"], row["strategy"], row["seed"])


def search(job: Job) -> Row:
    """One search, as a row."""
    torch.set_num_threads(1)
    task = TASKS[job.task]
    _imported(job.strategy)
    worth = task.worth(task.space, job.seed)
    strategy = Timed(strategy_from(job.strategy, task.space, job.seed))
    begun = time.process_time()
    trace = play(
        strategy,
        worth,
        job.budget,
        workers=WORKERS if "async" in job.strategy else 1,
        until=FOUND * worth.ceiling,
        patience=PATIENCE,
    )
    seconds = time.process_time() - begun
    cost = trace.cost_to(FOUND * worth.ceiling)
    best = float(trace.best[-1]) / worth.ceiling if len(trace.best) else 0.0
    return {
        **vars(job),
        "evaluations": len(trace.cost),
        "found at": round(cost) if math.isfinite(cost) else None,
        "best": max(best, 0.0),  # -infinity where nothing was finite
        "strategy's seconds": round(strategy.seconds, 4),
        "benchmark's seconds": round(seconds - strategy.seconds, 4),
    }


@lru_cache
def _imported(strategy: str) -> None:
    """A short search, so that the time of a first import and a first fit is no search's."""
    play(strategy_from(strategy, SPACES["tiny"], 0), Bandit(SPACES["tiny"], 0), 30, patience=30)


def searches(jobs: Sequence[Job], processes: int) -> Iterator[Row]:
    """A row for each, as they end."""
    if processes == 1:
        yield from map(search, jobs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(search, job) for job in jobs]):
            yield done.result()


def rows_of(path: Path) -> list[Row]:
    """Those of the file; a last line that a kill cut short is none."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def run(given: argparse.Namespace) -> None:
    rows: list[Row] = rows_of(given.out) if given.out else []
    done = set(map(Job.of, rows))
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    strategies = dict.fromkeys((RANDOM, *(given.strategy or RIVALS)))
    jobs = [
        Job(name, budget, strategy, seed)
        for seed, name, strategy in product(seeds, given.task or TASKS, strategies)
        for budget in given.budget or [TASKS[name].budget]
    ]
    if given.out and given.out.exists():  # without what a kill cut short
        given.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = set(jobs)
    rows = [row for row in rows if Job.of(row) in wanted]
    for row in searches([job for job in jobs if job not in done], given.processes):
        rows.append(row)
        if given.out:
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    tell(rows)


def say(given: argparse.Namespace) -> None:
    tell([row for path in given.file for row in rows_of(path)])


def tell(rows: Sequence[Row]) -> None:
    """A table for each task and budget."""
    for name, task in TASKS.items():
        for budget in sorted({row["budget"] for row in rows if row["task"] == name}):
            of = [row for row in rows if (row["task"], row["budget"]) == (name, budget)]
            seeds = sorted({row["seed"] for row in of})
            print(f"\n{name}: {budget:,} evaluations, seeds {seeds[0]} to {seeds[-1]}")
            if task.worth is recover:
                print(rate(base_rate(recover(task.space, 0), BASE), BASE))
            print(to_markdown(table(of)), end="", flush=True)


def rate(equal: int, n: int) -> str:
    """What screening random points alone gives; draws until the first are geometric."""
    median = math.log(0.5) / math.log1p(-equal / n)
    return (
        f"{equal} of {n:,} random points are the target, 1 in {n / equal:,.0f}: random draws find "
        f"it after {median:,.0f} (median)."
    )


def table(rows: Sequence[Row]) -> list[Row]:
    """A row for each strategy of one task and budget, random search first."""
    names = sorted(dict.fromkeys(row["strategy"] for row in rows), key=lambda n: n != RANDOM)
    by_seed = {
        name: {row["seed"]: row for row in sorted(rows, key=lambda r: r["seed"])
               if row["strategy"] == name} for name in names
    }  # fmt: skip
    return [_row(name, by_seed[name], by_seed.get(RANDOM, {})) for name in names]


def _row(name: str, rows: Mapping[int, Row], random: Mapping[int, Row]) -> Row:
    count = sum(row["evaluations"] for row in rows.values())

    def ms(key: str) -> str:
        return f"{1000 * sum(row[key] for row in rows.values()) / count:.2f}"

    best = np.quantile([row["best"] for row in rows.values()], QUARTILES)
    cost = np.quantile([_cost(row) for row in rows.values()], QUARTILES, method="higher")
    return {
        "strategy": name,
        "n": len(rows),
        "found": f"{np.mean([row['found at'] is not None for row in rows.values()]):.0%}",
        "best": "{:.3f} ({:.3f} to {:.3f})".format(*best),
        "above random": "" if name == RANDOM else _above(rows, random),
        "evaluations": "{} ({} to {})".format(*map(_shown, cost)),
        "spent": f"{np.median([row['evaluations'] for row in rows.values()]):,.0f}",
        "p": "" if name == RANDOM or not random else f"{_p(rows.values(), random.values()):.1g}",
        "ms": ms("strategy's seconds"),
        "benchmark's ms": ms("benchmark's seconds"),
    }


def _cost(row: Row) -> float:
    return math.inf if row["found at"] is None else row["found at"]


def _shown(evaluations: float) -> str:
    return f"{evaluations:,.0f}" if math.isfinite(evaluations) else "more"


def _above(rows: Mapping[int, Row], random: Mapping[int, Row]) -> str:
    """The mean difference of the best over the seeds that both have."""
    apart = [rows[seed]["best"] - random[seed]["best"] for seed in rows if seed in random]
    found = interval(apart)
    return f"{np.mean(apart):+.3f} ({found.low:+.3f} to {found.high:+.3f})" if found else ""


def _p(rows: Iterable[Row], random: Iterable[Row]) -> float:
    ours, theirs = ([_merit(row) for row in of] for of in (rows, random))
    return float(mannwhitneyu(ours, theirs, alternative="greater").pvalue)


def _merit(row: Row) -> float:
    """Above 1 for a search that found it, the more the sooner; else below 1, as its best."""
    return row["best"] if row["found at"] is None else 1 + 1 / row["found at"]


def overhead(given: argparse.Namespace) -> None:
    """ask and tell of a batch of 64 three-unit candidates with one update, on one core."""
    torch.set_num_threads(1)
    ppo = strategy_from("ppo:model=none,batch_size=64", SPACES["three-units"], 0)
    times: list[float] = []
    for _ in range(8):
        clock = time.perf_counter()
        for i, proposal in enumerate(ppo.ask(64)):
            ppo.tell(proposal, (i % 7) / 7)
        ppo.state_dict()
        times.append(time.perf_counter() - clock)
    print(
        f"overhead: 64 candidates of three units, ask + tell + update + state: median "
        f"{np.median(times):.3f} s, worst {max(times):.3f} s, n = {len(times)}, one thread"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="search, and print the tables")
    runs.add_argument("--task", choices=TASKS, nargs="+", help="these only")
    runs.add_argument("--strategy", nargs="+", help="these only, beside random search")
    runs.add_argument("--budget", type=int, nargs="+", help="evaluations [each task's own]")
    runs.add_argument("--seeds", type=int, default=30)
    runs.add_argument("--first-seed", type=int, default=0)
    runs.add_argument("--out", type=Path, help="a file of rows, to which is added what it lacks")
    runs.add_argument("--processes", type=int, default=os.cpu_count())
    runs.set_defaults(do=run)
    says = commands.add_parser("say", help="print the tables of files")
    says.add_argument("file", type=Path, nargs="+")
    says.set_defaults(do=say)
    commands.add_parser("overhead", help="time ppo's batches").set_defaults(do=overhead)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
