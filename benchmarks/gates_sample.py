"""Is some gate better than SwiGLU? H3 on a random sample of the gates: docs/studies/lm_gates.md.

    actsearch search RUN --space gates --child gpt --dataset stdlib --strategy random --steps 600 \\
        --racing loss:40=0.6,100=0.5,200=0.3 --baselines swiglu geglu reglu relu2 gelu --budget 1200
    python benchmarks/gates_sample.py best RUN         # the ten that are to be trained again
    actsearch reevaluate RUN --seeds 12 --baselines swiglu geglu reglu --functions FORMULA ...
    actsearch reevaluate RUN --seeds 12 --functions swiglu "x * sin(g)" "(x + beta) * g"
    actsearch reevaluate RUN --seeds 5 --lr 0.006 --functions swiglu "(x + beta) * sin(g)" ...
    python benchmarks/gates_sample.py keep RUN ROWS.jsonl
    python benchmarks/gates_sample.py say [ROWS.jsonl]           # [docs/data/gates_sample.jsonl]

The sample are the candidates of the search, in the order of the strategy `random` with seed 0, that
are gates, functions of both x and g. What was drawn and judged is in docs/studies/registered.md:
seeds 3 to 12 chose nothing. Scores are bits per byte, and fewer are better. Differences are paired
by seed, with 95 % intervals (docs/statistics.md).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fair_child import results
from lm_one_unit import FRESH, METRIC, gap, paired

from actsearch.results.statistics import differences, holm
from actsearch.results.tables import Row, to_markdown
from actsearch.run import Run
from actsearch.search_space.expression import Expr
from actsearch.search_space.parser import parse

DATA = Path(__file__).parent.parent / "docs" / "data" / "gates_sample.jsonl"
CANDIDATES = 1200  # of the search, gates and functions of x
CHOSEN = 10
SWIGLU = "mul(mul(x, sigmoid(x)), g)"
KEPT = ("expression", "formula", "label", "seed", "status", "val_score", "test_score")
CHILD, LR = "gpt", 0.003  # of the search


class Found:
    """Rows of a search and of its re-evaluation, by function."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        searched = [row for row in rows if row["kind"] == "search"]
        self.beside = {r["expression"]: r for r in searched if r["beside"]}
        candidates = [r for r in searched if r["candidate"]][:CANDIDATES]
        self.sample = {
            str(r["expression"]): r for r in candidates if len(parse(r["expression"]).inputs) > 1
        }
        self.names = {r["expression"]: r["label"] or r["formula"] for r in rows}
        self.test: dict[str, dict[int, float]] = {}
        self.elsewhere: dict[tuple[str, float], dict[str, dict[int, float]]] = {}
        for row in rows:
            if row["kind"] != "reevaluate" or row["status"] != "ok":
                continue
            where = row["child"], row["lr"]
            if where == (CHILD, LR) and row["seed"] not in FRESH:
                continue
            of = self.test if where == (CHILD, LR) else self.elsewhere.setdefault(where, {})
            of.setdefault(row["expression"], {})[row["seed"]] = row["test_score"]

    @property
    def best(self) -> list[str]:
        """The best of the sample, one of each symmetry class."""
        whole = [e for e, row in self.sample.items() if row["status"] == "ok"]
        ranked = sorted(whole, key=lambda e: self.sample[e]["val_score"])
        first: dict[str, str] = {}
        for e in ranked:
            first.setdefault(self.sample[e]["symmetry"], e)
        return [*first.values()][:CHOSEN]

    def distribution(self) -> list[Row]:
        """By the operator that joins the two parts."""
        swiglu = self.beside[SWIGLU]["val_score"]
        parts = {"all": [*self.sample]}
        for e in self.sample:
            parts.setdefault(f"`{joined_by(parse(e))}`", []).append(e)
        rows: list[Row] = []
        for part, names in sorted(parts.items(), key=lambda item: -len(item[1])):
            went = [self.sample[e] for e in names if self.sample[e]["status"] == "ok"]
            scores = [row["val_score"] for row in went]
            rows.append(
                {
                    "joined by": part,
                    "gates": len(names),
                    "rejected before training": sum(
                        self.sample[e]["status"] == "rejected" for e in names
                    ),
                    "went to the end": f"{100 * len(went) / len(names):.0f} %",
                    "ahead of SwiGLU": sum(score < swiglu for score in scores),
                    "best": METRIC.cell(min(scores, default=None)),
                }
            )
        return rows

    def fresh(self) -> list[Row]:
        """Of functions that trained with all fresh seeds; Holm over the ten, against SwiGLU."""
        whole = {e: of for e, of in self.test.items() if len(of) == len(FRESH)}
        chosen = [e for e in self.best if e in whole]
        p = [paired(differences(whole[e], whole[SWIGLU])) for e in chosen]
        corrected = dict(zip(chosen, holm(p), strict=True))
        return [
            {
                "function": f"`{self.names[e]}`",
                "search": METRIC.cell((self.sample | self.beside)[e]["val_score"])
                if e in self.sample | self.beside
                else "",
                "fresh seeds, test": METRIC.cell(float(np.mean([*whole[e].values()]))),
                "to SwiGLU": gap(whole[e], whole[SWIGLU]),
                "p, Holm": f"{corrected[e]:.2g}" if e in corrected else "",
            }
            for e in sorted(whole, key=lambda e: np.mean([*whole[e].values()]))
        ]

    def other_settings(self) -> list[Row]:
        """The first of the fresh seeds and what was trained beside it, at other rates or sizes."""
        rows: list[Row] = []
        for (child, lr), found in sorted(self.elsewhere.items()):
            for e in sorted(found, key=lambda e: np.mean([*found[e].values()])):
                rows.append(
                    {
                        "child": child,
                        "lr": f"{lr:g}",
                        "function": f"`{self.names[e]}`",
                        "n": len(found[e]),
                        "test": METRIC.cell(float(np.mean([*found[e].values()]))),
                        "to SwiGLU": gap(found[e], found[SWIGLU]),
                    }
                )
        return rows

    def verdict(self) -> str:
        """On H3."""
        missing = [self.names[e] for e in self.best if len(self.test.get(e, {})) < len(FRESH)]
        if missing:
            return f"H3 waits for {len(FRESH)} seeds of {', '.join(missing)}"
        swiglu = self.test[SWIGLU]
        apart = [differences(self.test[e], swiglu) for e in self.best]
        p = holm([paired(a) for a in apart])
        ahead = [
            self.names[e]
            for e, a, corrected in zip(self.best, apart, p, strict=True)
            if np.mean(a) < 0 and corrected < 0.05
        ]
        said = f"holds: {', '.join(ahead)}" if ahead else "refuted: none of the ten is ahead"
        trained = sum(row["status"] != "rejected" for row in self.sample.values())
        return f"H3, on {trained:,} gates: {said} of SwiGLU beyond luck"


