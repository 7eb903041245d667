"""Successive halving around any strategy (Jamieson and Talwalkar 2016): a cohort of candidates is
trained for a few steps, the best share of it for more, and so on to the whole training.

With eta = 4 and three rungs, 64 candidates train for 1/16 of the steps, the best 16 of them for
1/4, the best 4 to the end: twelve whole trainings' worth in the place of 64. Each rung is a
training of its own from the start, with the learning rate's whole schedule.

The inner strategy is told one reward of each candidate: that of the last rung it reached. A
strategy that waits for rewards before the cohort is full, as synchronous PPO does after each batch,
is told those of the first rung, and hears of the last by `revise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actsearch.controller.strategy import Digits, Proposal, Reward, Strategy, order


@dataclass(frozen=True)
class HalvingConfig:
    """Sizes are ours."""

    eta: int = 4
    """Each rung trains eta times as long and keeps the best 1/eta (at least one)."""
    rungs: int = 3
    """Rungs, the whole training among them."""
    cohort: int = 64
    """Candidates that compete with each other."""

    def __post_init__(self) -> None:
        for name, lowest in (("eta", 2), ("rungs", 2), ("cohort", 2)):
            if getattr(self, name) < lowest:
                raise ValueError(f"halving:{name}={getattr(self, name)} must be {lowest} or more")

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the steps of a whole training, rung by rung."""
        return tuple(self.eta ** (rung + 1 - self.rungs) for rung in range(self.rungs))

    @property
    def cost(self) -> float:
        """Whole trainings a candidate, on average over a full cohort."""
        kept, cost = self.cohort, 0.0
        for share in self.shares:
            cost += kept * share
            kept = max(1, kept // self.eta)
        return cost / self.cohort

    def words(self, steps: int) -> str:
        """Such as `64 x 12 steps, 16 x 50, 4 x 200`."""
        kept, rungs = self.cohort, []
        for share in self.shares:
            rungs.append(f"{kept} x {max(1, round(steps * share)):,}")
            kept = max(1, kept // self.eta)
        return ", ".join(rungs)


@dataclass
class Entrant:
    """A candidate of the cohort: the inner proposal, its reward in the present rung, and whether
    the inner strategy has been told one."""

    number: int
    digits: Digits
    reward: Reward = None
    told: bool = False


class SuccessiveHalving:
    """The strategy. A cohort is closed at `cohort` candidates, or with fewer where the inner
    strategy proposes none though it waits for no reward: its space is exhausted, or no more are
    wanted."""

    def __init__(self, inner: Strategy, config: HalvingConfig) -> None:
        self.inner = inner
        self.config = config
        self.number = 0
        self.rung = 0
        self.filling = True
        self.entrants: list[Entrant] = []  # those in the present rung
        self.waiting: list[int] = []  # their places, not asked for in this rung yet
        self.open: dict[int, int] = {}  # number of a proposal -> place

    def ask(self, n: int) -> list[Proposal]:
        if self.filling:
            self._fill(n)
        limit = n if self.rung == 0 else len(self.waiting)
        places, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return [self._proposal(place) for place in places]

    def _fill(self, n: int) -> None:
        wanted = min(n, self.config.cohort - len(self.entrants))
        new = self.inner.ask(wanted)
        if wanted and not new and not self.open and not self.inner.exhausted:
            self._tell(self.entrants)  # these are the rewards that it may be waiting for
            new = self.inner.ask(wanted)
        for proposal in new:
            self.waiting.append(len(self.entrants))
            self.entrants.append(Entrant(proposal.number, proposal.digits))
        full = len(self.entrants) == self.config.cohort
        if full or (self.entrants and not new and not self.open):
            self.filling = False
            self._next_rung()

    def _proposal(self, place: int) -> Proposal:
        share = self.config.shares[self.rung]
        self.open[self.number] = place
        self.number += 1
        return Proposal(self.number - 1, self.entrants[place].digits, share)

    def peek(self, n: int) -> list[Digits]:
        known = [self.entrants[place].digits for place in self.waiting[:n]]
        if not self.filling:
            return known
        room = self.config.cohort - len(self.entrants)
        return [*known, *self.inner.peek(min(n - len(known), room))]

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        self.entrants[self.open.pop(proposal.number)].reward = reward
        self._next_rung()

    def revise(self, digits: Digits, reward: Reward) -> None:
        """Of most candidates the inner strategy has the reward of a shorter training, which that of
        further whole ones would not compare with."""

    def _next_rung(self) -> None:
        """Once all of a full cohort have their reward: the best go on, the others are told. A
        strategy that has waited is told of all."""
        if self.filling or self.open or self.waiting:
            return
        ranked = sorted(self.entrants, key=lambda e: (-order(e.reward), e.number))
        last = self.rung + 1 == self.config.rungs
        kept = 0 if last else max(1, len(ranked) // self.config.eta)
        waited = any(entrant.told for entrant in ranked)
        self._tell(ranked if waited and self.rung == 0 else ranked[kept:])
        self.entrants = [Entrant(e.number, e.digits, told=e.told) for e in ranked[:kept]]
        self.waiting = list(range(kept))
        self.rung = 0 if last else self.rung + 1
        self.filling = last

    def _tell(self, entrants: Sequence[Entrant]) -> None:
        """The inner strategy hears of these candidates, in the order in which it proposed."""
        for entrant in sorted(entrants, key=lambda e: e.number):
            if not entrant.told:
                entrant.told = True
                self.inner.tell(Proposal(entrant.number, entrant.digits), entrant.reward)
            elif self.rung > 0:
                self.inner.revise(entrant.digits, entrant.reward)

    @property
    def exhausted(self) -> bool:
        return self.filling and not self.entrants and self.inner.exhausted

    def health(self) -> dict[str, float]:
        return self.inner.health()

    def state_dict(self) -> dict[str, Any]:
        inner = {f"inner.{key}": value for key, value in self.inner.state_dict().items()}
        return inner | {
            "number": self.number,
            "rung": self.rung,
            "filling": self.filling,
            "entrants": [[e.number, list(e.digits), e.reward, e.told] for e in self.entrants],
            "waiting": self.waiting,
            "open": list(self.open.items()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        prefix = "inner."
        self.inner.load_state_dict(
            {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        )
        self.number, self.rung, self.filling = state["number"], state["rung"], state["filling"]
        self.entrants = [
            Entrant(number, tuple(digits), *rest) for number, digits, *rest in state["entrants"]
        ]
        self.waiting = state["waiting"]
        self.open = dict(state["open"])
