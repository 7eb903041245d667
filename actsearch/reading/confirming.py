"""conclusion(): what a search that has trained its best again ends with, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from actsearch.results.confirmed import Confirmed, confirmed
from actsearch.results.expectation import Beliefs
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import Metric
from actsearch.results.records import ALWAYS_BESIDE
from actsearch.results.tables import brief
from actsearch.run import Run


def conclusion(run: Run) -> list[str]:
    """The winner and what is expected of it when it is trained again, whether it is better than the
    baselines beyond luck, and how much of the best single score was luck; [] where nothing was
    trained again, or too little."""
    with closing(run.store(readonly=True)) as store:
        again = store.rows("confirm")
        found = confirmed(store.rows("search"), again, run.metric) if again else None
        trained, spent = len(store.trained()), store.confirming()[1]
    beliefs = None if found is None else found.beliefs
    if found is None or beliefs is None:
        return []
    entries = run.leaderboard()
    winner = next((e for e in entries if e.rank is not None and not e.beside), None)
    if winner is None or winner.expected is None:
        return []
    metric = winner.metric
    first = sum(1 for reward in found.latest if reward is not None)
    ends = f"{metric.number(winner.expected.low)} to {metric.number(winner.expected.high)}"
    trainings = f"{winner.seeds} training" + "s" * (winner.seeds > 1)
    said = (
        f"{brief(winner.formula)} is the best of {first:,} candidates that trained, judged by "
        f"{trainings}. Trained again it should have {metric.text(winner.expected.mean)} on "
        f"validation data (95 %: {ends})"
    )
    beside = [
        _beside(winner, other, beliefs)
        for other in _baselines(entries, beliefs)
        if other.expression != winner.expression
    ]
    said += f"; {', '.join(beside)}." if beside else "."
    return [
        said,
        _luck(found, beliefs, entries, metric),
        f"{spent:,} of {spent + trained:,} trainings of the search confirmed the best with further "
        "seeds.",
    ]


def _baselines(entries: Sequence[Entry], beliefs: Beliefs) -> list[Entry]:
    """ReLU, and the best of the others."""
    beside = [e for e in entries if e.beside and e.expression in beliefs.subjects]
    first = [e for e in beside if e.label == ALWAYS_BESIDE[0]]
    others = [e for e in beside if e not in first]
    return [*first, *sorted(others, key=lambda e: -beliefs.worth[e.expression][0])[:1]]


def _beside(winner: Entry, other: Entry, beliefs: Beliefs) -> str:
    """Such as `1.20 points better than relu beyond luck (95 %: +0.40 to +2.00)`."""
    metric = winner.metric
    gain = beliefs.gain(winner.expression, other.expression)
    low, high = (f"{metric.factor * x:+.{metric.decimals}f}" for x in (gain.low, gain.high))
    beyond = gain.low > 0 or gain.high < 0
    which = "better" if gain.mean > 0 else "worse"
    judged = f" beyond luck (95 %: {low} to {high})"
    if not beyond:
        judged = f", which may be luck (95 %: {low} to {high})"
    return (
        f"{metric.distance(gain.mean)} {which} than {other.label or brief(other.formula)}{judged}"
    )


def _luck(found: Confirmed, beliefs: Beliefs, entries: Sequence[Entry], metric: Metric) -> str:
    """The search's own winner's curse: what its best single score is worth by now."""
    scores = found.candidates
    best = max(scores, key=scores.__getitem__)
    worth = beliefs.worth[best][0]
    formula = next(e.formula for e in entries if e.expression == best)
    luck = scores[best] - worth
    share = f"was better by {metric.distance(luck)} of luck" if luck > 0 else "owed luck nothing"
    return (
        f"The best single score, {metric.text(metric.reward(scores[best]))} of {brief(formula)}, "
        f"{share}; one training scatters by {metric.distance(beliefs.noise_sd)}."
    )
