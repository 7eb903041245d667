"""Runs of earlier releases, kept in tests/stores: they open, rank as they did then, and resume."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actsearch import reevaluate, search
from actsearch.cli import main
from actsearch.results import migrations
from actsearch.results.figures.searches import counted_as
from actsearch.results.metrics import ACCURACY
from actsearch.results.records import Cause
from actsearch.results.store import Store, StoreError
from actsearch.run import Run

STORES = Path(__file__).parent / "stores"
VERSIONS = sorted(int(folder.name[1:]) for folder in STORES.iterdir())
OLD = pytest.mark.parametrize("version", VERSIONS)
STRATEGIES = {  # with open proposals in the old runs
    "ppo:batch_size=8,hidden=8": "loss:5=0.3",
    "random+halving:eta=2,cohort=4,rungs=3": "off",
}


def copied(version: int, folder: Path) -> Path:
    run = folder / f"v{version}"
    run.mkdir()
    for name in ("config.json", "run.sqlite"):
        shutil.copy(STORES / f"v{version}" / name, run / name)
    return run


def plain(run: Path) -> sqlite3.Connection:
    """The file as SQLite alone reads it."""
    return sqlite3.connect(run / "run.sqlite")


def schema_of(db: sqlite3.Connection) -> dict[str, str]:
    """Definitions by name, in one spelling: a renamed table's name is quoted."""
    rows = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {name: re.sub(r"\s+", " ", sql.replace('"', "")) for name, sql in rows}


def read(db: sqlite3.Connection, query: str) -> list[Any]:
    return db.execute(query).fetchall()


def test_there_is_a_store_of_every_schema_that_can_be_migrated() -> None:
    assert sorted(migrations.MIGRATIONS) == VERSIONS
    for version in VERSIONS:
        with closing(plain(STORES / f"v{version}")) as db:
            assert read(db, "SELECT value FROM meta WHERE key = 'schema'") == [(str(version),)]


