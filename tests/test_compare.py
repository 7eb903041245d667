"""Comparisons of re-evaluated functions, from stores of made-up outcomes: hand arithmetic."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

import actsearch
from actsearch import cli
from actsearch.commands.compare import CompareConfig
from actsearch.errors import UsageError
from actsearch.reading.comparison import Comparison, luck
from actsearch.reading.plotting import Found
from actsearch.reading.telling import sentences
from actsearch.reading.verdicts import verdicts
from actsearch.results.records import Outcome
from actsearch.run import Run
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.baselines import BASELINES
from actsearch.search_space.expression import formula
from actsearch.search_space.parser import parse

from .conftest import LIMIT

Score = float | tuple[float, float] | str  # test; (val, test); why it failed


def add(
    path: Path,
    function: str,
    scores: Mapping[int, Score],
    *,
    child: str = "resnet8",
    dataset: str = "mnist5k",
    digest: str = "d",
    stage: str = "reevaluate",
    **recipe: Any,
) -> None:
    """Store trainings of `function` (a baseline's name or a formula) by seed in the run `path`."""
    path.mkdir(parents=True, exist_ok=True)
    description = {
        "grammar": 1,
        "operators": "guarded",
        "dataset": dataset,
        "dataset_digest": digest,
        "child": child,
        "recipe": {"steps": 100, "lr": 0.1, **recipe},
    }
    protocol = json.dumps(description)
    label = function if function in BASELINES else ""
    expr = canonical(parse(BASELINES.get(function, function)), "guarded")
    store = Run(path).store()
    store.add_protocol(protocol, description)
    for seed, score in scores.items():
        trial = store.submit(stage, str(expr), protocol, seed, formula=formula(expr), label=label)
        if isinstance(score, str):
            outcome = Outcome("diverged", score)
        else:
            val, test = score if isinstance(score, tuple) else (score, score)
            outcome = Outcome("ok", val_score=val, test_score=test, seconds=2.0)
        store.record(trial, outcome)
    store.close()


def seeds(*scores: Score) -> dict[int, Score]:
    return dict(enumerate(scores))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs/a"


def by_model(found: Comparison, name: str) -> dict[str, Any]:
    return {row["model"]: row for row in found.models if row["function"] == name}


def test_wins_are_counted_of_medians_over_models_and_tested_among_all_functions(
    path: Path,
) -> None:
    medians = {"cnn": (0.90, 0.91, 0.89), "mlp": (0.80, 0.81, 0.79), "resnet8": (0.7, 0.7, 0.6)}
    for child, (relu, swish, sine) in medians.items():
        for name, middle in (("relu", relu), ("swish", swish), ("sin(x)", sine)):
            add(path, name, seeds(0.99, middle, 0.1), child=child)
    found = actsearch.compare(path)
    assert found.reference == "relu"
    assert found.functions == [
        # Two wins of two coins: 1/4, twice that by Holm; no win of three: 1.
        {
            "function": "swish", "wins": 2, "ties": 1, "losses": 0,
            "sign test p": 0.25, "Holm p": 0.5,
        },
        {
            "function": "sin(x)", "wins": 0, "ties": 0, "losses": 3,
            "sign test p": 1.0, "Holm p": 1.0,
        },
    ]  # fmt: skip
    assert {r["model"] for r in found.models} == {f"{c} on mnist5k" for c in medians}
    assert by_model(found, "swish")["cnn on mnist5k"]["median accuracy"] == 0.91


def test_a_row_holds_the_differences_at_the_shared_seeds(path: Path) -> None:
    add(path, "relu", {0: 0.50, 1: 0.52, 2: 0.54, 4: 0.9})
    add(path, "swish", {0: 0.51, 1: 0.54, 2: 0.60, 7: 0.1})
    [row] = actsearch.compare(path).models
    # differences 0.01, 0.02, 0.06: mean 0.03, variance 0.0007, t(0.975, 2) = 4.302653
    reach = 4.302653 * (0.0007 / 3) ** 0.5
    assert row["seeds"] == 3
    assert (row["median accuracy"], row["reference accuracy"]) == (0.54, 0.52)
    assert row["difference, paired"] == pytest.approx(0.03)
    assert row["from, paired"] == pytest.approx(0.03 - reach, rel=1e-6)
    assert row["to, paired"] == pytest.approx(0.03 + reach, rel=1e-6)
    assert row["interval"] == "Student's t"
    assert row["Wilcoxon p"] == 0.25
    samples = np.random.default_rng(0).normal(0.03, 0.0007**0.5, (40_000, row["seeds needed"]))
    for fewer, enough in ((0, True), (1, False)):
        tests = ttest_1samp(samples[:, fewer:], 0, axis=1)
        assert ((tests.pvalue < 0.05).mean() > 0.8) == enough


def test_the_learning_rate_is_chosen_by_validation_never_by_test(path: Path) -> None:
    add(path, "relu", seeds((0.5, 0.6)))
    add(path, "swish", seeds((0.9, 0.2), (0.7, 0.2)), lr=0.1)
    add(path, "swish", seeds((0.7, 0.8), (0.7, 0.8)), lr=0.3)
    [row] = actsearch.compare(path).models
    assert (row["lr"], row["reference lr"]) == (0.1, 0.1)
    assert row["median accuracy"] == 0.2
    [row] = actsearch.compare(path, metric="val").models
    assert row["median accuracy"] == 0.9


def test_a_learning_rate_at_which_nothing_fails_is_preferred(path: Path) -> None:
    add(path, "relu", seeds(0.5, 0.5))
    add(path, "swish", seeds(0.9, "loss nan at step 3"), lr=1.0)
    add(path, "swish", seeds(0.4, 0.4), lr=0.1)
    [row] = actsearch.compare(path).models
    assert (row["lr"], row["note"]) == (0.1, "")


def test_a_failed_training_is_a_loss_and_is_said(path: Path) -> None:
    for child in ("cnn", "mlp"):
        add(path, "relu", seeds(0.5, 0.5), child=child)
    add(path, "swish", seeds(0.9, "loss nan at step 3"), child="cnn")
    add(path, "swish", seeds(0.9, 0.9), child="mlp")
    found = actsearch.compare(path)
    assert found.functions[0]["wins"] == found.functions[0]["losses"] == 1
    row = by_model(found, "swish")["cnn on mnist5k"]
    assert row["median accuracy"] is None
    assert row["difference, paired"] == pytest.approx(0.4)  # of the seed that trained
    assert row["note"] == "1 of 2 diverged: loss nan at step 3"
    assert "failed to train on cnn on mnist5k, which counts as a loss" in found.verdicts[0]
    other_way = actsearch.compare(path, reference="swish")
    assert other_way.functions[0]["wins"] == 1


def test_a_note_counts_the_seeds_that_both_have(path: Path) -> None:
    add(path, "relu", {0: 0.5, 1: 0.5})
    add(path, "swish", {1: "loss nan at step 3", 2: "loss nan at step 3"})
    [row] = actsearch.compare(path).models
    assert (row["seeds"], row["note"]) == (1, "1 of 1 diverged: loss nan at step 3")


def test_two_functions_that_both_failed_are_tied(path: Path) -> None:
    add(path, "relu", seeds("nan"))
    add(path, "swish", seeds("nan"))
    found = actsearch.compare(path)
    counts = found.functions[0]
    assert (counts["wins"], counts["ties"], counts["losses"]) == (0, 1, 0)
    assert found.models[0]["difference, paired"] is None


def test_rounding_to_the_papers_decimal_makes_ties(path: Path) -> None:
    add(path, "relu", seeds(0.9411), child="cnn")
    add(path, "swish", seeds(0.9413), child="cnn")
    assert actsearch.compare(path).functions[0]["wins"] == 1
    assert actsearch.compare(path, decimals=1).functions[0]["ties"] == 1
    assert actsearch.compare(path, decimals=2).functions[0]["wins"] == 1


def test_several_runs_are_one_table_and_a_training_that_two_have_counts_once(
    path: Path,
) -> None:
    other = path.parent / "b"
    for run, child in ((path, "cnn"), (other, "mlp"), (other, "cnn")):
        add(run, "relu", seeds(0.5, 0.6), child=child)
        add(run, "swish", seeds(0.7, 0.8), child=child)
    found = actsearch.compare(path, other)
    assert [row["seeds"] for row in found.models] == [2, 2]
    assert found.functions[0]["wins"] == 2


def test_what_else_tells_models_apart_is_in_their_names(path: Path) -> None:
    for recipe in ({"steps": 100}, {"steps": 200}):
        add(path, "relu", seeds(0.5), **recipe)
        add(path, "swish", seeds(0.6), **recipe)
    add(path, "relu", seeds(0.5), child="cnn", optimiser="adam")
    add(path, "swish", seeds(0.6), child="cnn", optimiser="adam")
    names = {row["model"] for row in actsearch.compare(path).models}
    assert names == {"resnet8 on mnist5k, steps=100", "resnet8 on mnist5k, steps=200",
                     "cnn on mnist5k"}  # fmt: skip


def test_the_same_name_with_other_data_is_another_model(path: Path) -> None:
    add(path, "relu", seeds(0.5), digest="one")
    add(path, "swish", seeds(0.6), digest="two")
    found = actsearch.compare(path)
    assert found.models == []
    assert found.verdicts == ["swish and relu share no model with the same seeds."]


def test_only_finished_re_evaluations_are_read(path: Path) -> None:
    add(path, "relu", seeds(0.5))
    add(path, "swish", seeds(0.6))
    add(path, "sin(x)", seeds(0.9), stage="search")
    store = Run(path).store()
    [protocol] = {row["protocol"] for row in store.rows("reevaluate")}
    store.submit("reevaluate", "tanh(x)", protocol, 0)
    store.close()
    rows = Run(path).reevaluations()
    assert [(r["label"], r["test_score"]) for r in rows] == [("relu", 0.5), ("swish", 0.6)]
    assert rows[0]["child"] == "resnet8"
    assert rows[0]["recipe"]["steps"] == 100
    assert [row["function"] for row in actsearch.compare(path).models] == ["swish"]


@pytest.mark.parametrize("spelling", ["swish-1", "x * sigmoid(x)", "sigmoid(x)*x", "x/(1+exp(-x))"])
def test_the_reference_is_found_by_name_or_by_any_spelling(path: Path, spelling: str) -> None:
    add(path, "relu", seeds(0.5))
    add(path, "swish-1", seeds(0.6))
    if "/" in spelling:  # a function that no rule sees through
        with pytest.raises(UsageError, match="was not re-evaluated"):
            actsearch.compare(path, reference=spelling)
    else:
        assert actsearch.compare(path, reference=spelling).reference == "swish-1"


def made(path: Path, won: int, lost: int, functions: tuple[str, ...] = ("swish",)) -> list[str]:
    for i in range(won + lost):
        child = f"cnn:width={i + 1}"
        add(path, "relu", seeds(0.5, 0.5, 0.5), child=child)
        score = 0.6 if i < won else 0.4
        for name in functions:
            add(path, name, seeds(score, score, score + 0.001), child=child)
    return list(actsearch.compare(path).verdicts)


@pytest.mark.parametrize(
    ("won", "lost", "said"),
    [
        (5, 1, "swish beats relu on 5 of 6 models (sign test p = 0.11, not significant with 6 "
               "models: at least 5 without a loss are needed); by seed it is better on 5 and worse "
               "on 1 of 6 (95 % intervals)."),
        (5, 0, "swish beats relu on 5 of 5 models (sign test p = 0.031, significant); by seed it "
               "is better on 5 and worse on 0 of 5 (95 % intervals)."),
        (0, 1, "swish beats relu on 0 of 1 model (sign test p = 1, nothing says that it is "
               "better); by seed it is better on 0 and worse on 1 of 1 (95 % intervals)."),
    ],
)  # fmt: skip
def test_the_verdict_says_what_so_many_models_can_show(
    path: Path, won: int, lost: int, said: str
) -> None:
    assert made(path, won, lost) == [said]


def test_a_win_that_many_functions_share_is_significant_alone_only(path: Path) -> None:
    verdicts = made(path, 5, 0, ("swish", "gelu", "elu"))
    assert len(verdicts) == 3
    assert all("0.094 by Holm among 3 functions" in v for v in verdicts)  # 3/32
    assert all("6 models without a loss always are" in v for v in verdicts)


@pytest.mark.parametrize("style", ["table", "markdown", "csv", "json"])
def test_every_format_holds_the_rows(
    path: Path, style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made(path, 2, 1)
    found = actsearch.compare(path)
    assert cli.main(["compare", str(path), "--format", style]) == 0
    out = capsys.readouterr().out
    if style == "json":
        assert json.loads(out) == list(found.models)
    elif style == "csv":
        read = list(csv.DictReader(io.StringIO(out)))
        medians = [float(row["median accuracy"]) for row in read]
        assert medians == [row["median accuracy"] for row in found.models]
    else:
        assert out.count("cnn:width=1 on mnist5k") == 1
        assert "+10.03" in out  # the mean of 10, 10 and 10.1 per cent
        assert out.rstrip().endswith(found.verdicts[0])
    assert statistics.fmean(row["seeds"] for row in found.models) == 3
    assert len(found.table()) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["runs/a", "--reference", "gelu"], 2, "'gelu' was not re-evaluated; re-evaluated were "),
        (["runs/a", "--reference", "sin(x"], 2, "unknown reference 'sin(x'"),
        (["runs/a", "runs/empty"], 5, "runs/empty has no finished re-evaluation; 'actsearch re"),
        (["runs/none"], 5, "no run at runs/none"),
        (["runs/lonely"], 5, "only relu was re-evaluated in runs/lonely"),
    ],
)
def test_bad_input_gets_a_sentence_and_its_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("relu", "swish"):
        add(Path("runs/a"), name, seeds(0.5))
    add(Path("runs/lonely"), "relu", seeds(0.5))
    add(Path("runs/empty"), "relu", {})
    assert cli.main(["compare", *arguments]) == code
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.out == ""


