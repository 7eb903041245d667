"""The strategy that proposes nothing: all candidates of its search come from outside."""

from __future__ import annotations

from typing import Any

from actsearch.controller.strategy import Digits, Proposal, Reward


class Silent:
    """What `external:COMMAND` has in the place of a strategy."""

    exhausted = False

    def ask(self, n: int) -> list[Proposal]:
        return []

    def peek(self, n: int) -> list[Digits]:
        return []

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        pass

    def revise(self, digits: Digits, reward: Reward) -> None:
        pass

    def health(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
