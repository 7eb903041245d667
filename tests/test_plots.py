"""Figures: that they hold the data, drawn by matplotlib and by plotly, and what `plot` makes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from actsearch import cli
from actsearch.reading.plotting import FIGURES
from actsearch.results.claims import Course
from actsearch.results.figures.plots import (
    COLOURS,
    DASHES,
    Bars,
    Figure,
    Line,
    Panel,
    Points,
    Spans,
    to_html,
    to_matplotlib,
    to_svg,
    write,
)
from actsearch.results.figures.trainings import (
    Inspected,
    beta_figure,
    course_figures,
    file_name,
    histogram,
    preactivation_figure,
)
from actsearch.results.records import Outcome
from actsearch.results.store import Store
from actsearch.run import Run

from .conftest import LIMIT

pytest.importorskip("plotly", reason="plotly is not installed: pip install plotly")

FIGURE = Figure(
    "three",
    "Three kinds of <marks>",
    (
        Panel(
            "left", "step", "accuracy [%]",
            (Line("a & b", (0, 1, 2), (5, 7, 6), (4, 6, 5), (6, 8, 7), style=0),
             Line("c", (0, 1, 2), (1, 2, 3), style=1, dash=1)),
        ),
        Panel("middle", "time [s]", "accuracy [%]",
              (Points("a & b", (3,), (80,), (2,), 0), Points("c", (4,), (70,), (), 1)),
              x_from=0.0),
        Panel("right", "beta", "share", (Bars("betas", (0, 1, 2, 4), (0.5, 0.25, 0.25)),),
              (0, 4), note="3 values\nmean 1"),
    ),
    "n = 3",
)  # fmt: skip


def read_back(page: str) -> list[dict[str, Any]]:
    """The data and layout of each plotly figure in a page, by plotly's own call."""
    found: list[dict[str, Any]] = []
    decoder = json.JSONDecoder()
    for call in re.finditer(r'Plotly\.newPlot\(\s*"([^"]+)",\s*(?=\[)', page):
        data, end = decoder.raw_decode(page, call.end())
        start = page.index("{", end)
        layout, _ = decoder.raw_decode(page, start)
        found.append({"id": call[1], "data": data, "layout": layout})
    return found


def test_matplotlib_draws_the_data_on_labelled_axes() -> None:
    left, middle, right = to_matplotlib(FIGURE).axes
    first, second = left.lines
    assert first.get_xydata().tolist() == [[0, 5], [1, 7], [2, 6]]
    assert second.get_xydata().tolist() == [[0, 1], [1, 2], [2, 3]]
    assert (first.get_color(), second.get_color()) == COLOURS[:2]
    assert first.get_linestyle() != second.get_linestyle()
    band = left.collections[0].get_paths()[0].vertices
    assert {(0, 4), (0, 6), (1, 6), (1, 8), (2, 5), (2, 7)} <= {tuple(p) for p in band}
    assert (left.get_xlabel(), left.get_ylabel()) == ("step", "accuracy [%]")
    assert middle.containers[0].lines[0].get_xydata().tolist() == [[3, 80]]
    [whole] = middle.containers[0].lines[2][0].get_segments()
    assert whole.tolist() == [[3, 78], [3, 82]]
    assert middle.get_xlim()[0] == 0
    stairs = right.patches[0].get_data()
    assert (stairs.values.tolist(), stairs.edges.tolist()) == ([0.5, 0.25, 0.25], [0, 1, 2, 4])
    assert right.texts[0].get_text() == "3 values\nmean 1"


def test_a_legend_names_each_mark_once() -> None:
    [legend] = to_matplotlib(FIGURE).legends
    assert [text.get_text() for text in legend.get_texts()] == ["a & b", "c", "betas"]


