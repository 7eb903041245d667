"""What functions of a search are worth when they are trained again, from all of its trainings: one
of each function, and further ones, with other seeds, of the best (`docs/confirm.md`).

    y(f, s) = theta(f) + delta(s) + e,   theta ~ N(mu, tau**2),  e ~ N(0, sigma**2),  delta(0) = 0

y is a score turned so that higher is better, and s = 0 the search's own seed. delta is what a seed
does to all functions alike; nothing is presumed of it. theta has a normal prior, since the best of
many scores is partly luck. As in `statistics.py` that is the prior of the search's head alone, its
best quarter, cut off below (Efron 2011). Baselines have none: nobody chose them for their score.

mu, tau and sigma are averaged over, on a grid of their posterior, rather than plugged in (Gelman et
al. 2013, chapter 5): so intervals are wide while trainings are few, and nothing is drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from actsearch.results.statistics import SMALLEST_HEAD, head_of

if TYPE_CHECKING:
    import numpy as np

Scores = Mapping[int, float]  # by seed, counted from the search's own, which is 0

_SIGMAS, _TAUS, _MUS = 10, 10, 16  # values of the grid
_NEGLIGIBLE = 1e-3  # a point with a smaller share of the largest weight is left out
# After one or two seeds little is seen of how far their common effects scatter. Until then they are
# taken to scatter as much as single trainings do, with the weight of so many seeds.
_SEEDS_PRESUMED = 2
_TAIL = 0.025  # beyond each end of a 95 % interval
_HALVINGS = 16


@dataclass(frozen=True)
class Estimate:
    """The mean of what is believed, and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def believe(
    first: Mapping[str, float],
    again: Mapping[str, Scores],
    baselines: Mapping[str, Scores],
) -> Beliefs | None:
    """Beliefs from the `first` score of each candidate, the further ones of those trained `again`,
    and all of the `baselines`. None below 10 candidates, from which no prior can be fitted."""
    if len(first) < SMALLEST_HEAD:
        return None
    ranked = sorted(first.values(), reverse=True)
    kept = head_of(len(first))
    cut = ranked[kept] if kept < len(ranked) else -math.inf
    if sum(y > cut for y in ranked) < 2:
        cut = -math.inf  # nearly all are equal
    several = {f: {0: first[f], **more} for f, more in again.items() if more}
    head = {f: several.get(f, {0: y}) for f, y in first.items() if y > cut}
    # What was trained again and has fallen out of the head has no say in the fit: trainings of
    # worse functions may scatter far more.
    fallen = {f: scores for f, scores in several.items() if f not in head}
    beside = {f: scores for f, scores in baselines.items() if 0 in scores}
    return Beliefs(head, fallen, beside, cut)


