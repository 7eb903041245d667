"""STRATEGIES: every search strategy by name."""

from __future__ import annotations

from collections.abc import Callable

from controller.exhaustive import Exhaustive
from controller.random_search import RandomSearch
from controller.strategy import Strategy
from search_space.operators import unknown
from search_space.space import Space

STRATEGIES: dict[str, Callable[[Space, int], Strategy]] = {
    "exhaustive": Exhaustive,
    "random": RandomSearch,
}


def strategy_from(name: str, space: Space, seed: int) -> Strategy:
    """A new strategy; raises ValueError for an unknown name."""
    if name not in STRATEGIES:
        raise ValueError(unknown("strategy", name, STRATEGIES))
    return STRATEGIES[name](space, seed)
