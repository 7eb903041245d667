"""Regularized evolution (Real et al. 2019): a tournament chooses a parent, one digit of it changes,
and the oldest dies, however good it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actsearch.controller.strategy import Digits, Proposal, Reward, order, trained
from actsearch.search_space.space import Space


@dataclass(frozen=True)
class EvolutionConfig:
    """Sizes for budgets of hundreds; Real et al. used 100 and 25 with 20,000 candidates."""

    population: int = 32
    """Candidates alive; the first so many are random."""
    tournament: int = 8
    """Candidates of which the best becomes the parent."""

    def __post_init__(self) -> None:
        if not 1 <= self.tournament <= self.population:
            raise ValueError(
                f"evolution:tournament={self.tournament} must be from 1 to the population's "
                f"{self.population}"
            )


class Breeding:
    """What proposes random candidates at first, and then children of those that are alive. All is
    drawn from one generator. A subclass says who is alive and who wins a tournament."""

    def __init__(self, space: Space, seed: int, config: EvolutionConfig, tournament: int) -> None:
        self.radices = space.radices
        self.free = [t for t, radix in enumerate(space.radices) if radix > 1]
        self.config = config
        self.tournament = tournament
        self.random = np.random.default_rng(seed)
        self.number = 0

    def living(self) -> int:
        """How many are alive."""
        raise NotImplementedError

    def winner(self, chosen: Sequence[int]) -> Digits:
        """The parent among these of the living, by their places."""
        raise NotImplementedError

    def ask(self, n: int) -> list[Proposal]:
        return [self._proposal() for _ in range(n)]

    def _proposal(self) -> Proposal:
        born = self._random() if self.number < self.config.population else self._child()
        self.number += 1
        return Proposal(self.number - 1, born)

    def _random(self) -> Digits:
        return tuple(self.random.integers(self.radices).tolist())

    def _child(self) -> Digits:
        if not self.living():
            return self._random()
        size = min(self.tournament, self.living())
        chosen = self.random.choice(self.living(), size, replace=False)
        return mutated(self.winner(chosen.tolist()), self.radices, self.free, self.random)

    def peek(self, n: int) -> tuple[Digits, ...]:
        return ()

    @property
    def exhausted(self) -> bool:
        return False


class Evolution(Breeding):
    """A reward counts from the moment it is told."""

    def __init__(self, space: Space, seed: int, config: EvolutionConfig) -> None:
        super().__init__(space, seed, config, config.tournament)
        self.alive: deque[tuple[Digits, Reward]] = deque(maxlen=config.population)

    def living(self) -> int:
        return len(self.alive)

    def winner(self, chosen: Sequence[int]) -> Digits:
        parent, _ = max((self.alive[i] for i in chosen), key=lambda member: order(member[1]))
        return parent

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        self.alive.append((proposal.digits, reward))  # the oldest falls out at the other end

    def revise(self, digits: Digits, reward: Reward) -> None:
        revised = [(d, reward if d == digits else told) for d, told in self.alive]
        self.alive.clear()
        self.alive.extend(revised)

    def health(self) -> dict[str, float]:
        rewards = trained(reward for _, reward in self.alive)
        if not rewards:
            return {}
        return {"reward": float(np.mean(rewards)), "best alive": max(rewards)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "random": self.random.bit_generator.state,
            "number": self.number,
            "alive": [[list(digits), reward] for digits, reward in self.alive],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.bit_generator.state = state["random"]
        self.number = state["number"]
        self.alive.clear()
        self.alive.extend((tuple(digits), reward) for digits, reward in state["alive"])


def mutated(
    parent: Digits, radices: Digits, free: list[int], random: np.random.Generator
) -> Digits:
    """`parent` with one of its `free` digits changed to another value."""
    if not free:
        return parent
    t = free[random.integers(len(free))]
    other = (parent[t] + random.integers(1, radices[t])) % radices[t]
    return (*parent[:t], int(other), *parent[t + 1 :])
