"""Means and their intervals, tests on pairs, wins over models, what a search's best is worth.

Pairs are trainings with the same seed, or results on the same model. `docs/statistics.md` says what
each number can and cannot show, and how the intervals were chosen.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05  # of every test here
POWER = 0.8
FEWEST_FOR_BOOTSTRAP = 6  # values; below, its ends are those of nearly constant resamples
_RESAMPLES = 9_999
_ENUMERATED = 50_000  # resamples, at most: all 46,656 of 6 values
SMALLEST_HEAD = 10  # scores to which a prior is fitted, at least
_EQUAL = 1e-9  # scores nearer than this are equal: what is left is rounding of floats


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error (None below two values), how many values it is of, their
    median."""

    mean: float
    standard_error: float | None
    n: int
    median: float


def estimate(values: Sequence[float]) -> Estimate:
    """Raises ValueError for no values."""
    if not values:
        raise ValueError("no values to take a mean of")
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error, len(values), statistics.median(values))


def differences(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """a - b at each seed that both have, by seed."""
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


# -- intervals


@dataclass(frozen=True)
class Interval:
    """Where a mean lies, and by which method this was found."""

    low: float
    high: float
    method: str


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """A confidence interval for the mean of `values`, such as differences paired by seed.

    Student's t below 6 values, the studentised (bootstrap-t) interval from 6 on. Coverage of 95 %
    intervals in 2,000 simulated samples each (`python benchmarks/intervals.py`):

        n                                    3      4      5      6     10     20
        this, normal values              0.949  0.953  0.959  0.946  0.945  0.952
        this, exponential values         0.879  0.884  0.877  0.925  0.940  0.934
        Student's t, exponential         0.879  0.884  0.877  0.881  0.900  0.913
        percentile bootstrap, normal     0.747  0.792  0.847  0.853  0.901  0.929

    The bootstrap is deterministic: all resamples of 6 values, 9,999 with a fixed seed of more. None
    below two values, and where all are equal, since then nothing says how far they scatter.
    """
    if len(values) < 2 or max(values) - min(values) < _EQUAL:
        return None
    if len(values) >= FEWEST_FOR_BOOTSTRAP:
        low, high = bootstrap_t(sorted(values), confidence)
        if math.isfinite(low) and math.isfinite(high):
            return Interval(low, high, "bootstrap t")
    low, high = student_t(values, confidence)
    return Interval(low, high, "Student's t")


def student_t(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The interval that is exact for normal values; of at least two."""
    from scipy.stats import t

    found = estimate(values)
    assert found.standard_error is not None
    reach = float(t.ppf((1 + confidence) / 2, found.n - 1)) * found.standard_error
    return found.mean - reach, found.mean + reach


def bootstrap_t(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Efron and Tibshirani 1993, section 12.5: quantiles of (m* - m) / se* over resamples, in the
    place of Student's. scipy.stats.bootstrap has no such method; its percentile, basic and BCa
    intervals are all too narrow for few values. Infinite where too many resamples have no spread.
    """
    import numpy as np

    x, n = np.array(values), len(values)
    if n**n <= _ENUMERATED:
        chosen = np.indices((n,) * n).reshape(n, -1).T
    else:
        chosen = np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))
    resampled = x[chosen]
    away = resampled.mean(axis=1) - x.mean()
    errors = resampled.std(axis=1, ddof=1) / math.sqrt(n)
    flat = np.ptp(resampled, axis=1) < _EQUAL
    ratios = away / np.where(flat, 1.0, errors)
    ratios[flat & (away > 0)], ratios[flat & (away < 0)] = np.inf, -np.inf
    tail = (1 - confidence) / 2
    least, most = np.quantile(ratios, [tail, 1 - tail], method="inverted_cdf")
    error = x.std(ddof=1) / math.sqrt(n)
    return float(x.mean() - most * error), float(x.mean() - least * error)


