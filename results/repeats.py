"""Functions that were trained again: their trainings by model and seed, at the learning rate that
validation chose, for every reader of re-evaluations."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.statistics import differences, estimate, holm, interval, paired_t
from actsearch.results.tables import Row

FAILED = float("-inf")  # the merit of a function with a failed training: below every score


@dataclass(frozen=True)
class Trained:
    """One function on one model at one learning rate: its finished trainings by seed."""

    lr: float | None
    rows: Mapping[int, Mapping[str, Any]]
    metric: Metric = ACCURACY

    def failures(self, seeds: Iterable[int]) -> list[str]:
        """Why trainings failed, of these seeds."""
        rows = (self.rows[seed] for seed in seeds)
        return [f"{r['status']}: {r['reason']}" for r in rows if r["status"] != "ok"]

    def scores(self, column: str, seeds: Iterable[int]) -> dict[int, float]:
        """By seed, of the trainings that did not fail."""
        found = {seed: self.rows[seed][column] for seed in seeds}
        return {seed: score for seed, score in found.items() if score is not None}

    def median(self, column: str, seeds: Sequence[int]) -> float | None:
        """None where one of these seeds failed."""
        scores = self.scores(column, seeds)
        return statistics.median(scores.values()) if len(scores) == len(seeds) else None

    def merit(self, score: float | None) -> float:
        """A score turned so that higher is better, FAILED for None."""
        return FAILED if score is None else self.metric.reward(score)

    def validated(self) -> float:
        """The merit of the mean validation score, by which learning rates are chosen."""
        scores = self.scores("val_score", self.rows)
        whole = len(scores) == len(self.rows)
        return self.merit(statistics.fmean(scores.values()) if whole else None)


def of_seeds(
    scores: Mapping[int, float],
    reference: Mapping[int, float],
    failed: str,
    metric: Metric,
    column: str,
) -> dict[str, Any]:
    """The columns of a function that was trained with several seeds: its test scores by seed, and
    ReLU's, {} for ReLU itself. Where one has `failed` there is no mean. `column` is that of the
    mean: the split, then the metric, or `score` in a table with several."""
    _, _, called = column.partition(" ")
    mean = estimate(list(scores.values())) if scores and not failed else None
    paired = differences(scores, reference) if mean else []
    ends = interval(paired)
    return {
        column: metric.cell(mean.mean if mean else None),
        "standard error": metric.cell(mean.standard_error if mean else None),
        f"median {called}": metric.cell(mean.median if mean else None),
        "n": len(scores),
        "to relu, paired": metric.cell(statistics.fmean(paired) if paired else None, signed=True),
        "from, paired": metric.cell(ends.low if ends else None, signed=True),
        "to, paired": metric.cell(ends.high if ends else None, signed=True),
        "note": failed,
    }


def adjusted(
    scores: Mapping[str, Mapping[int, float]], reference: Mapping[int, float]
) -> dict[str, float | None]:
    """The p of each function's paired t test beside the reference, by Holm among all that have one;
    None where too few seeds are shared."""
    raw = {name: paired_t(differences(mine, reference)) for name, mine in scores.items()}
    known = {name: p for name, p in raw.items() if p is not None}
    return {**raw, **dict(zip(known, holm([*known.values()]), strict=True))}


def split_of(scores: Iterable[Mapping[str, float] | None], metric: Metric) -> str:
    """What trainings were scored on, `test`, or `val` where an objective has no score on test data.
    `scores` are all that each returned by name, None of children."""
    untested = any(found is not None and metric.test_name not in found for found in scores)
    return "val" if untested else "test"


def split_of_all(functions: Iterable[Trained]) -> str:
    """The same, of all trainings of a model."""
    found = list(functions)
    scores = (row.get("scores") for trained in found for row in trained.rows.values())
    return split_of(scores, found[0].metric)


def best_first(rows: Iterable[Row], column: str, metric: Metric) -> list[Row]:
    """By the scores in `column`, those without one last."""

    def key(row: Row) -> float:
        return -FAILED if row[column] is None else -metric.reward(row[column])

    return sorted(rows, key=key)


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
    first = next(iter(rows.values()))
    return Trained(first["recipe"].get("lr"), rows, first.get("metric", ACCURACY))


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
