"""Leaderboard and tables, by hand arithmetic."""

from __future__ import annotations

import csv
import io
import json
import pickle
from typing import Any

import pytest

from actsearch.results.leaderboard import furthest, leaderboard, status_counts
from actsearch.results.metrics import ACCURACY, METRICS, Metric, common, metric_from, p_value
from actsearch.results.tables import (
    FORMATS,
    Formula,
    brief,
    printable,
    show,
    to_csv,
    to_json,
    to_markdown,
    to_text,
)
from actsearch.shown import below, top_rows


def row(expression: str, status: str | None, accuracy: float | None = None, **more: Any) -> dict:
    filled = {"label": "", "seconds": 2.0, "ms_per_step": 4.0, "reason": "", "seed": 0}
    return {
        "expression": expression,
        "formula": expression,
        "status": status,
        "val_score": accuracy,
        **filled,
        **more,
    }


def test_functions_are_ranked_by_accuracy_and_failures_have_no_rank() -> None:
    entries = leaderboard(
        [
            row("a", "ok", 0.5),
            row("b", "diverged", reason="loss nan at step 2", ms_per_step=None),
            row("c", "ok", 0.9),
            row("d", None),
        ]
    )
    assert [(e.rank, e.expression) for e in entries] == [(1, "c"), (2, "a"), (None, "b")]
    assert entries[2].reason == "loss nan at step 2"


def test_equal_accuracies_are_ordered_by_name_so_that_the_table_is_stable() -> None:
    entries = leaderboard([row("b", "ok", 0.5), row("a", "ok", 0.5)])
    assert [e.expression for e in entries] == ["a", "b"]


def test_several_seeds_are_averaged_and_one_failed_seed_fails_the_function() -> None:
    rows = [row("a", "ok", 0.5), row("a", "ok", 0.7, seed=1), row("b", "ok", 0.9)]
    rows.append(row("b", "diverged", reason="r", seed=1))
    by_name = {e.expression: e for e in leaderboard(rows)}
    assert by_name["a"].val_score == pytest.approx(0.6)
    assert by_name["a"].seeds == 2
    assert by_name["a"].seconds == 4.0
    assert (by_name["b"].status, by_name["b"].val_score) == ("diverged", None)


def test_time_against_relu_is_a_ratio_of_steps_in_the_same_run_on_a_gpu_alone() -> None:
    rows = [row("relu(x)", "ok", 0.5, ms_per_step=10.0), row("a", "ok", 0.6, ms_per_step=15.0)]
    assert {e.vs_relu for e in leaderboard(rows)} == {None}
    rows = [{**r, "device": "NVIDIA H100"} for r in rows]
    assert {e.expression: e.vs_relu for e in leaderboard(rows)} == {"relu(x)": 1.0, "a": 1.5}
    assert leaderboard(rows[1:])[0].vs_relu is None
    assert {e.vs_relu_range for e in leaderboard(rows)} == {None}


def test_cost_is_what_was_timed_beside_relu_over_all_trainings_of_a_function() -> None:
    timed = [
        row("a", "ok", 0.6, ms_per_step=90.0, cost="[1.2, 1.1, 1.3]"),
        row("a", "ok", 0.6, ms_per_step=10.0, cost="[1.4, 1.25, 1.5]", seed=1),
    ]
    found = leaderboard([row("relu(x)", "ok", 0.5, ms_per_step=30.0), *timed])
    assert (found[0].vs_relu, found[0].vs_relu_range) == (pytest.approx(1.3), (1.1, 1.5))
    assert [r["x relu 95 %"] for r in top_rows(found)] == ["1.10 to 1.50", ""]


def test_the_lowest_loss_is_first_and_of_what_left_a_rung_too() -> None:
    rows = [row("a", "ok", 1.25), row("b", "ok", -0.5), row("c", "ok", 8.0)]
    rungs = [row(e, "ok", loss, steps=10) for e, loss in (("d", 3.0), ("e", 2.0), ("c", 0.0))]
    entries = leaderboard(furthest(rows, rungs, METRICS["loss"]), METRICS["loss"])
    assert [(e.rank, e.expression) for e in entries] == [
        (1, "b"), (2, "a"), (3, "c"), (None, "e"), (None, "d"),
    ]  # fmt: skip
    assert entries[3].reason == "left after 10 steps with validation loss 2.0000"
    [first, *_] = top_rows(entries)
    assert first["val loss"] == -0.5


def test_a_metric_says_how_its_numbers_are_read() -> None:
    """score -> (number, text), a difference -> (signed, as a size)."""
    expected = {
        "accuracy": ("91.23", "91.23 %", "-1.20", "1.20 points", "val accuracy [%]"),
        "BLEU": ("91.23", "91.23 BLEU", "-1.20", "1.20 BLEU", "val BLEU"),
        "loss": ("0.9123", "0.9123 nats", "-0.0120", "0.0120 nats", "val loss [nats]"),
        "bits per byte": ("0.9123", "0.9123 bits per byte", "-0.0120", "0.0120 bits per byte",
                          "val bits per byte"),
        "bits per token": ("0.9123", "0.9123 bits per token", "-0.0120", "0.0120 bits per token",
                           "val bits per token"),
        "R2": ("0.9123", "0.9123", "-0.0120", "0.0120", "val R2"),
        "RMSE": ("0.9123", "0.9123", "-0.0120", "0.0120", "val RMSE"),
    }  # fmt: skip
    found = {
        name: (m.number(0.91234), m.text(0.91234), m.signed(-0.012), m.distance(-0.012),
               m.axis("val"))
        for name, m in METRICS.items()
    }  # fmt: skip
    assert found == expected
    lower = {name for name, metric in METRICS.items() if metric.reward(2.0) < 0}
    assert lower == {"loss", "bits per byte", "bits per token", "RMSE"}


