"""Which of the best functions of a search to train again, with another seed, and when.

The best are confirmed by sequential halving (Karnin, Koren and Somekh 2013) on their posterior
means: with R trainings left, the next goes to that of the best R / 3 which has trained least, so
fewer and fewer functions get more and more seeds. How many trainings this is worth follows from
what is believed of noise and functions (`results/expectation.py`): the rest of the search is played
on draws of that, with 0, 2, 4, 6, 8, 12, ... trainings for confirming and the others for new
functions, and what has the best function at its end is how many there should be. Until so few are
left, the search goes on. (A preposterior analysis, Raiffa and Schlaifer 1961.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from actsearch.results.expectation import Beliefs

PLANS = (0, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # trainings that may go into confirming
ARMS = 3  # trainings for each function that halving begins with
DRAWS = 128  # of the rest of the search
LATEST = 30  # new functions, by which it is told how often one is good
WORTH = 0.01  # of a training's noise: less gained by one more training does not count


def to_confirm(
    beliefs: Beliefs,
    candidates: Iterable[str],
    trainings: Mapping[str, int],
    left: int | None,
    hits: float,
    seeds: int,
) -> str | None:
    """The function to train again; None where a new one is worth more, or nothing is.

    `trainings` says how often each has trained, those on their way included; `left` is how many
    trainings there are, None for as many as are worth it where there are no more new functions;
    `hits` is the share of new functions that come into the head; the baseline has been trained with
    so many further `seeds`.
    """
    worth = beliefs.worth
    order = sorted((f for f in candidates if f in worth), key=lambda f: (-worth[f][0], f))
    if len(order) < 2 or not (left is None or within_reach(left)):
        return None
    rest = _Rest(beliefs, [worth[f] for f in order], left, hits, seeds)
    planned = rest.worth_their_while() if left is None else left
    if planned == 0 or (left is not None and not rest.all_for_confirming()):
        return None
    best = order[: arms(planned)]
    return min(best, key=lambda f: (trainings[f], order.index(f)))


def within_reach(left: int | None) -> bool:
    """Whether all of the trainings that are left might go into confirming."""
    return left is not None and left <= PLANS[-1]


def arms(left: int) -> int:
    """Among how many of the best the next training goes to the one with the fewest."""
    return max(2, left // ARMS)


def hit_rate(scores: Iterable[float | None], cut: float) -> float:
    """The share of the latest new functions that came into the head, never quite 0 or 1."""
    latest = [*scores][-LATEST:]
    hits = sum(score is not None and score > cut for score in latest)
    return (hits + 0.5) / (len(latest) + 1)


class _Rest:
    """The rest of a search, played on DRAWS draws of what is believed. `known` are the mean and
    standard deviation of each function, best first."""

    def __init__(
        self,
        beliefs: Beliefs,
        known: Sequence[tuple[float, float]],
        left: int | None,
        hits: float,
        seeds: int,
    ) -> None:
        rng = np.random.default_rng(0)  # the same draws for all plans, which are compared
        self.left, self.hits, self.seeds = left, hits, seeds
        self.sigma = beliefs.noise_sd
        top = np.array(known[: 2 * arms(PLANS[-1])])
        shape = (DRAWS, len(top))
        mean, sd = np.broadcast_to(top[:, 0], shape), np.broadcast_to(top[:, 1], shape)
        old = mean, sd, mean + sd * rng.standard_normal(shape)
        self.noise = rng.standard_normal((DRAWS, PLANS[-1]))
        new = _new(beliefs, 0 if left is None else math.ceil(hits * left), rng)
        self.old, self.new = old, new

    def all_for_confirming(self) -> bool:
        """Whether no plan that has new functions is better."""
        assert self.left is not None
        value = self._value(self.left)
        return all(self._value(n) <= value for n in reversed(PLANS) if n < self.left)

    def worth_their_while(self) -> int:
        """How many trainings, where there are no more new functions."""
        return max(PLANS, key=lambda n: self._value(n) - WORTH * self.sigma * n)

    def _value(self, n: int) -> float:
        """The true worth of the best at the end, with so many trainings for confirming."""
        new = 0 if self.left is None else round(self.hits * (self.left - n))
        parts = zip(self.old, self.new, strict=True)
        mean, sd, true = (np.hstack([old, later[:, :new]]) for old, later in parts)
        # The baseline is trained too with each seed, of which halving needs about so many.
        beside = max(0, math.ceil(math.log2(arms(n))) + 1 - self.seeds) if n else 0
        return _played(mean, sd, true, max(0, n - beside), self.sigma, self.noise)


def _new(
    beliefs: Beliefs, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Functions that come into the head later, after one training: their means, standard
    deviations and true worths, each (DRAWS, n)."""
    (mu, tau), sigma = beliefs.prior, beliefs.noise_sd
    total = math.hypot(tau, sigma)
    below = float(ndtr((beliefs.cut - mu) / total))
    drawn = below + (1 - below) * rng.random((DRAWS, n))
    score = mu + total * ndtri(np.clip(drawn, 1e-12, 1 - 1e-12))
    share = (tau / total) ** 2
    mean = mu + share * (score - mu)
    sd = np.full_like(mean, math.sqrt(share) * sigma)
    return mean, sd, mean + sd * rng.standard_normal((DRAWS, n))


def _played(
    mean: np.ndarray,
    sd: np.ndarray,
    true: np.ndarray,
    trainings: int,
    sigma: float,
    noise: np.ndarray,
) -> float:
    """The true worth of the function that is best at the end of so many trainings, on average over
    the draws: (DRAWS, functions) all."""
    kept = min(mean.shape[1], 2 * arms(trainings))
    first = np.argsort(-mean, axis=1, kind="stable")[:, :kept]
    mean, sd, true = (np.take_along_axis(part, first, axis=1) for part in (mean, sd, true))
    precision, row = 1 / np.maximum(sd, 1e-9 * sigma + 1e-300) ** 2, np.arange(len(mean))
    times = np.zeros_like(mean)
    mean = mean.copy()
    for i in range(trainings):
        best = arms(trainings - i)
        if best < kept:
            least = -np.partition(-mean, best - 1, axis=1)[:, best - 1 : best]
            blocked = mean < least
        else:
            blocked = np.zeros_like(mean, bool)
        at = np.argmin(np.where(blocked, np.inf, times), axis=1)
        score = true[row, at] + sigma * noise[:, i]
        before = precision[row, at]
        precision[row, at] += 1 / sigma**2
        mean[row, at] += (score - mean[row, at]) / (before * sigma**2 + 1)
        times[row, at] += 1
    return float(true[row, mean.argmax(axis=1)].mean())
