"""A run from somebody else: what its names hold reaches no terminal, and stops no drawing."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from actsearch import cli
from actsearch.results.figures.plots import (
    Figure,
    Line,
    Panel,
    Points,
    legible,
    to_matplotlib,
)
from actsearch.results.records import Outcome
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.searching.live import live
from actsearch.searching.progress import Progress, Scored

NAMES = {
    "escape": "\x1b]0;owned\x07\x1b[31m\x9b2J\u202eevil",
    "mathematics": r"$\frac{$",
    "dollars": "a $x^2$ and \\$",
    "long": "n" * 5000,
    "markup": "</style><script>alert(1)</script>[/red]",
}


def make(folder: Path, name: str) -> Run:
    folder.mkdir()
    config = {"settings": {"operators": "guarded", "strategy": name, "space": name}}
    (folder / "config.json").write_text(json.dumps(config))
    store = Store(folder / "run.sqlite", create=True)
    recipe = {"recipe": {"steps": 5, "lr": 0.1}}
    protocol = {"child": name, "dataset": "d", "operators": "guarded", **recipe}
    store.add_protocol("p", protocol)
    curve = ((1, 2.0), (2, 1.0))
    details = {"betas": [[1.0, 1.2]]}
    for stage in ("search", "reevaluate"):
        for i, (text, label) in enumerate(
            (("relu(x)", "relu"), ("mul(x, sigmoid(scale(x)))", name), ("tanh(x)", ""))
        ):
            trial = store.submit(stage, text, "p", 0, formula=label or name, label=label)
            scores = {"val_score": 0.9 - 0.1 * i, "test_score": 0.9 - 0.1 * i}
            done = Outcome(
                "ok", seconds=1.0, ms_per_step=5.0 + i, curve=curve, details=details, **scores
            )
            store.record(trial, done)
    trial = store.submit("search", "cosh(x)", "p", 0, formula=name)
    store.record(trial, Outcome("diverged", f"{name} at step 3", step=3))
    store.close()
    return Run.open(folder)


SLOW = ("dollars", "long")
ONE_FIGURE = ("escape", "markup")  # which harm terminals and pages, as one figure shows


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES]
)
def test_every_command_that_reads_a_run_says_text_alone(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "run", NAMES[name])
    for arguments, code in (
        (["top", "run"], 0),
        (["top", "run", "-f", "csv"], 0),
        (["top", "run", "-f", "json"], 0),
        (["compare", "run"], 0),
        (["compare", "run", "-f", "csv"], 0),
        (["compare", "run", "--reference", "sin(x)"], 2),  # says which names there are
        (["report", "run"], 0),
        (["plot", "run", *(["--of", "progress"] if name in ONE_FIGURE else [])], 0),
    ):
        assert cli.main(arguments) == code, arguments
        told = "".join(capsys.readouterr())
        assert told.strip()
        assert not set("\x1b\x07\x9b\u202e") & set(told), arguments
    assert "<script>alert" not in (tmp_path / "run" / "report.html").read_text()
    [page] = (tmp_path / "run" / "figures").glob("*.html")
    assert "<script>alert" not in page.read_text()


def test_names_are_drawn_as_they_are_written_and_cut_where_there_is_no_room() -> None:
    names = tuple(NAMES.values())
    line = Line(NAMES["dollars"], (0.0, 1.0), (0.0, 1.0))
    points = Points("p", (0.0,), (0.0,), names=(NAMES["long"],), written=True)
    panel = Panel(NAMES["mathematics"], "x", NAMES["long"], (line, points), y_names=names)
    figure = Figure("f", NAMES["long"], (panel,), NAMES["long"])
    drawn = to_matplotlib(figure)
    [axes] = drawn.axes
    assert axes.get_title() == NAMES["mathematics"]
    assert [t.get_text() for t in axes.get_yticklabels()][1:3] == list(names[1:3])
    assert all(len(t.get_text()) <= 48 for t in axes.get_yticklabels())
    assert axes.get_ylabel().endswith("…")
    short = Figure("f", "t", (Panel("p", "x", "y", (line,)),), "caption")
    assert legible(short) == short


@pytest.mark.parametrize("terminal", [True, False])
def test_the_live_block_shows_formulas_and_reasons_as_text(terminal: bool) -> None:
    progress = Progress("t", "w", 3)
    for i, name in enumerate(NAMES.values()):
        progress._add("", "", Scored(i, name, "ok", 0.1 * i, "", time.time()))
    progress.title = NAMES["escape"]
    console = Console(force_terminal=terminal, record=True, file=io.StringIO(), width=80)
    with live(progress, console):
        pass
    shown = console.export_text()
    assert "]0;owned" in shown or not terminal
    assert "[/red]" in shown  # no markup of rich's
    assert not set("\x1b\x07\x9b\u202e") & set(shown)
