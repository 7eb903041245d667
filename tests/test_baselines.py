"""What is trained beside a search: which functions, once each, and never among the candidates."""

from __future__ import annotations

import html
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import actsearch
from actsearch.commands.search import SearchConfig
from actsearch.reading.plotting import Found
from actsearch.reading.reporting import report
from actsearch.reading.telling import command
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import Metric
from actsearch.results.store import Store, StoreError
from actsearch.search_space.baselines import BASELINES, MODERN
from actsearch.searching.live import lines
from actsearch.searching.plan import make_plan
from actsearch.searching.progress import Progress
from actsearch.searching.reevaluation import _best
from actsearch.settings import resolve
from actsearch.studies.known_results import table_from

Arrays = tuple[np.ndarray, np.ndarray]
# relu(x), max(x, tanh(x)), tanh(x), and x, which screening rejects
SPACE = "units=1;unary=identity,relu,tanh;binary=max"
QUICK: dict[str, Any] = {
    "space": SPACE, "child": "mlp:width=8", "executor": "inline", "quiet": True, "steps": 5,
    "batch_size": 32,
}  # fmt: skip
NONE = "relu"  # a baseline that every run has


def beside(run: actsearch.Run) -> dict[str, Entry]:
    return {e.label or e.formula: e for e in run.leaderboard() if e.beside}


def asked(run: actsearch.Run) -> dict[str, float]:
    """What the strategy was told of each proposal, by its digits."""
    with closing(sqlite3.connect(run.path / "run.sqlite")) as db:
        return dict(db.execute("SELECT digits, reward FROM proposals ORDER BY number"))


def test_groups_names_and_formulas_are_trained_beside_the_budget(
    tmp_path: Path, blobs: Arrays
) -> None:
    run = actsearch.search(
        tmp_path / "r", dataset=blobs, budget=2, baselines=["modern", "elu", "x * sin(x)"], **QUICK
    )
    assert set(beside(run)) == {"relu", "swish", *MODERN, "elu", "x * sin(x)"}
    with closing(run.store(readonly=True)) as store:
        assert store.trained() == {"relu(x)", "max(x, tanh(x))"}  # the first two of the space


@pytest.mark.parametrize(
    ("preset", "names"), [("quick", ("identity",)), ("paper", ())], ids=["quick", "paper"]
)
def test_a_preset_says_which_are_there_unless_others_are_said(
    preset: str, names: tuple[str, ...]
) -> None:
    assert resolve({"preset": preset}).baselines == names
    assert resolve({"preset": preset, "baselines": ["gelu"]}).baselines == ("gelu",)
    assert resolve({"preset": preset}, {"preset": preset}).baselines == ()  # a run from before
    kept = resolve({"baselines": ["elu", "gelu"]}, {"preset": preset, "baselines": ["gelu"]})
    assert kept.baselines == ("gelu", "elu")


@pytest.mark.parametrize(
    ("word", "said"),
    [("modren", "unknown group of functions 'modren'; did you mean 'modern'?"),
     ("misch", "Did you mean mish?")],
)  # fmt: skip
def test_an_unknown_name_is_said_before_anything_starts(
    tmp_path: Path, blobs: Arrays, word: str, said: str
) -> None:
    with pytest.raises(ValueError, match=r"[Dd]id you mean") as refused:
        actsearch.search(tmp_path / "r", dataset=blobs, baselines=word, **QUICK)
    assert said in str(refused.value)
    assert not (tmp_path / "r").exists()


def test_a_resumed_run_keeps_its_baselines_and_trains_those_named_then(
    tmp_path: Path, blobs: Arrays
) -> None:
    options: dict[str, Any] = {"dataset": blobs, "budget": 1, **QUICK}
    run = actsearch.search(tmp_path / "r", baselines="gelu", **options)
    identity, before = run.config["identity"], run.rows("search")
    actsearch.search(run.path, baselines=["mish", "gelu", "x * sigmoid(x)"], **options)
    assert set(beside(run)) == {"relu", "swish", "gelu", "mish", "silu"}
    actsearch.search(run.path, **options)
    assert set(beside(run)) == {"relu", "swish", "gelu", "mish", "silu"}
    assert run.settings["baselines"] == ["gelu", "mish", "silu"]
    assert run.config["identity"] == identity
    assert run.rows("search")[: len(before)] == before


