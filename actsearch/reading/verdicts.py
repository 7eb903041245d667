"""What training again says, in sentences: whether a function that was found is better than ReLU,
and than the best other baseline, beyond luck; or what finds out where nothing was trained again.

Beyond luck: Student's paired t test over seeds has p < 0.05 by Holm among all functions that were
trained again, whose first would else be lucky too, and the 95 % interval is above 0.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from actsearch.reading.plotting import Found
from actsearch.reading.telling import command
from actsearch.results.metrics import Metric
from actsearch.results.repeats import Trained, adjusted, chosen, split_of_all
from actsearch.results.statistics import (
    LEVEL,
    differences,
    interval,
    pairs_needed,
    with_usual_seeds,
)
from actsearch.results.tables import brief
from actsearch.run import Run


@dataclass(frozen=True)
class Verdict:
    """Of one model: the function that is first, as a row of the store, whether one that was found
    is `better` than ReLU beyond luck, the `headline` that says so, and a sentence with the
    numbers."""

    first: Mapping[str, Any]
    better: bool
    headline: str
    sentence: str


@dataclass(frozen=True)
class _Beside:
    """A function beside another: its `gains` by seed, above 0 where it is better, and their p by
    Holm."""

    gains: Sequence[float]
    p: float | None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.gains)

    @property
    def beyond_luck(self) -> bool:
        ends = interval(self.gains)
        return self.p is not None and self.p < LEVEL and ends is not None and ends.low > 0


class _Model:
    """The functions that were trained again on one model, those with all of the usual seeds in
    `order`, the best first and of equals ReLU. `where` names the model if there are several."""

    def __init__(self, found: Found, functions: Mapping[str, Trained], where: str) -> None:
        self.functions = functions
        self.where = where
        tested = {e: t.scores("test_score", t.rows) for e, t in functions.items()}
        self.scores = with_usual_seeds(
            {e: v for e, v in tested.items() if v and not functions[e].failures(functions[e].rows)}
        )
        self.rows = {e: next(iter(trained.rows.values())) for e, trained in functions.items()}
        self.order = sorted(
            self.scores,
            key=lambda e: (
                -functions[e].merit(statistics.fmean(self.scores[e].values())),
                self.rows[e]["label"] != "relu",
            ),
        )
        beside = {e.expression for e in found.entries if e.beside}
        self.baselines = [
            e
            for e in self.order
            if e in beside or (e not in found.expressions and self.rows[e]["label"])
        ]

    @cached_property
    def relu(self) -> str | None:
        return next((e for e in self.order if self.rows[e]["label"] == "relu"), None)

    @property
    def metric(self) -> Metric:
        return self.functions[self.order[0]].metric

    @property
    def tested(self) -> bool:
        """Whether its scores are of test data."""
        return split_of_all(self.functions.values()) == "test"

    @property
    def seeds(self) -> str:
        n = len(self.scores[self.order[0]])
        return f"{n} seed" if n == 1 else f"{n} seeds"

    def name(self, e: str) -> str:
        return self.rows[e]["label"] or brief(self.rows[e]["formula"])

    def gains(self, e: str, reference: str) -> list[float]:
        found = differences(self.scores[e], self.scores[reference])
        return [self.metric.reward(d) for d in found]

    def beside(self, reference: str) -> dict[str, _Beside]:
        """All others, the best first; without those that share no seed with it."""
        others = {e: self.scores[e] for e in self.order if e != reference}
        p = adjusted(others, self.scores[reference])
        found = {e: _Beside(self.gains(e, reference), p[e]) for e in others}
        return {e: one for e, one in found.items() if one.gains}


def verdicts(found: Found) -> Iterator[Verdict]:
    """One for each model on which at least two functions were trained again."""
    models = chosen(found.run.reevaluations())
    for name, functions in models.items():
        model = _Model(found, functions, f" ({name})" if len(models) > 1 else "")
        if len(model.order) > 1:
            better, headline = _headline(model)
            yield Verdict(model.rows[model.order[0]], better, headline, _numbers(found, model))


def next_step(run: Run) -> tuple[str, str]:
    """What a run lacks that has no verdict: a sentence, and what makes one."""
    path = str(run.path)
    said = "No test verdict yet: all scores here are of validation data, by which the search chose."
    if command(run):
        return said, f"actsearch reevaluate {shlex.quote(path)} --top 5 --seeds 3"
    given = "objective=train" if run.objective else "child=net, dataset=data"
    return said, f"actsearch.reevaluate({path!r}, {given}, top=5, seeds=3)"


def _headline(model: _Model) -> tuple[bool, str]:
    """Whether a function that was found is better than ReLU beyond luck, and the sentence."""
    data = ("On test data" if model.tested else "With other seeds, on the data searched by") + (
        f"{model.where}, "
    )
    if model.relu is None:
        return False, f"{data}nothing is known: ReLU has not trained with the seeds of the others."
    beside = model.beside(model.relu)
    known = [e for e in beside if e in model.baselines]
    finds = [e for e in beside if e not in known] or [*beside]
    better = [e for e in finds if beside[e].beyond_luck]
    among = f", by Holm among {len(beside)} functions" if len(beside) > 1 else ""
    how = f"({model.seeds}, paired t{among})."
    if better:
        best, more = better[0], len(better) - 1
        name, p = model.name(best), _p(beside[best])
        said = f"{data}{name} is better than ReLU beyond luck: p = {p} {how}"
        said += f" So {'is' if more == 1 else 'are'} {more} more." if more else ""
        return True, said + _rival(model, best, known)
    best = finds[0]
    name, none = model.name(best), f"{data}no function that was found is better than ReLU"
    if beside[best].mean <= 0:
        said = f"{none}; the best of them is {name} ({model.seeds})."
    elif beside[best].p is None:
        said = f"{data}{name} is better than ReLU, but {model.seeds} cannot tell that from luck."
    else:
        said = f"{none} beyond luck: {name}, the best of them, has p = {_p(beside[best])} {how}"
        said += _seeds_needed(beside[best], len(beside))
    winner = next((e for e in known if beside[e].beyond_luck and e not in finds), None)
    if winner is not None:
        said += f" The baseline {model.name(winner)} is (p = {_p(beside[winner])})."
    return False, said


def _seeds_needed(one: _Beside, among: int) -> str:
    """A sentence; Holm's correction has its first p, and so the smallest, times all functions."""
    needed = pairs_needed(one.mean, statistics.stdev(one.gains), level=LEVEL / among)
    return (
        f" If it is as much better as it seems, about {needed:,} seeds show it." if needed else ""
    )


