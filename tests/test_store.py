"""The store: one outcome a trial, nothing non-finite, readers beside the writer, whole
transactions."""

from __future__ import annotations

import json
import math
import pickle
import sqlite3
import subprocess
import sys
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from actsearch.results.leaderboard import leaderboard
from actsearch.results.metrics import ACCURACY, METRICS
from actsearch.results.records import KINDS, Cause, Outcome, Trial, reward
from actsearch.results.store import DiskFullError, Store, StoreError

from .conftest import ok


def submit(store: Store, expression: str = "relu(x)", seed: int = 0) -> Trial:
    return store.submit("search", expression, "p", seed)


def test_a_store_in_a_folder_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.sqlite"
    with closing(Store(path, create=True)) as store:
        store.add_protocol("p", {})
        submit(store)
    monkeypatch.setattr("actsearch.results.store.os.access", lambda path, mode: False)
    with closing(Store(path, readonly=True)) as reader:
        assert [row["expression"] for row in reader.rows("search")] == ["relu(x)"]
        assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]  # SQLite wrote nothing
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    with pytest.raises(StoreError, match="cannot be read"):
        Store(tmp_path / "folder", readonly=True)


def test_a_trial_is_stored_once_and_found_by_its_key(store: Store) -> None:
    first = submit(store)
    assert submit(store) == first
    assert store.find("search", "relu(x)", "p", 0) == first
    assert submit(store, seed=1).id != first.id
    assert store.find("search", "sin(x)", "p", 0) is None


def test_a_second_outcome_is_refused_and_changes_nothing(store: Store) -> None:
    trial = submit(store)
    assert store.record(trial, ok(0.5))
    assert not store.record(trial, ok(0.9))
    outcome = store.outcome(trial)
    assert outcome is not None
    assert outcome.val_score == 0.5


def test_an_outcome_reads_back_as_it_was_written(store: Store) -> None:
    trial = submit(store)
    written = Outcome(
        "ok",
        val_score=0.5,
        test_score=0.25,
        curve=((1, 2.5), (2, 1.5)),
        seconds=3.5,
        ms_per_step=7.25,
        host="h",
        device="cpu",
        versions={"torch": "2"},
    )
    store.record(trial, written)
    assert store.outcome(trial) == written
    assert store.curve(trial.id) == [(1, 2.5), (2, 1.5)]
    assert store.rows("search")[0]["cost"] is None  # as of runs before it was measured


def test_a_cause_reads_back_as_itself_and_one_of_a_later_release_as_other(store: Store) -> None:
    trial = submit(store)
    store.record(trial, Outcome("failed", "ValueError: x", Cause.EXCEPTION, "ValueError"))
    outcome = store.outcome(trial)
    assert outcome is not None
    [entry] = leaderboard(store.rows("search"))
    for found in (outcome, entry):
        assert (found.cause, found.variant) == (Cause.EXCEPTION, "ValueError")
    store._db.execute("UPDATE outcomes SET cause = 'of tomorrow'")
    assert store.outcome(trial) == replace(outcome, cause=Cause.OTHER)
    assert leaderboard(store.rows("search"))[0].cause is Cause.OTHER


def test_an_ok_outcome_alone_has_no_cause(store: Store) -> None:
    assert ok(0.5).cause is None
    assert Outcome("diverged", "as a user's own task says").cause is Cause.OTHER
    with pytest.raises(ValueError, match="cause constant with status ok"):
        ok(0.5, cause=Cause.CONSTANT)
    store.record(submit(store), Outcome("failed", "ValueError: x"))
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        store._db.execute("UPDATE outcomes SET cause = NULL")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        store._db.execute("UPDATE outcomes SET status = 'ok', val_score = 0.5")


def test_a_cost_beside_relu_is_a_column_of_rows(store: Store) -> None:
    costs = {"cost": (1.5, 1.25, 2.0)}
    store.record(submit(store), Outcome("ok", val_score=0.5, details=costs))
    assert json.loads(store.rows("search")[0]["cost"]) == [1.5, 1.25, 2.0]


