"""Table: the results of a space as they are known, of a run, a file, or the table that comes with
the package. A function is found in it whatever its spelling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from actsearch.controller.scales import FAILED
from actsearch.controller.strategy import Digits, Reward, trained
from actsearch.errors import UsageError
from actsearch.functions import find
from actsearch.results.aims import COST, Aims, Scores, aims_from, details
from actsearch.results.archive import is_archive
from actsearch.results.benchmarks import SPACE_OF, load_benchmark, metric_of
from actsearch.results.metrics import ACCURACY, METRICS, Metric
from actsearch.results.records import ALWAYS_BESIDE, KINDS
from actsearch.run import Run
from actsearch.search_space.candidate import Candidate, candidate_from, same_candidate
from actsearch.search_space.parser import ParseError
from actsearch.search_space.space import Space, extra_operators, space_from
from actsearch.search_space.survey import with_fingerprints, with_rejections

if TYPE_CHECKING:
    import pandas as pd


LEFT_BEHIND = (
    "was searched with --racing or --halving, so it does not know what the functions that were "
    "left behind reach; replay a run without them"
)


@dataclass(frozen=True)
class Known:
    """What a function is worth: its name, its reward, and its scores where several aims are played;
    `name` is None for one that would never be trained, the others None for one that fails."""

    name: str | None
    reward: Reward
    scores: Scores | None = None


@dataclass(frozen=True)
class Sought:
    """What is sought besides a table's metric, as `aims_from` reads it."""

    further: str
    where: str = ""

    def aims(self, metric: Metric) -> Aims | None:
        return aims_from(metric, self.further, self.where)


LookUp = Callable[[Digits, float], Known]


class Results(Protocol):
    """What strategies are played on: the rewards of a space's functions, measured or predicted.
    Its length is the number of functions among which a share of the best is counted."""

    @property
    def space(self) -> Space: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def floor(self) -> float:
        """What a failure counts as where rewards are subtracted."""
        ...

    def __len__(self) -> int: ...

    def top(self, percent: float) -> float:
        """The reward from which on a function is among the best `percent`."""
        ...

    def named(self, formulas: Iterable[str]) -> set[str]:
        """The names under which `look_up` knows these functions."""
        ...

    def look_up(self, digits: Digits, share: float) -> Known:
        """What the point `digits` is worth after this share of the steps."""
        ...


class Table:
    """Known results of a space: the reward of each function by share of the steps, None where it
    failed. `metric` is that of the scores from which the rewards are; `scores` are those of several
    aims, where these are played.

    A function that the table does not have was rejected, or never tried: it fails, is never
    trained, and costs nothing.
    """

    def __init__(
        self,
        space: Space,
        rewards: Mapping[Candidate, Mapping[float, Reward]],
        operators: str,
        metric: Metric = ACCURACY,
        scores: Mapping[Candidate, Scores | None] | None = None,
    ) -> None:
        self.space = space
        self.operators = operators
        self.metric = metric
        self.rewards = dict(rewards)
        self.scores = {row.key: told for row, told in (scores or {}).items() if told is not None}
        self._by_key: dict[str, list[Candidate]] = {}
        for candidate, print_ in with_fingerprints(self.rewards, operators):
            self._by_key.setdefault(print_.key, []).append(candidate)
        self._found: dict[Digits, Candidate | None] = {}
        self._rows: dict[Candidate, Candidate | None] = {}  # of each canonical form

    def __len__(self) -> int:
        return len(self.rewards)

    def top(self, percent: float) -> float:
        """The reward from which on a function is among the best `percent` of the table."""
        best = sorted(trained(self._whole), reverse=True)
        place = max(1, math.ceil(percent / 100 * len(self._whole))) - 1
        return best[min(place, len(best) - 1)]

    @property
    def floor(self) -> float:
        """What a failure counts as where rewards are subtracted: the worst that is known, or less
        where the metric has a range."""
        return FAILED if self.metric.fraction else min(trained(self._whole))

    @property
    def _whole(self) -> list[Reward]:
        return [told[1.0] for told in self.rewards.values() if 1.0 in told]

    def named(self, formulas: Iterable[str]) -> set[str]:
        """The names of these functions, however they are written; raises UsageError for one that
        the table does not have."""
        names: set[str] = set()
        for text in formulas:
            found = find(text, self.operators, extra_operators(self.space))
            [row] = self.rows([found.candidate])
            if row is None:
                raise UsageError(
                    f"the table does not have {text}; 'actsearch show' says what it is"
                )
            names.add(row.key)
        return names

    def rows(self, candidates: Iterable[Candidate]) -> list[Candidate | None]:
        """The row of the table with each function, whatever its spelling, or None."""
        forms = [candidate.canonical(self.operators) for candidate in candidates]
        self._note(forms)
        return [self._rows[form] for form in forms]

    def coverage(self, sample: int = 2000) -> float:
        """The share of the space's candidates that the table has, of those that screening lets
        through; of a sample where the space is large."""
        size = self.space.size
        indices = range(size) if size <= sample else Random(0).sample(range(size), sample)
        points = [self.space.digits(i) for i in indices]
        self._find(points)
        missing = [p for p in points if self._found[p] is None]
        forms = [self.space.decode(p).canonical(self.operators) for p in missing]
        rejected = sum(bool(rejection) for _, rejection in with_rejections(forms, self.operators))
        return (len(points) - len(missing)) / max(1, len(points) - rejected)

    def look_up(self, digits: Digits, share: float) -> Known:
        row = self.find(digits)
        if row is None:
            return Known(None, None)
        rewards = self.rewards[row]
        if share not in rewards:
            raise UsageError(
                f"the table has no {self.metric.name} of {row.key} at {share:g} of the steps, "
                f"which a strategy in rungs asks for; give it a column {self.metric.name}@{share:g}"
            )
        return Known(row.key, rewards[share], self.scores.get(row.key))

    def find(self, digits: Digits) -> Candidate | None:
        """The row of the table with this function, whatever its spelling."""
        if digits not in self._found:
            self._find([digits])
        return self._found[digits]

    def _find(self, points: Sequence[Digits]) -> None:
        """Note the row of each point, or None."""
        rows = self.rows(self.space.decode(p) for p in points)
        self._found |= zip(points, rows, strict=True)

    def _note(self, forms: Iterable[Candidate]) -> None:
        """Note the row of each canonical form, or None: by its text, then by its values."""
        new = {form for form in forms if form not in self._rows}
        self._rows |= {form: form for form in new if form in self.rewards}
        others = sorted(new - self._rows.keys(), key=lambda form: form.key)
        for form, print_ in with_fingerprints(others, self.operators):
            alike = self._by_key.get(print_.key, [])
            same = (row for row in alike if same_candidate(row, form, self.operators))
            self._rows[form] = next(same, None)