def test_rounding_to_less_than_a_whole_per_cent_is_refused() -> None:
    with pytest.raises(ValueError, match="--round -1 is too small"):
        CompareConfig(round=-1)


def test_a_comparison_with_a_baseline_imports_neither_torch_nor_ray(path: Path) -> None:
    made(path, 1, 0)
    code = (
        "import sys; from actsearch.cli import main\n"
        f"assert main(['compare', {str(path)!r}]) == 0\n"
        "heavy = {'torch', 'ray', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr


def test_the_best_of_many_searched_is_expected_to_be_worse_again(tmp_path: Path) -> None:
    """Twenty functions of equal worth: the best of their noisy scores is all luck."""
    noise = np.random.default_rng(2).normal(0.9, 0.01, 20)
    run = tmp_path / "run"
    for i, score in enumerate(noise):
        add(run, f"x + {i + 1}*sin(x)", {0: (float(score), 0.0)}, stage="search")
    best = int(noise.argmax())
    for i in (best, (best + 1) % 20, (best + 2) % 20):
        scores = np.random.default_rng(i).normal(0.9, 0.01, 4)
        add(run, f"x + {i + 1}*sin(x)", {s + 1: (float(v), 0.5) for s, v in enumerate(scores)})
    said = luck(Run(run))
    assert said is not None
    _, searched, expected, _ = map(float, re.findall(r"([0-9.]+) %", said))
    assert searched == pytest.approx(100 * noise.max(), abs=0.01)
    assert 88 < expected < searched - 0.8
    assert "(n = 4)" in said


def test_a_function_with_fewer_seeds_takes_nothing_from_what_is_said_of_luck(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    for i in range(12):
        add(run, f"x + {i + 1}*sin(x)", {0: (0.5 + i / 100, 0.0)}, stage="search")
    for i in range(4):
        add(run, f"x + {i + 1}*sin(x)", {s: (0.5 + (i * s % 3) / 100, 0.5) for s in (1, 2, 3)})
    said = luck(Run(run))
    assert said is not None
    add(run, "x + 9*sin(x)", {1: (0.5, 0.5)})
    assert luck(Run(run)) == said


def test_the_best_is_a_candidate_and_baselines_count_among_none(tmp_path: Path) -> None:
    """Swish is ahead of the search's first, in the search and when both are trained again."""
    run = tmp_path / "run"
    for name, score in (("relu", 0.52), ("swish", 0.7)):
        add(run, name, {0: (score, 0.0)}, stage="search")
        add(run, name, {s: (score + s / 100, score) for s in (1, 2)})
    for i in range(12):
        add(run, f"x + {i + 1}*sin(x)", {0: (0.5 + i / 100, 0.0)}, stage="search")
    add(run, "x + 12*sin(x)", {1: (0.6, 0.5), 2: (0.58, 0.5)})
    said, found = luck(Run(run)), Found(Run(run))
    assert said is not None
    assert found.first is not None
    assert said.startswith("The best of 12 candidates is partly luck.")
    assert f"{found.first.formula} had 61.00 % in the search" in said
    assert said.endswith("it had 59.00 % (n = 2).")
    [verdict] = verdicts(found)
    page = verdict.sentence, *sentences(found, found.known)
    assert "x * sigmoid(beta * x), a baseline, is first of 3 on test data" in page[0]
    assert f"The search's first, {found.first.formula}, is 3 of 3" in page[0]
    assert page[1] == "14 functions, 2 baselines among them: 14 trained to the end."
    assert said in page
    assert re.match(r"(The first \d+|No other) candidate", page[-1])


def test_nothing_is_compared_before_relu_has_trained(tmp_path: Path) -> None:
    run = tmp_path / "run"
    add(run, "x + sin(x)", seeds(0.5))
    add(run, "relu", {})
    [protocol] = {row["protocol"] for row in Run(run).rows("reevaluate")}
    with closing(Run(run).store()) as store:
        store.submit("reevaluate", "relu(x)", protocol, 0, label="relu")
    assert Found(Run(run)).compared is None
    assert Found(Run(run)).differences() is None


def test_without_two_seeds_nothing_is_said_of_luck(tmp_path: Path) -> None:
    for i in range(12):
        add(tmp_path / "run", f"x + {i + 1}*sin(x)", {0: (0.5 + i / 100, 0.0)}, stage="search")
    add(tmp_path / "run", "x + sin(x)", {1: (0.5, 0.5)})
    assert luck(Run(tmp_path / "run")) is None