@pytest.mark.parametrize(
    ("status", "score", "test", "refused"),
    [("ok", None, None, True), ("ok", math.nan, None, True), ("ok", math.inf, None, True),
     ("ok", 0.5, -math.inf, True), ("ok", "much", None, True), ("diverged", 0.1, None, True),
     ("diverged", None, 0.1, True), ("nonsense", None, None, True),
     ("diverged", None, None, False), ("ok", 0.5, 0.4, False), ("ok", -3.25, 41.5, False)],
)  # fmt: skip
def test_the_file_itself_refuses_what_is_no_score(
    store: Store, status: str, score: float | str | None, test: float | None, refused: bool
) -> None:
    cause = None if status == "ok" else "other"
    row = (submit(store).id, status, "", cause, "", score, test, None, "[]", "[]", 0.0, None, "",
           "", "{}", "{}", 0.0)  # fmt: skip
    insert = f"INSERT INTO outcomes VALUES ({', '.join('?' * len(row))})"  # noqa: S608
    with pytest.raises(sqlite3.IntegrityError, match="CHECK") if refused else nullcontext():
        store._db.execute(insert, row)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_must_be_finite(score: float) -> None:
    with pytest.raises(ValueError, match=r"val_score is .* must be a finite number"):
        ok(score)
    with pytest.raises(ValueError, match=r"test_score is .* must be a finite number"):
        ok(0.5, test_score=score)


def test_only_an_ok_outcome_has_scores() -> None:
    for name in ("val_score", "test_score"):
        with pytest.raises(ValueError, match=f"{name} 0.5 .* only an ok outcome"):
            Outcome("diverged", "loss nan", **{name: 0.5})
    with pytest.raises(ValueError, match="needs its val_score"):
        Outcome("ok", test_score=0.5)


def test_a_score_of_any_size_is_stored_and_ranked(store: Store) -> None:
    scores = {"sin(x)": -3.25, "relu(x)": 41.5, "tanh(x)": 0.0}
    for expression, score in scores.items():
        store.record(submit(store, expression), ok(score, test_score=-score))
    entries = leaderboard(store.rows("search"))
    assert [(e.expression, e.val_score) for e in entries] == [
        ("relu(x)", 41.5), ("tanh(x)", 0.0), ("sin(x)", -3.25),
    ]  # fmt: skip
    assert [row["test_score"] for row in store.rows("search")] == [3.25, -41.5, -0.0]


@pytest.mark.parametrize(
    ("record", "former", "now"),
    [(Trial(0, "search", "x", "p", 0), "stage", "kind"),
     (Trial(0, "search", "x", "p", 0), "expression", "subject"),
     (ok(0.5), "val_accuracy", "val_score"), (ok(0.5), "test_accuracy", "test_score"),
     (ok(0.5), "rungs", "milestones")],
)  # fmt: skip
def test_a_former_name_of_an_attribute_is_answered_with_the_present_one(
    record: Trial | Outcome, former: str, now: str
) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{former}'; it is '{now}' now"):
        getattr(record, former)
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        record.nonsense  # type: ignore[union-attr]  # noqa: B018
    assert pickle.loads(pickle.dumps(record)) == record


def test_a_kind_of_trial_must_be_in_the_table(store: Store) -> None:
    with pytest.raises(ValueError, match="unknown kind of trial 'rungs'; known: search, rung"):
        store.submit("rungs", "x", "p", 0)
    for kind in KINDS:
        assert store.submit(kind, "x", "p", 0).kind == kind


def test_a_name_that_comes_later_is_of_every_trial_of_its_function(store: Store) -> None:
    submit(store)
    store.submit("search", "relu(x)", "p", 1, label="relu")
    submit(store, "sin(x)")
    labels = {(row["expression"], row["seed"]): row["label"] for row in store.rows("search")}
    assert labels == {("relu(x)", 0): "relu", ("relu(x)", 1): "relu", ("sin(x)", 0): ""}


def test_a_reward_is_higher_for_better_scores_and_none_for_a_failure() -> None:
    assert reward(ok(0.25), ACCURACY) == 0.25
    assert reward(ok(0.25), METRICS["loss"]) == -0.25
    for metric in METRICS.values():
        assert reward(Outcome("diverged", "loss nan at step 3"), metric) is None


