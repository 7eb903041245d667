"""Means with their uncertainty, and differences paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error (None below two values), and how many values it is of."""

    mean: float
    standard_error: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Raises ValueError for no values."""
    if not values:
        raise ValueError("no values to take a mean of")
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error, len(values))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate | None:
    """The mean of a - b over the seeds that both have, or None where they share none."""
    shared = sorted(a.keys() & b.keys())
    return estimate([a[seed] - b[seed] for seed in shared]) if shared else None
