"""How fast functions are compared, and how many trainings that saves.

    python benchmarks/equivalence.py [--repeats 5] [--json FILE]

One thread. Each figure is the median of the repeats, with their range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actsearch.search_space.analysis.equivalence import _canonical, canonical
from actsearch.search_space.analysis.fingerprint import fingerprints
from actsearch.search_space.analysis.screening import screens
from actsearch.search_space.candidate import OneFunction
from actsearch.search_space.space import SPACES
from actsearch.search_space.survey import survey
from actsearch.search_space.units import digit_keys

CANDIDATES = 100_000  # of the two-unit space
PIECE = 5_000


def timed(work: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that is not counted."""
    work()
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def shown(seconds: list[float], scale: float = 1.0, unit: str = "s") -> str:
    low, high = min(seconds) * scale, max(seconds) * scale
    return f"{statistics.median(seconds) * scale:,.2f} {unit} ({low:,.2f} to {high:,.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    exprs = list(SPACES["one-unit"])

    def all_canonical() -> None:
        _canonical.cache_clear()
        for expr in exprs:
            canonical(expr)

    results: dict[str, Any] = {
        "canonical forms of 6,250": timed(all_canonical, options.repeats),
        "values and screens of 6,250": timed(lambda: list(screens(exprs)), options.repeats),
        "values and fingerprints of 6,250": timed(
            lambda: list(fingerprints(exprs)), options.repeats
        ),
    }
    for name, seconds in results.items():
        print(f"{name:<34} {shown(seconds)}")

    space, rng = SPACES["two-units"], np.random.default_rng(0)
    digits = np.stack([rng.integers(0, r, CANDIDATES) for r in space.radices], 1)

    def all_keys() -> None:
        for start in range(0, CANDIDATES, PIECE):
            digit_keys(space, digits[start : start + PIECE])

    seconds = timed(all_keys, options.repeats)
    results["two-unit keys a second"] = [CANDIDATES / s for s in seconds]
    rate = [CANDIDATES / s / 1e3 for s in seconds]
    print(f"{'two-unit keys':<34} {shown(rate, unit='thousand/s')}")

    found = survey(map(OneFunction, exprs))
    repeated = found.raw - len(found.distinct) - found.rejected.total()
    by_rule = repeated - len(found.merged)
    print(
        f"one unit: {found.raw:,} candidates, {found.rejected.total():,} rejected, "
        f"{len(found.distinct):,} to train, {found.symmetry_classes:,} symmetry classes\n"
        f"merged: {repeated:,} ({repeated / found.raw:.1%}), "
        f"{by_rule / repeated:.1%} of them by rule, {len(found.merged):,} by fingerprint alone"
    )
    results["survey"] = {
        "raw": found.raw,
        "rejected": dict(found.rejected),
        "distinct": len(found.distinct),
        "symmetry_classes": found.symmetry_classes,
        "merged_by_fingerprint": len(found.merged),
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
