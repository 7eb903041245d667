"""What the tables of the one-unit space say, which `shipped_table.py` wrote.

    python benchmarks/one_unit.py [--figure FILE.png] [--into docs/one_unit.md]

Intervals of groups and correlations are by a bootstrap over functions (95 %, 2,000 resamples, seed
0). `--into` puts each table in the place of the one below its title.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from shipped_table import ENDED

from actsearch.results.benchmarks import ONE_UNIT, load_benchmark
from actsearch.results.figures.plots import (
    DPI,
    Figure,
    Line,
    Panel,
    Points,
    to_matplotlib,
)
from actsearch.results.figures.searches import operators_in
from actsearch.results.metrics import ACCURACY
from actsearch.results.statistics import expected_on_retraining, interval, noise, with_usual_seeds
from actsearch.results.tables import to_markdown
from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.analysis.fingerprint import fingerprints
from actsearch.search_space.baselines import BASELINES
from actsearch.search_space.expression import Expr
from actsearch.search_space.parser import parse

RESAMPLES = 2_000
# Ramachandran et al. 2017, Table 1, beside Swish; those with a square have two core units.
PAPERS = ("max(x, sigmoid(x))", "cos(x) - x", "min(x, sin(x))", "atan(x)**2 - x", "max(x, tanh(x))",
          "sinc(x) + x", "x * asinh(x)**2")  # fmt: skip
KNOWN = {**BASELINES, **{text: text for text in PAPERS}}
CHANCE = 0.15  # below it a function of ten classes has learnt next to nothing
FEW = 10  # functions of which nothing is said below
ENOUGH = 20  # members of a group for a percentile bootstrap, which is too narrow for fewer
PERIODIC = {"sin", "cos", "sinc"}
HEAD = 300  # how many of the best were trained again
FAST = 1.5  # a power of x between x and x^2
BEST = 30  # of the head, of whose luck is said
LEVEL = 0.05  # the head's level is what all but this share of its further trainings reach

Rows = list[dict[str, Any]]
Groups = Sequence[tuple[str, np.ndarray]]  # a name, and which functions are of it


@dataclass(frozen=True)
class Effect:
    """Of a group of `n` functions: the mean percentile above that of all others, with a 95 %
    interval where there are enough."""

    name: str
    n: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Trainings:
    """Accuracies of n functions in the search, (n,), and with k further seeds, (n, k)."""

    names: tuple[str, ...]
    searched: np.ndarray
    again: np.ndarray


class Findings:
    """Tables of rows, made of the functions that trained to an end, well or not. A training that
    diverged counts as an accuracy of 0."""

    def __init__(self, frame: pd.DataFrame, again: pd.DataFrame) -> None:
        self.provenance = frame.attrs["provenance"]
        self.trained = frame[frame["status"].isin(ENDED)].reset_index(drop=True)
        self.score = self.trained["accuracy"].fillna(0.0).to_numpy()
        self.percentile = pd.Series(self.score).rank(pct=True).to_numpy()  # 1: the best
        self.searched = dict(zip(self.trained["expression"], self.score, strict=True))
        self.rank = dict(zip(self.trained["expression"], self.trained["rank"], strict=True))
        self.operators = [operators_in(e) for e in self.trained["expression"]]
        ended = again[again["status"].isin(ENDED)]
        self.again = ended.assign(accuracy=ended["accuracy"].fillna(0.0))
        # By seed, of the functions that trained again as in the search: with the seeds that most
        # have, and with others that the head was given afterwards.
        every = self._by_seed()
        self.seeds = with_usual_seeds(every)
        usual = set().union(*self.seeds.values())
        later = {
            e: {i: v for i, v in found.items() if i not in usual} for e, found in every.items()
        }
        self.fresh = with_usual_seeds({e: found for e, found in later.items() if found})

    def _by_seed(self) -> dict[str, dict[int, float]]:
        same = self.again[self.again["protocol"] == self.provenance["protocol hash"]]
        return {
            str(e): dict(zip(group["seed"], group["accuracy"], strict=True))
            for e, group in same.groupby("expression")
        }

    def mean(self, expression: str) -> float:
        return float(np.mean(list(self.seeds[expression].values())))

    def all(self) -> dict[str, Rows]:
        return {
            "What came of them": self.distribution(),
            "What grows faster than x": self.growth(),
            "The head, by its further trainings": self.head(),
            "The first of it, with fresh seeds": self.confirmed(),
            "Known functions": self.known(),
            "How much of it is luck": self.noise(),
            "The paper's findings": self.claims(),
            "Operators": self.by_operator(),
            "What short trainings say": self.early(),
            "What other children and learning rates say": self.elsewhere(),
        }

    def distribution(self) -> Rows:
        counts = self.provenance["counts"]
        rows: Rows = [{"": status, "functions": f"{n:,}"} for status, n in counts.items() if n]
        ended = 100 * self.trained["accuracy"].dropna()
        for low, high in pairwise([0, 12, 20, 25, 30, 35, 38, 40, 100]):
            n = int(((ended >= low) & (ended < high)).sum())
            rows.append({"": f"{low} to {high} %", "functions": f"{n:,}"})
        return rows

    def growth(self) -> Rows:
        """How many diverged, and how soon, of the functions whose slope does not settle far from 0:
        those that grow faster than x, and some that oscillate as x * sin(x) or have poles."""
        unsettled = self.trained[["slope_left", "slope_right"]].isna().any(axis=1).to_numpy()
        if not unsettled.any():
            return []
        fast = np.zeros(len(unsettled), bool)
        fast[unsettled] = growth_power(self.trained["expression"][unsettled]) >= FAST
        diverged = (self.trained["status"] == "diverged").to_numpy()
        step = self.trained["reason"].str.extract(r"at step ([\d,]+)")[0]
        step = step.str.replace(",", "").astype(float).to_numpy()
        return [
            {
                "functions": part,
                "n": int(where.sum()),
                "diverged": int((where & diverged).sum()),
                "at step 1": int((where & diverged & (step == 1)).sum()),
                "at step 1 or 2": int((where & diverged & (step <= 2)).sum()),
            }
            for part, where in (
                ("slope does not settle far from 0", unsettled),
                (f"of these, at least as fast as x^{FAST:g}", fast),
                ("all others", ~unsettled),
            )
        ]

    def head(self, n: int = 30) -> Rows:
        """The best of the search by what training again gave, and what that is expected to be with
        seeds that had no part in the choice."""
        names = [e for e in self.seeds if self.rank.get(e, math.inf) <= HEAD]
        if len(names) < FEW:
            return []
        means = [self.mean(e) for e in names]
        sd = self._scatter(names) / math.sqrt(len(self.seeds[names[0]]))
        expected = dict(zip(names, expected_on_retraining(means, sd).expected, strict=True))
        formulas = dict(zip(self.trained["expression"], self.trained["formula"], strict=True))
        return [
            {
                "formula": formulas[e],
                "again accuracy": ACCURACY.cell(self.mean(e)),
                "n": len(self.seeds[e]),
                "expected accuracy": ACCURACY.cell(expected[e]),
                "in the search accuracy": ACCURACY.cell(self.searched[e]),
                "its rank": f"{self.rank[e]:,.0f}",
            }
            for e in sorted(names, key=lambda e: -self.mean(e))[:n]
        ]

    def confirmed(self) -> Rows:
        """What was chosen by its further trainings, with seeds that chose nothing, against ReLU."""
        relu = self.fresh.get(self.keys({"relu": KNOWN["relu"]})["relu"])
        if relu is None:
            return []
        names = {key: name for name, key in self.keys(KNOWN).items()}
        formulas = dict(zip(self.trained["expression"], self.trained["formula"], strict=True))
        rows: Rows = []
        for e, found in sorted(self.fresh.items(), key=lambda item: -sum(item[1].values())):
            gaps = [100 * (accuracy - relu[seed]) for seed, accuracy in found.items()]
            gap = interval(gaps)
            rows.append(
                {
                    "function": names.get(e, formulas.get(e, e)),
                    "chosen by accuracy": ACCURACY.cell(self.mean(e) if e in self.seeds else None),
                    "fresh accuracy": ACCURACY.cell(float(np.mean(list(found.values())))),
                    "n": len(found),
                    "above relu, points": "" if found is relu else f"{np.mean(gaps):+.2f}",
                    "95 %": "" if gap is None else f"{gap.low:+.2f} to {gap.high:+.2f}",
                }
            )
        return rows

    def known(self) -> Rows:
        """The baselines and the paper's own functions: their ranks, or where they would stand."""
        means = [self.mean(e) for e in self.seeds]
        rows: Rows = []
        for name, key in self.keys(KNOWN).items():
            mean = self.mean(key) if key in self.seeds else None
            accuracy = self.searched.get(key)
            rank = None if accuracy is None else int((self.score > accuracy).sum()) + 1
            rows.append(
                {
                    "function": name,
                    "in the search accuracy": ACCURACY.cell(accuracy),
                    "its rank": None if rank is None else f"{rank:,}",
                    "again accuracy": ACCURACY.cell(mean),
                    "n": len(self.seeds.get(key, {})),
                    "better again": None if mean is None else sum(m > mean for m in means),
                }
            )
        return sorted(
            rows, key=lambda row: -(row["again accuracy"] or row["in the search accuracy"] or 0)
        )

    def keys(self, formulas: Mapping[str, str]) -> dict[str, str]:
        """The expressions of functions in these tables, whatever their spelling."""
        known = dict.fromkeys([*self.searched, *self.again["expression"]])
        ours: dict[str, list[Expr]] = {}
        for expr, print_ in fingerprints(map(parse, known)):
            ours.setdefault(print_.key, []).append(expr)
        forms = {name: canonical(parse(text)) for name, text in formulas.items()}
        found: dict[str, str] = {}
        for (name, form), (_, print_) in zip(
            forms.items(), fingerprints(forms.values()), strict=True
        ):
            same = (e for e in ours.get(print_.key, ()) if same_function(e, form))
            found[name] = str(next(same, form))
        return found

    def noise(self) -> Rows:
        """A seed moves all functions of one level alike, and those of another level otherwise. So
        luck is what the search gave more than further trainings do, less the same of functions of
        the head's level that are not of the head. These missed it by their score in the search, so
        theirs is too small and the luck an upper estimate."""
        learnt = [e for e in self.seeds if self.searched.get(e, 0.0) >= CHANCE]
        head = [e for e in learnt if self.rank[e] <= HEAD]
        beyond = self._trainings([e for e in learnt if self.rank[e] > HEAD])
        if len(head) < FEW or len(beyond.searched) < FEW:
            return []
        level = float(np.quantile(self._trainings(head).again, LEVEL))
        at_level = (beyond.again >= level).any(axis=1)
        if at_level.sum() < FEW:
            return []
        shift = search_shift(beyond, level)
        everyone = self._trainings(learnt)
        drawn = sum(self.rank[e] > HEAD and v >= CHANCE for e, v in self.searched.items())
        weight = np.where([self.rank[e] > HEAD for e in learnt], drawn / len(beyond.searched), 1.0)
        sd = self._scatter(head)
        expected = dict(
            zip(
                self.searched,
                expected_on_retraining([score - shift for score in self.score], sd).expected,
                strict=True,
            )
        )
        named = [e for e in self.keys(KNOWN).values() if e in learnt]
        best = [e for e in head if self.rank[e] <= BEST]
        rows: Rows = [
            self._noise_row("beyond the best 300, above 15 %", list(beyond.names)),
            {
                "functions": "of these, at the level of the best 300",
                "n": int(at_level.sum()),
                "search less again, points": f"{100 * shift:+.2f}",
            },
            {
                "functions": "all at this level, weighted as they were drawn",
                "n": int((everyone.again >= level).any(axis=1).sum()),
                "search less again, points": f"{100 * search_shift(everyone, level, weight):+.2f}",
            },
        ]
        if len(named) > 1:
            rows.append(self._noise_row("named before the search", named))
        for part, names in ((f"within the best {HEAD}", head), (f"the best {BEST}", best)):
            if len(names) < FEW:
                continue
            low, high = luck(self._trainings(names), beyond, level)
            rows.append(
                self._noise_row(part, names)
                | {
                    "luck, points": f"{self._gap(names) - 100 * shift:.2f} "
                    f"({100 * low:.2f} to {100 * high:.2f})",
                    "expected accuracy": ACCURACY.cell(
                        float(np.mean([expected[e] for e in names]))
                    ),
                }
            )
        columns = dict.fromkeys(name for row in rows for name in row)
        return [{name: row.get(name) for name in columns} for row in rows]

    def _noise_row(self, part: str, names: Sequence[str]) -> dict[str, Any]:
        found = self._trainings(names)
        fresh = found.again.mean(axis=1)
        gap = interval(list(100 * (found.searched - fresh)))
        correlation = spearman(found.searched, fresh) if len(names) >= ENOUGH else None
        return {
            "functions": part,
            "n": len(names),
            "a training's sd, points": 100 * self._scatter(names),
            "Spearman, search and again": correlation,
            "in the search accuracy": ACCURACY.cell(float(found.searched.mean())),
            "again accuracy": ACCURACY.cell(float(fresh.mean())),
            "search less again, points": f"{self._gap(names):+.2f}"
            + (f" ({gap.low:.2f} to {gap.high:.2f})" if gap else ""),
        }

    def _trainings(self, names: Sequence[str]) -> Trainings:
        again = [list(self.seeds[e].values()) for e in names]
        return Trainings(tuple(names), np.array([self.searched[e] for e in names]), np.array(again))

    def _gap(self, names: Sequence[str]) -> float:
        """How much more the search gave than further trainings, in points."""
        return 100 * float(np.mean([self.searched[e] - self.mean(e) for e in names]))

    def _scatter(self, names: Sequence[str]) -> float:
        """The standard deviation of one training, of the functions of which none diverged."""
        return noise([self.seeds[e] for e in names if all(self.seeds[e].values())]).sd

    def claims(self) -> Rows:
        def having(*names: str) -> np.ndarray:
            return np.array([bool(o & set(names)) for o in self.operators])

        exprs = [parse(e) for e in self.trained["expression"]]
        raw = self.trained["raw x"].to_numpy()
        return self._with_and_without(
            [
                ("x itself can go into the last binary operator", raw),
                ("a periodic operator", having(*PERIODIC)),
                ("a periodic operator, and x into the last binary", having(*PERIODIC) & raw),
                ("division", having("div")),
                ("division by cosh", np.array([divides_by_cosh(e) for e in exprs])),
                ("a beta", self.trained["betas"].fillna(0).to_numpy() > 0),
            ]
        )

    def by_operator(self) -> Rows:
        rows = self._with_and_without(self.operator_groups())
        return sorted(rows, key=lambda row: -float(row["percentile above the others'"]))

    def operator_groups(self) -> Groups:
        names = sorted({name for o in self.operators for name in o})
        return [(name, np.array([name in o for o in self.operators])) for name in names]

    def _with_and_without(self, groups: Groups) -> Rows:
        """For each group: how often it is in the best tenth, and its percentile."""
        has = dict(groups)

        def share(where: np.ndarray) -> str:
            return f"{100 * where.mean():.0f} %"

        return [
            {
                "functions": effect.name,
                "n": effect.n,
                "in the best tenth": share(self.percentile[has[effect.name]] > 0.9),
                "at chance or diverged": share(self.score[has[effect.name]] < CHANCE),
                "percentile above the others'": f"{100 * effect.mean:+.1f}",
                "95 %": ""
                if effect.low is None or effect.high is None
                else f"{100 * effect.low:+.1f} to {100 * effect.high:+.1f}",
            }
            for effect in self.effects(groups)
        ]

    def effects(self, groups: Groups) -> list[Effect]:
        return effects(groups, self.percentile)

    def early(self) -> Rows:
        """Spearman's correlation of what is known early with the accuracy at the end."""
        rows: Rows = []
        early = ("loss at ", "accuracy@")
        columns = [c for c in self.trained.columns if str(c).startswith(early)]
        for column in columns:
            for part, kept in (("all that ended", 1.0), ("the best tenth", 0.1)):
                found = self.trained.dropna(subset=["accuracy", column])
                found = found.head(round(kept * len(found)))
                if len(found) < FEW:
                    continue
                early, score = found[column].to_numpy(), found["accuracy"].to_numpy()
                early = -early if column.startswith("loss") else early
                whole, low, high = bootstrap(
                    lambda i, a=early, b=score: rho(a[i], b[i]), len(found)
                )
                said = {"Spearman": f"{whole:.2f}", "95 %": f"{low:.2f} to {high:.2f}"}
                rows.append({"known": column, "functions": part, "n": len(found), **said})
        return rows

    def elsewhere(self) -> Rows:
        """Other children, data and learning rates against what training again as in the search
        gave, which no choice of functions depends on, and against the search itself."""
        rows: Rows = []
        groups = self.again.groupby(["child", "dataset", "steps", "lr", "protocol"])
        for (child, dataset, steps, lr, protocol), group in groups:
            if protocol == self.provenance["protocol hash"]:
                continue
            means = group.groupby("expression")["accuracy"].mean().to_dict()
            everyone = [e for e in means if e in self.searched]
            names = [e for e in everyone if e in self.seeds]
            for part, kept in (
                ("all", names),
                (f"the best {HEAD} of the search", [e for e in names if self.rank[e] <= HEAD]),
                ("at chance in the search", [e for e in names if self.searched[e] < CHANCE]),
            ):
                if len(kept) < FEW:
                    continue
                seeds = np.array([list(self.seeds[e].values()) for e in kept])
                ours, theirs = seeds.mean(axis=1), np.array([means[e] for e in kept])
                itself = rho(seeds[:, 0], seeds[:, 1]) if seeds.shape[1] > 1 else math.nan
                gap = interval(list(theirs - ours))
                assert gap is not None
                whole = everyone if kept is names else kept
                scores = (np.array([of[e] for e in whole]) for of in (self.searched, means))
                rows.append(
                    {
                        "child": f"{child}, {dataset}, {steps} steps, lr {lr:g}",
                        "functions": part,
                        "n": len(kept),
                        "its mean accuracy": ACCURACY.cell(float(theirs.mean())),
                        "above 15 %": f"{100 * (theirs >= CHANCE).mean():.0f} %",
                        "against the search's child, points": f"{100 * gap.low:+.2f} to "
                        f"{100 * gap.high:+.2f}",
                        "Spearman": spearman(ours, theirs),
                        "of two seeds of the search's child": f"{itself:.2f}",
                        "Spearman with the search itself": f"{spearman(*scores)}, n = {len(whole)}",
                    }
                )
        return rows


