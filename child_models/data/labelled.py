"""Labelled examples as arrays in memory: a train, a validation and a test split, nothing loaded
while training. The search sees train and validation only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from actsearch.child_models.data.classification import Classification
from actsearch.child_models.data.data import DataError, parts_of, split
from actsearch.results.metrics import ACCURACY

MOST_LABEL = 2**31 - 1  # far more classes than memory has room for


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and labels of three splits.

    x: uint8 images (N, C, H, W), or float32 of any shape (N, ...); y: int64 labels from 0 to
    classes-1. Inputs are standardised by `mean` and `std` (one a channel, of the training split) on
    the device. `augment` names what training does to an image: nothing, `crop` (4 pixels of
    padding), `crop_flip`.
    """

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_val: np.ndarray = field(repr=False)
    y_val: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    classes: int
    mean: np.ndarray = field(repr=False)
    std: np.ndarray = field(repr=False)
    augment: str = ""
    digest: str = ""

    metric = ACCURACY
    task = "classification"

    @property
    def facts(self) -> dict[str, Any]:
        """What a child may ask for."""
        return {"input_shape": self.input_shape, "classes": self.classes}

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(getattr(self, f"y_{name}")) for name in ("train", "val", "test")}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.x_train.shape[1:])

    def on(self, device: torch.device) -> Classification:
        return Classification(self, device)


def from_arrays(name: str, arrays: Any) -> Dataset:
    """From (x, y) or (x_train, y_train, x_test, y_test); images are moved as `image_augment` says
    of x."""
    train, test = parts_of(name, arrays)
    return make_dataset(name, train, test, augment=image_augment(np.asarray(train[0])))


def make_dataset(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    val_size: int | None = None,
    augment: str = "",
) -> Dataset:
    """A Dataset from arrays, with checks. Without `test`, a fifth of `train` becomes it.

    x may be (N, H, W), (N, H, W, C) or (N, C, H, W) for uint8 images and (N, ...) for floats, of
    images (N, C, H, W). The
    validation split is `val_size` examples of `train` (a tenth of it by default), drawn by a fixed
    seed. Raises DataError for lengths that differ, labels that are no classes or more than there
    are examples, or values that are not finite.
    """
    x, y = _check(name, *train)
    rest, val, cut = split(name, len(x), test is not None, val_size)
    if test is None:
        test = x[cut], y[cut]
    x_test, y_test = _check(name, *test)
    if x_test.shape[1:] != x.shape[1:]:
        raise DataError(
            f"{name}: training inputs have shape {x.shape[1:]}, test inputs {x_test.shape[1:]}"
        )
    classes = int(max(y.max(), y_test.max())) + 1
    if classes < 2:
        raise DataError(f"{name}: only one class in the labels; a search needs two or more")
    if classes > (count := len(rest) + len(val) + len(y_test)):  # a network has an output for each
        raise DataError(
            f"{name}: labels go up to {classes - 1:,} with {count:,} examples; number the classes "
            "from 0 without gaps"
        )
    x_train = np.ascontiguousarray(x[rest])
    mean, std = moments(x_train)
    made = Dataset(
        name, x_train, y[rest], x[val], y[val], x_test, y_test, classes, mean, std, augment
    )
    return replace(made, digest=_digest(made))


def as_published(data: Dataset, share: float = 0.1) -> Dataset:
    """The same examples as TensorFlow's and Keras's tutorials feed them: pixels from 0 to 1 instead
    of standardised, never moved, and this `share` of all that is not test to validate on.

    Inputs that are no pixels stay as they are.
    """
    x, y = (np.concatenate([getattr(data, f"{v}_val"), getattr(data, f"{v}_train")]) for v in "xy")
    held = round(share * len(x))  # the splits were drawn at random, so any part of them is
    if not 0 < held < len(x):
        raise DataError(f"{data.name}: {len(x)} examples are too few for a validation split")
    white = np.float32(255 if x.dtype == np.uint8 else 1)
    made = replace(
        data, x_train=x[held:], y_train=y[held:], x_val=x[:held], y_val=y[:held], augment="",
        mean=np.zeros_like(data.mean), std=np.full_like(data.std, white),
    )  # fmt: skip
    return replace(made, digest=f"{_digest(made)}-published")


