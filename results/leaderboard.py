"""The ranked table, a pure function of the store's rows."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from actsearch.results.confirmed import Confirmed, confirmed
from actsearch.results.expectation import Estimate
from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import ALWAYS_BESIDE, STATUSES, Cause, Renamed, known_cause
from actsearch.results.store import read_json
from actsearch.search_space.baselines import FORMS

DROPPED = "dropped"  # left behind in a rung of successive halving

# What search_space/analysis/properties.py finds, by name, so that reading a table imports no torch.
PROPERTIES = (
    "smooth",
    "monotonic",
    "bounded_below",
    "bounded_above",
    "parity",
    "at_0",
    "slope_at_0",
    "minimum",
    "slope_left",
    "slope_right",
    "mean_shift",
    "operators",
    "betas",
)


@dataclass(frozen=True)
class Entry(Renamed):
    """One function: its mean over seeds, and its rank among the functions that trained.

    `label` is what people call it, "" where they do not. Scores are of `metric`. `vs_relu`
    is its time per step over ReLU's and `vs_relu_range` the 95 % interval of that, from steps of
    both in turns. Where no such steps were timed it is on a GPU the ratio of two medians of the
    run, of which no interval is known, and on a processor None, since others share that.
    """

    rank: int | None
    expression: str
    formula: str
    label: str
    status: str
    val_score: float | None
    seeds: int
    seconds: float
    ms_per_step: float | None
    vs_relu: float | None
    reason: str
    symmetry: str
    properties: Mapping[str, Any]
    vs_relu_range: tuple[float, float] | None = None
    left: tuple[int, float] | None = None  # steps and score where it left a race or a cohort
    metric: Metric = ACCURACY
    cause: Cause | None = None  # as in an Outcome, and `variant` too
    variant: str = ""
    beside: bool = False  # a baseline; those count in no number of candidates
    candidate: bool = True  # whether the search has tried it, as it may a baseline too
    expected: Estimate | None = None  # when it is trained again, where the search has confirmed
    worth: float | None = None  # by which it ranks then: as expected, under the search's own seed
    scores: Mapping[str, float] = field(default_factory=dict[str, float])  # all of an objective's

    @property
    def asked_for(self) -> bool:
        """Whether it is a baseline that was named: any but ReLU and Swish, which always are."""
        return self.beside and self.label not in ALWAYS_BESIDE

    @property
    def merit(self) -> float:
        """Its score turned so that higher is better; below all where it has none."""
        return -math.inf if self.val_score is None else self.metric.reward(self.val_score)

    def __str__(self) -> str:
        """Such as `#1 x * sigmoid(x) (silu): 0.9440`, or why it has no score."""
        name = f" ({self.label})" if self.label not in ("", self.formula) else ""
        scored = self.val_score is not None
        what = f"{self.val_score:.4f}" if scored else f"{self.status}, {self.reason}"
        return f"{f'#{self.rank} ' * scored}{self.formula}{name}: {what}"


def leaderboard(
    rows: Iterable[Mapping[str, Any]],
    metric: Metric = ACCURACY,
    confirm: Iterable[Mapping[str, Any]] = (),
) -> list[Entry]:
    """Finished functions, best validation score of `metric` first; those that left a race or a
    cohort and the failed follow without a rank. With trainings that `confirm` the best, these are
    first, by what is believed of them."""
    functions: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] is not None:
            functions.setdefault(row["expression"], []).append(row)
    relu = _ms_per_step(functions.get("relu(x)", []))
    entries = [_entry(expression, runs, relu, metric) for expression, runs in functions.items()]
    found = confirmed(itertools.chain(*functions.values()), confirm, metric)
    if found is not None:
        entries = [_believed(entry, found) for entry in entries]
    entries.sort(key=_best_first)
    ranked = (e for e in entries if e.val_score is not None)
    ranks = {e.expression: rank for rank, e in enumerate(ranked, 1)}
    return [Entry(**{**vars(e), "rank": ranks.get(e.expression)}) for e in entries]


def _believed(entry: Entry, found: Confirmed) -> Entry:
    """With what further trainings say: it failed if one of them did."""
    again, beliefs = found.again(entry.expression), found.beliefs
    seeds = entry.seeds + len(again)
    if None in again.values():
        failed = sum(reward is None for reward in again.values())
        reason = f"{failed} of {len(again)} further trainings failed"
        return replace(entry, seeds=seeds, status="failed", val_score=None, reason=reason,
                       cause=Cause.OTHER)  # fmt: skip
    if beliefs is None or entry.expression not in beliefs.subjects:
        return replace(entry, seeds=seeds)
    ends, by = beliefs.again(entry.expression), entry.metric.reward
    low, high = sorted((by(ends.low), by(ends.high)))
    expected = Estimate(by(ends.mean), low, high)
    # A baseline below the head is no match for it, and is ranked among the others by its score.
    ranks = entry.merit > beliefs.cut or not entry.beside
    worth = beliefs.worth[entry.expression][0] if ranks else None
    return replace(entry, seeds=seeds, expected=expected, worth=worth)


def furthest(
    rows: Iterable[Mapping[str, Any]],
    rungs: Iterable[Mapping[str, Any]],
    metric: Metric = ACCURACY,
) -> list[Mapping[str, Any]]:
    """The rows of whole trainings, and of each other function that of the last rung it reached; one
    that was left behind there has the status `dropped` and no score to be ranked by."""
    whole = list(rows)
    known = {row["expression"] for row in whole}
    last: dict[str, Mapping[str, Any]] = {}
    for row in rungs:
        if row["status"] is not None and row["expression"] not in known:
            before = last.get(row["expression"])
            if before is None or before["steps"] < row["steps"]:
                last[row["expression"]] = row
    return whole + [_dropped(row, metric) for row in last.values()]


def _dropped(row: Mapping[str, Any], metric: Metric) -> Mapping[str, Any]:
    if row["status"] != "ok":
        return row
    scored = f"validation {metric.name} {row['val_score']:.4f}"
    reason = f"left after {row['steps']:,} steps with {scored}"
    return {**row, "status": DROPPED, "reason": reason, "left": (row["steps"], row["val_score"])}


def _best_first(entry: Entry) -> tuple[int, float, float, str]:
    """Whole trainings by score, then those left in a rung, the furthest first, then failures."""
    if entry.worth is not None:
        return 0, -entry.worth, -entry.merit, entry.expression
    if entry.val_score is not None:
        return 1, -entry.merit, 0.0, entry.expression
    if entry.left is not None:
        steps, score = entry.left
        return 2, -steps, -entry.metric.reward(score), entry.expression
    return 3, 0.0, 0.0, entry.expression


def _entry(
    expression: str, runs: list[Mapping[str, Any]], relu: float | None, metric: Metric
) -> Entry:
    failed = next((r for r in runs if r["status"] != "ok"), None)
    ms, cost = _ms_per_step(runs), _cost(runs)
    on_processor = any(r.get("device", "cpu") == "cpu" for r in runs)
    roughly = ms / relu if ms and relu and not on_processor else None
    return Entry(
        rank=None,
        expression=expression,
        formula=runs[0]["formula"],
        label=next((r["label"] for r in runs if r["label"]), FORMS.get(expression, "")),
        status=failed["status"] if failed else "ok",
        val_score=None if failed else statistics.fmean(r["val_score"] for r in runs),
        seeds=len(runs),
        seconds=sum(r["seconds"] for r in runs),
        ms_per_step=ms,
        vs_relu=cost[0] if cost else roughly,
        reason=failed["reason"] if failed else "",
        symmetry=runs[0].get("symmetry") or "",
        properties=read_json(runs[0].get("properties") or "{}"),
        vs_relu_range=cost and cost[1:],
        left=runs[0].get("left") or _left_a_race(runs[0]),
        metric=metric,
        cause=known_cause(failed.get("cause")) if failed else None,
        variant=failed.get("variant", "") if failed else "",
        beside=any(r.get("beside", False) for r in runs),
        candidate=any(r.get("candidate", True) for r in runs),
        scores=_scores(runs),
    )


def _left_a_race(row: Mapping[str, Any]) -> tuple[int, float] | None:
    if row["status"] != "raced_out":
        return None
    step, _, score = read_json(row["milestones"])[-1]
    return step, score or 0.0


def _ms_per_step(runs: list[Mapping[str, Any]]) -> float | None:
    times = [r["ms_per_step"] for r in runs if r["ms_per_step"] is not None]
    return statistics.median(times) if times else None


def _cost(runs: list[Mapping[str, Any]]) -> tuple[float, float, float] | None:
    """Over the trainings, each of which was timed beside ReLU: the median, and all intervals."""
    found = [read_json(r["cost"]) for r in runs if r.get("cost") is not None]
    if not found:
        return None
    middle, low, high = zip(*found, strict=True)
    return statistics.median(middle), min(low), max(high)


def _scores(runs: list[Mapping[str, Any]]) -> dict[str, float]:
    """The means of those that all trainings have."""
    found = [read_json(r.get("scores") or "{}") for r in runs]
    names = [name for name in found[0] if all(name in scores for scores in found)]
    return {name: statistics.fmean(scores[name] for scores in found) for name in names}


def status_counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many trials of each status there are, `waiting` among them; statuses that do not occur
    are 0."""
    counts = Counter(row["status"] or "waiting" for row in rows)
    return {status: counts[status] for status in (*STATUSES, DROPPED, "waiting")}
