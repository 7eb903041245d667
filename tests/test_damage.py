"""A run whose files are damaged, or go away while it runs: a sentence with the way to recover, and
no search that goes on."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import actsearch
from actsearch import errors
from actsearch.errors import EnvironmentProblem, RunError, RunLostError
from actsearch.results.records import AtMilestone, Outcome
from actsearch.results.store import DiskFaultError, Store, StoreError
from actsearch.run import Run

TRIALS = 60


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store with all that a search keeps, as the last driver has left it."""
    path = tmp_path_factory.mktemp("whole") / "run.sqlite"
    chance = random.Random(0)
    with closing(Store(path, create=True)) as store:
        store.add_protocol("p", {"child": "stub"})
        for i in range(TRIALS):
            with store.transaction():
                expression = f"add(relu(x), sin(scale(x))) {i}"
                store.add_function(expression, f"key{i}", f"class{i % 7}", {"monotonic": "no"})
                store.merge(f"other {i}", expression)
                trial = store.submit("search", expression, "p", 0)
                store.propose("s", i, (i, 1, 2), trial)
                if i % 6:
                    curve = tuple((k, chance.random()) for k in range(100))
                    milestones = (AtMilestone(5, 0.5, 0.25),)
                    outcome = Outcome("ok", val_score=0.5, curve=curve, milestones=milestones)
                    store.record(trial, outcome)
                    store.tell("s", i, 0.5)
                store.save_strategy("s", {"told": i, "weights": "x" * 3000})
                store.save_health("s", i, {"reward": 0.5})
    return path.read_bytes()


def drive(path: Path) -> tuple[object, ...]:
    """What a driver does with a store that it opens: reads all of it, then writes."""
    with closing(Store(path, create=True)) as store:
        rows = store.rows("search")
        found = (
            store.proposals(), store.proposed_trials(), store.trained(), store.rejected(),
            store.strategy("s"), store.waiting(), store.open_proposals("s"), store.merged(),
            list(store.outcomes("search")), store.health("s"), rows, store.protocol("p"),
            [store.curve(row["id"]) for row in rows],
        )  # fmt: skip
        with store.transaction():
            trial = store.submit("search", "new", "p", 0)
            store.record(trial, Outcome("ok", val_score=0.25))
            store.save_strategy("s", {"told": 1})
    with closing(Store(path, readonly=True)) as reader:
        assert reader.find("search", "new", "p", 0) is not None
    return found


def a_flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


def a_sector(content: bytes, at: int) -> bytes:
    """As a disk loses it."""
    at -= at % 512
    return content[:at] + bytes(512) + content[at + 512 :]


def garbage(content: bytes, at: int) -> bytes:
    return content[:at] + random.Random(at).randbytes(64) + content[at + 64 :]


def cut_short(content: bytes, at: int) -> bytes:
    return content[:at]


DAMAGE = (a_flip, a_sector, garbage, cut_short)


@pytest.mark.parametrize("how", DAMAGE, ids=lambda how: how.__name__)
def test_a_damaged_store_is_a_sentence_wherever_it_is_met(
    content: bytes, tmp_path: Path, how: Callable[[bytes, int], bytes]
) -> None:
    """At 100 places. What SQLite's own check and the types of columns cannot see, changed letters
    and digits inside of values, is read as it stands."""
    chance, came = random.Random(1), Counter()
    for i, at in enumerate(sorted(chance.sample(range(len(content) - 600), 100))):
        path = tmp_path / str(i) / "run.sqlite"
        path.parent.mkdir()
        path.write_bytes(how(content, at))
        try:
            drive(path)
        except StoreError as error:
            came["refused"] += 1
            said = str(error)
            known = re.search(r"is damaged|nothing is stored|has schema|cannot be used", said)
            assert known, f"{how.__name__} at {at}: {said}"
        else:
            came["read"] += 1
    assert came["refused"] + came["read"] == 100
    if how is not a_flip:
        assert came["refused"] > 30, came
    if how is cut_short:
        assert came["refused"] == 100


def test_a_driver_does_not_begin_in_a_store_whose_index_does_not_fit(
    content: bytes, tmp_path: Path
) -> None:
    """Functions are found by it, and would be trained again."""
    at = content.rindex(b"add(relu(x), sin(scale(x))) 31")
    path = tmp_path / "run.sqlite"
    refused = 0
    for place in [m.start() for m in re.finditer(rb"scale\(x\)\)\) 31", content)]:
        path.write_bytes(a_flip(content, place))
        try:
            drive(path)
        except StoreError as error:
            refused += "recover" in str(error)
    assert at
    assert refused >= 3


