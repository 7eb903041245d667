"""report(): what a run has found as one HTML file that needs nothing else: no network, no server.

`contents` gathers what is said from the run's store alone; `report.html` beside this file is the
template that says it, with the figures of `plot` as SVG and formulas as MathML.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actsearch.errors import RunError, written
from actsearch.reading import telling
from actsearch.reading.comparison import Worth
from actsearch.reading.exporting import export
from actsearch.reading.plotting import FIGURES, Found
from actsearch.reading.verdicts import next_step, verdicts
from actsearch.results.figures.plots import COLOURS, GREY, Figure, to_svg
from actsearch.results.figures.searches import SHOWN
from actsearch.results.figures.trade_offs import complexity, front, picks
from actsearch.results.front import MAYBE, SURE, fronts
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import Metric, common, p_value
from actsearch.results.repeats import adjusted, best_first, of_seeds, split_of
from actsearch.results.tables import Formula, Row, brief, show
from actsearch.results.version import own_version
from actsearch.run import Run
from actsearch.shown import sought_columns

BETWEEN = " <span>|</span> "  # the formulas of a candidate of several functions
SHORT = 49  # characters of a formula that a row has room for as mathematics
TYPESET = 100  # functions whose formulas are set as mathematics; more would make a heavy page

# Colours of drawings, and those of the page, which change where it is dark.
PAINTS: Mapping[str, str] = {
    "#ffffff": "var(--paper)", "#000000": "var(--ink)", "#dddddd": "var(--line)",
    GREY.lower(): "var(--quiet)",
    **{colour.lower(): f"var(--c{i})" for i, colour in enumerate(COLOURS) if colour != "#000000"},
}  # fmt: skip

# Sections with figures: its `--of`, and the sentences above it.
PICTURES: Mapping[str, tuple[str, str]] = {
    "complexity": ("Score and complexity", "The best function of each number of operators, and so "
                   "the luckiest too. The line joins those that are better than all simpler ones."),
    "cost": ("Score and cost", "Time is that of a training step. A line, if there is one, joins "
             "functions that are cheaper than all that score better."),
    "front": ("Several objectives", "Functions that no other beats in all that is sought."),
    "progress": ("The search", "Each point is one function, trained once; the staircase is the "
                 "best so far."),
    "operators": ("Which operators help", "An operator whose two intervals lie apart is more "
                  "frequent among the best or the worst than chance explains, one at a time."),
    "losses": ("Training", "The loss of the best functions."),
    "failures": ("What did not train", "Functions are rejected before training where they are "
                 "constant, linear or not finite; they diverge where a loss or gradient is."),
    "controller": ("The controller", "What the strategy recorded of itself."),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A section with one figure: `svg` is markup."""

    name: str
    title: str
    text: str
    svg: str
    caption: str


def report(run: str | Path | Run, output: str | Path | None = None, *, rows: int = 500) -> Path:
    """Write the report of a run, by default to RUN/report.html, and return its path. `rows` is how
    many functions its table has. Works while the search goes on; raises RunError where nothing has
    finished."""
    opened = run if isinstance(run, Run) else Run.open(run)
    target = Path(output) if output else opened.beside("report.html")
    page = render(contents(opened, rows))
    with written(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    return target


def render(found: Mapping[str, Any]) -> str:
    """The page."""
    source = template("report.html")
    return filled(source, found, policy=policy(source, found["sheet"]))


def template(name: str) -> str:
    """Of a page, by the name of its file beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def filled(source: str, values: Mapping[str, Any], **more: Any) -> str:
    """A template with what it says."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = show
    return environment.from_string(source).render(values, **more)


def policy(source: str, sheet: str = "", more: str = "") -> str:
    """The Content-Security-Policy of a page: it loads nothing but what `more` says, and runs and
    obeys what stands in the template alone, whatever a name of the run has got into it."""

    def hashes(texts: Iterable[str]) -> str:
        digests = (hashlib.sha256(text.encode()).digest() for text in texts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    styles, scripts = (
        re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL) for tag in ("style", "script")
    )
    styles = [text for text in styles if "{{ sheet" not in text] + [sheet] * bool(sheet)
    return (
        f"default-src 'none'; script-src {hashes(scripts)}; style-src {hashes(styles)}; "
        f"img-src data:; base-uri 'none'; form-action 'none'{more}"
    )


class Sheet:
    """The style attributes of drawings as the classes of one sheet: a policy that allows
    attributes would allow those of anybody. Drawings of many points are kept small."""

    def __init__(self) -> None:
        self.classes: dict[str, str] = {}
        self.ids: dict[str, str] = {}  # of symbols and clips, which are hashes of what they are

    def drawn(self, svg: str) -> str:
        """The drawing with classes in the place of its styles, and no more digits than are seen."""
        svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
        svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # the same in every drawing
        return re.sub(r"<[^>]*>", self._tag, svg)

    def _tag(self, found: re.Match[str]) -> str:
        tag = re.sub(r'\bstyle="([^"]*)"', self._named, found[0])
        tag = re.sub(r"(?<=[\"(]#)[mp][0-9a-f]{10}|(?<=\bid=\")[mp][0-9a-f]{10}", self._id, tag)
        return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag)

    def _id(self, found: re.Match[str]) -> str:
        return self.ids.setdefault(found[0], f"s{len(self.ids)}")

    def _named(self, found: re.Match[str]) -> str:
        style = re.sub(r"#[0-9a-f]{6}\b", _paint, html.unescape(found[1]))
        return f'class="{self.classes.setdefault(style, f"d{len(self.classes)}")}"'

    def __str__(self) -> str:
        lines = [":where(figure svg *) { stroke-linejoin: round; stroke-linecap: butt; }"]
        lines += [f".{name} {{ {style} }}" for style, name in self.classes.items()]
        return "\n".join(lines).replace("<", "")


