"""A run survives a kill at any moment and a full disk: whole searches in processes of their own,
and the store cut off at many bytes."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from actsearch import errors
from actsearch.results.records import Outcome
from actsearch.results.store import Store, StoreError
from actsearch.run import Run

from .conftest import LIMIT, wait_until
from .test_cli import COMMAND, finished

MOUNT = ["unshare", "--mount", "sh", "-c"]
SEARCH = [
    *COMMAND, "search", "runs/a", "--executor", "inline", "--strategy", "evolution:population=8",
    "--space", "units=1;unary=identity,relu,sin,tanh;binary=add,mul,max", "--steps", "100",
    "--child", "mlp:width=16", "--budget", "24",
]  # fmt: skip


def test_the_store_opens_wherever_the_writing_of_it_was_cut_off(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    store = Store(whole / "run.sqlite", create=True)
    store.add_protocol("p", {})
    for i in range(25):
        with store.transaction():
            trial = store.submit("search", f"function {i}", "p", 0)
            store.record(trial, Outcome("ok", val_score=0.5))
            store.save_strategy("s", {"told": i + 1})
    log = (whole / "run.sqlite-wal").read_bytes()
    seen = set()
    for i, cut in enumerate(sorted(random.Random(0).sample(range(len(log)), 150))):
        copy = tmp_path / str(i)
        copy.mkdir()
        shutil.copy(whole / "run.sqlite", copy)
        (copy / "run.sqlite-wal").write_bytes(log[:cut])
        try:
            opened = Store(copy / "run.sqlite", create=True)
        except StoreError:
            pytest.fail(f"cut off at byte {cut} of {len(log)} the store does not open")
        rows = opened.rows("search")
        told = (opened.strategy("s") or {"told": 0})["told"]
        assert [row["status"] for row in rows] == ["ok"] * told
        seen.add(told)
        opened.close()
    store.close()
    assert {0, 25} < seen | {25}
    assert len(seen) > 20


def ranked(run: Path) -> list[tuple[str, str, str]]:
    """What a leaderboard says, to the last digit; not how long it took."""
    rows = [(e.formula, e.status, repr(e.val_score)) for e in Run.open(run).leaderboard()]
    assert len(rows) >= 24
    return rows


@pytest.mark.slow
def test_killed_and_resumed_at_ten_points_the_leaderboard_is_the_same(tmp_path: Path) -> None:
    folders = [tmp_path / "unbroken", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    # Long enough that ten kills come before the end, however fast the machine is.
    search = [word if word != "100" else "800" for word in SEARCH]
    subprocess.run(search, cwd=folders[0], check=True, capture_output=True, timeout=LIMIT)
    chance, kills = random.Random(1), 0
    for _ in range(10):
        process = subprocess.Popen(
            search, cwd=folders[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if (folders[1] / "runs/a/run.sqlite").exists():
            done = finished(folders[1] / "runs/a")
            wait_until(lambda done=done: finished(folders[1] / "runs/a") > done)
        else:
            time.sleep(chance.uniform(2, 6))
        time.sleep(chance.uniform(0, 0.3))
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills == 10
    subprocess.run(search, cwd=folders[1], check=True, capture_output=True, timeout=LIMIT)
    assert ranked(folders[1] / "runs/a") == ranked(folders[0] / "runs/a")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*MOUNT, "mount -t tmpfs t /mnt"], capture_output=True).returncode != 0,
    reason="needs the right to mount a file system",
)
@pytest.mark.parametrize("left", [0, 30, 100])
def test_a_full_disk_ends_the_search_in_a_sentence_and_it_goes_on_when_there_is_space(
    tmp_path: Path, left: int
) -> None:
    """With `left` kilobytes left after the first outcomes."""
    command = " ".join(f"'{word}'" for word in SEARCH)
    script = f"""
        mount -t tmpfs -o size=6m t {tmp_path} && cd {tmp_path}
        {command} --budget 3 > /dev/null 2>&1 || exit 99
        head -c $(( ($(df --output=avail -k . | tail -1) - {left}) * 1024 )) /dev/zero > fill
        {command}; echo "exit $?"
        rm fill
        {command}; echo "exit $?"
    """
    done = subprocess.run([*MOUNT, script], capture_output=True, text=True, timeout=LIMIT)
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit")]
    assert codes == [f"exit {errors.RESUMABLE}", f"exit {errors.DONE}"], done.stderr
    assert "Free some space, and the same command goes on." in done.stderr
    assert "Traceback" not in done.stderr
