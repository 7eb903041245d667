"""What racing would have cost and kept on a finished run without racing.

    python benchmarks/racing.py RUN [--racing loss:20=0.4,50=0.15 ...] [--repeats 100] [--json FILE]
    python benchmarks/racing.py RUN --without OTHER    # functions that OTHER has not trained
    python benchmarks/racing.py one-unit    # the table that comes with the package

The loss curves are played in random orders against the rules, one training at a time. Cost is the
share of all steps that would have been taken, and of the measured seconds; recall is how many of
the best functions would have been trained to their end. A run's curves hold at most 200 points, of
which a milestone sees the last five steps; the table holds means of ten at four steps. Of the table
also those are counted that were the best of the search's best 300 and a random 300 by two more
seeds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actsearch.controller.racing import Race, RaceRules, race_rules
from actsearch.results.benchmarks import ONE_UNIT, load_benchmark
from actsearch.results.records import AtMilestone, Outcome
from actsearch.run import Run

BEST = (20, 9, 4)
LAST_STEPS = 5  # as RUNG_STEPS of child_models/training/looks.py
TABLE_STEPS = (20, 50, 100, 200)  # of which the table has losses
SEEDS = 2  # at least, of a mean of further trainings


@dataclass(frozen=True)
class Known:
    """A finished training: its score turned so that higher is better (None: diverged), where it
    ended, its loss curve, the mean of such scores of further trainings of the function (None: there
    are none), and the function."""

    merit: float | None
    steps: int
    seconds: float
    curve: dict[int, float]
    again: float | None = None
    function: str = ""

    def loss_at(self, step: int) -> float:
        """The mean of the last steps up to it that the curve has."""
        near = [loss for s, loss in self.curve.items() if step - LAST_STEPS < s <= step]
        return float(np.mean(near)) if near else float("inf")


def known(run: Run) -> list[Known]:
    whole = run.config["identity"]["protocol"]["recipe"]["steps"]
    store = run.store(readonly=True)
    found = []
    for row in store.rows("search"):
        if row["status"] in ("ok", "diverged") and not row["beside"]:
            curve = dict(store.curve(row["id"]))
            steps = whole if row["status"] == "ok" else max(curve, default=0) + 1
            merit = None if row["val_score"] is None else run.metric.reward(row["val_score"])
            found.append(Known(merit, steps, row["seconds"], curve, function=row["expression"]))
    store.close()
    return found


def known_of_table() -> list[Known]:
    """Of the one-unit space. One that diverged ended behind the last loss that the table has."""
    table = load_benchmark(ONE_UNIT)
    steps = table.attrs["provenance"]["protocol"]["recipe"]["steps"]
    losses = {int(c.removeprefix("loss at ")): c for c in table if c.startswith("loss at ")}
    found = []
    for row in table[table["name"] == ""].to_dict("records"):
        curve = {step: row[c] for step, c in losses.items() if not np.isnan(row[c])}
        ok = row["status"] == "ok"
        again = row["again accuracy"] if row["again"] >= SEEDS else None
        end = steps if ok else max(curve, default=0) + 1
        found.append(Known(row["accuracy"] if ok else None, end, row["seconds"], curve, again))
    return found


def best(values: Sequence[float | None], n: int) -> set[int]:
    """The places of the n greatest."""
    merits = [-math.inf if value is None else value for value in values]
    return set(sorted(range(len(values)), key=lambda i: -merits[i])[:n])


def play(
    trainings: list[Known], rules: RaceRules, order: np.ndarray
) -> tuple[float, float, set[int]]:
    """Shares of steps and of seconds, and which trainings went to their end."""
    race = Race(rules)
    steps = seconds = 0.0
    ended: set[int] = set()
    for i in order:
        training = trainings[i]
        stood: list[AtMilestone] = []
        left = None
        for milestone in race.milestones():
            if milestone.step >= training.steps:
                break
            stood.append(AtMilestone(milestone.step, training.loss_at(milestone.step)))
            if not milestone.passed_by(stood[-1].loss):
                left = milestone.step
                break
        share = 1.0 if left is None else left / training.steps
        steps += share * training.steps
        seconds += share * training.seconds
        if left is not None:
            race.tell(Outcome("raced_out", step=left, milestones=tuple(stood)))
        elif training.merit is None:
            race.tell(Outcome("diverged", step=training.steps))
        else:
            ended.add(int(i))
            race.tell(Outcome("ok", val_score=training.merit, milestones=tuple(stood)))
    whole = sum(t.steps for t in trainings), sum(t.seconds for t in trainings)
    return steps / whole[0], seconds / whole[1], ended


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help=f"a run's folder, or {ONE_UNIT}")
    parser.add_argument("--racing", nargs="+", default=("on",), help="rules; [on]")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--without", help="a run whose functions are left out of a run's")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    of_table = given.run == ONE_UNIT and not Path(given.run).exists()
    trainings = known_of_table() if of_table else known(Run.open(given.run))
    if given.without:
        others = {row["expression"] for row in Run.open(given.without).rows("search")}
        trainings = [t for t in trainings if t.function not in others]
    wanted = {f"best {n}": best([t.merit for t in trainings], n) for n in BEST}
    if any(t.again is not None for t in trainings):
        wanted |= {f"best {n} again": best([t.again for t in trainings], n) for n in BEST}
    print(f"{given.run}: {len(trainings)} trainings, {given.repeats} orders; means, and the least")
    rows: list[dict[str, Any]] = []
    for text in given.racing:
        rules = race_rules(text, max(t.steps for t in trainings))
        if rules is None or rules.by != "loss":
            parser.error(f"{text}: only races by loss can be played")
        unknown = [step for step, _ in rules.milestones if of_table and step not in TABLE_STEPS]
        if unknown:
            steps = ", ".join(map(str, TABLE_STEPS))
            parser.error(f"{rules}: {ONE_UNIT} has losses at steps {steps} alone; race at these")
        chance = np.random.default_rng(0)
        played = [play(trainings, rules, chance.permutation(len(trainings)))
                  for _ in range(given.repeats)]  # fmt: skip
        steps, seconds = (np.array([p[k] for p in played]) for k in (0, 1))
        row: dict[str, Any] = {
            "rules": str(rules),
            "steps": steps.mean(),
            "seconds": seconds.mean(),
        }
        text = f"  {rules!s:<24} steps {steps.mean():.2f}, seconds {seconds.mean():.2f}"
        for name, functions in wanted.items():
            recalls = [len(p[2] & functions) / len(functions) for p in played]
            row[f"recall of {name}"] = [float(np.mean(recalls)), min(recalls)]
            text += f"; {name}: {np.mean(recalls):.3f} ({min(recalls):.2f})"
        print(text)
        rows.append(row)
    if given.json:
        given.json.write_text(json.dumps({"run": given.run, "n": len(trainings), "rows": rows}))


if __name__ == "__main__":
    main()
