"""What the table of the one-unit space in a language model says: docs/studies/lm_one_unit.md.

    python benchmarks/lm_one_unit.py [--into docs/studies/lm_one_unit.md] [--figure FILE.png]

Differences are paired by seed. Intervals of correlations and groups are by a bootstrap over
functions (95 %, 2,000 resamples, seed 0), those of differences are as everywhere in actsearch
(docs/statistics.md). The hypotheses are those of docs/studies/registered.md. Mirrored functions, -f
and f(-x), stand for one another in lists of the best, since a linear layer on each side makes them
one. `--into` puts each table in the place of the one below its title.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fair_child import results
from one_unit import (
    KNOWN,
    PERIODIC,
    Findings,
    Rows,
    arguments,
    effects,
    publish,
    rho,
    spearman,
)
from scipy.stats import ttest_1samp

from actsearch.results.benchmarks import LM_ONE_UNIT, ONE_UNIT, load_benchmark
from actsearch.results.figures.plots import Figure, Line, Panel, Points
from actsearch.results.figures.searches import operators_in
from actsearch.results.metrics import METRICS
from actsearch.results.statistics import differences, holm, interval

METRIC = METRICS["bits per byte"]
SCORE, TEST = METRIC.name, f"test {METRIC.name}"
RELU, SQUARE = "relu(x)", "square(relu(x))"
LEARNT = 4.5  # bits per byte: the frequencies of single bytes have it
ABOVE_CHANCE = 0.12  # accuracy
CHOICE = (1, 2)  # seeds that all re-trained functions have
BEST, RANDOM = 200, 200  # functions with those seeds
FRESH = range(3, 13)  # seeds that chose nothing
LARGER = 3  # seeds of the larger model
LISTED = 20


class Found:
    """The table, its further trainings, and the CNN's table beside it."""

    def __init__(self) -> None:
        self.table = load_benchmark(LM_ONE_UNIT)
        self.again = load_benchmark(f"{LM_ONE_UNIT}-again")
        self.cnn = load_benchmark(ONE_UNIT)
        self.protocol = self.table.attrs["provenance"]["protocol hash"]
        self.score = dict(zip(self.table["expression"], self.table[SCORE], strict=True))
        self.rank = dict(zip(self.table["expression"], self.table["rank"], strict=True))
        self.formula = dict(zip(self.table["expression"], self.table["formula"], strict=True))
        self.known = Findings(self.cnn, load_benchmark(f"{ONE_UNIT}-again")).keys(KNOWN)
        same = self.again[self.again["protocol"] == self.protocol]
        self.val, self.test = by_seed(same, SCORE), by_seed(same, TEST)
        self.formula |= dict(zip(self.again["expression"], self.again["formula"], strict=True))
        self.mirrored = {
            e: list(group["expression"])
            for _, group in self.table.groupby("symmetry")
            for e in group["expression"]
        }

    def all(self) -> dict[str, Rows]:
        return {
            "What came of them": self.distribution(),
            "The first, by two further seeds": self.head(),
            "Ten fresh seeds": self.fresh(),
            "Known functions": self.named(),
            "How much of it is luck": self.luck(),
            "The hypotheses": self.hypotheses(),
            "Groups of functions": self.groups(),
            "Operators": self.operators(),
            "What short trainings say": self.early(),
            "Elsewhere": self.elsewhere(),
        }

    def trained(self, e: str, found: Collection[str]) -> str | None:
        """The function itself or one that mirrors it, whichever was trained."""
        return next((m for m in [e, *self.mirrored[e]] if m in found), None)

    @property
    def best(self) -> list[str]:
        """Expressions, best first, one of each class of mirrored functions."""
        kept = self.table.drop_duplicates("symmetry")
        return [str(e) for e in kept["expression"]]

    def distribution(self) -> Rows:
        score = self.table[SCORE]
        named = {"the square of ReLU": SQUARE, "ReLU": RELU, "Swish": self.known["swish"]}
        rows: Rows = [{"": "functions", "n": f"{len(score):,}"}]
        rows += [{"": f"ahead of {n}", "n": f"{(score < self.score[e]).sum():,}"}
                 for n, e in named.items()]  # fmt: skip
        rows.append({"": f"{LEARNT} bits per byte or more", "n": f"{(score >= LEARNT).sum():,}"})
        rows.append({"": "not finite", "n": f"{(self.table['status'] != 'ok').sum():,}"})
        return rows

    def head(self) -> Rows:
        relu = self.test[RELU]
        return [
            {
                "rank": f"{self.rank[e]:,.0f}",
                "function": f"`{self.formula[e]}`",
                "search": METRIC.cell(self.score[e]),
                "validation again": mean(self.val, e, CHOICE),
                "test again": mean(self.test, e, CHOICE),
                "to ReLU, test": METRIC.cell(
                    float(np.mean([self.test[e][s] - relu[s] for s in CHOICE])), signed=True
                ),
            }
            for e in self.best[:LISTED]
        ]

    def fresh(self) -> Rows:
        """Test scores with seeds that chose nothing; Holm over the ten, against relu(x)**2."""
        found = {e: {s: v for s, v in of.items() if s in FRESH} for e, of in self.test.items()}
        found = {e: of for e, of in found.items() if len(of) == len(FRESH)}
        if SQUARE not in found:
            return []
        chosen = [t for e in self.best[:10] if (t := self.trained(e, found))]
        p = [paired(differences(found[e], found[SQUARE])) for e in chosen]
        corrected = dict(zip(chosen, holm(p), strict=True))
        rows: Rows = []
        for e in sorted(found, key=lambda e: np.mean(list(found[e].values()))):
            rows.append(
                {
                    "function": f"`{self.formula.get(e, e)}`",
                    "test": METRIC.cell(float(np.mean(list(found[e].values())))),
                    "n": len(found[e]),
                    "to ReLU": gap(found[e], found[RELU]),
                    "to the square of ReLU": gap(found[e], found[SQUARE]),
                    "p, Holm": f"{corrected[e]:.2g}" if e in corrected else "",
                }
            )
        return rows

    def named(self) -> Rows:
        rows: Rows = [
            {
                "function": name,
                "search": METRIC.cell(self.score[e]),
                "rank": f"{self.rank[e]:,.0f}",
                "best, %": f"{100 * self.rank[e] / len(self.table):.1f}",
                "rank in the CNN's table": cnn_rank(self.cnn, e),
            }
            for name, e in (self.known | {"square of ReLU": SQUARE}).items()
            if e in self.score
        ]
        return sorted(rows, key=lambda row: float(row["search"]))

    def luck(self) -> Rows:
        both = [e for e, of in self.val.items() if set(CHOICE) <= of.keys() and e in self.score]
        top = set(self.table["expression"][:BEST])
        parts = {
            f"the best {BEST}": [e for e in both if e in top],
            "of these the best 20": [e for e in both if self.rank[e] <= 20],
            f"{RANDOM} at random, without those": [
                e for e in self.sample if e in self.val and e in both and e not in top
            ],
        }
        rows: Rows = []
        for part, names in parts.items():
            if len(names) < 10:
                continue
            seeds = np.array([[self.val[e][s] for s in CHOICE] for e in names])
            searched, again = np.array([self.score[e] for e in names]), seeds.mean(axis=1)
            apart = seeds[:, 0] - seeds[:, 1]
            rows.append(
                {
                    "functions": part,
                    "n": len(names),
                    "search": METRIC.cell(float(searched.mean())),
                    "again": METRIC.cell(float(again.mean())),
                    "again less search": METRIC.cell(float((again - searched).mean()), signed=True),
                    "a training's sd": METRIC.cell(float(apart.std(ddof=1) / 2**0.5)),
                    "Spearman, search and again": spearman(searched, again),
                }
            )
        return rows

    @property
    def sample(self) -> list[str]:
        """The random functions, drawn as registered."""
        table = self.cnn.sort_values("expression")["expression"].to_numpy()
        chosen = np.random.default_rng(0).choice(len(table), RANDOM, replace=False)
        return [str(e) for e in table[chosen]]

    def hypotheses(self) -> Rows:
        data = Path(__file__).parent.parent / "docs" / "data" / "children.jsonl"
        seen = {str(row["expression"]) for row in results(data)}
        cnn = self.cnn[(self.cnn["accuracy"] > ABOVE_CHANCE)].set_index("expression")["accuracy"]
        both = [e for e in self.score if e in cnn.index and self.score[e] < LEARNT]
        unseen = [e for e in both if e not in seen]
        rows: Rows = []
        before = [e for e in both if e in seen]
        for part, names in (("not seen before", unseen), ("seen before", before), ("all", both)):
            ours, theirs = (
                np.array([values[e] for e in names]) for values in (self.score, cnn.to_dict())
            )
            rows.append(
                {
                    "": f"H1a, functions that learn in both, {part}, n = {len(names):,}",
                    "found": f"Spearman {spearman(-ours, theirs)}",
                    "verdict": verdict(rho(-ours, theirs), 0.5, 0.3) if names is unseen else "",
                }
            )
        share = self.rank[SQUARE] / len(self.table)
        rows.append(
            {
                "": "H2, rank of the square of ReLU",
                "found": f"{self.rank[SQUARE]:,.0f}, the best {100 * share:.1f} %",
                "verdict": verdict(-share, -0.05, -0.10),
            }
        )
        if (larger := self.larger()) is not None:
            kept, n, said = larger
            rows.append(
                {
                    "": f"H4, ahead of ReLU in the larger model, n = {n} functions",
                    "found": f"{kept} of {n}{said}",
                    "verdict": "holds" if kept >= 8 else "refuted",
                }
            )
        return rows

    def larger(self) -> tuple[int, int, str] | None:
        """Of the first twelve, those whose mean difference to ReLU has the sign of the search."""
        part = self.again[self.again["child"].str.contains("width=128")]
        found = by_seed(part, TEST)
        whole = {e: of for e, of in found.items() if len(of) == LARGER}
        chosen = [t for e in self.best[:12] if (t := self.trained(e, whole))]
        if RELU not in whole or len(chosen) < 12:
            return None
        gaps = [float(np.mean(differences(found[e], found[RELU]))) for e in chosen]
        said = f" (by {min(map(abs, gaps)):.3f} to {max(map(abs, gaps)):.3f} bits per byte)"
        return sum(g < 0 for g in gaps), len(gaps), said

    def groups(self) -> Rows:
        def having(*names: str) -> np.ndarray:
            return np.array([bool(o & set(names)) for o in self._operators])

        t = self.table
        odd, even = (t["parity"] == kind for kind in ("odd", "even"))
        settles = t[["slope_left", "slope_right"]].notna().all(axis=1)
        return self._effects(
            [
                ("monotonic", (t["monotonic"] != "no").to_numpy()),
                ("odd", odd.to_numpy()),
                ("even", even.to_numpy()),
                ("a periodic operator", having(*PERIODIC)),
                ("grows faster than x, or its slope does not settle", ~settles.to_numpy()),
                ("bounded", (t["bounded_below"] & t["bounded_above"]).astype(bool).to_numpy()),
                ("division", having("div")),
                ("a beta", (t["betas"].fillna(0) > 0).to_numpy()),
                ("x itself in the last binary operator", t["raw x"].to_numpy()),
            ]
        )

    def operators(self) -> Rows:
        names = sorted({name for o in self._operators for name in o})
        found = self._effects([(n, np.array([n in o for o in self._operators])) for n in names])
        return sorted(found, key=lambda row: -float(row["percentile above the others'"]))

    @property
    def _operators(self) -> list[frozenset[str]]:
        return [frozenset(operators_in(str(e))) for e in self.table["expression"]]

    def _effects(self, groups: Sequence[tuple[str, np.ndarray]]) -> Rows:
        percentile = (-self.table[SCORE]).rank(pct=True).to_numpy()
        has = dict(groups)
        return [
            {
                "functions": effect.name,
                "n": effect.n,
                "in the best tenth": f"{100 * (percentile[has[effect.name]] > 0.9).mean():.0f} %",
                "percentile above the others'": f"{100 * effect.mean:+.1f}",
                "95 %": ""
                if effect.low is None or effect.high is None
                else f"{100 * effect.low:+.1f} to {100 * effect.high:+.1f}",
            }
            for effect in effects(groups, percentile)
        ]

    def early(self) -> Rows:
        rows: Rows = []
        columns = [c for c in self.table.columns if str(c).startswith("loss at ")]
        for column in columns:
            for part, n in (("all", len(self.table)), ("the best tenth", len(self.table) // 10)):
                kept = self.table.head(n).dropna(subset=[column])
                found = spearman(kept[column].to_numpy(), kept[SCORE].to_numpy())
                rows.append({"known": column, "functions": part, "n": len(kept), "Spearman": found})
        return rows

    def elsewhere(self) -> Rows:
        """Other rates, sizes and texts, one seed or more, against the search."""
        rows: Rows = []
        random = set(self.sample)
        keys = ["child", "dataset", "steps", "lr", "protocol"]
        for (child, dataset, steps, lr, protocol), group in self.again.groupby(keys):
            if protocol == self.protocol:
                continue
            means = group.groupby("expression")[SCORE].mean().to_dict()
            kept = {
                "the best": [t for e in self.best[:100] if (t := self.trained(e, means))],
                "at random": [e for e in means if e in random],
            }
            for part, names in kept.items():
                if len(names) < (10 if part == "the best" else RANDOM // 4):
                    continue  # some of the best are in the sample, too
                ours, theirs = (np.array([v[e] for e in names]) for v in (self.score, means))
                ahead = sum(means[e] < means[RELU] for e in names) if RELU in means else None
                rows.append(
                    {
                        "where": f"{child}, {dataset}, {steps} steps, rate {lr:g}",
                        "functions": part,
                        "n": len(names),
                        "Spearman with the search": spearman(ours, theirs),
                        "ahead of ReLU there": ahead,
                        "mean": METRIC.cell(float(theirs.mean())),
                        "ReLU": METRIC.cell(means.get(RELU)),
                    }
                )
        return rows


def by_seed(frame: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    trained = frame.dropna(subset=[column])
    return {
        str(e): dict(zip(group["seed"], group[column], strict=True))
        for e, group in trained.groupby("expression")
    }


def mean(scores: Mapping[str, Mapping[int, float]], e: str, seeds: Iterable[int]) -> Any:
    of = scores.get(e, {})
    found = [of[s] for s in seeds if s in of]
    return METRIC.cell(float(np.mean(found)) if found else None)


def gap(a: Mapping[int, float], b: Mapping[int, float]) -> str:
    """The mean difference with its interval, or nothing of a function to itself."""
    if a is b:
        return ""
    apart = differences(a, b)
    ends = interval(apart)
    between = "" if ends is None else f" ({ends.low:+.4f} to {ends.high:+.4f})"
    return f"{np.mean(apart):+.4f}{between}"


def paired(apart: Sequence[float]) -> float:
    """p of Student's paired test, two-sided."""
    return float(ttest_1samp(apart, 0.0).pvalue)


def verdict(value: float, holds: float, refuted: float) -> str:
    return "holds" if value > holds else "refuted" if value < refuted else "undecided"


def cnn_rank(cnn: pd.DataFrame, expression: str) -> str:
    row = cnn[cnn["expression"] == expression]
    if row.empty:
        return ""
    rank = row["rank"].iloc[0]
    return "diverged" if np.isnan(rank) else f"{rank:,.0f}"


def figure(found: Found) -> Figure:
    """All scores by rank with the known functions on them, and beside the CNN's accuracies."""
    t = found.table
    scores = tuple(float(v) for v in t[SCORE] if v < LEARNT)
    place = {e: i for i, e in enumerate(t["expression"])}
    named = {"relu2": SQUARE, "cos(x) - x": found.known["cos(x) - x"]}
    named |= {name: found.known[name] for name in ("swish", "relu", "softplus")}
    labels = {place[e]: name for name, e in named.items()}
    ranks = Panel(
        "", "rank", f"validation {SCORE}",
        (
            Line("", tuple(float(i + 1) for i in range(len(scores))), scores),
            Points("", tuple(float(i + 1) for i in labels), tuple(scores[i] for i in labels),
                   style=1, size=6, written=True, names=tuple(labels.values())),
        ),
    )  # fmt: skip
    both = t.merge(found.cnn[["expression", "accuracy"]], on="expression")
    both = both[(both["accuracy"] > ABOVE_CHANCE) & (both[SCORE] < LEARNT)]
    beside = Panel(
        "", "accuracy in the ResNet-8 [%]", f"validation {SCORE} in the GPT",
        (Points("", tuple(100 * both["accuracy"]), tuple(both[SCORE]), size=3),),
    )  # fmt: skip
    return Figure(
        "lm_one_unit",
        f"The one-unit space in a language model: {len(t):,} functions, one training each",
        (ranks, beside),
        f"left: the {len(scores):,} that learn; right: the {len(both):,} that learn in both",
        panel=(6.0, 5.0),
    )


def main() -> None:
    given = arguments(__doc__)
    found = Found()
    publish(found.all(), lambda: figure(found), given)


if __name__ == "__main__":
    main()
