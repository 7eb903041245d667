"""replay(): any strategy against results that are known already, without any training.

A proposal costs the share of the steps that it would train for, lower rungs included, which a
search's budget does not count; a repeat costs nothing. So strategies can be compared over many
seeds in minutes.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import numpy as np

from actsearch.controller.several import OfSeveral
from actsearch.controller.strategies import several_from, strategy_from
from actsearch.controller.strategy import Proposal, Strategy
from actsearch.errors import UsageError
from actsearch.results.aims import best_of, hypervolume
from actsearch.results.metrics import Cell, p_value
from actsearch.results.tables import Row
from actsearch.studies.known_results import Known, LookUp, Results, Table

PATIENCE = 5_000  # repeats in a row after which a replay ends, at most; ten times a small table
REGRETS = (10, 30, 100, 300)


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
    strategy: Strategy | OfSeveral,
    look_up: LookUp,
    budget: float,
    *,
    several: bool = False,
    workers: int = 1,
    until: float = math.inf,
    goal: Collection[str] = (),
    patience: int = PATIENCE,
    floor: float = -math.inf,
) -> Trace:
    """Let `strategy` search until it has spent `budget` whole trainings, has found a reward of
    `until` or a function of `goal`, is exhausted, or has proposed nothing new `patience` times.
    With several `workers` a reward is told while as many others are on their way. A function that
    failed counts as `floor` among the best. With `several` aims all scores are told in the place of
    the reward."""
    seen: set[tuple[str, float]] = set()
    on_their_way: deque[tuple[Proposal, Known]] = deque()
    found: dict[str, float] = {}
    cost, best, costs, bests, repeats = 0.0, -math.inf, [], [], 0
    while cost < budget and best < until and repeats < patience and found.keys().isdisjoint(goal):
        proposals = strategy.ask(1) if len(on_their_way) < workers else ()
        for proposal in proposals:
            known = look_up(proposal.digits, proposal.share)
            key = (known.name or "", proposal.share)
            if known.name is None or key in seen:
                _tell(strategy, proposal, known, several)
                repeats += 1
                continue
            seen.add(key)
            on_their_way.append((proposal, known))
            repeats = 0
            cost += proposal.share
            if proposal.share == 1.0:
                best = max(best, floor if known.reward is None else known.reward)
                found[known.name] = cost
            costs.append(cost)
            bests.append(best)
        if not proposals or len(on_their_way) >= workers:
            if not on_their_way:
                break  # exhausted, or waiting for nothing
            _tell(strategy, *on_their_way.popleft(), several)
    return Trace(np.array(costs), np.array(bests), found)


def _tell(strategy: Strategy | OfSeveral, proposal: Proposal, known: Known, several: bool) -> None:
    if several:
        assert isinstance(strategy, OfSeveral)
        strategy.tell_several(proposal, known.scores)
    else:
        strategy.tell(proposal, known.reward)


@dataclass(frozen=True)
class Replayed:
    """The replays of one strategy, one a seed."""

    strategy: str
    traces: list[Trace]


def replay(
    table: Results,
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
    strategies = list(dict.fromkeys(strategies))  # a second time would be the same replays
    for text in strategies:
        _strategy(table, text, seed)
    jobs = [(text, seed + i) for text in strategies for i in range(repeats)]
    run = partial(_one, table, budget, workers, frozenset(goal))
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    if processes == 1:
        traces = [run(job) for job in jobs]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn"), _begin) as pool:
            traces = list(pool.map(run, jobs, chunksize=max(1, repeats // (4 * processes))))
    return [
        Replayed(text, [t for t, job in zip(traces, jobs, strict=True) if job[0] == text])
        for text in strategies
    ]


def _begin() -> None:
    """Of a process that plays: it uses one thread, and ends where the one that started it is gone,
    which otherwise would be noticed after the jobs that it has."""
    import torch

    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _one(
    table: Results, budget: float, workers: int, goal: Collection[str], job: tuple[str, int]
) -> Trace:
    text, seed = job
    several = _is_of_several(table)
    return play(
        _strategy(table, text, seed),
        table.look_up,
        budget,
        several=several,
        workers=workers,
        until=math.inf if goal or several else table.top(0.0),
        goal=goal,
        patience=min(PATIENCE, 10 * len(table)),
        floor=table.floor,
    )


def _is_of_several(table: Results) -> bool:
    return isinstance(table, Table) and bool(table.scores)


def _strategy(table: Results, text: str, seed: int) -> Strategy | OfSeveral:
    if _is_of_several(table):
        return several_from(text, table.space, seed)
    return strategy_from(text, table.space, seed, table.metric)


def summary(
    table: Results,
    replayed: Sequence[Replayed],
    percent: float = 1.0,
    goal: Collection[str] = (),
) -> list[Row]:
    """One row a strategy: trainings until a function of the top `percent`, or one of the names of
    `goal` where there are any; else also the median regret (how far the score still is from the
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
            "p": None if r is replayed[0] else p_value(float(mannwhitneyu(cost, costs[0]).pvalue)),
        }
        for n in () if goal else REGRETS:
            if n <= longest + 1e-9:
                regrets = [best - trace.best_at(n) for trace in r.traces]
                row[f"regret at {n}"] = table.metric.cell(_finite(np.median(regrets)))
        rows.append(row)
    return rows


