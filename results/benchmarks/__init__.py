"""Spaces as data: the functions of a space with their scores in a child, and what training some of
them again gave. `benchmarks/shipped_table.py` writes the files beside this one.

    from actsearch.results.benchmarks import load_benchmark
    table = load_benchmark("one-unit")        # a pandas DataFrame, best first
    table.attrs["provenance"]                 # settings, versions, commits, hardware

`one-unit` is the space of that name in a ResNet-8 on CIFAR-10 (docs/one_unit.md), `lm-one-unit` the
same in a GPT on the standard library of Python (docs/studies/lm_one_unit.md). A row is a function,
trained once with the search's seed; its score is `accuracy` or `bits per byte`:

    rank                      of the score, 1 for the best
    formula, expression       as people write it; as the search names it, in its plainest spelling
    name                      of a baseline, or ""
    status, reason            ok or diverged, and why
    accuracy                  on the validation split, a fraction of 1; of the whole training
    accuracy@0.25, ...        of trainings of their own for that share of the steps, where there are
    loss at 100               training loss on the way, the mean of ten steps; 20, 50, 200, ...
    seconds, ms per step      of a training, beside others of the search
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

from actsearch.results.metrics import ACCURACY, Metric, metric_from

if TYPE_CHECKING:
    import pandas as pd

ONE_UNIT = "one-unit"
LM_ONE_UNIT = "lm-one-unit"
# Of which space a table is, by its name.
SPACE_OF = {ONE_UNIT: "one-unit", LM_ONE_UNIT: "one-unit"}
BENCHMARKS = {
    name: f"{name.replace('-', '_')}.parquet"
    for table in SPACE_OF
    for name in (table, f"{table}-again")
}


def load_benchmark(name: str = ONE_UNIT) -> pd.DataFrame:
    """One of BENCHMARKS, with its `attrs["provenance"]`. Raises ValueError for another name."""
    import pandas as pd

    if name not in BENCHMARKS:
        raise ValueError(f"unknown table {name!r}; known: {', '.join(BENCHMARKS)}")
    with as_file(files(__name__) / BENCHMARKS[name]) as path:
        return pd.read_parquet(path)


def metric_of(table: pd.DataFrame) -> Metric:
    """Of its scores."""
    return metric_from(table.attrs["provenance"].get("metric", ACCURACY))
