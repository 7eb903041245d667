"""A space as a model of the one-unit table predicts it, and whether the model is accepted."""

from __future__ import annotations

import importlib
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actsearch import cli
from actsearch.errors import UsageError
from actsearch.results.records import Outcome, Trial
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES
from actsearch.studies import predicted
from actsearch.studies.predicted import (
    NODES,
    OPERATORS,
    SCALES,
    Forecast,
    Model,
    Predicted,
    features,
    one_unit,
    results_from,
)

ROOT = Path(__file__).parent.parent
SPACE = SPACES["two-units"]
PER_SCALE = 15


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("predicted_table")
    monkeypatch.setattr(module, "RESAMPLES", 50)
    return module


class Flat:
    """Predicts 1 / (1 + sd of f under N(0, 1)), and divergence from an sd of 3 on."""

    def predict(self, x: np.ndarray) -> Forecast:
        sd = np.exp(x[:, PER_SCALE + 1])
        return Forecast(1 / (1 + sd), np.full(len(x), 0.01), (sd > 3) * 1.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Predicted:
    monkeypatch.setattr(predicted, "model", Flat)
    monkeypatch.setattr(predicted, "SAMPLE", 60)
    return Predicted("two-units")


def of(text: str, scale: int) -> np.ndarray:
    [found] = features([parse(text)])
    return found[PER_SCALE * scale : PER_SCALE * (scale + 1)]


def test_features_are_those_of_signal_propagation() -> None:
    """Against the moments of a line, a square and a ReLU under N(0, s)."""
    for i, s in enumerate(SCALES):
        width = math.sqrt(np.mean((s * NODES) ** 2))
        line, square, relu = (of(text, i) for text in ("x", "x**2", "relu(x)"))
        assert line[0] == pytest.approx(0, abs=1e-9)
        assert line[1] == pytest.approx(math.log(width), abs=1e-6)
        assert line[4:7] == pytest.approx((1, 0, 0), abs=1e-6)  # all of it linear
        assert square[4:7] == pytest.approx((0, 1, 0), abs=1e-6)  # all of it quadratic
        assert math.sinh(square[0]) == pytest.approx(width**2, rel=1e-6)
        assert relu[10] == pytest.approx(0.5)  # half of its slopes are dead
        assert math.sinh(relu[9]) == pytest.approx(0.5)
    ends = features([parse(t) for t in ("x**3", "abs(x)", "sin(x)")])[:, 4 * PER_SCALE :]
    assert ends.shape[1] == 71 - 60
    assert ends[0, :2] == pytest.approx((3, 3))  # grows as the third power on both sides
    assert ends[1, :2] == pytest.approx((1, 1))
    assert np.sinh(ends[1, 7:9]) == pytest.approx((-1, 1))  # the slopes on both sides of 0
    assert ends[:, 9] == pytest.approx((-1, 1, -1), abs=1e-4)  # odd, even, odd
    assert of("sin(x)", 3)[12] > of("sin(x)", 0)[12] == 0  # it oscillates where it is wide enough


def test_features_are_finite_and_each_functions_own() -> None:
    points = np.random.default_rng(0).integers(SPACE.radices, size=(200, 10)).tolist()
    exprs = [SPACE.expression(d) for d in points]
    found = features(exprs)
    assert found.shape == (200, 71)
    assert np.isfinite(found).all()
    assert features(exprs[7:9]) == pytest.approx(found[7:9])
    betas = [len({*expr.initial}) if expr.own == 0 else expr.own for expr in exprs]
    assert (found[:, -1] > 0).tolist() == [n > 0 for n in betas]


def test_the_model_predicts_functions_that_it_has_not_seen(monkeypatch: Any) -> None:
    monkeypatch.setattr(predicted, "TREES", 10)
    monkeypatch.setattr(predicted, "ROUNDS", 40)
    frame, x = one_unit()
    chosen = np.random.default_rng(0).permutation(len(frame))[:900]
    x, accuracy = x[chosen], frame["accuracy"].to_numpy()[chosen]
    assert 0.1 < np.isnan(accuracy).mean() < 0.3
    forecast = Model().fit(x[:600], accuracy[:600]).predict(x[600:])
    real = accuracy[600:]
    ended = np.isfinite(real)
    assert np.corrcoef(forecast.accuracy[ended], real[ended])[0, 1] > 0.85
    assert forecast.diverges[~ended].mean() > 0.6 > 0.2 > forecast.diverges[ended].mean()
    assert (forecast.score[forecast.diverges >= 0.5] == 0).all()
    assert (forecast.spread > 0).any()
    sure = Model().fit(x[:100], np.full(100, 0.3)).predict(x[:5])  # nothing ever diverged
    assert sure.diverges.tolist() == [0] * 5
    assert sure.accuracy == pytest.approx(0.3)


def test_a_point_is_worth_what_its_function_is_predicted_to_be(quick: Predicted) -> None:
    points = np.random.default_rng(1).integers(SPACE.radices, size=(60, 10)).tolist()
    seen = []
    for digits in map(tuple, points):
        known = quick.look_up(digits, 1.0)
        expr = SPACE.expression(digits)
        assert quick.look_up(digits, 1.0) is known
        if known.name is None:
            assert known.reward is None
            continue
        assert candidate_from(known.name) == SPACE.decode(digits).canonical(OPERATORS)
        [sd] = np.exp(features([expr])[:, PER_SCALE + 1])
        seen.append(known.reward)
        assert known.reward == (None if sd > 3 else pytest.approx(1 / (1 + sd), abs=1e-6))
    assert None in seen
    assert len(set(seen)) > 20
    sub = [op.name for op in SPACE.binary].index("sub")
    constant = (0, 0, 0, 0, sub, 1, 1, 0, 0, sub)  # (a - a) - (a - a)
    assert quick.look_up(constant, 1.0).name is None
    with pytest.raises(UsageError, match="whole trainings only"):
        quick.look_up(tuple(points[0]), 0.25)


def test_shares_are_counted_among_random_functions(quick: Predicted) -> None:
    assert 20 < len(quick) <= 60
    assert quick.top(0) >= quick.top(10) >= quick.top(50) >= quick.top(100) == quick.floor == 0
    rewards = [k.reward or 0.0 for k in quick._known.values() if k.name]
    assert quick.top(10) == sorted(rewards, reverse=True)[math.ceil(len(rewards) / 10) - 1]
    assert quick.named(["max(0, x)", "relu(x)"]) == {"relu(x)"}
    assert pickle.loads(pickle.dumps(quick)).space == quick.space


def test_a_name_of_a_prediction_gives_way_to_a_file(tmp_path: Path, monkeypatch: Any) -> None:
    assert isinstance(results_from("two-units"), Predicted)
    assert len(results_from("one-unit")) == 3675
    for options in ({"operators": "paper"}, {"space": "tiny"}):
        with pytest.raises(UsageError, match="leave --space and --operators out"):
            results_from("two-units", **options)
    monkeypatch.chdir(tmp_path)
    Path("two-units").write_text("")
    with pytest.raises(UsageError, match="two-units"):
        results_from("two-units")


def test_replay_says_that_it_plays_on_a_prediction(
    quick: Predicted, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(predicted, "predicted", lambda name: quick)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    words = "replay two-units --strategy random evolution --repeats 2 --budget 15 --format json"
    assert cli.main(words.split()) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [row["strategy"] for row in rows] == ["random", "evolution"]
    assert "does not order the best" in (said := err + out)
    assert f"Of {len(quick)} different random functions" in said


# -- benchmarks/predicted_table.py


def test_parts_that_are_left_out_share_no_class_and_are_judged(
    script: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(predicted, "TREES", 10)
    monkeypatch.setattr(predicted, "ROUNDS", 40)
    classes = ["a", "b", "", "", "a", "c", "b", *"defghijkl"]
    parts = script.folds(classes)
    assert sum(parts).tolist() == [1] * len(classes)
    for part in parts:
        inside = {c for c, i in zip(classes, part, strict=True) if i and c}
        assert not inside & {c for c, i in zip(classes, part, strict=True) if not i}
    assert script.area(np.array([1.0, 2, 3, 3]), np.array([False, True, False, True])) == 0.625
    assert script.slope(np.array([0.0, 1, 2]), np.array([1.0, 1.5, 2])) == pytest.approx(0.5)
    frame, x = one_unit()
    keep = np.random.default_rng(1).permutation(len(frame))[:500]
    accuracy = frame["accuracy"].to_numpy()[keep]
    part = np.arange(500) < 150
    row = script.judged([part], x[keep], accuracy)
    assert row["n"] == 150
    assert 0.7 < float(row["Spearman"]) < 1
    assert 0.4 < float(row["R2"]) < 1


@pytest.mark.thorough
def test_functions_to_train_are_new_and_of_three_kinds(
    script: Any, quick: Predicted, monkeypatch: Any
) -> None:
    for name, value in {"EACH": 8, "POOL": 40, "BUDGET": 30, "AGAIN": 2, "model": Flat}.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(script, "Predicted", lambda name: quick)
    plan = script.planned()
    kinds = [row["kind"] for row in plan]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "random": 8, "predicted best": 8, "proposed": 8
    }  # fmt: skip
    assert {row["strategy"] for row in plan} == {"", *script.PLAYED}
    forms = {candidate_from(row["expression"]) for row in plan}
    assert len(forms) == 24
    assert script.table_from("one-unit").rows(sorted(forms, key=str)) == [None] * 24
    mean = {k: np.mean([r["accuracy"] for r in plan if r["kind"] == k]) for k in set(kinds)}
    assert mean["predicted best"] > mean["random"]
    wanted = [*script.trials(plan)]
    assert len(set(wanted)) == len(wanted) == 2 + 24 + 3 * 2 * 2
    assert [seed for _, seed in wanted[:26]] == [0] * 26


def test_trainings_go_on_and_say_whether_the_model_is_accepted(
    script: Any, monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    """With a child whose accuracies are the predicted ones and a little noise."""
    random = np.random.default_rng(0)
    names = [f"x + {i + 2}*sin(x)" for i in range(60)]
    worth = dict(zip([candidate_from(n).canonical(OPERATORS).key for n in names],
                     random.uniform(0.1, 0.4, 60).tolist(), strict=True))  # fmt: skip
    plan = [
        {"kind": ("random", "predicted best", "proposed")[i % 3], "strategy": "", "expression": e,
         "accuracy": v, "spread": 0.01, "diverges": float(i < 12)}
        for i, (e, v) in enumerate(worth.items())
    ]  # fmt: skip
    calls = []

    class Child:
        protocol_hash = "h"

        def __call__(self, trial: Trial) -> Outcome:
            calls.append((trial.subject, trial.seed))
            value = worth.get(trial.subject, 0.3)
            bad = any(r["diverges"] for r in plan if r["expression"] == trial.subject)
            noise = 1e-3 * random.normal()
            return Outcome("diverged") if bad else Outcome("ok", val_score=value + noise)

    monkeypatch.setattr(script, "planned", lambda: plan)
    monkeypatch.setattr(script, "tables_own", lambda images: Child())
    rows = tmp_path / "rows"

    def main(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["predicted_table.py", *words])
        script.main()
        return capsys.readouterr().out

    main("train", str(rows), "--images=-", "--most=30")
    assert len(calls) == 30
    main("train", str(rows), "--images=-")
    assert len(set(calls)) == len(calls) == 2 + 60 + 3 * 2 * 20
    said = main("say", str(rows))
    assert "Trained in reality: 60 of 60 functions." in said
    asked = [line for line in said.splitlines() if " or more" in line or "0.8 to" in line]
    assert len(asked) == 4
    assert all(line.endswith("| yes |") for line in asked), asked
    assert re.search(r"\| relu\(x\) \| (29\.9|30\.)\d+ % \| 38.8\d % \|", said), said
    wrong = [json.loads(line) for line in rows.read_text().splitlines()]
    for row in wrong:
        if "kind" in row:
            row["accuracy"] = 0.5 - row["accuracy"]
    rows.write_text("".join(json.dumps(row) + "\n" for row in wrong))
    assert main("say", str(rows)).count("| no |") == 3  # all but the divergences


def test_other_images_than_the_tables_are_refused(script: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    images = random.integers(0, 255, (60, 32, 32, 3), np.uint8)
    labels = np.arange(60) % 10
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(SystemExit, match="the table was trained on 923f541df8a0d999"):
        script.tables_own(str(path))
