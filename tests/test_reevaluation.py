"""Re-evaluation: functions x children x data sets x seeds, learning rates, what fails."""

from __future__ import annotations

import itertools
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import actsearch
from actsearch.child_models.data.data import DataError
from actsearch.child_models.data.labelled import make_dataset
from actsearch.commands.reevaluate import ReevaluateConfig
from actsearch.commands.search import SearchConfig
from actsearch.errors import UsageError
from actsearch.functions import find_all
from actsearch.results.records import Outcome
from actsearch.results.store import Store
from actsearch.search_space.activation import Activation, MakeActivation
from actsearch.search_space.baselines import BASELINES, MODERN
from actsearch.search_space.candidate import candidate_from
from actsearch.searching.batch import _to_train
from actsearch.searching.reevaluation import (
    SWEEP_SEED,
    _best,
    _cells,
    _models,
    _rates,
    _sweep,
    reevaluate,
)
from actsearch.settings import resolve

Arrays = tuple[np.ndarray, np.ndarray]
QUICK: dict[str, Any] = {
    "executor": "inline", "quiet": True, "steps": 25, "batch_size": 32, "lr": 0.05,
}  # fmt: skip


def narrow(
    make_activation: MakeActivation, input_shape: tuple[int, ...], classes: int
) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], 8), make_activation(8), nn.Linear(8, classes))


def wide(make_activation: MakeActivation, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], 24), make_activation(24), nn.Linear(24, classes))


class Picky(nn.Module):
    """Has no finite output with tanh, and raises with sin."""

    def __init__(self, make_activation: MakeActivation, inputs: int, classes: int) -> None:
        super().__init__()
        self.act = make_activation(8)
        self.first, self.last = nn.Linear(inputs, 8), nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.act, Activation)
        if str(self.act.expr) == "sin(x)":
            raise RuntimeError("no sines")
        scale = float("inf") if str(self.act.expr) == "tanh(x)" else 1.0
        return self.last(self.act(self.first(x))) * scale


