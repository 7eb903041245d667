"""What `actsearch experiment claims` found: docs/studies/claims.md.

    actsearch experiment claims RUN
    python benchmarks/claims.py keep RUN docs/data/claims.jsonl    # its trainings, without the run
    python benchmarks/claims.py say [docs/data/claims.jsonl]

A row of the file is a function in a child, as published or matched: the rate that its sweep chose,
its test scores by seed, the first failure. `say` leaves out forms in which not all functions have
as many seeds as any has, since the correction by Holm is over all of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fair_child import results

from actsearch.results.metrics import ACCURACY, METRICS, Metric
from actsearch.results.tables import Row, to_markdown
from actsearch.run import Run
from actsearch.search_space.expression import formula
from actsearch.search_space.parser import parse
from actsearch.studies.judging import Cell, Setting, judged, verdicts
from actsearch.studies.published import ExperimentOptions
from actsearch.studies.replicated import FIRST_SEED, SEEDS, SITES
from actsearch.studies.replication import cells_of, forms_of, settings_of

DATA = Path(__file__).parent.parent / "docs" / "data" / "claims.jsonl"
OF = {"gpt": METRICS["bits per byte"], "pinn": Metric("error", "min")}  # the others classify
SHOWN = ("name", "lr", "mean", "by", "from", "to", "p, Holm", "n", "verdict", "x relu", "note")


def keep(given: argparse.Namespace) -> None:
    config = ExperimentOptions("claims", children=tuple(given.children))
    store = Run.open(given.run).store(readonly=True)
    try:
        cells = cells_of(
            store, forms_of(config), settings_of(config), range(FIRST_SEED, FIRST_SEED + SEEDS)
        )
    finally:
        store.close()
    with given.rows.open("w") as file:
        file.writelines(json.dumps(row(c)) + "\n" for c in cells)


def row(c: Cell) -> dict[str, Any]:
    scores = {seed: round(score, 6) for seed, score in c.scores.items()}
    return {
        "form": c.form, "how": c.how, "child": c.setting.name, "lr": c.setting.lr, "name": c.name,
        "formula": formula(c.expr), "rate": c.rate, "scores": scores, "failed": c.failed,
        "cost": c.cost,
    }  # fmt: skip


def read(path: Path) -> list[Cell]:
    rows: list[Any] = [*results(path)]
    return [
        Cell(
            r["form"], r["how"],
            Setting(r["child"], SITES[r["child"]], OF.get(r["child"], ACCURACY), r["lr"], {}),
            r["name"], parse(r["formula"]), r["rate"],
            {int(seed): score for seed, score in r["scores"].items()}, r["failed"], r["cost"],
        )
        for r in rows
    ]  # fmt: skip


def say(given: argparse.Namespace) -> None:
    cells = whole(read(given.rows))
    found = judged(cells)
    for form in dict.fromkeys(r["form"].partition(":")[0] for r in found):
        for child in dict.fromkeys(r["child"] for r in found):
            rows = [r for r in found if r["form"].startswith(form) and r["child"] == child]
            if rows:
                first = rows[0]
                print(f"{child}, {form}, {first['score']}; differences to {SITES[child].rival}:\n")
                print(to_markdown([{k: r[k] for k in shown(rows)} for r in rows]))
    print("Verdicts:\n")
    print(to_markdown(verdicts(cells)), end="")


def shown(rows: Sequence[Row]) -> list[str]:
    """Columns, but for notes where there are none."""
    return [k for k in SHOWN if k != "note" or any(r["note"] for r in rows)]


def whole(cells: Sequence[Cell]) -> list[Cell]:
    """Of the forms and children that have all seeds."""
    first = max(len(c.scores) for c in cells)
    kept: list[Cell] = []
    for key in dict.fromkeys((c.form, c.setting.name) for c in cells):
        mine = [c for c in cells if (c.form, c.setting.name) == key]
        if all(len(c.scores) == first or c.failed for c in mine):
            kept += mine
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    keeps = commands.add_parser("keep", help="write what a run has trained")
    keeps.add_argument("run", type=Path)
    keeps.add_argument("rows", type=Path)
    keeps.add_argument("--children", nargs="+", default=[*SITES])
    keeps.set_defaults(do=keep)
    says = commands.add_parser("say", help="print tables and verdicts")
    says.add_argument("rows", type=Path, nargs="?", default=DATA)
    says.set_defaults(do=say)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
