"""report(): what a run has found as one HTML file that needs nothing else: no network, no server.

`contents` gathers what is said from the run's store alone; `report.html` beside this file is the
template that says it, with the figures of `plot` as SVG and formulas as MathML.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actsearch.errors import RunError, written
from actsearch.reading import telling
from actsearch.reading.comparison import Worth, worth
from actsearch.reading.plotting import FIGURES, Found
from actsearch.results.figures.plots import Figure, to_svg
from actsearch.results.figures.searches import SHOWN, front
from actsearch.results.front import MAYBE, SURE, fronts
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import ACCURACY, Metric, common
from actsearch.results.repeats import best_first, of_seeds, split_of
from actsearch.results.tables import Row, show
from actsearch.results.version import own_version
from actsearch.run import Run
from actsearch.shown import sought_columns

BETWEEN = " <span>|</span> "  # the formulas of a candidate of several functions
TYPESET = 100  # functions whose formulas are set as mathematics; more would make a heavy page

# Sections with figures: its `--of`, and the sentences above it.
PICTURES: Mapping[str, tuple[str, str]] = {
    "progress": ("The search", "Each point is one function, trained once; the staircase is the "
                 "best so far."),
    "cost": ("Score and cost", "Time is that of a training step. A line, if there is one, joins "
             "functions that are cheaper than all that score better."),
    "front": ("Several objectives", "Functions that no other beats in all that is sought."),
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
    attributes would allow those of anybody."""

    def __init__(self) -> None:
        self.classes: dict[str, str] = {}

    def drawn(self, svg: str) -> str:
        """The drawing with classes in the place of its styles."""
        svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
        return re.sub(
            r"<[^>]*>", lambda tag: re.sub(r'\bstyle="([^"]*)"', self._named, tag[0]), svg
        )

    def _named(self, found: re.Match[str]) -> str:
        style = html.unescape(found[1])
        return f'class="{self.classes.setdefault(style, f"d{len(self.classes)}")}"'

    def __str__(self) -> str:
        lines = [":where(.wide-figure svg *) { stroke-linejoin: round; stroke-linecap: butt; }"]
        lines += [f".{name} {{ {style} }}" for style, name in self.classes.items()]
        return "\n".join(lines).replace("<", "")


