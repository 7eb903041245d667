"""Objectives: trainings of the user's own, searched, raced, resumed and read like children."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import actsearch
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.objective import ObjectiveEvaluator
from actsearch.child_models.users_own import Objective, objective_from
from actsearch.cli import main
from actsearch.errors import RunError, UsageError
from actsearch.results.metrics import Metric
from actsearch.results.records import AtMilestone, Cause, Milestone, Outcome, Trial

from .conftest import LIMIT

LOCK = threading.Lock()  # of which nobody can be sent a copy
MSE = Metric("mse", "min")
OPTIONS: dict[str, Any] = {
    "space": "units=1;unary=identity,relu,sin;binary=add",
    "metric": MSE,
    "steps": 20,
    "executor": "inline",
    "quiet": True,
}


def train(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
    """The fit of |x|, in a moment."""
    x = torch.linspace(-1, 1, 64)[:, None]
    model = nn.Sequential(nn.Linear(1, 8), make_activation(8), nn.Linear(8, 1))
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        loss = (model(x) - x.abs()).square().mean()
        loss.backward()
        optimiser.step()
        report(step, loss.item())
    return {"mse": loss.item(), "test_mse": 10 + loss.item(), "steps": steps}


def outcome_of(objective: Any, kind: str = "search", **trial: Any) -> Outcome:
    evaluator = ObjectiveEvaluator(objective_from(objective), MSE, 20, test=True)
    return evaluator(Trial(1, kind, "relu(x)", "p", 0, **trial))


def outcomes(run: actsearch.Run, kind: str = "search") -> dict[str, Outcome]:
    with closing(run.store(readonly=True)) as store:
        formulas = {row["id"]: row["formula"] for row in store.rows(kind)}
        found = {formulas[number]: outcome for number, outcome in store.outcomes(kind)}
    return {formula: o for formula, o in found.items() if o.status != "rejected"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> actsearch.Run:
    return actsearch.search(tmp_path_factory.mktemp("runs") / "a", objective=train, **OPTIONS)


def test_the_score_that_is_named_is_searched_for_in_its_direction(found: actsearch.Run) -> None:
    entries = [e for e in found.leaderboard() if e.rank is not None]
    assert [e.val_score for e in entries] == sorted(e.val_score for e in entries)
    assert found.metric == MSE
    assert "val mse" in found.table().columns


def test_an_outcome_holds_all_scores_and_the_curve_but_no_test_score(found: actsearch.Run) -> None:
    for outcome in outcomes(found).values():
        assert outcome.status == "ok"
        assert outcome.details["scores"]["steps"] == 20
        assert outcome.details["scores"]["mse"] == outcome.val_score
        assert outcome.test_score is None
        assert [step for step, _ in outcome.curve] == list(range(1, 21))
        assert outcome.ms_per_step is not None


def test_the_seed_decides_where_the_objective_draws_without_one() -> None:
    assert outcome_of(train).val_score == outcome_of(train).val_score


def test_a_search_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    count = tmp_path / "count"

    def broken(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
        calls = int(count.read_text()) + 1 if count.exists() else 1
        count.write_text(str(calls))
        if calls == 4:
            raise KeyboardInterrupt
        return train(make_activation, seed, steps, report)

    with pytest.raises(KeyboardInterrupt):
        actsearch.search(tmp_path / "a", objective=broken, **OPTIONS)
    run = actsearch.search(tmp_path / "a", objective=broken, **OPTIONS)
    trained = len(outcomes(run))
    assert int(count.read_text()) == trained + 3  # the one broken off, and a warm-up each time
    assert run.counts()["ok"] == trained


# -- what becomes of a training


def bad(value: Any) -> Callable[..., Any]:
    def returns(make_activation: Any, seed: int, steps: int, report: Any) -> Any:
        make_activation(3)
        return value

    return returns


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "returns returned nothing, but it is to return scores by name, as {'mse': 0.5}"),
        (0.5, "returns returned a float, but it is to return scores by name, as {'mse': 0.5}"),
        ({"loss": 1.0, "r2": 0.5}, "returns returned no 'mse', only loss, r2"),
        ({}, "returns returned no 'mse', nothing"),
        (
            {"mse": torch.tensor(1.0)},
            "returns returned 'mse' as a Tensor, but it must be a number; value.item() makes it a "
            "number",
        ),
        ({"mse": "low"}, "returns returned 'mse' as a str, but it must be a number"),
        ({"mse": True}, "returns returned 'mse' as a bool, but it must be a number"),
        ({"mse": math.nan}, "mse nan at the end"),
    ],
)
def test_an_objective_that_returns_no_score_is_said_before_anything_trains(
    tmp_path: Path, value: Any, sentence: str
) -> None:
    with pytest.raises(UsageError) as refused:
        actsearch.search(tmp_path / "a", objective=bad(value), **OPTIONS)
    assert str(refused.value).startswith("the objective returns fails with ReLU: ")
    assert str(refused.value).endswith(sentence)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_a_divergence(value: float) -> None:
    outcome = outcome_of(bad({"mse": value}))
    assert (outcome.status, outcome.cause, outcome.variant) == (
        "diverged",
        Cause.SCORE,
        str(value),
    )
    assert outcome.reason == f"mse {value} at the end"


@pytest.mark.parametrize(("code", "said"), [(3, "SystemExit: 3"), ("bye", "SystemExit: bye")])
def test_an_objective_that_exits_fails_with_its_function_and_ends_nothing_else(
    tmp_path: Path, code: Any, said: str
) -> None:
    def exits(make_activation: Any, seed: int, steps: int, report: Any) -> Mapping[str, float]:
        if "tanh" in str(make_activation(1)):
            sys.exit(code)
        return {"mse": 1.0}

    options = {**OPTIONS, "space": "tiny", "budget": 2, "start": ["x + tanh(x)", "x + sin(x)"]}
    run = actsearch.search(tmp_path / "a", objective=exits, **options)
    reasons = {o.reason for o in outcomes(run).values() if o.status == "failed"}
    assert reasons == {said}
    with pytest.raises(UsageError, match=f"fails with ReLU: {said}"):
        actsearch.search(tmp_path / "b", objective=lambda *four: sys.exit(code), **OPTIONS)


def test_another_score_may_be_not_finite() -> None:
    outcome = outcome_of(bad({"mse": 1, "spread": math.nan}))
    assert outcome.val_score == 1.0
    assert outcome.details["scores"] == {"mse": 1.0}


def reporting(*losses: Any, catching: bool = False) -> Callable[..., Any]:
    def reports(make_activation: Any, seed: int, steps: int, report: Any) -> Mapping[str, float]:
        make_activation(3)
        for step, loss in enumerate(losses, 1):
            try:
                report(step, loss)
            except Exception:
                if not catching:
                    raise
        return {"mse": 1.0}

    return reports


@pytest.mark.parametrize("catching", [False, True])
def test_a_loss_that_is_not_finite_ends_the_training_at_its_step(catching: bool) -> None:
    outcome = outcome_of(reporting(3.0, 2.0, math.nan, 1.0, catching=catching))
    assert (outcome.status, outcome.cause, outcome.step) == ("diverged", Cause.LOSS, 3)
    assert outcome.reason == "loss nan at step 3"
    assert outcome.curve == ((1, 3.0), (2, 2.0))


@pytest.mark.parametrize("catching", [False, True])
def test_a_race_is_decided_at_the_first_report_from_its_milestone_on(catching: bool) -> None:
    race = (Milestone(2, "loss", 5.0, MSE), Milestone(4, "loss", 0.5, MSE))
    outcome = outcome_of(reporting(3.0, 2.0, 2.0, 1.0, 1.0, catching=catching), race=race)
    assert (outcome.status, outcome.cause, outcome.step) == ("raced_out", Cause.RACED_OUT, 4)
    # Means of 3, 2 and of 3, 2, 2, 1.
    assert outcome.milestones == (AtMilestone(2, 2.5), AtMilestone(4, 2.0))
    assert outcome.reason == "left after 4 steps: its training loss 2 is above 0.5"


def test_an_exception_is_a_failure_with_its_reason() -> None:
    def raises(make_activation: Any, seed: int, steps: int, report: Any) -> Any:
        raise ZeroDivisionError("no batches")

    outcome = outcome_of(raises)
    assert (outcome.status, outcome.cause) == ("failed", Cause.EXCEPTION)
    assert outcome.reason == "ZeroDivisionError: no batches"


def test_a_report_of_no_number_is_a_failure() -> None:
    outcome = outcome_of(reporting(torch.tensor(1.0)))
    assert outcome.status == "failed"
    assert "a loss of a Tensor, but it must be a number; value.item()" in outcome.reason


def test_an_objective_without_activations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="makes no activation by make_activation, so all"):
        actsearch.search(
            tmp_path / "a", objective=lambda make, seed, steps, report: {"mse": 1.0}, **OPTIONS
        )


def test_an_objective_that_yields_is_refused(tmp_path: Path) -> None:
    def train(make_activation: Any, seed: int, steps: int, report: Any) -> Any:
        make_activation(3)
        yield {"mse": 1.0}

    with pytest.raises(
        UsageError, match=r"train is a generator, since it uses yield, but .*return"
    ):
        actsearch.search(tmp_path / "a", objective=train, **OPTIONS)


@pytest.mark.parametrize("option", ["objective", "child"])
def test_a_module_with_a_name_of_pythons_own_is_not_taken_for_it(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("string.py").write_text("def train(make_activation, seed, steps, report): ...")
    given = OPTIONS if option == "objective" else {}
    with pytest.raises(ValueError, match=r"Python's own, which is found instead of string\.py in "):
        actsearch.search("a", **{**given, option: "string:train"})


def test_reports_are_the_beat_of_a_timeout(tmp_path: Path) -> None:
    def endless(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
        make_activation(3)
        for step in range(1, 10**9 if steps == 20 else 6):
            report(step, 1.0)
        return {"mse": 1.0}

    run = actsearch.search(tmp_path / "a", objective=endless, **OPTIONS, timeout=0.05, budget=2)
    assert {o.status for o in outcomes(run).values()} == {"timed_out"}


def test_an_activation_of_an_objective_can_be_differentiated_twice() -> None:
    found: list[float] = []

    def twice(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
        x = torch.linspace(-1, 1, 8, requires_grad=True)
        (slope,) = torch.autograd.grad(make_activation(None)(x).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
        found.extend(curvature.tolist())
        return {"mse": 0.0}

    evaluator = ObjectiveEvaluator(objective_from(twice), MSE, 1)
    assert evaluator(Trial(1, "search", "x**2", "p", 0)).status == "ok"
    assert found == pytest.approx([2.0] * 8)


# -- ways to search


def test_halving_passes_fewer_steps(tmp_path: Path) -> None:
    run = actsearch.search(
        tmp_path / "a",
        objective=train,
        **OPTIONS,
        strategy="random+halving:eta=2,rungs=2,cohort=4",
    )
    short = outcomes(run, "rung").values()
    assert {o.details["scores"]["steps"] for o in short} == {10}
    assert {o.details["scores"]["steps"] for o in outcomes(run).values()} == {20}


def test_racing_stops_trainings_early(tmp_path: Path) -> None:
    options = {**OPTIONS, "space": "tiny"}
    run = actsearch.search(
        tmp_path / "a", objective=train, **options, racing="loss:5=0.3", budget=30
    )
    left = [o for o in outcomes(run).values() if o.status == "raced_out"]
    assert left
    assert all(o.step == 5 for o in left)
    assert run.counts()["raced_out"] == len(left)


def test_groups_are_those_of_the_activations_that_it_makes(tmp_path: Path) -> None:
    options = {**OPTIONS, "groups": 2}
    with pytest.raises(ValueError, match="2 groups of layers need 2 activations or more"):
        actsearch.search(tmp_path / "a", objective=train, **options)


@pytest.mark.thorough
def test_an_own_cluster_trains_an_objective_of_a_module_that_only_the_driver_finds(
    ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, monkeypatch, "sent_objective", MODULE)
    options = {**OPTIONS, "executor": "ray", "workers": 1, "budget": 2}
    run = actsearch.search(tmp_path / "a", objective="sent_objective:train", **options)
    assert {o.val_score for o in outcomes(run).values()} == {22.0}


def test_an_objective_that_cannot_be_sent_is_said_before_anything_trains(tmp_path: Path) -> None:
    options = {**OPTIONS, "executor": "ray"}
    with pytest.raises(ValueError, match=r"cannot be sent to Ray's workers .*'inline'"):
        actsearch.search(tmp_path / "a", objective=lambda *four: LOCK and train(*four), **options)
    assert not (tmp_path / "a").exists()


# -- its name and its source

MODULE = """
from dataclasses import dataclass

