"""Migrations: a store that an earlier release has written, brought to today's schema.

Each step turns one version into the next. Its SQL is frozen: it says what the tables were then, and
imports nothing that will be another thing tomorrow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from types import MappingProxyType

# SQLite cannot change a CHECK, so a table with other ones is made anew.
_ANY_SCORE = """
CREATE TABLE new_outcomes (
    trial INTEGER PRIMARY KEY REFERENCES trials (id),
    status TEXT NOT NULL CHECK (status IN
        ('ok', 'raced_out', 'diverged', 'rejected', 'failed', 'timed_out', 'crashed')),
    reason TEXT NOT NULL,
    val_score REAL CHECK (val_score BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308),
    test_score REAL CHECK (test_score BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308),
    step INTEGER,
    curve TEXT NOT NULL,
    rungs TEXT NOT NULL,
    seconds REAL NOT NULL,
    ms_per_step REAL,
    host TEXT NOT NULL,
    device TEXT NOT NULL,
    versions TEXT NOT NULL,
    details TEXT NOT NULL,
    finished REAL NOT NULL,
    CHECK ((status = 'ok') = (val_score IS NOT NULL)),
    CHECK (status = 'ok' OR test_score IS NULL)
);
INSERT INTO new_outcomes SELECT * FROM outcomes;
DROP TABLE outcomes;
ALTER TABLE new_outcomes RENAME TO outcomes;
"""


def _scores_of_any_metric(db: sqlite3.Connection) -> None:
    run(db, _ANY_SCORE)


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = MappingProxyType(
    {4: _scores_of_any_metric}
)
OLDEST, NEWEST = min(MIGRATIONS), max(MIGRATIONS) + 1


def run(db: sqlite3.Connection, script: str) -> None:
    """Statements one by one: `executescript` would commit the transaction that they stand in."""
    for statement in filter(str.strip, script.split(";\n")):
        db.execute(statement)


def migrate(db: sqlite3.Connection, version: int) -> None:
    """From `version` to NEWEST, inside a transaction of the caller's, who has left foreign keys
    unchecked (a table that others refer to is dropped and made anew)."""
    for step in range(version, NEWEST):
        MIGRATIONS[step](db)
    db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(NEWEST),))
