"""The paper's one-unit space, every different function trained: its tables, and what they say.

    python benchmarks/one_unit.py write RUN [--rung 0.25=RUN] --commit HASH --hardware TEXT
    python benchmarks/one_unit.py findings [--figure FILE.png] [--into docs/one_unit.md]

`write` makes the two tables of `results/benchmarks` (their columns are described there) of a run
that trained the space and of its re-evaluations, and of runs with a share of its steps. `findings`
prints what they say, with 95 % intervals by a bootstrap over functions (2,000 resamples, seed 0);
`--into` puts each table in the place of the one below its title.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from actsearch.replay import table_from
from actsearch.run import Run
from results.benchmarks import BENCHMARKS, load_benchmark
from results.plots import DPI, Figure, Line, Panel, Points, to_matplotlib
from results.records import FAILURE_REWARD
from results.search_figures import operators_in
from results.statistics import expected_on_retraining, interval, noise_sd
from results.tables import to_markdown
from search_space.baselines import BASELINES
from search_space.equivalence import canonical
from search_space.expression import Expr, formula
from search_space.fingerprint import fingerprints, same_function
from search_space.parser import parse
from search_space.space import space_from

STEPS = (20, 50, 100, 200)  # at which the training loss is kept: the mean of the last ten
RESAMPLES = 2_000
# Ramachandran et al. 2017, Table 1, beside Swish; those with a square have two core units.
PAPERS = ("max(x, sigmoid(x))", "cos(x) - x", "min(x, sin(x))", "atan(x)**2 - x", "max(x, tanh(x))",
          "sinc(x) + x", "x * asinh(x)**2")  # fmt: skip
KNOWN = {**BASELINES, **{text: text for text in PAPERS}}
ENDED = ("ok", "diverged")  # the others are no results of a function
CHANCE = 0.15  # below it a function of ten classes has learnt next to nothing
FEW = 10  # functions of which nothing is said below
ENOUGH = 20  # members of a group for a percentile bootstrap, which is too narrow for fewer
PERIODIC = {"sin", "cos", "sinc"}
HEAD = 300  # how many of the best were trained again

Rows = list[dict[str, Any]]
Groups = Sequence[tuple[str, np.ndarray]]  # a name, and which functions are of it


# -- the tables


def tables(run: Run, shares: dict[str, Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The run's functions, best first, and its further trainings."""
    plain = plainest(run)
    again = trained_again(run, plain)
    rungs = {f"accuracy@{share}": rung(other) for share, other in shares.items()}
    raw = with_raw_x(run)
    store = run.store(readonly=True)
    searched = [r for r in store.rows("search") if r["status"] not in (None, "rejected")]
    same = again[(again["protocol"] == searched[0]["protocol"]) & again["status"].isin(ENDED)]
    by_function = same.fillna({"accuracy": 0.0}).groupby("expression")["accuracy"]
    means, counts = by_function.mean().to_dict(), by_function.count().to_dict()
    rows = []
    for row in searched:
        expr = plain(row["expression"])
        properties = json.loads(row["properties"] or "{}") | {"operators": expr.operators}
        curve = store.curve(row["id"])
        rows.append(
            {
                "rank": None,
                "formula": formula(expr),
                "expression": str(expr),
                "name": row["label"],
                "status": row["status"],
                "reason": row["reason"],
                "accuracy": row["val_accuracy"],
                **{name: known(expr) for name, known in rungs.items()},
                **{f"loss at {step}": loss_at(curve, step) for step in STEPS},
                "seconds": row["seconds"],
                "ms per step": row["ms_per_step"],
                "again accuracy": means.get(str(expr), float("nan")),
                "again": counts.get(str(expr), 0),
                "raw x": row["expression"] in raw,
                "symmetry": row["symmetry"] or "",
                **properties,
            }
        )
    store.close()
    frame = pd.DataFrame(rows).sort_values(
        ["accuracy", "expression"], ascending=[False, True], na_position="last", ignore_index=True
    )
    frame["rank"] = frame["accuracy"].rank(method="min", ascending=False)
    return frame, again


def plainest(run: Run) -> Callable[[str], Expr]:
    """The shortest spelling that the search met of a function: abs(x), where max(abs(x), atan(x))
    came first and was trained."""
    store = run.store(readonly=True)
    kept = dict(store.merged())
    store.close()
    met: dict[str, list[str]] = {}
    for expression, into in kept.items():
        met.setdefault(into, []).append(expression)

    def plain(expression: str) -> Expr:
        trained = kept.get(expression, expression)
        spellings = [parse(text) for text in (trained, *met.get(trained, ()))]
        return min(spellings, key=lambda e: (e.operators, len(str(e)), str(e)))

    return plain