def test_html_holds_the_data_and_needs_no_network() -> None:
    page = to_html([FIGURE, FIGURE], "Two <figures>")
    assert not re.search(r"<(script|link|img)[^>]*\b(src|href)\s*=", page)
    assert page.count("/**\n* plotly.js") == 1
    assert "<title>Two &lt;figures&gt;</title>" in page
    found, again = read_back(page)
    assert found["data"] == again["data"]
    line, low, high, c, a_point, c_point, bars = found["data"]
    assert (line["x"], line["y"]) == ([0, 1, 2], [5, 7, 6])
    assert (low["y"], high["y"], high["fill"]) == ([4, 6, 5], [6, 8, 7], "tonexty")
    assert (c["y"], c["line"]["dash"], c["line"]["color"]) == ([1, 2, 3], DASHES[1], COLOURS[1])
    assert (a_point["x"], a_point["y"], a_point["error_y"]["array"]) == ([3], [80], [2])
    assert "array" not in c_point.get("error_y", {})
    assert (bars["x"], bars["width"], bars["y"]) == ([0.5, 1.5, 3], [1, 1, 2], [0.5, 0.25, 0.25])
    shown = [trace["name"] for trace in found["data"] if trace["showlegend"]]
    assert shown == ["a &amp; b", "c"]
    assert found["layout"]["xaxis"]["title"]["text"] == "step"
    assert found["layout"]["title"]["text"] == "Three kinds of &lt;marks&gt;"


def test_files_are_a_picture_a_figure_and_one_page(tmp_path: Path) -> None:
    files = write([FIGURE], tmp_path / "new", "page", "A page")
    assert [f.name for f in files] == ["three.png", "three.svg", "page.html"]
    picture = np.asarray(Image.open(files[0]).convert("RGB"))
    assert picture.shape[1] > picture.shape[0] > 300
    for colour in COLOURS[:2]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (picture == rgb).all(2).sum() > 50


def test_an_svg_keeps_its_text_and_is_the_same_each_time() -> None:
    text = to_svg(FIGURE)
    words = "".join(ElementTree.fromstring(text).itertext())
    for word in ("Three kinds of <marks>", "accuracy [%]", "time [s]", "a & b", "n = 3"):
        assert word in words
    assert to_svg(FIGURE) == text


def test_bars_along_x_names_and_spans_are_drawn_by_both() -> None:
    points = Points(
        "p", (1, 2), (0, 1), low=(0, 2), high=(1.5, 4), names=("<a>", "b"), written=True
    )
    panel = Panel("", "x", "", (points, Spans("s", (0, 1), (0, 1), (3, 2))), y_names=("up", "down"))
    figure = Figure("f", "", (panel,))
    [axes] = to_matplotlib(figure).axes
    reach = axes.containers[0].lines[2][0].get_segments()
    assert [line.tolist() for line in reach] == [[[0, 0], [1.5, 0]], [[2, 1], [4, 1]]]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, 3), (1, 1)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["up", "down"]
    assert {text.get_text() for text in axes.texts} == {"<a>", "b"}
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first name at the top
    [drawn] = read_back(to_html([figure], "t"))
    first, second = drawn["data"]
    assert (first["error_x"]["array"], first["error_x"]["arrayminus"]) == ([0.5, 2], [1, 0])
    assert first["text"] == ["&lt;a&gt;", "b"]
    assert (second["base"], second["x"], second["orientation"]) == ([0, 1], [3, 1], "h")
    assert drawn["layout"]["yaxis"]["ticktext"] == ["up", "down"]


