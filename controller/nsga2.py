"""Evolution with several aims: NSGA-II (Deb et al. 2002) in its steady-state form, in which each
child competes as soon as its scores are known (Durillo, Nebro, Luna and Alba 2009).

The population keeps its best by non-dominated sorting and crowding distance, and the better of two
drawn at random is the parent, by the same order. A child is its parent with one digit changed, as
in `evolution`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from actsearch.controller.evolution import Breeding, EvolutionConfig
from actsearch.controller.several import (
    OfManyScores,
    Told,
    crowded_order,
    restored,
    sorted_fronts,
    stored,
)
from actsearch.controller.strategy import Digits, Proposal
from actsearch.search_space.space import Space

TOURNAMENT = 2


class NSGA2(Breeding, OfManyScores):
    """Scores count from the moment they are told. Raises ValueError for tournaments of another size
    than its own."""

    def __init__(self, space: Space, seed: int, config: EvolutionConfig) -> None:
        if config.tournament not in (TOURNAMENT, EvolutionConfig().tournament):
            raise ValueError(
                f"evolution:tournament={config.tournament}: with several objectives parents win "
                f"tournaments of {TOURNAMENT}, as in NSGA-II; leave tournament out"
            )
        super().__init__(space, seed, config, TOURNAMENT)
        self.alive: list[tuple[Digits, Told]] = []  # best first

    def living(self) -> int:
        return len(self.alive)

    def winner(self, chosen: Sequence[int]) -> Digits:
        return self.alive[min(chosen)][0]

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
