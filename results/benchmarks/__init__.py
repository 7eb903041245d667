"""Spaces as data, trained whole or as far as they are: the functions of a space with their
accuracies, and what training some of them again gave. `benchmarks/one_unit_table.py` writes the
files beside this one.

    from actsearch.results.benchmarks import load_benchmark
    table = load_benchmark("one-unit")        # a pandas DataFrame, best first
    table.attrs["provenance"]                 # settings, versions, commits, hardware

A row of a space's table is a function, trained once with the search's seed:

    rank                      of the accuracy, 1 for the best
    formula, expression       as people write it; as the search names it, in its plainest spelling
    name                      of a baseline, or ""
    status, reason            ok or diverged, and why
    accuracy                  on the validation split, a fraction of 1; of the whole training
    accuracy@0.25, ...        of trainings of their own for that share of the steps, where there are
    loss at 100               training loss on the way, the mean of ten steps; 20, 50, 100, 200
    seconds, ms per step      of a training on a core
    again accuracy, again     the mean of trainings with other seeds, and how many there are
    raw x                     whether the grammar can write it as b(x, g(x)) or b(g(x), x)
    symmetry                  functions alike up to scale, shift, sign, and reflection share one
    smooth, monotonic, ...    properties, as in `actsearch top`

A row of the table that ends in `-again` is a training: formula, expression, name, protocol, child,
dataset, steps, lr, seed, status, accuracy, test accuracy, seconds.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ONE_UNIT = "one-unit"
BENCHMARKS = {
    ONE_UNIT: "one_unit.parquet",
    f"{ONE_UNIT}-again": "one_unit_again.parquet",
}


def load_benchmark(name: str = ONE_UNIT) -> pd.DataFrame:
    """One of BENCHMARKS, with its `attrs["provenance"]`. Raises ValueError for another name."""
    import pandas as pd

    if name not in BENCHMARKS:
        raise ValueError(f"unknown table {name!r}; known: {', '.join(BENCHMARKS)}")
    with as_file(files(__name__) / BENCHMARKS[name]) as path:
        return pd.read_parquet(path)
