"""Which strategy finds functions of two units that hold when they are trained again, for real.

    python benchmarks/live.py run FOLDER --images CIFAR10.npz [--seeds 5]    # hours; goes on
    python benchmarks/live.py say FOLDER [--save ROWS.jsonl]
    python benchmarks/live.py say ROWS.jsonl

Each search trains 300 functions of `two-units` in a small ConvNeXt, in cohorts by successive
halving, and its ten best are trained again with the three seeds after its own, which are the same
for all strategies of a seed. Searches are run seed by seed, so that a comparison that was stopped
is of the same seeds for all. Of a strategy `say` prints, on test data and over searches:

    best ten       mean accuracy of a search's best ten when trained again
    above random   the same less that of random search with the same seed
    first          mean accuracy of the function that the search has first
    trainings      steps of a search's trainings, in whole trainings

Intervals are of means over searches (95 %, docs/statistics.md). A function that failed when it was
trained again counts as at chance, 0.1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fair_child import results

import actsearch
from actsearch.results.statistics import differences, estimate, interval
from actsearch.results.tables import Row, to_markdown
from actsearch.run import Run
from actsearch.search_space.candidate import candidate_from

RANDOM = "random"
STRATEGIES = (RANDOM, "evolution", "surrogate", "ppo", "ppo:model=none")
SPACE, CHILD, STEPS = "two-units", "convnext:width=16", 300
BUDGET = 300  # functions a search
TOP, AGAIN = 10, 3
CHANCE = 0.1
BASELINES = ("relu(x)", "x * sigmoid(beta * x)", "gelu(x)", "relu(x)**2")


def run(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for seed in range(given.seeds):
        for strategy in STRATEGIES:
            folder = given.folder / f"{strategy.replace(':', '_')}-{seed}"
            done = folder / "done.json"
            if done.exists():
                continue
            actsearch.search(
                folder, space=SPACE, strategy=strategy, halving=True, budget=BUDGET, seed=seed,
                dataset=given.images, child=CHILD, steps=STEPS, executor="inline", quiet=True,
            )  # fmt: skip
            actsearch.reevaluate(
                folder, top=TOP, seeds=AGAIN, baselines=BASELINES, executor="inline", quiet=True
            )
            row = {"strategy": strategy, "seed": seed} | outcome(Run.open(folder))
            done.write_text(json.dumps(row))


def outcome(searched: Run) -> dict[str, Any]:
    """What a search found: its first functions in its order, with their validation accuracies, and
    the test accuracies of each and of the baselines when they were trained again."""
    ranked = [e for e in searched.leaderboard() if e.rank is not None and not e.beside]
    again: dict[str, list[float]] = {}
    for row in searched.reevaluations():
        again.setdefault(row["expression"], []).append(
            row["test_score"] if row["status"] == "ok" else CHANCE
        )
    names = {candidate_from(text).canonical("guarded").key: text for text in BASELINES}
    trained = [*searched.rows(), *searched.rows("rung")]
    return {
        "counts": searched.counts(),
        "trainings": round(sum(r["steps"] for r in trained if r["seconds"]) / STEPS, 1),
        "found": [
            {"expression": e.expression, "formula": e.formula, "val": e.val_score,
             "test": again[e.expression]}
            for e in ranked[:TOP]
        ],
        "baselines": {name: again[key] for key, name in names.items() if key in again},
    }  # fmt: skip


def say(given: argparse.Namespace) -> None:
    if given.folder.is_dir():
        rows = [json.loads(path.read_text()) for path in sorted(given.folder.glob("*/done.json"))]
    else:
        rows = list(results(given.folder))
    if given.save:
        given.save.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = whole(rows)
    if not rows:
        raise SystemExit(f"{given.folder} has no seed that all {len(STRATEGIES)} strategies ended")
    print(to_markdown(table(rows)))
    print("Known functions, trained again with the same seeds:\n")
    print(to_markdown(known(rows)))
    print("The first functions of all searches:\n")
    print(to_markdown(heads(rows)), end="")


def whole(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the seeds that all strategies have."""
    seeds = [{r["seed"] for r in rows if r["strategy"] == name} for name in STRATEGIES]
    return [row for row in rows if row["seed"] in set.intersection(*seeds)]


def table(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    ten = {
        name: {r["seed"]: mean(best_ten(r)) for r in rows if r["strategy"] == name}
        for name in STRATEGIES
    }
    said: list[Row] = []
    for name in STRATEGIES:
        mine = [r for r in rows if r["strategy"] == name]
        apart = differences(ten[name], ten[RANDOM])
        said.append(
            {
                "strategy": f"`{name}`",
                "searches": len(mine),
                "best ten, test": cell(list(ten[name].values())),
                "above random": "" if name == RANDOM else cell(apart, signed=True),
                "first, test": cell([mean(r["found"][0]["test"]) for r in mine]),
                "first of the search, validation": cell([r["found"][0]["val"] for r in mine]),
                "trained to the end": f"{mean([r['counts']['ok'] for r in mine]):.0f}",
                "trainings": f"{mean([r['trainings'] for r in mine]):.0f}",
            }
        )
    return said


def best_ten(row: Mapping[str, Any]) -> list[float]:
    return [accuracy for found in row["found"] for accuracy in found["test"]]


def known(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Trained once for each seed, whatever strategy's run they are of."""
    of_seed = {row["seed"]: row["baselines"] for row in rows}
    return [
        {"function": name, "searches": len(of_seed),
         "test": cell([mean(found[name]) for found in of_seed.values()])}
        for name in BASELINES
    ]  # fmt: skip


def heads(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        {
            "strategy": f"`{row['strategy']}`",
            "seed": row["seed"],
            "function": row["found"][0]["formula"],
            "validation": f"{100 * row['found'][0]['val']:.1f} %",
            "test, 3 seeds": f"{100 * mean(row['found'][0]['test']):.1f} %",
        }
        for row in sorted(rows, key=lambda r: (r["seed"], STRATEGIES.index(r["strategy"])))
    ]


def mean(values: Sequence[float]) -> float:
    return estimate(values).mean


def cell(values: Sequence[float], *, signed: bool = False) -> str:
    """Their mean and its interval, in per cent; differences, which are `signed`, in points."""
    sign = "+" if signed else ""
    between = interval(values)
    found = f"{100 * mean(values):{sign}.2f}"
    if between is None:
        return found
    return f"{found} ({100 * between.low:{sign}.2f} to {100 * between.high:{sign}.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="search and train again")
    runs.add_argument("folder", type=Path)
    runs.add_argument("--images", required=True, help="CIFAR-10 as an .npz file")
    runs.add_argument("--seeds", type=int, default=5, help="searches of each strategy [5]")
    runs.set_defaults(do=run)
    says = commands.add_parser("say", help="print what they found")
    says.add_argument("folder", type=Path, metavar="FOLDER|ROWS.jsonl")
    says.add_argument("--save", type=Path, help="keep the outcomes as JSON lines")
    says.set_defaults(do=say)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
