"""Surrogate search: predict rewards from features of candidates, and try the most promising.

The features are the space's: values and slopes of functions on a grid. A model of scikit-learn,
fitted to the rewards so far, predicts mean and standard deviation for a pool of random points and
mutants of the best; the largest upper confidence bound is proposed (Srinivas et al. 2010). Expected
improvement spends its evaluations on wild functions, of which there are always some that resemble
nothing so far. Functions on their way count as if they had been told their prediction (Ginsbourger
et al. 2010, "kriging believer").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from actsearch.controller.evolution import mutated
from actsearch.controller.scales import Scale, fractions
from actsearch.controller.strategy import Digits, Proposal, Reward, order, trained
from actsearch.controller.threads import one_thread
from actsearch.search_space.space import Space

PARENTS = 8  # the best so many are mutated for the pool
KEPT = 600  # rewards, the best and the latest, when there are twice as many
TREES = 50
MODELS = "sklearn.ensemble", "sklearn.gaussian_process"
REFIT = 1.2  # the kernel is fitted anew when there are so many times as many rewards


@dataclass(frozen=True)
class SurrogateConfig:
    """Sizes are ours; the Gaussian process is scikit-learn's with its kernel fitted."""

    model: Literal["gp", "forest"] = "gp"
    """gp: Gaussian process. forest: extremely randomised trees, their spread for std."""
    initial: int = 16
    """Random candidates before the first prediction."""
    pool: int = 400
    """Candidates that are compared at each prediction, half of them mutants of the best."""
    kappa: float = 0.5
    """Standard deviations above the mean that a candidate is taken to be worth."""
    explore: float = 0.1
    """The share of candidates that are drawn at random ever after."""

    def __post_init__(self) -> None:
        for name in ("initial", "pool"):
            if getattr(self, name) < 2:
                raise ValueError(f"surrogate:{name}={getattr(self, name)} must be 2 or more")
        if not 0 <= self.explore <= 1:
            raise ValueError(f"surrogate:explore={self.explore} must be in 0..1")
        if self.kappa < 0:
            raise ValueError(f"surrogate:kappa={self.kappa} must be 0 or more")


