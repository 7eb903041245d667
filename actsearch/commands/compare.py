"""actsearch compare: re-evaluated functions against one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from actsearch.errors import DONE
from actsearch.options import Folder, Format, OneOf, Options, Typed, Whole, Word
from actsearch.results.tables import Row
from actsearch.shown import below, put

if TYPE_CHECKING:
    from actsearch.reading.comparison import Comparison

_WIDE = ("formula", "child", "dataset", "interval")  # columns for which a terminal has no room
_RATES = ("lr", "reference lr")


@dataclass(frozen=True)
class CompareConfig(Options):
    """Compare re-evaluated functions with one of them, over models and by seed.

    A model is a child on a data set with a recipe. Where a function was trained at several learning
    rates, the one with the best mean validation score counts.

    Example: actsearch compare runs/a --reference gelu
    """

    runs: Annotated[tuple[str, ...], Folder(), Typed(place="[RUN ...]")] = ()
    """Folders of runs with re-evaluations [the newest under runs/]."""
    reference: Annotated[str, Word(metavar="FUNCTION")] = "relu"
    """What the others are compared with: a baseline's name, a formula or RUN#RANK."""
    metric: Annotated[str, OneOf("actsearch.reading.comparison:COLUMNS")] = "test"
    """Score on the test or on the validation split."""
    round: Annotated[int | None, Whole(0)] = None
    """Decimals of a per cent to which medians are rounded before wins are counted, such as the
    paper's 1 [full precision]."""
    format: Format = "table"
    """{names}; csv and json hold the rows of the models."""


def run(config: CompareConfig) -> int:
    from actsearch.reading.comparison import compare as compare_runs
    from actsearch.results.tables import FORMATS

    found = compare_runs(
        *config.runs,
        reference=config.reference,
        metric=config.metric,
        decimals=config.round,
    )
    rendered = FORMATS[config.format]
    tables = config.format in ("table", "markdown")
    put(text(found, rendered) if tables else rendered(found.models), end="")
    return DONE


def text(comparison: Comparison, table: Callable[[Sequence[Row]], str]) -> str:
    """Both tables, each by `table` of results.tables.FORMATS, and the sentences."""
    one_rate = len({row[k] for row in comparison.models for k in _RATES}) < 2
    hidden = (*_WIDE, *_RATES) if one_rate else _WIDE
    models = [{k: v for k, v in row.items() if k not in hidden} for row in comparison.models]
    sentences = "\n\n".join((*below(models), *comparison.verdicts))
    return f"{table(models)}\n{table(comparison.functions)}\n{sentences}\n"
