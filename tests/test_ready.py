"""Ready models as children, and what they are trained for: a regression, and token ids."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actsearch
from actsearch.child_models.data.data import Data, DataError
from actsearch.child_models.data.labelled import make_dataset
from actsearch.child_models.data.regression import LOSSES, Regression, make_regression
from actsearch.child_models.data.sources import load
from actsearch.child_models.data.tasks import TASKS
from actsearch.child_models.data.text import tokens
from actsearch.child_models.data.torchvision_import import import_torchvision
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.ready import Ready, kept, ready
from actsearch.child_models.networks.replacement import Site
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import LOSSES as ALL_LOSSES
from actsearch.child_models.recipe import Recipe
from actsearch.cli import main
from actsearch.errors import RunError, UsageError
from actsearch.reading.telling import command
from actsearch.results.metrics import METRICS, Metric
from actsearch.results.records import Outcome, Trial
from actsearch.run import Run
from actsearch.search_space.activation import Activation
from actsearch.searching.building import recipe_of
from actsearch.settings import SearchOptions, resolve

CPU = torch.device("cpu")
SPACE = "units=1;unary=identity,relu,sin;binary=add"
INLINE: dict[str, Any] = {"executor": "inline", "quiet": True, "space": SPACE, "steps": 12}
RECIPE = Recipe(steps=12, batch_size=16, lr=0.01, optimiser="adam", loss="mse")


def table(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Three columns, and a target of its own scale and place."""
    x = np.random.default_rng(0).normal(size=(n, 3))
    return x, 1000 + 50 * np.sin(x[:, 0]) + 20 * x[:, 1]


def net(outputs: int = 1, width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, outputs))


@dataclass
class Config:
    gain: float


class Keeps(nn.Module):
    """What trainings do not draw: a buffer, a number and a function under private names, one of a
    configuration, and a parameter that its own reset leaves out."""

    def __init__(self, *, buffer: float = 1.0, own: float = 1.0, gate: Any = torch.sin,
                 gain: float = 1.0, left: float = 1.0) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("buffer", torch.tensor(buffer))
        self.left = nn.Parameter(torch.tensor(left, dtype=torch.bfloat16))
        self.layer = nn.Linear(3, 1)
        self._own, self.gate, self.config = own, gate, Config(gain)

    def reset_parameters(self) -> None:
        self.layer.reset_parameters()

    def extra_repr(self) -> str:
        return repr(object())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(F.gelu(self.layer(x))) * self.buffer * self._own * self.left


class Shifted(nn.Module):
    """A parameter of its own, and a number, beside a layer."""

    def __init__(self, shift: float = 0.5, scale: float = 2.0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((3,), shift))
        self.scale = scale
        self.net = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.scale * x + self.shift)[:, 0]


def trained(child: Any, data: Data, seed: int = 0, **options: Any) -> Outcome:
    evaluator = Evaluator(data, child_from(child, **options), RECIPE)
    return evaluator(Trial(1, "search", "sin(x)", "p", seed))


def regression() -> Regression:
    return make_regression("table", table())


# -- where parameters begin


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten()),
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        lambda: nn.Sequential(nn.Embedding(5, 4), nn.LSTM(4, 4), nn.LayerNorm(4)),
        net,
    ],
)
def test_a_copy_begins_as_its_constructor_would_with_the_trainings_seed(
    build: Callable[[], nn.Module],
) -> None:
    copied = ready(build().requires_grad_())
    for seed in (3, 4):
        torch.manual_seed(seed)
        wanted = build().state_dict()
        torch.manual_seed(seed)
        found = copied.fresh().state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_what_nobody_draws_anew_begins_as_given_and_the_plan_says_so(tmp_path: Path) -> None:
    model = Shifted()
    model.shift.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert [*kept(model)] == ["shift"]
    assert torch.equal(ready(model).fresh().get_parameter("shift"), model.shift)
    assert child_from(model).note.startswith("shift begins as given in every training")
    assert child_from(net()).note == child_from(lambda: Shifted()).note == ""


