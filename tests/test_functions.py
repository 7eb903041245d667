"""What a newcomer does with a run in Python: its table, its best function, that function as a
layer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import actsearch
from actsearch.cli import main
from actsearch.errors import NoCandidateError, UsageError
from actsearch.results.records import Outcome
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.search_space import activation

from .conftest import LIMIT

SQUARE_ROOT = "mul(x, sqrt(x))"  # differs between the operator sets


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three functions of a search in the set `paper`, one of which diverged."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = {"settings": {"operators": "paper"}}
    (folder / "config.json").write_text(json.dumps(settings))
    store = Store(folder / "run.sqlite", create=True)
    store.add_protocol("p", {"child": "mlp", "operators": "paper"})
    for expression, formula, outcome in (
        (SQUARE_ROOT, "x * sqrt(x)", Outcome("ok", val_score=0.9, seconds=2.0)),
        ("mul(x, sigmoid(x))", "x * sigmoid(x)", Outcome("ok", val_score=0.8, seconds=3.0)),
        ("cube(x)", "x**3", Outcome("diverged", "loss inf at step 3")),
    ):
        trial = store.submit("search", expression, "p", 0, formula=formula)
        store.record(trial, outcome)
    store.close()
    return Run.open(folder)


def test_the_table_shows_accuracies_in_eighty_columns_and_all_columns_where_asked(
    run: Run,
) -> None:
    with pd.option_context("display.width", 80, "display.max_columns", 0):
        shown = str(run.table().head())
    head = shown.splitlines()[0]
    assert head.split() == ["rank", "formula", "name", "val", "accuracy", "seconds", "status"]
    assert max(map(len, shown.splitlines())) <= 80
    assert run.table()["rank"].dropna().tolist() == [1, 2]
    assert "1.0" not in shown
    wide = run.table(wide=True)
    assert len(wide.columns) == 28
    assert list(wide.columns[:3]) == ["rank", "formula", "name"]
    assert list(wide["val accuracy"].dropna()) == list(run.table()["val accuracy"].dropna())
    assert "loss inf" in wide["reason"].iloc[-1]


def test_top_says_how_many_functions_meet_its_conditions(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", str(run.path), "-n", "1", "--where", "val_accuracy>=0"]) == 0
    assert "\n2 of them with val_accuracy>=0\n" in capsys.readouterr().out


def test_the_best_is_what_rank_1_of_the_table_is(run: Run, tmp_path: Path) -> None:
    best = run.best()
    assert (best.formula, best.val_score, best.rank) == ("x * sqrt(x)", 0.9, 1)
    assert str(best) == "#1 x * sqrt(x): 0.9000"
    assert [str(e) for e in run.leaderboard()[1:]] == [
        "#2 x * sigmoid(x) (silu): 0.8000",
        "x**3: diverged, loss inf at step 3",
    ]
    Store(tmp_path / "run.sqlite", create=True).close()
    with pytest.raises(NoCandidateError, match="no function that has trained"):
        Run.open(tmp_path).best()


def test_a_rank_of_a_run_is_a_function_wherever_a_formula_is(run: Run) -> None:
    x = torch.tensor([[0.25, 4.0]], dtype=torch.float64)
    expected = x * x.sqrt()  # the paper's set, which is the run's, has no epsilon
    layer = actsearch.Activation(f"{run.path}#1", channels=2)
    assert torch.equal(layer(x), expected)
    assert isinstance(layer, activation.Activation)
    assert torch.equal(actsearch.act_layer(f"{run.path}#1")()(x), expected)
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    assert actsearch.replace_activations(model, f"{run.path}#1", x, channel_dim=1) == 1
    assert torch.equal(model(x), expected)
    assert "sqrt" in str(actsearch.export(f"{run.path}#1", "python"))
    guarded = actsearch.Activation("x * sqrt(x)")
    assert guarded.operators == "guarded"
    assert not torch.equal(guarded(x), expected)


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("{run}#9", NoCandidateError, "has no rank 9; its ranks are 1 to 2"),
        ("{run}#one", UsageError, "is no RUN#RANK"),
    ],
)
def test_a_rank_that_is_not_there_is_a_sentence(
    run: Run, text: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        actsearch.Activation(text.format(run=run.path))


def test_another_operator_set_than_the_runs_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match="operator set paper, not guarded"):
        actsearch.Activation(f"{run.path}#1", operators="guarded")


def test_the_grammar_alone_knows_no_runs() -> None:
    code = (
        "import sys; import actsearch\n"
        "from actsearch.search_space.activation import Activation\n"
        "from actsearch.search_space.parser import ParseError\n"
        "try: Activation('runs/a#1')\n"
        "except ParseError: pass\n"
        "assert not {'actsearch.results', 'actsearch.results.store'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
