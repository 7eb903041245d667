"""Surrogate search: a model of rewards proposes what it believes to be the most promising.

The model is a Gaussian process (`reward_model.py`). Candidates come from two sources in turn:
random points, and descendants of the best, which have gone through some generations of mutation and
selection on the model (after Sinai et al. 2020, AdaLead, who find this better than more complex
searches). Expected improvement spends its evaluations on wild functions, of which there are always
some that resemble nothing so far; the upper confidence bound does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actsearch.controller.reward_model import PARENTS, Drawing, RewardModel
from actsearch.controller.strategy import Digits, Proposal, Reward, trained
from actsearch.controller.threads import one_thread
from actsearch.search_space.space import Space

BLIND = 100  # random candidates where the pool holds nothing new, before it is looked at again


@dataclass(frozen=True)
class SurrogateConfig:
    """All sizes are ours."""

    initial: int = 10
    """Random candidates before the first prediction."""
    pool: int = 1200
    """Candidates that are compared at each prediction, half of them descendants of the best."""
    generations: int = 5
    """Of mutation and selection on the model that the descendants have behind them."""
    kappa: float = 0.5
    """Standard deviations above the mean that a candidate is taken to be worth."""
    explore: float = 0.0
    """The share of candidates that are drawn at random ever after."""

    def __post_init__(self) -> None:
        for name in ("initial", "pool"):
            if getattr(self, name) < 2:
                raise ValueError(f"surrogate:{name}={getattr(self, name)} must be 2 or more")
        if self.generations < 1:
            raise ValueError(f"surrogate:generations={self.generations} must be 1 or more")
        if not 0 <= self.explore <= 1:
            raise ValueError(f"surrogate:explore={self.explore} must be in 0..1")
        if self.kappa < 0:
            raise ValueError(f"surrogate:kappa={self.kappa} must be 0 or more")


class Surrogate:
    """The strategy. Each candidate is chosen by all rewards so far; where these are many, a few
    candidates are chosen together."""

    def __init__(self, space: Space, seed: int, config: SurrogateConfig) -> None:
        self.config = config
        self.random = np.random.default_rng(seed)
        self.drawing = Drawing(space, self.random)
        self.model = RewardModel(space, config.kappa)
        self.number = 0
        self.chosen: list[Digits] = []  # and not asked for yet
        self.open: dict[int, Digits] = {}  # on their way

    def ask(self, n: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        for _ in range(n):
            proposals.append(Proposal(self.number, self._next()))
            self.number += 1
            self.open[proposals[-1].number] = proposals[-1].digits
        return proposals

    def _next(self) -> Digits:
        if not self.chosen:
            self.chosen = self._choose()
        return self.chosen.pop(0)

    def _choose(self) -> list[Digits]:
        """What comes next, whatever is told meanwhile."""
        random = self.random.random() < self.config.explore
        if random or self.model.told < self.config.initial:
            return self.drawing.uniform(1)
        half = self.config.pool // 2
        with one_thread("scipy.linalg"):
            sources = [self.drawing.uniform(half), self._descendants(half)]
            chosen = self.model.choose(self.model.together, sources, [*self.open.values()])
            self.model.let_go()
        return chosen or self.drawing.uniform(BLIND)

    def _descendants(self, n: int) -> list[Digits]:
        """`n` mutants of the best that are known, of their best mutants on the model, and so on."""
        parents, found = self.model.best(PARENTS), list[Digits]()
        generations = self.config.generations
        each = math.ceil(n / generations)
        for generation in range(generations):
            born = self.drawing.mutants(each, parents)
            found += born
            if generation < generations - 1:
                parents = self.model.most_promising(PARENTS, [*parents, *born])
        return found

    def peek(self, n: int) -> Sequence[Digits]:
        return self.chosen[:n]

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        del self.open[proposal.number]
        self.model.tell(proposal.digits, reward)

    def revise(self, digits: Digits, reward: Reward) -> None:
        self.model.revise(digits, reward)

    @property
    def exhausted(self) -> bool:
        return False

    def health(self) -> dict[str, float]:
        rewards = trained(self.model.known.values())
        if not rewards:
            return {}
        return {"reward": float(np.mean(rewards[-20:])), "best": max(rewards)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "random": self.random.bit_generator.state,
            "number": self.number,
            "chosen": [list(digits) for digits in self.chosen],
            "open": [[number, list(digits)] for number, digits in self.open.items()],
            "model": self.model.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.bit_generator.state = state["random"]
        self.number = state["number"]
        self.chosen = [tuple(digits) for digits in state.get("chosen", ())]
        self.open = {number: tuple(digits) for number, digits in state["open"]}
        if "model" in state:
            self.model.load_state_dict(state["model"])
        else:  # of an older run, whose rewards serve as well
            for digits, reward in state["known"]:
                self.model.tell(tuple(digits), reward)
