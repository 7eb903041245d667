"""Store: every trial, outcome and proposal of a run in one SQLite file, written by one driver.

In WAL mode readers never block the writer. A trial is `queued` until it has an outcome, and can
have only one: the outcome's key is its trial. What a strategy has been told is committed together
with the outcomes that it was told, so a resumed strategy has seen exactly what the store holds.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from actsearch.results.migrations import NEWEST, OLDEST, migrate, run
from actsearch.results.records import (
    ALWAYS_BESIDE,
    KINDS,
    STATUSES,
    AtMilestone,
    Outcome,
    Trial,
    known_cause,
)

_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE protocols (hash TEXT PRIMARY KEY, description TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE functions (
    subject TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    symmetry TEXT NOT NULL,
    properties TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX functions_by_fingerprint ON functions (fingerprint);
CREATE INDEX functions_by_symmetry ON functions (symmetry);
CREATE TABLE merged (subject TEXT PRIMARY KEY, into_subject TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE trials (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    protocol TEXT NOT NULL REFERENCES protocols (hash),
    seed INTEGER NOT NULL,
    formula TEXT NOT NULL,
    label TEXT NOT NULL,
    submitted REAL NOT NULL,
    UNIQUE (kind, subject, protocol, seed)
);
CREATE TABLE outcomes (
    trial INTEGER PRIMARY KEY REFERENCES trials (id),
    status TEXT NOT NULL CHECK (status IN {STATUSES}),
    reason TEXT NOT NULL,
    cause TEXT,
    variant TEXT NOT NULL,
    val_score REAL CHECK (val_score BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308),
    test_score REAL CHECK (test_score BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308),
    step INTEGER,
    curve TEXT NOT NULL,
    milestones TEXT NOT NULL,
    seconds REAL NOT NULL,
    ms_per_step REAL,
    host TEXT NOT NULL,
    device TEXT NOT NULL,
    versions TEXT NOT NULL,
    details TEXT NOT NULL,
    finished REAL NOT NULL,
    CHECK ((status = 'ok') = (cause IS NULL)),
    CHECK ((status = 'ok') = (val_score IS NOT NULL)),
    CHECK (status = 'ok' OR test_score IS NULL)
);
CREATE TABLE proposals (
    strategy TEXT NOT NULL,
    number INTEGER NOT NULL,
    digits TEXT NOT NULL,
    share REAL NOT NULL,
    trial INTEGER NOT NULL REFERENCES trials (id),
    reward REAL,
    PRIMARY KEY (strategy, number)
) WITHOUT ROWID;
CREATE INDEX proposals_by_trial ON proposals (trial);
CREATE INDEX open_proposals ON proposals (strategy, number) WHERE reward IS NULL;
CREATE TABLE strategies (
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name, key)
) WITHOUT ROWID;
CREATE TABLE health (
    strategy TEXT NOT NULL,
    proposals INTEGER NOT NULL,
    numbers TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (strategy, proposals)
) WITHOUT ROWID;
"""

_ROWS = """
SELECT t.id, t.kind, t.subject AS expression, t.protocol, t.seed, t.formula, t.label,
       json_extract(p.description, '$.recipe.steps') AS steps, t.submitted,
       o.status, o.reason, o.cause, o.variant, o.val_score, o.test_score, o.step, o.milestones,
       o.seconds, o.ms_per_step, json_extract(o.details, '$.cost') AS cost,
       json_extract(o.details, '$.scores') AS scores,
       o.host, o.device, o.versions, o.finished, f.symmetry, f.properties,
       EXISTS (SELECT 1 FROM proposals p WHERE p.trial = t.id) AS proposed
FROM trials t JOIN protocols p ON p.hash = t.protocol LEFT JOIN outcomes o ON o.trial = t.id
LEFT JOIN functions f ON f.subject = t.subject
"""
_SEARCHED = json.dumps([kind.name for kind in KINDS.values() if kind.searched])


