"""compare(): re-evaluated functions against one of them, over models and seed by seed.

A model is a child on a data set with a recipe, whatever the learning rate: each function has its
own, the one with the best mean validation score, never test. Every function is compared with the
reference on the seeds that both have. A function that failed with one of them loses there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actsearch.errors import RunError, UsageError
from actsearch.reading.confirming import conclusion
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import Metric, common, p_value
from actsearch.results.repeats import FAILED, Trained, chosen, split_of_all
from actsearch.results.statistics import (
    LEVEL,
    Noise,
    Wins,
    count_wins,
    differences,
    expected_on_retraining,
    fewest_models,
    head_of,
    holm,
    interval,
    noise,
    pairs_needed,
    sign_test,
    wilcoxon,
    with_usual_seeds,
)
from actsearch.results.tables import Formula, Row, brief
from actsearch.run import Run
from actsearch.search_space.text import check_among

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {"test": "test_score", "val": "val_score"}


@dataclass(frozen=True)
class Comparison:
    """`models`: a row a function and model; `functions`: a row a function; `verdicts`: a sentence a
    function; `metrics` and `splits`: of each model, what a score is and of which data. Accuracies
    and differences of such are fractions of 1."""

    reference: str
    models: Sequence[Row]
    functions: Sequence[Row]
    verdicts: Sequence[str]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """`models` as a table of pandas."""
        import pandas as pd

        return pd.DataFrame(self.models)


def compare(
    *runs: str | Path | Run,
    reference: str = "relu",
    metric: str = "test",
    decimals: int | None = None,
) -> Comparison:
    """Compare the re-evaluated functions of `runs` with `reference`, a formula, a name or RUN#RANK.

    Wins are counted at full precision, or of per cent rounded to so many `decimals`. Raises
    RunError for a run without re-evaluations, UsageError for a reference that is not among them.
    """
    check_among("metric", metric, COLUMNS)
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    rows = reevaluations(opened or [Run.newest()])
    names = {row["expression"]: row["formula"] for row in rows}
    names |= {row["expression"]: row["label"] for row in rows if row["label"]}
    against = _find(reference, rows, names)
    models = chosen(rows)
    column = COLUMNS[metric]
    one = common(row["metric"] for row in rows)
    called = one.name if one else "score"
    found = {
        expression: [
            _Pair.of(model, functions[expression], functions[against], column)
            for model, functions in models.items()
            if expression in functions and against in functions
        ]
        for expression in names
        if expression != against
    }
    if not found:
        raise RunError(
            f"only {names[against]} was re-evaluated in {_paths(opened)}; 'actsearch reevaluate' "
            "trains others beside it"
        )
    counted = {e: _count(pairs, decimals) for e, pairs in found.items()}
    raw = [sign_test(counts) for counts in counted.values()]
    tests = dict(zip(counted, zip(raw, holm(raw), strict=True), strict=True))
    order = sorted(found, key=lambda e: (-counted[e].wins + counted[e].losses, names[e]))
    formulas = {row["expression"]: row["formula"] for row in rows}
    return Comparison(
        names[against],
        [p.row(names[e], formulas[e], called) for e in order for p in found[e]],
        [_function_row(names[e], counted[e], *tests[e]) for e in order],
        [_verdict(names[e], names[against], found[e], counted[e], *tests[e], len(order))
         for e in order],
        {model: next(iter(functions.values())).metric for model, functions in models.items()},
        {model: split_of_all(functions.values()) for model, functions in models.items()},
    )  # fmt: skip


@dataclass(frozen=True)
class Worth:
    """What scores of a search are worth: how far one training scatters, what a seed does to all
    functions alike taken out, and by expression what is expected when a function of the head is
    trained again (below the head the expectation means nothing), and what was seen then."""

    noise: Noise
    expected: Mapping[str, float]
    again: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Error:
    """The standard error of a score of the search: the binomial one of its `examples` of validation
    (0: the score is not a share of such), and how far a training of the function scatters, where
    that is known, added in quadrature.

    A little of what trainings scatter by is the examples', so this is too wide by a factor of
    sqrt(2) at most."""

    known: Worth | None
    examples: int

    def of(self, entry: Entry) -> float | None:
        p = entry.val_score
        if p is None:
            return None
        counted = math.sqrt(p * (1 - p) / self.examples) if self.examples else 0.0
        if self.known is None:
            return counted or None
        again = self.known.again.get(entry.expression, ())
        own = statistics.stdev(again) if len(again) > 1 else 0.0
        return math.hypot(counted, max(own, self.known.noise.sd))


def judged(found: Iterable[Entry]) -> list[Entry]:
    """What the luck of a search is judged by: its candidates that trained, ReLU and Swish. Other
    baselines were chosen for what they are, so their spread says nothing of the candidates'."""
    return [e for e in found if e.val_score is not None and not e.asked_for]