class Surrogate:
    """The strategy. Points that were proposed are left out of the pool."""

    def __init__(
        self, space: Space, seed: int, config: SurrogateConfig, scale: Scale = fractions
    ) -> None:
        self.space = space
        self.scale = scale
        self.config = config
        self.free = [t for t, radix in enumerate(space.radices) if radix > 1]
        self.random = np.random.default_rng(seed)
        self.number = 0
        self.known: dict[Digits, Reward] = {}  # rewards told
        self.open: dict[int, Digits] = {}  # on their way
        self.kernel: list[float] | None = None  # its fitted hyper-parameters
        self.fitted_to = 0
        self._features([])  # raises here, before anything is trained

    def ask(self, n: int) -> list[Proposal]:
        with one_thread(*MODELS):
            chosen = self._choose(n)
        proposals = [Proposal(self.number + i, digits) for i, digits in enumerate(chosen)]
        self.number += n
        self.open |= {p.number: p.digits for p in proposals}
        return proposals

    def _choose(self, n: int) -> list[Digits]:
        chosen: list[Digits] = []
        for _ in range(n):
            random = self.random.random() < self.config.explore
            if random or len(self.known) < self.config.initial:
                chosen.append(self._random())
            else:
                chosen.append(self._promising(chosen))
        return chosen

    def _random(self) -> Digits:
        return tuple(self.random.integers(self.space.radices).tolist())

    def _promising(self, chosen: list[Digits]) -> Digits:
        """The point of the pool with the largest upper confidence bound."""
        waiting = [*self.open.values(), *chosen]
        rewards = [*self.known.values()]
        x, y = self._features([*self.known]), np.array(self.scale(rewards, rewards))
        lies = self._features(waiting)
        pool, shapes = self._pool(np.concatenate([x, lies]))
        if not pool:
            return self._random()
        model = self._model(x, y)
        if waiting:  # what is on its way counts as told its prediction
            believed = np.concatenate([y, model.predict(lies)[0]])
            model = self._model(np.concatenate([x, lies]), believed, refit=False)
        mean, std = model.predict(shapes)
        return pool[int(np.argmax(mean + self.config.kappa * std))]

    def _features(self, points: Sequence[Digits]) -> np.ndarray:
        """(n, F)."""
        digits = np.array(points, int).reshape(len(points), len(self.space.radices))
        found = self.space.features(digits)
        if found is None:
            raise ValueError(
                f"surrogate compares features, and {self.space.spec} has none; use evolution"
            )
        return found

    def _pool(self, seen: np.ndarray) -> tuple[list[Digits], np.ndarray]:
        """Random points and mutants of the best whose shape differs from all that were seen."""
        best = sorted(self.known, key=lambda d: -order(self.known[d]))[:PARENTS]
        half = self.config.pool // 2
        drawn = [self._random() for _ in range(half)]
        for i in range(self.config.pool - half):
            parent = best[i % len(best)]
            drawn.append(mutated(parent, self.space.radices, self.free, self.random))
        shapes = self._features(drawn)
        keys = {row.tobytes() for row in np.round(seen, 6)}
        new: list[int] = []
        for i, row in enumerate(np.round(shapes, 6)):
            if (key := row.tobytes()) not in keys:
                keys.add(key)
                new.append(i)
        return [drawn[i] for i in new], shapes[new]

    def _model(
        self, x: np.ndarray, y: np.ndarray, *, refit: bool = True
    ) -> GaussianProcess | Forest:
        """A fitted model; the kernel's hyper-parameters are fitted anew only now and then, and
        never to what is merely believed, which has no noise."""
        if self.config.model == "forest":
            return Forest(self.number).fit(x, y)
        due = refit and (self.kernel is None or len(y) >= REFIT * self.fitted_to)
        model = GaussianProcess(self.kernel, refit=due).fit(x, y)
        if due:
            self.kernel, self.fitted_to = model.theta, len(y)
        return model

    def peek(self, n: int) -> tuple[Digits, ...]:
        return ()

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        del self.open[proposal.number]
        self.known[proposal.digits] = reward
        if len(self.known) > 2 * KEPT:
            by_reward = sorted(self.known, key=lambda d: -order(self.known[d]))
            keep = {*by_reward[: KEPT // 2], *list(self.known)[-KEPT // 2 :]}
            self.known = {d: r for d, r in self.known.items() if d in keep}
            self.fitted_to = min(self.fitted_to, len(self.known))

    @property
    def exhausted(self) -> bool:
        return False

    def health(self) -> dict[str, float]:
        rewards = trained(self.known.values())
        if not rewards:
            return {}
        return {"reward": float(np.mean(rewards[-20:])), "best": max(rewards)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "random": self.random.bit_generator.state,
            "number": self.number,
            "known": [[list(digits), reward] for digits, reward in self.known.items()],
            "open": [[number, list(digits)] for number, digits in self.open.items()],
            "kernel": self.kernel,
            "fitted_to": self.fitted_to,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.bit_generator.state = state["random"]
        self.number = state["number"]
        self.known = {tuple(digits): reward for digits, reward in state["known"]}
        self.open = {number: tuple(digits) for number, digits in state["open"]}
        self.kernel, self.fitted_to = state["kernel"], state["fitted_to"]


class GaussianProcess:
    """scikit-learn's, on standardised features and rewards: Matern 5/2 with one length scale, and
    noise. `theta` are the kernel's log hyper-parameters, which are fitted where `refit` says so.
    """

    def __init__(self, theta: list[float] | None = None, *, refit: bool = True) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
        from sklearn.preprocessing import StandardScaler

        kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(8.0, (1.0, 200.0), nu=2.5)
        kernel = kernel + WhiteKernel(0.05, (1e-4, 1.0))
        if theta is not None:
            kernel = kernel.clone_with_theta(np.array(theta))
        self.scaler = StandardScaler()
        self.process = GaussianProcessRegressor(
            kernel,
            optimizer="fmin_l_bfgs_b" if refit else None,  # pyright: ignore[reportArgumentType]
        )

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        self.mean, self.scale = float(y.mean()), float(y.std()) or 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a hyper-parameter at the edge of its range
            self.process.fit(self.scaler.fit_transform(x), (y - self.mean) / self.scale)
        return self

    @property
    def theta(self) -> list[float]:
        kernel: Any = self.process.kernel_
        return kernel.theta.tolist()

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found: Any = self.process.predict(self.scaler.transform(x), return_std=True)
        mean, std = found
        noise = math.exp(self.theta[-1])  # of a single training, no part of the function's reward
        std = np.sqrt(np.maximum(std**2 - noise, 0.0))
        return mean * self.scale + self.mean, std * self.scale


class Forest:
    """scikit-learn's extremely randomised trees; their spread is the uncertainty."""

    def __init__(self, seed: int) -> None:
        from sklearn.ensemble import ExtraTreesRegressor

        self.forest = ExtraTreesRegressor(TREES, random_state=seed)

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        self.forest.fit(x, y)
        return self

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        votes = np.array([tree.predict(x) for tree in self.forest.estimators_])
        return votes.mean(axis=0), votes.std(axis=0)
