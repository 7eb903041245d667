"""Do functions train alike that the search takes for one? Pairs, trained with the same seeds.

    python benchmarks/twins.py RUN --folder FOLDER [--pairs 30] [--seeds 3] [--workers 2]

merged      a candidate as the grammar writes it, and the form that the search trains in its place;
            at most half of the pairs are known by their values alone, the others by a rule
symmetric   two functions of one symmetry class: equal up to scale, shift and sign of the output or
            a reflection of the input. The search trains both

Pairs are drawn from the functions that RUN trained whole, one of which reached --least, and train
by RUN's protocol. FOLDER keeps what is trained, so the same command goes on where it stopped.

A pair that differs in no digit is counted apart, and so is one of which a training diverged. Of
the others, a pair's difference is its mean over seeds. If there were nothing but the seeds' luck in
it, F = n mean(difference^2) / mean(variance over seeds) would follow F(pairs, pairs (n - 1)),
differences taken as normal. `true difference` is the root mean square of what is left of the
differences without the seeds' part, with the interval that F gives.
"""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from scipy.stats import f as f_distribution

from actsearch.child_models.evaluate import Evaluator
from actsearch.results.store import Store
from actsearch.results.tables import to_csv, to_markdown
from actsearch.run import Run
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.expression import Expr, formula
from actsearch.search_space.parser import parse
from actsearch.search_space.space import space_from
from actsearch.searching.building import make_evaluator
from actsearch.searching.loop import run_trials
from actsearch.searching.machinery import Machinery
from actsearch.searching.progress import Progress
from actsearch.searching.sources import FixedSource

Pair = tuple[str, str]  # expressions


def trained(run: Run) -> dict[str, tuple[float, str]]:
    """Accuracy and symmetry class of each function that was trained to its end."""
    return {
        row["expression"]: (row["val_score"], row["symmetry"])
        for row in run.rows()
        if row["status"] == "ok" and not row["label"]
    }


