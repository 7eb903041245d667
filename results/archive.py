"""An archive: a run as one file that is read as the run is, a zip with its config.json and a copy
of its store as it was at that moment. Logs, checkpoints and figures stay behind.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from actsearch.results.store import Store, StoreError

CONFIG, STORE = "config.json", "run.sqlite"


def is_archive(path: Path) -> bool:
    return path.is_file() and zipfile.is_zipfile(path)


def pack(folder: Path, target: Path) -> None:
    """The run in `folder` as an archive, in one step; a search may go on in it meanwhile."""
    part = target.with_name(f"{target.name}.part")
    with TemporaryDirectory(dir=target.parent, prefix=".archive-") as room:
        copy = Path(room, STORE)
        store = Store(folder / STORE, readonly=True)
        try:
            store.copy_to(copy)
        finally:
            store.close()
        try:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
                if (folder / CONFIG).is_file():
                    file.write(folder / CONFIG, CONFIG)
                file.write(copy, STORE)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def unpack(path: Path) -> Path:
    """A new folder as the run's was. Raises StoreError for a file that is no archive of a run, is
    damaged, or holds more than the disk of temporary files has room for."""
    room = Path(mkdtemp(prefix="actsearch-"))
    try:
        with zipfile.ZipFile(path) as file:
            names = {CONFIG, STORE}.intersection(file.namelist())
            if STORE not in names or not _is_database(file):
                raise StoreError(
                    f"{path} is not an archive of a run; 'actsearch archive RUN' makes one"
                )
            size, free = sum(file.getinfo(n).file_size for n in names), shutil.disk_usage(room).free
            if size >= free:
                raise StoreError(
                    f"{path} holds {size / 1e9:,.1f} GB, and {room.parent} has room for "
                    f"{free / 1e9:,.1f} GB; free some, or set TMPDIR to a folder elsewhere"
                )
            for name in names:
                with file.open(name) as packed, open(room / name, "wb") as plain:
                    shutil.copyfileobj(packed, plain)
    except BaseException as error:
        shutil.rmtree(room, ignore_errors=True)
        if isinstance(error, _DAMAGED):
            why = f"{path} is damaged ({error}); copy it again from where it was made"
            raise StoreError(why) from error
        raise
    return room


def _is_database(file: zipfile.ZipFile) -> bool:
    with file.open(STORE) as packed:
        return packed.read(16) == b"SQLite format 3\0"


_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
