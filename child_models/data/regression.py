"""Regression: real targets of examples in memory, and the task of predicting them.

Inputs are standardised as those of a classification are, and targets for the training loss too;
scores are of the targets as they were given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from actsearch.child_models import turns
from actsearch.child_models.data.data import DataError, not_finite, parts_of, split
from actsearch.child_models.data.examples import Batch, Examples, laid_out
from actsearch.child_models.data.labelled import checked_inputs, digest_of_arrays, moments
from actsearch.child_models.device import autocast, memory_format
from actsearch.child_models.recipe import Recipe
from actsearch.results.metrics import METRICS, Metric

LOSSES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mse": F.mse_loss,
    "huber": F.huber_loss,  # Huber 1964, with his k of 1 deviation of the targets
    "l1": F.l1_loss,
}

MOST_LOST = 0.01  # of the deviation of a target, when it is rounded to float32

# Of the mean squared error of each target (k,), and the variance of each on the whole split.
SCORES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "R2": lambda error, variance: (1 - error / variance).mean(),
    "RMSE": lambda error, variance: error.mean().sqrt(),
}


@dataclass(frozen=True, eq=False)
class Regression:
    """Inputs and targets of three splits.

    x: as of a Dataset, never cropped or mirrored; y: float32 (N, k). `mean` and `std` are those of
    the inputs, one a channel, `y_mean` and `y_std` those of the targets, one each; all of the
    training split. `metric` is the score that is searched for: R2, the mean over the targets of the
    share of their variance that is explained, or RMSE, the root of the mean squared error over all
    targets, in their units.
    """

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_val: np.ndarray = field(repr=False)
    y_val: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    std: np.ndarray = field(repr=False)
    y_mean: np.ndarray = field(repr=False)
    y_std: np.ndarray = field(repr=False)
    digest: str
    metric: Metric = METRICS["R2"]

    task = "regression"
    scores = tuple(SCORES)
    augment = ""

    @property
    def facts(self) -> dict[str, Any]:
        return {"input_shape": tuple(self.x_train.shape[1:]), "targets": self.y_train.shape[1]}

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(getattr(self, f"y_{name}")) for name in ("train", "val", "test")}

    def scored_by(self, metric: Metric) -> Regression:
        """The same data with another score, which may say the unit of the targets. Raises
        ValueError for one that is unknown here, or whose direction is wrong."""
        known = {name: METRICS[name] for name in self.scores}
        if metric.name not in known:
            raise ValueError(
                f"a regression is scored by {' or '.join(known)}, not by {metric.name!r}; another "
                "score needs an objective of your own (docs/objectives.md)"
            )
        if metric.direction != (right := known[metric.name].direction):
            raise ValueError(f"{metric.name} is better where it is {right}; search for that")
        return replace(self, metric=metric)

    def on(self, device: torch.device) -> RegressionTask:
        return RegressionTask(self, device)


def from_arrays(name: str, arrays: Any) -> Regression:
    """From (x, y) or (x_train, y_train, x_test, y_test)."""
    return make_regression(name, *parts_of(name, arrays))


def make_regression(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any] | None = None,
    *,
    val_size: int | None = None,
) -> Regression:
    """A Regression from arrays, with checks; splits, and what x may be, are as of make_dataset.
    Raises DataError for targets that are no finite numbers, have another length or shape, or are
    all the same in a split."""
    x, y = _checked(name, *train)
    rest, val, cut = split(name, len(x), test is not None, val_size)
    x_test, y_test = (x[cut], y[cut]) if test is None else _checked(name, *test)
    if (x_test.shape[1:], y_test.shape[1:]) != (x.shape[1:], y.shape[1:]):
        raise DataError(
            f"{name}: one training example is {x.shape[1:]} to {y.shape[1:]}, one of the test "
            f"split {x_test.shape[1:]} to {y_test.shape[1:]}; give both the same shape"
        )
    targets = {"train on": y[rest], "validate on": y[val], "test on": y_test}
    for use, part in targets.items():
        if (np.ptp(part, axis=0) == 0).any():
            raise DataError(
                f"{name}: a target is the same, in float32, in all {len(part):,} examples to "
                f"{use}, so nothing can be explained; give more examples, or leave it out"
            )
    x_train, y_train = np.ascontiguousarray(x[rest]), y[rest]
    arrays = (x_train, y_train, x[val], y[val], x_test, y_test)
    y_mean, y_std = (f(y_train, axis=0, dtype=np.float64) for f in (np.mean, np.std))
    moved = (*moments(x_train), y_mean.astype(np.float32), y_std.astype(np.float32))
    return Regression(name, *arrays, *moved, digest_of_arrays(hashlib.sha256(), arrays))


def _checked(name: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Inputs as of a Dataset, and targets (N, k) in float32."""
    x, y = np.asarray(x), np.asarray(y)
    if y.ndim not in (1, 2) or y.shape[:1] != x.shape[:1] or y.size == 0:
        raise DataError(
            f"{name}: inputs {x.shape} and targets {y.shape} do not fit; give (n, ...) inputs and "
            "(n,) or (n, k) targets"
        )
    if not np.issubdtype(y.dtype, np.number) or np.iscomplexobj(y):
        raise DataError(
            f"{name}: targets of type {y.dtype} are no real numbers; give floats, or "
            "--task classification for classes, numbered from 0"
        )
    given, y = y.reshape(len(y), -1), y.astype(np.float32).reshape(len(y), -1)
    if not np.isfinite(y).all():
        at = int(np.flatnonzero(~np.isfinite(y).all(1))[0])
        raise DataError(
            f"{name}: the target of example {at:,} is NaN or infinite; leave out such examples"
        )
    lost, spread = np.abs(given - y.astype(np.float64)).max(0), given.std(0, dtype=np.float64)
    if (rough := (lost > MOST_LOST * spread) & (spread > 0)).any():
        at = int(np.flatnonzero(rough)[0])
        raise DataError(
            f"{name}: targets around {given[:, at].mean():.4g} that vary by {spread[at]:.3g} are "
            f"rounded by up to {lost[at]:.3g} in float32; subtract their mean first"
        )
    return checked_inputs(name, x), y


