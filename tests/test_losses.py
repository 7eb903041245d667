"""A search whose score is a loss in nats, where lower is better: the lowest is first everywhere."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import actsearch
from actsearch.child_models.data.classification import Classification
from actsearch.child_models.data.labelled import Dataset, make_dataset
from actsearch.reading.plotting import FIGURES, Found
from actsearch.reading.reporting import contents, render
from actsearch.results.filters import where
from actsearch.results.metrics import METRICS, Metric
from actsearch.results.tables import to_text
from actsearch.run import Run
from actsearch.searching.live import plain_line
from actsearch.searching.progress import Progress
from actsearch.shown import head, top_rows
from actsearch.studies.known_results import table_from

CHILD = "mlp:width=8"
SETTINGS: dict[str, Any] = {
    "space": "tiny", "child": CHILD, "steps": 6, "batch_size": 32, "executor": "inline",
    "quiet": True, "seed": 1, "kernels": "eager",
}  # fmt: skip


class CrossEntropy(Classification):
    """Scored by the mean cross-entropy of a split, in nats, a few times over: above 1."""

    def score(self, model: Any, recipe: Any, split: str, examples: Any = None, beat: Any = None):
        x, y = (part[:examples] for part in self.splits[split])
        model.eval()
        with torch.no_grad():
            return 3 * F.cross_entropy(model(self.examples.standardise(x)), y).item()


class Losses(Dataset):
    metric = METRICS["loss"]  # pyright: ignore[reportAssignmentType]

    def on(self, device: torch.device) -> Classification:
        return CrossEntropy(self, device)


def losses(metric: Metric | str = "loss") -> Losses:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    points = rng.normal(size=(240, 5)) + np.eye(5)[labels] * 2
    plain = make_dataset("blobs", (points.astype(np.float32), labels))
    fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    made = Losses(**fields)
    object.__setattr__(made, "metric", metric)
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Searched by chance, and its best trained again."""
    path = tmp_path_factory.mktemp("losses") / "run"
    found = actsearch.search(path, dataset=losses(), strategy="random", budget=24, **SETTINGS)
    actsearch.reevaluate(
        found, dataset=losses(), top=3, seeds=3, executor="inline", kernels="eager", quiet=True
    )
    return found


def by_loss(run: Run) -> list[tuple[float, str]]:
    """(loss, expression) of what trained, the lowest first, from the store alone."""
    rows = run.rows("search")
    return sorted((r["val_score"], r["expression"]) for r in rows if r["status"] == "ok")


def test_the_lowest_loss_has_rank_one_in_every_table(run: Run) -> None:
    expected = by_loss(run)
    assert expected[0][0] < expected[-1][0]
    entries = [e for e in run.leaderboard() if e.rank is not None]
    assert [(e.val_score, e.expression) for e in entries] == expected
    assert run.metric == METRICS["loss"]
    assert run.best().expression == expected[0][1]
    table = run.table()
    assert table["val loss"].dtype == float
    assert table["val loss"].iloc[0] == expected[0][0]
    lines = (run.path / "top.csv").read_text().splitlines()
    [first] = [row for row in csv.DictReader(lines) if row["rank"] == "1"]
    assert float(first["val loss"]) == expected[0][0]
    assert f"{expected[0][0]:.4f}" in to_text(head(run.leaderboard())).splitlines()[1]


def test_filters_take_the_metrics_own_column(run: Run) -> None:
    middle = by_loss(run)[5][0]
    kept = where(f"val_loss<={middle}", top_rows(run.leaderboard(), full=True))
    assert len(kept) == 6
    with pytest.raises(ValueError, match="no column 'val_accuracy'"):
        where("val_accuracy>0.9", top_rows(run.leaderboard(), full=True))


def test_reevaluation_is_ranked_by_the_lowest_and_its_wins_are_of_the_lower(run: Run) -> None:
    rows = actsearch.reevaluate(
        run, dataset=losses(), top=3, seeds=3, executor="inline", kernels="eager", quiet=True
    )
    means = [m for m in rows["test loss"] if not np.isnan(m)]
    assert means == sorted(means)
    scores: dict[str, list[float]] = {}
    for row in run.rows("reevaluate"):
        scores.setdefault(row["expression"], []).append(row["test_score"])
    medians = {e: np.median(s) for e, s in scores.items() if None not in s}
    compared = actsearch.compare(run.path)
    for function in compared.functions:
        [row] = [r for r in compared.models if r["function"] == function["function"]]
        [expression] = {
            r["expression"] for r in run.rows("reevaluate") if r["formula"] == row["formula"]
        }
        assert function["wins"] == (medians[expression] < medians["relu(x)"])
    assert all("median loss" in row for row in compared.models)


