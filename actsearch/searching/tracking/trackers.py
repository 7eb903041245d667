"""The table of trackers. No package of theirs is imported here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A tracker: its class by name, the package that it needs (and the extra that installs it, by
    the same name), and what people call it."""

    home: str
    package: str
    title: str


TRACKERS: Mapping[str, Row] = {
    "tensorboard": Row(
        "actsearch.searching.tracking.tensorboard:TensorBoard", "tensorboard", "TensorBoard"
    ),
    "wandb": Row(
        "actsearch.searching.tracking.wandb:WeightsAndBiases", "wandb", "Weights & Biases"
    ),
    "mlflow": Row("actsearch.searching.tracking.mlflow:MLflow", "mlflow", "MLflow"),
}


def check_installed(names: Iterable[str]) -> None:
    """Raises ModuleNotFoundError, with the command that installs it, for a tracker whose package is
    missing."""
    for name in names:
        package = TRACKERS[name].package
        if not _installed(package):
            raise ModuleNotFoundError(
                f"--track {name} needs the package {package}, which is not installed: "
                f"python -m pip install {package}",
                name=package,
            )


def _installed(package: str) -> bool:
    try:
        found = importlib.util.find_spec(package)
    except ValueError:  # it is imported, and says nothing of where from
        return True
    # Folders named wandb and mlruns are what these packages write; one has no __init__.py.
    return found is not None and found.origin is not None
