"""Claims under one protocol: their functions, how they are matched, how they are judged, a run."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats
from scipy.integrate import quad

from actsearch import cli
from actsearch.child_models.device import one_thread
from actsearch.commands.experiment import ExperimentConfig
from actsearch.results.metrics import Metric
from actsearch.run import Run
from actsearch.search_space.activation import Activation
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.screening import screens
from actsearch.search_space.expression import formula
from actsearch.search_space.parser import parse
from actsearch.studies import replicated, replication
from actsearch.studies.convection import Convection
from actsearch.studies.judging import MATCHED, PUBLISHED, Cell, Setting, judge, verdicts
from actsearch.studies.matching import matched
from actsearch.studies.replicated import FUNCTIONS, GELU, SITES

QUIET = Console(quiet=True)
ERROR, ACCURACY = Metric("error", "min"), Metric("score", "max")


def expression(text: str) -> Any:
    return canonical(parse(text), "guarded")


def value(text: str, x: float) -> float:
    module = Activation(str(expression(text)), 1, kernels="eager").double()
    with torch.no_grad():
        return module(torch.full((1, 1), x, dtype=torch.float64)).item()


# -- the functions


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ASQU", lambda x: x * x if x > 0 else 0.25 * x * x),
        ("leaky ReLU squared", lambda x: x * x if x > 0 else 0.25 * x * x),
        ("smooth ReLU squared", lambda x: x * (x + math.hypot(x, 0.2)) / 2),
        ("GoLU", lambda x: x * math.exp(-math.exp(-x))),
        ("xATLU", lambda x: x * (0.5 + math.atan(x) / math.pi)),
        ("PolyReLU", lambda x: sum(max(x, 0) ** k / 3 for k in (1, 2, 3))),
        ("GELU + 0.1 sin", lambda x: x * stats.norm.cdf(x) + 0.1 * math.sin(x)),
        ("Serf", lambda x: x * math.erf(math.log1p(math.exp(x)))),
        ("beta x cos(x)", lambda x: x * math.cos(x)),
    ],
)
def test_functions_are_what_their_authors_write_at_the_start(name: str, meant: Any) -> None:
    for x in (-2.5, -0.7, 0.3, 1.9):
        assert value(FUNCTIONS[name], x) == pytest.approx(meant(x), abs=1e-6)


def test_the_functions_are_21_all_different_and_none_would_be_rejected() -> None:
    found = {name: expression(text) for name, text in FUNCTIONS.items()}
    assert len(set(map(str, found.values()))) == 21
    assert not any(flaws for _, flaws in screens(found.values()))
    assert {site.rival for site in SITES.values()} <= found.keys()


def moments(text: str) -> tuple[float, float]:
    """Slope at 0 and second moment under a standard normal, by other means."""
    second, _ = quad(
        lambda x: value(text, x) ** 2 * stats.norm.pdf(x), -9, 9, points=[0], limit=200
    )
    return (value(text, 1e-3) - value(text, -1e-3)) / 2e-3, second


@pytest.mark.parametrize("name", ["Swish", "GoLU", "cos(x) - x", "relu(x)**2", "Mish", "GELU"])
def test_a_matched_function_has_the_slope_and_the_second_moment_of_gelu(name: str) -> None:
    expr, how = matched(expression(FUNCTIONS[name]), expression(FUNCTIONS[GELU]))
    slope, second = moments(formula(expr))
    gelu_slope, gelu_second = moments(FUNCTIONS[GELU])
    assert second == pytest.approx(gelu_second, rel=1e-3)
    assert (slope == pytest.approx(gelu_slope, rel=1e-3)) == (how == "slope and second moment")
    assert how == "slope and second moment" or name in ("relu(x)**2", "Mish")


# -- judging


def setting(name: str, metric: Metric) -> Setting:
    return Setting(name, replace(SITES[name], rival="b"), metric, 0.001, {})


def cell(where: Setting, name: str, scores: Any, form: str = PUBLISHED, failed: str = "") -> Cell:
    return Cell(form, "", where, name, parse("x"), 1.0, dict(enumerate(scores)), failed, None)


def test_verdicts_are_of_paired_seeds_and_of_holms_correction_over_all_children() -> None:
    rng = np.random.default_rng(0)
    rival = rng.normal(0.5, 0.1, 20)  # seeds matter more than functions
    noise = [rng.normal(0, 0.01, 20) for _ in range(4)]
    up, down = setting("mlp", ACCURACY), setting("pinn", ERROR)
    cells = [
        cell(up, "b", rival), cell(up, "better", rival + 0.02 + noise[0]),
        cell(up, "worse", rival - 0.02 + noise[1]), cell(up, "alike", rival + noise[2]),
        cell(up, "fails", rival + 1, failed="diverged: loss nan"),
        cell(down, "b", rival), cell(down, "better", rival - 0.02 + noise[3]),
    ]  # fmt: skip
    found = judge(cells)
    assert [found[i].verdict for i in range(7)] == [
        "rival", "confirmed", "refuted", "open", "failed", "rival", "confirmed",
    ]  # fmt: skip
    by_hand = {
        i: stats.ttest_rel(list(cells[i].scores.values()), rival).pvalue for i in (1, 2, 3, 6)
    }
    order = sorted([*by_hand.values(), 1.0])
    largest, corrected = 0.0, {}
    for rank, q in enumerate(order):
        largest = max(largest, min(1.0, (5 - rank) * q))
        corrected[q] = largest
    for i, q in by_hand.items():
        assert found[i].p == pytest.approx(corrected[q])
    assert found[4].p == 1.0
    assert found[6].difference == pytest.approx(np.mean(0.02 - noise[3]))


def test_what_holds_as_published_and_not_when_matched_is_of_scale() -> None:
    rng = np.random.default_rng(1)
    rival = rng.normal(0.5, 0.1, 20)
    better, alike = rival + 0.02 + rng.normal(0, 0.01, 20), rival + rng.normal(0, 0.01, 20)
    where = setting("mlp", ACCURACY)

    def said(again: Any) -> str:
        both = [cell(where, "b", rival, form) for form in (PUBLISHED, MATCHED)]
        mine = [cell(where, "a", better), cell(where, "a", again, MATCHED)]
        return next(r["mlp"] for r in verdicts([*both, *mine]) if r["name"] == "a")

    assert said(better) == "confirmed, matched too"
    assert said(alike) == "confirmed, of scale"
    assert said([]) == "confirmed"


# -- trainings


def test_the_equation_is_solved_and_points_do_not_depend_on_the_activation() -> None:
    errors = []
    with one_thread(torch.device("cpu")):
        for rate in (1e-9, 1e-2):
            torch.manual_seed(0)
            solved = Convection(rate)(lambda *_, **__: torch.nn.Tanh(), 0, 250, lambda *_: None)
            errors.append(solved["test_error"])
    assert errors[0] > 0.9 > 0.5 > errors[1]

    seen: list[list[float]] = []

    class Drawing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(1)
            return torch.tanh(x)

    for layer in (torch.nn.Tanh(), Drawing()):
        torch.manual_seed(0)
        losses: list[float] = []

        def note(_: int, loss: float, to: list[float] = losses) -> None:
            to.append(loss)

        def made(*_: Any, layer: torch.nn.Module = layer, **__: Any) -> torch.nn.Module:
            return layer

        Convection()(made, 3, 5, note)
        seen.append(losses)
    assert seen[0] == seen[1]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three functions, twelve steps of an MLP and of the PINN."""
    names = ("ReLU", "GELU", "Swish")
    monkeypatch.setattr(replication, "FUNCTIONS", {name: FUNCTIONS[name] for name in names})
    mlp = replace(SITES["mlp"], data=("mnist5k",), steps=12)
    sites = {"mlp": mlp, "pinn": replace(SITES["pinn"], steps=12)}
    for module in (replicated, replication):
        monkeypatch.setattr(module, "SITES", MappingProxyType(sites))