def picky(make_activation: MakeActivation, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Picky(make_activation, input_shape[0], classes)


def test_every_function_trains_on_every_model_with_the_same_seeds(
    tmp_path: Path, blobs: Arrays
) -> None:
    x, y = blobs
    table = reevaluate(
        tmp_path / "run", functions=["tanh(x)", "sin(x)"], child=[narrow, wide],
        dataset=[(x, y), (-2 * x, y)], seeds=2, **QUICK,
    )  # fmt: skip
    store = actsearch.Run.open(tmp_path / "run").store(readonly=True)
    rows = {row["id"]: row for row in store.rows("reevaluate")}
    trained: dict[str, dict[tuple[str, int], Outcome]] = {}
    for i, outcome in store.outcomes("reevaluate"):
        row = rows[i]
        trained.setdefault(row["protocol"], {})[row["formula"], row["seed"]] = outcome
    both = {"arrays": (x, y), "arrays (2)": (-2 * x, y)}
    models = {make_dataset("arrays", arrays).digest: name for name, arrays in both.items()}
    assert len(trained) == 4
    assert len(table) == 16
    for protocol, outcomes in trained.items():
        assert len(outcomes) == 4 * 2
        betas = outcomes["x * sigmoid(beta * x)", 0].details["betas"][0]
        child = {8: "narrow", 24: "wide"}[len(betas)]  # as wide as the child that had it
        data = models[store.protocol(protocol)["dataset_digest"]]
        scores = {
            formula: [outcomes[formula, seed].test_score or 0 for seed in (0, 1)]
            for formula, _ in outcomes
        }
        for formula, mine in scores.items():
            [found] = table[
                (table["formula"] == formula) & (table["child"] == child) & (table["data"] == data)
            ].to_dict("records")
            assert found["test accuracy"] == pytest.approx(statistics.fmean(mine))
            if formula != "relu(x)":
                paired = [a - b for a, b in zip(mine, scores["relu(x)"], strict=True)]
                assert found["to relu, paired"] == pytest.approx(statistics.fmean(paired))
    store.close()


@pytest.mark.parametrize("together", [tuple, list])
def test_arrays_of_one_data_set_come_as_a_tuple_or_a_list(
    tmp_path: Path, blobs: Arrays, together: type
) -> None:
    table = reevaluate(
        tmp_path / "run", functions=["tanh(x)"], child=narrow, dataset=together(blobs), **QUICK
    )
    assert len(table) == 3
    assert table["test accuracy"].notna().all()


def test_the_same_command_trains_nothing_twice_and_more_seeds_train_the_rest(
    tmp_path: Path, blobs: Arrays
) -> None:
    options: dict[str, Any] = {"functions": ["tanh(x)"], "child": [narrow, wide], "dataset": blobs}
    first = reevaluate(tmp_path / "run", seeds=1, **options, **QUICK)
    run = actsearch.Run.open(tmp_path / "run")
    finished = [row["finished"] for row in run.rows("reevaluate")]
    assert reevaluate(tmp_path / "run", seeds=1, **options, **QUICK).equals(first)
    assert [row["finished"] for row in run.rows("reevaluate")] == finished
    reevaluate(tmp_path / "run", seeds=2, **options, **QUICK)
    assert [row["finished"] for row in run.rows("reevaluate")][: len(finished)] == finished
    assert len(run.rows("reevaluate")) == 2 * len(finished)


def test_a_swept_rate_is_the_best_on_validation_data_and_each_function_has_its_own(
    tmp_path: Path, blobs: Arrays
) -> None:
    table = reevaluate(
        tmp_path / "run", functions=["tanh(x)", "0.05*x*x*x"], child=narrow, dataset=blobs,
        seeds=2, lr_sweep=3, **QUICK,
    )  # fmt: skip
    run = actsearch.Run.open(tmp_path / "run")
    sweep, final = run.rows("sweep"), run.rows("reevaluate")
    assert {row["seed"] for row in sweep} == {SWEEP_SEED}
    assert all(row["test_score"] is None for row in sweep)
    assert {row["seed"] for row in final} == {0, 1}
    store = run.store(readonly=True)
    rates = {p: store.protocol(p)["recipe"]["lr"] for p in {row["protocol"] for row in sweep}}
    store.close()
    assert sorted(rates.values()) == pytest.approx([0.0158, 0.05, 0.158])
    for formula in set(table["formula"]):
        scores = {
            rates[row["protocol"]]: row["val_score"] or -1.0
            for row in sweep
            if row["formula"] == formula
        }
        [used] = {rates[row["protocol"]] for row in final if row["formula"] == formula}
        assert scores[used] == max(scores.values())
        [shown] = table[table["formula"] == formula]["lr"]
        assert float(shown) == used


@pytest.mark.parametrize(
    ("n", "rates"),
    [(1, [0.1]), (2, [0.1, 0.0316]), (3, [0.1, 0.0316, 0.316]),
     (5, [0.1, 0.0316, 0.316, 0.01, 1.0])],
)  # fmt: skip
def test_rates_are_half_a_power_of_ten_apart_around_the_usual_one(
    n: int, rates: list[float]
) -> None:
    assert _rates(0.1, n) == rates


def test_what_fails_on_one_child_is_said_and_the_rest_is_a_table(
    tmp_path: Path, blobs: Arrays
) -> None:
    table = reevaluate(
        tmp_path / "run", functions=["tanh(x)", "sin(x)"], child=[narrow, picky, wide],
        dataset=blobs, seeds=2, **QUICK,
    )  # fmt: skip
    notes = {(r["formula"], r["child"]): r["note"] for r in table.to_dict("records")}
    assert "loss" in notes["tanh(x)", "picky"]
    assert notes["tanh(x)", "picky"].startswith("diverged")
    assert notes["sin(x)", "picky"] == "failed: RuntimeError: no sines"
    others = table[table["note"] == ""]
    assert len(others) == 4 * 3 - 2
    assert others["test accuracy"].notna().all()
    assert table[table["note"] != ""]["test accuracy"].isna().all()


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"dataset": ["no/such.npz"]}, DataError, "no file no/such.npz"),
        ({"child": ["mlp", "resmet8"]}, ValueError, "unknown child 'resmet8'"),
        ({"child": ["resnet8"]}, UsageError, r"resnet8 cannot be built for arrays: .*images"),
        ({"recipe": "published"}, ValueError, "no published recipe of"),
        ({"recipe": "he2015"}, ValueError, "unknown --recipe 'he2015'; did you mean 'he2016"),
        ({"functions": ["tanh(x"]}, ValueError, "tanh"),
        ({"lr_sweep": 0}, ValueError, "--lr-sweep 0 is too small"),
    ],
)
def test_what_cannot_be_is_said_before_anything_trains(
    tmp_path: Path,
    blobs: Arrays,
    options: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    usual = {"functions": ["tanh(x)"], "child": narrow, "dataset": blobs}
    with pytest.raises(error, match=sentence):
        reevaluate(tmp_path / "run", **{**QUICK, **usual, **options})
    assert not (tmp_path / "run" / "run.sqlite").exists()


def test_what_had_too_little_time_is_trained_when_there_is_more(
    tmp_path: Path, blobs: Arrays
) -> None:
    def again(**options: Any) -> list[str]:
        arguments = {"functions": ["tanh(x)"], "child": narrow, "dataset": blobs, "seeds": 1}
        reevaluate(tmp_path / "run", **arguments, **QUICK, **options)
        rows = actsearch.Run.open(tmp_path / "run").rows("reevaluate")
        assert len(rows) == 3
        return sorted({row["status"] for row in rows})

    assert again(timeout=1e-6) == ["timed_out"]
    assert again(timeout=1e-6) == ["timed_out"]
    assert again() == ["ok"]
    assert again(timeout=1e-6) == ["ok"]


def test_of_a_sweep_what_failed_is_never_the_best_rate(tmp_path: Path, blobs: Arrays) -> None:
    """Where one rate failed another is taken, and where all did the usual one."""
    config = ReevaluateConfig(seeds=1, lr_sweep=3, steps=25, batch_size=32, lr=0.05)
    [model] = _models(config, vars(config), {}, [narrow], [blobs], ())
    failed = Outcome("failed", "OutOfMemoryError")
    outcomes = {
        candidate_from("sin(x)"): [
            failed,
            Outcome("ok", val_score=0.1),
            Outcome("diverged", "nan"),
        ],
        candidate_from("tanh(x)"): [failed, failed, Outcome("timed_out", "longer than 1 s")],
    }
    functions = dict.fromkeys(outcomes, "")
    store = Store(tmp_path / "run.sqlite", create=True)
    for evaluator in model.evaluators:
        store.add_protocol(evaluator.protocol_hash, evaluator.protocol)
    swept = [(expr, i) for i in range(3) for expr in functions]
    for trial, (expr, i) in zip(_sweep(store, functions, [model]), swept, strict=True):
        store.record(trial, outcomes[expr][i])
    cells = _cells(store, functions, [model])
    assert [cell.evaluator.recipe.lr for cell in cells] == [0.0158, 0.05]
    store.close()


def test_seeds_that_chose_a_function_are_not_used_to_judge_it(
    tmp_path: Path, blobs: Arrays
) -> None:
    """The search's own, where all else is the search's; with another recipe it chose nothing."""
    options = {"child": narrow, "dataset": blobs, **QUICK}
    run = actsearch.search(tmp_path / "run", space="tiny", budget=1, seed=5, **options)

    def seeds(**changes: Any) -> set[int]:
        before = len(run.rows("reevaluate"))
        reevaluate(run, functions=["relu"], seeds=2, **{**options, **changes})
        return {row["seed"] for row in run.rows("reevaluate")[before:]}

    assert seeds() == {6, 7}
    assert seeds(steps=7) == {0, 1}


@pytest.mark.parametrize(
    ("outcome", "timeout", "again"),
    [
        (None, None, True),
        (Outcome("ok", val_score=0.5, seconds=5.0), None, False),
        (Outcome("failed", "RuntimeError", seconds=5.0), None, False),
        (Outcome("timed_out", "longer than 5 s", seconds=5.0), None, True),
        (Outcome("timed_out", "longer than 5 s", seconds=5.0), 6.0, True),
        (Outcome("timed_out", "longer than 5 s", seconds=5.0), 5.0, False),
        (Outcome("timed_out", "longer than 5 s", seconds=5.0), 1.0, False),
    ],
)
def test_only_what_may_end_differently_is_trained_again(
    outcome: Outcome | None, timeout: float | None, again: bool
) -> None:
    assert _to_train(outcome, timeout) == again


def test_the_best_of_a_search_are_others_than_those_trained_beside_it(
    tmp_path: Path, blobs: Arrays
) -> None:
    run = actsearch.search(
        tmp_path / "run", space="tiny", child=narrow, dataset=blobs, budget=4, **QUICK
    )
    store = run.store()
    store._db.execute(
        "UPDATE outcomes SET val_score = (SELECT CASE label WHEN '' THEN 0.5 ELSE 0.9 END "
        "FROM trials WHERE id = outcomes.trial) WHERE status = 'ok'"
    )
    store._db.commit()
    store.close()
    labels = {entry.expression: entry.label for entry in run.leaderboard()}
    best = _best(run, 2)
    assert len(best) == 2
    assert [labels[expression] for expression in best] == ["", ""]


def test_a_search_on_objects_is_re_evaluated_on_the_same_objects_or_on_what_is_named(
    tmp_path: Path, blobs: Arrays
) -> None:
    run = actsearch.search(
        tmp_path / "run", space="tiny", child=narrow, dataset=blobs, budget=1, **QUICK
    )
    with pytest.raises(UsageError, match="was given its child as an object of Python"):
        reevaluate(run, dataset=blobs, seeds=1, **QUICK)
    with pytest.raises(UsageError, match="was given its dataset as an object of Python"):
        reevaluate(run, child=narrow, seeds=1, **QUICK)
    assert run.reevaluations() == []
    assert len(reevaluate(run, child=narrow, dataset=blobs, seeds=1, **QUICK)) == 3


def test_the_papers_baselines_are_all_nine(tmp_path: Path, blobs: Arrays) -> None:
    table = reevaluate(
        tmp_path / "run", functions=["x * sigmoid(x)", "tanh(x)"], child=narrow, dataset=blobs,
        seeds=1, baselines="paper", **QUICK,
    )  # fmt: skip
    assert set(table["name"]) == {*BASELINES, "silu", ""} - {"swish-1"}
    assert len(table) == 10


def test_baselines_are_groups_names_and_formulas_in_any_mixture(
    tmp_path: Path, blobs: Arrays
) -> None:
    table = reevaluate(
        tmp_path / "run", functions=["tanh(x)"], child=narrow, dataset=blobs, seeds=1,
        baselines=["modern", "elu", "x * sin(x)"], **QUICK,
    )  # fmt: skip
    assert set(table["name"]) == {"relu", "swish", *MODERN, "elu", ""}
    assert set(table["formula"]) >= {"tanh(x)", "x * sin(x)"}
    assert len(table) == 2 + 10 + 3


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("modem", "unknown group of functions 'modem'; did you mean 'modern'?"),
        ("mishh", "unknown function 'mishh'"),
        ("nothing#x", "no RUN#RANK"),
    ],
)
def test_a_word_that_means_no_baseline_is_refused_in_a_sentence(word: str, sentence: str) -> None:
    with pytest.raises((ValueError, UsageError), match=re.escape(sentence)):
        find_all([word])