def worth(run: Run) -> Worth | None:
    """By the re-evaluations under the search's own protocol; None where there are none with two
    seeds, or too few functions."""
    found = judged(run.leaderboard())
    protocol = {row["protocol"] for row in run.rows("search")}
    again: dict[str, dict[int, float]] = {}
    for row in run.rows("reevaluate"):
        if row["protocol"] in protocol and row["val_score"] is not None:
            again.setdefault(row["expression"], {})[row["seed"]] = row["val_score"]
    try:
        scatter = noise(list(with_usual_seeds(again).values()))
        shrunk = expected_on_retraining([e.merit for e in found], scatter.sd)
    except ValueError:
        return None
    head = found[: head_of(len(found))]
    expected = {
        e.expression: e.metric.reward(merit)
        for e, merit in zip(head, shrunk.expected, strict=False)
    }
    return Worth(scatter, expected, {e: list(seeds.values()) for e, seeds in again.items()})


def luck(run: Run) -> str | None:
    """What the search's best function is worth when it is trained again, in a sentence; None where
    it cannot be said."""
    known, said = worth(run), conclusion(run)
    if said:
        return _as_expected(run, said[0])
    if known is None:
        return None
    return luck_of(run.leaderboard(), known)


def _as_expected(run: Run, said: str) -> str:
    """What a search that has confirmed expected of its winner, and what came of it."""
    first = next(e for e in run.leaderboard() if e.rank is not None and not e.beside)
    protocol = {row["protocol"] for row in run.rows("search")}
    seen = [
        row["val_score"]
        for row in run.rows("reevaluate")
        if row["expression"] == first.expression
        and row["protocol"] in protocol
        and row["val_score"] is not None
    ]
    if not seen:
        return said
    mean = first.metric.text(statistics.fmean(seen))
    return f"{said} Re-evaluated with {len(seen)} fresh seeds it had {mean}."


def luck_of(found: Sequence[Entry], known: Worth) -> str:
    """The sentence, of the functions of a search, best first. The best is of its candidates alone:
    nobody chose a baseline for its score."""
    candidates = [e for e in judged(found) if not e.beside]
    best = candidates[0]
    metric, seen = best.metric, known.again.get(best.expression)
    then = f"; it had {metric.text(statistics.fmean(seen))} (n = {len(seen)})" if seen else ""
    return (
        f"The best of {len(candidates):,} candidates is partly luck. One training scatters by "
        f"{metric.text(known.noise.sd)}, not counting what a seed does to all functions alike. "
        f"{brief(best.formula)} had {metric.text(best.val_score or 0.0)} in the search; trained "
        f"again it should have about {metric.text(known.expected[best.expression])} on "
        f"validation data, give or take what is common to all{then}."
    )


