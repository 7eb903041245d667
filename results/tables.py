"""Tables as text: for a terminal, CSV, JSON, Markdown. A table is a list of rows, a row a dict.

A `Cell` is a number that says how people read it, such as an accuracy in per cent, and a `Formula`
has constants of four digits for them; the terminal and Markdown show both so, CSV and JSON as they
are.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actsearch.results.metrics import Cell

Row = Mapping[str, Any]
_LONG = re.compile(r"\d+\.\d{7,}(?:e[+-]?\d+)?")  # a constant that was computed, not typed
_DIGITS = 4  # of a constant in a label
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str, keep: str = "") -> str:
    """`text` with a space in the place of each character that a terminal or a viewer obeys instead
    of showing it: control characters, changes of direction, halves of characters. Those in `keep`
    stay, as the line feeds of a table."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else " ", text)


class Formula(str):
    """A formula in a table, shown in brief; to everything else it is the text that is read back."""


def brief(formula: str) -> str:
    """A formula as a label has it, with long constants rounded to four digits, which makes another
    function of it. What is copied as code or parsed back has all digits."""

    def rounded(found: re.Match[str]) -> str:
        whole = len(found[0].partition(".")[0])
        return f"{float(found[0]):.{max(whole, _DIGITS)}g}"

    return _LONG.sub(rounded, formula)


def show(value: Any) -> str:
    """A cell as people read it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Cell):
        return value.shown(value)
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, Formula):
        return printable(brief(value))
    return printable(str(value))


def to_csv(rows: Sequence[Row]) -> str:
    """As it is stored, but for characters that a terminal obeys; text that a spreadsheet could take
    for a formula gets a leading apostrophe."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _no_formula(v) for k, v in row.items()} for row in rows)
    return out.getvalue()


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") else text


def to_json(rows: Sequence[Row]) -> str:
    return json.dumps([dict(row) for row in rows], indent=2, allow_nan=False) + "\n"


def to_markdown(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    columns = list(rows[0])
    cells = [[_no_markup(show(row[c])) for c in columns] for row in rows]
    lines = [map(printable, columns), ["---"] * len(columns), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _no_markup(cell: str) -> str:
    return cell.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def to_text(rows: Sequence[Row]) -> str:
    """Aligned columns: numbers to the right, text to the left."""
    if not rows:
        return ""
    columns = list(rows[0])
    cells = [[*map(printable, columns)], *([show(row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [all(not isinstance(row[c], str) for row in rows) for c in columns]
    return "".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        + "\n"
        for line in cells
    )


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    "table": to_text,
    "csv": to_csv,
    "json": to_json,
    "markdown": to_markdown,
}


def duration(seconds: float) -> str:
    """Such as `48 s`, `2 min 05 s`, `1 h 42 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"