def test_a_function_builds_each_model_and_its_weights_are_its_own() -> None:
    calls: list[None] = []

    def pretrained() -> nn.Module:
        calls.append(None)
        model = net()
        nn.init.constant_(model[0].weight, 0.25)  # type: ignore[arg-type]
        return model

    child = ready(pretrained)
    assert (child.fresh().get_parameter("0.weight") == 0.25).all()
    assert child.fresh() is not child.fresh()
    assert len(calls) == 3


def test_a_training_leaves_the_users_model_alone() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outcome = trained(model, regression())
    assert outcome.status == "ok", outcome.reason
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(isinstance(module, Site) for module in model.modules())


def test_a_seed_gives_the_same_outcome_and_another_seed_another() -> None:
    scores = [trained(net(), regression(), seed).val_score for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


# -- where the candidate goes


def places(child: Any, data: Data, **options: Any) -> list[tuple[int | None, int]]:
    model = Evaluator(data, child_from(child, **options), RECIPE).build("scale(x)")
    return [(m.channels, m.channel_dim) for m in model.modules() if isinstance(m, Activation)]


class Two(nn.Module):
    """A module and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Linear(3, 4), nn.Tanh()
        self.second = nn.Linear(4, 6)
        self.last = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.silu(self.second(self.gate(self.first(x)))))


@pytest.mark.parametrize(
    ("match", "widths"),
    [
        (None, [6]),
        (nn.Tanh, [4]),
        ((nn.Tanh, F.silu), [4, 6]),
        ("nn.Tanh,F.silu", [4, 6]),
        ("torch.nn:Tanh", [4]),
    ],
)
def test_what_matches_gives_way_to_the_candidate(match: Any, widths: list[int]) -> None:
    assert sorted(places(Two(), regression(), match=match)) == [(w, 1) for w in widths]


@pytest.mark.parametrize("example", [None, table(4)[0], torch.ones(2, 3)])
def test_an_example_shows_places_and_widths_and_may_be_left_out(example: Any) -> None:
    assert places(net(), regression(), example=example) == [(8, 1)]


# -- what a run keeps of it


def changed(model: nn.Module, change: Callable[[Any], Any]) -> nn.Module:
    change(model)
    return model


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (lambda: Shifted(), True),
        (lambda: changed(Shifted(), lambda m: nn.init.ones_(m.net[0].weight)), True),
        (lambda: Shifted(0.75), False),
        (lambda: Shifted(scale=3.0), False),
        (lambda: changed(Shifted(), lambda m: setattr(m, "net", net(width=9))), False),
        (lambda: changed(Shifted(), lambda m: m.net[0].weight.requires_grad_(False)), False),
    ],
)
def test_a_digest_is_of_all_but_what_each_training_draws(
    other: Callable[[], nn.Module], same: bool
) -> None:
    assert (child_from(Shifted()).digest == child_from(other()).digest) is same


@pytest.mark.parametrize(
    "other", [{"buffer": 2.0}, {"own": 2.0}, {"gate": torch.cos}, {"gain": 2.0}, {"left": 2.0}]
)
def test_a_digest_is_of_all_that_a_module_keeps(other: dict[str, Any]) -> None:
    usual = Keeps()
    known = child_from(usual).digest
    with torch.no_grad():
        usual.layer.weight.add_(1.0)
    assert child_from(usual).digest == known == child_from(Keeps()).digest
    assert child_from(Keeps(**other)).digest != known
    assert child_from(usual).note.startswith("left begins as given in every training")


@pytest.mark.thorough
def test_a_function_of_the_grammar_in_a_model_stays_what_it_is_in_workers() -> None:
    model = nn.Sequential(nn.Linear(3, 4), Activation("sin(x)"), nn.GELU())
    code = (
        "import pickle, sys; from actsearch import Activation; "
        "built = pickle.load(sys.stdin.buffer).build.model; sys.exit(type(built[1]) is Activation)"
    )
    sent = pickle.dumps(child_from(model))
    assert subprocess.run([sys.executable, "-c", code], input=sent, check=False).returncode == 1


@pytest.mark.thorough
def test_a_digest_is_of_what_matches_and_the_same_in_another_process() -> None:
    usual, other = child_from(Two()), child_from(Two(), match=nn.Tanh)
    assert usual.digest.startswith("Two-")
    assert usual.digest != other.digest
    code = (
        "from tests.test_ready import Two, child_from; import sys; "
        "sys.stdout.write(child_from(Two()).digest)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == usual.digest


MODULE = """
import torch
from torch import nn

class Gate(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.7 * x)

model = nn.Sequential(nn.Linear(3, 8), Gate(), nn.Linear(8, 1))

def net(make_activation, targets):
    return nn.Sequential(nn.Linear(3, 8), make_activation(8), nn.Linear(8, targets))
"""


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def test_a_model_whose_source_has_changed_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**INLINE, "dataset": table(), "task": "regression", "child": "mine:model",
               "match": "mine:Gate", "budget": 1}  # fmt: skip
    with monkeypatch.context() as patch:
        module(tmp_path / "1", patch, MODULE)
        run = actsearch.search(tmp_path / "run", **options)
    module(tmp_path / "2", monkeypatch, MODULE.replace("1.7", "1.8"))
    with pytest.raises(RunError, match=r"the child Sequential has changed .*undo the change"):
        actsearch.search(tmp_path / "run", **options)
    assert run.counts()["ok"] >= 1


# -- what cannot be


def moved() -> nn.Module:
    return net().to("meta")


def unnamed() -> int:
    return 3


@pytest.mark.parametrize(
    ("child", "options", "sentence"),
    [
        (net(), {"match": nn.Tanh}, "has no Tanh to replace; its modules are GELU, Linear"),
        (nn.Linear(3, 1), {}, "calls none of the usual activations.*its modules are Linear"),
        (net(), {"match": ()}, r"match is empty; leave it out, or give some, as match=\(nn.GELU"),
        (net(), {"match": "GELU"}, "match 'GELU' is no activation of torch; write it as nn.GELU"),
        (net(), {"match": max}, "match takes types of modules and functions of torch"),
        (net(), {"example": np.zeros((2, 7))}, r"shape \(2, 7\) .*data's inputs have \(n, 3\)"),
        (net(), {"example": np.zeros((2, 3), int)}, "type torch.int64, but the data's inputs"),
        (net(), {"example": "x"}, "the example is a str; give a batch of inputs"),
        (net(2), {}, r"returns \(2, 2\) for 2 examples.*a number for each target: \(2, 1\)"),
        (nn.Sequential(nn.Linear(4, 1), nn.GELU()), {}, r"fails on inputs of shape \(2, 3\)"),
        (moved(), {}, r"has 0.weight on meta; give it on the processor \(model.cpu\(\)\)"),
        (moved, {}, "has 0.weight on meta"),
        (nn.Sequential(nn.LazyLinear(4), nn.GELU()), {}, "does not know the shape of 0.weight yet"),
        (unnamed, {}, "unnamed returns a int; give a function without arguments"),
        ("mlp", {"match": nn.GELU}, "match is for a model that is built already.*leave it out"),
        ("nowhere:net", {}, "unknown child 'nowhere'.*torchvision:NAME, timm:NAME, my_module:NAME"),
        ("json:dmp", {}, "unknown name in json 'dmp'; did you mean 'dump'"),
    ],
)
def test_a_model_that_cannot_be_a_child_gets_a_sentence(
    child: Any, options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence) as told:
        actsearch.search(
            tmp_path / "run", child=child, dataset=table(), task="regression", **INLINE, **options
        )
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


# -- regression


class Constant(nn.Module):
    """Predicts its parameter for every example, whatever x."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value.expand(len(x), 1)


@pytest.mark.parametrize("metric", ["R2", "RMSE"])
def test_scores_are_of_targets_in_their_own_units(metric: str) -> None:
    data = regression().scored_by(METRICS[metric])
    task = data.on(CPU)
    for value in (0.0, 0.5):  # in deviations of the training targets
        guess = data.y_train.mean() + value * data.y_train.std()
        mse = ((data.y_val - guess) ** 2).mean()
        wanted = {"R2": 1 - mse / data.y_val.var(), "RMSE": math.sqrt(mse)}[metric]
        assert task.score(Constant(value), RECIPE, "val") == pytest.approx(wanted, rel=1e-4)


def test_r2_is_the_mean_over_targets_and_rmse_is_over_all() -> None:
    x, y = table()
    data = make_regression("two", (x, np.stack([y, -3 * y], 1)))
    assert data.facts == {"input_shape": (3,), "targets": 2}
    errors = ((data.y_val - data.y_train.mean(0)) ** 2).mean(0)
    model = Constant(0.0)
    model.forward = lambda x: torch.zeros(len(x), 2)  # type: ignore[method-assign]
    r2 = (1 - errors / data.y_val.var(0)).mean()
    assert data.on(CPU).score(model, RECIPE, "val") == pytest.approx(r2, rel=1e-4)
    rmse = data.scored_by(METRICS["RMSE"]).on(CPU).score(model, RECIPE, "val")
    assert rmse == pytest.approx(math.sqrt(errors.mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ("mse", lambda off: off**2),
        ("l1", abs),
        ("huber", lambda off: np.where(abs(off) < 1, off**2 / 2, abs(off) - 0.5)),
    ],
)
def test_the_loss_is_of_standardised_targets(loss: str, wanted: Callable[[Any], Any]) -> None:
    data = regression()
    task = data.on(CPU)
    x, y = next(task.batches(RECIPE, 0))
    off = 0.25 - (y.numpy() - data.y_train.mean()) / data.y_train.std()
    found = task.loss(Constant(0.25), (x, y), Recipe(loss=loss))
    assert found.item() == pytest.approx(wanted(off).mean(), rel=1e-3)


def test_inputs_and_targets_are_standardised_by_the_training_split() -> None:
    data = regression()
    x, _ = next(data.on(CPU).batches(Recipe(batch_size=len(data.x_train)), 0))
    assert x.mean(0).numpy() == pytest.approx(0, abs=1e-5)
    assert data.y_mean == pytest.approx(data.y_train.mean())
    assert data.sizes == {"train": 87, "val": 9, "test": 24}


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (np.array(["a"] * 40), "targets of type <U1 are no real numbers"),
        (np.ones(40, complex), "targets of type complex128 are no real numbers"),
        (np.where(np.arange(40) == 7, np.nan, np.arange(40)), "target of example 7 is NaN"),
        (np.arange(39), r"inputs \(40, 3\) and targets \(39,\) do not fit"),
        (np.zeros((40, 2, 2)), "do not fit"),
        (1.7e9 + np.arange(40) * 9.0, r"around 1.7e\+09 that vary by 104 are rounded by up to"),
        (np.ones(40), "a target is the same, in float32, in all 29 examples to train on"),
    ],
)
def test_targets_that_cannot_be_get_a_sentence(y: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        make_regression("d", (np.zeros((40, 3)), y))


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (([[1.0, 2.0], [3.0]], [1.0, 2.0]), "d: rows of different lengths are no array"),
        ((np.zeros(3),), "d: one array; give inputs and what is to be predicted"),
    ],
)
def test_what_is_no_pair_of_arrays_gets_a_sentence(arrays: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        TASKS["regression"].from_arrays("d", arrays)


def test_labels_that_are_floats_are_told_of_the_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not float64; targets that are .*--task regression"):
        actsearch.search(tmp_path / "run", child=net(), dataset=table(), **INLINE)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"metric": "accuracy"}, "scored by R2 or RMSE, not by 'accuracy'"),
        ({"minimise": "R2"}, "R2 is better where it is higher"),
        ({"loss": "softmax"}, "--loss softmax is not for arrays.*choose mse or huber or l1"),
        ({"label_smoothing": 0.1}, "--label-smoothing is for labels"),
        ({"momentum": 0.5}, "--momentum is of sgd and nesterov, and adamw has"),
        ({"dataset": "mnist5k"}, "mnist5k is data for classification; leave out the task"),
        ({"child": "mlp"}, "asks for classes.*targets with a model of your own"),
    ],
)
def test_what_does_not_go_with_a_regression_is_said(
    said: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    given = {"child": net(), "dataset": table(), "task": "regression", **INLINE, **said}
    with pytest.raises((ValueError, UsageError, DataError), match=sentence):
        actsearch.search(tmp_path / "run", **given)


def test_every_loss_is_of_one_task_or_another_and_each_task_has_a_usual_one() -> None:
    assert {loss for row in TASKS.values() for loss in row.losses} == {*ALL_LOSSES}
    assert set(TASKS["regression"].losses) == set(LOSSES)
    data = {"regression": regression(), "classification": make_dataset("d", labels())}
    for task, made in data.items():
        settings = resolve({"task": task})
        assert recipe_of(settings, made).loss == TASKS[task].losses[0]


def test_a_child_of_another_task_says_so_and_no_loss_that_nobody_gave(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"convnext:width=16 asks for classes, .* targets"):
        actsearch.search(tmp_path / "run", dataset=table(), task="regression", **INLINE)


def labels() -> tuple[np.ndarray, np.ndarray]:
    x, y = table()
    return x, (y > y.mean()).astype(int)


def test_what_a_recipe_has_is_an_option_of_a_search() -> None:
    said: dict[str, Any] = {
        "momentum": 0.5, "weight_decay": 0.02, "clip": 2.0, "label_smoothing": 0.1,
        "loss": "sigmoid", "optimiser": "nesterov", "schedule": "warm-cosine",
    }  # fmt: skip
    settings = resolve(vars(SearchOptions(**said)))
    recipe = recipe_of(settings, make_dataset("d", labels()))
    assert {name: getattr(recipe, name) for name in said} == said


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ({}, {"task", "match", "metric", "loss"}),
        ({"dataset": "table.npz"}, {"task", "match", "metric", "loss"}),
        ({"dataset": "mnist5k"}, {"match"}),
        ({"dataset": (), "task": "classification"}, {"task", "match"}),
        ({"child": "mlp"}, {"task", "metric", "loss"}),
    ],
)
def test_what_a_run_has_stored_of_its_data_and_child_is_not_for_others(
    said: dict[str, Any], left: set[str]
) -> None:
    stored = {"dataset": "table.npz", "child": "mine:model", "task": "regression",
              "match": "nn.GELU", "metric": "RMSE", "loss": "huber"}  # fmt: skip
    settings = resolve(said, stored)
    names = ("task", "match", "metric", "loss")
    assert {name for name in names if getattr(settings, name) is not None} == left


