"""Kills at random moments over a whole search; `python -m tests.chaos --kills 1000` is the same for
longer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .chaos import TARGETS


@pytest.mark.parametrize(
    ("kills", "trials"), [(4, 16), pytest.param(20, 120, marks=pytest.mark.slow)]
)
def test_nothing_is_lost_and_nothing_counted_twice_whatever_is_killed(
    kills: int, trials: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--kills", f"{kills}", "--trials", f"{trials}"]
    done = subprocess.run(
        [*command, "--seed", "1", "--folder", str(tmp_path / "run")],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["trials"] >= trials
    assert sum(found["kills"].values()) == kills
    assert set(found["kills"]) == set(TARGETS)
    assert not any(found["wrong"].values())
