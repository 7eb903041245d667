"""Whether a table that ships can be had again: a random sample of its rows, trained as it says.

    python benchmarks/trained_again.py lm-one-unit --data stdlib [--rows 20] [--into ROWS.jsonl]
    python benchmarks/trained_again.py one-unit --data CIFAR10.npz

The data have to be the table's: its digest is compared, and that of the text of Python's library
depends on Python's version (`stdlib:library=FOLDER` names another). The child, the recipe and the
seed are the table's. Rows are drawn with seed 0 among those that ended well; `--into` keeps what
was trained, one JSON object a line, and goes on from there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from fair_child import results, spearman

from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.results.benchmarks import load_benchmark
from actsearch.results.metrics import METRICS
from actsearch.results.records import Trial
from actsearch.results.tables import to_markdown

OPERATORS = "guarded"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--data", required=True, help="as `actsearch search --dataset` takes them")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--into", type=Path, help="where trainings are kept")
    given = parser.parse_args()
    table = load_benchmark(given.table)
    said = table.attrs["provenance"]
    metric = METRICS[said.get("metric", "accuracy")]
    well = table[table["status"] == "ok"]
    chosen = well.iloc[np.random.default_rng(0).choice(len(well), given.rows, replace=False)]
    known = {row["expression"]: row for row in results(given.into)} if given.into else {}
    missing = any(expression not in known for expression in chosen["expression"])
    evaluator = tables_own(said["protocol"], given.data) if missing else None
    found = []
    for expression, stored in zip(chosen["expression"], chosen[metric.name], strict=True):
        if evaluator is not None and expression not in known:
            trial = Trial(
                0, "reevaluate", expression, evaluator.protocol_hash, said["search"]["seed"]
            )
            outcome = evaluator(trial)
            known[expression] = {"expression": expression, "score": outcome.val_score}
            if given.into:
                with given.into.open("a") as file:
                    file.write(json.dumps(known[expression]) + "\n")
        found.append((expression, stored, known[expression]["score"]))
    say(given.table, metric.name, found)


def tables_own(protocol: dict[str, Any], data: str) -> Evaluator:
    """Exits where the data are others."""
    evaluator = Evaluator(load(data), child_from(protocol["child"]), Recipe(**protocol["recipe"]))
    mine, digest = evaluator.protocol["dataset_digest"], protocol["dataset_digest"]
    if mine != digest:
        raise SystemExit(f"{data} has the digest {mine}; the table was trained on {digest}")
    return evaluator


def say(name: str, score: str, found: list[tuple[str, float, float | None]]) -> None:
    rows = [
        {"function": e, "in the table": f"{old:.4f}", "again": "" if new is None else f"{new:.4f}",
         "difference": "" if new is None else f"{new - old:+.4f}"}
        for e, old, new in found
    ]  # fmt: skip
    print(f"{name}, {score}, {len(found)} random rows:\n")
    print(to_markdown(rows))
    both = np.array([(old, new) for _, old, new in found if new is not None])
    off = both[:, 1] - both[:, 0]
    print(f"equal to four digits: {np.sum(np.abs(off) < 5e-5)} of {len(found)}")
    print(f"difference: mean {off.mean():+.4f}, standard deviation {off.std(ddof=1):.4f}, "
          f"largest {np.abs(off).max():.4f}")  # fmt: skip
    print(f"Spearman: {float(spearman(both[None])[0]):.3f}")


if __name__ == "__main__":
    main()