def test_a_published_recipe_is_each_childs_own_and_parts_of_it_are_replaced() -> None:
    config = ReevaluateConfig(recipe="published", steps=500)
    stored = {"lr": 0.3, "steps": 9, "child": "cnn"}
    wide, dense = (
        resolve({**vars(config), "child": child, "dataset": None}, stored)
        for child in ("wide_resnet:width=2", "densenet")
    )
    assert (wide.weight_decay, wide.schedule, wide.lr) == (5e-4, "wide-step", 0.1)
    assert (dense.weight_decay, dense.batch_size) == (1e-4, 64)
    assert wide.optimiser == dense.optimiser == "nesterov"
    assert wide.steps == dense.steps == 500


def test_a_search_by_a_published_recipe_keeps_it_on_resume() -> None:
    first = resolve(vars(SearchConfig(child="preact_resnet", recipe="published", steps=100)))
    assert (first.schedule, first.steps, first.lr) == ("warm-step", 100, 0.1)
    assert resolve(vars(SearchConfig(budget=5)), vars(first)) == replace(first, budget=5)


def test_what_became_of_the_activations_is_kept(tmp_path: Path, blobs: Arrays) -> None:
    reevaluate(tmp_path / "run", functions=["tanh(x)"], child=narrow, dataset=blobs, **QUICK)
    store = actsearch.Run.open(tmp_path / "run").store(readonly=True)
    found = {row["id"]: row for row in store.rows("reevaluate")}
    details = {found[i]["label"]: outcome.details for i, outcome in store.outcomes("reevaluate")}
    store.close()
    assert len(details["swish"]["betas"][0]) == 8
    assert details["relu"]["betas"] == []
    counts = [sum(d["preactivations"]["counts"]) for d in details.values()]
    assert all(a == b for a, b in itertools.pairwise(counts))
