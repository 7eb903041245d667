"""Exhaustive search: every point of the space once, in the order of its index."""

from __future__ import annotations

from typing import Any

from actsearch.controller.several import Told
from actsearch.controller.strategy import Digits, Proposal, Reward
from actsearch.search_space.space import Space


class Exhaustive:
    """Counts. `seed` is accepted as for every strategy and has no effect."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.space = space
        self.position = 0

    def ask(self, n: int) -> list[Proposal]:
        digits = self.peek(n)
        proposals = [Proposal(self.position + i, d) for i, d in enumerate(digits)]
        self.position += len(digits)
        return proposals

    def peek(self, n: int) -> list[Digits]:
        stop = min(self.position + n, self.space.size)
        return [self.space.digits(i) for i in range(self.position, stop)]

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        pass

    def tell_several(self, proposal: Proposal, scores: Told) -> None:
        pass

    def revise(self, digits: Digits, reward: Reward) -> None:
        pass

    @property
    def exhausted(self) -> bool:
        return self.position >= self.space.size

    def health(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
