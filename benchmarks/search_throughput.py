"""Candidates an hour of the whole system against one process that trains them one by one.

    python benchmarks/search_throughput.py [--space one-unit] [--functions 16] [--json FILE]

naive    this process, as many threads as there are cores, activations as torch's operators one
         after another, images channels first; the rest of the training loop is ours
system   a search with its store and queue on a local Ray with `--workers` workers, one thread
         each, generated kernels, images channels last; kernels are built anew

Both train the same random functions of the space by the same protocol, in rounds, by turns. With
`--one-worker` the system with a single worker stands in the place of `naive`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from activation import sampled
from torch import nn

from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.parser import parse
from actsearch.searching.loop import run_trials
from actsearch.searching.progress import Progress
from actsearch.searching.ray_actors import QueueActor, WorkerActor
from actsearch.searching.sources import FixedSource
from actsearch.workers.ray_executor import RayExecutor


class Naive(Evaluator):
    def build(self, expression: str) -> nn.Module:
        model = super().build(expression)
        model.memory_format = torch.contiguous_format
        return model


def one_by_one(
    evaluate: Evaluator, expressions: list[str], first: int
) -> tuple[float, list[Outcome]]:
    begun = time.perf_counter()
    trials = [Trial(first + i, "search", e, "p", 0) for i, e in enumerate(expressions)]
    with mock.patch(
        "actsearch.child_models.evaluate.one_thread", return_value=contextlib.nullcontext()
    ):
        outcomes = [evaluate(trial) for trial in trials]
    return time.perf_counter() - begun, outcomes


def by_the_system(
    executor: RayExecutor, store: Store, expressions: list[str]
) -> tuple[float, list[Outcome]]:
    begun = time.perf_counter()
    trials = [store.submit("search", e, "p", 0) for e in expressions]
    run_trials(store, FixedSource(trials), executor, Progress("benchmark", "", len(trials)))
    seconds = time.perf_counter() - begun
    return seconds, [o for t in trials if (o := store.outcome(t)) is not None]


def with_workers(
    count: int, evaluate: Evaluator, expressions: list[str]
) -> tuple[float, list[Outcome]]:
    """By the system on a Ray of its own, with no kernel built yet; its start is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        store = Store(Path(folder, "run.sqlite"), create=True)
        store.add_protocol("p", {})
        executor = RayExecutor(
            evaluate, workers=count, queue_class=QueueActor, worker_class=WorkerActor
        )
        try:
            by_the_system(executor, store, ["relu(x)", "tanh(x)"][:count])
            return by_the_system(executor, store, expressions)
        finally:
            executor.close()
            store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="one-unit")
    parser.add_argument("--functions", type=int, default=16, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", default="resnet8:width=8,size=14")
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--one-worker", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    common: dict[str, Any] = {
        "dataset": load(given.dataset),
        "child": child_from(given.child),
        "recipe": Recipe(steps=given.steps, batch_size=given.batch, lr=0.1),
    }
    functions = sampled(given.space, given.functions * given.rounds)
    expressions = [str(parse(f)) for f in functions]
    naive, ours = Naive(**common, kernels="eager"), Evaluator(**common, kernels="auto")
    name = "by one worker" if given.one_worker else "one by one"
    one_by_one(naive, ["relu(x)"], 0)
    rows: list[dict[str, Any]] = []
    for r in range(given.rounds):
        part = expressions[r * given.functions : (r + 1) * given.functions]
        if given.one_worker:
            seconds, outcomes = with_workers(1, ours, part)
        else:
            seconds, outcomes = one_by_one(naive, part, 1000)
        system_seconds, system = with_workers(given.workers, ours, part)
        rows.append(
            {"naive": seconds, "system": system_seconds,
             "in_children": sum(o.seconds for o in system),
             "ok": sum(o.status == "ok" for o in outcomes),
             "system_ok": sum(o.status == "ok" for o in system)}
        )  # fmt: skip
        print(f"round {r + 1}: {seconds:.1f} s {name} ({rows[-1]['ok']} ok), "
              f"{system_seconds:.1f} s by the system ({rows[-1]['system_ok']} ok)",
              flush=True)  # fmt: skip
    ratio = [row["naive"] / row["system"] for row in rows]
    outside = [1 - row["in_children"] / (given.workers * row["system"]) for row in rows]
    count = given.functions * given.rounds
    hour = {k: 3600 * count / sum(row[k] for row in rows) for k in ("naive", "system")}
    print(f"{given.space}, {given.child} on {given.dataset}, {given.steps} steps of {given.batch}, "
          f"{count} functions in {given.rounds} rounds, {given.workers} workers on "
          f"{os.cpu_count()} cores, torch {torch.__version__}")  # fmt: skip
    print(f"  {name} {hour['naive']:.0f} an hour, the system {hour['system']:.0f}: "
          f"{hour['system'] / hour['naive']:.2f} times "
          f"(rounds {' '.join(f'{x:.2f}' for x in ratio)})")  # fmt: skip
    print(
        f"  workers outside children {np.mean(outside):.1%} of their time "
        f"({' '.join(f'{x:.1%}' for x in outside)}), the last child's tail included"
    )
    if given.json:
        given.json.write_text(
            json.dumps({"arguments": vars(given) | {"json": None}, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
