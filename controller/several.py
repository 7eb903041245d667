"""Strategies of several aims: what they are told, and non-dominated sorting, from NSGA-II (Deb,
Pratap, Agarwal and Meyarivan 2002, "A fast and elitist multiobjective genetic algorithm").

Of two candidates the better one keeps the limits where the other breaks them, breaks them less, or
dominates the other where both keep them (their definition 1). A failed training is below all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from actsearch.controller.strategy import Digits, Proposal, Reward, Strategy
from actsearch.results.aims import Scores, dominates

Told = Scores | None  # None: the training failed


@runtime_checkable
class OfSeveral(Strategy, Protocol):
    """A strategy that can be told several scores. `tell` is the same with one."""

    def tell_several(self, proposal: Proposal, scores: Told) -> None:
        """The scores of an earlier proposal; None where its training failed."""
        ...


def one(reward: float | None) -> Told:
    """The scores of a search with one aim and no limits."""
    return None if reward is None else Scores((reward,))


class OfManyScores:
    """What strategies that go by several scores have in common."""

    def tell_several(self, proposal: Proposal, scores: Told) -> None:
        raise NotImplementedError

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        self.tell_several(proposal, one(reward))

    def revise(self, digits: Digits, reward: Reward) -> None:
        """Nothing is trained again where there are several aims."""

    @property
    def exhausted(self) -> bool:
        return False


def stored(scores: Told) -> list[Any] | None:
    """As JSON holds it."""
    return None if scores is None else [list(scores.values), scores.violation]


def restored(found: list[Any] | None) -> Told:
    return None if found is None else Scores(tuple(found[0]), found[1])


def better(a: Told, b: Told) -> bool:
    """Whether `a` constrained-dominates `b`."""
    if a is None or b is None:
        return a is not None
    if a.violation or b.violation:
        return a.violation < b.violation
    return dominates(a.values, b.values)


def sorted_fronts(told: Sequence[Told]) -> list[list[int]]:
    """The places of the candidates front by front: those that none is better than, those that only
    the first front is better than, and so on (fast non-dominated sort, section III.A)."""
    below = [[j for j, b in enumerate(told) if better(a, b)] for a in told]
    above = [sum(i in worse for worse in below) for i in range(len(told))]
    fronts: list[list[int]] = []
    front = [i for i, count in enumerate(above) if count == 0]
    while front:
        fronts.append(front)
        for i in front:
            for j in below[i]:
                above[j] -= 1
        # Each candidate gets to 0 once, with the last one that is better than it.
        front = sorted({j for i in front for j in below[i] if above[j] == 0})
    return fronts


def crowding(values: Sequence[Sequence[float]]) -> list[float]:
    """The crowding distance of each point of a front: over all aims, the distance between its two
    neighbours as a share of the front's range, infinite at the ends (section III.B)."""
    distance = [0.0] * len(values)
    for aim in range(len(values[0]) if values else 0):
        order = sorted(range(len(values)), key=lambda i: values[i][aim])
        span = values[order[-1]][aim] - values[order[0]][aim]
        distance[order[0]] = distance[order[-1]] = math.inf
        for before, i, after in zip(order, order[1:], order[2:], strict=False):
            if span > 0:
                distance[i] += (values[after][aim] - values[before][aim]) / span
    return distance


def crowded_order(told: Sequence[Told]) -> list[int]:
    """The places of the candidates, best first: by front, and within one the less crowded first
    (their crowded-comparison operator)."""
    order: list[int] = []
    for front in sorted_fronts(told):
        known = [scores.values for i in front if (scores := told[i]) is not None]
        distance = crowding(known) if known else [0.0] * len(front)
        ranked = sorted(zip(front, distance, strict=True), key=lambda member: -member[1])
        order += [i for i, _ in ranked]
    return order
