"""replay(): any strategy against results that are known already, without any training.

A proposal costs the share of the steps that it would train for, a repeat costs nothing, exactly as
in a search. So strategies can be compared over many seeds in minutes.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from actsearch.errors import UsageError
from actsearch.run import Run
from actsearch.session import extra_operators
from controller.strategies import strategy_from
from controller.strategy import Digits, Proposal, Strategy
from results.benchmarks import ONE_UNIT, load_benchmark
from results.records import FAILURE_REWARD
from results.tables import Row
from search_space.equivalence import canonical
from search_space.expression import Expr
from search_space.fingerprint import fingerprints, same_function
from search_space.parser import ParseError, parse
from search_space.screening import screens
from search_space.space import Space, space_from

if TYPE_CHECKING:
    import pandas as pd

PATIENCE = 5_000  # repeats in a row after which a replay ends, at most; ten times a small table
REGRETS = (10, 30, 100, 300)


@dataclass(frozen=True)
class Known:
    """What a function is worth: its name, and its reward; `name` is None for one that would never
    be trained."""

    name: str | None
    reward: float


LookUp = Callable[[Digits, float], Known]


@dataclass(frozen=True)
class Trace:
    """A replay: after each evaluation its cost so far, in whole trainings, and the best reward of a
    whole training so far; and which functions were trained whole, with the cost up to each."""

    cost: np.ndarray
    best: np.ndarray
    found: Mapping[str, float]

    def cost_to(self, reward: float) -> float:
        """What it took to find a function of at least this reward; infinity if it did not."""
        reached = np.flatnonzero(self.best >= reward)
        return float(self.cost[reached[0]]) if len(reached) else math.inf

    def cost_of(self, names: Collection[str]) -> float:
        """What it took to find the first of these functions; infinity if it found none."""
        return min((self.found[name] for name in names if name in self.found), default=math.inf)

    def best_at(self, cost: float) -> float:
        """The best reward found for at most this cost; -infinity before the first."""
        last = int(np.searchsorted(self.cost, cost + 1e-9)) - 1
        return float(self.best[last]) if last >= 0 else -math.inf


def play(
    strategy: Strategy,
    look_up: LookUp,
    budget: float,
    *,
    workers: int = 1,
    until: float = math.inf,
    goal: Collection[str] = (),
    patience: int = PATIENCE,
) -> Trace:
    """Let `strategy` search until it has spent `budget` whole trainings, has found a reward of
    `until` or a function of `goal`, is exhausted, or has proposed nothing new `patience` times.
    With several `workers` a reward is told while as many others are on their way."""
    seen: set[tuple[str, float]] = set()
    on_their_way: deque[tuple[Proposal, float]] = deque()
    found: dict[str, float] = {}
    cost, best, costs, bests, repeats = 0.0, -math.inf, [], [], 0
    while cost < budget and best < until and repeats < patience and found.keys().isdisjoint(goal):
        proposals = strategy.ask(1) if len(on_their_way) < workers else ()
        for proposal in proposals:
            known = look_up(proposal.digits, proposal.share)
            key = (known.name or "", proposal.share)
            if known.name is None or key in seen:
                strategy.tell(proposal, known.reward)
                repeats += 1
                continue
            seen.add(key)
            on_their_way.append((proposal, known.reward))
            repeats = 0
            cost += proposal.share
            if proposal.share == 1.0:
                best = max(best, known.reward)
                found[known.name] = cost
            costs.append(cost)
            bests.append(best)
        if not proposals or len(on_their_way) >= workers:
            if not on_their_way:
                break  # exhausted, or waiting for nothing
            strategy.tell(*on_their_way.popleft())
    return Trace(np.array(costs), np.array(bests), found)


class Table:
    """Known results of a space: what each function reached, by share of the steps.

    A function that the table does not have was rejected, or never tried: it is worth
    FAILURE_REWARD, is never trained, and costs nothing.
    """

    def __init__(
        self, space: Space, rewards: Mapping[Expr, Mapping[float, float]], operators: str
    ) -> None:
        self.space = space
        self.operators = operators
        self.rewards = dict(rewards)
        self._by_key: dict[str, list[Expr]] = {}
        for expr, print_ in fingerprints(self.rewards, operators):
            self._by_key.setdefault(print_.key, []).append(expr)
        self._found: dict[Digits, Expr | None] = {}
        self._rows: dict[Expr, Expr | None] = {}  # of each canonical form

    def __len__(self) -> int:
        return len(self.rewards)

    def top(self, percent: float) -> float:
        """The accuracy from which on a function is among the best `percent` of the table."""
        accuracies = sorted((r[1.0] for r in self.rewards.values() if 1.0 in r), reverse=True)
        return accuracies[max(1, math.ceil(percent / 100 * len(accuracies))) - 1]

    def named(self, formulas: Iterable[str]) -> set[str]:
        """The names of these functions, however they are written; raises UsageError for one that
        the table does not have."""
        names: set[str] = set()
        for text in formulas:
            form = canonical(parse(text, extra_operators(self.space)), self.operators)
            self._note([form])
            row = self._rows[form]
            if row is None:
                raise UsageError(
                    f"the table does not have {text}; 'actsearch show' says what it is"
                )
            names.add(str(row))
        return names

    def coverage(self, sample: int = 2000) -> float:
        """The share of the space's candidates that the table has, of those that screening lets
        through; of a sample where the space is large."""
        size = self.space.size
        indices = range(size) if size <= sample else Random(0).sample(range(size), sample)
        points = [self.space.digits(i) for i in indices]
        self._find(points)
        missing = [p for p in points if self._found[p] is None]
        forms = [canonical(self.space.decode(p), self.operators) for p in missing]
        rejected = sum(bool(reason) for _, reason in screens(forms, self.operators))
        return (len(points) - len(missing)) / max(1, len(points) - rejected)

    def look_up(self, digits: Digits, share: float) -> Known:
        expr = self.find(digits)
        if expr is None:
            return Known(None, FAILURE_REWARD)
        rewards = self.rewards[expr]
        if share not in rewards:
            raise UsageError(
                f"the table has no accuracy of {expr} at {share:g} of the steps, which a strategy "
                f"in rungs asks for; give it a column accuracy@{share:g}"
            )
        return Known(str(expr), rewards[share])

    def find(self, digits: Digits) -> Expr | None:
        """The row of the table with this function, whatever its spelling."""
        if digits not in self._found:
            self._find([digits])
        return self._found[digits]

    def _find(self, points: Sequence[Digits]) -> None:
        """Note the row of each point, or None: by its canonical form, then by its values."""
        forms = {p: canonical(self.space.decode(p), self.operators) for p in points}
        self._note(forms.values())
        self._found |= {p: self._rows[expr] for p, expr in forms.items()}

    def _note(self, forms: Iterable[Expr]) -> None:
        """The same of canonical forms."""
        new = {expr for expr in forms if expr not in self._rows}
        self._rows |= {expr: expr for expr in new if expr in self.rewards}
        others = sorted(new - self._rows.keys(), key=str)
        for expr, print_ in fingerprints(others, self.operators):
            alike = self._by_key.get(print_.key, [])
            same = (row for row in alike if same_function(row, expr, self.operators))
            self._rows[expr] = next(same, None)


def table_from(source: str | Path, space: str | None = None, operators: str | None = None) -> Table:
    """The table of a finished run, or of a CSV or Parquet file with the columns `formula` (or
    `expression`) and `accuracy` (or `val accuracy`), and for rungs `accuracy@0.25`; an empty
    accuracy is a failed training. Where there is neither, `one-unit` is the table that comes with
    the package. Raises UsageError where there is none of that."""
    path = Path(source)
    if path.is_dir():
        return _of_run(Run.open(path), space)
    if str(source) == ONE_UNIT and not path.exists():
        if operators not in (None, "guarded"):
            raise UsageError(f"{ONE_UNIT} was trained with guarded operators, not {operators}")
        return _of_frame(load_benchmark(ONE_UNIT), path, space_from(space or ONE_UNIT), "guarded")
    if not path.is_file():
        raise UsageError(
            f"no run and no file at {path}; give a run's folder, a .csv or a .parquet, or "
            f"{ONE_UNIT}, which comes with actsearch"
        )
    return _of_frame(_frame(path), path, space_from(space or "one-unit"), operators or "guarded")


def _of_run(run: Run, space: str | None) -> Table:
    settings = run.config.get("settings", {})
    made = space_from(space or settings.get("space", "one-unit"))
    rewards: dict[Expr, dict[float, float]] = {}
    steps = settings.get("steps") or 0
    for stage in ("search", "rung"):
        for row in run.rows(stage):
            if row["status"] not in (None, "rejected"):
                accuracy = row["val_accuracy"]
                share = row["steps"] / steps if row["steps"] else 1.0
                told = rewards.setdefault(parse(row["expression"], extra_operators(made)), {})
                told[share] = FAILURE_REWARD if accuracy is None else accuracy
    if not rewards:
        raise UsageError(f"{run.path} has no finished function yet; search first")
    return Table(made, rewards, settings.get("operators", "guarded"))


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path} cannot be read as a table: {error}") from error


def _of_frame(frame: pd.DataFrame, path: Path, space: Space, operators: str) -> Table:
    names = {str(name).replace("_", " "): name for name in frame.columns}
    formulas = names.get("expression", names.get("formula"))
    accuracies = names.get("accuracy", names.get("val accuracy"))
    if formulas is None or accuracies is None:
        raise UsageError(
            f"{path} has the columns {', '.join(names)}; a table needs formula and accuracy"
        )
    shares = {1.0: accuracies}
    for name, column in names.items():
        if name.startswith("accuracy@"):
            shares[_number(name.removeprefix("accuracy@"), path)] = column
    if "status" in names:
        frame = frame.loc[frame[names["status"]] != "rejected"]
    rewards: dict[Expr, dict[float, float]] = {}
    for row in frame.to_dict("records"):
        try:
            expr = canonical(
                parse(str(row[formulas]).lstrip("'"), extra_operators(space)), operators
            )
        except ParseError as error:
            raise UsageError(f"{path}: {error}") from error
        told = {share: _number(row[column], path) for share, column in shares.items()}
        rewards[expr] = {s: FAILURE_REWARD if math.isnan(v) else v for s, v in told.items()}
    if max(max(told.values()) for told in rewards.values()) > 1.0:
        raise UsageError(f"{path} has accuracies above 1; write them as fractions of 1")
    return Table(space, rewards, operators)


def _number(value: Any, path: Path) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{path}: {value!r} is no number") from None


@dataclass(frozen=True)
class Replayed:
    """The replays of one strategy, one a seed."""

    strategy: str
    traces: list[Trace]


def replay(
    table: Table,
    strategies: Sequence[str],
    *,
    repeats: int = 30,
    budget: float | None = None,
    workers: int = 1,
    seed: int = 0,
    goal: Collection[str] = (),
    processes: int | None = None,
) -> list[Replayed]:
    """Each strategy `repeats` times, with the seeds `seed`, `seed + 1`, ..., until it has found the
    best of the table, or one of the names of `goal` where there are any, or has spent `budget`
    whole trainings: the size of the table if None, and without a `goal` at most 300."""
    budget = budget or (len(table) if goal else min(len(table), 300))
    for text in strategies:
        strategy_from(text, table.space, seed)
    jobs = [(text, seed + i) for text in strategies for i in range(repeats)]
    run = partial(_one, table, budget, workers, frozenset(goal))
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    if processes == 1:
        traces = [run(job) for job in jobs]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn"), _one_thread) as pool:
            traces = list(pool.map(run, jobs, chunksize=max(1, repeats // (4 * processes))))
    return [
        Replayed(text, [t for t, job in zip(traces, jobs, strict=True) if job[0] == text])
        for text in dict.fromkeys(strategies)
    ]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _one(
    table: Table, budget: float, workers: int, goal: Collection[str], job: tuple[str, int]
) -> Trace:
    text, seed = job
    return play(
        strategy_from(text, table.space, seed),
        table.look_up,
        budget,
        workers=workers,
        until=math.inf if goal else table.top(0.0),
        goal=goal,
        patience=min(PATIENCE, 10 * len(table)),
    )


def summary(
    table: Table,
    replayed: Sequence[Replayed],
    percent: float = 1.0,
    goal: Collection[str] = (),
) -> list[Row]:
    """One row a strategy: trainings until a function of the top `percent`, or one of the names of
    `goal` where there are any; else also the median regret (the accuracy still missing to the
    table's best) after some numbers of trainings.

    A replay that never got there counts as longer than all others. The 95 % interval of the median
    is by order statistics, which assume nothing of the distribution: an end is None where it lies
    among those, and both are for fewer than 6 replays. `p` is of a Mann-Whitney test against the
    first strategy.
    """
    from scipy.stats import mannwhitneyu, quantile_test

    least, best = table.top(percent), table.top(0.0)
    costs = [[t.cost_of(goal) if goal else t.cost_to(least) for t in r.traces] for r in replayed]
    longest = max((trace.cost[-1] for r in replayed for trace in r.traces), default=0.0)
    rows: list[Row] = []
    for r, cost in zip(replayed, costs, strict=True):
        low, median, high = (_finite(np.quantile(cost, q, method="higher")) for q in QUARTILES)
        ends = quantile_test(cost, p=0.5).confidence_interval(0.95)
        row: dict[str, Any] = {
            "strategy": r.strategy,
            "n": len(cost),
            "found": sum(map(math.isfinite, cost)) / len(cost),
            "trainings, median": median,
            "median from": _finite(ends.low),
            "median to": _finite(ends.high),
            "lower quartile": low,
            "upper quartile": high,
            "p": None if r is replayed[0] else float(mannwhitneyu(cost, costs[0]).pvalue),
        }
        for n in () if goal else REGRETS:
            if n <= longest + 1e-9:
                regrets = [best - trace.best_at(n) for trace in r.traces]
                row[f"regret at {n}"] = _finite(np.median(regrets))
        rows.append(row)
    return rows


QUARTILES = (0.25, 0.5, 0.75)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def curves(table: Table, replayed: Sequence[Replayed]) -> list[Row]:
    """The regret curve of each strategy: median, quartiles and deciles over its replays after each
    whole training."""
    best = table.top(0.0)
    longest = max((trace.cost[-1] for r in replayed for trace in r.traces), default=0.0)
    rows: list[Row] = []
    for r in replayed:
        for n in range(1, round(longest) + 1):
            regrets = [min(best - trace.best_at(n), best - FAILURE_REWARD) for trace in r.traces]
            spread = {f"q{q:.0%}".rstrip("%"): float(np.quantile(regrets, q)) for q in SPREAD}
            rows.append({"strategy": r.strategy, "trainings": n, **spread})
    return rows


SPREAD = (0.1, 0.25, 0.5, 0.75, 0.9)
