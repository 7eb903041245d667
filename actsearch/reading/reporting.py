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
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actsearch.errors import RunError, written
from actsearch.options import options_of
from actsearch.reading.comparison import Worth, luck_of, worth
from actsearch.reading.plotting import FIGURES, Found
from actsearch.results.figures.plots import Figure, to_svg
from actsearch.results.figures.searches import SHOWN, front
from actsearch.results.leaderboard import BESIDE, DROPPED, Entry
from actsearch.results.metrics import ACCURACY, Metric, common
from actsearch.results.repeats import Trained, best_first, chosen, of_seeds, split_of, split_of_all
from actsearch.results.statistics import differences, head_of, interval, with_usual_seeds
from actsearch.results.tables import Row, duration, show
from actsearch.results.version import own_version
from actsearch.run import Run
from actsearch.settings import SearchOptions, resolve

BETWEEN = " <span>|</span> "  # the formulas of a candidate of several functions
TYPESET = 100  # functions whose formulas are set as mathematics; more would make a heavy page

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
    "cost": ("Score and cost", "Time is that of a training step. A line, if there is one, joins "
             "functions that are cheaper than all that score better."),
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


@dataclass(frozen=True)
class Verdict:
    """What training again says on one model: the function that is first, as a row of the store, and
    a sentence."""

    first: Mapping[str, Any]
    sentence: str


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


def render(found: Mapping[str, Any]) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = show
    source = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(found, policy=_policy(source, found["sheet"]))


