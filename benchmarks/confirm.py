"""Confirming the best of a search against believing its best single score, at equal cost.

    python benchmarks/confirm.py                         # random and evolution
    python benchmarks/confirm.py --strategy surrogate    # the longest
    python benchmarks/confirm.py --trained               # with real further seeds alone
    python benchmarks/confirm.py --out rows.jsonl        # keeps replays, and goes on where it ended

Strategies search the one-unit space, whose functions were trained once each, 616 of them with two
further seeds. A search that confirms needs more seeds than these. So by default every replay has a
world of its own, in which all seeds are drawn from what the real trainings say:

- the true worth of a function of the head is drawn from its posterior, given all of its real
  trainings (`results/expectation.py`); that of the others is their score;
- a training adds the difference of two real trainings over sqrt(2), of one of the 40 functions
  nearest in score whose further seeds (1 and 2, which chose nothing) are known, either sign: noise
  keeps its real tails, and grows below the head as it does there;
- a seed moves all functions by a normal number whose standard deviation is 0.38 points, as the
  seven seeds do that 16 functions were trained with.

What this cannot show: seeds that favour a kind of function, and worths that change with the level.
With `--trained` nothing is drawn. The search sees the real scores of its seed, confirms with seed 1
(or 2) alone, once for each function that has it, and what it names is scored by the other of the
two. Replays then share few trainings, so their interval is too narrow.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.stats import ttest_1samp

from actsearch.controller.confirming import hit_rate, to_confirm, within_reach
from actsearch.controller.strategies import strategy_from
from actsearch.controller.strategy import Digits
from actsearch.results.benchmarks import load_benchmark
from actsearch.results.confirmed import Confirmed
from actsearch.results.expectation import believe
from actsearch.results.statistics import wilson
from actsearch.results.tables import FORMATS
from actsearch.studies.known_results import Table, table_from

RELU = "relu(x)"
SEEDS = 24  # that a world has
OF_SEEDS = 0.0038  # standard deviation of what a seed does to all functions alike
NEAREST = 20  # functions on each side from which a difference is drawn
TOP = 0.35  # accuracies above are of the head, whose noise is what the gain is measured in

Train = Callable[[str, int], float | None]  # an expression and a seed, counted from the search's


@dataclass(frozen=True)
class Replay:
    """What a search named: its worth with fresh seeds, and where it has confirmed what it had
    expected, with its interval, and how many trainings went into that."""

    worth: float | None
    expected: float = math.nan
    low: float = math.nan
    high: float = math.nan
    confirming: int = 0


@cache
def trained() -> tuple[Mapping[str, float | None], Mapping[str, dict[int, float]]]:
    """The scores of the search, None for what diverged, and those of further seeds."""
    table = load_benchmark("one-unit")
    first = {
        row.expression: row.accuracy if row.status == "ok" else None for row in table.itertuples()
    }
    again: dict[str, dict[int, float]] = {}
    more = load_benchmark("one-unit-again")
    own = table.attrs["provenance"]["protocol hash"]
    for row in more[(more.protocol == own) & (more.status == "ok")].itertuples():
        again.setdefault(row.expression, {})[int(row.seed)] = row.accuracy
    return first, again


@cache
def _drawn_from() -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names, means and standard deviations of true worths; levels and differences of pairs."""
    first, again = trained()
    known = {f: y for f, y in first.items() if y is not None and f != RELU}
    relu = {0: first[RELU], **again[RELU]}
    beliefs = believe(
        known,
        {f: scores for f, scores in again.items() if f in known},
        {RELU: {seed: y for seed, y in relu.items() if y is not None}},
    )
    assert beliefs is not None
    worth = {f: (y, 0.0) for f, y in known.items()} | dict(beliefs.worth)
    pairs = [
        ((scores[1] + scores[2]) / 2, (scores[2] - scores[1]) / math.sqrt(2))
        for f, scores in again.items()
        if {1, 2} <= scores.keys() and f in worth
    ]
    level, difference = np.array(sorted(pairs)).T
    difference = difference - np.array([
        difference[max(0, i - NEAREST) : i + NEAREST + 1].mean() for i in range(len(level))
    ])  # fmt: skip
    mean, sd = np.array([*worth.values()]).T
    return [*worth], mean, sd, level, difference