RATE = 2
SHARE = 0.5
SIZES = (None, 4)

@dataclass
class Config:
    gain: float

config = Config(gain=1.5)

def half(x, share=SHARE):
    return RATE * x

class Base:
    level = 7

class Model(Base):
    def value(self):
        return half(6) * config.gain + SIZES[1]

def train(make_activation, seed, steps, report):
    make_activation(1)
    return {"mse": Model().value()}

def other():
    return 1
"""


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, name, raising=False)


def digest(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    folder.mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        module(folder, patch, "mine", text)
        return objective_from("mine:train").digest


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("RATE = 2", "RATE = 3", False),
        ("return RATE * x", "return RATE * x / 2", False),
        ("half(6)", "half(8)", False),
        ("SHARE = 0.5", "SHARE = 0.25", False),
        ("(None, 4)", "(None, 5)", False),
        ("gain=1.5", "gain=2.5", False),
        ("level = 7", "level = 8", False),
        ("seed, steps", "steps, seed", False),
        ("return 1", "return 2", True),
    ],
)
def test_the_digest_is_of_all_source_that_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, same: bool
) -> None:
    before = digest(tmp_path / "1", monkeypatch, MODULE)
    after = digest(tmp_path / "2", monkeypatch, MODULE.replace(old, new))
    assert (before == after) == same
    assert before.startswith("train-")


PARTS = {
    "mine.py": """