def effects(groups: Groups, percentile: np.ndarray) -> list[Effect]:
    """Of each group that some functions are of and some are not, by their percentiles (n,)."""
    found: list[Effect] = []
    for name, has in groups:
        if not 0 < has.sum() < len(has):
            continue

        def gap(i: np.ndarray, has: np.ndarray = has) -> float:
            mine = has[i]
            if mine.all() or not mine.any():
                return float("nan")
            return float(percentile[i][mine].mean() - percentile[i][~mine].mean())

        mean, low, high = bootstrap(gap, len(has))
        ends = (low, high) if has.sum() >= ENOUGH else (None, None)
        found.append(Effect(name, int(has.sum()), mean, *ends))
    return found


def growth_power(expressions: Iterable[str]) -> np.ndarray:
    """p of each function that grows as |x|^p from 10 to 20 or from -10 to -20, where p is more."""
    x = torch.tensor([-20.0, -10.0, 10.0, 20.0], dtype=torch.float64)
    batches = curves(map(parse, expressions), x)
    left_far, left, right, right_far = torch.cat([b.value[:, 0] for b in batches]).abs().T
    powers = torch.stack([left_far / left, right_far / right]).log2()
    return powers.nan_to_num(nan=-math.inf).amax(dim=0).numpy()


def search_shift(found: Trainings, level: float, weight: np.ndarray | None = None) -> float:
    """How much more the search's seed gives functions of `level` or better than further seeds do,
    each function weighted by `weight` (n,).

    Which functions are at the level is said by each further seed in turn, which has then no part in
    the difference: chosen by a seed that is in it, lucky trainings would be taken for a shift."""
    shifts = []
    for seed in range(found.again.shape[1]):
        there = found.again[:, seed] >= level
        if not there.any():
            return math.nan
        others = np.delete(found.again[there], seed, axis=1).mean(axis=1)
        of = None if weight is None else weight[there]
        shifts.append(float(np.average(found.searched[there] - others, weights=of)))
    return float(np.mean(shifts))


