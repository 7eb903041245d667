"""How often intervals cover the true mean: those of `results/statistics.py`, and others.

    python benchmarks/intervals.py --samples 20000

Samples of n values from a normal, an exponential and a coarse normal distribution (steps of a third
of its standard deviation, as accuracies on few images are), each with 95 % intervals for the mean.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from actsearch.results.statistics import bootstrap_t, student_t

Ends = tuple[float, float]


def _studentised(values: Sequence[float]) -> Ends:
    return bootstrap_t(sorted(values)) if min(values) < max(values) else (math.nan, math.nan)


def _scipy(method: str) -> Callable[[Sequence[float]], Ends]:
    def ends(values: Sequence[float]) -> Ends:
        if min(values) == max(values):
            return math.nan, math.nan
        found = stats.bootstrap(
            (values,), np.mean, method=method, n_resamples=999, rng=np.random.default_rng(0)
        ).confidence_interval
        return float(found.low), float(found.high)

    return ends


METHODS: dict[str, Callable[[Sequence[float]], Ends]] = {
    "Student's t": student_t,
    "studentised": _studentised,
    "percentile": _scipy("percentile"),
    "BCa": _scipy("BCa"),
}

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n) - 1,
    "coarse": lambda rng, n: np.round(3 * rng.normal(size=n)) / 3,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2_000)
    samples = parser.parse_args().samples
    print(f"coverage of 95 % intervals (median width), {samples:,} samples each")
    print(f"{'n':>3} {'':12}" + "".join(f"{name:>18}" for name in METHODS))
    for n in (3, 4, 5, 6, 10, 20):
        for name, draw in DISTRIBUTIONS.items():
            cells = []
            for method in METHODS.values():
                rng = np.random.default_rng(n)
                ends = np.array([method(draw(rng, n).tolist()) for _ in range(samples)])
                covered = np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0))
                width = np.nanmedian(ends @ [-1, 1])
                cells.append(f"{covered:>11.3f} ({width:4.2f})")
            print(f"{n:>3} {name:12}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