import math
import cfg
import parts.far as far
from parts.deep.near import core
from parts import BASE

one, two = lambda x: x + 1, lambda x: x + 2
chosen = one

class Plan:
    rate = BASE * 2

class Held:
    def __init__(self):
        self.width = int("4")

held = Held()

def train(make_activation, seed, steps, report):
    make_activation(held.width)
    least = far.scaled(core(far.LEAST)) + math.pi
    return {"mse": cfg.LR * Plan.rate + least + chosen(cfg.inner.ONE)}

def net(make_activation):
    return far.scaled(make_activation(4))
""",
    "cfg.py": "import parts.inner as inner\nLR = 0.1\nUNUSED = 1\n",
    "parts/__init__.py": "BASE = 3\n",
    "parts/inner.py": "ONE = 1\n",
    "parts/far.py": "LEAST = 5\ndef scaled(x):\n    return 2 * x\n",
    "parts/deep/near.py": "GAIN = 2\ndef core(x):\n    return GAIN * x\n",
}


def digest_of_parts(folder: Path, monkeypatch: pytest.MonkeyPatch, file: str, *change: str) -> str:
    for name, text in PARTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace(*change) if change and name == file else text)
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        own = {name.removesuffix(".py").partition("/")[0] for name in PARTS}
        for name in [name for name in sys.modules if name.partition(".")[0] in own]:
            patch.delitem(sys.modules, name)
        found = f"{objective_from('mine:train').digest} {child_from('mine:net').digest}"
        for name in [name for name in sys.modules if name.partition(".")[0] in own]:
            del sys.modules[name]
        return found


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("mine.py", "chosen = one", "chosen = two", False),
        ("mine.py", 'int("4")', 'int("5")', False),
        ("cfg.py", "LR = 0.1", "LR = 0.2", False),
        ("cfg.py", "UNUSED = 1", "UNUSED = 2", True),
        ("parts/__init__.py", "BASE = 3", "BASE = 4", False),
        ("parts/inner.py", "ONE = 1", "ONE = 2", False),
        ("parts/far.py", "LEAST = 5", "LEAST = 6", False),
        ("parts/far.py", "return 2 * x", "return 3 * x", False),
        ("parts/deep/near.py", "GAIN = 2", "GAIN = 3", False),
        ("parts/deep/near.py", "GAIN * x", "GAIN + x", False),
    ],
)
def test_the_digest_is_of_what_it_uses_of_modules_and_folders_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, same: bool
) -> None:
    """An objective, and a child that is a function."""
    before = digest_of_parts(tmp_path / "1", monkeypatch, file).split()
    after = digest_of_parts(tmp_path / "2", monkeypatch, file, old, new).split()
    assert (before[0] == after[0]) == same
    assert (before[1] == after[1]) == (old != "return 2 * x")


ODD = """
import functools, torch, weakref
from torch import nn

