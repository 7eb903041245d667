"""Evolution with several aims: NSGA-II (Deb et al. 2002) in its steady-state form, in which each
child competes as soon as its scores are known (Durillo, Nebro, Luna and Alba 2009).

The population keeps its best by non-dominated sorting and crowding distance, and the better of two
drawn at random is the parent, by the same order. A child is its parent with one digit changed, as
in `evolution`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from actsearch.controller.evolution import EvolutionConfig, mutated
from actsearch.controller.several import Told, crowded_order, one, sorted_fronts
from actsearch.controller.strategy import Digits, Proposal, Reward
from actsearch.results.aims import Scores
from actsearch.search_space.space import Space

TOURNAMENT = 2


class NSGA2:
    """Everything is drawn from one generator; scores count from the moment they are told. Raises
    ValueError for tournaments of another size than its own."""

    def __init__(self, space: Space, seed: int, config: EvolutionConfig) -> None:
        if config.tournament not in (TOURNAMENT, EvolutionConfig().tournament):
            raise ValueError(
                f"evolution:tournament={config.tournament}: with several objectives parents win "
                f"tournaments of {TOURNAMENT}, as in NSGA-II; leave tournament out"
            )
        self.radices = space.radices
        self.free = [t for t, radix in enumerate(space.radices) if radix > 1]
        self.config = config
        self.random = np.random.default_rng(seed)
        self.number = 0
        self.alive: list[tuple[Digits, Told]] = []  # best first

    def ask(self, n: int) -> list[Proposal]:
        return [self._proposal() for _ in range(n)]

    def _proposal(self) -> Proposal:
        born = self._random() if self.number < self.config.population else self._child()
        self.number += 1
        return Proposal(self.number - 1, born)

    def _random(self) -> Digits:
        return tuple(self.random.integers(self.radices).tolist())

    def _child(self) -> Digits:
        if not self.alive:
            return self._random()
        size = min(TOURNAMENT, len(self.alive))
        chosen = self.random.choice(len(self.alive), size, replace=False)
        parent, _ = self.alive[min(chosen)]
        return mutated(parent, self.radices, self.free, self.random)

    def peek(self, n: int) -> tuple[Digits, ...]:
        return ()

    def tell_several(self, proposal: Proposal, scores: Told) -> None:
        """A function that is alive already, in this spelling or another, does not enter again: it
        would crowd out others, and has the same scores to the last digit."""
        if any(proposal.digits == digits for digits, _ in self.alive):
            return
        if scores is not None and any(scores == other for _, other in self.alive):
            return
        members = [*self.alive, (proposal.digits, scores)]
        order = crowded_order([told for _, told in members])
        self.alive = [members[i] for i in order[: self.config.population]]

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        self.tell_several(proposal, one(reward))

    def revise(self, digits: Digits, reward: float) -> None:
        """Nothing is trained again where there are several aims."""

    @property
    def exhausted(self) -> bool:
        return False

    def health(self) -> dict[str, float]:
        known = [scores for _, scores in self.alive if scores is not None]
        if not known:
            return {}
        rewards = [scores.values[0] for scores in known]
        front = sorted_fronts(known)[0]
        return {"reward": float(np.mean(rewards)), "alive on the front": float(len(front))}

    def state_dict(self) -> dict[str, Any]:
        return {
            "random": self.random.bit_generator.state,
            "number": self.number,
            "alive": [[list(digits), stored(scores)] for digits, scores in self.alive],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.bit_generator.state = state["random"]
        self.number = state["number"]
        self.alive = [(tuple(digits), restored(scores)) for digits, scores in state["alive"]]


def stored(scores: Told) -> list[Any] | None:
    """As JSON holds it."""
    return None if scores is None else [list(scores.values), scores.violation]


def restored(found: list[Any] | None) -> Told:
    return None if found is None else Scores(tuple(found[0]), found[1])