def test_a_ready_model_classifies() -> None:
    outcome = trained(net(2), make_dataset("d", labels()), match=nn.GELU)
    assert outcome.status == "failed"  # whose recipe is of a regression
    evaluator = Evaluator(make_dataset("d", labels()), child_from(net(2)), Recipe(steps=40))
    outcome = evaluator(Trial(1, "search", "relu(x)", "p", 0))
    assert outcome.val_score is not None
    assert outcome.val_score > 0.7


def test_a_child_of_ones_own_with_too_few_outputs_is_said_before_it_trains(tmp_path: Path) -> None:
    def narrow(make_activation: Callable[[int], nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), make_activation(4), nn.Linear(4, 1))

    with pytest.raises(UsageError, match="narrow returns 1 logits, and arrays has 2 classes"):
        actsearch.search(tmp_path / "run", child=narrow, dataset=labels(), **INLINE)


# -- whole searches


def test_a_regression_is_searched_resumed_and_read_by_commands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module(tmp_path, monkeypatch, MODULE)
    x, y = table()
    np.savez("table.npz", x_train=x, y_train=y)
    asked = ["search", "run", "--child", "mine:model", "--match", "mine:Gate", "--dataset",
             "table.npz", "--task", "regression", "--minimise", "RMSE", "--space", SPACE,
             "--steps", "12", "--executor", "inline", "--loss", "huber"]  # fmt: skip
    assert main([*asked, "--budget", "1"]) == 0
    assert main(["search", "run", "--budget", "3"]) == 0
    run = Run.open("run")
    assert run.metric == METRICS["RMSE"]
    scores = [e.val_score for e in run.leaderboard() if e.rank is not None]
    assert len(scores) == 6  # with ReLU, Swish and the identity
    assert scores == sorted(scores)
    protocol = run.config["identity"]["protocol"]
    assert protocol["score"] == "RMSE (lower is better)"
    assert protocol["recipe"]["loss"] == "huber"
    capsys.readouterr()
    again = ["--top", "1", "--seeds", "2", "--executor", "inline", "-f", "json"]
    assert main(["reevaluate", "run", *again]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert "test RMSE" in rows[0]
    assert rows[0]["test RMSE"] <= rows[1]["test RMSE"]
    told = command(run)
    assert all(part in told for part in ("--minimise RMSE", "--match mine:Gate", "--loss huber"))
    assert main([*asked[:-2], "--loss", "l1"]) != 0


def test_a_metric_may_say_the_unit_of_the_targets_and_the_run_keeps_it(tmp_path: Path) -> None:
    given = {**INLINE, "child": net(), "dataset": table(), "budget": 1}
    metric = Metric("RMSE", "min", unit="kPa")
    actsearch.search(tmp_path / "run", task="regression", metric=metric, **given)
    again = actsearch.search(tmp_path / "run", **{**given, "budget": 2})
    assert again.metric == metric
    assert again.counts()["ok"] == 5  # with ReLU, Swish and the identity
    with pytest.raises(RunError, match="score=RMSE"):
        actsearch.search(tmp_path / "run", metric="R2", **given)


@pytest.mark.parametrize(
    "child", [{"child": "mine:model", "match": "mine:Gate"}, {"child": "mine:net"}]
)
def test_rays_workers_train_a_child_of_a_module_that_only_the_driver_finds(
    child: dict[str, str], ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, monkeypatch, MODULE)
    options = {**INLINE, "dataset": table(), "task": "regression", "budget": 1, **child}
    far = actsearch.search(tmp_path / "far", **{**options, "executor": "ray", "workers": 1})
    here = actsearch.search(tmp_path / "here", **options)
    assert [e.val_score for e in far.leaderboard()] == [e.val_score for e in here.leaderboard()]


# -- token ids


def test_token_ids_are_split_in_their_order_and_seen_as_they_are(tmp_path: Path) -> None:
    ids = np.arange(400) % 300
    data = tokens(ids, context=8)
    assert data.facts == {"vocabulary": 300, "context": 8}
    assert [data.splits[s].tolist() for s in ("train", "val", "test")] == [
        ids[:320].tolist(), ids[320:360].tolist(), ids[360:].tolist()
    ]  # fmt: skip
    seen, following = next(data.on(CPU).batches(Recipe(batch_size=4), 0))
    assert torch.equal(following, (seen + 1) % 300)
    np.save(tmp_path / "ids.npy", ids)
    loaded = load(f"{tmp_path}/ids.npy:context=8,vocabulary=512")
    assert loaded.facts == {"vocabulary": 512, "context": 8}
    assert loaded.metric == METRICS["bits per token"]
    assert loaded.digest != data.digest


class Uniform(nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, 64)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary() -> None:
    data = tokens(np.arange(400) % 64, context=8)
    assert data.on(CPU).score(Uniform(), RECIPE, "test") == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("ids", "options", "sentence"),
    [
        (np.arange(60), {"context": 8}, r"6 tokens to validate .*of about 90 tokens or more$"),
        (
            np.arange(500),
            {},
            r"about 650 tokens or more, or .* actsearch.tokens\(ids, context=16\)",
        ),
        (np.arange(400.0), {}, "type float64 is no sequence of token ids"),
        (np.zeros((20, 20), int), {}, r"shape \(20, 20\) and"),
        (np.arange(400) - 1, {}, "from -1 to 398, and no token has a negative id; number tokens"),
        (np.arange(35) - 3, {"vocabulary": 32}, "from -3 to 31, and no token has a negative id"),
        (np.arange(400), {"vocabulary": 300}, "give vocabulary=400"),
        (np.arange(400), {"context": 0}, "context=0 needs a whole number of 1 or more"),
        ("text", {}, "is no sequence of token ids"),
    ],
)
def test_token_ids_that_cannot_be_get_a_sentence(
    ids: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        tokens(ids, **options)


class Reads(nn.Module):
    """Embeds, mixes with what came before, or with all, and says logits. `share` is how much of all
    it takes to begin with."""

    def __init__(self, ahead: bool, share: float = 1.0) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((6,), share))
        self.embed, self.up, self.out = nn.Embedding(8, 6), nn.Linear(6, 6), nn.Linear(6, 8)
        self.ahead = ahead

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = self.share * x.mean(1, keepdim=True) + x if self.ahead else x.cumsum(1) / 8
        return self.out(F.gelu(self.up(x)))