class StoreError(Exception):
    """A store that cannot be opened or read; the message says why and what to do."""


class DiskFullError(StoreError):
    """Nothing more can be written; what had been committed is safe."""


class DiskFaultError(StoreError):
    """The disk does not read or write; what had been committed is safe as far as it is."""


_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PRIMARY = 0xFF  # an extended code's last byte is the primary code


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Around all that SQLite does: a StoreError says what to do about each of its errors but those
    of our own statements."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # text that is no UTF-8
        if code in _FULL:
            raise DiskFullError(
                f"the disk is full ({error}); all that had finished is stored. Free some "
                "space, and the same command goes on."
            ) from error
        if code & _PRIMARY == sqlite3.SQLITE_IOERR:
            raise DiskFaultError(
                f"{path} cannot be read or written ({error}); look after its disk, then the same "
                "command goes on"
            ) from error
        if code & _PRIMARY in _DAMAGED:
            raise damaged(path, str(error)) from error
        raise StoreError(
            f"{path} cannot be used ({error}); check that it and its folder may be read and "
            "written, and that no other program holds it"
        ) from error


def damaged(path: Path, why: str) -> StoreError:
    """With the ways to recover."""
    return StoreError(
        f"{path} is damaged ({why}); restore it and {path.name}-wal from a copy, or save what can "
        f"be read by 'sqlite3 {path} .recover | sqlite3 NEW' and put NEW in its place, or search "
        "in another folder"
    )