class World:
    """True worths, and trainings with any of SEEDS seeds."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([2026, seed])
        names, mean, sd, level, difference = _drawn_from()
        worth = mean + sd * rng.standard_normal(len(mean))
        common = OF_SEEDS * rng.standard_normal(SEEDS)
        shape = (len(mean), SEEDS)
        near = np.clip(np.searchsorted(level, worth), NEAREST, len(level) - NEAREST - 1)
        drawn = near[:, None] + rng.integers(-NEAREST, NEAREST + 1, shape)
        noise = rng.choice([-1, 1], shape) * difference[drawn]
        self._at = {name: i for i, name in enumerate(names)}
        self._worth, self._scores = worth, worth[:, None] + common + noise

    def train(self, expression: str, seed: int) -> float | None:
        i = self._at.get(expression)
        return None if i is None else float(self._scores[i, seed])

    def worth(self, expression: str) -> float:
        """The mean over all seeds there may be."""
        return float(self._worth[self._at[expression]])


def search(
    table: Table, text: str, seed: int, budget: int, train: Train, most: int | None
) -> tuple[Confirmed, int]:
    """As `actsearch search` on one worker: with `most` further seeds a function, None for none."""
    strategy = strategy_from(text, table.space, seed, table.metric)
    found, spelt = Confirmed(0, [RELU]), dict[str, list[Digits]]()
    told = dict[str, float | None]()
    found.add(0, "search", RELU, 0, train(RELU, 0))
    cost = confirming = repeats = 0
    while cost < budget and repeats < 5_000:
        name = _next(found, budget - cost, most) if most else None
        if name is not None:
            further = 1 + len(found.again(name))
            for of in (RELU, name):
                if cost < budget and further not in found.again(of):
                    found.add(0, "confirm", of, further, train(of, further))
                    cost, confirming = cost + 1, confirming + 1
            beliefs = found.beliefs
            for f, (mean, _) in beliefs.worth.items() if beliefs is not None else ():
                for digits in spelt.get(f, ()):
                    strategy.revise(digits, mean)
            continue
        proposals = strategy.ask(1)
        if not proposals:
            break
        name = table.look_up(proposals[0].digits, 1.0).name
        if name is not None and name not in told:
            repeats, cost = 0, cost + 1
            told[name] = train(name, 0)
            found.add(cost, "search", name, 0, told[name])
        else:
            repeats += 1
        reward = None if name is None else told[name]
        strategy.tell(proposals[0], reward)
        if name is not None:
            spelt.setdefault(name, []).append(proposals[0].digits)
    return found, confirming


def _next(found: Confirmed, left: int, most: int) -> str | None:
    if not within_reach(left) or (beliefs := found.beliefs) is None:
        return None
    trainings = {f: 1 + len(found.again(f)) for f in found.candidates}
    able = [f for f, n in trainings.items() if n <= most and _has(f, n, most)]
    rate = hit_rate(found.latest, beliefs.cut)
    return to_confirm(beliefs, able, trainings, left, rate, len(found.again(RELU)))


def _has(expression: str, seed: int, most: int) -> bool:
    """Whether a function can be trained with a seed: a world has all."""
    return most > 1 or {1, 2} <= trained()[1].get(expression, {}).keys()


def best(found: Confirmed) -> str:
    """What a search that confirms names."""
    beliefs = found.beliefs
    assert beliefs is not None
    return max(
        (f for f in found.candidates if f in beliefs.worth), key=lambda f: beliefs.worth[f][0]
    )


def both(job: tuple[str, int, int, bool]) -> tuple[Replay, Replay]:
    """One replay that names its best single score, and one that confirms."""
    text, seed, budget, real = job
    table = _table()
    world = World(seed)
    train, worth = (_real(seed), _held_out(seed)) if real else (world.train, world.worth)
    naive, _ = search(table, text, seed, budget, train, None)
    scores = naive.candidates
    named = max(scores, key=scores.__getitem__)
    found, confirming = search(table, text, seed, budget, train, 1 if real else SEEDS - 1)
    beliefs, chosen = found.beliefs, best(found)
    assert beliefs is not None
    again = beliefs.again(chosen)
    ends = (again.mean, again.low, again.high)
    return Replay(worth(named), scores[named]), Replay(worth(chosen), *ends, confirming)


def _real(replay: int) -> Train:
    """Real trainings; the further seed is 1 in every other replay, else 2."""
    first, again = trained()

    def train(expression: str, seed: int) -> float | None:
        if seed == 0:
            return first.get(expression)
        return again[expression][1 + replay % 2]

    return train


def _held_out(replay: int) -> Callable[[str], float | None]:
    again = trained()[1]
    return lambda expression: again.get(expression, {}).get(2 - replay % 2)


@cache
def _table() -> Table:
    table = table_from("one-unit")
    rewards = table.rewards
    assert rewards
    return table


def say(text: str, replays: list[tuple[Replay, Replay]], noise: float) -> dict[str, object]:
    """One row of the table, in points of accuracy."""
    pairs = [(a, b) for a, b in replays if a.worth is not None and b.worth is not None]
    naive, chosen = (np.array([100 * pair[i].worth for pair in pairs]) for i in (0, 1))
    gain = chosen - naive
    error = gain.std(ddof=1) / math.sqrt(len(gain))
    claimed = np.array([100 * pair[0].expected for pair in pairs])
    inside = sum(b.low <= b.worth <= b.high for _, b in pairs if b.worth is not None)
    low, high = wilson(inside, len(pairs))
    wide = np.mean([100 * (b.high - b.low) for _, b in pairs])
    stated = np.mean([100 * (b.expected - b.worth) for _, b in pairs if b.worth is not None])
    return {
        "strategy": text,
        "n": len(pairs),
        "best score, worth": f"{naive.mean():.2f}",
        "confirmed, worth": f"{chosen.mean():.2f}",
        "gain, 95 %": f"{gain.mean():+.2f} ({gain.mean() - 1.98 * error:+.2f} to "
        f"{gain.mean() + 1.98 * error:+.2f})",
        "in noise sd": f"{gain.mean() / (100 * noise):+.2f}",
        "p of none": f"{ttest_1samp(gain, 0.0).pvalue:.2g}",
        "best score too high by": f"{np.mean(claimed - naive):+.2f}",
        "expected too high by": f"{stated:+.2f}",
        "within its interval": f"{inside / len(pairs):.0%} ({low:.0%} to {high:.0%})",
        "width": f"{wide:.2f}",
        "confirming, mean": f"{np.mean([b.confirming for _, b in pairs]):.1f}",
    }  # fmt: skip


def played(given: argparse.Namespace) -> dict[str, list[tuple[Replay, Replay]]]:
    """By strategy its replays; those that the file has are not played again."""
    jobs = [
        (text, given.seed + i, given.budget, given.trained)
        for text in given.strategy
        for i in range(given.replays)
    ]
    known: dict[tuple[object, ...], tuple[Replay, Replay]] = {}
    if given.out is not None and given.out.exists():
        for line in given.out.read_text().splitlines():
            row = json.loads(line)
            known[tuple(row["job"])] = Replay(*row["naive"]), Replay(*row["confirmed"])
    missing = [job for job in jobs if job not in known]
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        for job, pair in zip(missing, pool.map(both, missing), strict=True):
            known[job] = pair
            if given.out is not None:
                row = {"job": job, "naive": astuple(pair[0]), "confirmed": astuple(pair[1])}
                with given.out.open("a") as file:
                    print(json.dumps(row), file=file)
    return {text: [known[job] for job in jobs if job[0] == text] for text in given.strategy}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategy", nargs="+", default=["random", "evolution"])
    parser.add_argument("--replays", type=int, default=100)
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first replay")
    parser.add_argument("--trained", action="store_true", help="real further seeds alone")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keeps replays here, and goes on from them")
    given = parser.parse_args()
    _, _, _, level, difference = _drawn_from()
    noise = float(difference[level > TOP].std())
    pairs = int((level > TOP).sum())
    print(f"one training scatters by {100 * noise:.2f} points above {TOP:.0%}, n = {pairs} pairs")
    found = [say(text, replays, noise) for text, replays in played(given).items()]
    across = [
        {"": column, **{str(row["strategy"]): row[column] for row in found}}
        for column in found[0]
        if column != "strategy"
    ]
    print(FORMATS["markdown"](across), end="")


if __name__ == "__main__":
    main()