def test_a_run_from_before_has_relu_and_swish_and_goes_on_with_them(
    tmp_path: Path, blobs: Arrays
) -> None:
    options: dict[str, Any] = {"dataset": blobs, **QUICK}
    run = actsearch.search(tmp_path / "r", budget=1, baselines=NONE, **options)
    new = beside(run)
    with closing(sqlite3.connect(run.path / "run.sqlite")) as db, db:
        db.execute("DELETE FROM meta WHERE key = 'beside'")
    config = run.config
    del config["settings"]["baselines"]
    (run.path / "config.json").write_text(json.dumps(config))
    assert beside(run) == new
    assert set(new) == {"relu", "swish"}
    actsearch.search(run.path, budget=2, **options)
    assert set(beside(run)) == {"relu", "swish"}


@pytest.mark.parametrize("text", ["[1]", "{"])
def test_what_was_never_written_as_baselines_is_damage(store: Store, text: str) -> None:
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("INSERT INTO meta VALUES ('beside', ?)", (text,))
    with pytest.raises(StoreError, match="is damaged"):
        store.rows("search")


@pytest.mark.parametrize("at_once", [True, False], ids=["from the start", "at a resume"])
def test_a_baseline_that_is_a_candidate_too_is_trained_once(
    tmp_path: Path, blobs: Arrays, at_once: bool
) -> None:
    options: dict[str, Any] = {"dataset": blobs, **QUICK}
    run = actsearch.search(tmp_path / "r", baselines="tanh(x)" if at_once else NONE, **options)
    before = asked(run)
    # Values alone show that this is tanh.
    actsearch.search(run.path, baselines=["tanh(x)", "2 * sigmoid(2 * x) - 1"], **options)
    [row] = [row for row in run.rows("search") if row["expression"] == "tanh(x)"]
    assert set(beside(run)) == {"relu", "swish", "tanh(x)"}
    assert row["val_score"] in asked(run).values()
    assert asked(run) == before
    assert "tanh(x)" not in _best(run, 99)


def test_what_screening_rejects_is_rejected_as_a_candidate_and_trained_as_a_baseline(
    tmp_path: Path, blobs: Arrays
) -> None:
    options: dict[str, Any] = {"dataset": blobs, **QUICK}
    run = actsearch.search(tmp_path / "r", **options)
    plain = actsearch.search(tmp_path / "plain", baselines=NONE, **options)
    assert set(beside(run)) == {"relu", "swish", "identity"}
    assert beside(run)["identity"].status == "ok"
    assert {e.label: e.status for e in plain.leaderboard()}["identity"] == "rejected"
    assert asked(run) == asked(plain)  # a strategy sees no difference
    scores = ({e.expression: e.val_score for e in r.leaderboard() if e.label != "identity"}
              for r in (run, plain))  # fmt: skip
    assert next(scores) == next(scores)
    for one in (run, plain):
        plan = make_plan(SearchConfig(run=str(one.path), executor="inline"), {"dataset": blobs})
        assert (plan.done, plan.total) == (3, 3)
    assert len(table_from(run.path)) == len(table_from(plain.path))  # so does one that is replayed

    actsearch.search(plain.path, baselines="identity", **options)
    assert beside(plain)["identity"].val_score == beside(run)["identity"].val_score
    assert len(plain.rows("search")) == len(run.rows("search"))


def test_a_baseline_of_several_groups_needs_a_child_with_as_many_places(
    tmp_path: Path, blobs: Arrays
) -> None:
    options: dict[str, Any] = {"dataset": blobs, "budget": 1, **QUICK}
    run = actsearch.search(tmp_path / "r", baselines="relu(x) | tanh(x)", **options)
    assert beside(run)["relu(x) | tanh(x)"].status == "ok"
    with pytest.raises(ValueError, match="groups"):
        actsearch.search(tmp_path / "s", baselines=" | ".join(["relu(x)", "x"] * 3), **options)


