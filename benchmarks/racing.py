"""What racing would have cost and kept on a finished run without racing.

    python benchmarks/racing.py RUN [--racing loss:20=0.4,50=0.15 ...] [--repeats 100] [--json FILE]

The run's loss curves are played in random orders against the rules, one training at a time. Cost is
the share of all steps that would have been taken, and of the measured seconds; recall is how many
of the best functions would have been trained to their end. Training losses are read from the stored
curves, which hold at most 200 points.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actsearch.run import Run
from controller.racing import Race, RaceRules, race_rules
from results.records import AtRung, Outcome
from results.store import Store

BEST = (20, 9, 4)
LAST_STEPS = 5  # as child_models.training.RUNG_STEPS


@dataclass(frozen=True)
class Known:
    """A finished training: its accuracy (None: diverged), where it ended, its loss curve."""

    accuracy: float | None
    steps: int
    seconds: float
    curve: dict[int, float]

    def loss_at(self, step: int) -> float:
        """The mean of the last steps up to it that the curve has."""
        near = [loss for s, loss in self.curve.items() if step - LAST_STEPS < s <= step]
        return float(np.mean(near)) if near else float("inf")


def known(run: Run) -> list[Known]:
    store = Store(run.path / "run.sqlite", readonly=True)
    found = []
    for row in store.rows("search"):
        if row["status"] in ("ok", "diverged") and not row["label"]:
            curve = dict(store.curve(row["id"]))
            steps = row["step"] or max(curve, default=1)
            found.append(Known(row["val_accuracy"], steps, row["seconds"], curve))
    store.close()
    return found


def play(
    trainings: list[Known], rules: RaceRules, order: np.ndarray
) -> tuple[float, float, set[int]]:
    """Shares of steps and of seconds, and which trainings went to their end."""
    race = Race(rules)
    steps = seconds = 0.0
    ended: set[int] = set()
    for i in order:
        training = trainings[i]
        stood: list[AtRung] = []
        left = None
        for rung in race.rungs():
            if rung.step >= training.steps:
                break
            stood.append(AtRung(rung.step, training.loss_at(rung.step)))
            if not rung.passed_by(stood[-1].loss):
                left = rung.step
                break
        share = 1.0 if left is None else left / training.steps
        steps += share * training.steps
        seconds += share * training.seconds
        if left is not None:
            race.tell(Outcome("raced_out", step=left, rungs=tuple(stood)))
        elif training.accuracy is None:
            race.tell(Outcome("diverged", step=training.steps))
        else:
            ended.add(int(i))
            race.tell(Outcome("ok", val_accuracy=training.accuracy, rungs=tuple(stood)))
    whole = sum(t.steps for t in trainings), sum(t.seconds for t in trainings)
    return steps / whole[0], seconds / whole[1], ended


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--racing", nargs="+", default=("on",), help="rules; [on]")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    trainings = known(Run(given.run))
    by_accuracy = sorted(range(len(trainings)), key=lambda i: -(trainings[i].accuracy or -1.0))
    print(f"{given.run}: {len(trainings)} trainings, {given.repeats} orders; means, and the least")
    rows: list[dict[str, Any]] = []
    for text in given.racing:
        rules = race_rules(text, max(t.steps for t in trainings))
        if rules is None or rules.metric != "loss":
            parser.error(f"{text}: only races by loss can be played")
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
        for best in BEST:
            recalls = [len(p[2] & set(by_accuracy[:best])) / best for p in played]
            row[f"recall of {best}"] = float(np.mean(recalls))
            text += f"; best {best}: {np.mean(recalls):.3f} ({min(recalls):.2f})"
        print(text)
        rows.append(row)
    if given.json:
        given.json.write_text(
            json.dumps({"run": str(given.run), "n": len(trainings), "rows": rows})
        )


if __name__ == "__main__":
    main()
