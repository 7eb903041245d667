"""Write the tables of `results/benchmarks`, whose columns are described there.

    python benchmarks/one_unit_table.py RUN [--rung 0.25=RUN] --commit HASH --hardware TEXT

RUN trained a space, each of `--rung` the same space with a share of its steps; RUN's re-evaluations
make the second table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from actsearch.results.benchmarks import BENCHMARKS, SPACE_OF
from actsearch.run import Run
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.candidate import OneFunction, candidate_from
from actsearch.search_space.expression import Expr, formula
from actsearch.search_space.parser import parse
from actsearch.search_space.space import everything
from actsearch.studies.known_results import Table, table_from

STEPS = (20, 40, 50, 100, 200, 400)  # at which a training loss is kept: the mean of the last ten
ENDED = ("ok", "diverged")  # the others are no results of a function


def tables(run: Run, shares: dict[str, Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The run's functions, best first, and its further trainings."""
    store = run.store(readonly=True)
    # First: the run may go on meanwhile.
    tried = (row for row in store.rows("search") if row["candidate"])
    searched = [row for row in tried if row["status"] not in (None, "rejected")]
    table = table_from(run.path)
    spellings = all_spellings(table)
    plain = plainest(table, spellings)
    again = trained_again(run, plain)
    score = run.metric.name
    rungs = {f"{score}@{share}": rung(other) for share, other in shares.items()}
    same = again[(again["protocol"] == searched[0]["protocol"]) & again["status"].isin(ENDED)]
    worst = {score: 0.0} if run.metric.fraction else {}
    by_function = same.fillna(worst).groupby("expression")[score]
    means, counts = by_function.mean().to_dict(), by_function.count().to_dict()
    rows = []
    for row in searched:
        expr = plain(row["expression"])
        properties = json.loads(row["properties"] or "{}") | {"operators": expr.operators}
        curve = store.curve(row["id"])
        rows.append(
            {
                "rank": None,
                "formula": formula(expr),
                "expression": str(expr),
                "name": row["label"],
                "status": row["status"],
                "reason": row["reason"],
                score: row["val_score"],
                **{name: known(expr) for name, known in rungs.items()},
                **{f"loss at {step}": loss_at(curve, step) for step in STEPS},
                "seconds": row["seconds"],
                "ms per step": row["ms_per_step"],
                f"again {score}": means.get(str(expr), float("nan")),
                "again": counts.get(str(expr), 0),
                "raw x": any(map(takes_raw_x, spellings[row["expression"]])),
                "symmetry": row["symmetry"] or "",
                **properties,
            }
        )
    store.close()
    lower = run.metric.lower
    frame = pd.DataFrame(rows).sort_values(
        [score, "expression"], ascending=[lower, True], na_position="last", ignore_index=True
    )
    frame["rank"] = frame[score].rank(method="min", ascending=lower)
    longer = [f"loss at {step}" for step in STEPS if frame[f"loss at {step}"].isna().all()]
    return frame.drop(columns=longer), again


def all_spellings(table: Table) -> dict[str, list[Expr]]:
    """What the grammar can write of each function of the table, and what was trained: max(abs(x),
    atan(x)) is abs(x)."""
    written = list(everything(table.space))
    found: dict[str, list[Expr]] = {c.key: [*c.functions] for c in table.rewards}
    for candidate, row in zip(written, table.rows(written), strict=True):
        if row is not None:
            found[row.key] += candidate.functions
    return found


def plainest(table: Table, spellings: Mapping[str, Sequence[Expr]]) -> Callable[[str], Expr]:
    """The shortest spelling of a function, or itself where the table does not have it."""

    def plain(expression: str) -> Expr:
        expr = parse(expression)
        [row] = table.rows([OneFunction(expr)])
        known = [expr] if row is None else spellings[row.key]
        forms = {canonical(e, table.operators) for e in known}
        return min(forms, key=lambda e: (e.operators, len(str(e)), str(e)))

    return plain


def takes_raw_x(expr: Expr) -> bool:
    """Whether it is b(x, g(x)) or b(g(x), x)."""
    return expr.op.arity == 2 and any(arg.op.name == "x" for arg in expr.args)


def rung(run: Run) -> Callable[[Expr], float | None]:
    """The scores of a run with a share of the steps, whatever its spellings."""
    table = table_from(run.path)

    def known(expr: Expr) -> float | None:
        [name] = table.named([str(expr)])  # raises where it was not trained
        reward = table.rewards[candidate_from(name)][1.0]
        return None if reward is None else table.metric.reward(reward)

    return known


def trained_again(run: Run, plain: Callable[[str], Expr]) -> pd.DataFrame:
    score = run.metric.name
    rows = [
        {
            "formula": formula(plain(row["expression"])),
            "expression": str(plain(row["expression"])),
            "name": row["label"],
            "protocol": row["protocol"],
            "child": row["child"],
            "dataset": row["dataset"],
            "steps": row["recipe"]["steps"],
            "lr": row["recipe"]["lr"],
            "seed": row["seed"],
            "status": row["status"],
            score: row["val_score"],
            f"test {score}": row["test_score"],
            "seconds": row["seconds"],
        }
        for row in run.reevaluations()
    ]
    columns = ["formula", "expression", "name", "protocol", "child", "dataset", "steps", "lr",
               "seed", "status", score, f"test {score}", "seconds"]  # fmt: skip
    order = ["child", "dataset", "steps", "lr", "protocol", "expression", "seed"]
    frame = pd.DataFrame(rows, columns=columns).sort_values(order)
    # Two spellings of a function may have been named by hand.
    return frame.drop_duplicates(["protocol", "expression", "seed"], ignore_index=True)


def loss_at(curve: Sequence[tuple[int, float]], step: int, last: int = 10) -> float | None:
    near = [loss for s, loss in curve if step - last < s <= step]
    return float(np.mean(near)) if near and curve[-1][0] >= step else None


def write(given: argparse.Namespace) -> None:
    run = Run.open(given.run)
    shares = {share: Run.open(path) for share, path in (text.split("=", 1) for text in given.rung)}
    config = run.config
    provenance = {
        "metric": run.metric.to_config(),
        "commits": given.commit,
        "hardware": given.hardware,
        "protocol": config["identity"]["protocol"],
        "protocol hash": next(r["protocol"] for r in run.rows()),
        "search": {k: config["settings"][k] for k in ("space", "strategy", "seed", "workers")},
        "data": config.get("data"),
        "versions": config["environment"],
        "counts": run.counts(),
    }
    names = given.name, f"{given.name}-again"
    for name, frame in zip(names, tables(run, shares), strict=True):
        frame.attrs["provenance"] = provenance
        path = Path(given.output, BENCHMARKS[name])
        frame.to_parquet(path, compression="zstd", index=False)
        print(f"{path}: {len(frame):,} rows, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("name", choices=SPACE_OF)
    parser.add_argument("--rung", nargs="*", default=[], metavar="SHARE=RUN")
    parser.add_argument("--commit", nargs="+", required=True, help="of the code that trained")
    parser.add_argument("--hardware", required=True)
    parser.add_argument("-o", "--output", default="results/benchmarks")
    write(parser.parse_args())


if __name__ == "__main__":
    main()
