"""report(): what a run has found as one HTML file that needs nothing else: no network, no server.

`contents` gathers what is said from the run's store alone; `report.html` beside this file is the
template that says it, with the figures of `plot` as SVG and formulas as MathML.
"""

from __future__ import annotations

import importlib.metadata
import math
import shlex
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actsearch.comparison import Worth, luck_of, of_seeds, worth
from actsearch.config import DEFAULTS, PRESETS, ReportConfig
from actsearch.errors import RunError, written
from actsearch.plotting import FIGURES, Found
from actsearch.run import Run
from actsearch.screen import duration
from results.leaderboard import BESIDE, DROPPED, Entry
from results.plots import Figure, to_svg
from results.search_figures import SHOWN, front
from results.tables import Row, score, show

TYPESET = 100  # functions whose formulas are set as mathematics; more would make a heavy page
NEAR = 1.96 * math.sqrt(2)  # differences within so many standard deviations of one training

STATUS_WORDS = {
    "ok": "trained to the end",
    "rejected": "rejected before training",
    "raced_out": "stopped early by racing",
    DROPPED: "left behind in a rung of halving",
}

# Sections with figures: its `--of`, and the sentences above it.
PICTURES: Mapping[str, tuple[str, str]] = {
    "progress": ("The search", "Each point is one function, trained once; the staircase is the "
                 "best so far."),
    "cost": ("Accuracy and cost", "Time is that of a training step. A line, if there is one, joins "
             "functions that are cheaper than all that score higher."),
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
    target = Path(output) if output else opened.path / "report.html"
    page = render(contents(opened, rows))
    with written(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    return target


def carry_out(config: ReportConfig) -> Path:
    run = Run.open(config.run) if config.run else Run.newest()
    return report(run, config.output, rows=config.rows)


def render(found: Mapping[str, Any]) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = lambda value, column="": show(column, value)
    return environment.get_template("report.html").render(found)


def contents(run: Run, rows: int) -> dict[str, Any]:
    """All that the template says, as plain values; markup is in values of their own."""
    found = Found(run)
    again = _again(run)
    if not again and not any(e.status != "rejected" for e in found.entries):
        raise RunError(
            f"{run.path} has no training that ended, so there is nothing to report; "
            f"'actsearch search {run.path}' goes on"
        )
    known, examples = worth(run), run.config.get("data", {})
    error = _error(known, examples if found.metric == "accuracy" else {})
    compared = found.compared
    return {
        "name": run.name,
        "metric": found.metric,
        "unit": "%" if found.metric == "accuracy" else "",
        "best": [_formula(e) for e in found.ranked[:1]],
        "sentences": list(_sentences(found, known)),
        "facts": list(_facts(found)),
        "functions": _functions(found, rows, known, error),
        "left_out": max(0, len(found.entries) - rows),
        "expected": known is not None,
        "uncertainty": error is not None,
        "gallery": list(_gallery(found)),
        "pictures": list(_pictures(found)),
        "again": again,
        "differences": _difference_picture(found),
        "verdicts": compared.verdicts if compared else [],
        "wins": compared.functions if compared else [],
        "command": _command(run),
        "version": importlib.metadata.version("actsearch"),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


# -- words


def _sentences(found: Found, known: Worth | None) -> Iterator[str]:
    """What a reader who reads no further should know."""
    counts = Counter(e.status for e in found.entries)
    if not counts:
        yield "Functions were trained here with several seeds; there was no search."
        return
    told = [f"{n:,} {STATUS_WORDS.get(s, s.replace('_', ' '))}" for s, n in counts.most_common()]
    yield f"{len(found.entries):,} functions: {', '.join(told)}."
    if not found.ranked:
        return
    best = found.ranked[0]
    others = [
        f"{e.label} {_scored(e, found)} (#{e.rank})"
        for name in BESIDE
        for e in found.ranked
        if e.label == name
    ]
    beside = f"; beside it {' and '.join(others)}" if others else ""
    yield f"The best had {_scored(best, found)} on validation data{beside}."
    if known is not None:
        yield luck_of(found.ranked, known, found.metric)
        limit = (best.val_accuracy or 0.0) - NEAR * known.noise
        near = sum((e.val_accuracy or 0.0) >= limit for e in found.ranked)
        reach = f"within the noise of the best (1.96 √2 times {100 * known.noise:.2f} points)"
        if near > 1:
            yield f"The first {near:,} are {reach}: their order says little."
        else:
            yield f"No other function is {reach}."
    else:
        yield (
            "The search trained every function once, so the order of functions that are close is "
            f"partly luck. 'actsearch reevaluate {found.run.path}', with the settings of the "
            "search, says how much."
        )


def _scored(entry: Entry, found: Found) -> str:
    return score(entry.val_accuracy or 0.0, found.metric)


def _error(known: Worth | None, data: Mapping[str, Any]) -> tuple[float | None, int] | None:
    """What makes the standard error of a score: that of a training, or the number of validation
    examples; None where neither is known."""
    if known is not None:
        return known.noise, 0
    n = data.get("examples", {}).get("val")
    return (None, n) if n else None


def _standard_error(score: float | None, error: tuple[float | None, int] | None) -> float | None:
    if score is None or error is None:
        return None
    noise, n = error
    return noise if noise is not None else math.sqrt(score * (1 - score) / n)


def _facts(found: Found) -> Iterator[tuple[str, str]]:
    """What was done, as (term, value)."""
    s, data = found.settings, found.run.config.get("data", {})
    if not s:
        return
    yield "space", str(s.get("space", ""))
    yield "strategy", str(s.get("strategy", ""))
    sizes = data.get("examples", {})
    split = ", ".join(f"{n:,} {name}" for name, n in sizes.items())
    yield "data", f"{s.get('dataset') or 'arrays'}" + (f" ({split})" if split else "")
    yield "child", f"{s.get('child') or 'own'}, operators {s.get('operators', 'guarded')}"
    yield (
        "recipe",
        f"{s.get('steps', 0):,} steps of {s.get('batch_size')}, rate {s.get('lr')}, "
        f"{s.get('schedule')}, {s.get('precision')}",
    )
    yield "seed", str(s.get("seed"))
    ended = [row for row in found.rows if row["status"] not in (None, "rejected")]
    if not ended:
        return
    devices = Counter(row["device"] for row in ended)
    yield "trained on", ", ".join(f"{name} ({n:,})" for name, n in devices.most_common())
    spent = duration(sum(row["seconds"] for row in ended))
    typical = statistics.median(row["seconds"] for row in ended)
    yield "training", f"{spent} in all, {typical:.1f} s a function (median)"
    yield "state", "going on" if found.run.driver() else "ended or stopped"
    versions = found.run.config.get("environment", {})
    yield "versions", ", ".join(f"{k} {v}" for k, v in versions.items() if k not in ("cpus",))


def _command(run: Run) -> str:
    """The command that makes this search again, without settings at their defaults; "" where the
    search was given objects of Python, which no command can name."""
    config = run.config
    settings, identity = config.get("settings", {}), config.get("identity", {})
    own = identity.get("protocol", {}).get("extra_operators")
    if own or not settings.get("dataset") or not settings.get("child"):
        return ""
    usual = {**PRESETS[settings.get("preset") or DEFAULTS["preset"]], **DEFAULTS}
    words = ["actsearch", "search", str(run.path)]
    for name, value in settings.items():
        if value is None or value is False or value == usual.get(name):
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [str(value)]
    return shlex.join(words)


# -- tables


def _formula(entry: Entry) -> dict[str, str]:
    return {"formula": entry.formula, "mathml": _mathml(entry.expression), "label": entry.label}


def _mathml(expression: str) -> str:
    """Presentation MathML, empty for a function that the parser does not know."""
    from latex2mathml.converter import convert

    from search_space.export import latex
    from search_space.export.lowering import Source
    from search_space.parser import ParseError, parse

    try:
        expr = parse(expression)
    except ParseError:
        return ""
    return convert(latex.write(Source(expr, "guarded", "f", ((1.0,),) * expr.betas, "")))


def _functions(
    found: Found, rows: int, known: Worth | None, error: tuple[float | None, int] | None
) -> list[dict[str, Any]]:
    """One dict a row of the ranked table."""
    best = {e.expression for e in front(found.entries)}
    table: list[dict[str, Any]] = []
    for i, e in enumerate(found.entries[:rows]):
        mathml = _mathml(e.expression) if i < TYPESET and e.rank is not None else ""
        table.append(
            {
                "rank": e.rank,
                "formula": e.formula,
                "mathml": mathml,
                "label": e.label,
                "accuracy": e.val_accuracy,
                "error": _standard_error(e.val_accuracy, error),
                "expected": known.expected.get(e.expression) if known else None,
                "ms": e.ms_per_step,
                "vs_relu": e.vs_relu,
                "vs_relu_range": e.vs_relu_range,
                "front": e.expression in best,
                "properties": e.properties,
                "status": e.status.replace("_", " "),
                "note": "" if e.status == "ok" else f"{e.status.replace('_', ' ')}: {e.reason}",
            }
        )
    return table


_SHARED = ("child", "data", "steps", "lr")  # columns that are left out where all rows agree


def _again(run: Run) -> list[Row]:
    """One row a function and protocol of the re-evaluations, the best of each model first."""
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in run.reevaluations():
        groups.setdefault(row["protocol"], {}).setdefault(row["expression"], []).append(row)
    rows: list[dict[str, Any]] = []
    for functions in groups.values():
        relu = next((_scores(g) for g in functions.values() if g[0]["label"] == "relu"), {})
        rows += [_again_row(group, relu) for group in functions.values()]
    rows.sort(key=lambda r: (*(str(r[k]) for k in _SHARED), -(r["test accuracy"] or -1.0)))
    agreed = {name for name in _SHARED if len({row[name] for row in rows}) < 2}
    return [{k: v for k, v in row.items() if k not in agreed} for row in rows]


def _scores(group: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Test score by seed, of the seeds that trained."""
    return {r["seed"]: r["test_accuracy"] for r in group if r["test_accuracy"] is not None}


def _again_row(group: Sequence[Mapping[str, Any]], relu: Mapping[int, float]) -> dict[str, Any]:
    first = group[0]
    failed = next((f"{r['status']}: {r['reason']}" for r in group if r["status"] != "ok"), "")
    return {
        "formula": first["formula"],
        "name": first["label"],
        "child": first["child"],
        "data": first["dataset"],
        "steps": first["recipe"].get("steps"),
        "lr": f"{first['recipe'].get('lr'):g}",
        **of_seeds(_scores(group), {} if first["label"] == "relu" else relu, failed),
    }


# -- pictures


def _gallery(found: Found) -> Iterator[dict[str, Any]]:
    """f and f' of the best functions, each with its formula."""
    from search_space.drawing import curve_svg
    from search_space.parser import ParseError, parse

    operators = found.settings.get("operators", "guarded")
    for entry in found.ranked[:SHOWN]:
        with suppress(ParseError):
            svg = curve_svg(parse(entry.expression), operators=operators)
            yield _formula(entry) | {"rank": entry.rank, "accuracy": entry.val_accuracy, "svg": svg}


def _pictures(found: Found) -> Iterator[Picture]:
    for name, (title, text) in PICTURES.items():
        for figure in FIGURES[name].make(found):
            if figure is not None:
                yield Picture(name, title, text, _plain(figure), figure.caption)


def _difference_picture(found: Found) -> Picture | None:
    figure = found.differences()
    if figure is None:
        return None
    return Picture("differences", figure.title, "", _plain(figure), figure.caption)


def _plain(figure: Figure) -> str:
    """Without title and caption, which are the page's."""
    return to_svg(replace(figure, title="", caption=""))
