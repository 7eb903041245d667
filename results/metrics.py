"""Metrics: what a score is, which way is better, and how people read it.

A score is any finite real number. It is stored and computed with as it is; only a reward, which a
strategy is told, is turned so that higher is better, and only what is printed has a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Direction = Literal["higher", "lower"]
_SHORT = {"max": "higher", "min": "lower"}


@dataclass(frozen=True)
class Metric:
    """`direction` is that of better scores, `max` and `min` for short. `unit` is what people read
    behind a number, and `points` behind a difference. A `fraction` is a share of 1 that is shown in
    hundredths, such as an accuracy in per cent; strategies take its range for granted
    (controller/scales.py)."""

    name: str
    direction: Direction | Literal["max", "min"] = "higher"
    unit: str = ""
    points: str = ""
    fraction: bool = False
    decimals: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", _SHORT.get(self.direction, self.direction))
        if not self.name.strip() or not self.name.isprintable() or set(self.name) & set("<>=!,"):
            raise ValueError(
                f"a metric's name is a column's, in one line and without any of < > = ! and commas,"
                f" but it is {self.name!r}; call it for example 'perplexity'"
            )
        if self.direction not in get_args(Direction):
            raise ValueError(
                f"the direction of {self.name} is {self.direction!r}; say which scores are better, "
                f"{' or '.join(get_args(Direction))}"
            )

    @property
    def lower(self) -> bool:
        return self.direction == "lower"

    @property
    def factor(self) -> float:
        """Of a score as people read it, over the score as it is stored."""
        return 100.0 if self.fraction else 1.0

    def reward(self, score: float) -> float:
        """The score turned so that higher is better; its own inverse."""
        return -score if self.lower else score

    @property
    def test_name(self) -> str:
        """Under which an objective returns its score on test data."""
        return f"test_{self.name}"

    def column(self, split: str) -> str:
        """The name of a table's column, such as `val accuracy`."""
        return f"{split} {self.name}"

    def axis(self, split: str) -> str:
        """The label of a figure's axis, such as `validation accuracy [%]`."""
        return f"{self.column(split)}{self.in_brackets}"

    @property
    def in_brackets(self) -> str:
        """The unit behind a name, such as ` [%]`; "" where there is none or the name says it."""
        return f" [{self.unit}]" if self.unit not in ("", self.name) else ""

    def number(self, score: float) -> str:
        """As people read it, without the unit: `91.20` of an accuracy."""
        return f"{self.factor * score:.{self.decimals}f}"

    def signed(self, difference: float) -> str:
        """Such as `+1.20`."""
        sign = "+" if difference > 0 else ""
        return f"{sign}{self.number(difference)}"

    def text(self, score: float) -> str:
        """Such as `91.20 %`, `23.10 BLEU` or `1.2031 nats`."""
        return f"{self.number(score)} {self.unit}".rstrip()

    def distance(self, difference: float) -> str:
        """A size, such as `1.20 points`."""
        return f"{self.number(abs(difference))} {self.points or self.unit}".rstrip()

    def cell(self, value: float | None, *, signed: bool = False) -> Cell | None:
        """`value` for a table, a score or, `signed`, a difference of two."""
        if value is None:
            return None
        unit = f"{self.name} in {self.unit}" if self.in_brackets else ""
        return Cell(value, self.signed if signed else self.number, unit)

    def to_config(self) -> str | dict[str, Any]:
        """What config.json and protocols keep: the name where METRICS has it."""
        return self.name if METRICS.get(self.name) == self else asdict(self)


class Cell(float):
    """A number in a table, how people read it and, in words for below the table, its `unit`; to
    everything else it is a float."""

    shown: Callable[[float], str]
    unit: str

    def __new__(cls, value: float, shown: Callable[[float], str], unit: str = "") -> Cell:
        made = super().__new__(cls, value)
        made.shown = shown
        made.unit = unit
        return made

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)  # elsewhere it is a number like others


def p_value(p: float | None) -> Cell | None:
    """For a table: two digits, however small."""
    return None if p is None else Cell(p, "{:.2g}".format)


ACCURACY = Metric("accuracy", unit="%", points="points", fraction=True, decimals=2)

METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        ACCURACY,
        Metric("BLEU", unit="BLEU", fraction=True, decimals=2),
        Metric("loss", "lower", unit="nats"),
        Metric("bits per byte", "lower", unit="bits per byte"),
        Metric("bits per token", "lower", unit="bits per token"),
        Metric("R2"),
        Metric("RMSE", "lower"),  # in the units of the targets, which a Metric of one's own may say
    )
}


def metric_from(given: str | Mapping[str, Any] | Metric) -> Metric:
    """A metric by its name in METRICS, or as `to_config` gave it. Raises ValueError, with the way
    out, for a name that the table does not have."""
    if isinstance(given, Metric):
        return given
    if not isinstance(given, str):
        return Metric(**given)
    if given not in METRICS:
        raise ValueError(
            f"the metric {given!r} is not known; known: {', '.join(METRICS)}. One of your own is "
            f"Metric({given!r}, 'higher') or Metric({given!r}, 'lower')"
        )
    return METRICS[given]


def common(metrics: Iterable[Metric]) -> Metric | None:
    """The one metric of all, None where they differ."""
    found = set(metrics)
    return found.pop() if len(found) == 1 else None