def _rival(model: _Model, best: str, known: Sequence[str]) -> str:
    """A sentence on the best of the baselines beside ReLU; "" where there is none."""
    rival = next((e for e in known if e != best), None)
    if rival is None:
        return ""
    one = model.beside(rival)[best]
    if one.mean <= 0:
        return f" It is not better than {model.name(rival)}, the best other baseline."
    luck = "beyond luck" if one.beyond_luck else "which may be luck"
    by = model.metric.distance(one.mean)
    return f" It is {by} better than {model.name(rival)}, the best other baseline, {luck}."


def _p(one: _Beside) -> str:
    return f"{one.p:.2g}"


def _numbers(found: Found, model: _Model) -> str:
    """Which function is first, by how much it is better than ReLU, and where the search's first
    stands."""
    order, metric, relu, rows = model.order, model.metric, model.relu, model.rows
    best = order[0]
    data = " on test data" if model.tested else ""
    which, beside = "", ", baselines included" if model.baselines else ""
    if best in model.baselines:
        which, beside = ", a baseline,", ""
    mean = statistics.fmean(model.scores[best].values())
    said = (
        f"Trained again with {model.seeds}{model.where}, {brief(rows[best]['formula'])}{which} is "
        f"first of {len(order)}{data}{beside}: {metric.text(mean)}"
    )
    if relu is not None and relu != best:
        gains = model.gains(best, relu)
        ends = interval(gains)
        said += f", {_beside_relu(statistics.fmean(gains), metric)}"
        if ends is None:
            said += " (without an interval)"
        else:
            open_ = "" if ends.low > 0 else ": these seeds do not tell the two apart"
            low, high = (f"{metric.factor * x:+.{metric.decimals}f}" for x in (ends.low, ends.high))
            said += f" (95 %: {low} to {high}{open_})"
    winner = found.first
    if winner is None:
        return f"{said}."
    if winner.expression == best:
        return f"{said}. It was the search's first too."
    if winner.expression not in order:
        trained = winner.expression in model.functions
        lacks = "has not trained with all of these seeds" if trained else "is not among them"
        return f"{said}. The search's first, {brief(winner.formula)}, {lacks}."
    merits = {e: metric.reward(statistics.fmean(model.scores[e].values())) for e in order}
    place = 1 + sum(merit > merits[winner.expression] for merit in merits.values())
    said += f". The search's first, {brief(winner.formula)}, is {place} of {len(order)}"
    if relu is not None and relu != winner.expression:
        gains = model.gains(winner.expression, relu)
        said += f", {_beside_relu(statistics.fmean(gains), metric)}"
    return f"{said}."


def _beside_relu(gain: float, metric: Metric) -> str:
    """`gain` is positive where it is better."""
    if metric.number(abs(gain)) == metric.number(0.0):
        return "level with relu"
    return f"{metric.distance(gain)} {'better' if gain > 0 else 'worse'} than relu"