def test_a_transaction_is_stored_whole_or_not_at_all(store: Store) -> None:
    trial = submit(store)
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.record(trial, ok(0.5))
        store.save_strategy("s", {"position": 1})
        raise ZeroDivisionError
    assert store.outcome(trial) is None
    assert store.strategy("s") is None
    with store.transaction():
        store.record(trial, ok(0.5))
        store.save_strategy("s", {"position": 1})
    assert store.outcome(trial) is not None
    assert store.strategy("s") == {"position": 1}


def test_a_reader_sees_the_last_commit_while_a_transaction_is_open(
    store: Store, tmp_path: Path
) -> None:
    trial = submit(store)
    reader = Store(tmp_path / "run.sqlite", readonly=True)
    with store.transaction():
        store.record(trial, ok(0.5))
        assert [row["status"] for row in reader.rows("search")] == [None]
    assert [row["status"] for row in reader.rows("search")] == ["ok"]
    reader.close()


def test_a_reader_cannot_write(store: Store, tmp_path: Path) -> None:
    reader = Store(tmp_path / "run.sqlite", readonly=True)
    with pytest.raises(StoreError, match=r"run\.sqlite cannot be used .*readonly"):
        reader.save_strategy("s", {"position": 1})
    reader.close()


def test_open_proposals_are_those_without_a_reward(store: Store) -> None:
    one, two = submit(store), submit(store, "sin(x)")
    store.propose("random", 0, (1, 2), one)
    store.propose("random", 1, (3, 4), two)
    store.tell("random", 0, 0.5)
    assert [(p.number, p.digits, p.trial) for p in store.open_proposals("random")] == [
        (1, (3, 4), two.id)
    ]
    assert store.open_proposals("exhaustive") == []


def test_a_failure_has_been_told(store: Store) -> None:
    store.propose("random", 0, (1, 2), submit(store))
    store.tell("random", 0, None)
    assert store.open_proposals("random") == []


def test_the_budget_counts_finished_proposed_functions_only(store: Store) -> None:
    proposed, beside, rejected = (submit(store, e) for e in ("sin(x)", "relu(x)", "beta"))
    store.propose("random", 0, (0,), proposed)
    store.propose("random", 1, (1,), rejected)
    assert store.trained() == set()
    store.record(proposed, ok(0.5))
    store.record(beside, ok(0.6))
    store.record(rejected, Outcome("rejected", "constant"))
    assert store.trained() == {"sin(x)"}


def test_a_missing_run_is_answered_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="actsearch search"):
        Store(tmp_path / "none" / "run.sqlite", readonly=True)


def test_a_full_disk_is_named_and_what_was_committed_is_there_afterwards(
    store: Store, tmp_path: Path
) -> None:
    [pages] = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 4}")  # SQLite's own way to be full
    stored: list[Trial] = []
    with pytest.raises(DiskFullError, match="the same command goes on"):
        for i in range(1000):
            with store.transaction():
                trial = submit(store, f"function {i}" + "x" * 200)
                store.record(trial, ok(0.5))
                store.save_strategy("s", {"position": i})
            stored.append(trial)
    assert stored
    reader = Store(tmp_path / "run.sqlite", readonly=True)
    assert [row["id"] for row in reader.rows("search")] == [t.id for t in stored]
    assert reader.strategy("s") == {"position": len(stored) - 1}
    reader.close()
    store._db.execute(f"PRAGMA max_page_count = {pages + 400}")
    with store.transaction():
        assert store.record(submit(store, "later"), ok(0.5))


@pytest.mark.parametrize("bytes_there", [0, 1])
def test_a_driver_that_was_killed_as_it_made_the_store_is_no_harm(
    tmp_path: Path, bytes_there: int
) -> None:
    path = tmp_path / "run.sqlite"
    if bytes_there:  # killed inside the transaction that makes the tables
        code = (
            "import os, sys; from pathlib import Path; from actsearch.results import store\n"
            "store.NEWEST = type('V', (), {'__str__': lambda v: os._exit(9)})()\n"
            "store.Store(Path(sys.argv[1]), create=True)"
        )
        assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
    else:
        path.touch()
    with pytest.raises(StoreError, match="nothing is stored"):
        Store(path, readonly=True)
    opened = Store(path, create=True)
    assert opened.rows("search") == []
    opened.close()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="damaged"):
        Store(path)
