"""Random search without repeats, in constant memory: the space in a pseudo-random order."""

from __future__ import annotations

import hashlib
from typing import Any

from actsearch.controller.several import Told
from actsearch.controller.strategy import Digits, Proposal, Reward
from actsearch.search_space.space import Space

ROUNDS = 4  # of the Feistel network; four make a pseudo-random permutation (Luby and Rackoff 1988)


class RandomSearch:
    """Visits the space in an order that `seed` fixes, each point at most once."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.space = space
        self.seed = seed
        self.position = 0

    def ask(self, n: int) -> list[Proposal]:
        digits = self.peek(n)
        proposals = [Proposal(self.position + i, d) for i, d in enumerate(digits)]
        self.position += len(digits)
        return proposals

    def peek(self, n: int) -> list[Digits]:
        stop = min(self.position + n, self.space.size)
        places = (permuted(i, self.space.size, self.seed) for i in range(self.position, stop))
        return [self.space.digits(place) for place in places]

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
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.seed = state["position"], state["seed"]


def permuted(i: int, size: int, seed: int) -> int:
    """Where a keyed permutation of 0..size-1 sends i.

    A Feistel network permutes the numbers of 2h bits; one that lands outside the range is sent on
    until it lands inside (cycle walking), at most four times on average.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for r in range(ROUNDS):
            left, right = right, left ^ (_hash(seed, r, right) & mask)
        i = (left << half) | right
        if i < size:
            return i


def _hash(seed: int, round_: int, value: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{round_}/{value}".encode(), digest_size=16)
    return int.from_bytes(digest.digest())
