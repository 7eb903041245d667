"""What people see of a run: rows and lines, and how they reach the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from html import escape
from itertools import takewhile
from typing import Any

from actsearch.results.aims import COST, Aims
from actsearch.results.front import fronts
from actsearch.results.leaderboard import PROPERTIES, Entry
from actsearch.results.metrics import Cell, Metric
from actsearch.results.tables import Formula, Row, brief, printable, show

SHOWN = 10  # of the best functions, where a run is shown in short
LAYOUT = "\n\t"  # of what is printed


def say(*lines: str) -> None:
    """On stderr: all that is not the result."""
    print(printable("\n".join(lines), keep=LAYOUT), file=sys.stderr, flush=True)


def put(text: object, end: str = "\n") -> None:
    """On stdout, and nothing of it that a terminal obeys: runs come from others, too."""
    print(printable(str(text), keep=LAYOUT), end=end, flush=True)


def top_rows(entries: list[Entry], *, full: bool = False, aims: Aims | None = None) -> list[Row]:
    """Entries as rows of a table; `full` adds canonical form, status, symmetry and properties. With
    `aims`, their scores and whether a function is on the front, of all `entries`."""
    rows: list[Row] = []
    front = {} if aims is None else fronts(entries, aims)
    sought = sought_columns(entries, aims)
    again = any(e.expected is not None for e in entries)
    for e in entries:
        row: dict[str, Any] = {
            "rank": e.rank,
            "formula": Formula(e.formula),
            "name": e.label,
            e.metric.column("val"): e.metric.cell(e.val_score),
            **(_again(e) if again else {}),
            **{column: Metric(n).cell(e.scores.get(n)) for column, n in sought.items()},
            **({} if aims is None else {"front": front[e.expression]}),
            "seconds": e.seconds,
            "ms/step": e.ms_per_step,
            "x relu": e.vs_relu,
            "x relu 95 %": _interval(e.vs_relu_range),
        }
        if full:
            extra = {"status": e.status, "seeds": e.seeds, "reason": e.reason}
            extra |= {"baseline": e.beside, "candidate": e.candidate}
            known = {name: e.properties.get(name) for name in PROPERTIES}
            row = {**row, "expression": e.expression, **extra, "symmetry": e.symmetry, **known}
        rows.append(row)
    return rows


def _again(entry: Entry) -> dict[str, Any]:
    """What is expected of a function when it is trained again, and from how many trainings."""
    ends, metric = entry.expected, entry.metric
    interval = "" if ends is None else f"{metric.number(ends.low)} to {metric.number(ends.high)}"
    expected = metric.cell(ends.mean if ends else None)
    return {"expected": expected, "expected 95 %": interval, "trainings": entry.seeds}


def sought_columns(entries: list[Entry], aims: Aims | None) -> dict[str, str]:
    """The columns of scores that are sought besides, and the names of these. The cost beside ReLU
    has columns of its own."""
    names = () if aims is None else aims.names
    returned = {name for e in entries for name in e.scores}
    return {Metric(n).column("val"): n for n in names if n != COST.name or n in returned}


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def head(entries: list[Entry], aims: Aims | None = None) -> list[Row]:
    """The best functions and the baselines, as rows."""
    rows = top_rows(entries, aims=aims)
    shown = (e.rank is not None and (e.rank <= SHOWN or e.beside) for e in entries)
    return [row for row, of_head in zip(rows, shown, strict=True) if of_head]


def counts_line(counts: Mapping[str, int]) -> str:
    """Such as `108 functions: 93 ok, 15 diverged`."""
    if not any(counts.values()):
        return "no function was searched"
    shown = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in counts.items() if n)
    return f"{sum(counts.values()):,} functions: {shown}"


def below(rows: Iterable[Row]) -> list[str]:
    """What a reader of a table in short has to know, in lines: units, as columns keep their names,
    and that formulas are rounded."""
    cells = [cell for row in rows for cell in row.values()]
    units = dict.fromkeys(cell.unit for cell in cells if isinstance(cell, Cell) and cell.unit)
    rounded = any(isinstance(cell, Formula) and brief(cell) != cell for cell in cells)
    said = "long constants have four digits here; csv and json have all"
    return [", ".join(units)] * bool(units) + [said] * rounded


def html_table(rows: list[Row]) -> str:
    """Cells as people read them, nothing of them markup."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(show(value))}</td>' for value in row.values())}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def narrow(row: Row) -> Row:
    """A full row without what a narrow terminal has no room for."""
    note = "" if row["status"] == "ok" else f"{row['status']}: {row['reason']}"
    both = takewhile(lambda column: column[0] != "expression", row.items())
    return {**dict(both), "note": note}
