"""plot(): figures of what a run has stored. FIGURES has one row for each `--of`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from actsearch.errors import NoCandidateError, RunError, UsageError, written
from actsearch.reading.comparison import Comparison, Error, Worth, compare, worth
from actsearch.results.figures.plots import Figure, write
from actsearch.results.figures.searches import (
    OPERATORS_FROM,
    SHOWN,
    LossCurve,
    controller_figure,
    difference_figure,
    failure_figure,
    loss_figure,
    operator_figure,
    progress_figure,
)
from actsearch.results.figures.trade_offs import (
    complexity_figure,
    cost_figure,
    front_figure,
)
from actsearch.results.figures.trainings import (
    Inspected,
    beta_figure,
    file_name,
    preactivation_figure,
)
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import Outcome
from actsearch.results.tables import brief
from actsearch.run import Run, named

COURSES = 5  # functions whose loss is drawn, beside ReLU and Swish


class Found:
    """What a run has stored, read once; `function` is the one that is asked for, None for all."""

    def __init__(self, run: Run, function: str | None = None) -> None:
        self.run = run
        self.function = function

    @cached_property
    def entries(self) -> list[Entry]:
        return self.run.leaderboard()

    @cached_property
    def ranked(self) -> list[Entry]:
        return [e for e in self.entries if e.rank is not None]

    @cached_property
    def expressions(self) -> set[str]:
        """Of all that the search has tried, baselines included."""
        return {e.expression for e in self.entries}

    @cached_property
    def first(self) -> Entry | None:
        """The best candidate; the best baseline where no candidate has trained."""
        return next((e for e in self.ranked if not e.beside), next(iter(self.ranked), None))

    @cached_property
    def head(self) -> list[Entry]:
        """What is drawn of the best: the ranked without the baselines that were asked for."""
        return [e for e in self.ranked if not e.asked_for]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return self.run.rows("search")

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        return self.run.config.get("settings", {})

    @cached_property
    def metric(self) -> Metric:
        return self.run.metric

    @cached_property
    def known(self) -> Worth | None:
        """What its scores are worth, where re-evaluations say it."""
        return worth(self.run)

    @cached_property
    def error(self) -> Error:
        """Of each score of the search."""
        examples = self.run.config.get("data", {}).get("examples", {}).get("val", 0)
        return Error(self.known, examples if self.metric == ACCURACY else 0)

    @cached_property
    def health(self) -> list[dict[str, float]]:
        store = self.run.store(readonly=True)
        try:
            return store.health(self.settings.get("strategy", ""))
        finally:
            store.close()

    @cached_property
    def inspected(self) -> list[Inspected]:
        return inspected(self.run, self.function)

    def courses(self, n: int = COURSES) -> list[LossCurve]:
        """The losses of the best `n` functions, and of ReLU and Swish."""
        wanted = {e.expression: e for e in self.head[:n]}
        wanted |= {e.expression: e for e in self.head if e.beside}
        trials = {row["expression"]: row["id"] for row in self.rows}
        store = self.run.store(readonly=True)
        try:
            return [
                LossCurve(e.label or brief(e.formula), store.curve(trials[expression]))
                for expression, e in wanted.items()
                if expression in trials
            ]
        finally:
            store.close()

    def gallery(self, n: int = SHOWN) -> Figure | None:
        """Of the best `n` candidates, a panel a function; of those that the parser knows: a user's
        own operators are not in the store."""
        from actsearch.results.figures.functions import Curve, curve_of, gallery_figure
        from actsearch.search_space.candidate import candidate_from
        from actsearch.search_space.expression import formula
        from actsearch.search_space.parser import ParseError

        operators = self.settings.get("operators", "guarded")
        found: list[Curve] = []
        for entry in self.head[:n]:
            with suppress(ParseError):
                for expr in candidate_from(entry.expression).functions:
                    title = f"#{entry.rank}  {brief(formula(expr))}"
                    found.append(curve_of(expr, operators, title))
        return gallery_figure(found)

    @cached_property
    def compared(self) -> Comparison | None:
        """The re-evaluations beside ReLU, where there are any."""
        try:
            return compare(self.run)
        except (RunError, UsageError, ValueError):
            return None

    def differences(self) -> Figure | None:
        compared = self.compared
        return compared and difference_figure(
            compared.models, compared.reference, compared.metrics, compared.splits
        )


@dataclass(frozen=True)
class Kind:
    """What `--of` can be: the figures, and what a run without any lacks."""

    make: Callable[[Found], Iterable[Figure | None]]
    missing: str


_SEARCHED = "no function that has trained: 'actsearch search {run}' goes on"
_FEW = "fewer than {n} functions that have trained: 'actsearch search {{run}}' goes on"
_AGAIN = "no re-evaluation, which records them: 'actsearch reevaluate {run}' makes one"

FIGURES: Mapping[str, Kind] = {
    "functions": Kind(lambda found: [found.gallery()], _SEARCHED),
    "progress": Kind(lambda found: [progress_figure(found.rows, found.metric)], _SEARCHED),
    "losses": Kind(lambda found: [loss_figure(found.courses())], _SEARCHED),
    "cost": Kind(
        lambda found: [cost_figure(found.entries)],
        _FEW.format(n=2),
    ),
    "front": Kind(
        lambda found: [front_figure(found.entries, found.run.aims)],
        "no second score that was sought: of score and cost the figure is --of cost",
    ),
    "complexity": Kind(
        lambda found: [complexity_figure(found.entries, found.error.of)],
        _FEW.format(n=2),
    ),
    "operators": Kind(
        lambda found: [operator_figure(found.entries)], _FEW.format(n=OPERATORS_FROM)
    ),
    "failures": Kind(lambda found: [failure_figure(found.entries)], "no function that failed"),
    "controller": Kind(
        lambda found: [controller_figure(found.health)],
        "no controller's record: strategies that learn, as ppo, keep one",
    ),
    "differences": Kind(lambda found: [found.differences()], _AGAIN),
    "betas": Kind(lambda found: map(beta_figure, found.inspected), _AGAIN),
    "preactivations": Kind(lambda found: map(preactivation_figure, found.inspected), _AGAIN),
}


def plot(
    run: Run, of: str = "all", function: str | None = None, output: str | Path | None = None
) -> list[Path]:
    """Draw the figures of one kind, or all, into a folder [RUN/figures]; `function` is the only one
    whose betas and pre-activations are drawn. Returns the files that were written; raises
    NoCandidateError where the run has nothing to draw."""
    found = Found(run, function)
    kinds = FIGURES if of == "all" else [of]
    figures = [figure for kind in kinds for figure in FIGURES[kind].make(found) if figure]
    if not figures:
        raise NoCandidateError(_nothing(run, of, function))
    folder = Path(output) if output else run.beside("figures")
    with written(folder):
        return write(figures, folder, of, f"{of.capitalize()} of {run.path}")


def inspected(run: Run, function: str | None = None) -> list[Inspected]:
    """Each function on each model of the run's re-evaluations, its seeds together."""
    store = run.store(readonly=True)
    try:
        trials = {row["id"]: row for row in store.rows("reevaluate")}
        outcomes = dict(store.outcomes("reevaluate"))
        models = {p: named(store.protocol(p)) for p in {row["protocol"] for row in trials.values()}}
    finally:
        store.close()
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, outcome in outcomes.items():
        row = trials[number]
        if outcome.status == "ok" and (function is None or _is(row, function, models)):
            groups[row["expression"], row["protocol"]].append(number)
    found: list[Inspected] = []
    names: set[str] = set()
    for (_, protocol), numbers in groups.items():
        row = trials[numbers[0]]
        name = file_name(row["label"] or row["formula"])
        if len(models) > 1:
            name = f"{name}-{file_name(models[protocol]['child'])}"
        while name in names:
            name += "-"
        names.add(name)
        found.append(_together(row, name, models[protocol], [outcomes[i] for i in numbers]))
    return found


