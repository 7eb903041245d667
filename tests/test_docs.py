"""What the documents say: the lines that are promised to work, the tables that must be whole."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from actsearch.cli import COMMANDS
from actsearch.search_space.operators import BINARY, UNARY
from actsearch.settings import PRESETS

from .conftest import LIMIT

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_readme_has_the_two_lines_that_ci_runs() -> None:
    text = (ROOT / "README.md").read_text()
    assert "python -m pip install -e . && actsearch search\n" in text
    assert "python -m pip install -e '.[dev]' && pytest -n 2 --dist loadgroup\n" in text


def test_every_operator_stands_in_the_table_of_conventions() -> None:
    text = (ROOT / "docs/conventions.md").read_text()
    for op in (*UNARY, *BINARY):
        assert f"`{op.name}`" in text, op.name


BOUNDED = re.findall(
    r"^\| `(\w+)` \|.*\| (?:x|\\\|x\\\|) < ([\d.e]+) \|",
    (ROOT / "docs/conventions.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize(("name", "limit"), BOUNDED)
def test_an_operator_is_finite_as_far_as_conventions_say(name: str, limit: str) -> None:
    [op] = [op for op in UNARY if op.name == name]
    inside, outside = (torch.full((64,), float(limit) * share) for share in (1.0, 1.05))
    assert op.fn(inside).isfinite().all()
    assert not op.fn(outside).isfinite().any()


def test_bounded_operators_are_read_from_conventions() -> None:
    assert {n for n, _ in BOUNDED} == {"square", "cube", "exp", "sinh", "cosh", "softplus"}


def test_every_documented_command_and_option_exists() -> None:
    fields = {
        f"--{name.replace('_', '-')}"
        for config, _ in COMMANDS.values()
        for name in config.__dataclass_fields__
    }
    for document in DOCUMENTS:
        text = document.read_text()
        for command in re.findall(r"^ +actsearch ([a-z]+)", text, re.MULTILINE):
            assert command in COMMANDS, f"{document.name}: {command}"
        for line in re.findall(r"^ +actsearch .*$", text.replace("\\\n", " "), re.MULTILINE):
            for option in re.findall(r" (--[a-z][a-z-]+)", line):
                assert option in fields, f"{document.name}: {option}"


def test_every_file_that_is_named_exists() -> None:
    folders = "docs|tests|examples|benchmarks|search_space|child_models|controller|workers|results"
    path = re.compile(rf"`((?:{folders}|actsearch)/[\w./]+)`")
    named = {(d.name, file) for d in DOCUMENTS for file in path.findall(d.read_text())}
    assert len(named) > 100
    assert not [(page, file) for page, file in sorted(named) if not (ROOT / file).exists()]


def test_presets_fill_in_the_same_settings() -> None:
    assert len({frozenset(preset) for preset in PRESETS.values()}) == 1


@pytest.mark.slow
def test_the_example_of_ones_own_model_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/own_model.py")],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert "val accuracy" in done.stdout
