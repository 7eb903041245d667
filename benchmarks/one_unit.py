"""The paper's one-unit space, every different function trained once: its table, and what it says.

    python benchmarks/one_unit.py table RUN -o results/benchmarks/one_unit.parquet
    python benchmarks/one_unit.py findings TABLE.parquet

`table` writes one row a function: its training with the search's seed, what training again gave
with others, and its loss on the way. What made it stands in the file's metadata: settings,
versions, commit. `findings` prints what it says, with 95 % intervals by a bootstrap over functions
(2,000 resamples, seed 0).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from actsearch.run import Run
from results.search_figures import operators_in
from results.tables import to_markdown
from search_space.baselines import BASELINES
from search_space.equivalence import canonical
from search_space.parser import parse

STEPS = (20, 50, 100, 200)  # at which the training loss is kept: the mean of the last ten
RESAMPLES = 2_000
# Ramachandran et al. 2017, Table 1: those of its eight that have one core unit.
PAPERS = ("max(x, sigmoid(x))", "cos(x) - x", "min(x, sin(x))", "max(x, tanh(x))", "sinc(x) + x")
CHANCE = 0.15  # below it a function of ten classes has learnt next to nothing
PERIODIC = {"sin", "cos", "sinc"}


# -- the table


def table(run: Run, commit: str) -> pa.Table:
    """All functions of the run's search, best first."""
    store = run.store(readonly=True)
    rows = []
    again: dict[str, dict[int, float]] = {}
    for row in store.rows("reevaluate"):
        if row["val_accuracy"] is not None:
            again.setdefault(row["expression"], {})[row["seed"]] = row["val_accuracy"]
    for row in store.rows("search"):
        if row["status"] is None:
            continue
        curve = store.curve(row["id"])
        seeds = again.get(row["expression"], {})
        rows.append(
            {
                "formula": row["formula"],
                "expression": row["expression"],
                "name": row["label"],
                "status": row["status"],
                "reason": row["reason"],
                "accuracy": row["val_accuracy"],
                "seed": row["seed"],
                "seeds again": json.dumps(seeds) if seeds else "",
                "seconds": row["seconds"],
                "ms per step": row["ms_per_step"],
                **{f"loss at {step}": loss_at(curve, step) for step in STEPS},
                "symmetry": row["symmetry"] or "",
                **json.loads(row["properties"] or "{}"),
            }
        )
    store.close()
    frame = pd.DataFrame(rows).sort_values("accuracy", ascending=False, na_position="last")
    made = pa.Table.from_pandas(frame, preserve_index=False)
    origin = json.dumps({"commit": commit, **run.config})
    return made.replace_schema_metadata({**(made.schema.metadata or {}), b"actsearch": origin})


def loss_at(curve: Sequence[tuple[int, float]], step: int, last: int = 10) -> float | None:
    near = [loss for s, loss in curve if step - last < s <= step]
    return float(np.mean(near)) if near and curve[-1][0] >= step else None


# -- findings


