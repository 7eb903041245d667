"""Figures as plain data, drawn twice: by matplotlib as PNG and SVG, by plotly as HTML to explore.

A Figure has Panels, a Panel has marks: Line, Points, Bars, Spans. `trainings.py` and `searches.py`
make figures from results; what draws them is here and knows no results. plotly is optional.
"""

from __future__ import annotations

import html
import importlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actsearch.results.tables import printable

# Okabe and Ito 2008, told apart with any kind of colour vision; yellow is too pale for lines.
# Dashes and symbols say the same once more, for print in grey. Grey itself is for what others are
# compared with.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")
BESIDE = 7  # the style of what others are compared with
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "x",
    "star",
    "cross",
    "triangle-down",
    "triangle-right",
)
_LENGTHS = ((), (4, 2), (5, 2, 1, 2), (1, 1.5), (8, 3), (8, 2, 1, 2))
_MATPLOTLIB_DASHES = {
    name: (0, lengths) if lengths else "-" for name, lengths in zip(DASHES, _LENGTHS, strict=True)
}
_MATPLOTLIB_SYMBOLS: dict[str, str] = dict(zip(SYMBOLS, "osD^X*Pv>", strict=True))
GREY = "#555555"

DPI = 110
PANEL_INCHES = (4.6, 3.5)
PANEL_HEIGHT = 430  # pixels; the page's width is shared
COLUMNS = 3
MOST_TITLES = 300  # of points; more would make a heavy file, and no mouse could tell them apart
NAME, SENTENCE, CAPTION = 48, 100, 500  # characters that a figure has room for
# A name may hold dollars, which are no mathematics.
_DRAWING = {"text.parse_math": False, "text.usetex": False}


@dataclass(frozen=True)
class Line:
    """y over x, with a band from `low` to `high` where there is one. `style` counts through
    COLOURS; `dash` through DASHES."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    style: int = 0
    dash: int = 0


@dataclass(frozen=True)
class Points:
    """One symbol at each (x, y), with a bar of `error` up and down where there is one, or from
    `low` to `high` along x; an error that is not a number has no bar. `names` are shown beside the
    symbols if `written`, else where the mouse is."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    style: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    written: bool = False
    size: float = 8.0
    symbol: int | None = None  # counts through SYMBOLS; None: as the style


@dataclass(frozen=True)
class Bars:
    """A histogram: `heights[i]` from `edges[i]` to `edges[i + 1]`."""

    label: str
    edges: tuple[float, ...]
    heights: tuple[float, ...]
    style: int = 0


@dataclass(frozen=True)
class Spans:
    """Horizontal bars: from `low[i]` to `high[i]` at height `y[i]`."""

    label: str
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    style: int = 0


Mark = Line | Points | Bars | Spans


@dataclass(frozen=True)
class Panel:
    """Axes with their labels, units in brackets, and what is drawn on them. `x_range` and `y_range`
    are their ends, `x_from` where x begins; with `x_counts` x are whole numbers; `y_names` stand
    at y = 0, 1, ... from the top down; `at` are vertical lines; `note` stands in the corner."""

    title: str
    x: str
    y: str
    marks: tuple[Mark, ...]
    x_range: tuple[float, float] | None = None
    x_from: float | None = None
    note: str = ""
    y_range: tuple[float, float] | None = None
    y_names: tuple[str, ...] = ()
    at: tuple[float, ...] = ()
    x_counts: bool = False


@dataclass(frozen=True)
class Figure:
    """`name` is its file's; `caption` says what bands, bars and n are. `panel` is the width and
    height of a panel in inches; without a `legend` the page says what lines are."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    caption: str = ""
    panel: tuple[float, float] = PANEL_INCHES
    legend: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        columns = min(COLUMNS, len(self.panels))
        return math.ceil(len(self.panels) / columns), columns


def legible(figure: Figure) -> Figure:
    """The figure with texts for which there is room, and in which nothing has to be obeyed: names
    come from whoever made the run."""
    return replace(
        figure,
        title=_cut(figure.title, SENTENCE),
        caption=_cut(figure.caption, CAPTION),
        panels=tuple(
            replace(
                panel,
                **{name: _cut(getattr(panel, name), SENTENCE) for name in ("title", "x", "y")},
                note=_cut(panel.note, CAPTION),
                y_names=tuple(_cut(name, NAME) for name in panel.y_names),
                marks=tuple(map(_legible_mark, panel.marks)),
            )
            for panel in figure.panels
        ),
    )


def _legible_mark(mark: Mark) -> Mark:
    mark = replace(mark, label=_cut(mark.label, NAME))
    if isinstance(mark, Points):
        return replace(mark, names=tuple(_cut(name, SENTENCE) for name in mark.names))
    return mark


def _cut(text: str, longest: int) -> str:
    text = printable(text, keep="\n")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def plotly(module: str) -> Any:
    """A module of plotly; raises ModuleNotFoundError with a way out."""
    try:
        return importlib.import_module(f"plotly.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "plotly":
            raise
        raise ModuleNotFoundError(
            "figures to explore need plotly, which is not installed: python -m pip install plotly",
            name="plotly",
        ) from None


def write(figures: Sequence[Figure], folder: Path, page: str, title: str) -> list[Path]:
    """`folder/NAME.png` and `NAME.svg` for each figure, and, where plotly is installed,
    `folder/PAGE.html` with all of them; returns these."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for figure in figures:
        files.append(folder / f"{figure.name}.png")
        _save(figure, files[-1], dpi=DPI)
        files.append(folder / f"{figure.name}.svg")
        files[-1].write_text(to_svg(figure), encoding="utf-8")
    with suppress(ModuleNotFoundError):
        text = to_html(figures, title)
        files.append(folder / f"{page}.html")
        files[-1].write_text(text, encoding="utf-8")
    return files


