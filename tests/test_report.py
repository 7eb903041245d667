"""The report: figures of a search against hand counts, what the page says, and the page in a real
browser."""

from __future__ import annotations

import functools
import json
import math
import re
import shlex
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import actsearch
from actsearch import cli
from actsearch.commands.line import read_command
from actsearch.commands.search import SearchConfig
from actsearch.errors import ENVIRONMENT
from actsearch.reading.plotting import FIGURES, Found
from actsearch.reading.reporting import contents, render, report
from actsearch.results.figures.axes import Axis
from actsearch.results.figures.functions import Curve, gallery_figure
from actsearch.results.figures.plots import Line, Points, Spans, to_svg
from actsearch.results.figures.searches import (
    LossCurve,
    controller_figure,
    difference_figure,
    failures,
    loss_figure,
    operator_shares,
    progress_figure,
)
from actsearch.results.figures.trade_offs import (
    complexity,
    complexity_figure,
    cost_figure,
    front,
    picks,
)
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import Metric
from actsearch.results.records import Cause, Outcome
from actsearch.results.repeats import of_seeds
from actsearch.results.statistics import pairs_needed, wilson
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.search_space.baselines import FORMS, NAMED
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.parser import parse
from actsearch.settings import resolve

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
               None)  # fmt: skip
EXAMPLES = 400  # of validation
UNARY = ("sin", "cos", "tanh", "atan", "erf", "asinh", "sigmoid", "abs", "square", "exp")
BINARY = ("add", "mul", "max")
SETTINGS = {
    "space": "units=1;unary=identity,sin", "strategy": "ppo", "dataset": "mnist5k", "seed": 3,
    "child": "resnet8:width=8,size=14", "steps": 150, "batch_size": 64, "lr": 0.1,
    "schedule": "cosine", "precision": "fp32", "operators": "guarded", "screen": "on",
    "preset": "quick", "workers": 2, "budget": 30, "ray_address": None, "download": False,
}  # fmt: skip