def with_raw_x(run: Run) -> set[str]:
    """The functions that the grammar can write as b(x, g(x)) or b(g(x), x)."""
    settings = run.config["settings"]
    store = run.store(readonly=True)
    kept = dict(store.merged())
    store.close()
    forms = (
        str(canonical(expr, settings["operators"]))
        for expr in space_from(settings["space"])
        if expr.op.arity == 2 and any(arg.op.name == "x" for arg in expr.args)
    )
    return {kept.get(form, form) for form in forms}


def rung(run: Run) -> Callable[[Expr], float | None]:
    """The accuracies of a run with a share of the steps, whatever its spellings."""
    table = table_from(run.path)

    def known(expr: Expr) -> float | None:
        [name] = table.named([str(expr)])  # raises where it was not trained
        accuracy = table.rewards[parse(name)][1.0]
        return None if accuracy == FAILURE_REWARD else accuracy

    return known


def trained_again(run: Run, plain: Callable[[str], Expr]) -> pd.DataFrame:
    rows = [
        {
            "formula": formula(plain(row["expression"])),
            "expression": str(plain(row["expression"])),
            "name": row["label"],
            "protocol": row["protocol"],
            "child": row["child"],
            "dataset": row["dataset"],
            "steps": row["recipe"]["steps"],
            "lr": row["recipe"]["lr"],
            "seed": row["seed"],
            "status": row["status"],
            "accuracy": row["val_accuracy"],
            "test accuracy": row["test_accuracy"],
            "seconds": row["seconds"],
        }
        for row in run.reevaluations()
    ]
    columns = ["formula", "expression", "name", "protocol", "child", "dataset", "steps", "lr",
               "seed", "status", "accuracy", "test accuracy", "seconds"]  # fmt: skip
    order = ["child", "dataset", "steps", "lr", "protocol", "expression", "seed"]
    frame = pd.DataFrame(rows, columns=columns).sort_values(order, ignore_index=True)
    twice = frame.duplicated(["protocol", "expression", "seed"])
    if twice.any():  # two spellings of a function, named by hand
        frame = frame[~twice].reset_index(drop=True)
    return frame


def loss_at(curve: Sequence[tuple[int, float]], step: int, last: int = 10) -> float | None:
    near = [loss for s, loss in curve if step - last < s <= step]
    return float(np.mean(near)) if near and curve[-1][0] >= step else None


def write(given: argparse.Namespace) -> None:
    run = Run.open(given.run)
    shares = {share: Run.open(path) for share, path in (text.split("=", 1) for text in given.rung)}
    config = run.config
    provenance = {
        "commits": given.commit,
        "hardware": given.hardware,
        "protocol": config["identity"]["protocol"],
        "protocol hash": next(r["protocol"] for r in run.rows()),
        "search": {k: config["settings"][k] for k in ("space", "strategy", "seed", "workers")},
        "data": config.get("data"),
        "versions": config["environment"],
        "counts": run.counts(),
    }
    for name, frame in zip(BENCHMARKS, tables(run, shares), strict=True):
        frame.attrs["provenance"] = provenance
        path = Path(given.output, BENCHMARKS[name])
        frame.to_parquet(path, compression="zstd", index=False)
        print(f"{path}: {len(frame):,} rows, {path.stat().st_size:,} bytes")


# -- what they say