def luck(chosen: Trainings, beyond: Trainings, level: float) -> tuple[float, float]:
    """The 95 % interval of the luck of `chosen`: what they lost beyond the shift at their level,
    with the uncertainty of both (bootstrap over functions)."""
    lost = chosen.searched - chosen.again.mean(axis=1)
    first = len(lost)

    def statistic(i: np.ndarray) -> float:
        others = i[i >= first] - first
        shift = search_shift(Trainings((), beyond.searched[others], beyond.again[others]), level)
        return float(lost[i[i < first]].mean()) - shift

    _, low, high = bootstrap(statistic, first + len(beyond.searched))
    return low, high


def spearman(a: np.ndarray, b: np.ndarray) -> str:
    whole, low, high = bootstrap(lambda i: rho(a[i], b[i]), len(a))
    return f"{whole:.2f} ({low:.2f} to {high:.2f})"


def figure(found: Findings) -> Figure:
    """All accuracies by rank with the known functions on them, and the percentiles of operators."""
    ended = found.trained.dropna(subset=["accuracy"])
    accuracy = tuple(100 * ended["accuracy"])
    place = {e: i for i, e in enumerate(ended["expression"])}
    known = sorted((place[key], name) for name, key in found.keys(KNOWN).items() if key in place)
    labels: dict[int, str] = {}  # of functions too near each other for a label each
    for i, name in known:
        near = next((k for k in labels if i - k < len(accuracy) / 30), None)
        labels[i if near is None else near] = name if near is None else f"{labels[near]}, {name}"
    ranks = Panel(
        "", "rank", "validation accuracy [%]",
        (
            Line("", tuple(float(i + 1) for i in range(len(accuracy))), accuracy),
            Points("", tuple(float(i + 1) for i, _ in known),
                   tuple(accuracy[i] for i, _ in known), style=1, size=6, written=True,
                   names=tuple(labels.get(i, "") for i, _ in known)),
        ),
    )  # fmt: skip
    effects = sorted(found.effects(found.operator_groups()), key=lambda e: -e.mean)
    operators = Panel(
        "", "mean percentile above that of the others", "",
        (
            Points("", tuple(100 * e.mean for e in effects),
                   tuple(map(float, range(len(effects)))), size=5,
                   low=tuple(100 * (e.mean if e.low is None else e.low) for e in effects),
                   high=tuple(100 * (e.mean if e.high is None else e.high) for e in effects)),
        ),
        y_names=tuple(f"{e.name} ({e.n})" for e in effects), at=(0.0,),
    )  # fmt: skip
    return Figure(
        "one_unit",
        f"The one-unit space: {len(found.trained):,} functions, one training each",
        (ranks, operators),
        "left: those that did not diverge; right: with how many functions have it, 95 % intervals "
        "as if these were a sample of functions (bootstrap)",
        panel=(6.0, 6.4),
    )


