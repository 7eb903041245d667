"""Statistics against enumeration, hand arithmetic, published tables and simulation."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actsearch.results.statistics import (
    Noise,
    Wins,
    count_wins,
    difference_seen,
    estimate,
    expected_on_retraining,
    fewest_models,
    holm,
    interval,
    noise,
    paired_t,
    pairs_needed,
    power,
    sign_test,
    student_t,
    wilcoxon,
)

SMALL = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=7)


def test_mean_standard_error_and_median_of_three_values() -> None:
    found = estimate([1.0, 2.0, 6.0])  # mean 3, variance (4+1+9)/2 = 7, error sqrt(7/3)
    assert (found.mean, found.median, found.n) == (3.0, 2.0, 3)
    assert found.standard_error == pytest.approx((7 / 3) ** 0.5)
    assert estimate([2.0]).standard_error is None


# -- intervals


def test_the_interval_of_three_differences_is_students() -> None:
    found = interval([1.0, 2.0, 6.0])
    assert found is not None
    reach = 4.302653 * math.sqrt(7 / 3)  # the printed table of t: 0.975, 2 degrees of freedom
    assert (found.low, found.high) == pytest.approx((3 - reach, 3 + reach), rel=1e-6)
    assert found.method == "Student's t"


def test_an_interval_needs_two_values_that_differ() -> None:
    assert interval([0.5]) is None
    assert interval([0.1 + 0.2, 0.3, 0.3]) is None


def test_the_bootstrap_interval_of_six_is_that_of_all_resamples() -> None:
    values = [0.3, -0.1, 0.25, 0.9, 0.4, 0.2]
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(6)
    ratios = []
    for resample in itertools.product(values, repeat=6):
        middle = sum(resample) / 6
        squares = sum((v - middle) ** 2 for v in resample)
        away = middle - mean
        spread = math.sqrt(squares / 5 / 6)
        ratios.append(away / spread if spread > 1e-9 else math.copysign(math.inf, away))
    ratios.sort()
    least, most = (ratios[math.ceil(q * 6**6) - 1] for q in (0.025, 0.975))
    found = interval(values)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((mean - most * error, mean - least * error))
    assert found.method == "bootstrap t"


@pytest.mark.parametrize("n", [3, 6, 10])
def test_an_interval_is_the_same_each_time_in_any_order_and_moves_with_its_values(n: int) -> None:
    values = list(np.random.default_rng(n).exponential(size=n))
    found, again = interval(values), interval(values[::-1])
    assert found == again
    moved = interval([10 + 2 * v for v in values])
    assert found is not None
    assert moved is not None
    assert (moved.low, moved.high) == pytest.approx((10 + 2 * found.low, 10 + 2 * found.high))


def test_values_of_which_most_are_equal_get_students_interval() -> None:
    found = interval([0.0] * 6 + [0.1])  # a third of all resamples have no spread
    assert found is not None
    assert found.method == "Student's t"


@pytest.mark.parametrize(
    ("n", "skewed", "least"), [(3, False, 0.93), (5, True, 0.84), (7, True, 0.90), (10, True, 0.91)]
)
def test_intervals_cover_the_mean_nearly_as_often_as_they_say(
    n: int, skewed: bool, least: float
) -> None:
    """Of 400: the standard error of a coverage of 0.93 is 0.013."""
    rng = np.random.default_rng(n)
    samples = rng.exponential(size=(400, n)) - 1 if skewed else rng.normal(size=(400, n))
    found = [interval(sample.tolist()) for sample in samples]
    covered = statistics.fmean(i is not None and i.low <= 0 <= i.high for i in found)
    assert least <= covered <= 0.98


# -- tests


def enumerated(paired: list[float]) -> float:
    """The signed-rank p by all sign patterns, of ranks counted one by one."""
    sizes = [abs(d) for d in paired]
    ranks = [sum(b < a for b in sizes) + (1 + sum(b == a for b in sizes)) / 2 for a in sizes]
    seen = sum(r for r, d in zip(ranks, paired, strict=True) if d > 0)
    sums = [
        sum(itertools.compress(ranks, signs))
        for signs in itertools.product((0, 1), repeat=len(paired))
    ]
    below = sum(s <= seen for s in sums) / len(sums)
    above = sum(s >= seen for s in sums) / len(sums)
    return min(1.0, 2 * min(below, above))


@settings(max_examples=200, deadline=None)
@given(SMALL)
def test_wilcoxon_is_the_share_of_sign_patterns_with_ties_and_without_zeros(
    paired: list[float],
) -> None:
    kept = [d for d in paired if d]
    assert wilcoxon(paired) == (pytest.approx(enumerated(kept)) if kept else None)


def test_the_paired_t_test_is_students() -> None:
    t = 3 / math.sqrt(7 / 3)  # of a mean of 3; with 2 degrees of freedom p has a closed form
    assert paired_t([1.0, 2.0, 6.0]) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert paired_t([-1.0, -2.0, -6.0]) == pytest.approx(paired_t([1.0, 2.0, 6.0]))
    low, _ = student_t([1.0, 2.0, 6.0], 1 - 0.123)
    p = paired_t([value - low for value in (1.0, 2.0, 6.0)])
    assert p == pytest.approx(0.123)  # at the end of an interval
    assert paired_t([0.5]) is paired_t([0.1 + 0.2, 0.3, 0.3]) is None


def test_wilcoxon_agrees_with_scipy_where_scipy_is_exact() -> None:
    from scipy import stats

    paired = np.random.default_rng(0).normal(0.3, 1, 25)
    assert wilcoxon(paired) == pytest.approx(stats.wilcoxon(paired, method="exact").pvalue)


@pytest.mark.parametrize(("n", "least"), [(3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125)])
def test_the_least_p_of_wilcoxon_is_what_its_docstring_says(n: int, least: float) -> None:
    assert wilcoxon([0.1 * (i + 1) for i in range(n)]) == least


def test_differences_that_only_rounding_tells_apart_are_tied_in_wilcoxon() -> None:
    exact = wilcoxon([1.0, 1.0, -1.0, 3.0])
    assert wilcoxon([0.91 - 0.90, 0.82 - 0.81, 0.30 - 0.31, 0.13 - 0.10]) == exact
    assert wilcoxon([0.1 + 0.2 - 0.3]) is None


def test_the_sign_tests_of_the_paper_from_its_counts() -> None:
    """Table 3: binomial sums by hand, such as (1 + 6 + 0) / 64 and 4 / 64."""
    assert sign_test(Wins(9, 0, 0)) == 1 / 512
    assert sign_test(Wins(6, 3, 0)) == 1 / 64
    assert sign_test(Wins(7, 1, 1)) == 9 / 256
    assert sign_test(Wins(6, 2, 1)) == 8 / 128
    assert sign_test(Wins(0, 4, 0)) == 1.0


@pytest.mark.parametrize(("wins", "losses"), [(0, 3), (2, 5), (4, 4), (8, 1)])
def test_the_sign_test_is_the_share_of_coins(wins: int, losses: int) -> None:
    n = wins + losses
    coins = itertools.product((0, 1), repeat=n)
    assert sign_test(Wins(wins, 7, losses)) == sum(sum(c) >= wins for c in coins) / 2**n


def test_fewest_models_is_where_the_sign_test_first_passes() -> None:
    for level in (0.05, 0.05 / 3, 0.25, 0.001):
        n = fewest_models(level)
        assert sign_test(Wins(n, 0, 0)) < level <= sign_test(Wins(n - 1, 0, 0))


def test_wins_are_counted_on_shared_models_and_rounding_makes_ties() -> None:
    a = {"m": 0.94, "n": 0.954, "o": (0.91 + 0.93) / 2, "only a": 1.0}
    b = {"m": 0.93, "n": 0.951, "o": 0.92, "only b": 0.0}
    assert count_wins(a, b) == Wins(2, 1, 0)
    assert count_wins(b, a) == Wins(0, 1, 2)
    assert count_wins(a, b, decimals=2) == Wins(1, 2, 0)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, made monotone
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_finds_something_false_in_at_most_one_family_in_twenty() -> None:
    families = np.random.default_rng(0).random((2000, 7))
    false = statistics.fmean(min(holm(p.tolist())) < 0.05 for p in families)
    assert 0.035 < false < 0.06


# -- how many seeds


@pytest.mark.parametrize(
    ("difference", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (-0.8, 15), (1e-4, 784886053)]
)
def test_pairs_needed_are_those_of_the_published_tables(difference: float, pairs: int) -> None:
    """Cohen's small, medium and large effect, as G*Power gives them. For the last, the normal
    approximation (1.959964 + 0.841621)**2 / d**2 to seven digits."""
    assert pairs_needed(difference, 1.0) == pytest.approx(pairs, rel=1e-7)
    assert pairs_needed(3 * difference, 3.0) == pairs_needed(difference, 1.0)


@pytest.mark.parametrize(("difference", "pairs"), [(3.0, 3), (1.0, 8), (0.0, 5), (0.6, 20)])
def test_power_is_the_share_of_simulated_t_tests(difference: float, pairs: int) -> None:
    from scipy import stats

    samples = np.random.default_rng(pairs).normal(difference, 1, (20_000, pairs))
    seen = float((stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean())
    assert power(difference, 1.0, pairs) == pytest.approx(seen, abs=0.012)


@pytest.mark.parametrize("pairs", [2, 3, 5, 10, 100])
def test_the_difference_seen_needs_just_these_pairs(pairs: int) -> None:
    seen = difference_seen(pairs, 0.01)
    assert pairs_needed(seen * 1.0001, 0.01) == pairs
    assert pairs_needed(seen * 0.999, 0.01) == pairs + 1


def test_no_difference_needs_no_number_of_pairs_and_no_noise_two() -> None:
    assert pairs_needed(0.0, 0.01) is None
    assert pairs_needed(0.01, 0.0) == 2
    with pytest.raises(ValueError, match="give 2 or more"):
        difference_seen(1, 0.01)


# -- the winner's curse


def best_of_searches(
    functions: int, failing: float, skewed: bool, noise: float, searches: int = 100
) -> tuple[float, float]:
    """Mean error of the best score, raw and shrunk, in units of the noise, over made-up searches
    of functions with known true accuracies around 0.9, of which a share fails at chance."""
    rng = np.random.default_rng(0)
    raw, shrunk = [], []
    for _ in range(searches):
        spread = -rng.exponential(size=functions) if skewed else rng.normal(size=functions)
        true = np.where(rng.random(functions) < failing, 0.1, 0.9 + 0.01 * spread)
        scores = true + noise * rng.normal(size=functions)
        best = int(scores.argmax())
        raw.append(scores[best] - true[best])
        shrunk.append(expected_on_retraining(scores.tolist(), noise).expected[best] - true[best])
    return statistics.fmean(raw) / noise, statistics.fmean(shrunk) / noise


@pytest.mark.parametrize(
    ("functions", "failing", "skewed", "noise"),
    [
        (100, 0.4, False, 0.01),
        (100, 0.2, True, 0.01),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                (100, 0.0, False, 0.01),
                (100, 0.7, False, 0.005),
                (400, 0.0, False, 0.015),
                (40, 0.0, False, 0.01),
            )
        ),
    ],
)
def test_the_best_of_many_is_worth_what_its_shrunk_score_says_and_less_than_its_raw_one(
    functions: int, failing: float, skewed: bool, noise: float
) -> None:
    """With 100 searches the standard error of a mean error is about 0.1 of the noise."""
    raw, shrunk = best_of_searches(functions, failing, skewed, noise)
    assert raw > 0.8
    assert abs(shrunk) < 0.3


def test_normal_scores_shrink_by_the_share_of_their_variance_that_is_noise() -> None:
    """Of 20,000: true scores N(0.9, 0.02), noise 0.01, so four fifths of a distance are real."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0.9, math.hypot(0.02, 0.01), 20_000).tolist()
    found = expected_on_retraining(scores, 0.01)
    assert found.prior_mean == pytest.approx(0.9, abs=0.005)
    assert found.prior_sd == pytest.approx(0.02, abs=0.002)
    best = max(scores)
    assert max(found.expected) == pytest.approx(0.9 + 0.8 * (best - 0.9), abs=0.003)