def image_augment(x: np.ndarray) -> str:
    """Colour photographs are cropped and flipped; grey images, often signs, only cropped."""
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        return ""
    return "crop_flip" if x.ndim == 4 and 3 in (x.shape[1], x.shape[3]) else "crop"


def _check(name: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim < 2 or y.shape != (len(x),):
        raise DataError(
            f"{name}: inputs {x.shape} and labels {y.shape} do not fit; "
            "give (N, ...) inputs and (N,) labels"
        )
    if not np.issubdtype(y.dtype, np.integer):
        floats = np.issubdtype(y.dtype, np.floating)
        way = "; targets that are real numbers need --task regression" if floats else ""
        raise DataError(f"{name}: labels must be whole numbers from 0, not {y.dtype}{way}")
    if len(y) and y.min() < 0:
        raise DataError(f"{name}: the smallest label is {y.min()}; number the classes from 0")
    if len(y) and y.max() > MOST_LABEL:
        raise DataError(f"{name}: a label is {y.max():,}; number the classes from 0 without gaps")
    return checked_inputs(name, x), y.astype(np.int64)


def checked_inputs(name: str, x: np.ndarray) -> np.ndarray:
    """uint8 images (N, C, H, W), or float32 (N, ...). Raises DataError where x can be neither, and
    for values that are not finite."""
    if x.ndim < 2:
        raise DataError(f"{name}: inputs of shape {x.shape}; give (N, ...), as x[:, None] is")
    if x.size == 0:
        raise DataError(
            f"{name}: inputs of shape {x.shape} hold nothing; give every split examples"
        )
    if x.dtype == np.uint8:
        return _channels_first(x)
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise DataError(f"{name}: inputs of type {x.dtype}; give uint8 images or floats")
    x = x.astype(np.float32)
    if _channels_are_last(x):
        raise DataError(
            f"{name}: floats of shape {x.shape} look like images with their channels last; "
            "give them as (N, C, H, W), which is x.transpose(0, 3, 1, 2), or as uint8"
        )
    if not np.isfinite(x).all():
        raise DataError(f"{name}: inputs hold NaN or infinity; clean them first")
    return x


def _channels_first(x: np.ndarray) -> np.ndarray:
    if x.ndim == 3:
        x = x[:, None]
    elif _channels_are_last(x):
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x)


def _channels_are_last(x: np.ndarray) -> bool:
    return x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation a channel (dimension 1) over at most 10,000 examples."""
    sample = x[:10_000].astype(np.float64)
    axes = (0, *range(2, x.ndim))
    std = sample.std(axes)
    return sample.mean(axes).astype(np.float32), np.where(std > 1e-8, std, 1.0).astype(np.float32)


def _digest(data: Dataset) -> str:
    """The hash that stands for the data, its splits and its augmentation in a run's identity."""
    arrays = (getattr(data, f"{v}_{s}") for s in ("train", "val", "test") for v in "xy")
    return digest_of_arrays(hashlib.sha256(data.augment.encode()), arrays)


def digest_of_arrays(sha: Any, arrays: Iterable[np.ndarray]) -> str:
    """That of the inputs and outputs of the three splits, in their order, behind what `sha` has
    seen."""
    names = (f"{v}_{s}" for s in ("train", "val", "test") for v in "xy")
    for name, array in zip(names, map(np.ascontiguousarray, arrays), strict=True):
        sha.update(f"{name}{array.shape}{array.dtype}".encode())
        sha.update(array.data)
    return sha.hexdigest()[:16]
