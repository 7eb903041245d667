"""Migrations: a store that an earlier release has written, brought to today's schema.

Each step turns one version into the next. Its SQL is frozen: it says what the tables were then, and
imports nothing that will be another thing tomorrow.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from types import MappingProxyType

# SQLite cannot change a CHECK, so a table with other ones is made anew. A rung's steps are those of
# its protocol.
_KINDS_AND_SCORES = """
CREATE TABLE new_trials (
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
INSERT INTO new_trials
    SELECT id, stage, expression, protocol, seed, formula, label, submitted FROM trials;
DROP TABLE trials;
ALTER TABLE new_trials RENAME TO trials;
ALTER TABLE functions RENAME COLUMN expression TO subject;
ALTER TABLE merged RENAME COLUMN expression TO subject;
ALTER TABLE merged RENAME COLUMN into_expression TO into_subject;
CREATE TABLE new_outcomes (
    trial INTEGER PRIMARY KEY REFERENCES trials (id),
    status TEXT NOT NULL CHECK (status IN
        ('ok', 'raced_out', 'diverged', 'rejected', 'failed', 'timed_out', 'crashed')),
    reason TEXT NOT NULL,
    cause TEXT,
    variant TEXT NOT NULL,
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
    CHECK ((status = 'ok') = (cause IS NULL)),
    CHECK ((status = 'ok') = (val_score IS NOT NULL)),
    CHECK (status = 'ok' OR test_score IS NULL)
);
INSERT INTO new_outcomes
    SELECT trial, status, reason, cause_of(status, reason), variant_of(status, reason),
           val_accuracy, test_accuracy, step, curve, rungs, seconds, ms_per_step, host, device,
           versions, details, finished
    FROM outcomes;
DROP TABLE outcomes;
ALTER TABLE new_outcomes RENAME TO outcomes;
"""

# A cause was said in the reason alone: its status, how that reads, the cause, the variant of it.
_GROUP = r"(?: (\(group) \d+(\)))?"  # of layers
_CAUSES = (
    ("raced_out", r"left after ", "raced out", ""),
    ("diverged", r"loss (\S+) at step ", "loss not finite", r"\1"),
    ("diverged", r"gradient norm (\S+) at step ", "gradient norm not finite", r"\1"),
    ("diverged", r"logits not finite (on the \w+ split)$", "logits not finite", r"\1"),
    ("failed", r"out of memory:", "out of memory", ""),
    ("failed", r"(\w+):", "exception", r"\1"),
    ("timed_out", r"longer than ", "timed out", ""),
    ("crashed", r"(SIG\w+|exit|signal)(?: \d+)? in a process of its own", "process ended itself",
     r"\1"),
    ("crashed", r"alone in a process, it was killed ", "process killed", ""),
    ("crashed", r"its worker died or fell silent ", "worker lost", ""),
    ("rejected", rf"value (\S+) at x = \S+{_GROUP}$", "value not finite", r"\1 \2\3"),
    ("rejected", rf"gradient (\S+) at x = \S+{_GROUP}$", "gradient not finite", r"\1 \2\3"),
    ("rejected", rf"constant{_GROUP}$", "constant", r"\1\2"),
    ("rejected", r"affine in x", "affine in x", ""),
    ("rejected", rf"no gradient on \d+ % of the probe{_GROUP}$", "no gradient", r"\1\2"),
)  # fmt: skip


def _cause(status: str, reason: str) -> tuple[str | None, str]:
    """(cause, variant) as schema 5 stores them."""
    for of, pattern, cause, variant in _CAUSES:
        match = re.match(pattern, reason)
        if of == status and match is not None:
            return cause, match.expand(variant).strip()
    return None if status == "ok" else "other", ""


def _kinds_and_scores(db: sqlite3.Connection) -> None:
    db.create_function("cause_of", 2, lambda *given: _cause(*given)[0])
    db.create_function("variant_of", 2, lambda *given: _cause(*given)[1])
    run(db, _KINDS_AND_SCORES)


def _milestones(db: sqlite3.Connection) -> None:
    """A rung is halving's alone: where a race compares was called so, too."""
    run(db, "ALTER TABLE outcomes RENAME COLUMN rungs TO milestones")


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = MappingProxyType(
    {4: _kinds_and_scores, 5: _milestones}
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
