"""Does each strategy beat random search? Two tasks without training, the same evaluations for all.

    python benchmarks/strategies.py [--seeds 30] [--task recover] [--strategy ppo]

bandit   `two-units`; every choice of a digit has a hidden value, drawn anew for each seed, and a
         candidate is worth the mean of its choices' values. Score: the best of 300 candidates.
recover  `two-units`; a candidate is worth 1 / (1 + d), d its root mean square distance to
         x * sigmoid(x) on a grid of -5..5 at the initial betas. Score: the evaluations until the
         function itself is found, at most 1,000.

The settings of the strategies were chosen with the seeds 100 to 123; these are others. p is of a
one-sided Mann-Whitney test against random search.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from actsearch.controller.strategies import strategy_from
from actsearch.controller.strategy import Digits
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.space import SPACES
from actsearch.studies.known_results import Known
from actsearch.studies.replay import play

SPACE = SPACES["two-units"]
GRID = torch.linspace(-5.0, 5.0, 101, dtype=torch.float64)
TARGET = (GRID * torch.sigmoid(GRID)).numpy()
FOUND = 1 - 1e-9
RIVALS = ("evolution", "surrogate", "ppo", "ppo:mode=async")
BUDGETS = {"bandit": 300, "recover": 1000}
WORKERS = 4  # on their way at once for the asynchronous mode


class Bandit:
    """Hidden values of the choices."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng([seed, 1])
        self.values = [random.random(radix) for radix in SPACE.radices]

    def __call__(self, digits: Digits, share: float) -> Known:
        worth = [float(v[d]) for v, d in zip(self.values, digits, strict=True)]
        return Known(str(digits), sum(worth) / len(worth))


class Recover:
    """Closeness to x * sigmoid(x)."""

    def __init__(self) -> None:
        self.known: dict[Digits, Known] = {}

    def __call__(self, digits: Digits, share: float) -> Known:
        if digits not in self.known:
            self.known[digits] = self._worth(digits)
        return self.known[digits]

    def _worth(self, digits: Digits) -> Known:
        expr = canonical(SPACE.expression(digits))
        [found] = curves([expr], GRID)
        value = found.value[0, 0].numpy()
        if not np.isfinite(value).all():
            return Known(str(expr), None)
        distance = math.sqrt(np.mean(np.clip(value - TARGET, -1e6, 1e6) ** 2))
        return Known(str(expr), 1 / (1 + distance))


def score(task: str, job: tuple[str, int]) -> float:
    """One search; larger is better for the bandit, smaller for recover."""
    text, seed = job
    strategy = strategy_from(text, SPACE, seed)
    workers = WORKERS if "async" in text else 1
    budget = BUDGETS[task]
    if task == "bandit":
        return float(play(strategy, Bandit(seed), budget, workers=workers).best[-1])
    trace = play(strategy, Recover(), budget, workers=workers, until=FOUND, patience=2000)
    return min(trace.cost_to(FOUND), budget + 1.0)


def one_thread() -> None:
    torch.set_num_threads(1)


def compare(task: str, strategies: Sequence[str], seeds: range) -> None:
    better = "greater" if task == "bandit" else "less"
    print(f"\n{task}: {BUDGETS[task]} evaluations, {len(seeds)} seeds")
    print(f"  {'strategy':<18} {'median':>8} {'quartiles':>17} {'p':>9} {'seconds':>8}")
    random: list[float] = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), one_thread) as pool:
        for text in strategies:
            clock = time.perf_counter()
            scores = list(pool.map(partial(score, task), [(text, seed) for seed in seeds]))
            seconds = time.perf_counter() - clock
            low, median, high = np.quantile(scores, (0.25, 0.5, 0.75))
            random = random or scores
            p = mannwhitneyu(scores, random, alternative=better).pvalue
            spread = f"{low:.4g} to {high:.4g}"
            shown = "" if scores is random else f"{p:.1e}"
            print(
                f"  {text:<18} {median:>8.4g} {spread:>17} {shown:>9} {seconds:>8.0f}", flush=True
            )


def overhead() -> None:
    """ask and tell of a batch of 64 three-unit candidates with one update, on one core."""
    torch.set_num_threads(1)
    ppo = strategy_from("ppo:batch_size=64", SPACES["three-units"], 0)
    times: list[float] = []
    for _ in range(8):
        clock = time.perf_counter()
        for i, proposal in enumerate(ppo.ask(64)):
            ppo.tell(proposal, (i % 7) / 7)
        ppo.state_dict()
        times.append(time.perf_counter() - clock)
    print(
        f"\noverhead: 64 candidates of three units, ask + tell + update + state: median "
        f"{np.median(times):.3f} s, worst {max(times):.3f} s, n = {len(times)}, one thread"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--task", choices=[*BUDGETS], action="append", help="one of them only")
    parser.add_argument("--strategy", action="append", help="one of them only, beside random")
    given = parser.parse_args()
    for task in given.task or BUDGETS:
        compare(task, ("random", *(given.strategy or RIVALS)), range(given.seeds))
    overhead()


if __name__ == "__main__":
    main()