class RegressionTask:
    """A Regression on a device, and what a child is trained for on it."""

    def __init__(self, data: Regression, device: torch.device) -> None:
        self.device = device
        self.examples = Examples(data, device)
        self.score_of = SCORES[data.metric.name]
        self.mean, self.std = (torch.tensor(v, device=device) for v in (data.y_mean, data.y_std))
        self.variance = {
            name: y.double().var(0, correction=0) for name, (_, y) in self.examples.splits.items()
        }

    def batches(self, recipe: Recipe, seed: int, start: int = 0) -> Iterator[Batch]:
        """Inputs, and targets (N, k) in their own units."""
        return self.examples.batches(recipe, seed, start)

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
        x, y = batch
        with autocast(recipe, self.device):
            outputs = _outputs(model, x, y)
        return LOSSES[recipe.loss](outputs.float(), (y - self.mean) / self.std)

    @torch.no_grad()
    def score(
        self,
        model: nn.Module,
        recipe: Recipe,
        split: str,
        examples: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> float:
        """R2 or RMSE on `split`, or on its first `examples`, beside the variance of all of it;
        raises Diverged for outputs that are not finite. Nothing waits for a GPU before the end."""
        model.eval()
        count, squares = 0, torch.zeros_like(self.variance[split])
        for x, y in self.examples.evaluated(split, examples):
            with autocast(recipe, self.device):
                outputs = _outputs(model, x, y)
            found = outputs.double() * self.std + self.mean
            squares += (found - y).square().sum(0)
            count += len(y)
            beat()
        turns.wait()
        if not bool(squares.isfinite().all()):
            raise not_finite("outputs", split)
        return float(self.score_of(squares / count, self.variance[split]))


def _outputs(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N, k); a child of one target may leave out the last dimension."""
    outputs = model(laid_out(x, memory_format(model)))
    if outputs.shape == y.shape[:1] and y.shape[1] == 1:
        return outputs[:, None]
    if outputs.shape != y.shape:  # it would be broadcast
        raise ValueError(
            f"the child returns {tuple(outputs.shape)} for {len(y)} examples of {y.shape[1]} "
            f"targets each, and a regression needs {tuple(y.shape)}"
        )
    return outputs