@OLD
def test_an_old_run_is_read_as_it_was_and_its_file_is_left_alone(
    version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, then = copied(version, tmp_path), STORES / f"v{version}"
    before = (run / "run.sqlite").read_bytes()
    main(["top", str(run), "-f", "csv"])
    shown = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    before_it = [*csv.DictReader(io.StringIO((then / "top.csv").read_text()))]
    # Later releases have columns of their own besides, and compare no times of a shared processor.
    kept = before_it[0].keys() - {"x relu"}
    before_it = [{name: row[name] for name in kept} for row in before_it]
    assert {row["x relu"] for row in shown} == {""}
    assert [{name: row[name] for name in kept} for row in shown] == before_it
    rows = json.loads((then / "reevaluations.json").read_text())
    again = Run.open(run).reevaluations()
    assert {row.pop("metric") for row in again} == {ACCURACY}
    # Then schema 4 had no scores that objectives return, and called a score an accuracy.
    then_as_now = [{k.replace("_accuracy", "_score"): v for k, v in row.items()} for row in rows]
    assert again == [{"scores": None, **row} for row in then_as_now]
    assert (run / "run.sqlite").read_bytes() == before


@OLD
def test_an_old_run_in_a_folder_that_cannot_be_written_is_read(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(version, tmp_path)
    monkeypatch.setattr("actsearch.results.store.os.access", lambda path, mode: False)
    with closing(Store(run / "run.sqlite", readonly=True)) as store:
        assert store.rows("search")
        with pytest.raises(StoreError, match="readonly"):
            store.save_strategy("s", {"position": 1})


def test_a_reader_sees_what_another_release_has_just_committed(tmp_path: Path) -> None:
    run = copied(4, tmp_path)
    with closing(plain(run)) as driver:
        driver.execute("PRAGMA wal_autocheckpoint = 0")
        driver.execute("UPDATE outcomes SET val_accuracy = 0.875 WHERE status = 'ok'")
        driver.commit()
        scores = {e.val_score for e in Run.open(run).leaderboard() if e.rank}
        assert scores == {0.875}


@OLD
def test_a_migrated_store_has_the_schema_of_a_new_one_and_all_its_rows(
    version: int, tmp_path: Path
) -> None:
    run = copied(version, tmp_path)
    names = ["functions", "health", "merged", "outcomes", "proposals", "protocols", "trials"]
    counts = [f"SELECT count(*) FROM {name}" for name in (*names, "strategies")]  # noqa: S608
    with closing(plain(run)) as db:
        before = [read(db, query) for query in counts]
    Store(run / "run.sqlite").close()
    Store(tmp_path / "new.sqlite", create=True).close()
    with closing(plain(run)) as db, closing(sqlite3.connect(tmp_path / "new.sqlite")) as new:
        assert schema_of(db) == schema_of(new)
        assert [read(db, query) for query in counts] == before
        assert read(db, "PRAGMA foreign_key_check") == []
        schema = "SELECT value FROM meta WHERE key = 'schema'"
        assert read(db, schema) == read(new, schema)


# Reasons as schema 4 had them, and how its figure of failures counted them.
REASONS = [
    ("raced_out", "left after 30 steps with validation accuracy 0.3140: its training loss 3 is ...",
     Cause.RACED_OUT, "left after steps"),
    ("diverged", "loss -inf at step 41", Cause.LOSS, "loss -inf"),
    ("diverged", "gradient norm nan at step 1041", Cause.GRADIENT_NORM, "gradient norm nan"),
    ("diverged", "logits not finite on the test split", Cause.LOGITS,
     "logits not finite on the test split"),
    ("failed", "ValueError: out of memory: 3", Cause.EXCEPTION, "ValueError"),
    ("failed", "KeyError: ", Cause.EXCEPTION, "KeyError"),
    ("failed", "out of memory: CUDA out of memory. Tried 2 GiB", Cause.OUT_OF_MEMORY,
     "out of memory"),
    ("timed_out", "longer than 60 s", Cause.TIMED_OUT, "longer than"),
    ("timed_out", "longer than 1.5 s at step 12", Cause.TIMED_OUT, "longer than"),
    ("crashed", "SIGSEGV in a process of its own: Fatal Python error", Cause.ENDED_ITSELF,
     "SIGSEGV in a process of its own"),
    ("crashed", "exit 3 in a process of its own", Cause.ENDED_ITSELF,
     "exit in a process of its own"),
    ("crashed", "signal 40 in a process of its own", Cause.ENDED_ITSELF,
     "signal in a process of its own"),
    ("crashed", "alone in a process, it was killed 5 times (for its memory?)", Cause.KILLED,
     "alone in a process it was killed times (for its memory?)"),
    ("crashed", "its worker died or fell silent 50 times", Cause.WORKER_LOST,
     "its worker died or fell silent times"),
    ("rejected", "value inf at x = -3.2e+01", Cause.VALUE, "value inf"),
    ("rejected", "gradient nan at x = 0 (group 2)", Cause.GRADIENT, "gradient nan (group)"),
    ("rejected", "constant", Cause.CONSTANT, "constant"),
    ("rejected", "constant (group 2)", Cause.CONSTANT, "constant (group)"),
    ("rejected", "affine in x: the network would be linear", Cause.AFFINE, "affine in x"),
    ("rejected", "no gradient on 99 % of the probe", Cause.NO_GRADIENT,
     "no gradient on of the probe"),
    ("rejected", "no gradient on 100 % of the probe (group 1)", Cause.NO_GRADIENT,
     "no gradient on of the probe (group)"),
    ("failed", "in words that nobody wrote", Cause.OTHER, "another reason"),
]  # fmt: skip


def test_the_cause_of_an_old_outcome_is_that_of_its_reason(tmp_path: Path) -> None:
    run = copied(4, tmp_path)
    with closing(plain(run)) as db:
        query = "SELECT id FROM trials JOIN outcomes ON trial = id WHERE stage = 'search'"
        ids = [number for (number,) in read(db, f"{query} ORDER BY id")][: len(REASONS)]
        for number, (status, reason, _, _) in zip(ids, REASONS, strict=True):
            db.execute(
                "UPDATE outcomes SET status = ?, reason = ?, val_accuracy = NULL, "
                "test_accuracy = NULL WHERE trial = ?",
                (status, reason, number),
            )
        db.commit()
    with closing(Store(run / "run.sqlite", readonly=True)) as store:
        found = dict(store.outcomes("search"))
    outcomes = [found.pop(number) for number in ids]
    assert [o.reason for o in outcomes] == [reason for _, reason, _, _ in REASONS]
    assert [o.cause for o in outcomes] == [cause for _, _, cause, _ in REASONS]
    assert [counted_as(o.cause, o.variant) for o in outcomes] == [words for *_, words in REASONS]
    newer = {Cause.SCORE, Cause.UNREAD}
    assert {cause for _, _, cause, _ in REASONS} == set(Cause) - newer
    assert all((o.status == "ok") == (o.cause is None) for o in found.values())


@OLD
@pytest.mark.parametrize("name", ["run", "migrate"])
def test_a_driver_that_is_killed_as_it_migrates_leaves_the_store_as_it_was(
    version: int, name: str, tmp_path: Path
) -> None:
    """After a step's first script, and after all steps, before they are committed."""
    run = copied(version, tmp_path)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from actsearch.results import migrations, store\n"
        f"real = migrations.{name}\n"
        f"migrations.{name} = store.{name} = lambda *given: (real(*given), os._exit(9))\n"
        "store.Store(Path(sys.argv[1]))"
    )
    file = str(run / "run.sqlite")
    assert subprocess.run([sys.executable, "-c", code, file]).returncode == 9
    with closing(plain(run)) as db, closing(plain(STORES / f"v{version}")) as then:
        assert schema_of(db) == schema_of(then)
        assert read(db, "SELECT * FROM outcomes") == read(then, "SELECT * FROM outcomes")
    Store(run / "run.sqlite").close()
    assert Run.open(run).leaderboard()[0].rank == 1


@OLD
def test_an_old_search_and_its_re_evaluation_go_on_to_the_end(version: int, tmp_path: Path) -> None:
    run = copied(version, tmp_path)
    score = "accuracy" if version == 4 else "score"
    with closing(plain(run)) as db:
        known = read(
            db,
            f"SELECT trial, status, val_{score}, test_{score} FROM outcomes "  # noqa: S608
            "WHERE status <> 'timed_out'",
        )
    for strategy, racing in STRATEGIES.items():
        search(run, strategy=strategy, racing=racing, budget=30, executor="inline", quiet=True)
    table = reevaluate(run, top=2, seeds=2, lr_sweep=2, executor="inline", quiet=True)
    assert list(table["n"]) == [2, 2, 2, 2]
    with closing(Run(run).store(readonly=True)) as store:
        assert store.waiting() == []
        assert len(store.trained()) == 30
        assert all(store.open_proposals(name) == [] for name in STRATEGIES)
    with closing(plain(run)) as db:
        now = read(db, "SELECT trial, status, val_score, test_score FROM outcomes")
        assert set(known) < set(now)
        unfinished = "SELECT count(*) FROM trials WHERE id NOT IN (SELECT trial FROM outcomes)"
        assert read(db, unfinished) == [(0,)]


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [("999", "schema 999 of a newer actsearch"), ("3", "schema 3 of another actsearch"),
     ("four", "schema none of another actsearch")],
)  # fmt: skip
@pytest.mark.parametrize("readonly", [False, True])
def test_a_store_that_cannot_be_migrated_is_refused_in_a_sentence(
    tmp_path: Path, schema: str, sentence: str, readonly: bool
) -> None:
    path = tmp_path / "run.sqlite"
    with closing(Store(path, create=True)) as store:
        store._db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (schema,))
    with pytest.raises(StoreError, match=f"{sentence}, .* install the version that wrote it"):
        Store(path, readonly=readonly)