def claims(run: Path, **options: Any) -> replication.Report:
    given = {"executor": "inline", "kernels": "eager", "seeds": 2, **options}
    return replication.run_claims(ExperimentConfig("claims", str(run), **given), QUIET)


def test_claims_are_swept_trained_and_judged_and_the_same_command_trains_nothing_twice(
    few: None, tmp_path: Path
) -> None:
    first = claims(tmp_path / "a", children=("mlp",))
    run = Run.open(tmp_path / "a")
    swept, rows = run.rows("sweep"), run.rows("reevaluate")
    forms = 5  # of ReLU, GELU and Swish; GELU is matched to itself
    assert len(swept) == forms * 3
    assert {row["seed"] for row in swept} == {100}
    assert sorted(row["seed"] for row in rows) == sorted([200, 201] * forms)
    for row in rows:  # each at the rate at which its own sweep was best
        mine = [other for other in swept if other["expression"] == row["expression"]]
        best = max(other["val_score"] for other in mine)
        chosen = next(other for other in mine if other["protocol"] == row["protocol"])
        assert chosen["val_score"] == best
    for row in first.results:
        mine = [r["test_score"] for r in rows if r["formula"] == row["formula"]]
        assert row["mean"] == pytest.approx(np.mean(mine))
        assert row["n"] == 2
    assert [row["name"] for row in first.claims] == ["ReLU", "GELU", "Swish"]

    before = {row["id"]: row["finished"] for row in [*swept, *rows]}
    again = claims(tmp_path / "a", children=("mlp", "pinn"))
    kept = {r["id"]: r["finished"] for kind in ("sweep", "reevaluate") for r in run.rows(kind)}
    assert {k: v for k, v in kept.items() if k in before} == before
    assert {row["child"] for row in again.results} == {"mlp", "pinn"}
    of_mlp = next(r for r in again.results if r["child"] == "mlp")
    assert of_mlp["mean"] == first.results[0]["mean"]
    with (tmp_path / "a" / "figures" / "claims.csv").open() as file:
        assert [row["pinn"] for row in csv.DictReader(file)][1] == "rival"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("claims --epochs 3", "--epochs is for mnist-mlp and mnist-cnn"),
        ("claims --children mpl", "did you mean 'mlp'"),
        ("mnist-mlp --children mlp", "--children is for claims"),
        ("claims --children convnext --dataset {text}", "convnext does not fit"),
    ],
)
def test_what_claims_cannot_do_gets_a_sentence_before_anything_trains(
    arguments: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("some words, " * 5000)
    given = arguments.format(text=tmp_path / "words.txt").split()
    assert cli.main(["experiment", *given]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
