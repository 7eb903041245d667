"""Verdicts on claims: paired differences to a rival, their intervals, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actsearch.results.metrics import Metric
from actsearch.results.statistics import LEVEL, differences, estimate, holm, interval
from actsearch.results.tables import Row
from actsearch.search_space.expression import Expr, formula
from actsearch.searching.building import AnyEvaluator
from actsearch.studies.replicated import SITES, Site

PUBLISHED, MATCHED = "as published", "matched"


@dataclass(frozen=True)
class Setting:
    """A child, what its scores are, its usual learning rate, and an evaluator for each share of
    that, 1 first."""

    name: str
    site: Site
    metric: Metric
    lr: float
    evaluators: Mapping[float, AnyEvaluator]


@dataclass(frozen=True)
class Cell:
    """A function in a setting: the share of the usual rate that its sweep chose, the test scores by
    seed."""

    form: str
    how: str  # it was matched
    setting: Setting
    name: str
    expr: Expr
    rate: float  # over the usual one
    scores: Mapping[int, float]
    failed: str  # the first failure, or ""
    cost: float | None  # of a step, as a multiple of ReLU's


@dataclass(frozen=True)
class Judgement:
    """Of a function against its child's rival: the mean paired difference, better where it is above
    0, its interval, Holm's p over all functions in all children of the form, and the verdict."""

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: str


def judge(cells: Sequence[Cell]) -> dict[int, Judgement]:
    """Of the cells of one form, by their place. A function with a failed seed is not confirmed, and
    counts in Holm's correction with a p of 1."""
    rivals = {c.setting.name: c for c in cells if c.name == c.setting.site.rival}
    paired = {
        i: _paired(c, rivals[c.setting.name])
        for i, c in enumerate(cells)
        if c.name != c.setting.site.rival and (c.scores or c.failed)
    }
    corrected = dict(
        zip(
            paired,
            holm([1.0 if cells[i].failed else _p(d) for i, d in paired.items()]),
            strict=True,
        )
    )
    found: dict[int, Judgement] = {}
    for i, cell in enumerate(cells):
        if cell.name == cell.setting.site.rival:
            found[i] = Judgement(None, None, None, None, "rival")
        elif i not in paired:
            found[i] = Judgement(None, None, None, None, "not trained")
        elif cell.failed:
            found[i] = Judgement(None, None, None, corrected[i], "failed")
        else:
            found[i] = _judged(paired[i], corrected[i])
    return found


def _judged(paired: Sequence[float], p: float) -> Judgement:
    between = interval(paired)
    if between is None:
        mean = estimate(paired).mean if paired else None
        return Judgement(mean, None, None, p, "open")
    mean = estimate(paired).mean
    verdict = "open"
    if p < LEVEL and mean > 0:
        verdict = "confirmed"
    elif between.high < 0:
        verdict = "refuted"
    return Judgement(mean, between.low, between.high, p, verdict)


def _paired(cell: Cell, rival: Cell) -> list[float]:
    reward = cell.setting.metric.reward
    mine, other = ({s: reward(v) for s, v in c.scores.items()} for c in (cell, rival))
    return differences(mine, other)


def _p(paired: Sequence[float]) -> float:
    """Of Student's paired test, two-sided; 1 where there is nothing to test."""
    from scipy.stats import ttest_1samp

    if len(paired) < 2 or np.ptp(paired) == 0:
        return 1.0
    found: Any = ttest_1samp(paired, 0.0)
    return float(found.pvalue)


def judged(cells: Sequence[Cell]) -> list[Row]:
    """A row for each function in each child that has trained, the best mean first."""
    rows: list[Row] = []
    for mine in _by_form(cells).values():
        found = judge(mine)
        order = sorted(range(len(mine)), key=lambda i: _place(mine[i]))
        rows += [_row(mine[i], found[i]) for i in order if mine[i].scores or mine[i].failed]
    return rows


def _by_form(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    return {form: [c for c in cells if c.form == form] for form in (PUBLISHED, MATCHED)}


def _place(cell: Cell) -> tuple[int, bool, float]:
    mean = estimate([*cell.scores.values()]).mean if cell.scores else math.nan
    failed = bool(cell.failed) or not cell.scores
    return [*SITES].index(cell.setting.name), failed, -cell.setting.metric.reward(mean)


def _row(cell: Cell, found: Judgement) -> Row:
    metric = cell.setting.metric
    return {
        "form": cell.form + (f": {cell.how}" if cell.how else ""),
        "child": cell.setting.name,
        "name": cell.name,
        "formula": formula(cell.expr),
        "lr": f"{cell.setting.lr * cell.rate:g}",
        "score": metric.test_name,
        "mean": metric.cell(estimate([*cell.scores.values()]).mean if cell.scores else None),
        "better than": cell.setting.site.rival if found.verdict != "rival" else "",
        "by": metric.cell(found.difference, signed=True),
        "from": metric.cell(found.low, signed=True),
        "to": metric.cell(found.high, signed=True),
        "p, Holm": None if found.p is None else f"{found.p:.2g}",
        "n": len(cell.scores),
        "verdict": found.verdict,
        "x relu": None if cell.cost is None else f"{cell.cost:.2f}",
        "note": cell.failed,
    }


def verdicts(cells: Sequence[Cell]) -> list[Row]:
    """A row for each function: its verdict in each child. A claim that is confirmed as published
    and not when matched is one of scale."""
    found = {
        (form, mine[i].name, mine[i].setting.name): judgement.verdict
        for form, mine in _by_form(cells).items()
        for i, judgement in judge(mine).items()
    }
    said: dict[str, dict[str, str]] = {}
    for (form, name, child), verdict in found.items():
        if form == MATCHED:
            continue
        again = found.get((MATCHED, name, child), "not trained")
        if verdict == "confirmed" and again != "not trained":
            verdict += ", matched too" if again == "confirmed" else ", of scale"
        said.setdefault(name, {})[child] = verdict
    return [{"name": name, **by_child} for name, by_child in said.items()]