# -- matplotlib


def to_matplotlib(figure: Figure) -> Any:
    """A matplotlib Figure that pyplot knows nothing of."""
    from matplotlib.figure import Figure as Canvas

    figure = legible(figure)
    rows, columns = figure.grid
    width, height = figure.panel
    size = (width * columns + 1.4 * _has_legend(figure), height * rows)
    if figure.title or figure.caption:
        size = (max(7.4, size[0]), size[1] + 0.9)
    drawn = Canvas(figsize=size, layout="constrained")
    if figure.title:
        drawn.suptitle(figure.title, fontsize=12, fontweight="bold")
    grid = drawn.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, figure.panels, strict=False):
        _axes(axes, panel)
    for axes in grid[len(figure.panels) :]:
        axes.set_axis_off()
    if _has_legend(figure):
        handles = _legend(grid)
        drawn.legend(
            handles.values(),
            handles,
            loc="outside right center",
            fontsize=8,
            frameon=False,
            handlelength=3.2,
        )
    if figure.caption:
        drawn.supxlabel(figure.caption, fontsize=8, color=GREY)
    return drawn


def to_svg(figure: Figure) -> str:
    """An <svg> element whose text stays text, to stand in a page or a file; the same for the same
    figure. Names of points are titles, which a browser shows where the mouse is."""
    out = io.StringIO()
    how = {"svg.fonttype": "none", "svg.hashsalt": figure.name}
    _save(figure, out, how, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return _titled(text[text.index("<svg") :], legible(figure))


def _titled(svg: str, figure: Figure) -> str:
    """With the names of points that are not written beside them."""
    at = 0
    for panel in figure.panels:
        for number, mark in enumerate(m for m in panel.marks if isinstance(m, Points)):
            drawn = re.compile(
                rf'id="{_group(number)}">{_SAME_GROUP}<g clip-path[^>]*>(.*?)</g>', re.DOTALL
            )
            found = drawn.search(svg, at)
            if found is None:
                continue
            at = found.end()
            shown = found[1].count("<use ")  # without those beyond the axes
            if mark.written or len(mark.names) != shown or shown > MOST_TITLES:
                continue
            names = iter(mark.names)
            symbols = re.sub(
                r"<use ([^>]*)/>",
                lambda use, names=names: f"<use {use[1]}>{_title(next(names))}</use>",
                found[1],
            )
            svg = svg[: found.start(1)] + symbols + svg[found.end(1) :]
    return svg


_SAME_GROUP = r'(?:(?!id="points-).)*?'


def _group(number: int) -> str:
    """The id of the symbols of a panel's Points, which are counted from 0."""
    return f"points-{number}"


def _title(name: str) -> str:
    return f"<title>{html.escape(name)}</title>"


def _save(
    figure: Figure, file: Any, settings: Mapping[str, Any] = _DRAWING, **options: Any
) -> None:
    """Ticks are made as late as this, so the settings hold until then."""
    from matplotlib import rc_context

    options_of_matplotlib: Any = {**_DRAWING, **settings}
    with rc_context(options_of_matplotlib):
        to_matplotlib(figure).savefig(file, **options)


def _has_legend(figure: Figure) -> bool:
    return figure.legend and any(len(panel.marks) > 1 for panel in figure.panels)


def _legend(grid: Any) -> dict[str, Any]:
    """One handle a label, whichever panels have it."""
    found: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found


def _axes(axes: Any, panel: Panel) -> None:
    for mark in panel.marks:
        _MATPLOTLIB[type(mark)](axes, mark)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x, fontsize=9)
    axes.set_ylabel(panel.y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    if panel.x_counts:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if panel.x_range:
        axes.set_xlim(*panel.x_range)
    if panel.x_from is not None:
        shown = [mark for mark in panel.marks if isinstance(mark, (Line, Points))]
        right = max(x for mark in shown for x in (*mark.x, *_ends(mark)))
        axes.set_xlim(panel.x_from, panel.x_from + 1.08 * (right - panel.x_from))
    if panel.y_range:
        axes.set_ylim(*panel.y_range)
    if panel.y_names:
        axes.set_yticks(range(len(panel.y_names)), panel.y_names)
        axes.set_ylim(len(panel.y_names) - 0.5, -0.5)
    for x in panel.at:
        axes.axvline(x, color=GREY, linewidth=0.8, zorder=0)
    if panel.note:
        axes.text(0.98, 0.97, panel.note, transform=axes.transAxes, ha="right", va="top",
                  fontsize=8, color=GREY)  # fmt: skip


def _ends(mark: Mark) -> tuple[float, ...]:
    """Where bars along x end."""
    return mark.high if isinstance(mark, Points) else ()


def _line(axes: Any, mark: Line) -> None:
    colour, dash = _colour(mark), _MATPLOTLIB_DASHES[_dash(mark)]
    axes.plot(mark.x, mark.y, color=colour, linestyle=dash, linewidth=1.6, label=mark.label)
    if mark.low:
        axes.fill_between(mark.x, mark.low, mark.high, color=colour, alpha=0.15, linewidth=0)


def _points(axes: Any, mark: Points) -> None:
    from matplotlib.container import ErrorbarContainer

    number = sum(isinstance(one, ErrorbarContainer) for one in axes.containers)
    drawn = axes.errorbar(
        mark.x, mark.y, yerr=mark.error or None, xerr=_reach(mark) or None, color=_colour(mark),
        marker=_MATPLOTLIB_SYMBOLS[_symbol(mark)], markersize=mark.size, capsize=3,
        linestyle="none", label=mark.label,
    )  # fmt: skip
    drawn[0].set_gid(_group(number))
    if mark.written:
        for name, at in zip(mark.names, zip(mark.x, mark.y, strict=True), strict=True):
            axes.annotate(name, at, (6, 4), textcoords="offset points", fontsize=8)


def _reach(mark: Points) -> tuple[list[float], list[float]] | None:
    """How far the bars along x go to the left and to the right."""
    if not mark.low:
        return None
    left = [x - low for x, low in zip(mark.x, mark.low, strict=True)]
    right = [high - x for x, high in zip(mark.x, mark.high, strict=True)]
    return left, right


def _spans(axes: Any, mark: Spans) -> None:
    lengths = [high - low for low, high in zip(mark.low, mark.high, strict=True)]
    axes.barh(mark.y, lengths, left=mark.low, height=0.7, color=_colour(mark), alpha=0.85,
              label=mark.label)  # fmt: skip


def _bars(axes: Any, mark: Bars) -> None:
    axes.stairs(mark.heights, mark.edges, fill=True, color=_colour(mark), alpha=0.85,
                label=mark.label)  # fmt: skip


_MATPLOTLIB = {Line: _line, Points: _points, Bars: _bars, Spans: _spans}


# -- plotly


def to_plotly(figure: Figure) -> Any:
    """A plotly Figure; panels share one legend, in which a click hides a mark everywhere."""
    figure = legible(figure)
    rows, columns = figure.grid
    drawn = plotly("subplots").make_subplots(
        rows, columns, subplot_titles=[html.escape(panel.title) for panel in figure.panels],
        horizontal_spacing=0.16 / columns, vertical_spacing=0.24 / rows,
    )  # fmt: skip
    labelled: set[str] = set()
    for i, panel in enumerate(figure.panels):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        for mark in panel.marks:
            for trace in _PLOTLY[type(mark)](mark):
                shown = trace.showlegend is not False and mark.label not in labelled
                trace.update(showlegend=shown and len(panel.marks) > 1)
                drawn.add_trace(trace, **at)
            labelled.add(mark.label)
        grid = {"gridcolor": "#DDDDDD", "zeroline": False, "linecolor": GREY}
        drawn.update_xaxes(title_text=html.escape(panel.x), range=panel.x_range, **grid, **at)
        drawn.update_yaxes(title_text=html.escape(panel.y), range=panel.y_range, **grid, **at)
        if panel.y_names:
            texts = [html.escape(name) for name in panel.y_names]
            names = {"tickvals": [*range(len(texts))], "ticktext": texts}
            drawn.update_yaxes(autorange="reversed", **names, **at)
        for x in panel.at:
            drawn.add_vline(x, line={"color": GREY, "width": 1}, **at)
        if panel.x_counts:
            drawn.update_xaxes(tick0=0, dtick=_whole_step(panel), **at)
        if panel.x_from is not None:
            drawn.update_xaxes(autorangeoptions_include=panel.x_from, **at)
        if panel.note:
            drawn.add_annotation(
                text=html.escape(panel.note).replace("\n", "<br>"), showarrow=False, x=0.98, y=0.97,
                xref="x domain", yref="y domain", xanchor="right", align="right", **at,
            )  # fmt: skip
    drawn.update_layout(
        template="plotly_white", height=PANEL_HEIGHT * rows + 60,
        title_text=html.escape(figure.title), bargap=0,
        hovermode="x unified" if all(isinstance(m, Line) for m in _marks(figure)) else "closest",
    )  # fmt: skip
    return drawn


def _whole_step(panel: Panel) -> int:
    """Between ticks, of which there are about ten."""
    most = max(x for mark in panel.marks if isinstance(mark, Points) for x in mark.x)
    return max(1, round(most / 10))


def _marks(figure: Figure) -> list[Mark]:
    return [mark for panel in figure.panels for mark in panel.marks]


def _line_traces(mark: Line) -> list[Any]:
    scatter = plotly("graph_objects").Scatter
    name = html.escape(mark.label)
    same = {"legendgroup": mark.label, "name": name, "mode": "lines", "x": list(mark.x)}
    line = {"color": _colour(mark), "dash": _dash(mark), "width": 2}
    traces = [scatter(y=list(mark.y), line=line, **same)]
    if mark.low:
        edge = {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, **same}
        fill = {"fill": "tonexty", "fillcolor": _faint(mark)}
        traces += [scatter(y=list(mark.low), **edge), scatter(y=list(mark.high), **edge, **fill)]
    return traces


def _points_traces(mark: Points) -> list[Any]:
    return [
        plotly("graph_objects").Scatter(
            x=list(mark.x), y=list(mark.y), mode="markers", name=html.escape(mark.label),
            legendgroup=mark.label, error_y={"array": list(mark.error)} if mark.error else None,
            error_x=_plotly_reach(mark), text=[html.escape(name) for name in mark.names] or None,
            marker={"color": _colour(mark), "symbol": _symbol(mark), "size": 1.4 * mark.size},
        )
    ]  # fmt: skip


def _plotly_reach(mark: Points) -> dict[str, Any] | None:
    reach = _reach(mark)
    return reach and {"array": reach[1], "arrayminus": reach[0]}


def _spans_traces(mark: Spans) -> list[Any]:
    lengths = [high - low for low, high in zip(mark.low, mark.high, strict=True)]
    return [
        plotly("graph_objects").Bar(
            x=lengths, y=list(mark.y), base=list(mark.low), orientation="h", width=0.7,
            name=html.escape(mark.label), legendgroup=mark.label,
            marker={"color": _colour(mark), "line": {"width": 0}},
        )
    ]  # fmt: skip


def _bars_traces(mark: Bars) -> list[Any]:
    pairs = list(zip(mark.edges, mark.edges[1:], strict=False))
    return [
        plotly("graph_objects").Bar(
            x=[(a + b) / 2 for a, b in pairs], width=[b - a for a, b in pairs],
            y=list(mark.heights), name=html.escape(mark.label), legendgroup=mark.label,
            marker={"color": _colour(mark), "line": {"width": 0}},
        )
    ]  # fmt: skip


_PLOTLY = {Line: _line_traces, Points: _points_traces, Bars: _bars_traces, Spans: _spans_traces}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>body {{ font-family: sans-serif; margin: 2em; }} p {{ color: {grey}; }}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def to_html(figures: Sequence[Figure], title: str) -> str:
    """A page that needs no network: plotly's own code lies in it, once."""
    parts: list[str] = []
    for i, figure in enumerate(figures):
        parts.append(
            plotly("io").to_html(to_plotly(figure), full_html=False, include_plotlyjs=i == 0,
                       div_id=figure.name, config={"displaylogo": False, "responsive": True})
        )  # fmt: skip
        parts.append(f"<p>{html.escape(legible(figure).caption)}</p>")
    return _PAGE.format(title=html.escape(title), grey=GREY, body="\n".join(parts))


def _colour(mark: Mark) -> str:
    return COLOURS[mark.style % len(COLOURS)]


def _faint(mark: Mark) -> str:
    red, green, blue = (int(_colour(mark)[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.15)"


def _dash(mark: Line) -> str:
    return DASHES[mark.dash % len(DASHES)]


def _symbol(mark: Points) -> str:
    return SYMBOLS[(mark.style if mark.symbol is None else mark.symbol) % len(SYMBOLS)]
