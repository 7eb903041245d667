"""What notebooks show: the curves of a function as SVG, and the head of a run's table."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import actsearch
from actsearch.results.records import Outcome
from actsearch.results.store import Store
from actsearch.search_space.baselines import BASELINES
from actsearch.search_space.drawing import curve_svg
from actsearch.search_space.expression import Expr
from actsearch.search_space.operators import Op
from actsearch.search_space.parser import parse

SVG = "{http://www.w3.org/2000/svg}"
WIDTH, HEIGHT = 200, 120


def polylines(svg: str) -> dict[bool, list[list[tuple[float, float]]]]:
    """Those of f (False) and of f' (True, dashed), as points in pixels."""
    found: dict[bool, list[list[tuple[float, float]]]] = {False: [], True: []}
    for line in ElementTree.fromstring(svg).iter(f"{SVG}polyline"):
        points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
        found["stroke-dasharray" in line.attrib].append([(x, y) for x, y in points])
    return found


def swish(x: float) -> float:
    return x / (1 + math.exp(-x))


def swish_slope(x: float) -> float:
    gate = 1 / (1 + math.exp(-x))
    return gate + x * gate * (1 - gate)


# f, f', and the range of -5..5 that they span with 0, both known without a grid.
CURVES: dict[str, tuple[Callable[[float], float], Callable[[float], float], float, float]] = {
    "relu(x)": (lambda x: max(x, 0.0), lambda x: float(x > 0), 0.0, 5.0),
    "2 * sin(x)": (lambda x: 2 * math.sin(x), lambda x: 2 * math.cos(x), -2.0, 2.0),
    "x * sigmoid(beta * x)": (swish, swish_slope, -0.27846, swish(5)),
    "exp(x)": (math.exp, math.exp, 0.0, 5.0),
    "x**3": (lambda x: x**3, lambda x: 3 * x * x, -5.0, 5.0),
    "x - x": (lambda x: 0.0, lambda x: 0.0, -1.0, 1.0),
}


@pytest.mark.parametrize("text", CURVES)
def test_the_curves_go_through_the_function_and_its_slope(text: str) -> None:
    f, slope, low, high = CURVES[text]
    margin = 0.05 * (high - low)
    found = polylines(curve_svg(parse(text), width=WIDTH, height=HEIGHT))
    for dashed, function in ((False, f), (True, slope)):
        [points] = found[dashed]
        assert [x for x, _ in points] == pytest.approx([2 * i for i in range(101)])
        seen = 0
        for x, y in points:
            value = function(x / WIDTH * 10 - 5)
            expected = (high + margin - value) / (high - low + 2 * margin) * HEIGHT
            if -HEIGHT <= expected <= 2 * HEIGHT:
                assert y == pytest.approx(expected, abs=1)
                seen += 1
            else:
                assert not 0 <= y <= HEIGHT
        assert seen > 30


@pytest.mark.parametrize("operators", ["guarded", "paper"])
@pytest.mark.parametrize(
    "text", [*BASELINES.values(), "sqrt(x)", "1 / x", "log_abs(x)", "1e38 * x", "sqrt(-1 - x**2)"]
)
def test_a_drawing_is_well_formed_and_has_no_number_that_is_none(text: str, operators: str) -> None:
    svg = curve_svg(parse(text), operators=operators)
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"] == "0 0 280 160"
    assert "nan" not in svg
    assert "inf" not in svg
    for line in [line for lines in polylines(svg).values() for line in lines]:
        assert all(0 <= x <= 280 and -160 <= y <= 320 for x, y in line)


def test_a_curve_is_broken_where_there_is_no_value() -> None:
    [line] = polylines(curve_svg(parse("sqrt(x)"), operators="paper"))[False]
    assert line[0][0] == pytest.approx(140.0)
    two = polylines(curve_svg(parse("sqrt(x**2 - 4)"), operators="paper"))[False]
    assert [len(piece) for piece in two] == [43, 43]  # every 1/14 from -5 to -2, and from 2 to 5


def test_a_function_shows_its_formula_and_its_curves() -> None:
    expr = parse("x * sigmoid(beta * x)")
    shown = ElementTree.fromstring(expr._repr_html_().replace("<br>", "<br/>"))
    assert shown.findtext("code") == "x * sigmoid(beta * x)"
    assert shown.find(f"{SVG}svg") is not None


def test_an_activation_shows_what_training_has_made_of_it() -> None:
    trained = actsearch.Activation("x * sigmoid(beta * x)", channels=2)
    with torch.no_grad():
        trained.beta[0].fill_(2.0)
    assert trained._repr_html_() == parse("x * sigmoid(2 * x)")._repr_html_()


def test_a_function_that_cannot_be_differentiated_shows_its_formula_alone() -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    op = Op("refuse", 1, refuse)
    assert Expr(op, (parse("x"),))._repr_html_() == "<div><code>refuse(x)</code><br></div>"


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
