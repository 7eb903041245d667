"""Which releases the tests were run with, and what is said of others."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from actsearch.origin import HOME
from actsearch.reading import describe
from actsearch.versions import TESTED, untested

from .conftest import LIMIT


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    real = importlib.metadata.version

    def pretend(**versions: str) -> None:
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name: versions.get(name) or real(name)
        )

    return pretend


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "2.14.1", "2.14.0a0+git1234"])
def test_nothing_is_said_of_a_release_within_the_tested_range(install, version: str) -> None:
    install(torch=version, torchvision="0.28.0")
    assert list(untested()) == []


@pytest.mark.parametrize("version", ["2.10.2", "2.15.0", "3.0.0", "2.100.0"])
def test_another_release_is_named_and_used(install, version: str) -> None:
    install(torch=version, torchvision="0.29.1")
    [sentence] = untested()
    assert version in sentence
    assert "2.11 to 2.14" in sentence
    [row] = [check for check in describe.checks() if check[0] == "untested version"]
    assert row == ("untested version", sentence, True)


def test_no_requirement_refuses_the_next_release() -> None:
    root = Path(__file__).parent.parent
    requirements = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    assert not [text for text in requirements if "<" in text or "==" in text]
    for name, (oldest, _) in TESTED.items():
        assert f"{name}>={oldest}" in requirements


UNINSTALLED = """
import importlib.metadata

class Distribution(importlib.metadata.Distribution):
    @classmethod
    def from_name(cls, name):
        if name == "actsearch":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

real = importlib.metadata.Distribution.from_name
importlib.metadata.Distribution.from_name = Distribution.from_name
"""

ONE_BY_ONE = """
from actsearch.cli import main

for words in {commands}:
    assert main([*words]) == 0, words
"""


@pytest.mark.thorough
def test_sources_that_are_on_the_path_need_not_be_installed(tmp_path: Path) -> None:
    """With Ray, whose workers compare their code with the driver's."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(UNINSTALLED)
    path = os.pathsep.join((str(tmp_path / "path"), str(HOME.parent)))

    few = ("--space", "tiny", "--strategy", "random", "--budget", "1", "--steps", "5")
    commands = (
        ("--version",), ("export", "relu", "--to", "torch"),
        ("search", "r", *few, "--workers", "1"), ("report", "r"),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE.format(commands=commands)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("actsearch not installed\n")
    assert "Exported by actsearch not installed" in done.stdout
    assert "Made by actsearch not installed" in (tmp_path / "r" / "report.html").read_text()
