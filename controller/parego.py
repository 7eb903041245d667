"""Surrogate search with several aims: ParEGO (Knowles 2006, "ParEGO: a hybrid algorithm with
on-line landscape approximation for expensive multiobjective optimization problems").

Before each choice weights are drawn, and the scores of all that is known become one reward by the
augmented Tchebycheff function of these weights. The choice by that reward is `surrogate`'s: it has
upper confidence bounds where Knowles has expected improvement, for the reason given there. Limits
are kept by Deb's rule (2000): who breaks them ranks below all who do not, by how far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from actsearch.controller.gaussian_process import Kernel
from actsearch.controller.several import OfManyScores, Told, restored, stored
from actsearch.controller.strategy import Digits, Proposal, Reward
from actsearch.controller.surrogate import Surrogate, SurrogateConfig
from actsearch.search_space.space import Space

RHO = 0.05  # of the augmented Tchebycheff function (eq. 2)
PARTS = {1: 1, 2: 10, 3: 4}  # of which weights are multiples, by the number of aims; more have 3


class ParEGO(OfManyScores):
    """The strategy: a `Surrogate` whose rewards are those of other weights before each choice."""

    def __init__(self, space: Space, seed: int, config: SurrogateConfig) -> None:
        self.inner = Surrogate(space, seed, config)
        self.random = np.random.default_rng([seed, 1])
        self.known: dict[Digits, Told] = {}  # in the order in which they were told
        self.kernels: dict[str, dict[str, Kernel]] = {}  # by weights, for which they were fitted

    def ask(self, n: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        for _ in range(n):
            if not self.inner.chosen:
                self._turn()
            proposals += self.inner.ask(1)
        return proposals

    def _turn(self) -> None:
        """To other weights, and to the kernels that were fitted for them before."""
        aims = max((len(scores.values) for scores in self.known.values() if scores), default=1)
        every = [*weights(aims, PARTS.get(aims, 3))]
        drawn = every[self.random.integers(len(every))]
        kernels = self.kernels.setdefault(" ".join(f"{w:g}" for w in drawn), {})
        self.inner.model.retell(scalarised(self.known, drawn), kernels)

    def peek(self, n: int) -> Sequence[Digits]:
        return self.inner.peek(n)

    def tell_several(self, proposal: Proposal, scores: Told) -> None:
        new = proposal.digits not in self.known
        self.known[proposal.digits] = scores
        first = None if scores is None else scores.values[0]
        # The next turn gives it another reward; that of a repeat stays, so that it counts as such.
        told = first if new else self.inner.model.known.get(proposal.digits, first)
        self.inner.tell(proposal, told)

    def health(self) -> dict[str, float]:
        rewards = [scores.values[0] for scores in self.known.values() if scores is not None]
        if not rewards:
            return {}
        return {"reward": float(np.mean(rewards[-20:])), "best": max(rewards)}

    def state_dict(self) -> dict[str, Any]:
        inner = {f"inner.{key}": value for key, value in self.inner.state_dict().items()}
        return inner | {
            "random": self.random.bit_generator.state,
            "known": [[list(digits), stored(scores)] for digits, scores in self.known.items()],
            "kernels": {
                drawn: {view: [k.length, k.noise] for view, k in kernels.items()}
                for drawn, kernels in self.kernels.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        prefix = "inner."
        self.inner.load_state_dict(
            {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        )
        self.random.bit_generator.state = state["random"]
        self.known = {tuple(digits): restored(scores) for digits, scores in state["known"]}
        self.kernels = {
            drawn: {view: Kernel(*values) for view, values in kernels.items()}
            for drawn, kernels in state["kernels"].items()
        }


def weights(aims: int, parts: int) -> Iterator[tuple[float, ...]]:
    """All weights that are multiples of 1 / `parts` and sum to 1 (eq. 1)."""
    for counts in _sums(aims, parts):
        yield tuple(count / parts for count in counts)


def _sums(terms: int, total: int) -> Iterator[tuple[int, ...]]:
    if terms == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _sums(terms - 1, total - first):
            yield (first, *rest)


def scalarised(known: Mapping[Digits, Told], drawn: Sequence[float]) -> dict[Digits, Reward]:
    """One reward for each: minus the augmented Tchebycheff function (eq. 2) of its distances to the
    best of each aim, as shares of the range of what is known."""
    scored = {digits: scores for digits, scores in known.items() if scores is not None}
    rewards: dict[Digits, Reward] = dict.fromkeys(known)
    if not scored:
        return rewards
    values = np.array([scores.values for scores in scored.values()])
    best = values.max(0)
    span = best - values.min(0)
    away = (best - values) / np.where(span > 0, span, 1.0) * np.asarray(drawn)
    tchebycheff = away.max(1) + RHO * away.sum(1)
    worst = 1.0 + RHO  # of all that keep the limits
    for (digits, scores), f in zip(scored.items(), tchebycheff.tolist(), strict=True):
        rewards[digits] = -(worst + scores.violation) if scores.violation else -f
    return rewards