def doubled(f):
    @functools.wraps(f)
    def wrapper(x):
        return 2 * f(x)
    return wrapper

@doubled
def decorated(x):
    return x

@functools.lru_cache
def cached(x):
    return x + 1

def loss(x):
    return x + 3

by_name = {"a": loss}
OPTIMISER = torch.optim.SGD

class Layer(nn.Module):
    def forward(self, x):
        return x + 4

layer = Layer()

class Lazy:
    @functools.cached_property
    def value(self):
        return 5

class Raises:
    def __getattr__(self, name):
        raise RuntimeError(name)

class Gone:
    pass

state = None
strange = [Raises(), torch.eye(3).to_sparse(), weakref.proxy(Gone()), 10**5000]
alone, sparse, huge = strange[0], strange[1], strange[3]
itself = []
itself.extend([itself] * 12)
gone = strange[2]
names = {"a", "b", "c", "d", "e", "f"}

def closing(held):
    def inner(x):
        return x in held
    return inner

inner = closing({"a", "b", "c", "d", "e", "f"})

def train(make_activation, seed, steps, report, measure=loss):
    global state
    state = (state or 0) + 1
    alone, sparse, gone, huge, itself, names, inner
    found = decorated(1) + cached(1) + by_name["a"](1) + layer(1) + Lazy().value + measure(1)
    return {"mse": OPTIMISER and found}
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return 2 * f(x)", "return 3 * f(x)"),
        ("    return x\n", "    return -x\n"),
        ("return x + 1", "return x + 2"),
        ("return x + 3", "return x + 2"),
        ("torch.optim.SGD", "torch.optim.AdamW"),
        ("return x + 4", "return x + 2"),
        ("return 5", "return 6"),
    ],
)
def test_the_digest_is_of_what_stands_behind_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    assert old in ODD
    before = digest(tmp_path / "1", monkeypatch, ODD)
    assert before == digest(tmp_path / "3", monkeypatch, ODD)
    assert before != digest(tmp_path / "2", monkeypatch, ODD.replace(old, new))


