"""Runs of one search on several machines: merged into one, and as archives."""

from __future__ import annotations

import shutil
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import actsearch
from actsearch import cli
from actsearch.errors import RunError, UsageError
from actsearch.results.store import StoreError
from actsearch.run import Run

FEW = "units=1;unary=identity,tanh,relu,abs;binary=add,mul,max"
SCORES = {"relu": 0.5, "identity": 0.3}


def train(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
    """A score that tells functions and seeds apart, and is the same whatever the spelling."""
    import torch

    x = torch.linspace(-2, 2, 41)[:, None]
    value = make_activation(1)(x).detach().mean()
    return {"score": round(float(value), 6) + seed / 1000, "test_score": float(value)}


def searched(path: Path, **options: Any) -> Run:
    return actsearch.search(
        path,
        **{
            "objective": train,
            "metric": actsearch.Metric("score"),
            "space": FEW,
            "executor": "inline",
            "quiet": True,
            **options,
        },
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Two thirds of a space in two runs, which overlap, and all of it in one."""
    room = tmp_path_factory.mktemp("runs")
    return {
        "a": searched(room / "a", budget=5),
        "b": searched(room / "b", strategy="random", budget=9),
        "all": searched(room / "all"),
    }


def scores(run: Run) -> dict[str, float | None]:
    return {entry.formula: entry.val_score for entry in run.leaderboard()}


def moved_to(path: Path, run: Run, machine: str, by: float = 0.0) -> Run:
    """A copy of the run as if another machine had trained it, whose scores differ `by` so much."""
    actsearch.merge(path, [run])
    with closing(sqlite3.connect(path / "run.sqlite")) as db, db:
        db.execute("UPDATE outcomes SET host = ?, val_score = val_score + ?", (machine, by))
    return Run.open(path)


def test_merged_runs_have_what_each_had_and_no_function_twice(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    taken = actsearch.merge(tmp_path / "m", [runs["a"], runs["b"]])
    merged = Run.open(tmp_path / "m")
    assert scores(merged) == scores(runs["a"]) | scores(runs["b"])
    assert len(scores(merged)) < len(scores(runs["a"])) + len(scores(runs["b"]))
    assert taken[0].known == 0
    assert taken[1].known > 0
    assert taken[1].apart == 0.0
    again = actsearch.merge(tmp_path / "m", [runs["b"]])
    assert not again[0].kinds
    assert scores(Run.open(tmp_path / "m")) == scores(merged)
    as_candidates = {
        e.formula for run in (runs["a"], runs["b"]) for e in run.leaderboard() if e.candidate
    }
    assert {e.formula for e in merged.leaderboard() if e.candidate} == as_candidates
    assert (tmp_path / "m" / "top.csv").read_text().count("\n") == len(merged.leaderboard()) + 1


def test_a_search_goes_on_in_a_merged_run_and_trains_no_function_again(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    actsearch.merge(tmp_path / "m", [runs["b"], runs["a"]])
    known = scores(Run.open(tmp_path / "m"))
    with closing(sqlite3.connect(tmp_path / "m" / "run.sqlite")) as db:
        [before] = db.execute("SELECT max(finished) FROM outcomes").fetchone()
    run = searched(tmp_path / "m", strategy="exhaustive", budget=100)
    assert scores(run) == scores(runs["all"])
    with closing(sqlite3.connect(tmp_path / "m" / "run.sqlite")) as db:
        query = "SELECT count(*) FROM outcomes WHERE finished > ? AND status = 'ok'"
        [trained] = db.execute(query, (before,)).fetchone()
    assert trained == len(scores(run)) - len(known)


def test_two_spellings_of_a_function_are_one(runs: dict[str, Run], tmp_path: Path) -> None:
    """Only their values show that these are one: elsewhere it was trained as spelled otherwise."""
    first = searched(tmp_path / "a", budget=2, start=["max(relu(x), x)"])
    other = searched(tmp_path / "b", budget=2, start=["(x + abs(x)) / 2"])
    [taken] = actsearch.merge(first, [other])
    assert taken.known >= 1
    values = [
        e for e in first.leaderboard() if e.val_score == pytest.approx(scores(first)["relu(x)"])
    ]
    assert len(values) == 1
    with closing(first.store(readonly=True)) as store:
        subjects = {row["expression"] for row in store.rows("search")}
        merged = dict(store.merged())
    assert set(merged.values()) <= subjects


def test_what_another_machine_computed_otherwise_stays_as_it_is_here(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    other = moved_to(tmp_path / "b", runs["a"], "elsewhere", by=0.002)
    actsearch.merge(tmp_path / "m", [runs["a"]])
    before = scores(Run.open(tmp_path / "m"))
    [taken] = actsearch.merge(tmp_path / "m", [other])
    assert taken.apart == pytest.approx(0.002)
    assert scores(Run.open(tmp_path / "m")) == before
    assert "differ by at most 0.0020" in taken.text(Run.open(tmp_path / "m"))


def test_one_machine_that_says_two_things_is_refused_and_nothing_is_taken(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    actsearch.merge(tmp_path / "c", [runs["b"]])
    with closing(sqlite3.connect(tmp_path / "c" / "run.sqlite")) as db, db:
        db.execute("UPDATE outcomes SET val_score = val_score + 0.1 WHERE status = 'ok'")
    actsearch.merge(tmp_path / "m", [runs["a"]])
    before = scores(Run.open(tmp_path / "m"))
    with pytest.raises(RunError, match=r"both trained on .* so nothing was merged"):
        actsearch.merge(tmp_path / "m", [tmp_path / "c"])
    assert scores(Run.open(tmp_path / "m")) == before


def test_another_search_is_refused_with_what_differs(runs: dict[str, Run], tmp_path: Path) -> None:
    other = searched(tmp_path / "other", budget=1, seed=3)
    with pytest.raises(
        RunError, match=r"made with seed=0 and .*other with seed=3; only runs of one"
    ):
        actsearch.merge(tmp_path / "m", [runs["a"], other])
    assert not (tmp_path / "m").exists()
    with pytest.raises(StoreError, match="no run at"):
        actsearch.merge(tmp_path / "m", [tmp_path / "nothing"])
    with runs["a"].locked(), pytest.raises(RunError, match="in use by"):
        actsearch.merge(runs["a"].path, [runs["b"]])
    assert cli.main(["merge", str(tmp_path / "m")]) == 2


def test_re_evaluations_and_curves_come_along(runs: dict[str, Run], tmp_path: Path) -> None:
    actsearch.merge(tmp_path / "a", [runs["a"]])
    options: dict[str, Any] = {"executor": "inline", "quiet": True, "objective": train}
    table = actsearch.reevaluate(tmp_path / "a", top=2, seeds=2, **options)
    [taken] = actsearch.merge(tmp_path / "m", [tmp_path / "a"])
    assert taken.kinds["reevaluate"] == len(Run.open(tmp_path / "a").reevaluations()) > 0
    assert actsearch.reevaluate(tmp_path / "m", top=2, seeds=2, **options).equals(table)


# -- archives


def test_an_archive_is_read_as_the_run_is(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = runs["all"], tmp_path / "all.zip"
    assert cli.main(["archive", str(run.path), "-o", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: ")
    assert scores(Run.open(file)) == scores(run)
    for command in (["top"], ["show"], ["replay"]):
        words = {
            "show": ["show", "{}#1"],
            "replay": ["replay", "{}", "--strategy", "random", "--repeats", "1"],
        }.get(command[0], [command[0], "{}"])
        said = []
        for where in (run.path, file):
            assert cli.main([word.format(where) for word in words]) == 0
            said.append(capsys.readouterr().out.replace(str(where), "RUN"))
        assert said[0] == said[1]
    written = actsearch.report(file)
    assert written == tmp_path / "all-report.html"
    assert written.stat().st_size > 10_000
    actsearch.merge(tmp_path / "m", [file])
    assert scores(Run.open(tmp_path / "m")) == scores(run)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all-report.html", "all.zip", "m"]


def test_an_archive_is_made_while_the_run_is_written(runs: dict[str, Run], tmp_path: Path) -> None:
    actsearch.merge(tmp_path / "a", [runs["a"]])
    run = Run(tmp_path / "a")
    with run.locked(), closing(run.store()) as store, store.transaction():
        store.submit("search", "sin(x)", store.rows("search")[0]["protocol"], 0)
        file = run.archive()
    assert file == tmp_path / "a.zip"
    assert scores(Run.open(file)) == scores(runs["a"])


def test_what_writes_refuses_an_archive(runs: dict[str, Run], tmp_path: Path) -> None:
    file = runs["a"].archive(tmp_path / "a.zip")
    content = file.read_bytes()
    for use in (
        lambda: searched(file),
        lambda: actsearch.merge(file, [runs["b"]]),
        lambda: actsearch.propose(file, ["sin(x)"]),
        lambda: actsearch.reevaluate(file, objective=train, executor="inline", quiet=True),
    ):
        with pytest.raises(RunError, match=r"is an archive, which is only read; 'actsearch merge"):
            use()
    assert file.read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def test_a_damaged_archive_and_another_zip_are_said(runs: dict[str, Run], tmp_path: Path) -> None:
    file = runs["a"].archive(tmp_path / "a.zip")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    file.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        Run.open(file)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme.txt", "hello")
    with pytest.raises(StoreError, match="is not an archive of a run; 'actsearch archive RUN'"):
        Run.open(tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as other:
        other.writestr("run.sqlite", "hello")
    with pytest.raises(StoreError, match=r"text\.zip is not an archive of a run"):
        Run.open(tmp_path / "text.zip")
    with pytest.raises(UsageError, match=r"must be a file whose name ends in \.zip"):
        runs["a"].archive(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(actsearch.errors.EnvironmentProblem, match="cannot write"):
        runs["a"].archive(tmp_path / "file" / "a.zip")


def test_an_archive_that_is_larger_than_the_disk_is_not_unpacked(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = runs["a"].archive(tmp_path / "a.zip")
    full = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StoreError, match=r"has room for 0\.0 GB; free some, or set TMPDIR"):
        Run.open(file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_damaged_config_of_an_archive_is_named_by_the_archive(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as made:
        made.write(runs["a"].path / "run.sqlite", "run.sqlite")
        made.writestr("config.json", "[1]")
    with pytest.raises(RunError, match=r"the config.json in .*a\.zip is no run's"):
        Run.open(file).leaderboard()


def test_runs_of_operators_of_ones_own_are_merged_where_the_space_is_given(tmp_path: Path) -> None:
    wave = actsearch.Op("wave", 1, lambda x: x + x.sin())
    space = actsearch.Space(
        unary=[*actsearch.UNARY[:4], wave], binary=actsearch.BINARY[:2], units=1
    )
    runs = [searched(tmp_path / f"{n}", space=space, budget=n) for n in (2, 5)]
    with pytest.raises(UsageError, match=r"actsearch.merge\(..., space=space\)"):
        actsearch.merge(tmp_path / "all", runs)
    assert not (tmp_path / "all").exists()
    actsearch.merge(tmp_path / "all", runs, space=space)
    assert scores(Run.open(tmp_path / "all")) == scores(runs[1]) | scores(runs[0])
