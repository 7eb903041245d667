"""What notebooks show: the curves of a function, and the head of a run's table."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import actsearch
from actsearch.notebooks import register
from actsearch.results.figures.functions import (
    card,
    curve_of,
    function_svg,
    gallery_figure,
    heights_with_slope,
)
from actsearch.results.figures.plots import Line
from actsearch.results.records import Outcome
from actsearch.results.store import Store
from actsearch.search_space.baselines import BASELINES
from actsearch.search_space.expression import Expr
from actsearch.search_space.operators import Op
from actsearch.search_space.parser import parse

from .conftest import LIMIT

SVG = "{http://www.w3.org/2000/svg}"
IPYTHON = "IPython is not installed: pip install ipykernel"


def lines(text: str, operators: str = "guarded") -> tuple[Line, Line]:
    """Those of f and of f'."""
    figure = gallery_figure([curve_of(parse(text), operators)])
    assert figure is not None
    [panel] = figure.panels
    f, slope = panel.marks
    assert isinstance(f, Line)
    assert isinstance(slope, Line)
    return f, slope


def swish(x: float) -> float:
    return x / (1 + math.exp(-x))


def swish_slope(x: float) -> float:
    gate = 1 / (1 + math.exp(-x))
    return gate + x * gate * (1 - gate)


# f, f', and the heights of a panel: a quarter more than f's values between -5 and 5, and -1 to 1.
CURVES: dict[str, tuple[Callable[[float], float], Callable[[float], float], float, float]] = {
    "relu(x)": (lambda x: max(x, 0.0), lambda x: float(x > 0), -1.75, 5.75),
    "2 * sin(x)": (lambda x: 2 * math.sin(x), lambda x: 2 * math.cos(x), -2.5, 2.5),
    "exp(x)": (math.exp, math.exp, -1.75, 5.75),
    "x**3": (lambda x: x**3, lambda x: 3 * x * x, -6.25, 6.25),
    "x * sigmoid(beta * x)": (swish, swish_slope, -1.74582, 5.71235),
}


@pytest.mark.parametrize("text", CURVES)
def test_the_curves_go_through_the_function_and_its_slope(text: str) -> None:
    f, slope, low, high = CURVES[text]
    for line, function in zip(lines(text), (f, slope), strict=True):
        assert line.x == pytest.approx([-5 + i / 40 for i in range(401)])
        assert line.y == pytest.approx([*map(function, line.x)], rel=1e-6, abs=1e-9)
    figure = gallery_figure([curve_of(parse(text))])
    assert figure is not None
    assert figure.panels[0].y_range == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("operators", ["guarded", "paper"])
@pytest.mark.parametrize(
    "text", [*BASELINES.values(), "sqrt(x)", "1 / x", "log_abs(x)", "1e38 * x", "sqrt(-1 - x**2)"]
)
def test_a_drawing_is_well_formed_and_has_no_number_that_is_none(text: str, operators: str) -> None:
    svg = function_svg(parse(text), operators)
    ElementTree.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_curve_is_broken_where_there_is_no_value() -> None:
    root, _ = lines("sqrt(x)", "paper")
    assert [math.isnan(y) for y in root.y] == [x < 0 for x in root.x]
    svg = ElementTree.fromstring(function_svg(parse("sqrt(x**2 - 4)"), "paper"))
    blue = [path for path in svg.iter(f"{SVG}path") if "stroke: #0072b2" in path.attrib["style"]]
    pieces = {path.attrib["d"].count("M ") for path in blue if "clip-path" in path.attrib}
    assert pieces == {2}  # from -5 to -2, and from 2 to 5


def test_a_card_has_relu_beside_and_says_what_its_axes_leave_out() -> None:
    svg, note = card(parse("x**3"))
    # |x|**3 is beyond 6.25 where |x| > 1.842, on 252 of 401 points; 3 x**2 where it is > 1.443.
    assert (
        note == "Beyond these axes, of the x shown: f on 63 %, to -125; f\N{PRIME} on 71 %, to 75."
    )
    assert svg.count("stroke: #999999") >= 2  # ReLU and its slope
    assert "<text" in svg
    assert "relu" not in svg.lower()  # without a legend
    _, note = card(parse("sqrt(x)"), "paper")
    assert note.startswith("Beyond these axes, of the x shown: f has no value on 50 %; f")
    assert card(parse("x * sigmoid(x)"))[1] == ""


def test_the_axes_of_a_card_have_most_of_the_slope() -> None:
    wild = curve_of(parse("sin(3 * x)"))
    low, high = heights_with_slope(wild)
    assert low < -3 < 3 < high
    assert heights_with_slope(curve_of(parse("exp(x)")))[1] < 7  # as high as f is shown


def html_of(shown: object) -> str:
    """As a notebook asks for it."""
    formatters = pytest.importorskip("IPython.core.formatters", reason=IPYTHON)
    shell = SimpleNamespace(display_formatter=formatters.DisplayFormatter())
    register(shell)
    data, _ = shell.display_formatter.format(shown)
    return data["text/html"]


def test_a_function_shows_its_formula_and_its_curves() -> None:
    shown = html_of(parse("x * sigmoid(beta * x)"))
    assert shown.startswith("<div><code>x * sigmoid(beta * x)</code><br><svg")


def test_an_activation_shows_what_training_has_made_of_it() -> None:
    trained = actsearch.Activation("x * sigmoid(beta * x)", channels=2)
    with torch.no_grad():
        trained.beta[0].fill_(2.0)
    assert html_of(trained) == html_of(parse("x * sigmoid(2 * x)"))


def test_a_function_that_cannot_be_differentiated_shows_its_formula_alone() -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    op = Op("refuse", 1, refuse)
    assert html_of(Expr(op, (parse("x"),))) == "<div><code>refuse(x)</code><br></div>"


NOTEBOOK = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import actsearch
assert "torch" not in sys.modules
assert "<svg" in shell.display_formatter.format(actsearch.parse("sin(x)"))[0]["text/html"]
"""


@pytest.mark.thorough
def test_importing_actsearch_in_a_notebook_is_enough(tmp_path: Path) -> None:
    pytest.importorskip("IPython", reason=IPYTHON)
    env = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", NOTEBOOK], check=True, timeout=LIMIT, env=env)


def test_a_run_shows_its_best_functions_and_counts_with_no_markup_of_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "<script>alert(1)<script>"
    folder.mkdir()
    store = Store(folder / "run.sqlite", create=True)
    store.add_protocol("p", {})
    for number in range(14):
        trial = store.submit("search", f"e{number}", "p", 0, formula=f"<script>{number}</script>")
        store.record(trial, Outcome("ok", val_score=number / 20))
    store.record(store.submit("search", "bad", "p", 0, formula="bad"), Outcome("failed", "<b>"))
    store.close()
    shown = actsearch.Run.open(folder)._repr_html_()
    root = ElementTree.fromstring(shown)
    rows = [[cell.text or "" for cell in row] for row in root.iter("tr")]
    assert len(rows) == 1 + 10
    assert rows[0][:4] == ["rank", "formula", "name", "val accuracy"]
    assert rows[1][:4] == ["1", "<script>13</script>", "", "65.00"]
    assert "15 functions: 14 ok, 1 failed" in (root.findtext("p") or "")
    assert "<script" not in shown