def reevaluations(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The finished re-evaluations of all runs; a training that two of them have is taken once.

    Raises RunError for a run that has none."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for run in runs:
        rows = run.reevaluations()
        if not rows:
            raise RunError(
                f"{run.path} has no finished re-evaluation; 'actsearch reevaluate {run.path}' "
                "makes one"
            )
        for row in rows:
            found.setdefault((row["expression"], row["protocol"], row["seed"]), row)
    return list(found.values())


def _find(reference: str, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """The expression that is meant, by its name, its formula, or its canonical form."""
    for row in rows:
        if reference in (row["label"], row["formula"], row["expression"]):
            return row["expression"]
    from actsearch.functions import find
    from actsearch.search_space.baselines import BASELINES
    from actsearch.search_space.parser import ParseError

    try:
        meant = find(BASELINES.get(reference, reference)).candidate
    except ParseError as error:
        raise UsageError(f"unknown reference {reference!r}: {error}") from error
    forms = {meant.canonical(str(row["operators"])).key for row in rows}
    if not forms & names.keys():
        raise UsageError(
            f"{reference!r} was not re-evaluated; re-evaluated were {', '.join(names.values())}"
        )
    return min(forms & names.keys())


@dataclass(frozen=True)
class _Pair:
    """A function and the reference on one model, at the seeds that both have."""

    model: str
    ours: Trained
    theirs: Trained
    column: str
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, model: str, ours: Trained, theirs: Trained, column: str) -> _Pair:
        return cls(
            model, ours, theirs, column, tuple(sorted(ours.rows.keys() & theirs.rows.keys()))
        )

    @property
    def medians(self) -> tuple[float | None, float | None]:
        return self.ours.median(self.column, self.seeds), self.theirs.median(
            self.column, self.seeds
        )

    @property
    def merits(self) -> tuple[float, float]:
        """The medians turned so that higher is better, FAILED where one failed."""
        ours, theirs = self.medians
        return self.ours.merit(ours), self.theirs.merit(theirs)

    @property
    def differences(self) -> list[float]:
        scores = (t.scores(self.column, self.seeds) for t in (self.ours, self.theirs))
        return differences(*scores)

    def row(self, name: str, formula: str, called: str) -> Row:
        """The columns of scores are `called` after the metric."""
        metric, (ours, theirs) = self.ours.metric, self.medians
        paired = self.differences
        found = interval(paired)
        mean = statistics.fmean(paired) if paired else None
        sd = statistics.stdev(paired) if len(paired) > 1 else None
        first = next(iter(self.ours.rows.values()))
        return {
            "function": Formula(name),
            "formula": Formula(formula),
            "model": self.model,
            "child": first["child"],
            "dataset": first["dataset"],
            "lr": self.ours.lr,
            "reference lr": self.theirs.lr,
            "seeds": len(self.seeds),
            f"median {called}": metric.cell(ours),
            f"reference {called}": metric.cell(theirs),
            "difference, paired": metric.cell(mean, signed=True),
            "from, paired": metric.cell(found.low if found else None, signed=True),
            "to, paired": metric.cell(found.high if found else None, signed=True),
            "interval": found.method if found else None,
            "Wilcoxon p": p_value(wilcoxon(paired)),
            "seeds needed": pairs_needed(mean, sd) if mean is not None and sd is not None else None,
            "note": self.note,
        }

    @property
    def note(self) -> str:
        """Which trainings failed, on either side, of the seeds that both have."""
        told = [
            f"{who}{len(failures)} of {len(self.seeds)} {failures[0]}"
            for who, t in (("", self.ours), ("reference: ", self.theirs))
            if (failures := t.failures(self.seeds))
        ]
        return "; ".join(told)


def _count(pairs: Sequence[_Pair], decimals: int | None) -> Wins:
    """By scores as people read them, higher for the better."""
    shown = {pair.model: (pair.ours.metric.factor, pair.merits) for pair in pairs if pair.seeds}
    ours, theirs = ({m: by * both[i] for m, (by, both) in shown.items()} for i in (0, 1))
    return count_wins(ours, theirs, decimals)


def _function_row(name: str, counts: Wins, p: float, holm_p: float) -> Row:
    return {
        "function": Formula(name),
        **vars(counts),
        "sign test p": p_value(p),
        "Holm p": p_value(holm_p),
    }


def _verdict(
    name: str,
    reference: str,
    pairs: Sequence[_Pair],
    counts: Wins,
    p: float,
    holm_p: float,
    functions: int,
) -> str:
    """One sentence: how often it won, whether that says anything, and what would be needed."""
    name, reference = brief(name), brief(reference)
    shared = [pair for pair in pairs if pair.seeds]
    if not shared:
        return f"{name} and {reference} share no model with the same seeds."
    tied = f", tied on {counts.ties}" if counts.ties else ""
    tested = f"sign test p = {p:.2g}"
    if functions > 1:
        tested += f", {holm_p:.2g} by Holm among {functions} functions"
    return (
        f"{name} beats {reference} on {counts.wins} of {_models(len(shared))}{tied} "
        f"({tested}, {_significance(counts, p, holm_p, functions)}){_intervals(shared)}"
        f"{_failures(shared)}."
    )


def _significance(counts: Wins, p: float, holm_p: float, functions: int) -> str:
    if holm_p < LEVEL:
        return "significant"
    if p < LEVEL:
        fewest = fewest_models(LEVEL / functions)
        return f"significant alone but not among all: {fewest} models without a loss always are"
    if counts.wins <= counts.losses:
        return "nothing says that it is better"
    return (
        f"not significant with {_models(counts.wins + counts.ties + counts.losses)}: at least "
        f"{fewest_models()} without a loss are needed"
    )


def _intervals(pairs: Sequence[_Pair]) -> str:
    """On how many models the seeds alone tell the two apart."""
    gains = ([p.ours.metric.reward(d) for d in p.differences] for p in pairs)
    found = [i for i in map(interval, gains) if i is not None]
    better, worse = sum(i.low > 0 for i in found), sum(i.high < 0 for i in found)
    if not found:
        return "; too few seeds for an interval"
    return (
        f"; by seed it is better on {better} and worse on {worse} of {len(found)} (95 % intervals)"
    )


def _failures(pairs: Sequence[_Pair]) -> str:
    lost = [p.model for p in pairs if p.merits[0] == FAILED]
    return f"; it failed to train on {', '.join(lost)}, which counts as a loss" if lost else ""


def _models(n: int) -> str:
    return f"{n} model" if n == 1 else f"{n} models"


def _paths(runs: Iterable[Run]) -> str:
    return ", ".join(str(run.path) for run in runs) or "the newest run"