@dataclass(frozen=True)
class Effect:
    """Of a group of `n` functions: the mean percentile above that of all others, with a 95 %
    interval where there are enough."""

    name: str
    n: int
    mean: float
    low: float | None
    high: float | None


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
        self.seeds = self._seeds()

    def _seeds(self) -> dict[str, dict[int, float]]:
        """Accuracies by seed of the functions that trained again as in the search, with all of the
        seeds that most have."""
        same = self.again[self.again["protocol"] == self.provenance["protocol hash"]]
        found = {
            str(e): dict(zip(group["seed"], group["accuracy"], strict=True))
            for e, group in same.groupby("expression")
        }
        sets = Counter(frozenset(seeds) for seeds in found.values())
        usual = max(sets, key=lambda s: sets[s], default=frozenset())
        return {e: {i: v[i] for i in sorted(usual)} for e, v in found.items() if usual <= v.keys()}

    def mean(self, expression: str) -> float:
        return float(np.mean(list(self.seeds[expression].values())))

    def all(self) -> dict[str, Rows]:
        return {
            "The whole space": self.distribution(),
            "The head, by its further trainings": self.head(),
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

    def head(self, n: int = 30) -> Rows:
        """The best of the search by what training again gave, and what that is expected to be with
        seeds that had no part in the choice."""
        names = [e for e in self.seeds if self.rank.get(e, math.inf) <= HEAD]
        if len(names) < FEW:
            return []
        means = [self.mean(e) for e in names]
        sd = noise_sd([self.seeds[e] for e in names if all(self.seeds[e].values())])
        sd /= math.sqrt(len(self.seeds[names[0]]))
        expected = dict(zip(names, expected_on_retraining(means, sd).expected, strict=True))
        formulas = dict(zip(self.trained["expression"], self.trained["formula"], strict=True))
        return [
            {
                "formula": formulas[e],
                "again accuracy": self.mean(e),
                "n": len(self.seeds[e]),
                "expected accuracy": expected[e],
                "in the search accuracy": self.searched[e],
                "its rank": f"{self.rank[e]:,.0f}",
            }
            for e in sorted(names, key=lambda e: -self.mean(e))[:n]
        ]

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
                    "in the search accuracy": accuracy,
                    "its rank": None if rank is None else f"{rank:,}",
                    "again accuracy": mean,
                    "n": len(self.seeds.get(key, {})),
                    "better again": None if mean is None else sum(m > mean for m in means),
                }
            )
        return sorted(
            rows, key=lambda row: -(row["again accuracy"] or row["in the search accuracy"] or 0)
        )

    def keys(self, formulas: Mapping[str, str]) -> dict[str, str]:
        """The expressions of functions in these tables, whatever their spelling."""
        ours: dict[str, list[Expr]] = {}
        for expr, print_ in fingerprints(map(parse, {*self.searched, *self.again["expression"]})):
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
        """The seeds of the search and of further trainings differ for all functions alike, so the
        mean difference beyond the head is taken off before the head's luck is counted."""
        learnt = [e for e in self.seeds if self.searched.get(e, 0.0) >= CHANCE]
        beyond = [e for e in learnt if self.rank[e] > HEAD]
        if len(beyond) < FEW:
            return []
        sd = noise_sd([self.seeds[e] for e in learnt if all(self.seeds[e].values())])
        offset = float(np.mean([self.searched[e] - self.mean(e) for e in beyond]))
        everything = [score - offset for score in self.score]
        expected = dict(
            zip(self.searched, expected_on_retraining(everything, sd).expected, strict=True)
        )
        rows: Rows = []
        for part, names in (
            (f"beyond the best {HEAD}, above 15 %", beyond),
            (f"the best {HEAD}", [e for e in learnt if self.rank[e] <= HEAD]),
            ("the best 30", [e for e in learnt if self.rank[e] <= 30]),
        ):
            if len(names) < FEW:
                continue
            first = np.array([self.searched[e] - offset for e in names])
            fresh = np.array([self.mean(e) for e in names])
            rho, low, high = _bootstrap(lambda i, a=first, b=fresh: _rho(a[i], b[i]), len(names))
            luck = interval(list(first - fresh))
            assert luck is not None
            rows.append(
                {
                    "functions": part,
                    "n": len(names),
                    "a training's sd, points": 100 * sd,
                    "Spearman, search and again": f"{rho:.2f} ({low:.2f} to {high:.2f})",
                    "in the search accuracy": float(first.mean()),
                    "again accuracy": float(fresh.mean()),
                    "luck, points": f"{100 * luck.low:+.2f} to {100 * luck.high:+.2f}",
                    "expected accuracy": None
                    if names is beyond
                    else float(np.mean([expected[e] for e in names])),
                }
            )
        return rows

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
        found: list[Effect] = []
        for name, has in groups:
            if not 0 < has.sum() < len(has):
                continue

            def gap(i: np.ndarray, has: np.ndarray = has) -> float:
                mine = has[i]
                if mine.all() or not mine.any():
                    return float("nan")
                return float(self.percentile[i][mine].mean() - self.percentile[i][~mine].mean())

            mean, low, high = _bootstrap(gap, len(has))
            ends = (low, high) if has.sum() >= ENOUGH else (None, None)
            found.append(Effect(name, int(has.sum()), mean, *ends))
        return found

    def early(self) -> Rows:
        """Spearman's correlation of what is known early with the accuracy at the end."""
        rows: Rows = []
        columns = [f"loss at {step}" for step in STEPS]
        columns += [c for c in self.trained.columns if str(c).startswith("accuracy@")]
        for column in columns:
            for part, kept in (("all that ended", 1.0), ("the best tenth", 0.1)):
                found = self.trained.dropna(subset=["accuracy", column])
                found = found.head(round(kept * len(found)))
                if len(found) < FEW:
                    continue
                early, score = found[column].to_numpy(), found["accuracy"].to_numpy()
                early = -early if column.startswith("loss") else early
                rho, low, high = _bootstrap(
                    lambda i, a=early, b=score: _rho(a[i], b[i]), len(found)
                )
                said = {"Spearman": f"{rho:.2f}", "95 %": f"{low:.2f} to {high:.2f}"}
                rows.append({"known": column, "functions": part, "n": len(found), **said})
        return rows

    def elsewhere(self) -> Rows:
        """Other children, data and learning rates against what training again as in the search
        gave, which no choice of functions depends on."""
        rows: Rows = []
        groups = self.again.groupby(["child", "dataset", "steps", "lr", "protocol"])
        for (child, dataset, steps, lr, protocol), group in groups:
            if protocol == self.provenance["protocol hash"]:
                continue
            means = group.groupby("expression")["accuracy"].mean().to_dict()
            names = [e for e in means if e in self.seeds and e in self.searched]
            for part, kept in (
                ("all", names),
                (f"the best {HEAD} of the search", [e for e in names if self.rank[e] <= HEAD]),
                ("at chance in the search", [e for e in names if self.searched[e] < CHANCE]),
            ):
                if len(kept) < FEW:
                    continue
                seeds = np.array([list(self.seeds[e].values()) for e in kept])
                ours, theirs = seeds.mean(axis=1), np.array([means[e] for e in kept])
                rho, low, high = _bootstrap(lambda i, a=ours, b=theirs: _rho(a[i], b[i]), len(kept))
                itself = _rho(seeds[:, 0], seeds[:, 1]) if seeds.shape[1] > 1 else math.nan
                gap = interval(list(theirs - ours))
                assert gap is not None
                rows.append(
                    {
                        "child": f"{child}, {dataset}, {steps} steps, lr {lr:g}",
                        "functions": part,
                        "n": len(kept),
                        "its mean accuracy": float(theirs.mean()),
                        "above 15 %": f"{100 * (theirs >= CHANCE).mean():.0f} %",
                        "against the search's child, points": f"{100 * gap.low:+.2f} to "
                        f"{100 * gap.high:+.2f}",
                        "Spearman": f"{rho:.2f} ({low:.2f} to {high:.2f})",
                        "of two seeds of the search's child": f"{itself:.2f}",
                    }
                )
        return rows


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


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; spearmanr also tests it, which a bootstrap would pay for 2,000 times."""
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _bootstrap(statistic: Callable[[np.ndarray], float], n: int) -> tuple[float, float, float]:
    """A statistic of functions by their indices, and the percentiles of its bootstrap."""
    rng = np.random.default_rng(0)
    resampled = [statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return statistic(np.arange(n)), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("write", help="write the tables of a run")
    make.add_argument("run")
    make.add_argument("--rung", nargs="*", default=[], metavar="SHARE=RUN",
                      help="runs with a share of the steps")  # fmt: skip
    make.add_argument("--commit", nargs="+", required=True, help="of the code that trained")
    make.add_argument("--hardware", required=True)
    make.add_argument("-o", "--output", default="results/benchmarks")
    say = commands.add_parser("findings", help="print what the tables say")
    say.add_argument("--figure", type=Path, help="draw ranks and operators")
    say.add_argument("--into", type=Path, help="a document with these tables")
    given = parser.parse_args()
    if given.command == "write":
        write(given)
        return
    found = Findings(*(load_benchmark(name) for name in BENCHMARKS))
    tables = {title: to_markdown(rows) for title, rows in found.all().items() if rows}
    if given.into:
        given.into.write_text(with_tables(given.into.read_text(), tables))
    else:
        print("\n".join(f"**{title}**\n\n{table}" for title, table in tables.items()))
    if given.figure:
        to_matplotlib(figure(found)).savefig(given.figure, dpi=DPI)


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