@pytest.mark.parametrize("metric", [*METRICS.values(), Metric("perplexity", "lower", decimals=1)])
def test_a_metric_is_read_back_from_what_a_run_keeps_of_it(metric: Metric) -> None:
    assert metric_from(json.loads(json.dumps(metric.to_config()))) == metric
    assert metric_from("BLEU") == METRICS["BLEU"]  # as runs of before have it


def test_a_metric_that_nobody_knows_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="'acuracy' is not known; known: accuracy, BLEU, loss"):
        metric_from("acuracy")
    with pytest.raises(ValueError, match="higher or lower"):
        Metric("perplexity", "down")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="a metric's name is a column's"):
        Metric("a<b")


def test_a_table_of_several_metrics_has_none_in_common() -> None:
    assert common([ACCURACY, METRICS["accuracy"]]) is ACCURACY
    assert common([ACCURACY, METRICS["loss"]]) is None


def test_a_cell_is_a_number_to_all_but_its_reader() -> None:
    cell = METRICS["loss"].cell(1.23456, signed=True)
    assert cell is not None
    assert (show(cell), cell + 1, json.dumps(cell)) == ("+1.2346", 2.23456, "1.23456")
    assert type(pickle.loads(pickle.dumps(cell))) is float
    assert show(p_value(0.012345)) == "0.012"
    assert show(ACCURACY.cell(None)) == ""


@pytest.mark.parametrize(
    ("exact", "label"),
    [
        ("erf(0.7071067811865476 * x)", "erf(0.7071 * x)"),
        ("softplus(beta[-1.0502256128148468])", "softplus(beta[-1.05])"),
        ("0.0447153141 * x + 0.044715", "0.04472 * x + 0.044715"),
        ("1.2345678e-07 * x - 1e-07", "1.235e-07 * x - 1e-07"),
        ("123456.78912345 * x**2", "123457 * x**2"),
        ("12345 * x + 0.5", "12345 * x + 0.5"),
    ],
)
def test_a_formula_is_rounded_for_its_reader_alone(exact: str, label: str) -> None:
    rows = [{"formula": Formula(exact)}]
    assert (brief(exact), show(rows[0]["formula"])) == (label, label)
    assert label in to_text(rows)
    assert label in to_markdown(rows)
    assert json.loads(to_json(rows)) == [{"formula": exact}]
    assert list(csv.DictReader(io.StringIO(to_csv(rows)))) == [{"formula": exact}]
    assert bool(below(rows)) == (exact != label)


def test_statuses_are_counted_with_those_that_wait() -> None:
    counts = status_counts([row("a", "ok", 0.5), row("b", None), row("c", "failed")])
    assert (counts["ok"], counts["waiting"], counts["failed"], counts["crashed"]) == (1, 1, 1, 0)


TABLE = [
    {
        "rank": 1,
        "formula": "=x | y",
        "val accuracy": ACCURACY.cell(0.91234),
        "seconds": 1234.5,
        "note": None,
    },
    {"rank": None, "formula": "\x1b[31m-x", "val accuracy": None, "seconds": 0.5, "note": "n"},
]


def test_json_is_strict_and_keeps_every_digit() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    parsed = json.loads(to_json(TABLE), parse_constant=refuse)
    assert parsed == TABLE
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json([{"a": float("nan")}])


def test_csv_reads_back_and_no_cell_is_a_spreadsheet_formula() -> None:
    read = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert read[0]["formula"] == "'=x | y"
    assert read[0]["val accuracy"] == "0.91234"
    assert read[1]["val accuracy"] == ""


def test_markdown_escapes_its_own_bar_and_shows_per_cent() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert lines[1] == "| --- | --- | --- | --- | --- |"
    assert lines[2] == "| 1 | =x \\| y | 91.23 | 1,234 |  |"


def test_markdown_holds_no_tag_of_a_formula() -> None:
    [*_, line] = to_markdown([{"formula": "a<b> & <script>x|y"}]).splitlines()
    assert line == "| a&lt;b> &amp; &lt;script>x\\|y |"


def test_text_is_aligned_and_control_characters_are_gone() -> None:
    text = to_text(TABLE)
    assert "\x1b" not in text
    header, first, second = text.splitlines()
    assert header.index("val accuracy") + len("val accuracy") == first.index("91.23") + 5
    assert second.endswith("n")


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_table_is_no_error(name: str) -> None:
    assert FORMATS[name]([]).strip() in ("", "[]")


HOSTILE = "\x1b]0;title\x07a\x9b31m\x7fb\u202ec\u2028d\ttab\r\n=x"


@pytest.mark.parametrize("how", [name for name in FORMATS if name != "json"])
def test_no_format_lets_a_terminal_be_told_what_to_do(how: str) -> None:
    rows = [{"formula": HOSTILE, HOSTILE: 1.0}] if how != "csv" else [{"formula": HOSTILE}]
    shown = FORMATS[how](rows)
    assert printable(shown, keep="\n") == shown
    assert not set("\x1b\x07\x9b\x7f\u202e\u2028\t\r") & set(shown)
    assert "]0;title" in shown  # what can be shown is


@pytest.mark.parametrize("text", ["\t=1+1", " @SUM(A1)", "=1+1", "-x"])
def test_a_formula_of_a_spreadsheet_stays_text_behind_spaces_too(text: str) -> None:
    [read] = csv.DictReader(io.StringIO(to_csv([{"f": text}])))
    assert read["f"].startswith("'")
