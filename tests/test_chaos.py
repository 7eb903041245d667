"""Kills at random moments over a whole search; `python -m tests.chaos --kills 1000` is the same for
longer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_nothing_is_lost_and_nothing_counted_twice_whatever_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--kills", "20", "--trials", "120"]
    done = subprocess.run(
        [*command, "--seed", "1", "--folder", str(tmp_path / "run")],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["trials"] >= 120
    assert sum(found["kills"].values()) == 20
    assert not any(found["wrong"].values())