def table_from(
    source: str | Path,
    space: str | None = None,
    operators: str | None = None,
    sought: Sought | None = None,
) -> Table:
    """The table of a finished run, or of a CSV or Parquet file with the columns `formula` (or
    `expression`) and `accuracy` (or `val accuracy`), and for rungs `accuracy@0.25`; an empty
    accuracy is a failed training. In the place of `accuracy` stands any name of METRICS. Where
    there is neither run nor file, it is the name of a table that comes with the package. With what
    is `sought` besides, it has the scores of several aims. Raises UsageError where there is none of
    that."""
    path = Path(source)
    if path.is_dir() or is_archive(path):
        return _of_run(Run.open(path), space, sought)
    name = str(source)
    if name in SPACE_OF and not path.exists():
        if operators not in (None, "guarded"):
            raise UsageError(f"{name} was trained with guarded operators, not {operators}")
        if space not in (None, SPACE_OF[name]):
            raise UsageError(f"{name} is a table of {SPACE_OF[name]}; leave --space out")
        made = space_from(SPACE_OF[name])
        return _of_frame(load_benchmark(name), path, made, "guarded", sought)
    if not path.is_file():
        raise UsageError(
            f"no run and no file at {path}; give a run's folder, a .csv or a .parquet, or a table "
            f"that comes with actsearch, {' or '.join(SPACE_OF)}"
        )
    made = space_from(space or "one-unit")
    return _of_frame(_frame(path), path, made, operators or "guarded", sought)


def _of_run(run: Run, space: str | None, sought: Sought | None) -> Table:
    settings = run.config.get("settings", {})
    made = space_from(space or settings.get("space", "one-unit"))
    rows = [
        row
        for row in run.functions()
        if row["status"] not in (None, "rejected")
        and (row["candidate"] or row["label"] in ALWAYS_BESIDE)
    ]
    if not rows:
        raise UsageError(f"{run.path} has no finished function yet; search first")
    if any(row["status"] == "raced_out" or not KINDS[row["kind"]].ranked for row in rows):
        raise UsageError(f"{run.path} {LEFT_BEHIND}")
    metric = run.metric
    rewards = {
        candidate_from(row["expression"], extra_operators(made)): {
            1.0: None if row["val_score"] is None else metric.reward(row["val_score"])
        }
        for row in rows
    }
    scores = None
    if (aims := sought and sought.aims(metric)) is not None:
        told = (
            None if r["val_score"] is None else aims.told(r["val_score"], details(r)) for r in rows
        )
        scores = _all_reported(dict(zip(rewards, told, strict=True)), aims, run.path)
    operators = settings.get("operators", "guarded")
    return _checked(Table(made, rewards, operators, metric, scores), run.path)


def _all_reported(
    scores: dict[Candidate, Scores | None], aims: Aims, path: Path
) -> dict[Candidate, Scores | None]:
    """Raises UsageError where no function has all of the scores."""
    if not any(scores.values()):
        raise UsageError(
            f"{path} has no function with {', '.join(aims.names)}; name scores that its trainings "
            "have returned, or cost, where it was measured"
        )
    return scores


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path} cannot be read as a table: {error}") from error


