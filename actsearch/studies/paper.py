"""The tables of the paper (Ramachandran, Zoph, Le 2017, arXiv 1710.05941v2) as data, and its
Table 3 counted again.

The numbers are those printed, in per cent or BLEU with one decimal, in CSV files beside this one.
Functions are named as in search_space/baselines.py, the others written as formulas.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from actsearch.results.metrics import p_value
from actsearch.results.statistics import Wins, count_wins, holm, sign_test
from actsearch.results.tables import Row
from actsearch.search_space.baselines import BASELINES

Numbers = Mapping[str, Mapping[str, float | None]]  # function -> column -> as printed


@dataclass(frozen=True)
class PaperTable:
    """A table of scores. `dataset` is named as in `--dataset` where we have it, `network` is that
    of all columns ("" where each column is one), `runs` how many trainings a number is of."""

    number: int
    title: str
    dataset: str
    network: str
    measure: str
    runs: int

    @property
    def scores(self) -> Numbers:
        """None where the paper has a dash."""
        return {
            row.pop("function"): {k: float(v) if v else None for k, v in row.items()}
            for row in _read(self.number)
        }


TABLES: Mapping[int, PaperTable] = {
    t.number: t
    for t in (
        PaperTable(1, "CIFAR-10 accuracy of discovered functions", "cifar10", "", "accuracy", 5),
        PaperTable(2, "CIFAR-100 accuracy of discovered functions", "cifar100", "", "accuracy", 5),
        PaperTable(4, "CIFAR-10 accuracy", "cifar10", "", "accuracy", 5),
        PaperTable(5, "CIFAR-100 accuracy", "cifar100", "", "accuracy", 5),
        PaperTable(6, "ImageNet, Mobile NASNet-A", "imagenet", "Mobile NASNet-A", "accuracy", 1),
        PaperTable(7, "ImageNet, Inception-ResNet-v2", "imagenet", "Inception-ResNet-v2",
                   "accuracy", 1),
        PaperTable(8, "ImageNet, MobileNet", "imagenet", "MobileNet", "accuracy", 1),
        PaperTable(9, "ImageNet, Inception-v3", "imagenet", "Inception-v3", "accuracy", 1),
        PaperTable(10, "ImageNet, Inception-v4", "imagenet", "Inception-v4", "accuracy", 1),
        PaperTable(11, "WMT 2014 English to German", "wmt14", "12-layer base Transformer", "BLEU",
                   1),
    )
}  # fmt: skip
NUMBERS = (1, 2, 3, *range(4, 12))  # 3 holds counts, no scores

# The nine models of Table 3, each by the medians of these columns of these tables.
_CIFAR = ("ResNet-164", "WRN-28-10", "DenseNet-100-12")
_RUNS = ("top-1, run 1", "top-1, run 2", "top-1, run 3")
_TESTS = ("newstest2013", "newstest2014", "newstest2015", "newstest2016")
MODELS: Mapping[str, Sequence[tuple[int, str]]] = {
    **{name: ((4, name), (5, name)) for name in _CIFAR},
    "Mobile NASNet-A": [(6, run) for run in _RUNS],
    "Inception-ResNet-v2": [(7, run) for run in _RUNS],
    "MobileNet": [(8, "top-1")],
    "Inception-v3": [(9, "top-1")],
    "Inception-v4": [(10, "top-1")],
    "Transformer": [(11, test) for test in _TESTS],
}
SWISHES = ("swish", "swish-1")


def formula_of(function: str) -> str:
    """A function of the tables as text that search_space/parser.py reads."""
    return BASELINES.get(function, function)


def printed_counts() -> dict[str, Wins]:
    """Table 3: Swish against each baseline over nine models, as the paper counts."""
    return {
        row["function"]: Wins(int(row["wins"]), int(row["ties"]), int(row["losses"]))
        for row in _read(3)
    }


def model_scores(function: str) -> dict[str, float]:
    """The score of a function on each model of Table 3, from the printed tables: the median of its
    runs, data sets or test sets."""
    scores = {number: table.scores for number, table in TABLES.items()}
    cells = {
        model: [scores[number][function][column] for number, column in places]
        for model, places in MODELS.items()
    }
    return {m: statistics.median(v for v in row if v is not None) for m, row in cells.items()}


def recounted(function: str) -> dict[str, Wins]:
    """`function` against each baseline of Table 3, counted from the printed tables."""
    ours = model_scores(function)
    return {other: count_wins(ours, model_scores(other)) for other in printed_counts()}


def table_3() -> list[Row]:
    """The paper's counts, and those that its other tables give, with their sign tests, which Holm's
    correction takes together by source."""
    sources = {"swish, Table 3": printed_counts()}
    sources |= {f"{name}, other tables": recounted(name) for name in SWISHES}
    return [
        {
            "counts": source,
            "baseline": other,
            **vars(wins),
            "sign test p": p_value(p),
            "Holm p": p_value(adjusted),
        }
        for source, counts in sources.items()
        for (other, wins), (p, adjusted) in zip(counts.items(), tested(counts), strict=True)
    ]


def tested(counts: Mapping[str, Wins]) -> list[tuple[float, float]]:
    """The sign test's p of each, and Holm's among all."""
    p_values = [sign_test(wins) for wins in counts.values()]
    return list(zip(p_values, holm(p_values), strict=True))


def long_rows(numbers: Sequence[int] = tuple(TABLES)) -> Iterator[Row]:
    """A row a printed score: `n` is how many trainings it is the median of."""
    for table in (TABLES[n] for n in numbers):
        for function, scores in table.scores.items():
            for column, score in scores.items():
                if score is not None:
                    yield {
                        "table": table.number,
                        "function": function,
                        "formula": formula_of(function),
                        "dataset": table.dataset,
                        "model": table.network or column,
                        "measure": f"{table.measure} {column}" if table.network else table.measure,
                        "value": score,
                        "n": table.runs,
                        "source": "paper",
                    }


def _read(number: int) -> list[dict[str, str]]:
    file = files("actsearch.studies") / "paper_tables" / f"table_{number}.csv"
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
