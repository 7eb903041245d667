"""Folders of images, one folder a class: small ones as arrays, large ones such as ImageNet read
while training.

`path/CLASS/*` alone, or `path/train/CLASS/*` with `path/test/CLASS/*` (or val), which is then the
test split.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from actsearch.child_models.data.classification import Batch, accuracy, loss
from actsearch.child_models.data.data import DataError, check_fits, first_line, split
from actsearch.child_models.data.labelled import Dataset, make_dataset
from actsearch.child_models.device import on_device
from actsearch.child_models.recipe import Recipe
from actsearch.results.metrics import ACCURACY

IN_MEMORY = 2 * 2**30  # bytes of images, at most; more is read while training
HELD_OUT = 10_000  # images of the validation split, at most
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as its recipes have them
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a crop for training, Szegedy et al. 2015
BORDER = 1.15  # the shorter side to which a test image is resized, as a share of its crop: 256/224
AHEAD = 3  # batches that are being read
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
EVALUATION_BATCH = 100


def load_folder(path: Path, size: int | None) -> Dataset | StreamedImages:
    """As arrays of all images; with a `size` at which they would not fit in 2 GiB, read while
    training. Raises DataError."""
    has_splits = (path / "train").is_dir()
    train = _listed(path / "train" if has_splits else path)
    held_out = [path / s for s in ("test", "val") if has_splits and (path / s).is_dir()]
    test = _listed(held_out[0]) if held_out else None
    if test is not None and test.classes != train.classes:
        raise DataError(f"{path}: train and {held_out[0].name} hold different classes")
    count = len(train.samples) + (len(test.samples) if test is not None else 0)
    if size is not None and 3 * count * size**2 > IN_MEMORY:
        return _streamed(path, train.samples, None if test is None else test.samples, size)
    return make_dataset(
        path.name, _arrays(train, size), None if test is None else _arrays(test, size),
        augment="crop_flip",
    )  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """Files and the numbers of their classes."""

    root: Path
    classes: tuple[str, ...]
    samples: list[tuple[str, int]]


def _listed(path: Path) -> Listed:
    """Classes and files by their names, in the order of torchvision's ImageFolder."""
    with os.scandir(path) as entries:
        classes = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    if not classes:
        raise DataError(
            f"{path} is no folder of images a class: it has no folder for a class (and no .txt, "
            "which would make it text)"
        )
    samples: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        files = _images(os.path.join(path, name))
        if not files:
            raise DataError(
                f"{path} is no folder of images a class: {name} holds none ({' '.join(SUFFIXES)})"
            )
        samples += [(file, label) for file in files]
    return Listed(path, classes, samples)


def _images(folder: str) -> list[str]:
    """The images in it and in its folders, links followed. Raises DataError where a link leads back
    to a folder that was seen, and for a pipe, whose reading would not end."""
    seen: set[tuple[int, int]] = set()
    found: dict[str, list[str]] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        state = os.stat(here)
        if (state.st_dev, state.st_ino) in seen:
            raise DataError(f"{here} links to a folder that {folder} has already; remove the link")
        seen.add((state.st_dev, state.st_ino))
        found[here] = []
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif entry.name.lower().endswith(SUFFIXES):
                    if not entry.is_file():
                        raise DataError(
                            f"{entry.path} is no file but a pipe, a device or a link "
                            "to nothing; remove it"
                        )
                    found[here].append(entry.path)
    return [file for here in sorted(found) for file in sorted(found[here])]


def _arrays(found: Listed, size: int | None) -> tuple[np.ndarray, np.ndarray]:
    arrays: list[np.ndarray] = []
    for file, _ in found.samples:
        image = _opened(file)
        array = np.asarray(image if size is None else _square(image, size))
        if not arrays:  # they are stacked, then split
            check_fits(found.root, 3 * array.nbytes * len(found.samples))
        elif array.shape != arrays[0].shape:
            raise DataError(f"{found.root}: images differ in size; give --image-size, such as 32")
        arrays.append(array)
    return np.stack(arrays), np.array([label for _, label in found.samples])