def test_figures_and_report_begin_with_the_lowest(run: Run) -> None:
    found, expected = Found(run), by_loss(run)
    [progress] = [f for f in FIGURES["progress"].make(found) if f is not None]
    [panel] = progress.panels
    assert panel.y == "validation loss [nats]"
    staircase = next(m for m in panel.marks if m.label == "best so far")
    assert list(staircase.y) == sorted(staircase.y, reverse=True)
    assert staircase.y[-1] == expected[0][0]
    page = contents(run, 500)
    assert page["functions"][0]["score"] == expected[0][0]
    for row in page["functions"]:  # as far as trainings scatter, whatever was trained again
        assert (row["error"] is None) == (row["score"] is None)
    best = [pick["score"] for pick in page["picks"]]
    assert page["picks"][1]["difference"] == pytest.approx(best[1] - best[0])
    lowest = [min(best[: i + 1]) for i in range(len(best))]
    assert [pick["better"] for pick in page["picks"]] == [
        a == b for a, b in zip(best, lowest, strict=True)
    ]
    said = " ".join(page["sentences"])
    assert f"The search's first had {expected[0][0]:.4f} nats on validation data" in said
    text = render(page)
    assert not re.search(r"accurac|per cent|binomial", text)
    assert "points" not in said


def test_a_replay_of_the_run_finds_the_lowest(run: Run) -> None:
    table = table_from(run.path)
    assert table.top(0.0) == -by_loss(run)[0][0]
    assert table.floor == -by_loss(run)[-1][0]


@pytest.mark.parametrize("strategy", ["evolution:population=4,tournament=2", "ppo:batch_size=4",
                                      "surrogate:initial=4,pool=10"])  # fmt: skip
def test_every_strategy_searches_by_a_loss(strategy: str, tmp_path: Path) -> None:
    found = actsearch.search(tmp_path / "run", dataset=losses(), strategy=strategy, budget=12,
                             **SETTINGS)  # fmt: skip
    assert [e.val_score for e in found.leaderboard() if e.rank] == [s for s, _ in by_loss(found)]


def test_halving_lets_the_lower_half_go_on(tmp_path: Path) -> None:
    found = actsearch.search(tmp_path / "run", dataset=losses(), budget=8, **SETTINGS,
                             strategy="random+halving:eta=2,rungs=2,cohort=8")  # fmt: skip
    rungs = {r["expression"]: r["val_score"] for r in found.rows("rung") if r["status"] == "ok"}
    whole = {r["expression"] for r in found.rows("search") if not r["beside"]}
    kept = {e for e in rungs if e in whole}
    left = rungs.keys() - kept
    assert kept
    assert left
    assert max(rungs[e] for e in kept) <= min(rungs[e] for e in left)


def test_racing_by_the_score_leaves_the_higher_losses_behind(tmp_path: Path) -> None:
    found = actsearch.search(tmp_path / "run", dataset=losses(), strategy="random", budget=40,
                             racing="score:3=0.2", **SETTINGS)  # fmt: skip
    left = [r for r in found.rows("search") if r["status"] == "raced_out"]
    assert left
    for row in left:
        value, limit = re.findall(r"its loss (\S+) is above (\S+)", row["reason"])[0]
        assert float(value) >= float(limit)
        assert "with validation loss" in row["reason"]


def test_the_screen_shows_the_lowest_as_the_best(run: Run) -> None:
    progress = Progress("title", "1 worker", None, run.metric)
    progress.load(run.rows("search"))
    best = min(r["val_score"] for r in run.rows("search")
               if r["status"] == "ok" and not r["beside"])  # fmt: skip
    assert f"best {best:.4f} nats" in plain_line(progress)


def test_a_metric_of_ones_own_goes_by_its_name_and_direction(tmp_path: Path) -> None:
    own = Metric("surprise", "lower", unit="bits", decimals=1)
    found = actsearch.search(tmp_path / "run", dataset=losses(own), strategy="random", budget=3,
                             **SETTINGS)  # fmt: skip
    assert found.metric == own
    assert "val surprise" in found.table()
    with pytest.raises(ValueError, match="'suprise' is not known"):
        actsearch.search(tmp_path / "other", dataset=losses("suprise"), **SETTINGS)
