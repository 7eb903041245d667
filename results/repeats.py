"""Functions that were trained again: their trainings by model and seed, at the learning rate that
validation chose, for every reader of re-evaluations."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actsearch.results.statistics import differences, estimate, interval

FAILED = float("-inf")  # a failed training is below every accuracy


@dataclass(frozen=True)
class Trained:
    """One function on one model at one learning rate: its finished trainings by seed."""

    lr: float | None
    rows: Mapping[int, Mapping[str, Any]]

    @property
    def failures(self) -> list[str]:
        """Why trainings failed, by seed."""
        return [f"{r['status']}: {r['reason']}" for r in self.rows.values() if r["status"] != "ok"]

    def scores(self, column: str, seeds: Iterable[int]) -> dict[int, float]:
        """By seed, of the trainings that did not fail."""
        found = {seed: self.rows[seed][column] for seed in seeds}
        return {seed: score for seed, score in found.items() if score is not None}

    def median(self, column: str, seeds: Sequence[int]) -> float:
        """-infinity where one of these seeds failed."""
        scores = self.scores(column, seeds)
        return statistics.median(scores.values()) if len(scores) == len(seeds) else FAILED

    def validated(self) -> float:
        """The mean validation accuracy, by which learning rates are chosen."""
        scores = self.scores("val_score", self.rows)
        return statistics.fmean(scores.values()) if len(scores) == len(self.rows) else FAILED


def of_seeds(
    scores: Mapping[int, float], reference: Mapping[int, float], failed: str
) -> dict[str, Any]:
    """The columns of a function that was trained with several seeds: its test scores by seed, and
    ReLU's, {} for ReLU itself. Where one has `failed` there is no mean."""
    mean = estimate(list(scores.values())) if scores and not failed else None
    paired = differences(scores, reference) if mean else []
    ends = interval(paired)
    return {
        "test accuracy": mean.mean if mean else None,
        "standard error": mean.standard_error if mean else None,
        "median accuracy": mean.median if mean else None,
        "n": len(scores),
        "to relu, paired": statistics.fmean(paired) if paired else None,
        "from, paired": ends.low if ends else None,
        "to, paired": ends.high if ends else None,
        "note": failed,
    }


def chosen(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Trained]]:
    """Model -> expression -> its trainings at the learning rate that was best in validation."""
    models: dict[str, dict[str, dict[str, dict[int, Mapping[str, Any]]]]] = {}
    for row in rows:
        functions = models.setdefault(_key(row), {}).setdefault(row["expression"], {})
        functions.setdefault(row["protocol"], {})[row["seed"]] = row
    return {
        name: {
            expression: max(map(_trained, rates.values()), key=Trained.validated)
            for expression, rates in models[key].items()
        }
        for key, name in _model_names(models).items()
    }


def _trained(rows: Mapping[int, Mapping[str, Any]]) -> Trained:
    return Trained(next(iter(rows.values()))["recipe"].get("lr"), rows)


def _key(row: Mapping[str, Any]) -> str:
    """All of a protocol that makes it another model, as text."""
    recipe = {k: v for k, v in row["recipe"].items() if k != "lr"}
    names = ("child", "dataset", "dataset_digest", "operators")
    return json.dumps({**{k: row[k] for k in names}, **recipe}, sort_keys=True)


def _model_names(keys: Iterable[str]) -> dict[str, str]:
    """`resnet8 on mnist5k` for each key, with what else tells it from others of that name."""
    settings = {key: json.loads(key) for key in keys}
    alike: dict[str, list[str]] = {}
    for key, s in settings.items():
        alike.setdefault(f"{s['child']} on {s['dataset']}", []).append(key)
    names = {}
    for name, same in alike.items():
        fields = sorted({field for key in same for field in settings[key]})
        differing = [f for f in fields if len({str(settings[k].get(f)) for k in same}) > 1]
        for key in same:
            told = [f"{f}={settings[key][f]}" for f in differing if f in settings[key]]
            names[key] = ", ".join([name, *told])
    return names
