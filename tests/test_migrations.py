"""Runs of earlier releases, kept in tests/stores: they open, rank as they did then, and resume."""

from __future__ import annotations

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
from actsearch.results.store import Store, StoreError
from actsearch.run import Run

STORES = Path(__file__).parent / "stores"
VERSIONS = sorted(int(folder.name[1:]) for folder in STORES.iterdir())
OLD = pytest.mark.parametrize("version", VERSIONS)
STRATEGIES = {  # with open proposals in the run of schema 4
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
    assert capsys.readouterr().out == (then / "top.csv").read_text()
    rows = json.loads((then / "reevaluations.json").read_text())
    again = [{k.replace("_score", "_accuracy"): v for k, v in row.items()}
             for row in Run.open(run).reevaluations()]  # fmt: skip
    assert again == rows
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
        assert read(db, "SELECT value FROM meta") == read(new, "SELECT value FROM meta")


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


def test_an_old_search_and_its_re_evaluation_go_on_to_the_end(tmp_path: Path) -> None:
    run = copied(4, tmp_path)
    with closing(plain(run)) as db:
        known = read(db, "SELECT trial, status, val_accuracy, test_accuracy FROM outcomes "
                         "WHERE status <> 'timed_out'")  # fmt: skip
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
