"""Scales: rewards as numbers of a known range, for strategies that do arithmetic with them.

A reward is told so that higher is better, and None is a failure. A strategy that only compares
rewards needs no scale: a failure is worse than all. PPO's power and baseline and the surrogate's
regression need numbers, about from 0 to 1.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from actsearch.controller.strategy import Reward
from actsearch.results.metrics import Metric

# Below every accuracy, as far from 0 as chance among ten classes. The paper does not say what it
# used. A rank of 0 is that of the worst that trained, so failures are as far below.
FAILED = -0.1
# Scales the first rewards, `rewards`, given all that are known, `among`.
Scale = Callable[[Sequence[Reward], Sequence[Reward]], list[float]]


def fractions(rewards: Sequence[Reward], among: Sequence[Reward]) -> list[float]:
    """Accuracies and the like as they are."""
    return [FAILED if reward is None else reward for reward in rewards]


def ranks(rewards: Sequence[Reward], among: Sequence[Reward]) -> list[float]:
    """The share of the rewards `among` which each is above, ties halved: from 0 for the worst to 1
    for the best. Whatever is told, of any size and any unit, the same order gives the same ranks.
    """
    known = sorted(reward for reward in among if reward is not None)
    highest = max(1, len(known) - 1)

    def rank(reward: float) -> float:
        left, right = bisect_left(known, reward), bisect_right(known, reward)
        return min(1.0, max(left, (left + right - 1) / 2) / highest)

    return [FAILED if reward is None else rank(reward) for reward in rewards]


def scale_of(metric: Metric) -> Scale:
    """That of its rewards."""
    return fractions if metric.fraction else ranks
