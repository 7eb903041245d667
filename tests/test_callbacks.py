"""Callbacks of a search, and the one that writes for TensorBoard, read back as TensorBoard does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actsearch
from actsearch.cli import main
from actsearch.controller.strategies import strategy_from
from actsearch.errors import ENVIRONMENT
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.space import SPACES
from actsearch.search_space.survey import describe
from actsearch.searching.callbacks import Callback
from actsearch.searching.identity import Candidates, Level, submit_candidate
from actsearch.searching.loop import run_trials
from actsearch.searching.progress import Progress
from actsearch.searching.proposals import Proposals
from actsearch.searching.sources import StrategySource, asking
from actsearch.searching.tracker import TensorBoard
from actsearch.workers.executor import Beat, InlineExecutor

from .conftest import LIMIT

PPO = "ppo:batch_size=5"
SPACE = "units=1;unary=identity,relu,tanh;binary=add,mul"
QUICK: dict[str, Any] = {"space": SPACE, "executor": "inline", "quiet": True, "steps": 20}


@pytest.fixture
def written() -> Any:
    """A function that reads back what is in a folder of events: {tag: [(step, value)]}."""
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed: pip install tensorboard"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
        found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        tags = found.Tags()["scalars"]
        assert "settings/text_summary" in found.Tags()["tensors"]
        return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags}

    return read


def child(trial: Trial, beat: Beat) -> Outcome:
    if "sin" in trial.subject:
        return Outcome("diverged", "loss nan at step 3", step=3, seconds=1.0)
    return Outcome("ok", val_score=len(trial.subject) / 100, seconds=2.0)


def searched(
    store: Store, callbacks: Iterable[Callback], budget: int, strategy: str = PPO
) -> Progress:
    """A search by stub children, ReLU beside it."""
    space, level = SPACES["tiny"], Level("search", "p")
    relu = submit_candidate(store, describe(candidate_from("relu(x)")), level, 0, "relu")
    made, functions = strategy_from(strategy, space, 0), Candidates(store, space)
    proposals = Proposals(store, made, strategy, functions, lambda share: level)
    source = StrategySource(proposals, asking(proposals, budget=budget, patience=1000), [relu])
    progress = Progress("t", "w", None)
    progress.load(store.rows("search"))
    run_trials(store, source, InlineExecutor(child), progress, callbacks=callbacks)
    return progress


def finished(store: Store) -> list[dict[str, Any]]:
    """What the store says, in the order of the steps."""
    rows = [r for r in store.rows("search") if r["status"] not in (None, "rejected")]
    return sorted(rows, key=lambda row: row["finished"])


def test_a_callback_is_told_each_finished_training_with_the_counts_so_far(store: Store) -> None:
    told: list[tuple[str, str, int]] = []

    def tell(trial: Trial, outcome: Outcome, progress: Progress) -> None:
        assert store.outcome(trial) == outcome  # stored before
        told.append((trial.subject, outcome.status, progress.counts[outcome.status]))

    searched(store, [tell], budget=30, strategy="random")
    assert [(e, s) for e, s, _ in told] == [(r["expression"], r["status"]) for r in finished(store)]
    diverged = [n for _, status, n in told if status == "diverged"]
    assert diverged == [*range(1, len(diverged) + 1)]
    assert len(diverged) >= 2


def test_a_callback_that_raises_is_logged_once_and_left_out_and_nothing_is_lost(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    calls = {"broken": 0, "whole": 0}

    def broken(trial: Trial, outcome: Outcome, progress: Progress) -> None:
        calls["broken"] += 1
        if calls["broken"] == 2:
            raise ZeroDivisionError("of the user's own")

    def whole(trial: Trial, outcome: Outcome, progress: Progress) -> None:
        calls["whole"] += 1

    searched(store, [broken, whole], budget=8, strategy="random")
    assert calls == {"broken": 2, "whole": len(finished(store))}
    assert len(finished(store)) == 9
    [record] = [r for r in caplog.records if "left out" in r.getMessage()]
    assert "broken" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_tensorboard_shows_a_step_for_each_training(
    store: Store, tmp_path: Path, written: Any
) -> None:
    store.set_beside({"relu(x)": False})
    tracker = TensorBoard(tmp_path / "events", store, PPO, {"seed": 0, "budget": None})
    searched(store, [tracker], budget=30)
    tracker.close()
    found, rows = written(tmp_path / "events"), finished(store)
    assert found["search/seconds"] == [(n, row["seconds"]) for n, row in enumerate(rows, 1)]
    scores = [(n, row["val_score"]) for n, row in enumerate(rows, 1) if row["val_score"]]
    mine = [(n, score) for n, score in scores if rows[n - 1]["label"] != "relu"]
    assert found["search/val_accuracy"] == pytest.approx(np.array(mine))
    best = [(n, max(s for m, s in mine if m <= n)) for n, _ in mine]
    assert found["search/best"] == pytest.approx(np.array(best))
    [relu] = [pair for pair in scores if rows[pair[0] - 1]["label"] == "relu"]
    assert found["baselines/relu"] == pytest.approx(np.array([relu]))
    diverged = [n for n, row in enumerate(rows, 1) if row["status"] == "diverged"]
    assert found["failures/diverged"] == [(n, k) for k, n in enumerate(diverged, 1)]
    health = store.health(PPO)
    assert len(health) >= 4
    for name in ("reward", "entropy", "KL", "repeats"):
        expected = [(h["proposals"], h[name]) for h in health]
        assert found[f"strategy/{name}"] == pytest.approx(np.array(expected), rel=1e-5), name


def test_what_a_killed_session_left_is_written_once_and_without_gaps(
    store: Store, tmp_path: Path, written: Any
) -> None:
    folder = tmp_path / "events"
    for die_at in (1, 4, 3):
        left = die_at

        def die(trial: Trial, outcome: Outcome, progress: Progress) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        tracker = TensorBoard(folder, store, PPO, {})
        with pytest.raises(KeyboardInterrupt):  # stored, and not yet told to TensorBoard
            searched(store, [die, tracker], budget=20)
        tracker.close()
    tracker = TensorBoard(folder, store, PPO, {})
    searched(store, [tracker], budget=20)
    tracker.close()
    unbroken = TensorBoard(tmp_path / "anew", store, PPO, {})
    unbroken.close()
    assert len(list(folder.iterdir())) == 1
    found = written(folder)
    trained = len(finished(store))
    assert trained >= 20
    assert [step for step, _ in found["search/seconds"]] == [*range(1, trained + 1)]
    assert found == written(tmp_path / "anew")


DIE = """
import os, signal, sys
import actsearch
sys.path.insert(0, {here!r})
from tests.test_callbacks import QUICK, blobs_of, net