def _policy(source: str, sheet: str) -> str:
    """The Content-Security-Policy of a page: it loads nothing, and runs and obeys what stands in
    the template alone, whatever a name of the run has got into it."""

    def hashes(texts: Iterable[str]) -> str:
        digests = (hashlib.sha256(text.encode()).digest() for text in texts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    styles, scripts = (
        re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL) for tag in ("style", "script")
    )
    styles = [text for text in styles if "{{ sheet" not in text] + [sheet]
    return (
        f"default-src 'none'; script-src {hashes(scripts)}; style-src {hashes(styles)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
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
    verdicts = list(_verdicts(found))
    firsts = {v.first["expression"]: v.first for v in verdicts}.values()
    best = [vars(e) for e in found.ranked[:1]]
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
        "sentences": [*(v.sentence for v in verdicts), *_sentences(found, known)],
        "facts": list(_facts(found)),
        "functions": functions,
        "left_out": max(0, len(found.entries) - rows),
        "expected": known is not None,
        "uncertainty": any(f["error"] is not None for f in functions),
        "gallery": list(_gallery(found, sheet)),
        "pictures": list(_pictures(found, sheet)),
        "again": again,
        "tested": "test" in {name.partition(" ")[0] for row in again for name in row},
        "differences": _difference_picture(found, sheet),
        "sheet": str(sheet),
        "verdicts": compared.verdicts if compared else [],
        "wins": compared.functions if compared else [],
        "command": _command(run),
        "version": own_version(),
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
    yield f"The search's first had {_scored(best, found)} on validation data{beside}."
    if known is not None:
        yield luck_of(found.ranked, known)
        reach = known.noise.reach()
        near = sum(e.merit >= best.merit - reach for e in found.ranked)
        noise = (
            f"within the noise of the best, {found.metric.distance(reach)}, by which trainings of "
            f"equally good functions differ (95 %, Student's t with {known.noise.freedom:,} "
            "degrees of freedom)"
        )
        if near > 1:
            yield f"The first {near:,} are {noise}: their order says little."
        else:
            yield f"No other function is {noise}."
    else:
        fewest = head_of(len(found.ranked))
        how_much = f"'actsearch reevaluate {found.run.path}', with the settings of the search, says"
        if len(found.ranked) < fewest:
            how_much = f"Of fewer than {fewest} functions nothing says"
        yield (
            "The search trained every function once, so the order of functions that are close is "
            f"partly luck. {how_much} how much."
        )


def _scored(entry: Entry, found: Found) -> str:
    return found.metric.text(entry.val_score or 0.0)


def _verdicts(found: Found) -> Iterator[Verdict]:
    """Of each model on which functions were trained again: which is first, whether its
    seeds tell it from ReLU, and where the search's first stands."""
    models = chosen(found.run.reevaluations())
    for name, functions in models.items():
        tested = {e: t.scores("test_score", t.rows) for e, t in functions.items()}
        scores = with_usual_seeds(
            {e: v for e, v in tested.items() if v and not functions[e].failures(functions[e].rows)}
        )
        rows = {e: next(iter(functions[e].rows.values())) for e in scores}
        order = sorted(  # of equals ReLU first
            scores,
            key=lambda e: (
                -functions[e].merit(statistics.fmean(scores[e].values())),
                rows[e]["label"] != "relu",
            ),
        )
        if len(order) > 1:
            where = f" ({name})" if len(models) > 1 else ""
            yield Verdict(rows[order[0]], _verdict(found, functions, scores, order, where))


def _verdict(
    found: Found,
    functions: Mapping[str, Trained],
    scores: Mapping[str, Mapping[int, float]],
    order: Sequence[str],
    where: str,
) -> str:
    rows = {e: next(iter(trained.rows.values())) for e, trained in functions.items()}
    relu = next((e for e in order if rows[e]["label"] == "relu"), None)
    best, n = order[0], len(scores[order[0]])
    metric = functions[best].metric
    seeds = f"{n} seed" if n == 1 else f"{n} seeds"
    data = " on test data" if split_of_all(functions.values()) == "test" else ""
    said = (
        f"Trained again with {seeds}{where}, {rows[best]['formula']} is first of "
        f"{len(order)}{data}: {metric.text(statistics.fmean(scores[best].values()))}"
    )
    if relu is not None and relu != best:
        gains = [metric.reward(d) for d in differences(scores[best], scores[relu])]
        ends = interval(gains)
        said += f", {_beside_relu(statistics.fmean(gains), metric)}"
        if ends is None:
            said += " (without an interval)"
        else:
            open_ = "" if ends.low > 0 else ": these seeds do not tell the two apart"
            low, high = (f"{metric.factor * x:+.{metric.decimals}f}" for x in (ends.low, ends.high))
            said += f" (95 %: {low} to {high}{open_})"
    winner = found.ranked[0] if found.ranked else None
    if winner is None:
        return f"{said}."
    if winner.expression == best:
        return f"{said}. It was the search's first too."
    if winner.expression not in order:
        trained = winner.expression in functions
        lacks = "has not trained with all of these seeds" if trained else "is not among them"
        return f"{said}. The search's first, {winner.formula}, {lacks}."
    merits = {e: metric.reward(statistics.fmean(scores[e].values())) for e in order}
    place = 1 + sum(merit > merits[winner.expression] for merit in merits.values())
    said += f". The search's first, {winner.formula}, is {place} of {len(order)}"
    if relu is not None and relu != winner.expression:
        gains = [metric.reward(d) for d in differences(scores[winner.expression], scores[relu])]
        said += f", {_beside_relu(statistics.fmean(gains), metric)}"
    return f"{said}."


def _beside_relu(gain: float, metric: Metric) -> str:
    """`gain` is positive where it is better."""
    if metric.number(abs(gain)) == metric.number(0.0):
        return "level with relu"
    return f"{metric.distance(gain)} {'better' if gain > 0 else 'worse'} than relu"


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


_RECIPE = ("schedule", "precision", "optimiser", "loss")  # as far as they were said


def _facts(found: Found) -> Iterator[tuple[str, str]]:
    """What was done, as (term, value)."""
    s, data = found.settings, found.run.config.get("data", {})
    if not s:
        return
    yield "space", str(s.get("space", ""))
    yield "strategy", str(s.get("strategy", ""))
    operators = f"operators {s.get('operators', 'guarded')}"
    if objective := found.run.objective:
        yield "objective", f"{objective}, {s.get('steps', 0):,} steps, {operators}"
    else:
        sizes = data.get("examples", {})
        split = ", ".join(f"{n:,} {name}" for name, n in sizes.items())
        yield "data", f"{s.get('dataset') or 'arrays'}" + (f" ({split})" if split else "")
        own = (found.run.child or "own").rpartition("-")[0]
        yield "child", f"{s.get('child') or own or 'own'}, {operators}"
        told = [f"{s.get('steps', 0):,} steps of {s.get('batch_size')}", f"rate {s.get('lr')}"]
        told += [str(s[key]) for key in _RECIPE if s.get(key)]
        yield "recipe", ", ".join(told)
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
    if run.objective:
        named = bool(settings.get("objective"))
    else:
        named = bool(settings.get("dataset") and settings.get("child"))
    if "score" in identity.get("protocol", {}):  # one of several
        score = "minimise" if run.metric.lower else "maximise"
        settings = {**settings, score: run.metric.name}
    if own or not named:
        return ""
    usual = resolve({}, {k: settings.get(k) for k in ("preset", "objective")})
    usual = replace(usual, objective=None)
    words = ["actsearch", "search", str(run.path)]
    for option in options_of(SearchOptions):
        value = settings.get(option.name)
        if value is None or value is False or value == getattr(usual, option.name, None):
            continue
        words.append(option.flag)
        words += [] if value is True else [str(value)]
    return shlex.join(words)


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
                "beside": e.label in BESIDE,
                "score": e.metric.cell(e.val_score),
                "error": e.metric.cell(error.of(e)),
                "expected": e.metric.cell(known.expected.get(e.expression) if known else None),
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
    from actsearch.search_space.candidate import candidate_from
    from actsearch.search_space.parser import ParseError

    operators = found.settings.get("operators", "guarded")
    for entry in found.ranked[:SHOWN]:
        with suppress(ParseError):
            functions = candidate_from(entry.expression).functions
            svg = "".join(sheet.drawn(function_svg(expr, operators)) for expr in functions)
            yield _formula(vars(entry)) | {
                "rank": entry.rank,
                "score": entry.metric.text(entry.val_score or 0.0),
                "svg": svg,
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