def contents(run: Run, rows: int) -> dict[str, Any]:
    """All that the template says, as plain values; markup is in values of their own."""
    found = Found(run)
    again = _again(run)
    if not again and not any(e.status != "rejected" for e in found.entries):
        raise RunError(
            f"{run.path} has no training that ended, so there is nothing to report; "
            f"'actsearch search {run.path}' goes on"
        )
    known, compared, sheet = worth(run), found.compared, Sheet()
    examples = run.config.get("data", {}).get("examples", {}).get("val", 0)
    error = Error(known, examples if found.metric == ACCURACY else 0)
    functions = _functions(found, rows, known, error)
    verdicts = list(telling.verdicts(found))
    firsts = {v.first["expression"]: v.first for v in verdicts}.values()
    best = [vars(found.first)] if found.first else []
    return {
        "name": run.name,
        "metric": found.metric.name,
        "unit": found.metric.unit,
        "better_first": not found.metric.lower,
        "high": ()
        if found.metric.lower
        else [found.metric.column(s) for s in ("test", "val", "again", "median")],
        "binomial": error.examples > 0,
        "best": [_formula(row) for row in firsts or best],
        "sentences": [*(v.sentence for v in verdicts), *telling.sentences(found, known)],
        "facts": list(telling.facts(found)),
        "functions": functions,
        "aims": str(found.run.aims or ""),
        "sought": [*sought_columns(found.entries, found.run.aims)],
        "left_out": max(0, len(found.entries) - rows),
        "expected": known is not None,
        "confirmed": any(e.expected is not None for e in found.entries),
        "uncertainty": any(f["error"] is not None for f in functions),
        "gallery": list(_gallery(found, sheet)),
        "pictures": list(_pictures(found, sheet)),
        "again": again,
        "tested": "test" in {name.partition(" ")[0] for row in again for name in row},
        "differences": _difference_picture(found, sheet),
        "sheet": str(sheet),
        "verdicts": compared.verdicts if compared else [],
        "wins": compared.functions if compared else [],
        "command": telling.command(run),
        "version": own_version(),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


@dataclass(frozen=True)
class Error:
    """The standard error of a score of the search: the binomial one of its `examples` of validation
    (0: the score is not a share of such), and how far a training of the function scatters, where
    that is known, added in quadrature.

    A little of what trainings scatter by is the examples', so this is too wide by a factor of
    sqrt(2) at most."""

    known: Worth | None
    examples: int

    def of(self, entry: Entry) -> float | None:
        p = entry.val_score
        if p is None:
            return None
        counted = math.sqrt(p * (1 - p) / self.examples) if self.examples else 0.0
        again = self.known.again.get(entry.expression, ()) if self.known else ()
        if self.known is None or not (self.examples or len(again) > 1):
            return counted or None
        own = statistics.stdev(again) if len(again) > 1 else 0.0
        return math.hypot(counted, max(own, self.known.noise.sd))


# -- tables


def _formula(row: Mapping[str, Any]) -> dict[str, str]:
    """Of a row of the store, or the fields of an entry."""
    return {k: row[k] for k in ("formula", "label")} | {"mathml": _mathml(row["expression"])}


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
    return BETWEEN.join(convert(latex.write(source)) for source in sources)


def _functions(found: Found, rows: int, known: Worth | None, error: Error) -> list[dict[str, Any]]:
    """One dict a row of the ranked table."""
    aims = found.run.aims
    standing = {} if aims is None else fronts(found.entries, aims)
    if aims is None:
        standing = {e.expression: SURE for e in front(found.entries)}
    sought = sought_columns(found.entries, aims)
    table: list[dict[str, Any]] = []
    for i, e in enumerate(found.entries[:rows]):
        mathml = _mathml(e.expression) if i < TYPESET and e.rank is not None else ""
        table.append(
            {
                "rank": e.rank,
                "formula": e.formula,
                "mathml": mathml,
                "label": e.label,
                "beside": e.beside,
                "score": e.metric.cell(e.val_score),
                "error": e.metric.cell(error.of(e)),
                "expected": e.metric.cell(_expected(e, known)),
                "ms": e.ms_per_step,
                "vs_relu": e.vs_relu,
                "vs_relu_range": e.vs_relu_range,
                "front": standing.get(e.expression) == SURE,
                "maybe": standing.get(e.expression) == MAYBE,
                "sought": [Metric(name).cell(e.scores.get(name)) for name in sought.values()],
                "properties": e.properties,
                "status": e.status.replace("_", " "),
                "note": "" if e.status == "ok" else f"{e.status.replace('_', ' ')}: {e.reason}",
            }
        )
    return table


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


def _again(run: Run) -> list[Row]:
    """One row a function and protocol of the re-evaluations, the best of each model first."""
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    trainings = run.reevaluations()
    one = common(row["metric"] for row in trainings)
    column = f"{_split(trainings)} {one.name if one else 'score'}"
    for row in trainings:
        groups.setdefault(row["protocol"], {}).setdefault(row["expression"], []).append(row)
    rows: list[Row] = []
    for functions in groups.values():
        relu = next((_scores(g) for g in functions.values() if g[0]["label"] == "relu"), {})
        mine = [_again_row(group, relu, column) for group in functions.values()]
        rows += best_first(mine, column, next(iter(functions.values()))[0]["metric"])
    rows.sort(key=lambda r: [str(r[k]) for k in _SHARED])
    agreed = {name for name in _SHARED if len({row[name] for row in rows}) < 2}
    return [{k: v for k, v in row.items() if k not in agreed} for row in rows]


def _split(trainings: Iterable[Mapping[str, Any]]) -> str:
    """What they were scored on, `again` where they differ."""
    found = {split_of([row["scores"]], row["metric"]) for row in trainings if row["status"] == "ok"}
    return found.pop() if len(found) == 1 else "again"


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
        "formula": first["formula"],
        "name": first["label"],
        "child": first["child"],
        "data": first["dataset"],
        "steps": first["recipe"].get("steps"),
        "lr": None if (lr := first["recipe"].get("lr")) is None else f"{lr:g}",
        "metric": first["metric"].name,
        **of_seeds(_scores(group), reference, failed, first["metric"], column),
    }


# -- pictures


def _gallery(found: Found, sheet: Sheet) -> Iterator[dict[str, Any]]:
    """f and f' of the best functions, each with its formula."""
    from actsearch.results.figures.functions import function_svg
    from actsearch.search_space.candidate import candidate_from, is_gate
    from actsearch.search_space.parser import ParseError

    operators = found.settings.get("operators", "guarded")
    for entry in found.head[:SHOWN]:
        with suppress(ParseError):
            candidate = candidate_from(entry.expression)
            drawn = (function_svg(expr, operators) for expr in candidate.functions)
            yield _formula(vars(entry)) | {
                "rank": entry.rank,
                "score": entry.metric.text(entry.val_score or 0.0),
                "svg": "".join(map(sheet.drawn, drawn)),
                "gate": is_gate(candidate),
            }


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
