"""What `actsearch paper` prints: the paper's tables, and beside them what a run has measured.

A run's models stand beside the tables of their data set; where the paper has none of the run's data
sets, beside all of them. Functions are the same where their canonical forms are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from actsearch.errors import UsageError
from actsearch.reading.comparison import reevaluations
from actsearch.results.metrics import Metric
from actsearch.results.repeats import Trained, chosen
from actsearch.results.statistics import LEVEL
from actsearch.results.tables import Row
from actsearch.run import Run
from actsearch.studies.paper import (
    NUMBERS,
    SWISHES,
    TABLES,
    PaperTable,
    formula_of,
    long_rows,
    printed_counts,
    recounted,
    table_3,
    tested,
)

Render = Callable[[Sequence[Row]], str]


@dataclass(frozen=True)
class Measured:
    """A model of a run: its trainings by the function's canonical text."""

    name: str
    child: str
    dataset: str
    operators: str
    functions: Mapping[str, Trained]

    @property
    def metric(self) -> Metric:
        return next(iter(self.functions.values())).metric

    def find(self, function: str) -> Trained | None:
        """The trainings of a function of the paper's tables."""
        from actsearch.search_space.analysis.equivalence import canonical
        from actsearch.search_space.parser import parse

        form = str(canonical(parse(formula_of(function)), self.operators))
        return self.functions.get(form)


def paper_text(number: int | None, run: Run | None, render: Render) -> str:
    """All tables or one, each with its title, and a run's models beside them."""
    _check(number)
    models = measured(run) if run else []
    numbers = NUMBERS if number is None else (number,)
    if number is None and run:
        numbers = [n for n in TABLES if any(_of(TABLES[n], models))]
    parts = []
    for n in numbers:
        if n == 3:
            parts += [f"Table 3: wins, ties and losses over nine models\n\n{render(table_3())}"]
            parts += ["\n".join(recount_lines()) + "\n"]
        else:
            rows = side_by_side(TABLES[n], list(_of(TABLES[n], models)))
            parts.append(f"Table {n}: {TABLES[n].title}{_of_runs(TABLES[n])}\n\n{render(rows)}")
    return "\n".join(parts)


def paper_rows(number: int | None, run: Run | None) -> list[Row]:
    """A row a score, of the paper and of `run`; of Table 3 a row a count."""
    _check(number)
    if number == 3:
        return table_3()
    models = measured(run) if run else []
    numbers = [n for n in TABLES if n == number or (number is None and any(_of(TABLES[n], models)))]
    if run is None and number is None:
        numbers = list(TABLES)
    return [*long_rows(numbers), *(row for n in numbers for row in _measured_rows(n, models))]


def side_by_side(table: PaperTable, models: Sequence[Measured]) -> list[Row]:
    """A row a function: the paper's columns as printed, then of each model the median test accuracy
    in per cent and how many seeds it is of; empty where not measured or a training failed."""
    rows = []
    for function, scores in table.scores.items():
        row: dict[str, Any] = {"function": function}
        row |= {k: None if v is None else Decimal(str(v)) for k, v in scores.items()}
        for model in models:
            trained = model.find(function)
            row[model.name] = _per_cent(trained)
            row["n" if len(models) == 1 else f"n, {model.name}"] = _n(trained)
        rows.append(row)
    return rows


def measured(run: Run) -> list[Measured]:
    """The models of a run's re-evaluations. Raises RunError where there are none."""
    found = []
    for name, functions in chosen(reevaluations([run])).items():
        first = next(iter(next(iter(functions.values())).rows.values()))
        found.append(
            Measured(name, first["child"], first["dataset"], first["operators"], functions)
        )
    return found


def recount_lines() -> list[str]:
    """What a second look at Table 3 shows."""
    counts = printed_counts()
    p_values = dict(zip(counts, tested(counts), strict=True))
    weak = [f"{name} (p = {p:.4f})" for name, (p, _) in p_values.items() if p >= LEVEL]
    firm = [name for name, (_, adjusted) in p_values.items() if adjusted < LEVEL]
    lines = [
        f"By its own counts Swish is not significantly better than {' and '.join(weak)}, at "
        f"{LEVEL}; by Holm's correction among all {len(counts)} only than {', '.join(firm)}."
    ]
    for function in SWISHES:
        again = recounted(function)
        other = [name for name in counts if again[name] != counts[name]]
        lines.append(
            f"Counted from the other tables as printed, {function} gives other counts than Table 3 "
            f"against {len(other)} of {len(counts)}: {', '.join(other)}."
        )
    return lines


def _check(number: int | None) -> None:
    if number is not None and number not in NUMBERS:
        raise UsageError(f"the paper has no table {number}; it has 1 to {max(NUMBERS)}")


def _of(table: PaperTable, models: Sequence[Measured]) -> Iterator[Measured]:
    """The models that stand beside this table: those on its data and, where a run has none of the
    paper's data, those that are scored alike."""
    papers = {t.dataset for t in TABLES.values()}
    known = any(model.dataset in papers for model in models)
    alike = (m for m in models if m.metric.name == table.measure)
    return (m for m in alike if m.dataset == table.dataset or not known)


def _of_runs(table: PaperTable) -> str:
    return (
        f" ({table.measure}, medians of {table.runs} runs)"
        if table.runs > 1
        else (f" ({table.measure})")
    )


def _measured_rows(number: int, models: Sequence[Measured]) -> Iterator[Row]:
    for model in _of(TABLES[number], models):
        for function in TABLES[number].scores:
            trained = model.find(function)
            if trained is not None:
                yield {
                    "table": number,
                    "function": function,
                    "formula": formula_of(function),
                    "dataset": model.dataset,
                    "model": model.name,
                    "measure": TABLES[number].measure,
                    "value": _per_cent(trained),
                    "n": _n(trained),
                    "source": "run",
                }


def _per_cent(trained: Trained | None) -> float | None:
    if trained is None:
        return None
    median = trained.median("test_score", list(trained.rows))
    return None if median is None else trained.metric.factor * median


def _n(trained: Trained | None) -> int | None:
    return None if trained is None else len(trained.scores("test_score", trained.rows))
