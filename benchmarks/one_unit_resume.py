"""Give a run the trainings of the tables in `results/benchmarks`, so that it goes on from there.

    actsearch search one-unit --space one-unit --strategy random --dataset cifar10.npz \\
        --child resnet8:width=8,size=16 --steps 300 --budget 1
    python benchmarks/one_unit_resume.py one-unit

After that the same search with --budget 10000 trains what the tables do not have yet. Of a training
on the way the tables know four losses, and so does the run.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from typing import Any

import pandas as pd
from one_unit_table import STEPS

from actsearch.child_models.evaluate import hash_of
from actsearch.results.benchmarks import BENCHMARKS, load_benchmark
from actsearch.results.records import Outcome
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.search_space.analysis.survey import describe_all
from actsearch.search_space.expression import formula
from actsearch.search_space.parser import parse
from actsearch.searching.identity import Level, submit_function
from actsearch.studies.known_results import table_from


def resume(run: Run, table: pd.DataFrame, again: pd.DataFrame) -> dict[str, int]:
    """How many searched functions and further trainings the run was given."""
    provenance = table.attrs["provenance"]
    identity = run.config["identity"]
    if identity["protocol"] != provenance["protocol"]:
        raise SystemExit(
            f"{run.path} trains by another protocol than the table:\n{identity['protocol']}\n"
            f"{provenance['protocol']}"
        )
    with run.locked():
        store = run.store()
        try:
            with store.transaction():
                level = Level("search", hash_of(provenance["protocol"]))
                return {
                    "functions": searched(store, missing(table, run), level, identity["seed"]),
                    "further trainings": trained_again(store, again, provenance["protocol"]),
                }
        finally:
            store.close()


def missing(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Without what the run has trained, maybe in another spelling."""
    known = table_from(run.path).rows(map(parse, table["expression"]))
    return table[[row is None for row in known]]


def searched(store: Store, table: pd.DataFrame, level: Level, seed: int) -> int:
    exprs = [parse(text) for text in table["expression"]]
    rows = table.to_dict("records")
    new = 0
    for row, function in zip(rows, describe_all(exprs), strict=True):
        trial = submit_function(store, function, level, seed, row["name"])
        outcome = Outcome(
            row["status"],
            row["reason"],
            val_score=number(row["accuracy"]),
            curve=tuple((s, at) for s in STEPS if (at := number(row[f"loss at {s}"])) is not None),
            seconds=row["seconds"],
            ms_per_step=number(row["ms per step"]),
        )
        new += store.record(trial, outcome)
    return new


def trained_again(store: Store, again: pd.DataFrame, protocol: dict[str, Any]) -> int:
    new = 0
    for row in again.to_dict("records"):
        described = deepcopy(protocol) | {"child": row["child"]}
        described["recipe"] |= {"steps": row["steps"], "lr": row["lr"]}
        if hash_of(described) != row["protocol"]:
            raise SystemExit(f"{row['formula']} was trained again by an unknown protocol")
        store.add_protocol(row["protocol"], described)
        expr = parse(row["expression"])
        trial = store.submit(
            "reevaluate", str(expr), row["protocol"], row["seed"],
            formula=formula(expr), label=row["name"],
        )  # fmt: skip
        outcome = Outcome(
            row["status"],
            val_score=number(row["accuracy"]),
            test_score=number(row["test accuracy"]),
            seconds=row["seconds"],
        )
        new += store.record(trial, outcome)
    return new


def number(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    run, tables = Run.open(parser.parse_args().run), map(load_benchmark, BENCHMARKS)
    for what, count in resume(run, *tables).items():
        print(f"{count:,} {what}")


if __name__ == "__main__":
    main()
