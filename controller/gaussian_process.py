"""A Gaussian process of rewards (Rasmussen and Williams 2006, chapters 2 and 5), in numpy.

    y = f(x) + e,   f ~ GP(0, s2 matern(|a - b| / length)),   e ~ N(0, s2 noise)

with the Matern kernel of smoothness 5/2, one length for all inputs. Inputs are standardised and
divided by the root of their number, so that two of them are about sqrt(2) apart; rewards are
standardised. `length` and `noise` are those of a grid with the largest posterior density: one
eigendecomposition for each length serves all noises, and s2 has a closed form. No optimiser walks,
so the same rewards give the same process, in a twentieth of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

LENGTHS = np.geomspace(0.18, 7.4, 9)
NOISES = np.geomspace(1e-4, 1.0, 13)
TYPICAL = 1.0  # length, about which the prior of its logarithm is normal with sd 1
NEAR = math.log(1.8)  # lengths so near to the last are tried when the process is fitted again


@dataclass(frozen=True)
class Kernel:
    """What is fitted: the length, and the noise of a training as a share of s2."""

    length: float
    noise: float


class GaussianProcess:
    """The process of rewards y (n,) at inputs x (n, F). A `kernel` is taken as it is, or with
    `refit` fitted anew near it; without one it is fitted."""

    def __init__(
        self, x: np.ndarray, y: np.ndarray, kernel: Kernel | None = None, *, refit: bool = False
    ) -> None:
        self.centre, self.spread = x.mean(0), _spread(x)
        self.x = self._standard(x)
        self.mean, self.scale = float(y.mean()), float(y.std()) or 1.0
        self.y = (y - self.mean) / self.scale
        if kernel is None or refit:
            kernel = fitted(self.x, self.y, near=kernel)
        self.kernel = kernel
        covariance = matern(distances(self.x, self.x), self.kernel.length)
        covariance[np.diag_indices_from(covariance)] += self.kernel.noise
        self.factor = cho_factor(covariance, lower=True)
        self.weights = cho_solve(self.factor, self.y)
        self.s2 = max(float(self.y @ self.weights) / len(y), 1e-12)

    def _standard(self, x: np.ndarray) -> np.ndarray:
        return (x - self.centre) / self.spread

    @property
    def noise(self) -> float:
        """Standard deviation of a single training, in the unit of rewards."""
        return math.sqrt(self.s2 * self.kernel.noise) * self.scale

    def left_out(self) -> np.ndarray:
        """The prediction of each reward from all others (n,), in closed form (eq. 5.12)."""
        inverse = np.diag(cho_solve(self.factor, np.eye(len(self.y))))
        return (self.y - self.weights / inverse) * self.scale + self.mean

    def at(self, x: np.ndarray) -> Posterior:
        """What is believed of the points x (P, F)."""
        return Posterior(self, self._standard(x))


class Posterior:
    """Means and variances of the functions' own rewards at P points. `expect` thinks it further, to
    when one of them has a reward that equals its mean: variances around it fall, and no mean moves
    (Desautels et al. 2014, "hallucinated" observations)."""

    def __init__(self, process: GaussianProcess, x: np.ndarray) -> None:
        self.process, self.x = process, x
        across = matern(distances(process.x, x), process.kernel.length)
        self.solved = solve_triangular(process.factor[0], across, lower=True)
        self.unit_mean = across.T @ process.weights
        self.unit_variance = np.maximum(1.0 - (self.solved**2).sum(0), 0.0)

    @property
    def mean(self) -> np.ndarray:
        """(P,)."""
        return self.unit_mean * self.process.scale + self.process.mean

    @property
    def std(self) -> np.ndarray:
        """(P,), without the noise of a training."""
        return np.sqrt(self.process.s2 * self.unit_variance) * self.process.scale

    def bound(self, kappa: float) -> np.ndarray:
        """Upper confidence bounds (P,): means and `kappa` standard deviations."""
        return self.mean + kappa * self.std

    def expect(self, i: int) -> None:
        """Point `i` is being trained."""
        # Points far from all that is known may be very large, which `distances` is not made for.
        away = np.linalg.norm(self.x - self.x[i], axis=1)
        column = matern(away, self.process.kernel.length)
        column -= self.solved.T @ self.solved[:, i]
        row = column / math.sqrt(max(column[i], 0.0) + self.process.kernel.noise)
        self.solved = np.vstack([self.solved, row])  # a further row of the Cholesky factor
        self.unit_variance = np.maximum(self.unit_variance - row**2, 0.0)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of points (n, F) and (m, F), (n, m), by a product of matrices, which is faster than by
    differences. Its error is about 1e-8 of the size of the smaller point. So one of the two should
    be of a process, whose n points are no larger than sqrt(n)."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * (a @ b.T)
    return np.sqrt(np.maximum(squared, 0.0))


def matern(distance: np.ndarray, length: float) -> np.ndarray:
    """Matern 5/2 at each distance."""
    r = math.sqrt(5.0) / length * distance
    return (1.0 + r + r**2 / 3.0) * np.exp(-r)


def fitted(x: np.ndarray, y: np.ndarray, near: Kernel | None = None) -> Kernel:
    """The kernel of the grid with the largest posterior density for standardised x (n, F) and
    y (n,); of the lengths that are not far from that of `near`, if there is one."""
    every = LENGTHS.tolist()
    lengths = [each for each in every if near is None or abs(math.log(each / near.length)) <= NEAR]
    scored = (score for length in lengths for score in _scores(x, y, length))
    _, length, noise = max(scored)
    return Kernel(length, noise)


def _scores(x: np.ndarray, y: np.ndarray, length: float) -> list[tuple[float, float, float]]:
    """(log density, length, noise) for every noise: the marginal likelihood with the best s2 put
    in (eq. 5.8), a normal prior on the logarithm of the length, and one on that of s2."""
    values, vectors = np.linalg.eigh(matern(distances(x, x), length))
    energy = (vectors.T @ y) ** 2
    scores: list[tuple[float, float, float]] = []
    for noise in NOISES:
        v = np.maximum(values, 0.0) + noise
        s2 = max(float(np.mean(energy / v)), 1e-12)
        likelihood = -0.5 * (len(y) * math.log(s2) + float(np.log(v).sum()))
        prior = -0.5 * (math.log(s2) ** 2 + math.log(length / TYPICAL) ** 2)
        scores.append((likelihood + prior, length, float(noise)))
    return scores


def _spread(x: np.ndarray) -> np.ndarray:
    """What inputs are divided by; a constant one stays 0."""
    spread = x.std(0) * math.sqrt(x.shape[1])
    return np.where(spread > 1e-9, spread, np.inf)
