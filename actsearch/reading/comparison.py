"""compare(): re-evaluated functions against one of them, over models and seed by seed.

A model is a child on a data set with a recipe, whatever the learning rate: each function has its
own, the one with the best mean validation accuracy, never test. Every function is compared with the
reference on the seeds that both have. A function that failed with one of them loses there.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actsearch.errors import RunError, UsageError
from actsearch.results.leaderboard import Entry
from actsearch.results.repeats import FAILED, Trained, chosen
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
from actsearch.results.tables import Row, score
from actsearch.run import Run

if TYPE_CHECKING:
    import pandas as pd

_WIDE = ("formula", "child", "dataset", "interval")  # columns for which a terminal has no room
_RATES = ("lr", "reference lr")
_COLUMN = {"test": "test_score", "val": "val_score"}


@dataclass(frozen=True)
class Comparison:
    """`models`: a row a function and model; `functions`: a row a function; `verdicts`: a sentence a
    function. Accuracies and differences are fractions of 1."""

    reference: str
    models: Sequence[Row]
    functions: Sequence[Row]
    verdicts: Sequence[str]

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
    """Compare the re-evaluated functions of `runs` with `reference`, a baseline or a formula.

    Wins are counted at full precision, or of per cent rounded to so many `decimals`. Raises
    RunError for a run without re-evaluations, UsageError for a reference that is not among them.
    """
    if metric not in _COLUMN:
        raise ValueError(f"metric {metric!r} is not known; use {' or '.join(_COLUMN)}")
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    rows = reevaluations(opened or [Run.newest()])
    names = {row["expression"]: row["formula"] for row in rows}
    names |= {row["expression"]: row["label"] for row in rows if row["label"]}
    against = _find(reference, rows, names)
    models = chosen(rows)
    column = _COLUMN[metric]
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
        [p.row(names[e], formulas[e]) for e in order for p in found[e]],
        [_function_row(names[e], counted[e], *tests[e]) for e in order],
        [_verdict(names[e], names[against], found[e], counted[e], *tests[e], len(order))
         for e in order],
    )  # fmt: skip


@dataclass(frozen=True)
class Worth:
    """What scores of a search are worth: how far one training scatters, what a seed does to all
    functions alike taken out, and by expression what is expected when a function of the head is
    trained again (below the head the expectation means nothing), and what was seen then."""

    noise: Noise
    expected: Mapping[str, float]
    again: Mapping[str, Sequence[float]]


def worth(run: Run) -> Worth | None:
    """By the re-evaluations under the search's own protocol; None where there are none with two
    seeds, or too few functions."""
    found = [e for e in run.leaderboard() if e.val_score is not None]
    protocol = {row["protocol"] for row in run.rows("search")}
    again: dict[str, dict[int, float]] = {}
    for row in run.rows("reevaluate"):
        if row["protocol"] in protocol and row["val_score"] is not None:
            again.setdefault(row["expression"], {})[row["seed"]] = row["val_score"]
    try:
        scatter = noise(list(with_usual_seeds(again).values()))
        shrunk = expected_on_retraining([e.val_score or 0.0 for e in found], scatter.sd)
    except ValueError:
        return None
    head = found[: head_of(len(found))]
    expected = {e.expression: score for e, score in zip(head, shrunk.expected, strict=False)}
    return Worth(scatter, expected, {e: list(seeds.values()) for e, seeds in again.items()})


def luck(run: Run) -> str | None:
    """What the search's best function is worth when it is trained again, in a sentence; None where
    it cannot be said."""
    known = worth(run)
    if known is None:
        return None
    return luck_of([e for e in run.leaderboard() if e.rank is not None], known, run.metric)


def luck_of(found: Sequence[Entry], known: Worth, metric: str) -> str:
    """The sentence, of the ranked functions of a search."""
    best, seen = found[0], known.again.get(found[0].expression)
    then = f"; it had {score(statistics.fmean(seen), metric)} (n = {len(seen)})" if seen else ""
    return (
        f"The best of {len(found):,} functions is partly luck. One training scatters by "
        f"{score(known.noise.sd, metric)}, not counting what a seed does to all functions alike. "
        f"{best.formula} had {score(best.val_score or 0.0, metric)} in the search; trained "
        f"again it should have about {score(known.expected[best.expression], metric)} on "
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
    from actsearch.search_space.analysis.equivalence import canonical
    from actsearch.search_space.baselines import BASELINES
    from actsearch.search_space.parser import ParseError, parse

    try:
        expr = parse(BASELINES.get(reference, reference))
    except ParseError as error:
        raise UsageError(f"unknown reference {reference!r}: {error}") from error
    forms = {str(canonical(expr, str(row["operators"]))) for row in rows}
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
    def medians(self) -> tuple[float, float]:
        return self.ours.median(self.column, self.seeds), self.theirs.median(
            self.column, self.seeds
        )

    @property
    def differences(self) -> list[float]:
        scores = (t.scores(self.column, self.seeds) for t in (self.ours, self.theirs))
        return differences(*scores)

    def row(self, name: str, formula: str) -> Row:
        ours, theirs = (None if m == FAILED else m for m in self.medians)
        paired = self.differences
        found = interval(paired)
        mean = statistics.fmean(paired) if paired else None
        sd = statistics.stdev(paired) if len(paired) > 1 else None
        first = next(iter(self.ours.rows.values()))
        return {
            "function": name,
            "formula": formula,
            "model": self.model,
            "child": first["child"],
            "dataset": first["dataset"],
            "lr": self.ours.lr,
            "reference lr": self.theirs.lr,
            "seeds": len(self.seeds),
            "median accuracy": ours,
            "reference accuracy": theirs,
            "difference, paired": mean,
            "from, paired": found.low if found else None,
            "to, paired": found.high if found else None,
            "interval": found.method if found else None,
            "Wilcoxon p": wilcoxon(paired),
            "seeds needed": pairs_needed(mean, sd) if mean is not None and sd is not None else None,
            "note": self.note,
        }

    @property
    def note(self) -> str:
        """Which trainings failed, on either side."""
        told = [
            f"{who}{len(t.failures)} of {len(t.rows)} {t.failures[0]}"
            for who, t in (("", self.ours), ("reference: ", self.theirs))
            if t.failures
        ]
        return "; ".join(told)


def _count(pairs: Sequence[_Pair], decimals: int | None) -> Wins:
    medians = {pair.model: pair.medians for pair in pairs if pair.seeds}
    ours, theirs = ({m: 100 * both[i] for m, both in medians.items()} for i in (0, 1))
    return count_wins(ours, theirs, decimals)


def _function_row(name: str, counts: Wins, p: float, holm_p: float) -> Row:
    return {"function": name, **vars(counts), "sign test p": p, "Holm p": holm_p}


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
    found = [i for i in (interval(pair.differences) for pair in pairs) if i is not None]
    above, below = sum(i.low > 0 for i in found), sum(i.high < 0 for i in found)
    if not found:
        return "; too few seeds for an interval"
    return f"; by seed it is above on {above} and below on {below} of {len(found)} (95 % intervals)"


def _failures(pairs: Sequence[_Pair]) -> str:
    lost = [p.model for p in pairs if p.medians[0] == FAILED]
    return f"; it failed to train on {', '.join(lost)}, which counts as a loss" if lost else ""


def _models(n: int) -> str:
    return f"{n} model" if n == 1 else f"{n} models"


def _paths(runs: Iterable[Run]) -> str:
    return ", ".join(str(run.path) for run in runs) or "the newest run"


def text(comparison: Comparison, table: Callable[[Sequence[Row]], str]) -> str:
    """Both tables, each by `table` of results.tables.FORMATS, and the sentences."""
    one_rate = len({row[k] for row in comparison.models for k in _RATES}) < 2
    hidden = (*_WIDE, *_RATES) if one_rate else _WIDE
    models = [{k: v for k, v in row.items() if k not in hidden} for row in comparison.models]
    sentences = "\n\n".join(comparison.verdicts)
    return f"{table(models)}\n{table(comparison.functions)}\n{sentences}\n"
