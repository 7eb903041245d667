"""TASKS: what a child can be trained for. No torch and no numpy here: a row says where what makes
its data from arrays is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actsearch.search_space.text import load


@dataclass(frozen=True)
class Row:
    """A task in a few words; the losses of a recipe that it knows, the usual one first; the scores
    that it can be searched by, the usual one first; whether labels can be smoothed; the recipe that
    comes with it, if any; and what makes its data of a name and arrays."""

    text: str
    losses: tuple[str, ...]
    scores: tuple[str, ...]
    smooths: bool
    recipe: str | None
    maker: str

    def from_arrays(self, name: str, arrays: Any) -> Any:
        """Its data. Raises DataError, with a way out, for arrays that cannot be."""
        return load(f"{__package__}.{self.maker}")(name, arrays)


TASKS: Mapping[str, Row] = {
    "classification": Row(
        "labels, whole numbers from 0", ("softmax", "sigmoid"), ("accuracy",), True, None,
        "labelled:from_arrays",
    ),
    "regression": Row(
        "targets (n,) or (n, k), real numbers", ("mse", "huber", "l1"), ("R2", "RMSE"), False,
        "tabular", "regression:from_arrays",
    ),
    "language-model": Row(
        "token ids (n,), each predicted from those before it", ("softmax",), ("bits per token",),
        True, "gpt", "text:from_arrays",
    ),
}  # fmt: skip