def accuracy(i: int) -> float:
    """Of the i-th function: from 0.90 down, and not in the order in which they are trained."""
    return 0.90 - 0.02 * ((7 * i) % 30)


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    """Many pages here show the same figures, and matplotlib takes a tenth of a second for each."""
    once = functools.cache(to_svg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actsearch.reading.reporting.to_svg", once)
        patch.setattr("actsearch.results.figures.functions.to_svg", once)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search of 30 functions, ReLU and Swish beside them, two that diverge and one rejected; the
    best and ReLU were trained again with three seeds. Only to be read."""
    folder = tmp_path_factory.mktemp("runs") / "a <b>run"
    folder.mkdir()
    config = {
        "settings": SETTINGS,
        "data": {"metric": "accuracy", "examples": {"train": 3600, "val": EXAMPLES, "test": 1000}},
        "environment": {"torch": "2.13.0", "cpus": 2},
    }
    (folder / "config.json").write_text(json.dumps(config))
    store = Store(folder / "run.sqlite", create=True)
    protocol = {"child": "resnet8", "dataset": "mnist5k", "operators": "guarded",
                "recipe": {"steps": 150, "lr": 0.1}}  # fmt: skip
    store.add_protocol("p", protocol)

    def add(
        expression: str, outcome: Outcome, stage: str = "search", seed: int = 0, label: str = ""
    ) -> None:
        trial = store.submit(stage, expression, "p", seed, formula=expression, label=label)
        store.record(trial, outcome)

    curve = tuple((step, 2.0 - step / 200) for step in range(1, 151))
    for name, expression, score, ms in (
        ("relu", "relu(x)", 0.81, 10.0),
        ("swish", "mul(x, sigmoid(scale(x)))", 0.82, 12.0),
    ):
        outcome = Outcome(
            "ok", val_score=score, curve=curve, ms_per_step=ms, seconds=2.0,
            details={"cost": (ms / 10, ms / 10 - 0.01, ms / 10 + 0.01)},
        )  # fmt: skip
        add(expression, outcome, label=name)
    for i in range(30):
        u, b = UNARY[i % 10], BINARY[i // 10]
        store.add_function(f"{b}({u}(x), x)", f"f{i}", f"s{i}", {"smooth": True, "betas": 0})
        outcome = Outcome(
            "ok", val_score=accuracy(i), curve=curve, ms_per_step=10.0 + i, seconds=1.0,
            device="cpu", details={"cost": (1 + i / 10, 0.99 + i / 10, 1.01 + i / 10)},
        )  # fmt: skip
        add(f"{b}({u}(x), x)", outcome)
    for expression, step in (("cube(x)", 3), ("cosh(x)", 9)):
        reason = f"loss inf at step {step}"
        add(expression, Outcome("diverged", reason, step=step, curve=curve[:2]))
    add("neg(x)", Outcome("rejected", "affine in x"))
    best = max(range(30), key=accuracy)
    top = f"{BINARY[best // 10]}({UNARY[best % 10]}(x), x)"
    for seed, (of_top, of_relu) in enumerate([(0.86, 0.79), (0.88, 0.81), (0.84, 0.80)], 1):
        for expression, score, name in ((top, of_top, ""), ("relu(x)", of_relu, "relu")):
            outcome = Outcome("ok", val_score=score, test_score=score - 0.01, seconds=1.0)
            add(expression, outcome, "reevaluate", seed, name)
    for n in range(4):
        store.save_health("ppo", 10 * n, {"reward": 0.1 * n, "entropy": 2.0 - n})
    store.close()
    return Run.open(folder)


@pytest.fixture
def own(run: Run, tmp_path: Path) -> Run:
    """A copy of `run`, to be changed."""
    return Run.open(shutil.copytree(run.path, tmp_path / "own"))


@pytest.fixture(scope="module")
def found(run: Run) -> dict[str, Any]:
    return contents(run, 500)


# -- figures


def test_the_best_so_far_is_a_staircase_over_trainings_and_failures_have_a_step() -> None:
    rows = [
        {
            "status": s, "val_score": a, "finished": t, "formula": str(t), "label": name,
            "beside": name != "",
        }
        for t, s, a, name in (
            (4, "ok", 0.7, ""), (1, "ok", 0.5, "relu"), (2, "diverged", None, ""),
            (3, "ok", 0.4, ""), (0, "rejected", None, ""), (5, "ok", 0.6, ""), (6, None, None, ""),
            (4.5, "ok", 0.9, "gelu"),
        )
    ]  # fmt: skip
    figure = progress_figure(rows)
    assert figure is not None
    points, best, relu, others, failed = figure.panels[0].marks
    assert isinstance(points, Points)
    assert isinstance(best, Line)
    assert isinstance(relu, Line)
    assert isinstance(others, Points)
    scores = [(1, 50), (3, 40), (4, 70), (5, 90), (6, 60)]
    assert list(zip(points.x, points.y, strict=True)) == scores
    assert list(zip(best.x, best.y, strict=True)) == [(3, 40), (4, 40), (4, 70), (6, 70)]
    assert (relu.label, relu.y) == ("relu", (50, 50))
    assert (others.names, others.x, others.y) == (("gelu",), (5,), (90,))
    assert "1 that failed" in figure.caption
    assert isinstance(failed, Points)
    assert (failed.label, failed.x, failed.names) == ("no score (1)", (2,), ("2: diverged",))
    assert figure.panels[0].y_range is not None
    assert figure.panels[0].y_range[0] < failed.y[0] < 40  # at the edge, below all scores


@pytest.mark.parametrize("upwards", [True, False])
def test_what_is_far_out_on_the_worse_side_stands_at_the_edge(upwards: bool) -> None:
    sign = 1.0 if upwards else -1.0
    values = [sign * v for v in (10, 11, 12, 13, 14, 15, 16, 17, 50, -3, -70)]
    # By size: -70, -3, 10, ..., 17, 50, whose quartiles are 10.5 and 15.5; the outer fence
    # is at 10.5 - 3 * 5 = -4.5.
    axis = Axis.of(values, upwards=upwards)
    assert [v for v in values if axis.out(v)] == [sign * -70]
    assert axis.edge is not None
    assert axis.at(sign * -70) == axis.edge
    assert axis.at(sign * 50) == sign * 50  # the better side is never cut
    assert axis.low < axis.edge < axis.high
    said = axis.note(values, Metric("m", "higher" if upwards else "lower"))
    assert said == f"; 1 is far out, {sign * -70:.4f}, and stands at the edge"
    kept = Axis.of(values, upwards=upwards, always=[sign * -70])
    assert kept.edge is kept.ends is None
    near = Axis.of([*values[:-1], sign * -5], upwards=upwards)  # out of the fence, not of the axis
    assert (near.edge, near.low <= sign * -5 <= near.high) == (None, True)
    few = Axis.of([1.0, 1.1, 1.2, -9.0], upwards=True)
    assert (few.ends, few.out(-9.0)) == (None, False)


def test_an_operator_is_counted_each_time_it_is_applied() -> None:
    for form in FORMS:
        assert complexity(entry(1, 0.5, expression=form)) == parse(form).operators, form
    assert complexity(entry(1, 0.5, expression="sin(x) | mul(x, _own(x))")) == 3


def test_each_complexity_has_one_pick_and_the_line_rises() -> None:
    found = [
        entry(1, 0.9, expression="sin(cos(tan(x)))"),
        entry(2, 0.8, expression="sin(x)"),
        entry(3, 0.7, expression="sin(cos(x))"),
        entry(4, 0.6, expression="cos(x)"),
        entry(5, 0.85, expression="x", label="identity", beside=True),
        entry(6, None, status="diverged", expression="exp(x)"),
    ]
    picked = [(p.entry.expression, p.operators, p.of, p.better) for p in picks(found)]
    assert picked == [
        ("sin(x)", 1, 2, True), ("sin(cos(x))", 2, 1, False), ("sin(cos(tan(x)))", 3, 1, True)
    ]  # fmt: skip
    assert [p.difference for p in picks(found)] == [None, pytest.approx(-0.1), pytest.approx(0.1)]
    figure = complexity_figure(found, lambda e: 0.02 if e.rank == 2 else None)
    assert figure is not None
    marks = {mark.label: mark for mark in figure.panels[0].marks}
    line, best = marks["better than all simpler"], marks["best of its complexity"]
    assert isinstance(line, Line)
    assert isinstance(best, Points)
    assert (line.x, line.y) == ((1, 3), (80, 90))
    assert best.error == pytest.approx((2, math.nan, math.nan), nan_ok=True)
    assert isinstance(marks["no score (1)"], Points)
    exact = complexity_figure(found, lambda e: 0.2)
    assert exact is not None
    assert exact.panels[0].y_range is not None
    low, high = exact.panels[0].y_range
    assert low < 50 < 110 < high  # whole bars, of 70 - 20 and 90 + 20
    assert complexity_figure(found[1:2], lambda e: None) is None


def entry(i: int, score: float | None, ms: float | None = None, **other: Any) -> Entry:
    usual: dict[str, Any] = {
        "rank": i, "expression": f"f{i}(x)", "formula": f"f{i}(x)", "label": "", "status": "ok",
        "val_score": score, "seeds": 1, "seconds": 1.0, "ms_per_step": ms, "vs_relu": None,
        "reason": "", "symmetry": "", "properties": {},
    }  # fmt: skip
    return Entry(**{**usual, **other})


def costing(i: int, score: float, low: float, high: float) -> Entry:
    return entry(i, score, 1.0, vs_relu=(low + high) / 2, vs_relu_range=(low, high))


def test_the_front_is_cheaper_than_all_that_score_higher_beyond_the_intervals() -> None:
    best, cheap = costing(1, 0.9, 2.0, 2.2), costing(3, 0.7, 0.9, 1.1)
    between, dear = costing(2, 0.8, 1.0, 1.9), costing(4, 0.6, 1.5, 1.6)
    assert front([best, between, cheap, dear]) == [between, best]  # `between` may cost 1.0
    assert front([best, cheap, dear]) == [cheap, best]
    assert front([best, costing(2, 0.8, 1.9, 2.1), dear]) == [dear, best]
    equal = costing(5, 0.9, 2.3, 2.4)
    assert front([best, equal, cheap]) == [cheap, best]  # as good, and surely dearer


def test_without_certainty_there_is_no_front_and_no_claim() -> None:
    overlapping = [costing(1, 0.9, 0.3, 2.6), costing(2, 0.8, 0.2, 0.9)]
    unknown = [costing(1, 0.9, 2.0, 2.2), entry(2, 0.8, 1.0, vs_relu=1.0)]
    for found, why in ((overlapping, "less than their 95 %"), (unknown, "was not measured")):
        assert front(found) == []
        figure = cost_figure(found)
        assert figure is not None
        assert why in figure.caption
        assert [m.label for m in figure.panels[0].marks] == ["a function"]
    figure = cost_figure([costing(1, 0.9, 2.0, 2.2), costing(2, 0.8, 1.0, 1.1)])
    assert figure is not None
    assert "#2 f2(x); #1 f1(x)" in figure.caption
    assert "Pareto front" in [m.label for m in figure.panels[0].marks]


def test_cost_is_in_relus_time_where_all_functions_have_it() -> None:
    timed = [entry(1, 0.9, 30.0, vs_relu=3.0), entry(2, 0.8, 10.0, vs_relu=1.0, label="relu")]
    for found, label, x in (
        (timed, "multiple of ReLU's", (3.0, 1.0)),
        ([timed[0], entry(2, 0.8, 10.0)], "[ms]", (30.0, 10.0)),
    ):
        figure = cost_figure(found)
        assert figure is not None
        assert label in figure.panels[0].x
        points = figure.panels[0].marks[0]
        assert isinstance(points, Points)
        assert (points.x, points.y) == (x, (90, 80))
    assert cost_figure(timed[:1]) is None


def test_a_function_that_is_far_dearer_stands_at_the_right_and_is_counted() -> None:
    found = [entry(i, 0.9 - i / 100, 10.0, vs_relu=1 + i / 10) for i in range(1, 11)]
    figure = cost_figure([*found, entry(11, 0.5, 500.0, vs_relu=50.0), entry(12, None)])
    assert figure is not None
    [panel] = figure.panels
    marks = {mark.label: mark for mark in panel.marks}
    inside, dear = marks["a function"], marks["far dearer (1)"]
    assert isinstance(inside, Points)
    assert isinstance(dear, Points)
    assert len(inside.x) == 10
    assert panel.x_range is not None
    assert max(inside.x) == 2.0 < dear.x[0] < panel.x_range[1] < 3
    assert dear.names == ("#11 f11(x): 50.00 %, 50.00 times ReLU's time",)
    assert "1 cost more than the axis shows, up to 50.00 times ReLU's time" in figure.caption
    assert "1 without a score or a time are not shown" in figure.caption


def test_shares_of_operators_count_functions_of_the_best_and_worst_quarter() -> None:
    good = [entry(i, 0.9 - i / 100, expression=f"add(sin(x), c{i}(x))") for i in range(5)]
    middle = [entry(i, 0.5, expression="mul(x, x)") for i in range(10)]
    bad = [entry(i, 0.1, expression="div(sin(x), sin(abs(x)))") for i in range(3)]
    worse = [entry(i, None, status="diverged", expression="div(x, sinh(x))") for i in range(2)]
    beside = [entry(9, 0.99, label="relu", beside=True), entry(10, None, status="rejected")]
    shares = {
        s.name: (s.best, s.worst, s.of)
        for s in operator_shares([*good, *middle, *bad, *worse, *beside])
    }
    assert shares["add"] == (5, 0, 5)
    assert shares["sin"] == (5, 3, 5)  # twice in a function is once
    assert shares["div"] == (0, 5, 5)
    assert shares["sinh"] == (0, 2, 5)
    assert "x" not in shares
    small = [entry(i, 0.5, expression="scale[1e-07](_own(Fast(x)))") for i in range(20)]
    assert {s.name for s in operator_shares(small)} == {"scale", "_own", "Fast"}
    assert next(iter(shares)) == "add"
    assert operator_shares(good) == []


def test_wilsons_interval_is_the_formulas() -> None:
    z, n, p = 1.959964, 30, 9 / 30
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert wilson(9, 30) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_failures_are_counted_by_status_and_cause() -> None:
    nan: dict[str, Any] = {"cause": Cause.LOSS, "variant": "nan"}
    found = [entry(i, None, status="diverged", **nan) for i in range(3)]
    found += [entry(9, None, status="rejected", cause=Cause.CONSTANT), entry(10, 0.5)]
    for status in ("raced_out", "dropped"):
        found.append(entry(11, None, status=status, cause=Cause.RACED_OUT, left=(5, 0.3)))
    assert failures(found) == [("diverged", "loss nan", 3), ("rejected", "constant", 1)]


def test_the_controller_has_a_panel_a_number() -> None:
    figure = controller_figure(
        [{"proposals": 0, "reward": 0.1}, {"proposals": 9, "reward": 0.3, "kl": 1}]
    )
    assert figure is not None
    [panel] = figure.panels  # one value of kl is no line
    [line] = panel.marks
    assert isinstance(line, Line)
    assert (line.label, line.x, line.y) == ("reward", (0, 9), (0.1, 0.3))
    assert controller_figure([]) is None


def test_differences_have_their_intervals_and_a_panel_a_model() -> None:
    row = {"function": "f", "model": "m", "seeds": 3, "difference, paired": 0.01,
           "from, paired": -0.01, "to, paired": 0.03}  # fmt: skip
    alone = {**row, "model": "n", "seeds": 1, "from, paired": None, "to, paired": None}
    lost = {**row, "function": "g", "difference, paired": None}
    figure = difference_figure([row, alone, lost], "relu", {}, {})
    assert figure is not None
    first, second = (panel.marks[0] for panel in figure.panels)
    assert isinstance(first, Points)
    assert isinstance(second, Points)
    assert (first.x, first.low, first.high) == ((1.0,), (-1.0,), (3.0,))
    assert second.low == second.high == second.x
    assert "n = 1 to 3" in figure.caption
    assert difference_figure([lost], "relu", {}, {}) is None


def test_losses_are_means_of_neighbours_that_lose_no_step() -> None:
    curve = [(step, float(step % 2)) for step in range(1, 81)]  # two neighbours have a mean of 0.5
    figure = loss_figure([LossCurve("f", curve), LossCurve("empty", [])])
    assert figure is not None
    [line] = figure.panels[0].marks
    assert isinstance(line, Line)
    assert line.y == (0.5,) * 40
    assert line.x[:2] == (1.5, 3.5)
    assert line.x[-1] == 79.5
    assert loss_figure([]) is None


def test_a_gallery_draws_f_and_its_slope_with_gaps_where_they_are_not_finite() -> None:
    lines = {"f": (3.0, math.inf, -1.0), "f'": (1.0, 2.0, math.nan)}
    curve = Curve("#1  f", (-1, 0, 1), lines)
    figure = gallery_figure([curve])
    assert figure is not None
    [panel] = figure.panels
    f, slope = panel.marks
    assert isinstance(f, Line)
    assert isinstance(slope, Line)
    assert f.y == pytest.approx((3.0, math.nan, -1.0), nan_ok=True)
    assert slope.y == pytest.approx((1.0, 2.0, math.nan), nan_ok=True)
    assert f.x == slope.x == (-1, 0, 1)
    assert panel.y_range == pytest.approx((-1.5, 3.5))  # a quarter more than f's values
    assert gallery_figure([]) is None


def test_every_figure_of_a_search_can_be_drawn(run: Run) -> None:
    found = Found(run)
    figures = [f for kind in FIGURES.values() for f in kind.make(found) if f is not None]
    assert {f.name for f in figures} == {*FIGURES} - {"betas", "preactivations", "front"}
    for figure in figures:
        assert to_svg(figure).startswith("<svg")
    [failed] = [f for f in FIGURES["failures"].make(found) if f is not None]
    spans = failed.panels[0].marks[0]
    assert isinstance(spans, Spans)
    assert spans.high == (2.0, 1.0)


# -- what the page says


def noise_of_the_run() -> float:
    """Two functions and three seeds, what a seed does to both taken out: (2 - 1)(3 - 1) = 2
    degrees of freedom."""
    d = [a - b for a, b in zip((0.86, 0.88, 0.84), (0.79, 0.81, 0.80), strict=True)]
    return math.sqrt(sum((x - sum(d) / 3) ** 2 for x in d) / 2 / 2)


def test_each_error_is_its_own_examples_and_the_scatter_of_trainings(found: dict[str, Any]) -> None:
    noise = noise_of_the_run()
    first, *_, last = [row for row in found["functions"] if row["score"] is not None]
    assert (first["rank"], first["score"]) == (1, pytest.approx(0.9))
    # The first was trained again with 0.86, 0.88 and 0.84: a standard deviation of 0.02.
    assert first["error"] == pytest.approx(math.hypot(math.sqrt(0.9 * 0.1 / EXAMPLES), 0.02))
    for row in found["functions"]:
        p = row["score"]
        assert (row["error"] is None) == (p is None)
        assert p is None or row["error"] > math.sqrt(p * (1 - p) / EXAMPLES)
    p = last["score"]
    assert last["error"] == pytest.approx(math.hypot(math.sqrt(p * (1 - p) / EXAMPLES), noise))


def test_what_is_near_the_best_is_said_by_students_t(found: dict[str, Any]) -> None:
    assert found["expected"]
    assert found["functions"][0]["expected"] < 0.9
    told = [row["expected"] is not None for row in found["functions"]]
    assert told == [True] * 10 + [False] * 25  # of the head alone, at least ten
    reach = 4.302653 * math.sqrt(2) * noise_of_the_run()  # the printed table, 2 degrees of freedom
    near = sum(0.90 - accuracy(i) <= reach for i in range(30))
    assert near > sum(0.90 - accuracy(i) <= 1.96 / 4.302653 * reach for i in range(30))
    [said] = [s for s in found["sentences"] if "within the noise" in s]
    assert said.startswith(
        f"The first {near} candidates are within the noise of the best, {100 * reach:.2f} "
    )
    assert "2 degrees of freedom" in said
    [luck] = [s for s in found["sentences"] if "One training scatters by" in s]
    assert "not counting what a seed does to all functions alike" in luck


@pytest.mark.parametrize(("functions", "sentence"), [(9, "Of fewer than 10 functions"), (10, None)])
def test_how_much_is_luck_is_promised_where_it_can_be_said(
    run: Run, tmp_path: Path, functions: int, sentence: str | None
) -> None:
    shutil.copy(run.path / "config.json", tmp_path)
    store = Store(tmp_path / "run.sqlite", create=True)
    store.add_protocol("p", {})
    for i in range(functions):
        trial = store.submit("search", f"mul({i + 2}, sin(x))", "p", 0, formula=f"{i + 2} * sin(x)")
        store.record(trial, Outcome("ok", val_score=0.5 + i / 100))
    store.close()
    said = contents(Run.open(tmp_path), 500)["sentences"][-1]
    wanted = sentence or f"'actsearch reevaluate {tmp_path}', with the settings of the search,"
    assert f"partly luck. {wanted} " in said


def again(run: Run, scores: dict[str, tuple[float, ...]]) -> None:
    """Train functions of the run again with seeds 1, 2, ... and these test scores."""
    store = run.store()
    for name, found in scores.items():
        for seed, score in enumerate(found, 1):
            trial = store.submit("reevaluate", name, "p", seed, formula=name)
            store.record(trial, Outcome("ok", val_score=score, test_score=score))
    store.close()


def test_the_page_begins_with_what_is_first_on_test_data(own: Run) -> None:
    [ranked_first] = contents(own, 500)["best"]
    winner = ranked_first["formula"]
    before = contents(own, 500)["sentences"][0]
    # Relu has 0.78, 0.80, 0.79 there and the search's first 0.85, 0.87, 0.83.
    assert before.startswith(
        f"Trained again with 3 seeds, {winner} is first of 2 on test data, "
        "baselines included: 85.00 %"
    )
    assert before.endswith("It was the search's first too.")
    again(own, {"mul(sin(x), cos(x))": (0.90, 0.91, 0.95), "sqrt(x)": (0.86, 0.88, 0.90)})
    found = contents(own, 500)
    assert [f["formula"] for f in found["best"]] == ["mul(sin(x), cos(x))"]
    said = found["sentences"][0]
    assert said.startswith(
        "Trained again with 3 seeds, mul(sin(x), cos(x)) is first of 4 on test data, baselines "
        "included: 92.00 %, 13.00 points better than relu (95 %: "
    )
    # Differences 0.12, 0.11, 0.16: a mean of 0.13 and a standard deviation of 0.0264575.
    reach = 4.302653 * 0.0264575 / math.sqrt(3)
    assert f"(95 %: {100 * (0.13 - reach):+.2f} to {100 * (0.13 + reach):+.2f})" in said
    assert said.endswith(f"The search's first, {winner}, is 3 of 4, 6.00 points better than relu.")
    page = render(found)
    assert page.index("first of 4 on test data") < page.index("first had 90.00 %")
    header = page[page.index('<div class="best">') : page.index("first of 4")]
    assert winner not in header


def headline(run: Run) -> str:
    [(_, said)] = contents(run, 10)["headlines"]
    return said


def t_test(*gains: float) -> float:
    """The two-sided p with 2 degrees of freedom, for which it has a closed form."""
    mean = sum(gains) / 3
    t = mean / math.sqrt(sum((g - mean) ** 2 for g in gains) / 2 / 3)
    return 1 - abs(t) / math.sqrt(2 + t * t)


def test_the_verdict_on_test_data_stands_first_with_its_p_by_holm(own: Run) -> None:
    top = own.best().formula
    alone = t_test(0.07, 0.07, 0.04)
    assert headline(own) == (
        f"On test data, {top} is better than ReLU beyond luck: p = {alone:.2g} (3 seeds, paired t)."
    )
    again(own, {"mul(sin(x), cos(x))": (0.90, 0.91, 0.95), "sqrt(x)": (0.86, 0.88, 0.90),
                "mul(x, sigmoid(scale(x)))": (0.83, 0.80, 0.85)})  # fmt: skip
    raw = [t_test(0.08, 0.08, 0.11), t_test(0.12, 0.11, 0.16), alone, t_test(0.05, 0, 0.06)]
    assert raw == sorted(raw)
    p = max(4 * raw[0], 3 * raw[1])
    assert p < 0.05 < 2 * raw[2]
    assert headline(own) == (
        f"On test data, mul(sin(x), cos(x)) is better than ReLU beyond luck: p = {p:.2g} (3 seeds, "
        "paired t, by Holm among 4 functions). So is 1 more. It is 9.33 points better than "
        "mul(x, sigmoid(scale(x))), the best other baseline, which may be luck."
    )
    page = render(contents(own, 10))
    assert 'class="verdict yes"' in page
    assert page.index("better than ReLU beyond luck") < page.index('class="best"')


def test_what_may_be_luck_is_no_verdict_and_a_baseline_is_no_find(own: Run) -> None:
    forget_re_evaluations(own)
    again(own, {"relu(x)": (0.78, 0.80, 0.79), "sqrt(x)": (0.99, 0.80, 0.95)})
    p = t_test(0.21, 0.0, 0.16)
    assert headline(own) == (
        "On test data, no function that was found is better than ReLU beyond luck: sqrt(x), the "
        f"best of them, has p = {p:.2g} (3 seeds, paired t). If it is as much better as it seems, "
        f"about {pairs_needed(0.37 / 3, statistics.stdev([0.21, 0.0, 0.16]))} seeds show it."
    )
    assert 'class="verdict yes"' not in render(contents(own, 10))
    again(own, {"mul(x, sigmoid(scale(x)))": (0.88, 0.901, 0.89)})
    swish = 2 * t_test(0.1, 0.101, 0.1)
    assert headline(own).endswith(
        f" seeds show it. The baseline mul(x, sigmoid(scale(x))) is (p = {swish:.2g})."
    )
    again(own, {"sin(x)": (0.5, 0.6, 0.7)})
    assert "sqrt(x), the best of them" in headline(own)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (0.8, "sqrt(x) is better than ReLU, but 1 seed cannot tell that from luck."),
        (
            0.6,
            "no function that was found is better than ReLU; the best of them is sqrt(x) (1 seed).",
        ),
    ],
)
def test_one_seed_or_a_worse_score_is_no_verdict(own: Run, score: float, said: str) -> None:
    forget_re_evaluations(own)
    again(own, {"relu(x)": (0.7,), "sqrt(x)": (score,)})
    assert headline(own) == f"On test data, {said}"


def test_a_run_without_re_evaluations_says_that_it_has_no_verdict_and_how_to_get_one(
    own: Run,
) -> None:
    forget_re_evaluations(own)
    found = contents(own, 10)
    page = render(found)
    assert found["headlines"] == []
    assert page.index("No test verdict yet") < page.index('class="best"')
    command = f"actsearch reevaluate {own.path} --top 5 --seeds 3"
    assert f"<pre><code>{command}</code></pre>" in page
    (own.path / "config.json").write_text(json.dumps({"settings": {**SETTINGS, "child": None}}))
    _, how = contents(own, 10)["next"]
    assert (
        how == f"actsearch.reevaluate({str(own.path)!r}, child=net, dataset=data, top=5, seeds=3)"
    )


def test_equal_scores_share_a_place_and_are_not_better_than_relu(own: Run) -> None:
    winner = own.best().formula
    store = own.store()
    with store.transaction():
        store._db.execute(
            "UPDATE outcomes SET test_score = 0.8 "
            "WHERE trial IN (SELECT id FROM trials WHERE kind = 'reevaluate')"
        )
    store.close()
    assert contents(own, 500)["sentences"][0] == (
        "Trained again with 3 seeds, relu(x), a baseline, is first of 2 on test data: 80.00 %. "
        f"The search's first, {winner}, is 1 of 2, level with relu."
    )


def test_the_searchs_first_that_lacks_a_seed_is_said_to_be_left_out(own: Run) -> None:
    winner = own.best()
    store = own.store()
    [protocol] = {r["protocol"] for r in store.rows("reevaluate")}
    trial = store.submit("reevaluate", winner.expression, protocol, 4, formula=winner.formula)
    store.record(trial, Outcome("diverged", "loss nan at step 2"))
    store.close()
    again(own, {"sqrt(x)": (0.78, 0.80, 0.79)})
    said = contents(own, 500)["sentences"][0]
    assert said.endswith(
        f"The search's first, {winner.formula}, has not trained with all of these seeds."
    )


def test_a_first_that_seeds_do_not_tell_from_relu_is_said_to_be_so(own: Run) -> None:
    again(own, {"sqrt(x)": (0.99, 0.80, 0.95)})
    said = contents(own, 500)["sentences"][0]
    assert "sqrt(x) is first of 3" in said
    assert "these seeds do not tell the two apart" in said


def forget_re_evaluations(own: Run) -> None:
    store = own.store()
    with store.transaction():
        store._db.execute(
            "DELETE FROM outcomes WHERE trial IN (SELECT id FROM trials WHERE kind = 'reevaluate')"
        )
    store.close()


def test_the_error_is_that_of_counting_examples_where_nothing_was_trained_again(own: Run) -> None:
    forget_re_evaluations(own)
    found = contents(own, 500)
    assert not found["expected"]
    assert found["functions"][0]["error"] == pytest.approx(math.sqrt(0.9 * 0.1 / EXAMPLES))
    assert any("actsearch reevaluate" in sentence for sentence in found["sentences"])


def test_the_page_counts_names_and_compares(found: dict[str, Any]) -> None:
    words = " ".join(found["sentences"])
    assert "35 functions, 2 baselines among them: 32 trained to the end, 2 diverged" in words
    assert "The search's first had 90.00 % on validation data; beside it relu 81.00 % (#7)" in words
    assert "One training scatters by" in words
    assert len(found["functions"]) == 35
    [best, relu] = found["again"]
    assert best["test accuracy"] == pytest.approx(0.85)
    assert best["to relu, paired"] == pytest.approx((0.07 + 0.07 + 0.04) / 3)
    assert relu["to relu, paired"] is None
    assert {p.name for p in found["pictures"]} == {
        "progress", "cost", "complexity", "operators", "losses", "failures", "controller",
    }  # fmt: skip
    assert len(found["gallery"]) == 12


def test_a_card_has_code_that_computes_its_function(found: dict[str, Any]) -> None:
    first = found["gallery"][0]
    assert first["formula"] == found["functions"][0]["formula"]
    code: dict[str, Any] = {}
    exec(compile(first["code"], "card.py", "exec"), code)  # noqa: S102
    x = torch.linspace(-2, 2, 9)
    wanted = actsearch.Activation(first["formula"], channels=1, kernels="eager")(x)
    assert torch.allclose(code["Activation"]()(x), wanted)
    figures = dict(first["figures"])
    # Trained again with test scores 0.85, 0.87 and 0.83, and ReLU with 0.78, 0.80 and 0.79.
    assert figures["trained again"].startswith("test 85.00 (n = 3), +6.00 against ReLU (95 %: ")
    assert figures["operators"] == "2"


def test_a_function_of_a_users_own_operators_has_a_card_without_curves(own: Run) -> None:
    store = own.store()
    trial = store.submit("search", "_own(x)", "p", 0, formula="_own(x)")
    store.record(trial, Outcome("ok", val_score=0.99))
    store.close()
    found = contents(own, 500)
    assert found["gallery"][0]["drawings"] == []
    assert found["gallery"][0]["code"] == ""
    assert "operators of a space of its own" in render(found)


def test_the_table_ends_after_as_many_functions_as_were_asked_for(run: Run) -> None:
    few = contents(run, 10)
    assert len(few["functions"]) == 10
    assert few["left_out"] == 25
    assert "25 more are in top.csv" in render(few)


def test_the_command_makes_the_same_search_again(found: dict[str, Any]) -> None:
    words = shlex.split(found["command"])
    assert words[:2] == ["actsearch", "search"]
    config = read_command(words[1:], {"search": SearchConfig})
    settings = vars(resolve(vars(config)))
    assert {k: settings[k] for k, v in SETTINGS.items() if v is not None} == {
        k: v for k, v in SETTINGS.items() if v is not None
    }


def test_a_search_of_a_programs_own_objects_has_no_command(own: Run) -> None:
    """Where data were arrays, the same words would search another data set; an operator of one's
    own has no name on the command line."""
    wave = {"protocol": {"extra_operators": {"wave": "0123456789ab"}}}
    for config in (
        {"settings": {**SETTINGS, "dataset": None}},
        {"settings": {**SETTINGS, "child": None}},
        {"settings": SETTINGS, "identity": wave},
    ):
        (own.path / "config.json").write_text(json.dumps(config))
        found = contents(own, 500)
        assert found["command"] == ""
        assert "The search again" not in render(found)


def test_a_score_that_is_no_accuracy_is_not_called_one(own: Run, capsys: Any) -> None:
    config = own.config
    config["data"]["metric"] = "BLEU"
    (own.path / "config.json").write_text(json.dumps(config))
    found = contents(own, 500)
    assert "The search's first had 90.00 BLEU on validation data" in " ".join(found["sentences"])
    [luck] = [s for s in found["sentences"] if "One training scatters by" in s]
    assert luck.count(" BLEU") == 4
    assert "%" not in luck
    page = render(found)
    assert "Validation BLEU" in page
    assert "validation BLEU" in page  # an axis
    assert "Validation accuracy" not in page
    assert "validation accuracy" not in page
    assert cli.main(["top", str(own.path)]) == 0
    table = capsys.readouterr().out
    assert "val BLEU" in table.splitlines()[0]
    assert " 90.00 " in table
    assert cli.main(["top", str(own.path), "--format", "csv"]) == 0
    assert "val BLEU" in capsys.readouterr().out.splitlines()[0]
    assert "val BLEU" in own._repr_html_()


def test_each_table_of_scores_says_their_unit_once_and_columns_keep_their_names(
    own: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rmse = Metric("rmse", "min", unit="degC")
    config = own.config
    config["data"]["metric"] = rmse.to_config()
    (own.path / "config.json").write_text(json.dumps(config))
    page = render(contents(own, 500))
    headings = re.findall(r"<th[^>]*>(?:<button>)?((?:val|test) rmse.*?)<", page)
    assert headings == ["val rmse [degC]", "test rmse [degC]", "val rmse [degC]"]
    again = [{"formula": "sin(x)", **of_seeds({1: 0.2}, {1: 0.1}, "", rmse, "test rmse")}]
    monkeypatch.setattr(
        "actsearch.searching.reevaluation.run_reevaluation", lambda *_: (again, "done")
    )
    commands = {
        "top": ["--where", "val rmse<0.5"],
        "compare": [],
        "reevaluate": [],
    }
    for command, more in commands.items():
        assert cli.main([command, str(own.path), *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert " rmse " in lines[0]
        assert "degC" not in lines[0]
        assert lines.count("rmse in degC") == 1, command
        assert cli.main([command, str(own.path), *more, "--format", "csv"]) == 0
        assert "degC" not in capsys.readouterr().out


def test_functions_without_a_score_say_what_became_of_them(own: Run) -> None:
    store = own.store()
    store.add_protocol("short", {"recipe": {"steps": 50}})
    trial = store.submit("rung", "cos(x)", "short", 0, formula="cos(x)")
    store.record(trial, Outcome("ok", val_score=0.4))
    store.close()
    found = contents(own, 500)
    assert "1 left behind in a rung of halving" in " ".join(found["sentences"])
    page = render(found)
    assert '<span class="quiet">diverged</span>' in page
    assert '<span class="quiet">dropped</span>' in page


def test_a_report_is_named_by_its_runs_folder_and_says_where_it_cannot_be_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.path)
    assert contents(Run.open("."), 1)["name"] == run.path.name
    assert cli.main(["report", str(run.path), "-o", str(tmp_path)]) == ENVIRONMENT
    assert f"cannot write {tmp_path}: Is a directory" in capsys.readouterr().err


def test_names_are_text_and_no_markup(found: dict[str, Any]) -> None:
    page = render(found)
    assert "<b>run" not in page
    assert "a &lt;b&gt;run" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*\bsrc\s*=", page)
    assert not re.search(r"(href|src|url)\s*[=(]\s*[\"']?https?:", page)


def test_a_run_of_re_evaluations_alone_is_reported_and_an_empty_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "run.sqlite", create=True)
    store.close()
    assert cli.main(["report", str(tmp_path)]) != 0
    assert "no training that ended" in capsys.readouterr().err
    store = Store(tmp_path / "run.sqlite")
    store.add_protocol("p", {"child": "mlp", "dataset": "d", "recipe": {"steps": 5, "lr": 0.1},
                             "operators": "guarded"})  # fmt: skip
    for name, score in (("relu", 0.5), ("", 0.6)):
        text = "relu(x)" if name else "tanh(x)"
        trial = store.submit("reevaluate", text, "p", 0, formula=text, label=name)
        store.record(trial, Outcome("ok", val_score=score, test_score=score))
    store.close()
    assert cli.main(["report", str(tmp_path)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert 'id="ranking"' not in page
    assert "60.00" in page


# -- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(run: Run) -> str:
    return actsearch.report(run).as_uri()


@pytest.fixture
def page(address: str, browser: Any) -> Iterator[Any]:
    """The report, opened; nothing was asked of a network and nothing was said to the console."""
    shown = browser.new_page(viewport={"width": 1200, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on(
        "request",
        lambda r: said.append(r.url) if not r.url.startswith(("file:", "data:")) else None,
    )
    shown.goto(address)
    yield shown
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    shown.close()


def column(page: Any, number: int) -> list[str]:
    return page.eval_on_selector_all(
        "#functions tbody tr:not([hidden])",
        f"rows => rows.map(row => row.cells[{number}].dataset.value)",
    )


def test_the_table_sorts_both_ways_and_keeps_what_has_no_value_last(page: Any) -> None:
    ranks = column(page, 0)
    assert ranks == [*map(str, range(1, 33)), "", "", ""]
    heading = page.locator("#functions th", has_text="ReLU time")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    times = [float(t) for t in column(page, 5) if t]
    assert times == sorted(times)
    assert column(page, 5)[-3:] == ["", "", ""]
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert [float(t) for t in column(page, 5) if t] == sorted(times, reverse=True)
    assert column(page, 5)[-3:] == ["", "", ""]
    score = page.locator("#functions th", has_text="val accuracy")
    score.locator("button").click()
    assert score.get_attribute("aria-sort") == "descending"  # the best first
    assert column(page, 3)[:32] == sorted(column(page, 3)[:32], key=float, reverse=True)
    page.locator("#functions th", has_text="function").locator("button").press("Enter")
    names = column(page, 1)
    assert names == sorted(names, key=str.lower)


def test_the_formulas_fit_their_lines_so_that_none_scrolls_upwards(page: Any) -> None:
    tall = "all => all.filter(e => e.scrollHeight > e.clientHeight).map(e => e.textContent)"
    assert page.locator(".best").count() == 1
    assert page.eval_on_selector_all(".best, .gallery .name", tall) == []


def test_the_filter_leaves_what_has_the_text(page: Any) -> None:
    page.locator("#filter").fill("TANH")
    names = column(page, 1)
    assert len(names) == 3
    assert all("tanh" in name for name in names)
    assert page.locator("#count").inner_text() == "3 of 35 functions"
    page.locator("#filter").fill("")
    assert len(column(page, 1)) == 35


def test_of_many_functions_fifty_are_shown_until_all_are_asked_for(own: Run, browser: Any) -> None:
    store = own.store()
    for i in range(40):
        trial = store.submit("search", f"scale[{i}](x)", "p", 0, formula=f"{i} * x")
        store.record(trial, Outcome("ok", val_score=0.1, ms_per_step=5.0))
    store.close()
    shown = browser.new_page()
    shown.goto(report(own).as_uri())
    assert len(column(shown, 1)) == 50
    shown.locator("#all").click()
    assert len(column(shown, 1)) == 75
    assert not shown.locator("#all").is_visible()
    shown.close()


def test_the_page_runs_and_obeys_nothing_that_is_not_its_own(run: Run, browser: Any) -> None:
    text = report(run).read_text()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)
    assert policy.startswith("default-src &#39;none&#39;")
    assert "unsafe" not in policy
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text)
    target = run.path / "injected.html"
    target.write_text(
        text.replace(
            "</header>",
            "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
            "<p id=p style='color: rgb(1, 2, 3)'>text</p></header>",
        )
    )
    shown = browser.new_page()
    refused: list[str] = []
    shown.on("console", lambda message: refused.append(message.text))
    shown.goto(target.as_uri())
    assert shown.title() != "run"
    assert shown.eval_on_selector("#p", "p => getComputedStyle(p).color") != "rgb(1, 2, 3)"
    assert sum("Content Security Policy" in text for text in refused) >= 3
    shown.close()


def test_drawings_keep_their_colours_under_the_policy(page: Any) -> None:
    paths = page.eval_on_selector_all(
        "#progress svg path", "paths => paths.map(p => getComputedStyle(p).stroke)"
    )
    assert "rgb(0, 114, 178)" in paths  # the staircase
    sizes = page.eval_on_selector_all(
        "#progress svg text", "texts => texts.map(t => getComputedStyle(t).fontSize)"
    )
    assert set(sizes) == {"8px", "9px"}  # ticks and legend, labels


def test_formulas_are_set_and_figures_drawn(page: Any) -> None:
    assert page.locator("header .best math").count() == 1
    assert page.locator("header .best math mi").first.bounding_box()["height"] > 5
    assert page.locator("#gallery figure svg").count() == 12
    for name in (
        "progress",
        "cost",
        "complexity",
        "operators",
        "losses",
        "failures",
        "controller",
        "again",
    ):
        box = page.locator(f"#{name} svg").bounding_box()
        assert box["width"] > 400, name
        assert box["height"] > 80, name


def test_a_row_leads_to_its_card_and_back_though_it_is_hidden(page: Any) -> None:
    assert page.locator("#functions a").count() == 12
    page.locator("#functions a", has_text=re.compile("^3$")).click()
    assert page.evaluate("location.hash") == "#f3"
    card = page.locator("#f3")
    assert page.locator("#r3").get_attribute("class") is None
    page.locator("#filter").fill("nothing has this")
    assert not page.locator("#r3").is_visible()
    card.locator("h3 a").click()
    assert page.evaluate("location.hash") == "#r3"
    assert page.locator("#r3").is_visible()


def test_where_the_mouse_is_the_exact_value_is_shown(page: Any, found: dict[str, Any]) -> None:
    assert page.locator("#r1 td").nth(3).get_attribute("title") == "90 %, 1 training"
    for name in ("progress", "cost", "complexity"):
        titles = page.locator(f"#{name} svg use title").all_text_contents()
        assert any(": 90.00 %" in title for title in titles), name


def test_the_code_of_a_card_is_copied_or_else_selected(page: Any, found: dict[str, Any]) -> None:
    code = found["gallery"][0]["code"]
    button = page.locator("#f1 button")
    page.evaluate(
        "() => { navigator.clipboard.writeText = async text => { window.copied = text; }; }"
    )
    button.click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("copied") == code
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    button.click()
    page.get_by_text("Selected").wait_for()
    assert page.evaluate("getSelection().toString()").strip() == code.strip()


def test_without_a_script_the_code_can_be_read_and_selected(address: str, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    shown = context.new_page()
    shown.goto(address)
    assert not shown.locator("#f1 button").is_visible()
    shown.locator("#f1 summary").click()
    assert shown.locator("#f1 pre").is_visible()
    context.close()


def test_a_dark_page_has_light_text_and_curves_and_print_is_on_paper(
    address: str, browser: Any
) -> None:
    context = browser.new_context(color_scheme="dark")
    shown = context.new_page()
    shown.goto(address)
    text = shown.locator("#progress svg text").first

    def looks() -> list[str]:
        body = "(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))"
        return [*shown.evaluate(body), text.evaluate("e => getComputedStyle(e).fill")]

    assert looks() == ["rgb(20, 24, 29)", "rgb(228, 232, 238)", "rgb(228, 232, 238)"]
    shown.emulate_media(media="print")
    assert looks() == ["rgb(255, 255, 255)", "rgb(28, 36, 48)", "rgb(28, 36, 48)"]
    context.close()


@pytest.mark.parametrize("width", [1280, 1600])
def test_a_screen_shows_all_columns_without_scrolling(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.parentNode.id)"
    assert page.eval_on_selector_all(".scroll", cut) == []


WITH_CONSTANTS = ("gelu", "geglu", "selu", "xielu", "gelu_sinc", "smooth_relu2", "hardswish")


@pytest.fixture
def constants(own: Run) -> Run:
    """With functions ahead of all others whose formulas are long or have constants of 16 digits."""
    store = own.store()
    for i, name in enumerate(WITH_CONSTANTS):
        found = candidate_from(NAMED[name])
        key, formula = found.canonical("guarded").key, found.formula
        trial = store.submit("search", key, "p", 0, formula=formula, label=name)
        store.record(trial, Outcome("ok", val_score=0.97 - i / 1000, ms_per_step=10.0))
        for seed in (1, 2, 3) if name == "gelu" else ():
            trial = store.submit("reevaluate", key, "p", seed, formula=formula, label=name)
            store.record(trial, Outcome("ok", val_score=0.97, test_score=0.97 - seed / 100))
    store.close()
    return own


def formula_of(name: str) -> str:
    return candidate_from(NAMED[name]).formula


def test_no_formula_runs_into_what_stands_beside_it(constants: Run, browser: Any) -> None:
    shown = browser.new_page()
    shown.goto(report(constants).as_uri())
    beyond = """all => all.filter(e => e.getBoundingClientRect().right
        > e.closest("td, .card").getBoundingClientRect().right).map(e => e.textContent)"""
    inside = ":is(math *, .code)"
    assert shown.locator(f"td {inside}").count() > len(WITH_CONSTANTS)
    for width in (1600, 1280, 1200, 1000, 641, 390):
        shown.set_viewport_size({"width": width, "height": 900})
        assert shown.eval_on_selector_all(f":is(td, .card) {inside}", beyond) == [], width
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
    shown.close()


def test_a_page_rounds_constants_except_where_they_are_copied(constants: Run, capsys: Any) -> None:
    exact = formula_of("gelu")
    assert exact == "0.5 * x * (1 + erf(0.7071067811865476 * x))"
    found = contents(constants, 500)
    page = render(found)
    assert (
        "0.5 * x * (1 + erf(0.7071 * x)) is first of 3 on test data, baselines included"
        in found["sentences"][0]
    )
    assert "0.7071067811865476" in found["gallery"][0]["code"]
    said = re.sub(
        r"<(style|script|details).*?</\1>|<title>.*?</title>|<[^>]*>", " ", page, flags=re.S
    )
    assert said.count("0.7071067811865476") == 1  # the formula at the top, to be copied
    assert said.count("0.7071 * x") > 3
    assert page.count(f'data-value="{exact}"') == 2
    assert cli.main(["top", str(constants.path), "-n", "1"]) == 0
    table = capsys.readouterr().out
    assert "0.5 * x * (1 + erf(0.7071 * x))  gelu" in table
    assert "long constants have four digits here; csv and json have all\n" in table
    for form in ("csv", "json"):
        assert cli.main(["top", str(constants.path), "--format", form]) == 0
        assert exact in capsys.readouterr().out


def test_a_phone_scrolls_tables_and_not_the_page(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    accuracy = page.locator("#functions th", has_text="val accuracy").bounding_box()
    assert accuracy["x"] + accuracy["width"] <= 390


def test_print_leaves_out_what_needs_a_mouse(page: Any) -> None:
    page.emulate_media(media="print")
    for needless in ("nav", "#filter", "#f1 button", "#f1 details"):
        assert not page.locator(needless).is_visible(), needless
    assert page.locator("#count").inner_text() == "35 of 35 functions"
    heads = "all => all.map(head => getComputedStyle(head).display)"
    assert set(page.eval_on_selector_all("thead", heads)) == {"table-header-group"}
    assert page.locator("#functions").is_visible()