def wilson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """A confidence interval for a share of `hits` in `n` (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(hits, n).proportion_ci(confidence, "wilson")
    return float(found.low), float(found.high)


# -- tests


def wilcoxon(paired: Iterable[float]) -> float | None:
    """The two-sided p of Wilcoxon's signed-rank test on differences, exact for any n and with ties.

    Zeros are dropped; None if nothing is left. With n differences p is never below 2 / 2**n: 0.25
    for 3, 0.125 for 4, 0.0625 for 5. So below 6 pairs nothing reaches 0.05, however large it is.
    """
    from scipy.stats import rankdata

    kept = [d for d in paired if abs(d) > _EQUAL]
    if not kept:
        return None
    # Twice the mean ranks are whole numbers. Differences that only rounding tells apart are tied.
    ranks = [round(2 * rank) for rank in rankdata([round(abs(d), 9) for d in kept])]
    ways = {0: 1}  # patterns of signs by their sum of positive ranks
    for rank in ranks:
        more = dict(ways)
        for total, count in ways.items():
            more[total + rank] = more.get(total + rank, 0) + count
        ways = more
    seen = sum(rank for rank, d in zip(ranks, kept, strict=True) if d > 0)
    below = sum(count for total, count in ways.items() if total <= seen)
    above = sum(count for total, count in ways.items() if total >= seen)
    return min(1.0, 2 * min(below, above) / 2 ** len(kept))


def paired_t(paired: Sequence[float]) -> float | None:
    """The two-sided p of Student's t test on differences, exact for normal ones. None below two,
    and where all are equal, since then nothing says how far they scatter."""
    from scipy.stats import t

    if len(paired) < 2 or max(paired) - min(paired) < _EQUAL:
        return None
    found = estimate(paired)
    assert found.standard_error is not None
    return 2 * float(t.sf(abs(found.mean) / found.standard_error, found.n - 1))


@dataclass(frozen=True)
class Wins:
    """On how many models a function was better, equal, worse."""

    wins: int
    ties: int
    losses: int


def count_wins(a: Mapping[str, float], b: Mapping[str, float], decimals: int | None = None) -> Wins:
    """How often a is above b, over the models that both have; equal after rounding is a tie.

    Without `decimals` only scores that rounding of floats tells apart are equal.
    """
    higher = equal = 0
    shared = a.keys() & b.keys()
    for model in shared:
        x, y = a[model], b[model]
        if decimals is not None:
            x, y = round(x, decimals), round(y, decimals)
        tied = x == y or abs(x - y) < _EQUAL  # infinities are equal too
        equal += tied
        higher += x > y and not tied
    return Wins(higher, equal, len(shared) - higher - equal)


def sign_test(counted: Wins) -> float:
    """The one-sided p that a function with as many wins is no better: P(at least so many heads of
    wins + losses coins). Ties are dropped (the paper, section 5). 1 where there are only ties."""
    n = counted.wins + counted.losses
    return sum(math.comb(n, k) for k in range(counted.wins, n + 1)) / 2**n


def fewest_models(level: float = LEVEL) -> int:
    """How many models a one-sided sign test needs to reach p < `level`, all of them won."""
    return math.floor(-math.log2(level)) + 1


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p of each: the chance of any false finding among all is at most the
    level at which they are read."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


# -- how many seeds


def power(difference: float, sd: float, pairs: int, level: float = LEVEL) -> float:
    """The chance that a two-sided paired t test on so many pairs sees a mean difference whose
    standard deviation over pairs is `sd`. Exact for normal differences: t is then noncentral t, and
    its square noncentral F, which scipy computes for any shift."""
    from scipy.stats import ncf, t

    shift = difference / sd * math.sqrt(pairs)
    if abs(shift) < _EQUAL:
        return level
    return float(ncf.sf(t.ppf(1 - level / 2, pairs - 1) ** 2, 1, pairs - 1, shift**2))


def pairs_needed(
    difference: float, sd: float, *, power_wanted: float = POWER, level: float = LEVEL
) -> int | None:
    """The fewest paired seeds that see `difference` with this power; None for no difference.

    `sd` is that of the differences, not of the scores. Where both are estimates from a few seeds,
    so is the answer: it says hundreds or ten, not 41 or 44.
    """
    if abs(difference) < _EQUAL:
        return None
    if abs(difference) >= 1e3 * sd:
        return 2
    enough = 2
    while power(difference, sd, enough, level) < power_wanted:
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if power(difference, sd, middle, level) < power_wanted:
            too_few = middle
        else:
            enough = middle
    return max(2, enough)


def difference_seen(
    pairs: int, sd: float, *, power_wanted: float = POWER, level: float = LEVEL
) -> float:
    """The smallest difference that so many paired seeds (at least 2) see with this power."""
    from scipy.optimize import root_scalar

    if pairs < 2:
        raise ValueError(f"{pairs} paired seeds see no difference; give 2 or more")

    def lacking(difference: float) -> float:
        return power(difference, 1.0, pairs, level) - power_wanted

    return sd * float(root_scalar(lacking, bracket=(0.0, 1e3)).root)


# -- the winner's curse


@dataclass(frozen=True)
class Shrunk:
    """Scores of a search as they are expected on retraining, in the order in which they came.

    `prior_mean`, `prior_sd`: the normal distribution of true scores that fits the head of the
    search; `noise_sd` as given."""

    expected: tuple[float, ...]
    prior_mean: float
    prior_sd: float
    noise_sd: float


def with_usual_seeds(scores: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """Of functions with scores by seed those that have all of the seeds that most have, with no
    others."""
    sets = Counter(frozenset(seeds) for seeds in scores.values())
    usual = max(sets, key=lambda s: (sets[s], len(s)), default=frozenset[int]())
    return {k: {i: v[i] for i in sorted(usual)} for k, v in scores.items() if usual <= v.keys()}


@dataclass(frozen=True)
class Noise:
    """How far one training's score scatters: the estimate of a standard deviation, and with how
    many degrees of freedom it was made."""

    sd: float
    freedom: int

    def reach(self, confidence: float = 0.95) -> float:
        """How far the scores of two trainings of functions that are equally good lie apart at
        most, in a share `confidence` of such pairs: t * sqrt(2) * sd, with Student's t since the
        standard deviation is itself an estimate (1.96 would be 3.18 with 3 degrees of freedom)."""
        from scipy.stats import t

        return float(t.ppf((1 + confidence) / 2, self.freedom)) * math.sqrt(2) * self.sd


def noise(replicates: Sequence[Mapping[int, float]]) -> Noise:
    """How far one training's score scatters, from functions (seed -> score) that share at least two
    seeds.

    What a seed does to all functions alike is taken out where there are several, since a search
    gives all of them the same seed: it moves every score and no rank. n functions and k shared
    seeds leave (n - 1)(k - 1) degrees of freedom; one function leaves k - 1.

    Raises ValueError where they share fewer than two seeds.
    """
    import numpy as np

    shared = sorted(set.intersection(*(set(r) for r in replicates))) if replicates else []
    if len(shared) < 2:
        raise ValueError(
            f"the functions share {len(shared)} seeds; noise is estimated from two or more"
        )
    scores = np.array([[r[seed] for seed in shared] for r in replicates])
    left = scores - scores.mean(axis=1, keepdims=True)
    if len(scores) > 1:
        left -= left.mean(axis=0)
    freedom = max(1, len(scores) - 1) * (len(shared) - 1)
    return Noise(math.sqrt(float((left**2).sum()) / freedom), freedom)


def head_of(n: int) -> int:
    """How many of `n` scores are the head, to which a prior is fitted."""
    return max(SMALLEST_HEAD, math.ceil(n / 4))


def expected_on_retraining(scores: Sequence[float], noise_sd: float) -> Shrunk:
    """What each score of a search, of one training each, is expected to be with another seed.

    The best of many noisy scores is partly luck. True scores are taken as normal, so each is drawn
    towards the prior's mean by the share of its variance that is noise (Efron and Morris 1975;
    Efron 2011 shows that only the density of scores near the one in question matters). So the prior
    is fitted, by maximum likelihood for a distribution cut off below, to the best quarter of the
    scores, at least 10: failures at chance and a long tail of bad functions do not move it. Below
    that quarter the expected scores mean little. Where fewer than a quarter trained at all, leave
    the failures out.

    Raises ValueError below 10 scores, from which no prior can be fitted.
    """
    if len(scores) < SMALLEST_HEAD:
        raise ValueError(f"{len(scores)} scores are too few to say what is luck; give 10 or more")
    if noise_sd == 0:
        return Shrunk(tuple(scores), statistics.fmean(scores), statistics.pstdev(scores), 0.0)
    ranked = sorted(scores)
    kept = head_of(len(scores))
    if kept < len(scores):
        mean, sd = _cut_normal(ranked[-kept:], ranked[-kept - 1], noise_sd)
    else:
        mean = statistics.fmean(scores)
        sd = math.sqrt(max(0.0, statistics.pvariance(scores) - noise_sd**2))
    share = sd**2 / (sd**2 + noise_sd**2)
    return Shrunk(tuple(mean + share * (y - mean) for y in scores), mean, sd, noise_sd)


def _cut_normal(head: Sequence[float], cut: float, noise_sd: float) -> tuple[float, float]:
    """Mean and standard deviation of true scores that make scores above `cut` likeliest:
    score - true score is normal with `noise_sd`, and nothing is known of those below."""
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    middle, variance = statistics.fmean(head), statistics.pvariance(head)
    scale = middle - cut
    if scale < _EQUAL:
        return middle, 0.0

    def minus_log_likelihood(p: Sequence[float]) -> float:
        """Of one score, on average."""
        mean, sd = middle + scale * p[0], math.hypot(noise_sd, scale * math.exp(p[1]))
        squares = (variance + (middle - mean) ** 2) / (2 * sd**2)
        return squares + math.log(sd) + float(log_ndtr((mean - cut) / sd))

    # A head that falls off slowly is fitted by means far below it: there is no bound to reach.
    starts = ((-1.0, 0.0), (-3.0, 1.0))
    fits = [minimize(minus_log_likelihood, start, method="Nelder-Mead") for start in starts]
    best = min(fits, key=lambda fit: fit.fun).x
    return middle + scale * float(best[0]), scale * math.exp(float(best[1]))


# -- correlation


@dataclass(frozen=True)
class Correlation:
    """Pearson's r, its 95 % interval (None where there are too few values), and of how many pairs
    it is."""

    r: float
    low: float | None
    high: float | None
    n: int


def correlation_within(groups: Sequence[Sequence[tuple[float, float]]]) -> Correlation | None:
    """Of pairs, each group's means taken off first, so that groups may differ in both; None where
    one of the two does not vary. The interval is Fisher's, z = atanh(r) +- 1.96 / sqrt(n - g - 2)
    of n pairs in g groups."""
    a: list[float] = []
    b: list[float] = []
    for group in groups:
        for values, into in zip(zip(*group, strict=True), (a, b), strict=True):
            mean = statistics.fmean(values)
            into += [value - mean for value in values]
    if len(a) < 2 or max(map(abs, a)) < 1e-12 or max(map(abs, b)) < 1e-12:
        return None
    r = statistics.correlation(a, b)
    free = len(a) - len(groups) - 2
    if free < 1 or abs(r) >= 1:
        return Correlation(r, None, None, len(a))
    z, half = math.atanh(r), 1.96 / math.sqrt(free)
    return Correlation(r, math.tanh(z - half), math.tanh(z + half), len(a))