def joined_by(gate: Expr) -> str:
    """The binary operator of a gate of one unit."""
    while gate.op.arity == 1:
        [gate] = gate.args
    return gate.op.name


def rows_of(run: Run) -> Iterator[dict[str, Any]]:
    """A row a training, the search's in its order."""
    for row in sorted(run.rows(), key=lambda row: row["id"]):
        if row["status"] is not None:
            more = {k: row[k] for k in ("beside", "candidate", "symmetry")}
            yield {"kind": "search"} | {k: row[k] for k in KEPT} | more
    for row in run.reevaluations():
        more = {"child": row["child"], "lr": row["recipe"]["lr"]}
        yield {"kind": "reevaluate"} | {k: row[k] for k in KEPT} | more


def best(given: argparse.Namespace) -> None:
    found = Found([*rows_of(Run.open(given.run))])
    for e in found.best:
        print(found.names[e])


def keep(given: argparse.Namespace) -> None:
    kept = rows_of(Run.open(given.run))
    given.rows.write_text("".join(json.dumps(row) + "\n" for row in kept))


def say(given: argparse.Namespace) -> None:
    rows: list[Any] = [*results(given.rows)]
    found = Found(rows)
    tables = found.distribution(), found.fresh(), found.other_settings()
    print(*map(to_markdown, tables), found.verdict(), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, do in (("best", best), ("keep", keep)):
        command = commands.add_parser(name)
        command.add_argument("run")
        if do is keep:
            command.add_argument("rows", type=Path)
        command.set_defaults(do=do)
    says = commands.add_parser("say")
    says.add_argument("rows", type=Path, nargs="?", default=DATA)
    says.set_defaults(do=say)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