def _opened(file: str) -> Any:
    """The image as RGB. Raises DataError, which names it, where it is cut short, empty or none; an
    OSError of the system names it too."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except MemoryError as error:
        raise MemoryError(f"for the pixels of {file}") from error
    except Exception as error:  # damaged files end PIL in nearly any
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, file) from error
        raise DataError(
            f"{file} cannot be read as an image ({first_line(error)}); put a whole copy in its "
            "place"
        ) from error


def _square(image: Any, size: int, border: float = 1.0) -> Any:
    """Shorter side to `size` times `border`, then the centre."""
    width, height = image.size
    scale = size * border / min(width, height)
    image = image.resize((max(size, round(width * scale)), max(size, round(height * scale))))
    left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


# -- folders that do not fit in memory


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """Files and their classes in three splits. For training an image is cropped at random in place,
    size and shape and mirrored half of the time; else its centre is taken."""

    name: str
    splits: dict[str, tuple[tuple[str, ...], np.ndarray]] = field(repr=False)
    classes: int
    size: int
    digest: str

    metric = ACCURACY
    task = "classification"

    @property
    def facts(self) -> dict[str, Any]:
        return {"input_shape": (3, self.size, self.size), "classes": self.classes}

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(labels) for name, (_, labels) in self.splits.items()}

    def on(self, device: torch.device) -> StreamedTask:
        return StreamedTask(self, device)


def _streamed(
    path: Path, train: list[tuple[str, int]], test: list[tuple[str, int]] | None, size: int
) -> StreamedImages:
    rest, val, cut = split(str(path), len(train), test is not None)
    val, rest = val[:HELD_OUT], np.concatenate([rest, val[HELD_OUT:]])
    chosen = {
        "train": [train[i] for i in rest],
        "val": [train[i] for i in val],
        "test": test if test is not None else [train[i] for i in cut],
    }
    sha = hashlib.sha256(f"{size}".encode())
    for name, samples in chosen.items():
        for file, label in samples:
            size_of_file = os.path.getsize(file)
            if size_of_file == 0:
                raise DataError(f"{file} is empty; put a whole copy in its place, or remove it")
            told = f"{name} {Path(file).relative_to(path)} {size_of_file} {label}\n"
            sha.update(told.encode())
    splits = {
        name: (tuple(file for file, _ in samples), np.array([label for _, label in samples]))
        for name, samples in chosen.items()
    }
    classes = 1 + max(label for _, label in train)
    return StreamedImages(path.name, splits, classes, size, sha.hexdigest()[:16])


class StreamedTask:
    """Classification of images that threads read ahead of the training."""

    def __init__(self, data: StreamedImages, device: torch.device) -> None:
        self.data = data
        self.device = device
        self.mean, self.std = (
            torch.tensor(v, device=device).view(3, 1, 1) * 255 for v in (MEAN, STD)
        )

    def batches(self, recipe: Recipe, seed: int, start: int = 0) -> Iterator[Batch]:
        """Training batches without end, from number `start` on; the same for the same seed,
        whatever reads faster."""
        files, _ = self.data.splits["train"]
        size = min(recipe.batch_size, len(files))

        def indices() -> Iterator[tuple[int, np.ndarray]]:
            epoch = 0
            while True:
                order = np.arange(len(files))
                if recipe.shuffle:
                    order = np.random.default_rng((seed, epoch)).permutation(len(files))
                for at in range(0, len(files) - size + 1, size):
                    yield epoch, order[at : at + size]
                epoch += 1

        left = islice(indices(), start, None)
        return self._read("train", left, lambda epoch, i: (seed, epoch, i))

    def _read(
        self, split: str, indices: Iterator[tuple[int, np.ndarray]], seeds: Any = None
    ) -> Iterator[Batch]:
        files, labels = self.data.splits[split]
        coming: deque[tuple[np.ndarray, list[Future[np.ndarray]]]] = deque()
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="images") as pool:
            while True:
                while len(coming) < AHEAD and (found := next(indices, None)) is not None:
                    epoch, index = found
                    jobs = [
                        pool.submit(
                            _image, files[i], self.data.size, seeds and seeds(epoch, int(i))
                        )
                        for i in index
                    ]
                    coming.append((index, jobs))
                if not coming:
                    return
                index, jobs = coming.popleft()
                pixels = torch.from_numpy(np.stack([job.result() for job in jobs]))
                x = on_device(pixels, self.device).permute(0, 3, 1, 2).to(torch.float32)
                y = on_device(torch.from_numpy(labels[index]), self.device)
                yield (x - self.mean) / self.std, y

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
        return loss(model, batch, recipe)

    def score(
        self,
        model: nn.Module,
        recipe: Recipe,
        split: str,
        examples: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> float:
        """The accuracy on `split`, or on its first `examples`."""
        count = len(self.data.splits[split][0][:examples])
        parts = (
            (0, np.arange(start, min(start + EVALUATION_BATCH, count)))
            for start in range(0, count, EVALUATION_BATCH)
        )
        return accuracy(model, self._read(split, parts), recipe, split, beat)


def _image(file: str, size: int, seed: Sequence[int] | None) -> np.ndarray:
    """(size, size, 3), uint8: a random crop, mirrored or not, or for None the centre."""
    from PIL import Image

    image = _opened(file)
    if seed is None:
        return np.asarray(_square(image, size, BORDER))
    random = np.random.default_rng(seed)
    box = _random_box(random, *image.size)
    array = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))
    return array[:, ::-1].copy() if random.random() < 0.5 else array


def _random_box(random: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of 8 to 100 % of an image; the whole of it where ten tries do not
    fit."""
    for _ in range(10):
        area = random.uniform(*SCALE) * width * height
        ratio = np.exp(random.uniform(*np.log(RATIO)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = random.integers(0, width - w + 1), random.integers(0, height - h + 1)
            return int(left), int(top), int(left + w), int(top + h)
    return 0, 0, width, height