def _paint(found: re.Match[str]) -> str:
    return PAINTS.get(found[0], found[0])


def contents(run: Run, rows: int) -> dict[str, Any]:
    """All that the template says, as plain values; markup is in values of their own."""
    found = Found(run)
    again, column, one = _again(run)
    if not again and not any(e.status != "rejected" for e in found.entries):
        raise RunError(
            f"{run.path} has no training that ended, so there is nothing to report; "
            f"'actsearch search {run.path}' goes on"
        )
    known, compared, sheet = found.known, found.compared, Sheet()
    drawn = list(_gallery(found, again, column, sheet))
    functions = _functions(found, rows, {card["rank"] for card in drawn})
    judged = list(verdicts(found))
    firsts = {v.first["expression"]: v.first for v in judged}.values()
    best = [vars(found.first)] if found.first else []
    return {
        "name": run.name,
        "metric": found.metric.name,
        "unit": found.metric.unit,
        "in_brackets": found.metric.in_brackets,
        "better_first": not found.metric.lower,
        "short": SHORT,
        "binomial": found.error.examples > 0,
        "headlines": [(v.better, v.headline) for v in judged],
        "next": next_step(run),
        "best": [_formula(row) for row in firsts or best],
        "place": _place(column) if judged else "first in the search",
        "sentences": [*(v.sentence for v in judged), *telling.sentences(found, known)],
        "facts": list(telling.facts(found)),
        "functions": functions,
        "aims": str(found.run.aims or ""),
        "sought": [*sought_columns(found.entries, found.run.aims)],
        "left_out": max(0, len(found.entries) - rows),
        "expected": known is not None,
        "confirmed": any(e.expected is not None for e in found.entries),
        "uncertainty": any(f["error"] is not None for f in functions),
        "gallery": drawn,
        "picks": _picks(found),
        "pictures": list(_pictures(found, sheet)),
        "again": again,
        "again_score": column,
        "again_unit": one.in_brackets if one else "",
        "where": [name for name in _SHARED if again and name in again[0]],
        "tested": column.startswith("test "),
        "differences": _difference_picture(found, sheet),
        "sheet": str(sheet),
        "verdicts": compared.verdicts if compared else [],
        "wins": compared.functions if compared else [],
        "models": len(compared.splits) if compared else 0,
        "command": telling.command(run),
        "version": own_version(),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


# -- tables


def _formula(row: Mapping[str, Any]) -> dict[str, str]:
    """Of a row of the store, or the fields of an entry."""
    more = {"shown": brief(row["formula"]), "mathml": _mathml(row["expression"])}
    return {k: row[k] for k in ("formula", "label")} | more


def _mathml(expression: str) -> str:
    """Presentation MathML, empty for a function that the parser does not know."""
    from latex2mathml.converter import convert

    from actsearch.search_space.candidate import candidate_from
    from actsearch.search_space.export import latex
    from actsearch.search_space.export.lowering import Exported
    from actsearch.search_space.parser import ParseError

    try:
        functions = candidate_from(expression).functions
    except ParseError:
        return ""
    sources = (Exported(expr, "guarded", "f", ((1.0,),) * expr.betas, "") for expr in functions)
    return BETWEEN.join(convert(brief(latex.write(source))) for source in sources)


def _functions(found: Found, rows: int, cards: Iterable[int | None]) -> list[dict[str, Any]]:
    """One dict a row of the ranked table; `cards` are the ranks of the functions that have one."""
    aims, drawn = found.run.aims, {*cards}
    standing = {} if aims is None else fronts(found.entries, aims)
    if aims is None:
        standing = {e.expression: SURE for e in front(found.entries)}
    sought = sought_columns(found.entries, aims)
    table: list[dict[str, Any]] = []
    for i, e in enumerate(found.entries[:rows]):
        short = i < TYPESET and e.rank is not None and len(brief(e.formula)) <= SHORT
        table.append(
            {
                "rank": e.rank,
                "formula": e.formula,
                "shown": brief(e.formula),
                "mathml": _mathml(e.expression) if short else "",
                "label": e.label,
                "beside": e.beside,
                "card": e.rank in drawn,
                "score": e.metric.cell(e.val_score),
                "exact": _exact(e),
                "error": e.metric.cell(found.error.of(e)),
                "expected": e.metric.cell(_expected(e, found.known)),
                "ms": e.ms_per_step,
                "vs_relu": e.vs_relu,
                "vs_relu_range": e.vs_relu_range,
                "front": standing.get(e.expression) == SURE,
                "maybe": standing.get(e.expression) == MAYBE,
                "sought": [Metric(name).cell(e.scores.get(name)) for name in sought.values()],
                "operators": complexity(e),
                "properties": e.properties,
                "status": e.status.replace("_", " "),
                "note": e.reason,
            }
        )
    return table


def _exact(entry: Entry) -> str:
    """Where the mouse is: the score with all of its digits, and of how many trainings it is."""
    if entry.val_score is None:
        return ""
    trainings = "1 training" if entry.seeds == 1 else f"{entry.seeds} trainings"
    digits = f"{entry.metric.factor * entry.val_score:.12g} {entry.metric.unit}".rstrip()
    return f"{digits}, {trainings}"


def _picks(found: Found) -> list[dict[str, Any]]:
    """One dict a number of operators."""
    return [
        _formula(vars(p.entry))
        | {
            "rank": p.entry.rank,
            "operators": p.operators,
            "of": p.of,
            "score": p.entry.metric.cell(p.entry.val_score),
            "exact": _exact(p.entry),
            "error": p.entry.metric.cell(found.error.of(p.entry)),
            "expected": p.entry.metric.cell(_expected(p.entry, found.known)),
            "difference": p.entry.metric.cell(p.difference, signed=True),
            "better": p.better,
        }
        for p in picks(found.entries)
    ]


def _expected(entry: Entry, known: Worth | None) -> float | None:
    """When it is trained again: by the search's own further seeds, else by re-evaluations."""
    if entry.expected is not None:
        return entry.expected.mean
    return known.expected.get(entry.expression) if known else None


_SHARED = (
    "child",
    "data",
    "steps",
    "lr",
    "metric",
)  # columns that are left out where all rows agree


def _again(run: Run) -> tuple[list[Row], str, Metric | None]:
    """One row a function and protocol of the re-evaluations, the best of each model first, the
    column of their scores, and the metric that all have."""
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    trainings = run.reevaluations()
    one = common(row["metric"] for row in trainings)
    column = f"{_split(trainings)} {one.name if one else 'score'}"
    for row in trainings:
        groups.setdefault(row["protocol"], {}).setdefault(row["expression"], []).append(row)
    rows: list[Row] = []
    for functions in groups.values():
        relu = next((_scores(g) for g in functions.values() if g[0]["label"] == "relu"), {})
        others = {e: _scores(g) for e, g in functions.items() if g[0]["label"] != "relu"}
        p = adjusted({e: s for e, s in others.items() if len(s) == len(functions[e])}, relu)
        mine = [
            _again_row(group, relu, column) | {"p": p_value(p.get(expression))}
            for expression, group in functions.items()
        ]
        rows += best_first(mine, column, next(iter(functions.values()))[0]["metric"])
    rows.sort(key=lambda r: [str(r[k]) for k in _SHARED])
    agreed = {name for name in _SHARED if len({row[name] for row in rows}) < 2}
    return [{k: v for k, v in row.items() if k not in agreed} for row in rows], column, one


def _split(trainings: Iterable[Mapping[str, Any]]) -> str:
    """What they were scored on, `again` where they differ."""
    found = {split_of([row["scores"]], row["metric"]) for row in trainings if row["status"] == "ok"}
    return found.pop() if len(found) == 1 else "again"


def _place(column: str) -> str:
    """What the first of the functions that were trained again is."""
    return "first on test data" if column.startswith("test ") else "first when trained again"


def _scores(group: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Test score by seed, of the seeds that trained."""
    return {r["seed"]: r["test_score"] for r in group if r["test_score"] is not None}


def _again_row(
    group: Sequence[Mapping[str, Any]], relu: Mapping[int, float], column: str
) -> dict[str, Any]:
    first = group[0]
    reference = {} if first["label"] == "relu" else relu
    failed = next((f"{r['status']}: {r['reason']}" for r in group if r["status"] != "ok"), "")
    return {
        "expression": first["expression"],
        "formula": Formula(first["formula"]),
        "name": first["label"],
        "child": first["child"],
        "data": first["dataset"],
        "steps": first["recipe"].get("steps"),
        "lr": None if (lr := first["recipe"].get("lr")) is None else f"{lr:g}",
        "metric": first["metric"].name,
        **of_seeds(_scores(group), reference, failed, first["metric"], column),
    }


# -- pictures


def _gallery(
    found: Found, again: Sequence[Row], column: str, sheet: Sheet
) -> Iterator[dict[str, Any]]:
    """A card for each of the best functions: its formula and figures, and what can be drawn and
    written of it, which is nothing where it has operators of a user's own. `column` is that of the
    scores in `again`."""
    from actsearch.results.figures.functions import card
    from actsearch.search_space.candidate import candidate_from, is_gate
    from actsearch.search_space.parser import ParseError

    operators = found.settings.get("operators", "guarded")
    for entry in found.head[:SHOWN]:
        try:
            candidate = candidate_from(entry.expression)
        except ParseError:
            drawn: list[tuple[str, str]] = []
            code, gate = "", False
        else:
            drawn = [card(expr, operators) for expr in candidate.functions]
            code, gate = str(export(entry.expression, operators=operators)), is_gate(candidate)
        yield _formula(vars(entry)) | {
            "rank": entry.rank,
            "drawings": [(sheet.drawn(svg), note) for svg, note in drawn],
            "gate": gate,
            "code": code,
            "figures": [(k, v) for k, v in _figures(found, entry, again, column) if v],
        }


def _figures(
    found: Found, entry: Entry, again: Sequence[Row], column: str
) -> Iterator[tuple[str, str]]:
    """What is known of a function, as (term, value)."""
    metric, error, expected = entry.metric, found.error.of(entry), _expected(entry, found.known)
    spread = "" if error is None else f" ± {metric.number(error)}"
    unit = "" if metric.unit == metric.name else f" {metric.unit}".rstrip()
    yield f"validation {metric.name}", f"{metric.number(entry.val_score or 0.0)}{spread}{unit}"
    yield "expected again", "" if expected is None else metric.text(expected)
    for row in again:
        if row["expression"] == entry.expression:
            where = ", ".join(str(row[name]) for name in _SHARED if name in row)
            yield f"trained again{f' ({where})' if where else ''}", _trained_again(row, column)
    if entry.vs_relu is not None:
        ends = entry.vs_relu_range
        between = f" (95 %: {show(ends[0])} to {show(ends[1])})" if ends else ""
        yield "time per step", f"{show(entry.vs_relu)} times ReLU's{between}"
    yield "operators", str(complexity(entry))
    yield "properties", ", ".join(_properties(entry.properties))


def _trained_again(row: Row, column: str) -> str:
    """Its score over seeds, and the difference to ReLU."""
    if row[column] is None:
        return str(row["note"])
    said = f"{column.partition(' ')[0]} {show(row[column])} (n = {row['n']})"
    if row["to relu, paired"] is not None:
        said += f", {show(row['to relu, paired'])} against ReLU"
        if row["from, paired"] is not None:
            said += f" (95 %: {show(row['from, paired'])} to {show(row['to, paired'])})"
    return said


def _properties(found: Mapping[str, Any]) -> Iterator[str]:
    """In words."""
    if "smooth" in found:
        yield "smooth" if found["smooth"] else "not smooth"
    yield from (str(found[k]) for k in ("monotonic", "parity") if found.get(k, "no") != "no")
    yield from (k.replace("_", " ") for k in ("bounded_below", "bounded_above") if found.get(k))
    if betas := found.get("betas"):
        yield f"{betas} beta" + "s" * (betas > 1)


def _pictures(found: Found, sheet: Sheet) -> Iterator[Picture]:
    for name, (title, text) in PICTURES.items():
        for figure in FIGURES[name].make(found):
            if figure is not None:
                yield Picture(name, title, text, sheet.drawn(_plain(figure)), figure.caption)


def _difference_picture(found: Found, sheet: Sheet) -> Picture | None:
    figure = found.differences()
    if figure is None:
        return None
    return Picture("differences", figure.title, "", sheet.drawn(_plain(figure)), figure.caption)


def _plain(figure: Figure) -> str:
    """Without title and caption, which are the page's."""
    return to_svg(replace(figure, title="", caption=""))
