"""The Strategy protocol: ask for proposals, tell their rewards, and be stored and restored exactly.

A strategy sees digits and rewards only. `ask(n)` may return fewer than n: none while it waits for
rewards, and none for ever once it is `exhausted`. Rewards may come in any order, also between two
proposals of one `ask`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Digits = tuple[int, ...]
Reward = float | None  # higher is better; None: the training failed


@dataclass(frozen=True)
class Proposal:
    """The `number`-th proposal of a strategy, counted from 0: these digits.

    `share` is the share of the steps for which it is to be trained: below 1 only in the early rungs
    of successive halving.
    """

    number: int
    digits: Digits
    share: float = 1.0


class Strategy(Protocol):
    """What every search strategy does."""

    def ask(self, n: int) -> Sequence[Proposal]:
        """At most `n` new candidates. `ask(0)` says that no more are wanted: only a strategy that
        trains in rungs then still has proposals, those of candidates that go on."""
        ...

    def peek(self, n: int) -> Sequence[Digits]:
        """The next candidates, at most `n`, that are settled whatever will be told; () where there
        are none. Nothing changes: they serve to prepare many at once."""
        ...

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        """The reward of an earlier proposal: any finite number, higher for better functions, such
        as a validation accuracy or a loss times -1; None where its training failed."""
        ...

    def revise(self, digits: Digits, reward: Reward) -> None:
        """A better estimate of a reward that was told: the function has trained again, or longer.
        Whoever keeps rewards keeps this one from now on."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether there will never be another proposal."""
        ...

    def health(self) -> dict[str, float]:
        """Numbers that show how it is doing, `reward` first; {} while there are none."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next proposals depend on, as values that JSON can hold; a key whose value
        has not changed is not stored again."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state` exactly as the strategy that gave it would have."""
        ...


def order(reward: Reward) -> float:
    """To sort by: a failure is below everything."""
    return -math.inf if reward is None else reward


def trained(rewards: Iterable[Reward]) -> list[float]:
    """Those of trainings that did not fail."""
    return [reward for reward in rewards if reward is not None]
