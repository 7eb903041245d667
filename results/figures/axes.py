"""What figures of searches have in common: axes at whose edge stands what is far out on the worse
side, and the style of baselines."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actsearch.results.figures.plots import BESIDE, SYMBOLS, Points
from actsearch.results.metrics import Metric

FENCE = 3.0  # interquartile ranges
FEWEST_FOR_FENCES = 8  # values
OTHERS = 3  # the style of all baselines but ReLU and Swish, which have their own

Places = tuple[tuple[float, ...], tuple[float, ...]]  # x and y of points


@dataclass(frozen=True)
class Axis:
    """What an axis shows of values: all, but for those that are far out on the worse side, which
    stand at its `edge`. Far out is beyond Tukey's (1977) outer fence, three interquartile ranges
    from the quartile. `low` and `high` are the axis's ends; `edge` is None where all are shown."""

    low: float
    high: float
    edge: float | None
    upwards: bool  # whether higher is better

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        *,
        upwards: bool,
        always: Iterable[float] = (),
        room: bool = False,
    ) -> Axis:
        """Of at least one value; `always` shows these too, and with `room` the edge is free for
        what has no value at all."""
        sign = 1.0 if upwards else -1.0
        turned = [sign * value for value in values]
        kept = [sign * value for value in always]
        worst, best = min(_inside(turned) + kept), max(turned + kept)
        margin = 0.05 * ((best - worst) or abs(best) or 1.0)
        if min(turned) > worst - 2 * margin:  # what is nearer than the edge needs none
            worst = min(worst, *turned)
        far = min(turned) < worst
        edge = worst - 2 * margin if far or room else None
        ends = (worst if edge is None else edge) - margin, best + margin
        low, high = sorted(sign * end for end in ends)
        return cls(low, high, None if edge is None else sign * edge, upwards)

    def out(self, value: float) -> bool:
        return self.edge is not None and (value < self.edge if self.upwards else value > self.edge)

    def at(self, value: float) -> float:
        """Where it is drawn."""
        return self.edge if self.edge is not None and self.out(value) else value

    @property
    def ends(self) -> tuple[float, float] | None:
        """None where all are shown, and whoever draws finds the ends."""
        return None if self.edge is None else (self.low, self.high)

    def note(self, values: Sequence[float], metric: Metric) -> str:
        """Such as `; 2 are far out, the worst 10.00 %, and stand at the edge`; "" for none."""
        out = [v / metric.factor for v in values if self.out(v)]
        if not out:
            return ""
        worst = metric.text(min(out) if self.upwards else max(out))
        if len(out) == 1:
            return f"; 1 is far out, {worst}, and stands at the edge"
        return f"; {len(out):,} are far out, the worst {worst}, and stand at the edge"


def _inside(values: Sequence[float]) -> list[float]:
    """Those that are not far below the others."""
    if len(values) < FEWEST_FOR_FENCES:
        return [*values]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    if first == third:
        return [*values]
    return [v for v in values if v >= first - FENCE * (third - first)]


def far_out(places: Places, axis: Axis, names: tuple[str, ...]) -> Points:
    """Scores that the axis does not reach."""
    return at_the_edge("far out", places, "triangle-down" if axis.upwards else "triangle-up", names)


def at_the_edge(what: str, places: Places, symbol: str, names: tuple[str, ...]) -> Points:
    what, number = f"{what} ({len(names):,})", SYMBOLS.index(symbol)
    return Points(what, *places, style=BESIDE, symbol=number, names=names, size=5)