def _is(row: Mapping[str, Any], function: str, models: Mapping[str, Mapping[str, Any]]) -> bool:
    """By its name, its formula as it is shown, or any formula of the same canonical form."""
    if function in (row["label"], row["formula"], row["expression"]):
        return True
    from actsearch.search_space.candidate import candidate_from

    operators = models[row["protocol"]].get("operators", "guarded")
    return candidate_from(function).canonical(operators).key == row["expression"]


def _together(
    row: Mapping[str, Any], name: str, model: Mapping[str, Any], outcomes: Iterable[Outcome]
) -> Inspected:
    details = [outcome.details for outcome in outcomes]
    where = f"{model['child']} on {model['dataset']}"
    betas = [d["betas"] for d in details if d.get("betas")]
    together = tuple(
        tuple(value for values in each for value in values if value is not None)
        for each in zip(*betas, strict=True)
    )
    counted = [d["preactivations"] for d in details if "preactivations" in d]
    return Inspected(row["formula"], where, name, len(details), together, _summed(counted))


def _summed(histograms: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    if not histograms:
        return None
    return {
        **histograms[0],
        "counts": [sum(each) for each in zip(*(h["counts"] for h in histograms), strict=True)],
        "below": sum(h["below"] for h in histograms),
        "above": sum(h["above"] for h in histograms),
    }


def _nothing(run: Run, of: str, function: str | None) -> str:
    if of == "all":
        return f"{run.path} has nothing to draw yet"
    missing = FIGURES[of].missing
    if missing != _AGAIN or not run.rows("reevaluate"):
        return f"{run.path} has {missing.format(run=run.path)}"
    if function:
        return (
            f"{run.path} has no {of} of {function} in its re-evaluations; "
            f"without --function those of all that have any are drawn"
        )
    return f"no function that was re-evaluated in {run.path} has {of} to draw"
