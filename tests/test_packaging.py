"""What is installed: actsearch and nothing else; and what the repository must not ignore."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {"actsearch", "child_models", "controller", "results", "search_space", "workers"}


def test_the_wheel_holds_our_packages_with_their_type_marker_and_nothing_else(
    tmp_path: Path,
) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"actsearch"}
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    links = {f"actsearch/{name}" for name in PACKAGES}
    expected = {name if name.startswith("actsearch/") else f"actsearch/{name}" for name in tracked}
    assert {name for name in names if ".dist-info/" not in name} == expected - links


def test_git_ignores_runs_and_never_our_results() -> None:
    lines = (ROOT / ".gitignore").read_text().splitlines()
    assert "/runs/" in lines
    assert not any(line.strip("/") == "results" for line in lines)


def test_heavy_and_optional_packages_are_imported_in_few_modules() -> None:
    homes = {
        "ray": {
            "workers/ray_pool.py",
            "workers/ray_start.py",
            "workers/ray_thread.py",
            "workers/ray_worker.py",
        },
        "tyro": {"actsearch/commands/line.py"},
        "torchvision": {"child_models/data/torchvision_import.py"},
        "timm": {"child_models/networks/model_zoos.py"},
        "onnx": {"search_space/export/onnx.py"},
        "wandb": {"actsearch/searching/tracking/wandb.py"},
        "mlflow": {"actsearch/searching/tracking/mlflow.py"},
    }
    for name, expected in homes.items():
        found = {
            str(path.relative_to(ROOT))
            for package in PACKAGES
            for path in (ROOT / package).rglob("*.py")
            if any(
                line.strip().startswith((f"import {name}", f"from {name}"))
                for line in path.read_text().splitlines()
            )
        }
        found = {f for f in found if "torchvision_import" not in f or name == "torchvision"}
        assert found == expected, name