class TrueFront:
    """Of a table with several aims: the functions that no other dominates, and the volume that any
    functions dominate as a share of theirs. The reference point lies a tenth of the front's range
    beyond its worst in each aim, so that its ends count too (Ishibuchi et al. 2018)."""

    def __init__(self, table: Table) -> None:
        self.scores = table.scores
        self.points = best_of(s.values for s in self.scores.values() if not s.violation)
        if not self.points:
            raise UsageError(
                "no function of the table keeps the limits; give wider ones by --where"
            )
        corners = [*zip(*self.points, strict=True)]
        self.reference = [min(c) - MARGIN * ((max(c) - min(c)) or 1.0) for c in corners]
        self.volume = hypervolume(self.points, self.reference)

    def share(self, names: Iterable[str]) -> float:
        """What these functions dominate, from 0 to 1."""
        found = (self.scores[name] for name in names if name in self.scores)
        best = best_of(s.values for s in found if not s.violation)
        return hypervolume(best, self.reference) / self.volume


def fronts(front: TrueFront, replayed: Sequence[Replayed]) -> list[Row]:
    """One row a strategy with several aims: the share of the true front's hypervolume that it has
    found after some numbers of trainings, the median over its replays, and after all of them with
    its quartiles and the 95 % interval of the median by order statistics. `p` is of a Mann-Whitney
    test against the first strategy, after all."""
    from scipy.stats import mannwhitneyu, quantile_test

    longest = round(max((trace.cost[-1] for r in replayed for trace in r.traces), default=0.0))
    after = [n for n in REGRETS if n < longest] + [longest]
    ends = [[_share(front, trace, longest) for trace in r.traces] for r in replayed]
    rows: list[Row] = []
    for r, shares in zip(replayed, ends, strict=True):
        row: dict[str, Any] = {"strategy": r.strategy, "n": len(shares)}
        for n in after:
            found = [_share(front, trace, n) for trace in r.traces]
            row[f"front at {n}"] = Cell(float(np.median(found)), _SHARE)
        middle = quantile_test(shares, p=0.5).confidence_interval(0.95)
        spread = {
            "median from": middle.low,
            "median to": middle.high,
            "lower quartile": np.quantile(shares, 0.25),
            "upper quartile": np.quantile(shares, 0.75),
        }
        row |= {name: Cell(v, _SHARE) if math.isfinite(v) else None for name, v in spread.items()}
        row["p"] = (
            None if r is replayed[0] else p_value(float(mannwhitneyu(shares, ends[0]).pvalue))
        )
        rows.append(row)
    return rows


def _share(front: TrueFront, trace: Trace, n: float) -> float:
    """Of what had been found for `n` whole trainings."""
    return front.share(name for name, cost in trace.found.items() if cost <= n + 1e-9)


MARGIN = 0.1
_SHARE = "{:.3f}".format

QUARTILES = (0.25, 0.5, 0.75)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def curves(table: Results, replayed: Sequence[Replayed]) -> list[Row]:
    """The regret curve of each strategy: median, quartiles and deciles over its replays after each
    whole training."""
    best = table.top(0.0)
    most = best - table.floor
    longest = max((trace.cost[-1] for r in replayed for trace in r.traces), default=0.0)
    rows: list[Row] = []
    for r in replayed:
        for n in range(1, round(longest) + 1):
            regrets = [min(best - trace.best_at(n), most) for trace in r.traces]
            spread = {f"q{q:.0%}".rstrip("%"): float(np.quantile(regrets, q)) for q in SPREAD}
            rows.append({"strategy": r.strategy, "trainings": n, **spread})
    return rows


SPREAD = (0.1, 0.25, 0.5, 0.75, 0.9)