def test_the_sentence_names_the_file_and_the_ways_to_recover(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(a_sector(content, len(content) // 2))
    with pytest.raises(StoreError) as caught:
        for at in range(0, len(content), 4096):
            path.write_bytes(content[:at] + bytes(4096) + content[at + 4096 :])
            drive(path)
    for words in (str(path), "from a copy", ".recover", "another folder"):
        assert words in str(caught.value)
    assert errors.exit_code(caught.value) == errors.RUN_UNAVAILABLE


def test_damage_that_comes_while_a_store_is_open_is_a_sentence(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(content)
    with closing(Store(path, readonly=True)) as store:
        store._db.execute("PRAGMA cache_size = 1")
        with open(path, "r+b") as file:
            for at in range(4096, len(content), 4096):
                file.seek(at)
                file.write(bytes(4096))
        with pytest.raises(StoreError, match="is damaged"):
            store.rows("search")


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [(sqlite3.SQLITE_IOERR_READ, DiskFaultError, errors.RESUMABLE),
     (sqlite3.SQLITE_IOERR_FSYNC, DiskFaultError, errors.RESUMABLE),
     (sqlite3.SQLITE_CORRUPT_INDEX, StoreError, errors.RUN_UNAVAILABLE),
     (sqlite3.SQLITE_CANTOPEN, StoreError, errors.RUN_UNAVAILABLE)],
)  # fmt: skip
def test_each_error_of_sqlite_has_its_sentence_and_exit_code(
    code: int, kind: type[StoreError], exit_code: int
) -> None:
    from actsearch.results.store import _explained

    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    with (
        pytest.raises(kind, match=r"^runs/a/run\.sqlite ") as caught,
        _explained(Path("runs/a/run.sqlite")),
    ):
        raise error
    assert errors.exit_code(caught.value) == exit_code


@pytest.mark.parametrize(
    "bad", [b"\xff\xfe{}", b'{"identity": {"seed": "\xf0"}}', b"{", b"[" * 90_000]
)
def test_a_bad_byte_in_config_json_is_a_sentence_with_its_name(tmp_path: Path, bad: bytes) -> None:
    (tmp_path / "config.json").write_bytes(bad)
    with pytest.raises(RunError, match=r"config\.json is damaged .* restore it from a copy"):
        _ = Run(tmp_path).config


# -- a run that goes away while it runs


def a_move(run: Path) -> None:
    run.rename(run.with_name("elsewhere"))


def a_move_with_another_in_its_place(run: Path) -> None:
    a_move(run)
    run.mkdir()
    (run / "run.lock").touch()


def a_removal(run: Path) -> None:
    shutil.rmtree(run)


def a_removed_lock(run: Path) -> None:
    (run / "run.lock").unlink()


LOSSES = (a_move, a_move_with_another_in_its_place, a_removal, a_removed_lock)


def search(run: Path, blobs: Any, look: Callable[..., None], threads: int = 1) -> None:
    actsearch.search(
        run, space="tiny", dataset=blobs, child="mlp:width=8", steps=100, batch_size=16, budget=10,
        executor="inline", children_per_worker=threads, callbacks=[look],
    )  # fmt: skip


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actsearch.searching.stop.LOOK_SECONDS", 0.0)


@pytest.mark.usefixtures("looks_always")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("how", LOSSES, ids=lambda how: how.__name__)
def test_a_run_that_goes_away_ends_its_search_with_75(
    tmp_path: Path, blobs: Any, how: Callable[[Path], None], threads: int
) -> None:
    """After the first training, so that the second one notices."""
    run, done = tmp_path / "run", list[int]()

    def lose(*_: Any) -> None:
        if not done:
            how(run)
        done.append(1)

    with pytest.raises(RunLostError, match=r"moved, deleted or unmounted, or its run\.lock was"):
        search(run, blobs, lose, threads)
    assert errors.exit_code(RunLostError("")) == errors.RESUMABLE
    assert len(done) <= threads  # no other was trained to its end
    left = {f.name for f in run.iterdir()} if run.exists() else set()
    assert how is a_removed_lock or left <= {"run.lock"}  # and nothing was written there


@pytest.mark.usefixtures("looks_always")
def test_what_was_stored_is_in_the_moved_folder_and_goes_on_there(
    tmp_path: Path, blobs: Any
) -> None:
    done: list[int] = []

    def move(*_: Any) -> None:
        done.append(1)
        if len(done) == 3:
            a_move(tmp_path / "run")

    with pytest.raises(RunLostError):
        search(
            tmp_path / "run",
            blobs,
            move,
        )
    moved = actsearch.Run.open(tmp_path / "elsewhere")
    assert sum(moved.counts().values()) >= 3
    search(
        tmp_path / "elsewhere",
        blobs,
        lambda *_: None,
    )
    assert sum(moved.counts().values()) >= 10


def test_no_second_driver_comes_in_where_the_lock_was_removed(tmp_path: Path) -> None:
    first, second = Run(tmp_path / "run"), Run(tmp_path / "run")
    with pytest.raises(RunLostError), first.locked():
        assert first.held()
        a_removed_lock(first.path)
        for _ in range(2):  # the first try makes the lock's file again
            with pytest.raises(RunError, match=r"run\.lock was removed.* ends within seconds"):
                second.locked().__enter__()
        assert not first.held()
    with second.locked():
        assert second.held()


def test_no_second_driver_comes_in_by_another_path(tmp_path: Path) -> None:
    first = Run(tmp_path / "run")
    with pytest.raises(RunLostError), first.locked():
        a_move(first.path)
        with pytest.raises(RunError, match="in use by process"):
            Run(tmp_path / "elsewhere").locked().__enter__()
        with Run(tmp_path / "run").locked():  # another run, in a folder of its own
            pass


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOSPC])
def test_what_the_machine_refuses_a_driver_is_a_sentence_and_no_surprise(
    tmp_path: Path, number: int
) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(Exception, match="the same command goes on") as caught, run.locked():
        raise OSError(number, os.strerror(number))
    assert errors.exit_code(caught.value) == errors.RESUMABLE
    with pytest.raises(ZeroDivisionError), run.locked():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("call", "code"), [("fcntl.flock", errno.ENOLCK), ("os.pwrite", errno.ENOSPC)]
)
def test_a_folder_that_cannot_be_locked_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, code: int
) -> None:
    """As on a network file system without locks, and on a disk that is full from the start."""

    def refused(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    run = Run(tmp_path)
    with run.locked():
        pass
    monkeypatch.setattr(call, refused)
    run.check_free()
    with pytest.raises(EnvironmentProblem, match=os.strerror(code)), run.locked():
        pass