def interval(
    statistic: Callable[[np.ndarray], float], n: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """A statistic of functions by their indices, and the percentiles of its bootstrap."""
    resampled = [statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return statistic(np.arange(n)), float(low), float(high)


def with_and_without(
    frame: pd.DataFrame, groups: Iterable[tuple[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """For each group of functions: how often it is in the best tenth, and the mean rank (1: the
    best, 0: the worst) beside that of the others."""
    rng = np.random.default_rng(0)
    score = frame["accuracy"].fillna(0.0)
    rank = score.rank(pct=True).to_numpy()
    rows = []
    for name, has in groups:
        if not 0 < has.sum() < len(has):
            continue

        def gap(i: np.ndarray, has: np.ndarray = has) -> float:
            mine = has[i]
            if mine.all() or not mine.any():
                return float("nan")
            return float(rank[i][mine].mean() - rank[i][~mine].mean())

        mean, low, high = interval(gap, len(has), rng)
        rows.append(
            {
                "functions": name,
                "n": int(has.sum()),
                "in the best tenth": f"{100 * (rank[has] > 0.9).mean():.0f} %",
                "chance or diverged": f"{100 * (score[has] < CHANCE).mean():.0f} %",
                "rank above the others'": f"{mean:+.3f}",
                "95 %": f"{low:+.3f} to {high:+.3f}",
            }
        )
    return rows


def has_raw_x(expression: str) -> bool:
    """Whether the last operator is binary and takes x itself: b(x, g(x)) or b(g(x), x)."""
    expr = parse(expression)
    return expr.op.arity == 2 and any(arg.op.name == "x" for arg in expr.args)


def findings(frame: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    trained = frame[frame["status"].isin(["ok", "diverged"]) & (frame["name"] == "")]
    trained = trained.reset_index(drop=True)
    ops = [operators_in(e) for e in trained["expression"]]
    raw = np.array([has_raw_x(e) for e in trained["expression"]])

    def having(*names: str) -> np.ndarray:
        return np.array([bool(o & set(names)) for o in ops])

    claims = [
        ("x itself goes into the last binary", raw),
        ("a periodic operator", having(*PERIODIC)),
        ("a periodic operator, and x into the last binary", having(*PERIODIC) & raw),
        ("division", having("div")),
        ("division by cosh", np.array(["div(" in e and bool(re.search(r", cosh\(.*\)\)$", e))
                                       for e in trained["expression"]])),
        ("a beta", trained["betas"].fillna(0).to_numpy() > 0),
    ]  # fmt: skip
    names = sorted({name for o in ops for name in o})
    return {
        "The paper's findings": with_and_without(trained, claims),
        "Operators": sorted(
            with_and_without(trained, [(name, having(name)) for name in names]),
            key=lambda row: -float(row["rank above the others'"]),
        ),
        "What early losses say": early(trained),
        "Known functions": known_functions(frame),
        "Noise": noise(trained),
    }


def early(trained: pd.DataFrame) -> list[dict[str, Any]]:
    """Spearman's correlation of the loss on the way with the accuracy at the end."""
    rng = np.random.default_rng(0)
    rows = []
    for step in STEPS:
        for part, kept in (("all that ended", 1.0), ("the best tenth", 0.1)):
            found = trained.dropna(subset=["accuracy", f"loss at {step}"])
            found = found.nlargest(max(3, round(kept * len(found))), "accuracy")
            loss, score = -found[f"loss at {step}"].to_numpy(), found["accuracy"].to_numpy()

            def rho(i: np.ndarray, loss: np.ndarray = loss, score: np.ndarray = score) -> float:
                return float(spearmanr(loss[i], score[i]).statistic)

            mean, low, high = interval(rho, len(found), rng)
            said = {"Spearman": f"{mean:.2f}", "95 %": f"{low:.2f} to {high:.2f}"}
            rows.append({"step": step, "functions": part, "n": len(found), **said})
    return rows


def known_functions(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Where the baselines and the paper's own functions stand."""
    ended = frame.dropna(subset=["accuracy"]).reset_index(drop=True)
    where = {e: i + 1 for i, e in enumerate(ended["expression"])}
    rows = []
    for name, formula in {**BASELINES, **{f: f for f in PAPERS}}.items():
        expression = str(canonical(parse(formula), "guarded"))
        if expression in where:
            row = ended.iloc[where[expression] - 1]
            rows.append({"function": name, "formula": row["formula"], "rank": where[expression],
                         "of": len(ended), "val accuracy": float(row["accuracy"])})  # fmt: skip
    return sorted(rows, key=lambda row: row["rank"])


def noise(trained: pd.DataFrame) -> list[dict[str, Any]]:
    """How far one training scatters, and how well one seed's order predicts the others'."""
    from results.statistics import noise_sd

    found = trained[trained["seeds again"] != ""]
    again = {e: {int(k): v for k, v in json.loads(t).items()}
             for e, t in zip(found["expression"], found["seeds again"], strict=True)}  # fmt: skip
    rows = []
    order = found.dropna(subset=["accuracy"]).nlargest(len(found), "accuracy")
    for part, expressions in (
        ("all that were trained again", list(order["expression"])),
        ("the best 300", list(order["expression"][:300])),
    ):
        seeds = [again[e] for e in expressions if len(again[e]) > 1]
        if len(seeds) < 3:
            continue
        first = trained.set_index("expression").loc[expressions, "accuracy"]
        mean = [float(np.mean(list(again[e].values()))) for e in expressions]
        rho = spearmanr(first, mean).statistic
        rows.append(
            {
                "functions": part,
                "n": len(expressions),
                "a training's standard deviation": f"{100 * noise_sd(seeds):.2f} points",
                "Spearman of one seed with the mean of the others": f"{rho:.2f}",
            }
        )
    return rows


def head(frame: pd.DataFrame, n: int = 30) -> list[dict[str, Any]]:
    rows = []
    for i, row in enumerate(frame.head(n).to_dict("records"), 1):
        again = json.loads(row["seeds again"]) if row["seeds again"] else {}
        rows.append(
            {
                "rank": i,
                "formula": row["formula"],
                "name": row["name"],
                "val accuracy": float(row["accuracy"]),
                "again, mean accuracy": float(np.mean(list(again.values()))) if again else None,
                "n again": len(again),
            }
        )
    return rows


def distribution(frame: pd.DataFrame) -> list[dict[str, Any]]:
    ended = 100 * frame["accuracy"].dropna()
    counts = frame["status"].value_counts()
    rows = [{"": status, "functions": f"{n:,}"} for status, n in counts.items()]
    for low, high in pairwise([0, 12, 20, 25, 30, 35, 38, 40, 100]):
        n = int(((ended >= low) & (ended < high)).sum())
        rows.append({"": f"{low} to {high} %", "functions": f"{n:,}"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("table", help="write a run's table")
    write.add_argument("run")
    write.add_argument("-o", "--output", required=True)
    write.add_argument("--commit", default="", help="of the code that trained [this one's]")
    read = commands.add_parser("findings", help="print what a table says")
    read.add_argument("table")
    args = parser.parse_args()
    if args.command == "table":
        commit = args.commit or subprocess.check_output(["git", "rev-parse", "HEAD"], text=True)
        made = table(Run.open(args.run), commit.strip())
        pq.write_table(made, args.output, compression="zstd")
        size = Path(args.output).stat().st_size
        print(f"{args.output}: {made.num_rows:,} functions, {size:,} bytes")
        return
    frame = pd.read_parquet(args.table)
    print(to_markdown(distribution(frame)), to_markdown(head(frame)), sep="\n")
    for title, rows in findings(frame).items():
        print(f"\n**{title}**\n\n{to_markdown(rows)}")


if __name__ == "__main__":
    main()
