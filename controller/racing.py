"""Racing: a training is stopped at a milestone, a step of it, where it is not among the best so
far.

More than half of random functions never learn anything, and most of the rest can be told from the
best after a few steps. A milestone compares a training with all that were raced before it, those
that left earlier or diverged counting as worse: the rule of asynchronous successive halving (Li et
al. 2020), except that whoever has left does not come back. Unlike the rungs of `--halving`, which
are trainings of their own, nothing is trained twice, and the learning rate's schedule is that of
the whole training.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass
from typing import cast

from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import Milestone, Outcome, RacedBy

# After a share of the steps, this share of all goes on: chosen on the table of the one-unit space.
USUAL = (1 / 15, 0.7), (1 / 6, 0.35), (1 / 3, 0.12)
EXAMPLE = "loss:20=0.4,50=0.15"
FIRST = 16  # trainings that a milestone lets pass before it compares


@dataclass(frozen=True)
class RaceRules:
    """(step, share): the best `share` of all go on after `step`, by the mean training loss of the
    last steps, or by the score, of this metric, on a part of the validation split."""

    by: RacedBy
    milestones: tuple[tuple[int, float], ...]
    metric: Metric = ACCURACY

    @property
    def name(self) -> str:
        """How --racing calls what counts."""
        return self.by if self.by == "loss" else _score_name(self.metric)

    def __str__(self) -> str:
        return f"{self.name}:" + ",".join(f"{step}={share:g}" for step, share in self.milestones)

    def words(self) -> str:
        """Such as `the best 40 % by loss go on after 20 steps, 15 % after 50`."""
        (step, share), *rest = self.milestones
        more = "".join(f", {100 * share:g} % after {step:,}" for step, share in rest)
        return f"the best {100 * share:g} % by {self.name} go on after {step:,} steps{more}"


def _score_name(metric: Metric) -> str:
    """`loss` is the training loss."""
    name = metric.name.replace(" ", "")
    return "score" if name == "loss" else name


def race_rules(text: str, steps: int, metric: Metric = ACCURACY) -> RaceRules | None:
    """From `on`, `off` (None), or such as `loss:20=0.4,50=0.15` or `accuracy:100=0.5`, for
    trainings of `steps` with scores of `metric`; raises ValueError with a way out."""
    if text == "off":
        return None
    if text == "on":
        usual: list[tuple[int, float]] = []
        for part, share in USUAL:
            before = usual[-1][0] if usual else 0
            usual.append((max(before + 1, round(part * steps)), share))
        return RaceRules("loss", tuple(usual), metric)
    name, _, rest = text.replace(" ", "").partition(":")
    if name not in ("loss", "score", _score_name(metric)):
        raise ValueError(
            f"racing by {name!r} is not known; use on, off, or loss or {_score_name(metric)} with "
            f"steps and the share that goes on, as {EXAMPLE}"
        )
    try:
        pairs = [part.split("=") for part in rest.split(",")]
        milestones = tuple((int(step), float(share)) for step, share in pairs)
    except ValueError:
        raise ValueError(f"racing {text!r} needs steps and shares, as {EXAMPLE}") from None
    places, shares = zip(*milestones, strict=True)
    rising = all(a < b for a, b in zip((0, *places), places, strict=False))
    falling = all(a > b for a, b in zip((1.0, *shares), shares, strict=False))
    if not (rising and falling and shares[-1] > 0):
        raise ValueError(
            f"racing {text!r}: steps must rise from 1, and shares of all must fall from below 1, "
            f"as {EXAMPLE}"
        )
    return RaceRules(cast(RacedBy, name if name == "loss" else "score"), milestones, metric)


class Race:
    """What has been seen at each milestone, and the limits that follow."""

    def __init__(self, rules: RaceRules) -> None:
        self.rules = rules
        self._seen: dict[int, list[float]] = {s: [] for s, _ in rules.milestones}  # worst last

    def milestones(self) -> tuple[Milestone, ...]:
        """For the next training."""
        return tuple(
            Milestone(step, self.rules.by, self._limit(step, share), self.rules.metric)
            for step, share in self.rules.milestones
        )

    def _limit(self, step: int, share: float) -> float | None:
        seen = self._seen[step]
        if len(seen) < FIRST:
            return None
        last = seen[math.ceil(share * len(seen)) - 1]
        return None if math.isinf(last) else self._sign * last

    def tell(self, outcome: Outcome) -> None:
        """The outcome of a training that was raced; others say nothing."""
        values = {m.step: m.value(self.rules.by) for m in outcome.milestones}
        if outcome.status == "diverged":
            values = dict.fromkeys(self._seen, None)
        elif outcome.status == "raced_out":
            values |= {step: None for step in self._seen if step > (outcome.step or 0)}
        for step, value in values.items():
            if step in self._seen:
                insort(self._seen[step], math.inf if value is None else self._sign * value)

    @property
    def _sign(self) -> float:
        """1 where less is better."""
        return 1.0 if self.rules.by == "loss" or self.rules.metric.lower else -1.0