def test_a_language_model_that_sees_what_it_is_to_predict_is_refused(tmp_path: Path) -> None:
    given = {**INLINE, "dataset": tokens(np.arange(400) % 8, context=8), "budget": 1}
    run = actsearch.search(tmp_path / "back", child=Reads(ahead=False), **given)
    assert run.metric.name == "bits per token"
    assert run.settings["optimiser"] == "adamw"  # the recipe of language models
    with pytest.raises(ValueError, match="Reads sees the tokens that it is to predict"):
        actsearch.search(tmp_path / "ahead", child=Reads(ahead=True), **given)
    with pytest.raises(ValueError, match="Reads sees the tokens that it is to predict"):
        actsearch.search(tmp_path / "branch", child=Reads(ahead=True, share=0.0), **given)


def test_a_model_of_one_token_at_a_time_cannot_see_others() -> None:
    tokens(np.arange(400) % 8, context=1).check_looks_back(Reads(ahead=True), "reads")


def gpt2() -> nn.Module:
    import_torchvision()  # before transformers imports it
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    config = library.GPT2Config(
        vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return library.GPT2LMHeadModel(config)


def test_a_gpt2_of_transformers_is_a_child(tmp_path: Path) -> None:
    gpt2()
    from transformers.activations import NewGELUActivation  # pyright: ignore

    run = actsearch.search(
        tmp_path / "run", child=gpt2, match=NewGELUActivation, budget=1,
        dataset=tokens(np.arange(400) % 8, context=8), **INLINE,
    )  # fmt: skip
    scores = {e.formula: e.val_score for e in run.leaderboard() if e.rank is not None}
    assert len(scores) >= 2
    assert all(score is not None and 0 < score < 4 for score in scores.values())
    assert places(gpt2, tokens(np.arange(400) % 8, context=8), match=NewGELUActivation) == [
        (32, -1)
    ]


def test_a_model_of_timm_is_a_child() -> None:
    import_torchvision()  # before timm imports it
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("resnet10t", num_classes=2)
    x = np.random.default_rng(0).normal(size=(40, 3, 32, 32))
    data = make_dataset("d", (x, np.arange(40) % 2))
    assert len(places(model, data)) == 11
    assert isinstance(child_from(model).build, Ready)