class Beliefs:
    """Of the `head`, of functions `fallen` out of it, and of baselines `beside`, all by subject.
    `cut` is the score above which the head lies, -infinity where all candidates are in it."""

    def __init__(
        self,
        head: Mapping[str, Scores],
        fallen: Mapping[str, Scores],
        beside: Mapping[str, Scores],
        cut: float,
    ) -> None:
        import numpy as np

        self.cut = cut
        self.subjects = {f: i for i, f in enumerate((*head, *fallen, *beside))}
        every = [*head.values(), *fallen.values(), *beside.values()]
        seeds = sorted({s for scores in (*head.values(), *beside.values()) for s in scores})
        own = np.array([scores[0] for scores in head.values()])
        self._middle, self._unit = float(own.mean()), float(own.std()) or 1e-12
        scores = np.array([[s.get(seed, math.nan) for seed in seeds] for s in every])
        scores = (scores - self._middle) / self._unit
        trained = ~np.isnan(scores)
        self.further = len(seeds) - 1
        self._seen = trained[:, 1:].astype(float)  # (F, S): with which further seeds
        self._scores = np.where(trained, scores, 0.0)
        self._n = trained.sum(axis=1)
        self._sum = self._scores.sum(axis=1)
        at = np.arange(len(every))
        self._in_head = at < len(head)
        self._beside = at >= len(head) + len(fallen)
        self._fit((cut - self._middle) / self._unit)

    # -- the grid

    def _fit(self, cut: float) -> None:
        """The posterior of (mu, sigma, tau), first on a wide grid, then on one where it lies."""
        import numpy as np

        excess = -cut if math.isfinite(cut) else 1.0
        mus = np.linspace(-6.0 * excess, 2.0 * excess, _MUS)
        sigmas, taus = np.geomspace(0.1, 4.0, _SIGMAS), np.geomspace(0.05, 4.0, _TAUS)
        weights = self._weights(mus, sigmas, taus, cut)
        mus = np.linspace(*_where(mus, weights.sum(axis=(1, 2))), _MUS)
        sigmas = np.geomspace(*_where(sigmas, weights.sum(axis=(0, 2))), _SIGMAS)
        taus = np.geomspace(*_where(taus, weights.sum(axis=(0, 1))), _TAUS)
        weights = self._weights(mus, sigmas, taus, cut)
        kept = weights > _NEGLIGIBLE * weights.max()
        mu, sigma, tau = np.meshgrid(mus, sigmas, taus, indexing="ij")
        self._mu, self._sigma, self._tau = mu[kept], sigma[kept], tau[kept]
        self._weight = weights[kept] / weights[kept].sum()
        moments = self._moments(self._sigma, self._tau)
        self._cov = np.linalg.inv(moments.precision) if self.further else moments.precision
        shift = moments.pull - self._mu[:, None] * moments.pull_of_mu
        self._delta = np.einsum("gst,gt->gs", self._cov, shift)  # (G, S): effects of seeds

    def _weights(
        self, mus: np.ndarray, sigmas: np.ndarray, taus: np.ndarray, cut: float
    ) -> np.ndarray:
        """Likelihood times prior (M, sigmas, taus), up to a factor. The prior is flat in mu, in
        log sigma and in tau (Gelman 2006)."""
        import numpy as np
        from scipy.special import log_ndtr

        sigma, tau = (part.ravel() for part in np.meshgrid(sigmas, taus, indexing="ij"))
        m = self._moments(sigma, tau)
        mu = mus[:, None]
        log = m.log - 0.5 * (m.square - 2 * mu * m.linear + mu**2 * m.constant)
        if self.further:
            solved = np.linalg.solve(m.precision, np.stack([m.pull, m.pull_of_mu], axis=2))
            both = np.einsum("gsi,gsj->gij", np.stack([m.pull, m.pull_of_mu], axis=2), solved)
            log = log + 0.5 * (both[:, 0, 0] - 2 * mu * both[:, 0, 1] + mu**2 * both[:, 1, 1])
            log = log - 0.5 * np.linalg.slogdet(m.precision)[1]
        if math.isfinite(cut):  # a score of the head is known to lie above the cut
            log = log - self._in_head.sum() * log_ndtr((mu - cut) / np.hypot(sigma, tau))
        log = log + np.log(tau)  # the grid is even in log tau
        weights = np.exp(log - log.max())
        return weights.reshape(len(mus), len(sigmas), len(taus))

    def _moments(self, sigma: np.ndarray, tau: np.ndarray) -> _Moments:
        """What the likelihood of all scores is made of, for G pairs (sigma, tau), theta integrated
        out: V = sigma**2 I + tau**2 11' of each function's scores, so
        V**-1 = (I - k 11') / sigma**2 with k = 1 / (n + sigma**2 / tau**2), or 1 / n without a
        prior."""
        import numpy as np

        size = (len(sigma), self.further)
        found = _Moments(*(np.zeros(len(sigma)) for _ in range(4)), np.zeros(size), np.zeros(size),
                         np.zeros((*size, self.further)))  # fmt: skip
        var = sigma**2
        for n in np.unique(self._n):
            for prior in (True, False):
                these = (self._n == n) & (self._in_head if prior else self._beside)
                if not these.any():
                    continue
                seen, total = self._seen[these], self._sum[these]
                scores = self._scores[these]
                k = 1 / (n + var / tau**2) if prior else np.full_like(var, 1 / n)
                rest = (1 - k * n) / var  # what a mean of n scores still says of mu
                found.square += ((scores**2).sum() - k * (total**2).sum()) / var
                found.linear += rest * total.sum()
                found.constant += rest * n * len(total)
                found.log -= 0.5 * len(total) * (n - 1) * np.log(var)
                if prior:
                    found.log -= 0.5 * len(total) * np.log(var + n * tau**2)
                if self.further:
                    by_seed = (scores[:, 1:] * seen).sum(axis=0)
                    found.pull += (by_seed - np.outer(k, total @ seen)) / var[:, None]
                    found.pull_of_mu += np.outer(rest, seen.sum(axis=0))
                    own = np.diag(seen.sum(axis=0))
                    found.precision += (own - k[:, None, None] * (seen.T @ seen)) / var[
                        :, None, None
                    ]
        return found

    # -- what is read

    @cached_property
    def noise_sd(self) -> float:
        """That of one training, what a seed does to all functions alike taken out."""
        return self._unit * self._average(self._sigma)

    @cached_property
    def prior(self) -> tuple[float, float]:
        """Mean and standard deviation of the head's prior."""
        tau = math.sqrt(self._average(self._tau**2))
        return self._middle + self._unit * self._average(self._mu), self._unit * tau

    def _average(self, values: np.ndarray) -> float:
        return float(self._weight @ values)

    @cached_property
    def worth(self) -> Mapping[str, tuple[float, float]]:
        """By subject the mean and standard deviation of theta, its worth under the search's own
        seed, by which functions are ranked."""
        return {f: self._spread(*self._sum_of({i: 1.0})) for f, i in self.subjects.items()}

    def trainings(self, subject: str) -> int:
        return int(self._n[self.subjects[subject]])

    def again(self, subject: str) -> Estimate:
        """The mean score of a function over further seeds: what to expect of training it again."""
        level = 1 / (self.further + 1)  # seeds of all trainings, the search's own among them
        found = self._estimate(*self._sum_of({self.subjects[subject]: 1.0}, level))
        low = found.mean - math.hypot(found.mean - found.low, self._seeds_half)
        high = found.mean + math.hypot(found.high - found.mean, self._seeds_half)
        return Estimate(found.mean, low, high)

    def gain(self, subject: str, over: str) -> Estimate:
        """How much better one function is than another. What seeds do to both alike drops out."""
        difference = {self.subjects[subject]: 1.0, self.subjects[over]: -1.0}
        return self._estimate(*self._sum_of(difference))

    def _sum_of(
        self, of: Mapping[int, float], level: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Means and variances (G,), and the origin of the means, of a sum of thetas, each times a
        number, plus `level` times the sum of all effects of seeds. Given a point of the grid and
        the effects,

            theta | y ~ N(a (mu / tau**2 * sigma**2 + sum_s (y_s - delta_s)), a sigma**2)

        with a = 1 / (n + sigma**2 / tau**2), so the sum is linear in the effects."""
        import numpy as np

        ratio = self._sigma**2 / self._tau**2
        mean, variance = np.zeros_like(ratio), np.zeros_like(ratio)
        effects = np.full_like(self._delta, level)
        for i, times in of.items():
            pull = np.zeros_like(ratio) if self._beside[i] else ratio
            a = 1 / (self._n[i] + pull)
            mean += times * a * (pull * self._mu + self._sum[i])
            variance += times**2 * a * self._sigma**2
            effects -= times * np.outer(a, self._seen[i])
        if self.further:
            mean += (effects * self._delta).sum(axis=1)
            variance += np.einsum("gs,gst,gt->g", effects, self._cov, effects)
        return mean, variance, self._middle * sum(of.values())

    def _spread(self, mean: np.ndarray, variance: np.ndarray, origin: float) -> tuple[float, float]:
        middle = self._average(mean)
        spread = math.sqrt(self._average(variance + (mean - middle) ** 2))
        return origin + self._unit * middle, self._unit * spread

    def _estimate(self, mean: np.ndarray, variance: np.ndarray, origin: float) -> Estimate:
        """Of the mixture of normals at the points of the grid; its quantiles by bisection."""
        import numpy as np
        from scipy.special import ndtr

        sd = np.sqrt(variance)
        middle = self._average(mean)
        spread = math.sqrt(self._average(variance + (mean - middle) ** 2))
        ends: list[float] = []
        for side in (-1, 1):
            near, far = middle, middle + side * 6 * spread
            for _ in range(_HALVINGS):
                at = (near + far) / 2
                beyond = self._average(ndtr(side * (mean - at) / np.maximum(sd, 1e-12)))
                near, far = (at, far) if beyond > _TAIL else (near, at)
            ends.append(origin + self._unit * near)
        return Estimate(origin + self._unit * middle, *ends)

    @cached_property
    def _seeds_half(self) -> float:
        """Half of a 95 % interval for the mean effect of all seeds there are, of those seen."""
        import numpy as np
        from scipy.stats import t

        effects = np.array([0.0, *(self._weight @ self._delta)]) * self._unit
        freedom = _SEEDS_PRESUMED + self.further
        squares = float(((effects - effects.mean()) ** 2).sum())
        sd = math.sqrt((_SEEDS_PRESUMED * self.noise_sd**2 + squares) / freedom)
        return float(t.ppf(0.975, freedom)) * sd / math.sqrt(self.further + 1)


@dataclass
class _Moments:
    """Of the likelihood, for G pairs (sigma, tau) and S further seeds: -2 log L is `square` - 2 mu
    `linear` + mu**2 `constant` - 2 `log` less what the effects of seeds explain, whose posterior
    has this `precision` (G, S, S) and the mean precision**-1 (pull - mu pull_of_mu)."""

    square: np.ndarray
    linear: np.ndarray
    constant: np.ndarray
    log: np.ndarray
    pull: np.ndarray
    pull_of_mu: np.ndarray
    precision: np.ndarray


def _where(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The ends of the values that have more than a negligible weight, and one more on each side
    where there is one."""
    import numpy as np

    some = np.flatnonzero(weights > _NEGLIGIBLE * weights.max())
    low, high = max(0, some[0] - 1), min(len(values) - 1, some[-1] + 1)
    return float(values[low]), float(values[high])