def test_scores_that_differ_by_noise_alone_are_all_expected_to_be_the_same() -> None:
    scores = np.random.default_rng(1).normal(0.9, 0.01, 200).tolist()
    expected = expected_on_retraining(scores, 0.01).expected
    assert max(expected) - 0.9 < 0.4 * (max(scores) - 0.9)
    equal = expected_on_retraining([0.5] * 40, 0.01)
    assert set(equal.expected) == {0.5}


def test_without_noise_scores_stand_and_order_is_kept_with_it() -> None:
    scores = np.random.default_rng(2).random(40).tolist()
    assert list(expected_on_retraining(scores, 0.0).expected) == scores
    shrunk = expected_on_retraining(scores, 0.02).expected
    assert np.argsort(shrunk).tolist() == np.argsort(scores).tolist()


def test_few_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="9 scores are too few"):
        expected_on_retraining([0.5] * 9, 0.01)


def test_noise_by_hand_without_what_a_seed_does_to_all() -> None:
    # rows lose their means: (-1, 1), (-2, 2); columns theirs: (.5, -.5), (-.5, .5); 4 * .25 / 1
    assert noise([{0: 4.0, 1: 6.0}, {0: 1.0, 1: 5.0, 2: 9.0}]) == Noise(1.0, 1)
    assert noise([{0: 4.0, 1: 6.0}]).sd == pytest.approx(math.sqrt(2))
    for unusable in ([], [{0: 1.0}], [{0: 1.0, 1: 2.0}, {1: 2.0, 2: 3.0}]):
        with pytest.raises(ValueError, match="two or more"):
            noise(unusable)


def test_noise_is_found_again_in_simulated_replicates() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 1)) + 5 * rng.normal(size=(1, 5)) + rng.normal(0, 0.1, (200, 5))
    found = noise([dict(enumerate(row)) for row in scores.tolist()])
    assert found.sd == pytest.approx(0.1, rel=0.08)
    assert found.freedom == 199 * 4


def test_equally_good_functions_are_within_the_noise_as_often_as_it_says() -> None:
    """The printed table of t has 3.182446 for 0.975 and 3 degrees of freedom. Of 2,000 made-up
    searches two functions are compared by noise from two functions and four seeds; with 1.96 some
    85 % would be within it."""
    assert Noise(0.5, 3).reach() == pytest.approx(3.182446 * math.sqrt(2) * 0.5, rel=1e-6)
    rng = np.random.default_rng(0)
    within = [
        abs(float(rng.normal() - rng.normal()))
        <= noise([dict(enumerate(row)) for row in rng.normal(size=(2, 4)).tolist()]).reach()
        for _ in range(2_000)
    ]
    assert 0.935 < statistics.fmean(within) < 0.965