def read_json(text: str, path: Path = Path("run.sqlite")) -> Any:
    """What a column of a store holds; raises StoreError for what was never written there."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, f"{str(text)[:40]!r} is no JSON") from error


class _Cursor(sqlite3.Cursor):
    """Explains what goes wrong while rows are read."""

    def execute(self, sql: str, parameters: Any = (), /) -> _Cursor:
        with _explained(_path_of(self)):
            super().execute(sql, parameters)
        return self

    def __next__(self) -> Any:
        with _explained(_path_of(self)):
            return super().__next__()

    def fetchone(self) -> Any:
        return next(self, None)


def _path_of(cursor: sqlite3.Cursor) -> Path:
    assert isinstance(cursor.connection, _Connection)
    return cursor.connection.path


class _Connection(sqlite3.Connection):
    path: Path

    def execute(self, sql: str, parameters: Any = (), /) -> _Cursor:
        return self.cursor(_Cursor).execute(sql, parameters)


def _connect(path: Path, uri: str) -> _Connection:
    """To the database at `uri`, whose errors name `path`."""
    with _explained(path):
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30, factory=_Connection)
    db.path = path
    db.row_factory = sqlite3.Row
    return db


@dataclass(frozen=True)
class OpenProposal:
    """A proposal whose trial has no outcome yet."""

    number: int
    digits: tuple[int, ...]
    trial: int


class Store:
    """Opens `path`; creates it if `create`. With `readonly` nothing is ever written.

    A file of an earlier release is brought to today's schema in one transaction, so a driver that
    is killed meanwhile leaves it as it was. A reader has no right to do so, and another release may
    be searching there: it migrates a copy, temporary and its own, of what was committed when it
    opened, and does not see later trials.

    Raises StoreError for a file that is missing, damaged, or of a newer version; a file that is
    opened for writing is looked through for damage first (0.5 s of processor time per 50,000
    trials). All methods raise StoreError where SQLite finds damage or the disk fails.
    """

    def __init__(self, path: Path, *, create: bool = False, readonly: bool = False) -> None:
        if not path.is_file() and not create:
            raise StoreError(f"no run at {path.parent}; 'actsearch search {path.parent}' makes one")
        mode = "ro" if readonly else "rwc"
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        if readonly and not os.access(path.parent, os.W_OK) and not _in_use(path):
            uri += "&immutable=1"  # SQLite would write a file beside it
        self._saved: dict[tuple[str, str], str] = {}  # what save_strategy has written
        self.path = path
        self._db = _connect(path, uri)
        try:
            if create and self._empty():
                self._create()
            version = self._version()
            if not readonly:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._check_whole()
            if version < NEWEST:
                self._migrate(readonly)
            if not readonly:
                self._db.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            self._db.close()
            raise

    def _migrate(self, readonly: bool) -> None:
        if readonly:
            copy = _connect(self.path, "")  # to SQLite, a temporary database that only it sees
            with closing(self._db) as old, _explained(self.path):
                old.backup(copy)
            self._db = copy
        with self.transaction():
            migrate(self._db, self._version())  # which another driver may have raised meanwhile
        if readonly:
            self._db.execute("PRAGMA query_only = ON")

    def _create(self) -> None:
        with self.transaction():
            run(self._db, _SCHEMA)
            self._db.execute("INSERT INTO meta VALUES ('schema', ?)", (str(NEWEST),))

    def _check_whole(self) -> None:
        """A search that goes on into a damaged file would spread the damage. (`quick_check` takes
        0.6 times as long, and passes over indices that do not fit their tables, by which functions
        are found.)"""
        self._db.execute("PRAGMA cell_size_check = ON")
        [found] = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise damaged(self.path, " ".join(found.split()))

    def _empty(self) -> bool:
        """As a driver leaves a file that is killed at once."""
        return not self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()

    def _version(self) -> int:
        """That of the file's schema; raises StoreError for one that cannot be read."""
        if self._empty():
            raise StoreError(f"nothing is stored in {self.path} yet; start the search again")
        row = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        found = row[0] if row is not None and str(row[0]).isdecimal() else "none"
        if found == "none" or not OLDEST <= int(found) <= NEWEST:
            wrote = "a newer" if found != "none" and int(found) > NEWEST else "another"
            raise StoreError(
                f"{self.path} has schema {found} of {wrote} actsearch, and this one reads schemas "
                f"{OLDEST} to {NEWEST}; install the version that wrote it, or search in another "
                "folder"
            )
        return int(found)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside is stored together or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._saved.clear()
            if self._db.in_transaction:  # SQLite ends it by itself where the disk is full
                self._db.execute("ROLLBACK")
            raise

    # -- writing

    def add_protocol(self, protocol_hash: str, description: dict[str, Any]) -> None:
        text = json.dumps(description, sort_keys=True, allow_nan=False)
        self._db.execute("INSERT OR IGNORE INTO protocols VALUES (?, ?)", (protocol_hash, text))

    def submit(
        self,
        kind: str,
        subject: str,
        protocol: str,
        seed: int,
        *,
        formula: str = "",
        label: str = "",
    ) -> Trial:
        """The trial of this key, made if it is new."""
        new = Trial(0, kind, subject, protocol, seed, formula or subject, label)
        self._db.execute(
            "INSERT INTO trials (kind, subject, protocol, seed, formula, label, submitted) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*new.key, new.formula, label, time.time()),
        )
        if label:
            self._db.execute(
                "UPDATE trials SET label = ? WHERE subject = ? AND label = ''", (label, subject)
            )
        found = self.find(*new.key)
        assert found is not None
        return found

    def add_function(
        self, subject: str, fingerprint: str, symmetry: str, properties: Mapping[str, Any]
    ) -> None:
        text = json.dumps(properties, allow_nan=False)
        self._db.execute(
            "INSERT OR IGNORE INTO functions VALUES (?, ?, ?, ?)",
            (subject, fingerprint, symmetry, text),
        )

    def set_beside(self, screened_out: Mapping[str, bool]) -> None:
        """The subjects of the baselines, and whether screening would reject each as a candidate: as
        such it is rejected then, and its training is the baseline's alone."""
        text = json.dumps(dict(screened_out))
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('beside', ?)", (text,))

    def reopen(self, trial: Trial) -> None:
        """Forget that a trial was rejected, so that it is trained."""
        self._db.execute(
            "DELETE FROM outcomes WHERE trial = ? AND status = 'rejected'", (trial.id,)
        )

    def merge(self, subject: str, into: str) -> None:
        """Remember that `subject` is the same function as `into`."""
        self._db.execute("INSERT OR REPLACE INTO merged VALUES (?, ?)", (subject, into))

    def record(self, trial: Trial, outcome: Outcome) -> bool:
        """Store an outcome; False where the trial has one already, which then stays as it is,
        unless it says that there was too little time."""
        self._db.execute(
            "DELETE FROM outcomes WHERE trial = ? AND status = 'timed_out'", (trial.id,)
        )
        cursor = self._db.execute(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (
                trial.id,
                outcome.status,
                outcome.reason,
                outcome.cause,
                outcome.variant,
                outcome.val_score,
                outcome.test_score,
                outcome.step,
                json.dumps([p for p in outcome.curve if math.isfinite(p[1])], allow_nan=False),
                json.dumps([astuple(at) for at in outcome.milestones], allow_nan=False),
                outcome.seconds,
                outcome.ms_per_step,
                outcome.host,
                outcome.device,
                json.dumps(outcome.versions),
                json.dumps(outcome.details, allow_nan=False),
                time.time(),
            ),
        )
        return cursor.rowcount == 1

    def propose(
        self, strategy: str, number: int, digits: Sequence[int], trial: Trial, share: float = 1.0
    ) -> None:
        self._db.execute(
            "INSERT INTO proposals VALUES (?, ?, ?, ?, ?, NULL)",
            (strategy, number, json.dumps(list(digits)), share, trial.id),
        )

    def tell(self, strategy: str, number: int, reward: float | None) -> None:
        """A reward, None for a failure: that is -infinity here, since NULL is not told yet."""
        self._db.execute(
            "UPDATE proposals SET reward = ? WHERE strategy = ? AND number = ?",
            (-math.inf if reward is None else reward, strategy, number),
        )

    def save_strategy(self, name: str, state: dict[str, Any]) -> None:
        """Store a strategy's state; only keys whose value has changed are written."""
        for key, value in state.items():
            text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
            if self._saved.get((name, key)) != text:
                self._db.execute(
                    "INSERT OR REPLACE INTO strategies VALUES (?, ?, ?)",
                    (name, key, json.dumps(value, allow_nan=False)),
                )
                self._saved[name, key] = text

    def save_health(self, strategy: str, proposals: int, numbers: Mapping[str, float]) -> None:
        """How a strategy was doing after so many proposals."""
        text = json.dumps(dict(numbers), allow_nan=False)
        row = (strategy, proposals, text, time.time())
        self._db.execute("INSERT OR REPLACE INTO health VALUES (?, ?, ?, ?)", row)

    # -- between stores

    def copy_to(self, path: Path) -> None:
        """Write all that is stored at this moment into a new file."""
        with _explained(path):
            self._db.execute("VACUUM INTO ?", (str(path),))

    def everything(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each trial that has an outcome, with it, as they are stored, oldest first; `proposed`
        says whether a strategy, or somebody beside it, proposed the trial."""
        trials = self._db.execute(
            "SELECT t.*, EXISTS (SELECT 1 FROM proposals p WHERE p.trial = t.id) AS proposed "
            "FROM trials t ORDER BY id"
        )
        for trial in trials.fetchall():
            query = "SELECT * FROM outcomes WHERE trial = ?"
            outcome = self._db.execute(query, (trial["id"],)).fetchone()
            if outcome is not None:
                yield dict(trial), dict(outcome)

    def take(self, trial: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any] | None:
        """Store what `everything` of another store gave, with the times that it has there. Where
        this one has an outcome of the trial already, it stays, and is returned; one that says that
        there was too little time gives way."""
        with_id = self.submit(
            *(trial[name] for name in ("kind", "subject", "protocol", "seed")),
            formula=trial["formula"],
            label=trial["label"],
        )
        if trial["proposed"]:  # so that it is a candidate here, and counts in the budget
            self._db.execute(
                "INSERT OR IGNORE INTO proposals VALUES ('merged', :t, '[]', 1.0, :t, 0.0)",
                {"t": with_id.id},
            )
        query = "SELECT * FROM outcomes WHERE trial = ?"
        known = self._db.execute(query, (with_id.id,)).fetchone()
        if known is not None and (known["status"] != "timed_out" or outcome["status"] != "ok"):
            return dict(known)
        row = {**outcome, "trial": with_id.id}  # in the order of the columns, as it was read
        self._db.execute(
            "INSERT OR REPLACE INTO outcomes "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            tuple(row.values()),
        )
        self._db.execute(
            "UPDATE trials SET submitted = ? WHERE id = ?", (trial["submitted"], with_id.id)
        )
        return None

    def functions(self) -> list[dict[str, Any]]:
        """What is known of each function, as `add_function` takes it."""
        rows = self._db.execute("SELECT * FROM functions ORDER BY subject")
        return [{**row, "properties": self._json(row["properties"])} for row in map(dict, rows)]

    def with_fingerprint(self, fingerprint: str) -> list[str]:
        """The subjects of the functions that have it."""
        query = "SELECT subject FROM functions WHERE fingerprint = ? ORDER BY subject"
        return [subject for (subject,) in self._db.execute(query, (fingerprint,))]

    def protocols(self) -> list[tuple[str, dict[str, Any]]]:
        """All protocols by their hashes."""
        rows = self._db.execute("SELECT hash, description FROM protocols ORDER BY 1")
        return [(name, self._json(text)) for name, text in rows]

    # -- reading

    def find(self, kind: str, subject: str, protocol: str, seed: int) -> Trial | None:
        row = self._db.execute(
            "SELECT * FROM trials WHERE kind = ? AND subject = ? AND protocol = ? AND seed = ?",
            (kind, subject, protocol, seed),
        ).fetchone()
        return None if row is None else _trial(row)

    def has_function(self, subject: str) -> bool:
        """Whether this function is known, by itself or merged into another."""
        query = (
            "SELECT 1 FROM functions WHERE subject = :s "
            "UNION ALL SELECT 1 FROM merged WHERE subject = :s"
        )
        return self._db.execute(query, {"s": subject}).fetchone() is not None

    def merged_into(self, subject: str) -> str:
        """The subject that stands for this one: itself unless it was merged."""
        query = "SELECT into_subject FROM merged WHERE subject = ?"
        row = self._db.execute(query, (subject,)).fetchone()
        return subject if row is None else row[0]

    def merged(self) -> list[tuple[str, str]]:
        """All subjects that were merged into another, with that other."""
        return [(s, into) for s, into in self._db.execute("SELECT * FROM merged ORDER BY 1")]

    def alike(self, fingerprint: str, trial: tuple[str, str, int]) -> list[Trial]:
        """Trials of (kind, protocol, seed) whose function has this fingerprint."""
        query = (
            "SELECT t.* FROM trials t JOIN functions f USING (subject) "
            "WHERE f.fingerprint = ? AND t.kind = ? AND t.protocol = ? AND t.seed = ? ORDER BY id"
        )
        return [_trial(row) for row in self._db.execute(query, (fingerprint, *trial))]

    def outcome(self, trial: Trial) -> Outcome | None:
        row = self._db.execute("SELECT * FROM outcomes WHERE trial = ?", (trial.id,)).fetchone()
        return None if row is None else self._outcome(row)

    def outcomes(self, kind: str) -> Iterator[tuple[int, Outcome]]:
        """All finished trials of this kind, by their ids, oldest first."""
        query = "SELECT o.* FROM outcomes o JOIN trials t ON t.id = o.trial WHERE t.kind = ?"
        rows = self._db.execute(f"{query} ORDER BY o.trial", (kind,))
        return ((row["trial"], self._outcome(row)) for row in rows)

    def details(self, kind: str) -> list[dict[str, Any]]:
        """Those of all trainings of a kind."""
        rows = self._db.execute(
            "SELECT details FROM outcomes JOIN trials ON id = trial WHERE kind = ? "
            "AND status != 'rejected'",
            (kind,),
        )
        return [self._json(details) for (details,) in rows]

    def waiting(self) -> list[Trial]:
        """Trials of the search without an outcome, oldest first."""
        rows = self._db.execute(
            "SELECT * FROM trials WHERE kind IN (SELECT value FROM json_each(?)) "
            "AND id NOT IN (SELECT trial FROM outcomes) ORDER BY id",
            (_SEARCHED,),
        )
        return [_trial(row) for row in rows]

    def finished_among(self, ids: Iterable[int]) -> list[Trial]:
        """Those of these trials that have an outcome."""
        query = "SELECT t.* FROM trials t JOIN outcomes o ON o.trial = t.id WHERE t.id = ?"
        return [_trial(row) for i in ids for row in self._db.execute(query, (i,))]

    def open_proposals(self, strategy: str) -> list[OpenProposal]:
        rows = self._db.execute(
            "SELECT * FROM proposals WHERE reward IS NULL AND strategy = ? ORDER BY number",
            (strategy,),
        )
        return [OpenProposal(r["number"], tuple(self._json(r["digits"])), r["trial"]) for r in rows]

    def has_proposals(self, trial: Trial) -> bool:
        query = "SELECT 1 FROM proposals WHERE trial = ? LIMIT 1"
        return self._db.execute(query, (trial.id,)).fetchone() is not None

    def proposals(self) -> int:
        """How many proposals there have been."""
        return self._db.execute("SELECT count(*) FROM proposals").fetchone()[0]

    def proposed_trials(self) -> int:
        """How many trials they led to."""
        return self._db.execute("SELECT count(DISTINCT trial) FROM proposals").fetchone()[0]

    def finished(self) -> int:
        """How many trials of any kind have an outcome."""
        return self._db.execute("SELECT count(*) FROM outcomes").fetchone()[0]

    def trained(self) -> set[str]:
        """Subjects that the budget counts: proposed by a strategy, with an outcome, not rejected,
        nor trained as a baseline alone."""
        rows = self._db.execute(
            "SELECT DISTINCT t.subject FROM outcomes o JOIN trials t ON t.id = o.trial "
            "WHERE t.kind IN (SELECT value FROM json_each(?)) AND o.status <> 'rejected' "
            "AND EXISTS (SELECT 1 FROM proposals p WHERE p.trial = t.id)",
            (_SEARCHED,),
        )
        return {row[0] for row in rows} - self.unscreened()

    def confirming(self) -> tuple[int, int]:
        """How many trainings went into confirming, those on their way included, and how many of
        them have an outcome."""
        query = (
            "SELECT count(*), count(o.trial) FROM trials t LEFT JOIN outcomes o ON o.trial = t.id "
            "WHERE t.kind = 'confirm'"
        )
        made, finished = self._db.execute(query).fetchone()
        return made, finished

    def proposed_as(self, strategy: str, trial: int) -> list[tuple[int, ...]]:
        """The digits by which a strategy has proposed the function of this trial."""
        query = "SELECT DISTINCT digits FROM proposals WHERE trial = ? AND strategy = ? ORDER BY 1"
        return [tuple(self._json(row[0])) for row in self._db.execute(query, (trial, strategy))]

    def beside(self) -> dict[str, bool]:
        """What `set_beside` stored; in runs from before there was a choice, ReLU and Swish."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'beside'").fetchone()
        if row is not None:
            stored = self._json(row[0])
            if not isinstance(stored, dict):
                raise damaged(self.path, f"baselines {row[0][:40]!r}")
            return stored
        query = "SELECT subject FROM trials WHERE label IN (SELECT value FROM json_each(?))"
        found = self._db.execute(query, (json.dumps(ALWAYS_BESIDE),))
        return {subject: False for (subject,) in found}

    def unscreened(self) -> set[str]:
        """The baselines that screening would reject, which are trained as baselines alone."""
        return {subject for subject, screened_out in self.beside().items() if screened_out}

    def rejected(self) -> int:
        """How many search trials were rejected before training."""
        query = "SELECT count(*) FROM outcomes WHERE status = 'rejected'"
        return self._db.execute(query).fetchone()[0]

    def strategy(self, name: str) -> dict[str, Any] | None:
        """The state of a strategy, None where it has none yet."""
        query = "SELECT key, value FROM strategies WHERE name = ?"
        state = {key: self._json(value) for key, value in self._db.execute(query, (name,))}
        return state or None

    def health(self, strategy: str, skip: int = 0) -> list[dict[str, float]]:
        """What `save_health` stored, oldest first and without the `skip` first, with `proposals`
        added."""
        query = (
            "SELECT proposals, numbers FROM health WHERE strategy = ? ORDER BY proposals "
            "LIMIT -1 OFFSET ?"
        )
        found = self._db.execute(query, (strategy, skip))
        return [{"proposals": n, **self._json(numbers)} for n, numbers in found]

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """One dict a trial of this kind, outcome columns None while it waits; oldest first. `steps`
        are those of its protocol; `expression` is its subject, as columns of tables are named;
        `beside` says whether that is a baseline, `candidate` whether it was tried as such, too."""
        found = self._db.execute(f"{_ROWS} WHERE t.kind = ? ORDER BY t.id", (kind,))
        beside = self.beside()
        return [_told_apart(dict(row), beside) for row in found]

    def curve(self, trial_id: int) -> list[tuple[int, float]]:
        """The training loss of a finished trial as (step, loss)."""
        row = self._db.execute("SELECT curve FROM outcomes WHERE trial = ?", (trial_id,)).fetchone()
        return [] if row is None else [(step, loss) for step, loss in self._json(row[0])]

    def protocol(self, protocol_hash: str) -> dict[str, Any]:
        row = self._db.execute(
            "SELECT description FROM protocols WHERE hash = ?", (protocol_hash,)
        ).fetchone()
        return {} if row is None else self._json(row[0])

    def _json(self, text: str) -> Any:
        return read_json(text, self.path)

    def _outcome(self, row: sqlite3.Row) -> Outcome:
        fields = {k: row[k] for k in row.keys() if k not in ("trial", "finished")}  # noqa: SIM118
        read = {name: self._json(fields[name]) for name in ("curve", "milestones", *_MAPPINGS)}
        fields["cause"] = known_cause(fields["cause"])
        try:
            curve = tuple((step, loss) for step, loss in read["curve"])
            milestones = tuple(AtMilestone(*at) for at in read["milestones"])
            plain = {name: dict(read[name]) for name in _MAPPINGS}
            return Outcome(**{**fields, "curve": curve, "milestones": milestones, **plain})
        except (TypeError, ValueError) as error:
            raise damaged(self.path, f"outcome of trial {row['trial']}: {error}") from error


_MAPPINGS = ("versions", "details")


def _told_apart(row: dict[str, Any], beside: Mapping[str, bool]) -> dict[str, Any]:
    screened_out = beside.get(row["expression"])
    proposed = bool(row.pop("proposed"))
    candidate = screened_out is None or (proposed and not screened_out)
    return {**row, "beside": screened_out is not None, "candidate": candidate}


def _in_use(path: Path) -> bool:
    """Whether some of it is still in the log beside it."""
    return Path(f"{path}-wal").exists()


def _trial(row: sqlite3.Row) -> Trial:
    names = ("id", "kind", "subject", "protocol", "seed", "formula", "label")
    return Trial(**{name: row[name] for name in names})
