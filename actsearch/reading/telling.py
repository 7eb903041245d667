"""What a report says in words: what the search found, what was done, and the command that does it
again."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from actsearch.options import options_of
from actsearch.reading.comparison import Worth, judged, luck_of
from actsearch.reading.confirming import conclusion
from actsearch.reading.plotting import Found
from actsearch.results.aims import COST, parts
from actsearch.results.leaderboard import DROPPED, Entry
from actsearch.results.records import ALWAYS_BESIDE
from actsearch.results.statistics import head_of
from actsearch.results.tables import brief, duration
from actsearch.run import Run
from actsearch.settings import SearchOptions, resolve

STATUS_WORDS = {
    "ok": "trained to the end",
    "rejected": "rejected before training",
    "raced_out": "stopped early by racing",
    DROPPED: "left behind in a rung of halving",
}
RECIPE = ("schedule", "precision", "optimiser", "loss")  # as far as they were said


def sentences(found: Found, known: Worth | None) -> Iterator[str]:
    """What a reader who reads no further should know."""
    counts = Counter(e.status for e in found.entries)
    if not counts:
        yield "Functions were trained here with several seeds; there was no search."
        return
    told = [f"{n:,} {STATUS_WORDS.get(s, s.replace('_', ' '))}" for s, n in counts.most_common()]
    among = sum(e.beside for e in found.entries)
    with_them = f", {among:,} baselines among them" if among else ""
    yield f"{len(found.entries):,} functions{with_them}: {', '.join(told)}."
    best = found.first
    if best is None:
        return
    others = [_beside(e, found) for e in _baselines(found)]
    more = sum(e.beside for e in found.ranked) - len(others)
    others += [f"{more:,} other baselines that scored worse"] if more else []
    beside = f"; beside it {_listed(others)}" if others else ""
    yield f"The search's first had {_scored(best, found)} on validation data{beside}."
    if said := conclusion(found.run):
        yield from said
    elif known is not None:
        yield luck_of(found.ranked, known)
        reach = known.noise.reach()
        near = sum(e.merit >= best.merit - reach for e in found.ranked if not e.beside)
        noise = (
            f"within the noise of the best, {found.metric.distance(reach)}, by which trainings of "
            f"equally good functions differ (95 %, Student's t with {known.noise.freedom:,} "
            "degrees of freedom)"
        )
        if near > 1:
            yield f"The first {near:,} candidates are {noise}: their order says little."
        else:
            yield f"No other candidate is {noise}."
    else:
        few = len(judged(found.ranked))
        fewest = head_of(few)
        how_much = f"'actsearch reevaluate {found.run.path}', with the settings of the search, says"
        if few < fewest:
            how_much = f"Of fewer than {fewest} functions nothing says"
        yield (
            "The search trained every function once, so the order of functions that are close is "
            f"partly luck. {how_much} how much."
        )


def _baselines(found: Found) -> list[Entry]:
    """Those that a sentence has room for: ReLU, Swish, and the best of the others."""
    beside = [e for e in found.ranked if e.beside]
    always = [e for name in ALWAYS_BESIDE for e in beside if e.label == name]
    return [*always, *[e for e in beside if e.asked_for][:1]]


def _beside(entry: Entry, found: Found) -> str:
    return f"{entry.label or brief(entry.formula)} {_scored(entry, found)} (#{entry.rank})"


def _listed(words: Sequence[str]) -> str:
    """Such as `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _scored(entry: Entry, found: Found) -> str:
    return found.metric.text(entry.val_score or 0.0)


def facts(found: Found) -> Iterator[tuple[str, str]]:
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
        told += [str(s[key]) for key in RECIPE if s.get(key)]
        yield "recipe", ", ".join(told)
    if named := [e.label or brief(e.formula) for e in found.entries if e.beside]:
        yield "baselines", ", ".join(named)
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


def command(run: Run) -> str:
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
    for way, name in (aim.split(" ", 1) for aim in parts(settings.get("aims"))):
        if way == "minimise" and name != COST.name and settings.get("maximise"):
            return ""  # of two names that of --minimise would be the metric
        settings = {**settings, way: ",".join(filter(None, (settings.get(way), name)))}
    usual = resolve({k: settings.get(k) for k in ("preset", "objective")})
    usual = replace(usual, objective=None)
    words = ["actsearch", "search", str(run.path)]
    for option in options_of(SearchOptions):
        value = settings.get(option.name)
        value = tuple(value) if option.several and value else value
        if value in (None, False, ()) or value == getattr(usual, option.name, None):
            continue
        words.append(option.flag)
        words += [] if value is True else map(str, value if option.several else (value,))
    return shlex.join(words)
