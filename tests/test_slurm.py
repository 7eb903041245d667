"""examples/slurm.sbatch, with scripts in the place of Slurm's commands and of the search."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import LIMIT, wait_until

SCRIPT = Path(__file__).parent.parent / "examples" / "slurm.sbatch"

# A search ends with 75 when it is asked to, or with what ENDS says; one that is DEAF has not begun.
ACTSEARCH = """
echo "$@" >> calls
if [ "$1" = stop ]; then
    [ "$DEAF" ] && exit 5
    touch asked
    exit 0
fi
while [ ! -e asked ]; do
    [ "$ENDS" ] && exit "$ENDS"
    sleep 0.05
done
exit 75
"""
SCONTROL = 'echo "scontrol $@" >> calls\n'
SQUEUE = 'date -d "+$LEFT seconds" +%Y-%m-%dT%H:%M:%S\n'


def start(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    for name, text in (("actsearch", ACTSEARCH), ("scontrol", SCONTROL), ("squeue", SQUEUE)):
        file = folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{text}")
        file.chmod(0o755)
    known = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    said = {"DEAF": "", "ENDS": "", "LEFT": "3600", **environment}
    return subprocess.Popen(
        ["bash", str(SCRIPT), "runs/big", "--space", "one-unit"],
        cwd=folder,
        env={**known, **said},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


def ended(job: subprocess.Popen[bytes]) -> int:
    """Which leaves no process behind."""
    try:
        code = job.wait(LIMIT)
        with pytest.raises(ProcessLookupError):
            wait_until(lambda: os.killpg(job.pid, 0))  # until the killed clock is gone
        return code
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.parametrize("by", ["slurm", "clock"])
def test_before_its_time_is_over_a_search_is_drained_and_queued_again(
    tmp_path: Path, by: str
) -> None:
    """By the signal of --signal, and by the job's own clock, which it needs in later turns."""
    job = start(tmp_path, **({"LEFT": "2", "WARN_SECONDS": "1"} if by == "clock" else {}))
    wait_until(lambda: calls(tmp_path))
    if by == "slurm":
        time.sleep(0.5)  # until it waits
        job.send_signal(signal.SIGUSR1)
    assert ended(job) == 75
    searched = "search runs/big --space one-unit"
    assert calls(tmp_path) == [searched, "stop runs/big", "scontrol requeue 7"]


def test_a_search_that_has_not_begun_is_ended_and_queued_again(tmp_path: Path) -> None:
    job = start(tmp_path, DEAF="yes", LEFT="2", WARN_SECONDS="1")
    assert ended(job) == 128 + signal.SIGTERM
    assert calls(tmp_path)[1:] == ["stop runs/big", "scontrol requeue 7"]


@pytest.mark.parametrize("code", [0, 3, 75])
def test_a_search_that_ends_by_itself_ends_the_job_as_it_ended(tmp_path: Path, code: int) -> None:
    """With 75 too, since somebody may have said `actsearch stop`."""
    job = start(tmp_path, ENDS=str(code))
    assert ended(job) == code
    assert not any("requeue" in call for call in calls(tmp_path))
