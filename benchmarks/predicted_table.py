"""How well the model of `actsearch replay two-units` predicts, and whether it is to be accepted.

    python benchmarks/predicted_table.py held-out                          # a minute
    python benchmarks/predicted_table.py train ROWS.jsonl --images CIFAR10.npz   # hours; resumes
    python benchmarks/predicted_table.py say ROWS.jsonl

`held-out` fits the model to parts of the one-unit table and predicts the others: fifths whose
symmetry classes are apart, functions of three operators and more from those of two at most, and
each family of operators from all functions without it.

`train` draws 300 functions of two units that the table does not have: 100 at random, the 100 that
are predicted best of 6,000, and 100 that strategies found best on the model; ROWS keeps them with
their predictions. It trains each in the table's child, on its data and by its recipe, with the
table's seed, then 20 of each kind with two further seeds. Two functions of the table are trained
first, and should have its accuracies. `say` prints what is asked of the model:

    Spearman's correlation of predicted and trained accuracies      0.85 or more
    the same of the 100 that are predicted best                     0.5 or more
    slope of trained on predicted accuracies                        0.8 to 1.2
    area under the curve of divergence                              0.9 or more

Failures count as an accuracy of 0. Intervals are a bootstrap over functions (95 %, 2,000 resamples,
seed 0).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fair_child import results, spearman

from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.controller.strategies import strategy_from
from actsearch.results.benchmarks import load_benchmark
from actsearch.results.figures.searches import operators_in
from actsearch.results.records import Trial
from actsearch.results.tables import Row, to_markdown
from actsearch.search_space.candidate import Candidate, candidate_from
from actsearch.search_space.space import SPACES
from actsearch.search_space.survey import with_rejections
from actsearch.studies.known_results import table_from
from actsearch.studies.predicted import (
    OPERATORS,
    Forecast,
    Model,
    Predicted,
    features,
    model,
    one_unit,
)
from actsearch.studies.replay import play

SPACE = SPACES["two-units"]
FAMILIES: Mapping[str, frozenset[str]] = {
    ", ".join(names): frozenset(names)
    for names in (
        ("erf", "tanh", "atan", "asinh"), ("sin", "cos", "sinc"), ("relu", "min0", "softplus"),
        ("exp", "sinh", "cosh"), ("max", "min"), ("mul",), ("div",),
    )
}  # fmt: skip
FOLDS = 5
TOP = 0.4  # of those held out, by their accuracies
HEAD = 0.05  # of those held out, by their predictions
NOISE = 0.013  # the standard deviation of a training's accuracy between seeds, docs/one_unit.md
EACH = 100  # functions of a kind
POOL = 6000  # random points of which the predicted best are
PLAYED = {"random": 1, "evolution": 1, "surrogate": 1, "ppo": 1}  # replays of each
BUDGET = 150  # of these
AGAIN = 20  # functions of a kind with further seeds
SEED, FURTHER = 0, (1, 2)
CONTROLS = ("relu(x)", "x * sigmoid(x)")
RANDOM, BEST, PROPOSED, CONTROL = "random", "predicted best", "proposed", "control"
RESAMPLES = 2_000


# -- what the table says


def held_out() -> list[Row]:
    """A row for each way to leave a part of the table out."""
    frame, x = one_unit()
    operators = [operators_in(e) for e in frame["expression"]]
    many = frame["operators"].to_numpy() >= 3
    ways: dict[str, Sequence[np.ndarray]] = {
        "random fifths, symmetry classes apart": folds(frame["symmetry"]),
        "3 operators or more": [many],
        **{f"all with {name}": [np.array([bool(o & family) for o in operators])]
           for name, family in FAMILIES.items()},
    }  # fmt: skip
    accuracy = frame["accuracy"].to_numpy()
    return [{"held out": name, **judged(parts, x, accuracy)} for name, parts in ways.items()]


def folds(classes: Iterable[str]) -> list[np.ndarray]:
    """FOLDS masks (N,) that share no class; what has none is a class of its own."""
    named = [name or f"{i}" for i, name in enumerate(classes)]
    distinct = sorted(set(named))
    numbers = np.random.default_rng(0).integers(FOLDS, size=len(distinct))
    fold = np.array([dict(zip(distinct, numbers, strict=True))[name] for name in named])
    return [fold == i for i in range(FOLDS)]


def judged(parts: Sequence[np.ndarray], x: np.ndarray, accuracy: np.ndarray) -> Row:
    """Each part (N,) predicted from all others, and judged together."""
    forecasts = [Model().fit(x[~part], accuracy[~part]).predict(x[part]) for part in parts]
    real = np.concatenate([accuracy[part] for part in parts])
    mean, spread, diverges = (
        np.concatenate([getattr(f, name) for f in forecasts])
        for name in ("accuracy", "spread", "diverges")
    )
    ended = np.isfinite(real)
    found, predicted = real[ended], mean[ended]
    top = found >= np.quantile(found, 1 - TOP)
    head = predicted >= np.quantile(predicted, 1 - HEAD)
    inside = np.abs(found - predicted) <= 2 * np.hypot(spread[ended], NOISE)
    return {
        "n": len(real),
        "R2": f"{1 - np.mean((found - predicted) ** 2) / found.var():.3f}",
        "Spearman": f"{rho(found, predicted):.3f}",
        "of the best 40 %": f"{rho(found[top], predicted[top]):.3f}",
        "AUC of divergence": f"{area(diverges, ~ended):.3f}",
        "within 2 sd": f"{inside.mean():.0%}",
        "predicted best 5 %: too high by, points": f"{100 * (predicted - found)[head].mean():+.2f}",
    }


def rho(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearman(np.stack([a, b], axis=1)[None])[0])


def area(score: np.ndarray, positive: np.ndarray) -> float:
    """How often a positive has the higher score, ties half; NaN where all are alike."""
    from scipy.stats import rankdata

    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        return math.nan
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m))


# -- real trainings


def planned(seed: int = 2027) -> list[dict[str, Any]]:
    """The functions with their predictions, in the order in which they are trained."""
    table = table_from("one-unit")

    def new(points: Iterable[Sequence[int]], taken: set[Candidate]) -> list[Candidate]:
        """Those that would be trained and are neither in the table nor taken."""
        forms = dict.fromkeys(SPACE.decode(d).canonical(OPERATORS) for d in points)
        passed = [c for c, rejection in with_rejections(forms) if not rejection]
        return [c for c, row in zip(passed, table.rows(passed), strict=True)
                if row is None and c not in taken]  # fmt: skip

    def drawn(part: int, n: int) -> list[list[int]]:
        random = np.random.default_rng([seed, part])
        return random.integers(SPACE.radices, size=(n, len(SPACE.radices))).tolist()

    taken: set[Candidate] = set()
    rows: list[dict[str, Any]] = []

    def plan(kind: str, chosen: Sequence[Candidate], strategy: str = "") -> None:
        taken.update(chosen)
        for c, f in zip(chosen, each(forecast(chosen)) if chosen else (), strict=True):
            rows.append({"kind": kind, "strategy": strategy, "expression": c.key, **f})

    plan(RANDOM, new(drawn(0, 3 * EACH), taken)[:EACH])
    pool = new(drawn(1, POOL), taken)
    best = np.argsort(-forecast(pool).score, kind="stable")[:EACH]
    plan(BEST, [pool[i] for i in best])
    for strategy in PLAYED:
        chosen = new(best_points(strategy, seed), taken)[: EACH // len(PLAYED)]
        plan(PROPOSED, chosen, strategy)
    order = np.random.default_rng([seed, 2]).permutation(len(rows))
    return [rows[i] for i in order]


def best_points(strategy: str, seed: int) -> list[Sequence[int]]:
    """What a strategy proposed on the model, from the best on."""
    predicted = Predicted("two-units")
    worth: dict[tuple[int, ...], float] = {}

    def look_up(digits: tuple[int, ...], share: float) -> Any:
        known = predicted.look_up(digits, share)
        if known.reward is not None:
            worth[digits] = known.reward
        return known

    play(strategy_from(strategy, SPACE, seed), look_up, BUDGET)
    return sorted(worth, key=lambda digits: -worth[digits])


def forecast(candidates: Sequence[Candidate]) -> Forecast:
    return model().predict(features([c.functions[0] for c in candidates]))


def each(f: Forecast) -> Iterator[dict[str, float]]:
    for accuracy, spread, diverges in zip(f.accuracy, f.spread, f.diverges, strict=True):
        values = {"accuracy": accuracy, "spread": spread, "diverges": diverges}
        yield {name: round(float(value), 5) for name, value in values.items()}


def trials(plan: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """Functions and seeds in the order of training."""
    yield from ((candidate_from(text).canonical(OPERATORS).key, SEED) for text in CONTROLS)
    yield from ((row["expression"], SEED) for row in plan)
    for kind in (RANDOM, BEST, PROPOSED):
        again = [row["expression"] for row in plan if row["kind"] == kind][:AGAIN]
        yield from ((expression, seed) for seed in FURTHER for expression in again)


def train(given: argparse.Namespace) -> None:
    evaluator = tables_own(given.images)
    rows = list(results(given.rows))
    plan = [row for row in rows if "kind" in row]
    if not plan:
        plan = planned()
        append(given.rows, plan)
    done = {(row["expression"], row["seed"]) for row in rows if "seed" in row}
    todo = [trial for trial in trials(plan) if trial not in done]
    for expression, seed in todo[: given.most]:
        trial = Trial(0, "reevaluate", expression, evaluator.protocol_hash, seed)
        outcome = evaluator(trial)
        score, seconds = outcome.val_score, round(outcome.seconds, 2)
        row = {"expression": expression, "seed": seed, "status": outcome.status, "score": score}
        append(given.rows, [{**row, "reason": outcome.reason, "seconds": seconds}])


def tables_own(images: str) -> Evaluator:
    """The child, data and recipe of the one-unit table. Exits where the images are others."""
    protocol = load_benchmark().attrs["provenance"]["protocol"]
    evaluator = Evaluator(load(images), child_from(protocol["child"]), Recipe(**protocol["recipe"]))
    found, digest = evaluator.protocol["dataset_digest"], protocol["dataset_digest"]
    if found != digest:
        raise SystemExit(f"{images} has the digest {found}; the table was trained on {digest}")
    return evaluator


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


# -- whether the model is accepted


def say(given: argparse.Namespace) -> None:
    rows = list(results(given.rows))
    trained = pd.DataFrame([row for row in rows if "seed" in row])
    trained["score"] = trained["score"].astype(float).fillna(0.0)
    plan = pd.DataFrame([row for row in rows if "kind" in row])
    first = trained[trained["seed"] == SEED].set_index("expression")
    plan = plan[plan["expression"].isin(first.index)]
    real = first.loc[plan["expression"]]
    plan = plan.assign(real=real["score"].to_numpy(), failed=(real["status"] != "ok").to_numpy())
    print(f"Trained in reality: {len(plan)} of {sum('kind' in row for row in rows)} functions.\n")
    print("Functions of the table, trained here and there:\n")
    print(to_markdown(controls(first)))
    print("What is asked of the model:\n")
    print(to_markdown(accepted(plan)))
    print("Predicted and trained, by who chose the functions:\n")
    print(to_markdown(by_kind(plan)))
    if again := noise(trained, plan):
        print("What two seeds agree on, which bounds what a model can reach:\n")
        print(to_markdown(again))


def controls(first: pd.DataFrame) -> list[Row]:
    table = load_benchmark().set_index("expression")["accuracy"]
    keys = [candidate_from(text).canonical(OPERATORS).key for text in CONTROLS]
    return [
        {"function": key, "here": f"{100 * first.at[key, 'score']:.2f} %",
         "in the table": f"{100 * table[key]:.2f} %"}
        for key in keys if key in first.index and key in table.index
    ]  # fmt: skip


def accepted(plan: pd.DataFrame) -> list[Row]:
    """A row for each criterion."""
    predicted = np.where(plan["diverges"] >= 0.5, 0.0, plan["accuracy"])
    real, failed = plan["real"].to_numpy(), plan["failed"].to_numpy(bool)
    best = (plan["kind"] == BEST).to_numpy()
    ended = ~failed & (predicted > 0)
    diverges = plan["diverges"].to_numpy()
    criteria: list[tuple[str, Callable[[np.ndarray], float], np.ndarray, float, float]] = [
        ("Spearman", lambda i: rho(predicted[i], real[i]), np.arange(len(plan)), 0.85, 1.0),
        ("Spearman of the predicted best", lambda i: rho(predicted[i], real[i]),
         np.flatnonzero(best), 0.5, 1.0),
        ("slope of trained on predicted", lambda i: slope(predicted[i], real[i]),
         np.flatnonzero(ended), 0.8, 1.2),
        ("AUC of divergence", lambda i: area(diverges[i], failed[i]), np.arange(len(plan)),
         0.9, 1.0),
    ]  # fmt: skip
    rows: list[Row] = []
    for name, statistic, which, low, high in criteria:
        found = statistic(which) if len(which) > 2 else math.nan
        rows.append(
            {
                "of the model": name,
                "n": len(which),
                "found": f"{found:.2f}{_between(statistic, which)}",
                "asked": f"{low} or more" if high == 1.0 else f"{low} to {high}",
                "met": bool(low <= found <= high),
            }
        )
    return rows


def slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.cov(x, y)[0, 1] / x.var(ddof=1)) if np.ptp(x) else math.nan


def _between(statistic: Callable[[np.ndarray], float], which: np.ndarray) -> str:
    if len(which) < 10:
        return ""
    drawn = np.random.default_rng(0).integers(0, len(which), (RESAMPLES, len(which)))
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile([statistic(which[i]) for i in drawn], (0.025, 0.975))
    return f" ({low:.2f} to {high:.2f})"


def by_kind(plan: pd.DataFrame) -> list[Row]:
    """Mean predicted and trained accuracy, and how far the former is too high."""
    score = plan["accuracy"].where(plan["diverges"] < 0.5, 0.0)
    rows = []
    for (kind, strategy), part in plan.assign(score=score).groupby(["kind", "strategy"]):
        apart = part["score"] - part["real"]
        rows.append(
            {
                "chosen": f"{kind} by {strategy}" if strategy else kind,
                "n": len(part),
                "predicted": f"{100 * part['score'].mean():.2f} %",
                "trained": f"{100 * part['real'].mean():.2f} %",
                "too high by, points": f"{100 * apart.mean():+.2f} "
                f"(sd {100 * apart.std(ddof=0):.2f})",
                "failed": int(part["failed"].sum()),
            }
        )
    return rows


def noise(trained: pd.DataFrame, plan: pd.DataFrame) -> list[Row]:
    """Between the table's seed and the next: Spearman, and a training's standard deviation."""
    wide = trained.pivot_table(values="score", index="expression", columns="seed")
    kinds = plan.set_index("expression")["kind"]
    rows: list[Row] = []
    if FURTHER[0] in wide:
        wide = wide[[SEED, FURTHER[0]]].dropna().join(kinds, how="inner")
        for kind, part in [("all", wide), *wide.groupby("kind")]:
            if len(part) > 2:
                one, other = part[SEED].to_numpy(), part[FURTHER[0]].to_numpy()
                sd = np.std(one - other, ddof=1) / math.sqrt(2)
                said = {"Spearman": f"{rho(one, other):.2f}", "sd, points": f"{100 * sd:.2f}"}
                rows.append({"functions": kind, "n": len(part), **said})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    held = commands.add_parser("held-out", help="what the table itself says of the model")
    held.set_defaults(do=lambda _: print(to_markdown(held_out()), end=""))
    trains = commands.add_parser("train", help="train functions of two units in reality")
    trains.add_argument("rows", type=Path)
    trains.add_argument("--images", required=True, help="the table's images, as an .npz file")
    trains.add_argument("--most", type=int, help="trainings before it ends")
    trains.set_defaults(do=train)
    says = commands.add_parser("say", help="what these trainings say of the model")
    says.add_argument("rows", type=Path)
    says.set_defaults(do=say)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