def test_drawing_leaves_pyplot_alone_and_reading_needs_no_library() -> None:
    code = (
        "import sys\n"
        "from actsearch.results.figures.trainings import beta_figure, Inspected\n"
        "from actsearch.results.figures.plots import to_matplotlib\n"
        "figure = beta_figure(Inspected('f', 'm', 'n', 1, ((1.0, 1.5),)))\n"
        "assert not {'matplotlib', 'plotly', 'torch', 'numpy'} & set(sys.modules)\n"
        "to_matplotlib(figure)\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr


def test_without_plotly_there_are_pictures_and_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert [f.name for f in write([FIGURE], tmp_path, "page", "t")] == ["three.png", "three.svg"]
    with pytest.raises(ModuleNotFoundError, match=r"need plotly.*python -m pip install plotly"):
        to_html([FIGURE], "t")
    assert cli.main(["experiment", "mnist-mlp"]) == 4
    assert "figures to explore need plotly" in capsys.readouterr().err


# -- courses


def course(name: str, seed: int, accuracy: tuple[float, ...], beta: float | None) -> Course:
    betas = ((1.0, 1.0), (beta, 2.0)) if beta is not None else ((), ())
    return Course("sigma 0.5", name, seed, (0, 10), accuracy, betas, accuracy[-1], 2.0 + seed)


COURSES = [
    course("ReLU", 0, (0.1, 0.8), None), course("ReLU", 1, (0.2, 0.6), None),
    course("Swish", 0, (0.1, 0.9), 1.5), course("Swish", 1, (0.1, 0.7), 0.5),
]  # fmt: skip


def test_courses_are_drawn_as_means_with_a_band_of_one_standard_error() -> None:
    accuracy, beta, cost = course_figures(COURSES, ["ReLU", "Swish"])
    relu, swish = accuracy.panels[0].marks
    assert isinstance(relu, Line)
    assert isinstance(swish, Line)
    assert (relu.label, relu.x) == ("ReLU", (0, 10))
    assert relu.y == pytest.approx((15, 70))
    assert relu.low == pytest.approx((10, 60))  # the standard error of two values: half their gap
    assert relu.high == pytest.approx((20, 80))
    assert swish.y == pytest.approx((10, 80))
    assert "n = 2 seeds" in accuracy.caption
    [panel] = beta.panels
    assert [line.y for line in panel.marks if isinstance(line, Line)] == [(1, 1), (1, 2)]
    assert panel.title == "Swish, sigma 0.5"
    points = cost.panels[0].marks
    assert [(p.label, p.x) for p in points if isinstance(p, Points)] == [
        ("ReLU", (2.5,)), ("Swish", (2.5,)),
    ]  # fmt: skip


def test_only_steps_that_all_seeds_have_are_averaged() -> None:
    longer = Course("sigma 0.5", "ReLU", 2, (0, 5, 10), (0.3, 0.4, 0.7), (), 0.7, 1.0)
    figure = course_figures([*COURSES[:2], longer], ["ReLU"])[0]
    [line] = figure.panels[0].marks
    assert isinstance(line, Line)
    assert line.x == (0, 10)
    assert line.y == pytest.approx((20, 70))


def test_nothing_trained_is_no_figure() -> None:
    assert course_figures([], ["ReLU"]) == []


# -- what became of the activations


def test_a_histogram_counts_as_numpy_does_and_widens_its_axis_for_what_lies_outside() -> None:
    values = np.random.default_rng(0).normal(1, 0.5, 1000).tolist()
    for axis in ((-0.5, 2.0), (-5.0, 5.0)):
        edges, counts = histogram(values, 50, axis)
        low, high = min(axis[0], *values), max(axis[1], *values)
        expected, known = np.histogram(values, 50, (low, high))
        assert edges == pytest.approx(known.tolist())
        assert list(counts) == expected.tolist()


def test_betas_have_a_panel_each_and_preactivations_shares_of_all_inputs() -> None:
    preactivations = {"low": -10.0, "high": 10.0, "counts": [0, 20, 60, 10], "below": 4, "above": 6}
    of = Inspected("f(x)", "m", "f", 3, ((1.0, 1.0, 2.0), (0.5,)), preactivations)
    first, second = beta_figure(of).panels  # type: ignore[union-attr]
    assert (first.title, second.title) == ("m, beta 1", "m, beta 2")
    [bars] = first.marks
    assert isinstance(bars, Bars)
    assert sum(bars.heights) == pytest.approx(1)
    assert max(bars.heights) == pytest.approx(2 / 3)
    [panel] = preactivation_figure(of).panels  # type: ignore[union-attr]
    [bars] = panel.marks
    assert isinstance(bars, Bars)
    assert bars.heights == (0, 0.2, 0.6, 0.1)
    assert bars.edges == (-10, -5, 0, 5, 10)
    assert panel.note == "in -5..0: 20.0%\nbelow: 4.0%\nabove: 6.0%"
    assert beta_figure(Inspected("relu(x)", "m", "r", 1)) is None
    assert preactivation_figure(Inspected("relu(x)", "m", "r", 1)) is None


def test_names_of_files_hold_no_signs() -> None:
    assert file_name("2 * x * sigmoid(beta * x)") == "2-x-sigmoid-beta-x"
    assert file_name("sigma 0.5") == "sigma-0.5"
    assert file_name("/..//") == "x"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose store holds re-evaluations of ReLU and, with two seeds, of Swish."""
    folder = tmp_path / "run"
    folder.mkdir()
    store = Store(folder / "run.sqlite", create=True)
    store.add_protocol("p", {"child": "mlp", "dataset": "digits", "operators": "guarded"})
    swish = "mul(x, sigmoid(scale(x)))"
    for expression, formula, seed, betas in (
        ("relu(x)", "relu(x)", 0, []),
        (swish, "x * sigmoid(beta * x)", 0, [[0.9, 1.1]]),
        (swish, "x * sigmoid(beta * x)", 1, [[1.3, None]]),
    ):
        counted = {"low": -10.0, "high": 10.0, "counts": [1, 3], "below": 0, "above": 0}
        details = {"betas": betas, "preactivations": counted}
        trial = store.submit("reevaluate", expression, "p", seed, formula=formula)
        store.record(trial, Outcome("ok", val_score=0.9, test_score=0.9, details=details))
    store.close()
    return folder


def test_plot_draws_the_seeds_of_a_function_together(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plot", str(run), "--of", "betas"]) == 0
    png, svg, page = map(Path, capsys.readouterr().out.split())
    assert png == run / "figures/betas-x-sigmoid-beta-x.png"
    assert svg == png.with_suffix(".svg")
    [drawn] = read_back(page.read_text())
    [bars] = drawn["data"]
    shares = {round(x, 3): y for x, y in zip(bars["x"], bars["y"], strict=True) if y}
    assert len(shares) == 3  # 0.9, 1.1, 1.3
    assert list(shares.values()) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("function", ["relu", "relu(x)", "max(x, 0)"])
def test_plot_finds_a_function_however_it_is_written(
    run: Path, tmp_path: Path, function: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["plot", str(run), "--of", "preactivations", "-o", str(out)]
    assert cli.main([*arguments, "--function", function]) == 0
    names = {"preactivations-relu-x.png", "preactivations-relu-x.svg", "preactivations.html"}
    assert {p.name for p in out.iterdir()} == names
    [drawn] = read_back((out / "preactivations.html").read_text())
    assert drawn["data"][0]["y"] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--function", "tanh(x)"], 3, "without --function those of all that have any are drawn"),
        (["--function", "relu"], 3, "has no betas of relu"),
        (["--function", "relu("], 2, "column"),
    ],
)
def test_what_cannot_be_drawn_gets_a_sentence(
    run: Path, arguments: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plot", str(run), "--of", "betas", *arguments]) == code
    assert sentence in capsys.readouterr().err


def test_a_run_without_re_evaluations_says_what_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "run.sqlite", create=True).close()
    assert cli.main(["plot", str(tmp_path)]) == 3
    assert "nothing to draw yet" in capsys.readouterr().err
    assert cli.main(["plot", str(tmp_path), "--of", "betas"]) == 3
    assert f"'actsearch reevaluate {tmp_path}' makes one" in capsys.readouterr().err
    assert Run.open(tmp_path).rows("reevaluate") == []


def test_a_folder_that_cannot_be_made_gets_a_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["--of", "betas", "-o", str(tmp_path / "file")]
    assert cli.main(["plot", str(run), *arguments]) == 4
    assert f"cannot write {tmp_path / 'file'}: File exists" in capsys.readouterr().err


def test_every_kind_of_figure_can_be_asked_for() -> None:
    from typing import get_args, get_type_hints

    from actsearch.config import PlotConfig

    assert set(get_args(get_type_hints(PlotConfig)["of"])) == {"all", *FIGURES}
