"""Run: one folder with all that a search is and has found.

config.json  identity (what cannot change on resume), settings, data, environment
run.sqlite   the store         top.csv  the ranked table         run.log  the log
checkpoints/ trainings that have begun, where they are kept
tracking.id  by which Weights & Biases and MLflow know the run, where it is shown there
proposed/    formulas that wait for a search to take them
run.lock     held by the driver that is writing, with its host and process id
status.json  what that driver does now

Or one file, an archive of such a folder, which is only read.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

from actsearch.errors import NoCandidateError, RunError, RunLostError, UsageError, written
from actsearch.results.aims import Aims, aims_from
from actsearch.results.archive import is_archive, pack, unpack
from actsearch.results.leaderboard import Entry, furthest, leaderboard, status_counts
from actsearch.results.metrics import ACCURACY, Metric, metric_from
from actsearch.results.records import HOST_ERRORS, HostError
from actsearch.results.store import DiskFullError, Store, StoreError, read_json
from actsearch.results.tables import Row, to_csv
from actsearch.shown import counts_line, head, html_table, sought_columns, top_rows

if TYPE_CHECKING:
    import pandas as pd

RUNS = Path("runs")


# The columns of a re-evaluation: of the function, of its protocol's description, of the training.
_FUNCTION = ("expression", "formula", "label")
_PROTOCOL = ("child", "dataset", "dataset_digest", "operators", "recipe")
_TRAINING = (
    "protocol", "seed", "status", "reason", "val_score", "test_score", "seconds",
    "ms_per_step",
)  # fmt: skip


class Run:
    """A run that is read. Opening one starts nothing and locks nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.archived = is_archive(path)
        self.folder = unpack(path) if self.archived else path  # where its files are
        if self.archived:
            finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._lock: int | None = None  # the descriptor by which this driver holds it

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Raises StoreError where there is no run at `path`."""
        run = cls(Path(path))
        run.store(readonly=True).close()
        return run

    @classmethod
    def newest(cls) -> Run:
        """The run under runs/ that was written last."""
        found = sorted(RUNS.glob("*/run.sqlite"), key=_last_written)
        if not found:
            raise StoreError(f"no run under {RUNS}/; 'actsearch search' makes one")
        return cls.open(found[-1].parent)

    @classmethod
    def chosen(cls, path: str | Path | None) -> Run:
        """The run at `path`, the newest where none is said."""
        return cls.open(path) if path else cls.newest()

    def store(self, *, readonly: bool = False) -> Store:
        if not readonly:
            self.check_writable()
        return Store(self.folder / "run.sqlite", create=not readonly, readonly=readonly)

    @property
    def there(self) -> bool:
        """Whether it still is where it was opened."""
        return self.path.is_file() if self.archived else (self.path / "run.sqlite").is_file()

    @property
    def name(self) -> str:
        """That of the folder, wherever it lies, or of the archive."""
        path = self.path.resolve()
        return path.stem if self.archived else path.name

    def check_writable(self) -> None:
        """Raises RunError for an archive."""
        if self.archived:
            raise RunError(
                f"{self.path} is an archive, which is only read; 'actsearch merge RUN {self.path}' "
                "makes a run of it"
            )

    def beside(self, name: str) -> Path:
        """Where what is made of the run is written: into its folder, or beside the archive."""
        return self.path.with_name(f"{self.name}-{name}") if self.archived else self.path / name

    def archive(self, output: str | Path | None = None) -> Path:
        """Write all that the run has found as one file [RUN.zip], which `top`, `report`, `merge`,
        `replay` and the other commands that only read take for the run; returns its path. A search
        may go on in the run meanwhile.

        Raises EnvironmentProblem where it cannot be written."""
        target = Path(output) if output else Path(f"{self.path.resolve()}.zip")
        if target.suffix != ".zip" or target.is_dir():
            raise UsageError(f"{target} must be a file whose name ends in .zip")
        with written(target):
            pack(self.folder, target)
        return target

    @property
    def config(self) -> dict[str, Any]:
        """identity, settings, data and environment; empty where the run is new."""
        file = self.folder / "config.json"
        if not file.is_file():
            return {}
        where = f"the {file.name} in {self.path}" if self.archived else file
        try:
            config = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:  # of JSON, and of bytes that are no text
            raise RunError(
                f"{where} is damaged ({error}); restore it from a copy, or search in another folder"
            ) from error
        parts = [config, *config.values()] if isinstance(config, dict) else [config]
        if not all(isinstance(part, dict) for part in parts):
            raise RunError(f"{where} is no run's; search in another folder")
        return config

    @property
    def metric(self) -> Metric:
        """What a score of the search is, such as an accuracy."""
        return metric_from(self.config.get("data", {}).get("metric", ACCURACY))

    @property
    def aims(self) -> Aims | None:
        """What is sought besides the best score, if anything is."""
        identity = self.config.get("identity", {})
        return aims_from(self.metric, identity.get("aims", ""), identity.get("where", ""))

    @property
    def settings(self) -> dict[str, Any]:
        """As it was last searched with, its metric among them; empty where the run is new."""
        config = self.config
        metric = config.get("data", {}).get("metric")
        return config.get("settings", {}) | ({} if metric is None else {"metric": metric})

    @property
    def objective(self) -> str | None:
        """The digest of the objective that was searched with in the place of a child and data, if
        there was one."""
        return self.config.get("identity", {}).get("protocol", {}).get("objective")

    @property
    def child(self) -> str | None:
        """The digest of the child that was searched with, if there was one."""
        return self.config.get("identity", {}).get("protocol", {}).get("child")

    def rows(self, kind: str = "search") -> list[dict[str, Any]]:
        store = self.store(readonly=True)
        try:
            return store.rows(kind)
        finally:
            store.close()

    def leaderboard(self) -> list[Entry]:
        return leaderboard(self.functions(), self.metric, self.rows("confirm"))

    def counts(self) -> dict[str, int]:
        """How many functions of each status there are."""
        return status_counts(self.functions())

    def slower(self) -> list[str]:
        """How many children of the search were computed in a slower way than was asked for, and
        why; a sentence each."""
        with closing(self.store(readonly=True)) as store:
            details = store.details("search")
        said = {"kernels": "computed activations in eager mode", "steps": "had no CUDA graph"}
        found = [
            (way, Counter(why for d in details if (why := d.get(key, "").partition(": ")[2])))
            for key, way in said.items()
        ]
        return [
            f"{why.total()} of {len(details)} children {way}: {why.most_common(1)[0][0]}"
            for way, why in found
            if why
        ]

    def functions(self) -> list[Mapping[str, Any]]:
        """One row a function of the search: its whole training, or how far it came."""
        store = self.store(readonly=True)
        try:
            return furthest(store.rows("search"), store.rows("rung"), self.metric)
        finally:
            store.close()

    def reevaluations(self) -> list[dict[str, Any]]:
        """One row a training of the re-evaluation that has ended, well or not: the function, child,
        data set and recipe of its protocol, the seed, and what came of it."""
        store = self.store(readonly=True)
        try:
            rows = [row for row in store.rows("reevaluate") if row["status"] is not None]
            protocols = {p: named(store.protocol(p)) for p in {row["protocol"] for row in rows}}
        finally:
            store.close()
        return [
            {k: row[k] for k in _FUNCTION}
            | {k: protocols[row["protocol"]].get(k) for k in _PROTOCOL}
            | {"metric": self._metric_of(protocols[row["protocol"]])}
            | {k: row[k] for k in _TRAINING}
            | {"scores": read_json(row["scores"] or "null")}
            for row in rows
        ]

    def _metric_of(self, protocol: Mapping[str, Any]) -> Metric:
        """Older runs have not noted it: it is the search's where the data are the search's."""
        searched = self.config.get("identity", {}).get("protocol", {})
        same = protocol.get("dataset_digest") == searched.get("dataset_digest")
        return metric_from(protocol.get("metric", self.metric if same else ACCURACY))

    def table(self, *, wide: bool = False) -> pd.DataFrame:
        """All functions of the search, ranked, in the columns that a terminal has room for or, if
        `wide`, in all that are known: accuracies as fractions of 1, times in s and ms."""
        import pandas as pd

        entries, aims = self.leaderboard(), self.aims
        rows = top_rows(entries, full=True, aims=aims)
        sought = () if aims is None else (*sought_columns(entries, aims), "front")
        short = ("rank", "formula", "name", self.metric.column("val"), *sought, "seconds", "status")
        table = pd.DataFrame(rows if wide else [{k: row[k] for k in short} for row in rows])
        return table.astype({"rank": "Int64"}) if rows else table  # whole, where some have none

    def top_rows(self) -> list[Row]:
        """All functions of the search as rows of a table with all columns."""
        return top_rows(self.leaderboard(), full=True, aims=self.aims)

    def best(self) -> Entry:
        """The function of rank 1; its `expression` is what others take, as RUN#1 is.

        Raises NoCandidateError where none has trained."""
        first = next((e for e in self.leaderboard() if e.rank == 1), None)
        if first is None:
            raise NoCandidateError(f"{self.path} has no function that has trained")
        return first

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """For notebooks: the head of the ranked table, and the counts."""
        return (
            f"<div>{html_table(head(self.leaderboard(), self.aims))}"
            f"<p>{escape(str(self.path))}: {counts_line(self.counts())}</p></div>"
        )

    def write_top(self) -> None:
        """Write top.csv, in one step."""
        write_whole(self.path / "top.csv", to_csv(self.top_rows()))

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """Raises RunError, with the difference, where the run was made with another identity."""
        apart = self.apart(identity)
        if apart:
            was = ", ".join(
                f"no {_known_as(name)}" if old is None else f"{_known_as(name)}={old}"
                for name, (old, _) in apart.items()
            )
            asked = ", ".join(
                f"no {_known_as(name)}" if new is None else str(new)
                for name, (_, new) in apart.items()
            )
            raise RunError(
                f"{self.path} was made with {was}; you asked for {asked}. Use another folder."
            )

    def apart(self, identity: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What the run was made with and, in the place of that, `identity` has, by name; nothing
        of a new run."""
        before = self.config.get("identity")
        if before is None or before == identity:
            return {}
        old, new = _flat(before), _flat(identity)
        names = [k for k in dict.fromkeys([*old, *new]) if old.get(k) != new.get(k)]
        return {name: (old.get(name), new.get(name)) for name in names}

    def write_config(self, config: Mapping[str, Any]) -> None:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
        write_whole(self.path / "config.json", text)

    @property
    def stop_request(self) -> Path:
        """The file whose existence asks the run's driver to stop."""
        return self.path / "stop"

    @property
    def proposed(self) -> Path:
        """The folder with the formulas that were proposed and not taken yet."""
        return self.path / "proposed"

    @property
    def status_file(self) -> Path:
        """Where the run's driver says what it does now."""
        return self.path / "status.json"

    def status(self) -> dict[str, Any] | None:
        """What the run's driver did some seconds ago (searching/status.py), None where none is."""
        if self.archived or self.driver() is None:
            return None
        try:
            found = json.loads(self.status_file.read_bytes())
        except (OSError, ValueError):
            return None  # it has just begun, or has just ended
        return found if isinstance(found, dict) else None

    def stop(self) -> str:
        """Ask the driver of this run to let its children finish and end; returns who that is.

        Raises RunError where no driver holds the run."""
        holder = self.driver()
        if holder is None:
            raise RunError(f"nothing runs in {self.path}")
        self.stop_request.touch()
        return holder

    def check_free(self) -> None:
        """Raises RunError, with who holds it, where a driver has the run now."""
        if holder := self.driver():
            raise RunError(f"{self.path} is in use by {holder}")

    def driver(self) -> str | None:
        """Who holds the run now, None where nobody does. A lock ends with its process, so a file
        that a killed driver has left says nothing."""
        try:
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(descriptor)
        except OSError:  # a file system without locks, where nobody holds any
            return None
        else:
            return None
        finally:
            os.close(descriptor)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this driver.

        Raises RunError, with who holds it, where another does; DiskFullError and HostError where
        the disk or the machine fail meanwhile; RunLostError where the folder is another by then.
        """
        self.check_writable()
        with ExitStack() as stack:
            with written(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, lock)
                folder = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, folder)
                self._take(lock, folder)
            self._lock = lock
            try:
                self.stop_request.unlink(missing_ok=True)  # of a driver that is gone
                yield
                self.check_held()
            except Exception as error:
                explained = self._explained(error)
                if explained is error:
                    raise
                raise explained from error
            finally:
                if self.held():
                    with suppress(OSError):
                        self.stop_request.unlink(missing_ok=True)
                self._lock = None

    @property
    def _lock_file(self) -> Path:
        return self.path / "run.lock"

    def _take(self, lock: int, folder: int) -> None:
        """Both locks: that of the file says who holds the run, that of the folder holds where
        somebody has removed the file. (Network file systems cannot lock folders.)"""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{self.path} is in use by {_holder(lock)}") from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{self.path} is in use by a driver whose {self._lock_file.name} was removed; it "
                "ends within seconds, then the same command goes on"
            ) from error
        except OSError:
            pass
        who = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.ctime()}
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(who).encode(), 0)

    def held(self) -> bool:
        """Whether the run at this path is the one that this driver holds."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.stat(self._lock_file), os.fstat(self._lock))
        except OSError:
            return False

    def check_held(self) -> None:
        """Raises RunLostError where it is not."""
        if not self.held():
            raise RunLostError(
                f"{self.path} is no more the folder that this search writes to: it was moved, "
                f"deleted or unmounted, or its {self._lock_file.name} was removed. All that had "
                "finished is stored where that folder lies now; the same command goes on there."
            )

    def _explained(self, error: Exception) -> Exception:
        """What an error means that has ended a driver of this run."""
        if not isinstance(error, RunLostError):
            try:
                self.check_held()
            except RunLostError as lost:
                return lost
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFullError(
                f"the disk of {self.path} is full; all that had finished is stored. Free some "
                "space, and the same command goes on."
            )
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in HOST_ERRORS:
            return HostError(
                f"the machine does not let the search in {self.path} go on "
                f"({type(error).__name__}: {error}); all that had finished is stored. Once that is "
                "mended, the same command goes on."
            )
        return error


def named(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's description, in which an objective is a child that has its own data."""
    return {"child": protocol.get("objective"), "dataset": "own data", **protocol}


def write_whole(target: Path, text: str) -> None:
    """In one step: after a power cut too it is the old file or the whole new one."""
    part = target.with_name(f"{target.name}.part")
    with open(part, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)


def _last_written(store: Path) -> float:
    """When the store or its write-ahead log last changed."""
    return max(p.stat().st_mtime for p in store.parent.glob("run.sqlite*"))


def _holder(descriptor: int) -> str:
    try:
        who = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError):
        return "another driver"


def _known_as(name: str) -> str:
    """A part of the identity in the words of those who search."""
    return {"aims": "further objectives", "where": "limits"}.get(name, name)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{key}." if key not in ("protocol", "recipe") else prefix)
        else:
            flat[prefix + key] = value
    return flat
