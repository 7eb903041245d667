"""A model of rewards between trainings, and the choice by it of what to train next. `surrogate` is
little more, and `ppo` draws with its help.

Candidates are described in two ways: by the space's features, which are the shapes of functions,
and by their digits. A Gaussian process is fitted to each, and the one that predicts left-out
rewards better is believed. Candidates come from several sources, such as mutants of the best. The
sources take turns, since one that always has the largest bound would end all exploration. A turn
goes to the candidate with the largest upper confidence bound (Srinivas et al. 2010). One that is on
its way counts as if its reward were the prediction (Desautels et al. 2014).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from actsearch.controller.evolution import mutated
from actsearch.controller.gaussian_process import GaussianProcess, Kernel, Posterior
from actsearch.controller.strategy import Digits, Reward, order
from actsearch.search_space.space import Space

KEPT = 600  # rewards that a process is fitted to: the best and the latest
REFIT = 1.2  # kernels are fitted anew when so many times as many rewards are known
PARENTS = 8  # the best so many are mutated
DECIMALS = 6  # to which features of equal functions agree
TOGETHER = 100  # one more candidate is chosen at once for so many rewards that were told

View = Literal["shapes", "digits"]


class RewardModel:
    """Rewards by digits, in the order in which they were told, and the process fitted to them."""

    def __init__(self, space: Space, kappa: float) -> None:
        self.space = space
        self.kappa = kappa
        self.known: dict[Digits, Reward] = {}
        self.kernels: dict[str, Kernel] = {}
        self.told = 0
        self.fitted_to = 0  # as many told
        self.turn = 0  # which source is next
        self._processes: list[tuple[float, View, GaussianProcess]] = []  # of the present rewards
        self._rows: dict[Digits, np.ndarray] = {}  # features of what is known
        self._known_keys: dict[Digits, bytes] = {}
        self._looked_at: dict[Digits, np.ndarray] = {}  # features of others, until `let_go`

    def tell(self, digits: Digits, reward: Reward) -> None:
        if digits in self.known and self.known[digits] == reward:
            return  # a repeat: the process stays
        self.known[digits] = reward
        self.told += 1
        self._processes = []
        if len(self.known) > 2 * KEPT:
            self.known = {digits: self.known[digits] for digits in self._fitting}
            self._rows = {digits: row for digits, row in self._rows.items() if digits in self.known}
            self._known_keys = {}

    def revise(self, digits: Digits, reward: Reward) -> None:
        """Another reward of what is known, which counts for no new one."""
        if digits in self.known and self.known[digits] != reward:
            self.known[digits] = reward
            self._processes = []

    def retell(self, rewards: Mapping[Digits, Reward], kernels: dict[str, Kernel]) -> None:
        """Other rewards of all that is known, as of another aim; `kernels` are fitted anew, near
        what they were."""
        self.known, self.kernels = dict(rewards), kernels
        self.fitted_to, self._processes = 0, []

    @property
    def _fitting(self) -> list[Digits]:
        """What the process is fitted to, in the order in which it was told."""
        if len(self.known) <= KEPT:
            return [*self.known]
        keep = {*self.best(KEPT // 2), *list(self.known)[-KEPT // 2 :]}
        return [digits for digits in self.known if digits in keep]

    def best(self, n: int) -> list[Digits]:
        """The best `n` that are known, best first."""
        return sorted(self.known, key=lambda d: -order(self.known[d]))[:n]

    # -- the process

    @property
    def r2(self) -> float:
        """The share of the rewards' variance that the process predicts of left-out ones; negative
        where a mean would do better."""
        return self._process()[0]

    @property
    def noise(self) -> float:
        """The standard deviation of a single training."""
        return self._process()[2].noise

    def _process(self) -> tuple[float, View, GaussianProcess]:
        if not self._processes:
            points = self._fitting
            rewards = normal_scores([self.known[digits] for digits in points])
            views: list[View] = ["digits"] if self._shapes(points) is None else ["shapes", "digits"]
            due = self.told >= REFIT * self.fitted_to
            self._processes = [self._fit(view, points, rewards, refit=due) for view in views]
            self.fitted_to = self.told if due else self.fitted_to
        return max(self._processes, key=lambda found: found[0])

    def _fit(
        self, view: View, points: list[Digits], rewards: np.ndarray, *, refit: bool
    ) -> tuple[float, View, GaussianProcess]:
        inputs = self._inputs(view, points)
        _, first = np.unique(np.round(inputs, DECIMALS), axis=0, return_index=True)
        first.sort()  # equal functions once
        process = GaussianProcess(
            inputs[first], rewards[first], self.kernels.get(view), refit=refit
        )
        self.kernels[view] = process.kernel
        return r2(rewards[first], process.left_out()), view, process

    def at(self, points: Sequence[Digits]) -> Posterior:
        """What is believed of these candidates."""
        _, view, process = self._process()
        return process.at(self._inputs(view, points))

    # -- the two descriptions

    def _inputs(self, view: View, points: Sequence[Digits]) -> np.ndarray:
        """(n, F)."""
        shapes = self._shapes(points) if view == "shapes" else None
        return self._one_hot(points) if shapes is None else shapes

    def _one_hot(self, points: Sequence[Digits]) -> np.ndarray:
        digits, radices = self._array(points), np.array(self.space.radices)
        found = np.zeros((len(digits), radices.sum()))
        places = digits + np.concatenate([[0], np.cumsum(radices)[:-1]])
        np.put_along_axis(found, places, 1.0, axis=1)
        return found

    def _shapes(self, points: Sequence[Digits]) -> np.ndarray | None:
        looked_at = self._looked_at
        new = [d for d in dict.fromkeys(points) if d not in self.known and d not in looked_at]
        rows = self.space.features(self._array(new))
        if rows is None:
            return None
        looked_at |= zip(new, rows, strict=True)
        every = [self._row(d) if d in self.known else looked_at[d] for d in points]
        return np.array(every).reshape(len(points), rows.shape[1])

    def let_go(self) -> None:
        """Forget the features of candidates that are not known. Who asks does so when it is done,
        since a resumed search has none either and is to compute them in the same company."""
        self._looked_at = {}

    def _row(self, digits: Digits) -> np.ndarray:
        """The features of what is known. They are computed alone: torch's sinh has other last bits
        in other company, and a resumed search is to have the same."""
        if digits not in self._rows:
            rows = self.space.features(self._array([digits]))
            assert rows is not None
            self._rows[digits] = rows[0]
        return self._rows[digits]

    def _array(self, points: Sequence[Digits]) -> np.ndarray:
        return np.array(points, int).reshape(len(points), len(self.space.radices))

    def most_promising(self, n: int, points: Sequence[Digits]) -> list[Digits]:
        """The `n` of these candidates with the largest bounds."""
        points = list(dict.fromkeys(points))
        bounds = self.at(points).bound(self.kappa)
        return [points[i] for i in np.argsort(-bounds, kind="stable")[:n]]

    # -- what to train next

    @property
    def together(self) -> int:
        """How many candidates are worth choosing at once."""
        return 1 + self.told // TOGETHER

    def choose(
        self, n: int, sources: Sequence[Sequence[Digits]], waiting: Sequence[Digits]
    ) -> list[Digits]:
        """Up to `n` candidates of the `sources` that differ from each other, from all that is known
        and from those on their way, `waiting`."""
        pool = [digits for source in sources for digits in source]
        fresh = self.new(pool, waiting)
        if not fresh:
            return []
        first = {digits: i for i, source in reversed([*enumerate(sources)]) for digits in source}
        points = [*waiting, *fresh]
        owner = np.array([*(-1 for _ in waiting), *(first[digits] for digits in fresh)])
        believed = self.at(points)
        for i in range(len(waiting)):
            believed.expect(i)
        chosen: list[Digits] = []
        for _ in range(min(n, len(fresh))):
            mine = owner == self.turn % len(sources)
            self.turn += 1
            left = mine if mine.any() else owner >= 0
            i = int(np.argmax(np.where(left, believed.bound(self.kappa), -np.inf)))
            chosen.append(points[i])
            owner[i] = -1
            believed.expect(i)
        return chosen

    def new(self, points: Sequence[Digits], waiting: Sequence[Digits] = ()) -> list[Digits]:
        """Those whose function is neither known nor on its way, each function once."""
        unkeyed = [digits for digits in self.known if digits not in self._known_keys]
        self._known_keys |= zip(unkeyed, self._keys(unkeyed), strict=True)
        seen = {*self._known_keys.values(), *self._keys(waiting)}
        new: list[Digits] = []
        for digits, key in zip(points, self._keys(points), strict=True):
            if key not in seen:
                seen.add(key)
                new.append(digits)
        return new

    def _keys(self, points: Sequence[Digits]) -> list[bytes]:
        """The same for candidates that are the same function on the grid."""
        return [row.tobytes() for row in np.round(self._inputs("shapes", points), DECIMALS) + 0.0]

    # -- state

    def state_dict(self) -> dict[str, Any]:
        return {
            "known": [[list(digits), reward] for digits, reward in self.known.items()],
            "kernels": {view: [k.length, k.noise] for view, k in self.kernels.items()},
            "counts": [self.told, self.fitted_to, self.turn],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.known = {tuple(digits): reward for digits, reward in state["known"]}
        self.kernels = {view: Kernel(*values) for view, values in state["kernels"].items()}
        self.told, self.fitted_to, self.turn = state["counts"]
        self._processes, self._rows, self._known_keys, self._looked_at = [], {}, {}, {}


def normal_scores(rewards: Sequence[Reward]) -> np.ndarray:
    """What a normal sample of so many has at the rank of each reward, (i - 1/2) / n, ties at their
    mean and failures below all. So neither the unit of rewards nor their outliers matter."""
    ranks = rankdata([order(reward) for reward in rewards])
    return ndtri((ranks - 0.5) / len(ranks))


def r2(rewards: np.ndarray, predicted: np.ndarray) -> float:
    """1 - the squared error of predictions of left-out rewards over that of their mean."""
    n = len(rewards)
    if n < 2 or np.ptp(rewards) == 0:
        return 0.0
    of_mean = (rewards - rewards.mean()) * n / (n - 1)  # the mean of all others
    return float(1.0 - ((rewards - predicted) ** 2).sum() / (of_mean**2).sum())


class Drawing:
    """Random points of a space, and mutants."""

    def __init__(self, space: Space, random: np.random.Generator) -> None:
        self.radices = space.radices
        self.free = [t for t, radix in enumerate(space.radices) if radix > 1]
        self.random = random

    def uniform(self, n: int) -> list[Digits]:
        drawn = self.random.integers(self.radices, size=(n, len(self.radices)))
        return [tuple(row) for row in drawn.tolist()]

    def mutants(self, n: int, parents: Sequence[Digits]) -> list[Digits]:
        """`n` mutants of the parents in turn, one digit changed."""
        turns = (parents[i % len(parents)] for i in range(n if parents else 0))
        return [mutated(parent, self.radices, self.free, self.random) for parent in turns]