def _of_frame(
    frame: pd.DataFrame, path: Path, space: Space, operators: str, sought: Sought | None
) -> Table:
    names = {str(name).replace("_", " "): name for name in frame.columns}
    formulas = names.get("expression", names.get("formula"))
    metric, shares = _scores(names, path)
    if formulas is None or metric is None:
        raise UsageError(
            f"{path} has the columns {', '.join(names)}; a table needs formula and accuracy, or in "
            f"its place one of {', '.join(METRICS)}"
        )
    if "status" in names:
        if {"raced_out", "dropped"} & set(frame[names["status"]]):
            raise UsageError(f"{path} {LEFT_BEHIND}")
        frame = frame.loc[frame[names["status"]] != "rejected"]
    if {"name", "candidate"} <= names.keys():  # as top.csv has them
        candidate = frame[names["candidate"]].astype(str).isin(["True", "yes"])
        frame = frame.loc[candidate | frame[names["name"]].isin(ALWAYS_BESIDE)]
    aims = sought and sought.aims(metric)
    for aim in () if aims is None else aims.further:
        if aim.name in SPACE_OF and aim.lower != metric_of(load_benchmark(aim.name)).lower:
            way = "maximise" if aim.lower else "minimise"
            raise UsageError(
                f"{aim.name} has scores of the other direction; say --{way} {aim.name}"
            )
    further = (
        {} if aims is None else {n: _column(frame, names, n, formulas, path) for n in aims.names}
    )
    frame = frame.assign(**{f"aim {name}": column for name, column in further.items()})
    rewards: dict[Candidate, dict[float, Reward]] = {}
    scores: dict[Candidate, Scores | None] = {}
    for row in frame.to_dict("records"):
        try:
            read = candidate_from(str(row[formulas]).lstrip("'"), extra_operators(space))
        except ParseError as error:
            raise UsageError(f"{path}: {error}") from error
        told = {share: _number(row[column], path) for share, column in shares.items()}
        scored = {s: None if math.isnan(v) else metric.reward(v) for s, v in told.items()}
        rewards[read.canonical(operators)] = scored
        if aims is not None:
            of = {metric.name: told[1.0]} | {n: _number(row[f"aim {n}"], path) for n in further}
            known = {name: value for name, value in of.items() if math.isfinite(value)}
            scores[read.canonical(operators)] = aims.of(known)
    if aims is not None:
        _all_reported(scores, aims, path)
    return _checked(Table(space, rewards, operators, metric, scores), path)


def _column(
    frame: pd.DataFrame, names: Mapping[str, Any], aim: str, formulas: Any, path: Path
) -> list[Any]:
    """The scores `aim` of a file's functions: a column; of `cost` that of times beside ReLU, or
    else the time of a step over that of ReLU; or the scores that another table which comes with
    actsearch has of the same functions."""
    spelt = aim.replace("_", " ")
    for name in (spelt, f"val {spelt}", *(["x relu"] if aim == COST.name else [])):
        if name in names:
            return frame[names[name]].tolist()
    if aim in SPACE_OF:
        other = load_benchmark(aim)
        scores = dict(zip(other["expression"], other[metric_of(other).name], strict=True))
        return [scores.get(name, math.nan) for name in frame[formulas]]
    if aim != COST.name:
        raise UsageError(
            f"{path} has no column {aim!r}, only {', '.join(names)}; name one of these, cost, or "
            f"{' or '.join(SPACE_OF)}, whose scores are joined to it"
        )
    steps = names.get("ms per step", names.get("ms/step"))
    relu = frame.loc[frame[formulas] == "relu(x)"]
    if steps is None or relu.empty:
        raise UsageError(
            f"{path} does not say what functions cost; give it a column 'x relu', or 'ms per step' "
            "and a row of relu(x)"
        )
    return [ms / relu[steps].iloc[0] for ms in frame[steps]]


def _scores(names: Mapping[str, Any], path: Path) -> tuple[Metric | None, dict[float, Any]]:
    """The metric of a file's scores, and its columns by share of the steps."""
    for name, metric in METRICS.items():
        whole = names.get(name, names.get(metric.column("val")))
        if whole is not None:
            rungs = (n for n in names if n.startswith(f"{name}@"))
            shares = {_number(n.removeprefix(f"{name}@"), path): names[n] for n in rungs}
            return metric, {1.0: whole} | shares
    return None, {}


def _checked(table: Table, path: Path) -> Table:
    """Raises UsageError for a table without any function that trained, or of accuracies in per
    cent."""
    if not table.rewards:
        raise UsageError(f"{path} holds no function")
    best = trained(reward for told in table.rewards.values() for reward in told.values())
    if not best:
        raise UsageError(f"{path} holds no function that has trained")
    if table.metric.fraction and max(best) > 1.0:
        name = "accuracies" if table.metric == ACCURACY else "scores"
        raise UsageError(f"{path} has {name} above 1; write them as fractions of 1")
    return table


def _number(value: Any, path: Path) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{path}: {value!r} is no number") from None