def fit(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
    x = torch.linspace(-1, 1, 32)[:, None]
    model = nn.Sequential(nn.Linear(1, 4), make_activation(4), nn.Linear(4, 1))
    loss = (model(x) - x.abs()).square().mean()
    report(1, loss.item())
    return {"mse": loss.item()}


def test_an_objective_has_baselines_too(tmp_path: Path) -> None:
    options = {k: v for k, v in QUICK.items() if k not in ("child", "batch_size")}
    run = actsearch.search(
        tmp_path / "r", objective=fit, metric=Metric("mse", "min"), baselines="paper", **options
    )
    assert set(beside(run)) == {*BASELINES, "silu"} - {"swish-1"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> actsearch.Run:
    y = np.arange(300) % 3
    x = np.random.default_rng(0).normal(size=(300, 4)) + y[:, None]
    return actsearch.search(
        tmp_path_factory.mktemp("runs") / "r", dataset=(x.astype(np.float32), y),
        baselines=["identity", "gelu", "x * sin(x)"], **QUICK,
    )  # fmt: skip


def test_the_plan_names_them(found: actsearch.Run) -> None:
    config = SearchConfig(run=str(found.path), executor="inline", baselines=("elu",))
    y = np.arange(300) % 3
    x = np.random.default_rng(0).normal(size=(300, 4)) + y[:, None]
    plan = make_plan(config, {"dataset": (x.astype(np.float32), y)})
    assert "baselines  relu, swish, identity, gelu, x * sin(x), elu" in plan.lines()
    assert plan.beside_left == 1


def test_a_report_names_them_beside_the_candidates(found: actsearch.Run) -> None:
    page = html.unescape(report(found).read_text())
    assert len(re.findall('<tr [^>]*class="baseline">', page)) == 5
    for name, entry in beside(found).items():
        assert f'<td class="less" data-value="{entry.label}">{entry.label}</td>' in page
        assert name in page.partition("<dt>baselines</dt><dd>")[2].partition("</dd>")[0]
    best = max((e for e in found.leaderboard() if not e.beside), key=lambda e: e.merit)
    assert f"The search's first had {found.metric.text(best.val_score or 0.0)}" in page
    named = [e for e in beside(found).values() if e.label not in ("relu", "swish")]
    leader = max(named, key=lambda e: e.merit)
    said = f"{leader.label or leader.formula} {found.metric.text(leader.val_score or 0.0)}"
    assert f"{said} (#{leader.rank}) and 2 other baselines that scored worse" in page
    assert "A gate f(x, g)" not in page


def test_figures_give_lines_to_relu_and_swish_and_points_to_the_others(
    found: actsearch.Run,
) -> None:
    from actsearch.results.figures.searches import progress_figure
    from actsearch.results.figures.trade_offs import cost_figure

    for figure in (progress_figure(Found(found).rows), cost_figure(found.leaderboard())):
        assert figure is not None
        marks = {mark.label: mark for mark in figure.panels[0].marks}
        assert {"relu", "swish", "another baseline"} <= marks.keys()
        names = marks["another baseline"].names
        assert len(names) == 3
        for meant in ("identity", "gelu", "x * sin(x)"):
            assert any(meant in name for name in names), names
    drawn = {curve.name for curve in Found(found).courses()}
    assert drawn >= {"relu", "swish"}
    assert drawn.isdisjoint({"identity", "gelu", "x * sin(x)"})


def test_top_says_which_functions_are_baselines(found: actsearch.Run) -> None:
    table = found.table(wide=True)
    shown = table[table["baseline"]]
    assert set(shown["name"]) == {"relu", "swish", "identity", "gelu", ""}


def test_the_screen_has_relu_and_swish_first_and_then_the_best(found: actsearch.Run) -> None:
    with closing(found.store(readonly=True)) as store:
        progress = Progress("t", "w", None, beside=store.beside())
        progress.load(store.rows("search"))
    [line] = [line for line in lines(progress, 200) if " gelu " in line]
    names = [part.strip().rsplit(" ", 2)[0] for part in line.split("   ") if part.strip()]
    others = sorted(names[2:], key=lambda name: -beside(found)[name].merit)
    assert names[:2] == ["relu", "swish"]
    assert names[2:] == others
    assert all(best.formula not in ("x", "x * sin(x)") for best in progress.best)


def test_the_command_of_a_report_names_them(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    y = np.arange(300) % 3
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    options: dict[str, Any] = {**QUICK, "dataset": str(file), "budget": 1}
    run = actsearch.search(tmp_path / "r", baselines=["elu", "x * sin(x)"], **options)
    assert "--baselines elu 'mul(x, sin(x))'" in command(run)
    assert "--baselines" not in command(actsearch.search(tmp_path / "s", **options))