def divides_by_cosh(expr: Expr) -> bool:
    return any(node.op.name == "div" and node.args[1].op.name == "cosh" for node in expr.walk())


def rho(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; spearmanr also tests it, which a bootstrap would pay for 2,000 times."""
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def bootstrap(statistic: Callable[[np.ndarray], float], n: int) -> tuple[float, float, float]:
    """A statistic of functions by their indices, and the percentiles of its bootstrap."""
    rng = np.random.default_rng(0)
    resampled = [statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return statistic(np.arange(n)), float(low), float(high)


def main() -> None:
    given = arguments(__doc__)
    found = Findings(load_benchmark(ONE_UNIT), load_benchmark(f"{ONE_UNIT}-again"))
    publish(found.all(), lambda: figure(found), given)


def arguments(doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--figure", type=Path, help="draw what the tables say")
    parser.add_argument("--into", type=Path, help="a document with these tables")
    return parser.parse_args()


def publish(
    found: Mapping[str, Rows], draw: Callable[[], Figure], given: argparse.Namespace
) -> None:
    """Print the tables by their titles, or put them into a document; draw the figure if asked."""
    tables = {title: to_markdown(rows) for title, rows in found.items() if rows}
    if given.into:
        given.into.write_text(with_tables(given.into.read_text(), tables))
    else:
        print("\n".join(f"**{title}**\n\n{table}" for title, table in tables.items()))
    if given.figure:
        to_matplotlib(draw()).savefig(given.figure, dpi=DPI)


def with_tables(text: str, tables: dict[str, str]) -> str:
    """A document with other tables below the same titles. Raises ValueError for a title that it
    does not have, or has no table for."""
    for title, table in tables.items():
        place = rf"(?<=\*\*{re.escape(title)}\*\*\n\n)(\|.*\n)*\n*"
        text, count = re.subn(place, lambda _, table=table: f"{table}\n", text)
        if count != 1 or not table:
            raise ValueError(f"{title}: {count} places for a table of {table.count(chr(10))} lines")
    return text


if __name__ == "__main__":
    main()