def die(trial, outcome, progress):
    if sum(progress.counts.values()) - progress.counts["rejected"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)

actsearch.search({run!r}, child=net, dataset=blobs_of(0), budget=5, tensorboard=True,
                 callbacks=[die], **QUICK)
"""


def blobs_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(300) % 3
    return (rng.normal(size=(300, 4)) + 3 * y[:, None]).astype(np.float32), y


def net(make_activation: Any) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(4, 8), make_activation(8), nn.Linear(8, 3))


def test_a_search_whose_driver_was_killed_goes_on_in_tensorboard(
    tmp_path: Path, written: Any
) -> None:
    run = tmp_path / "run"
    script = DIE.format(here=str(Path(__file__).parent.parent), run=str(run))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=LIMIT)
    assert killed.returncode == -9, killed.stderr
    assert [step for step, _ in written(run / "tensorboard")["search/seconds"]] == [1, 2, 3]
    again: dict[str, Any] = {"child": net, "dataset": blobs_of(0), **QUICK}
    actsearch.search(run, budget=5, **again)  # without TensorBoard
    actsearch.search(run, budget=6, tensorboard=True, **again)
    found = written(run / "tensorboard")
    assert [step for step, _ in found["search/seconds"]] == [*range(1, 10)]
    assert found["baselines/swish"]
    assert found["baselines/identity"]
    assert "tensorboard" not in actsearch.Run.open(run).config["settings"]


def test_without_the_package_the_search_says_so_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    code = main(["search", str(tmp_path / "run"), "--tensorboard", "--executor", "inline"])
    assert code == ENVIRONMENT
    assert "pip install tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