def merged_pairs(run: Run, least: float, count: int, chance: Random) -> list[Pair]:
    """Candidates that use other operators than the form that was trained for them, each of another
    function."""
    settings = run.config["settings"]
    known = trained(run)
    store = run.store(readonly=True)
    spellings: dict[bool, dict[str, list[str]]] = {
        True: defaultdict(list),
        False: defaultdict(list),
    }
    for expr in space_from(settings["space"]):
        form = str(canonical(expr, settings["operators"]))
        kept = store.merged_into(form)
        if known.get(kept, (0.0, ""))[0] >= least and _operators(expr) != _operators(parse(kept)):
            spellings[kept != form][kept].append(str(expr))
    store.close()
    by_value = _drawn(spellings[True], count // 2, chance)
    for _, kept in by_value:
        spellings[False].pop(kept, None)
    return [*by_value, *_drawn(spellings[False], count - len(by_value), chance)]


def _operators(expr: Expr) -> Counter[str]:
    return Counter(node.op.name for node in expr.walk() if node.op.arity)


def _drawn(spellings: Mapping[str, Sequence[str]], count: int, chance: Random) -> list[Pair]:
    kept = chance.sample(sorted(spellings), min(count, len(spellings)))
    return [(chance.choice(spellings[k]), k) for k in kept]


def symmetric_pairs(run: Run, least: float, count: int, chance: Random) -> list[Pair]:
    """Two members of a class, each pair of another class."""
    classes: dict[str, list[str]] = defaultdict(list)
    known = trained(run)
    for expression, (_, symmetry) in sorted(known.items()):
        classes[symmetry].append(expression)
    usable = [
        members
        for symmetry, members in sorted(classes.items())
        if symmetry and len(members) > 1 and max(known[m][0] for m in members) >= least
    ]
    pairs = (
        chance.sample(members, 2) for members in chance.sample(usable, min(count, len(usable)))
    )
    return [(a, b) for a, b in pairs]


def train(
    folder: Path, evaluator: Evaluator, expressions: Iterable[str], seeds: int, workers: int
) -> dict[str, dict[int, float]]:
    """Accuracies by expression and seed; a training that diverged counts as 0."""
    folder.mkdir(parents=True, exist_ok=True)
    protocol = evaluator.protocol_hash
    store = Store(folder / "run.sqlite", create=True)
    store.add_protocol(protocol, evaluator.protocol)
    wanted = dict.fromkeys(expressions)
    trials = [store.submit("search", e, protocol, s) for s in range(seeds) for e in wanted]
    left = [trial for trial in trials if store.outcome(trial) is None]
    if left:
        executor = Machinery(workers=workers).start(evaluator)
        try:
            run_trials(store, FixedSource(left), executor, Progress("twins", "", len(left)))
        finally:
            executor.close()
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for trial in trials:
        outcome = store.outcome(trial)
        if outcome is not None and outcome.status in ("ok", "diverged"):
            found[trial.expression][trial.seed] = outcome.val_score or 0.0
    store.close()
    return found


def row_of(kind: str, pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> dict[str, Any]:
    """What the pairs of a kind say: accuracies of one and the other, seed by seed."""
    diverged = [p for p in pairs if not all(map(all, p))]
    gaps = [np.subtract(*p) for p in pairs if all(map(all, p))]
    differ = [g for g in gaps if g.any()]
    row = {
        "pairs": f"{len(pairs)} {kind}",
        "one diverged": len(diverged),
        "the same to the last digit": len(gaps) - len(differ),
        "others": len(differ),
    }
    if len(differ) < 2:
        return row | dict.fromkeys(
            ("a pair's difference", "by seeds alone", "true difference", "p")
        )
    means, seeds = np.array([g.mean() for g in differ]), len(differ[0])
    variance = float(np.mean([g.var(ddof=1) for g in differ]))
    ratio = seeds * float(np.mean(means**2)) / variance
    degrees = len(differ), len(differ) * (seeds - 1)
    low, high = (ratio / f_distribution.ppf(q, *degrees) for q in (0.975, 0.025))
    true, least, most = (
        100 * math.sqrt(max(0.0, r - 1) * variance / seeds) for r in (ratio, low, high)
    )
    return row | {
        "a pair's difference": f"{100 * math.sqrt(np.mean(means**2)):.2f}",
        "by seeds alone": f"{100 * math.sqrt(variance / seeds):.2f}",
        "true difference": f"{true:.2f} ({least:.2f} to {most:.2f})",
        "p": float(f_distribution.sf(ratio, *degrees)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--folder", type=Path, required=True, help="what is trained, and pairs.csv")
    parser.add_argument("--pairs", type=int, default=30, help="of each kind")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.15, help="accuracy of the better one")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    given = parser.parse_args()
    run, chance = Run.open(given.run), Random(0)
    pairs = {
        "merged": merged_pairs(run, given.least, given.pairs, chance),
        "symmetric": symmetric_pairs(run, given.least, given.pairs, chance),
    }
    scores = train(
        given.folder,
        make_evaluator(run.config["settings"]),
        (e for both in pairs.values() for pair in both for e in pair),
        given.seeds,
        given.workers,
    )
    rows, each = [], []
    for kind, both in pairs.items():
        whole = [(a, b) for a, b in both if len(scores[a]) == len(scores[b]) == given.seeds]
        print(f"{kind}: {len(both) - len(whole)} pairs left out, whose trainings failed")
        values = [tuple([scores[e][i] for i in range(given.seeds)] for e in pair) for pair in whole]
        rows.append(row_of(kind, values))
        for (a, b), (one, other) in zip(whole, values, strict=True):
            names = {"one": formula(parse(a)), "other": formula(parse(b))}
            by_seed = {f"difference {i}": round(one[i] - other[i], 6) for i in range(given.seeds)}
            each.append({"kind": kind, **names, **by_seed})
    (given.folder / "pairs.csv").write_text(to_csv(each))
    print(to_markdown(rows))


if __name__ == "__main__":
    main()
