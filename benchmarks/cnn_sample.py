"""Does a ConvNeXt rank functions as a language model does? H1b on a random sample.

    python benchmarks/cnn_sample.py train ROWS.jsonl --images CIFAR10.npz    # an hour; resumes
    python benchmarks/cnn_sample.py say [ROWS.jsonl]                 # [docs/data/cnn_sample.jsonl]

The functions are the random 200 of `lm-one-unit`, which were drawn before any score was read
(docs/studies/registered.md); each is trained once in `convnext` as benchmarks/fair_child.py trains
it. `say` correlates them with `lm-one-unit` and, for the same functions, the table of `resnet8`;
functions that learn in both count. Intervals are a bootstrap over functions (95 %, 2,000 resamples,
seed 0).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from fair_child import NETWORKS, RESAMPLES, results
from lm_one_unit import ABOVE_CHANCE, LEARNT, Found, verdict
from one_unit import rho, spearman

from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.results.records import Trial
from actsearch.results.tables import Row, to_markdown

DATA = Path(__file__).parent.parent / "docs" / "data"
NETWORK = "convnext"


def train(given: argparse.Namespace) -> None:
    done = {row["expression"] for row in results(given.rows)}
    network = NETWORKS[NETWORK]
    evaluator = Evaluator(load(given.images), child_from(network.child), network.recipe)
    for expression in Found().sample:
        if expression in done:
            continue
        outcome = evaluator(Trial(0, "reevaluate", expression, evaluator.protocol_hash, 0))
        row = {"expression": expression, "seed": 0, "status": outcome.status,
               "reason": outcome.reason, "score": outcome.val_score}  # fmt: skip
        with given.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")


def say(given: argparse.Namespace) -> None:
    found = Found()
    rows: list[Any] = [*results(given.rows)]
    convnext = {r["expression"]: r["score"] for r in rows if r["score"] is not None}
    ended = found.cnn.dropna(subset=["accuracy"])
    resnet8 = dict(zip(ended["expression"], ended["accuracy"], strict=True))
    seen: set[Any] = {row["expression"] for row in results(DATA / "children.jsonl")}
    learnt = {e for e, score in found.score.items() if score < LEARNT}
    for name, of in (("convnext", convnext), ("resnet8", resnet8)):
        of = {e: score for e, score in of.items() if score > ABOVE_CHANCE}
        print(f"{name}: {sum(r['expression'] in of for r in rows)} of {len(rows)} learn\n")
    both = [r["expression"] for r in rows if convnext.get(r["expression"], 0) > ABOVE_CHANCE
            and r["expression"] in learnt]  # fmt: skip
    unseen = [e for e in both if e not in seen]
    in_all = [e for e in unseen if resnet8.get(e, 0) > ABOVE_CHANCE]
    table = [
        correlated("H1b: `convnext`, learn in both, not seen before", unseen, convnext, found),
        correlated("the same and learn in `resnet8` too", in_all, convnext, found),
        correlated("these by the table of `resnet8`", in_all, resnet8, found),
    ]
    print(to_markdown(table))
    print(f"verdict on H1b: {verdict(between(unseen, convnext, found), 0.5, 0.3)}")
    print(f"`convnext` less `resnet8`, the same {len(in_all)} functions: "
          f"{apart(in_all, convnext, resnet8, found)}")  # fmt: skip


def correlated(name: str, names: list[str], scores: dict[str, float], found: Found) -> Row:
    ours, theirs = pair(names, scores, found)
    return {"functions": name, "n": len(names), "Spearman with the GPT": spearman(ours, theirs)}


def pair(names: list[str], scores: dict[str, float], found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Both better where they are higher."""
    return np.array([scores[e] for e in names]), -np.array([found.score[e] for e in names])


def between(names: list[str], scores: dict[str, float], found: Found) -> float:
    return rho(*pair(names, scores, found))


def apart(names: list[str], one: dict[str, float], other: dict[str, float], found: Found) -> str:
    """How much nearer to the language model, with its interval."""
    a, lm = pair(names, one, found)
    b, _ = pair(names, other, found)
    drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    gaps = [rho(a[i], lm[i]) - rho(b[i], lm[i]) for i in drawn]
    low, high = np.quantile(gaps, (0.025, 0.975))
    return f"{rho(a, lm) - rho(b, lm):+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    trains = commands.add_parser("train", help="train the sample")
    trains.add_argument("rows", type=Path)
    trains.add_argument("--images", required=True, help="CIFAR-10 as an .npz file")
    trains.set_defaults(do=train)
    says = commands.add_parser("say", help="what the trainings say")
    says.add_argument("rows", type=Path, nargs="?", default=DATA / "cnn_sample.jsonl")
    says.set_defaults(do=say)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