def test_the_digest_is_the_same_in_each_process_and_after_a_training(tmp_path: Path) -> None:
    """Strange objects, texts of sets in another order, and a state that the training assigns."""
    for i in range(9):
        others = "".join(f"import part{j}\n" for j in range(9) if j != i)
        (tmp_path / f"part{i}.py").write_text(f"{others}\ndef f():\n    return {i}\n")
    calls = " + ".join(f"part{i}.f()" for i in range(9))
    text = f"import {', '.join(f'part{i}' for i in range(9))}\n{ODD}"
    text = text.replace("    global state\n", f"    global state\n    {calls}\n")
    (tmp_path / "odd.py").write_text(text)
    code = (
        "from actsearch.child_models.users_own import objective_from as of\n"
        "before = of('odd:train')\nbefore.train(None, 0, 1, None)\n"
        "print(before.digest, of('odd:train').digest)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
            timeout=LIMIT, env=os.environ | {"PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    digests = {digest for done in said for digest in done.stdout.split()}
    assert len(digests) == 1, said[0].stderr


@pytest.mark.thorough
def test_the_digest_is_the_same_in_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""{MODULE}
if __name__ == "__main__":
    from actsearch.child_models.users_own import objective_from
    print(objective_from(train).digest)
"""
    imported = digest(tmp_path, monkeypatch, text)
    script = [sys.executable, str(tmp_path / "mine.py")]
    assert subprocess.check_output(script, text=True).strip() == imported


def test_a_changed_objective_is_another_protocol_in_a_sentence(
    found: actsearch.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = objective_from(train)
    changed = Objective(changed.name, train, "train-000000000000")
    with pytest.raises(RunError, match="the objective train has changed since"):
        actsearch.search(found.path, objective=changed, **OPTIONS)
    with pytest.raises(UsageError, match="was made with the objective train-"):
        actsearch.search(found.path, space=OPTIONS["space"], quiet=True)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bad_one", "needs a module and a name in it, as my_module:train"),
        ("bad_none:train", "there is no module bad_none in "),
        ("bad_raises:train", "importing bad_raises ends with RuntimeError: no data here"),
        ("bad_needs:train", "bad_needs needs bad_missing"),
        ("bad_raises_not:trian", "unknown name in bad_raises_not 'trian'; did you mean"),
        ("bad_arguments:train", "takes (model, epochs), but it is called as train(make_activation"),
    ],
)
def test_an_objective_that_cannot_be_had_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    sentence: str,
) -> None:
    for file, text in {
        "bad_raises": "raise RuntimeError('no data here')",
        "bad_needs": "import bad_missing",
        "bad_raises_not": MODULE,
        "bad_arguments": "def train(model, epochs): ...",
    }.items():
        module(tmp_path, monkeypatch, file, text)
    command = ["search", "a", "--objective", name, "--minimise", "mse", "--dry-run"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"child": "mlp"}, "--child is for children of a data set"),
        ({"dataset": "mnist5k"}, "--dataset is for children of a data set"),
        ({"lr": 0.1}, "--lr is for children of a data set"),
        ({"checkpoint_every": 1.0}, "--checkpoint-every is for children of a data set"),
        ({"minimise": "mse"}, "one score is searched for"),
        ({"metric": None}, "say which is searched for"),
        ({"metric": 3}, "metric is a int"),
        ({"objective": None}, "--metric says which score of an objective"),
        ({"objective": 3}, "the objective is a int; give a function"),
        ({"racing": "mse:5=0.5"}, "an objective reports its training loss alone"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((ValueError, UsageError), match=sentence):
        actsearch.search(tmp_path / "a", **{"objective": train, **OPTIONS, **options})


# -- what is read of it


def test_a_re_evaluation_takes_the_test_score_and_resumes(found: actsearch.Run) -> None:
    table = actsearch.reevaluate(
        found, objective=train, top=1, seeds=2, executor="inline", quiet=True
    )
    assert (table["test mse"] > 10).all()
    assert table["test mse"].is_monotonic_increasing
    assert "median mse" in str(actsearch.compare(found))
    with pytest.raises(UsageError, match="given its objective as an object of Python"):
        actsearch.reevaluate(found, executor="inline", quiet=True)
    with pytest.raises(UsageError, match="--lr-sweep"):
        actsearch.reevaluate(found, objective=train, lr_sweep=3, executor="inline", quiet=True)
    with pytest.raises(UsageError, match="give a child together with a data set"):
        actsearch.reevaluate(found, child="mlp", executor="inline", quiet=True)


def test_without_a_test_score_the_score_itself_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome_of(train, "reevaluate").test_score == pytest.approx(
        10 + outcome_of(train).details["scores"]["mse"]
    )
    assert outcome_of(bad({"mse": 2.0}), "reevaluate").test_score == 2.0
    table = actsearch.reevaluate(
        tmp_path / "a", objective=bad({"mse": 2.0}), metric=MSE, functions=["sin(x)"], seeds=1,
        executor="inline",
    )  # fmt: skip
    assert "returns no 'test_mse', so the table has the score" in capsys.readouterr().err
    assert "val mse" in table.columns
    assert "test mse" not in table.columns


@pytest.mark.parametrize("tested", [True, False])
def test_a_report_speaks_of_test_data_only_where_the_objective_has_some(
    tmp_path: Path, tested: bool
) -> None:
    def own(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
        scores = train(make_activation, seed, steps, report)
        return scores if tested else {"mse": scores["mse"]}

    run = tmp_path / "a"
    again = {"metric": MSE, "seeds": 2, "steps": 5, "executor": "inline", "quiet": True}
    actsearch.reevaluate(run, objective=own, functions=["sin(x)"], **again)
    words = " ".join(actsearch.report(run).read_text().split())
    assert ("scored on test data" in words) == tested
    assert (" on test data: " in words) == tested
    assert ("<button>test mse</button>" in words) == tested
    assert ("<button>val mse</button>" in words) == (not tested)
    assert ("none on test data" in words) == (not tested)
    assert ("test mse minus" in words) == tested


def test_a_run_by_name_is_told_in_its_metric_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MODULE.replace("value()}", "value(), 'r': seed}").replace("half(6)", "half(8)")
    module(tmp_path, monkeypatch, "told", text)
    inline = ["--executor", "inline"]
    command = ["search", "a", "--objective", "told:train", "--maximise", "mse", *inline]
    assert main([*command, "--budget", "2", "--tensorboard"]) == 0
    out = capsys.readouterr()
    assert "val mse" in out.out
    assert "objective  train, 200 steps, operators guarded" in out.err
    assert "time       not known, since the objective reports no steps" in out.err
    assert "is not timed out" not in out.err
    assert main(["search", "a", "--timeout", "9", "--dry-run", *inline]) == 0
    assert "reports no steps is not timed out in this process" in capsys.readouterr().err
    assert main(["search", "a", "--budget", "3", *inline]) == 0  # the run knows the rest
    settings = json.loads(Path("a/config.json").read_text())["settings"]
    assert (settings["objective"], settings["child"], settings["kernels"]) == (
        "told:train", None, "eager",
    )  # fmt: skip
    assert main(["reevaluate", "a", "--top", "1", "--seeds", "2", *inline]) == 0
    main(["replay", "a"])  # which has too few functions to tell anything
    assert "best 28.0000, top 1 % from 28.0000" in capsys.readouterr().err
    for other in (["compare", "a"], ["top", "a", "--where", "val mse>1"], ["plot", "a"]):
        assert main(other) == 0, other
    assert main(["report", "a"]) == 0
    report = Path("a/report.html").read_text()
    assert "--maximise mse" in report
    assert "--objective told:train" in report
    assert "train-" in report


# -- examples

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", ["regression", "pinn", "image_as_function"])
def test_an_example_searches_its_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = (EXAMPLES / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 40
    short = {"steps": 8, "budget": 1, "executor": "inline", "quiet": True}
    real, runs = actsearch.search, []

    def search(*args: Any, **options: Any) -> actsearch.Run:
        runs.append(real(*args, **{**options, **short}))
        return runs[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(actsearch, "search", search, raising=False)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert runs[0].counts()["ok"] == 4  # one, and three baselines
