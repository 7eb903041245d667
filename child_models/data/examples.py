"""Examples as arrays on a device: standardised batches, with images moved as training asks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from actsearch.child_models.recipe import Recipe

PAD = 4  # pixels around an image that is cropped, He et al. 2016a
EVALUATION_BATCH = 500

# Training batches that are made at once: a GPU takes one set of operations for all of them.
BLOCKS = {"cpu": 1, "cuda": 20}
BLOCK_BYTES = 64 * 2**20  # at most, unless one batch is larger

# Most children take images channels last, and only a GPU's may lie so from the start: images of one
# channel are then strided otherwise, by which a processor's libraries choose their kernels.
LAYOUTS = {"cpu": torch.contiguous_format, "cuda": torch.channels_last}

Batch = tuple[torch.Tensor, torch.Tensor]


class Labelled(Protocol):
    """What is read of a `Dataset` here, or of data like it; it says what each of these is."""

    @property
    def x_train(self) -> np.ndarray: ...
    @property
    def y_train(self) -> np.ndarray: ...
    @property
    def x_val(self) -> np.ndarray: ...
    @property
    def y_val(self) -> np.ndarray: ...
    @property
    def x_test(self) -> np.ndarray: ...
    @property
    def y_test(self) -> np.ndarray: ...
    @property
    def mean(self) -> np.ndarray: ...
    @property
    def std(self) -> np.ndarray: ...
    @property
    def augment(self) -> str: ...


class Examples:
    """A Dataset on a device: uint8 stays uint8 until a batch is cut from it."""

    def __init__(self, data: Labelled, device: torch.device) -> None:
        self.device = device
        self.augment = data.augment
        splits = {
            "train": (data.x_train, data.y_train),
            "val": (data.x_val, data.y_val),
            "test": (data.x_test, data.y_test),
        }
        # A copy in C order: dimensions of size 1 can have any stride. It decides on the kernels, so
        # the last digits of a result would differ here and where the data was unpickled.
        layout = LAYOUTS[device.type]
        self.splits = {
            name: (
                laid_out(torch.tensor(x.copy("C"), device=device), layout),
                torch.tensor(y, device=device),
            )
            for name, (x, y) in splits.items()
        }
        shape = (1, -1, *[1] * (data.x_train.ndim - 2))
        self.mean = torch.tensor(data.mean, device=device).view(shape)
        self.std = torch.tensor(data.std, device=device).view(shape)
        self.crops: torch.Tensor | None = None
        if self.augment:
            images = self.splits["train"][0]
            height, width = images.shape[2:]
            padded = F.pad(images, (PAD, PAD, PAD, PAD))
            # a view: (N, C, 9, 9, H, W)
            self.crops = padded.unfold(2, height, 1).unfold(3, width, 1)

    def standardise(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(torch.float32) - self.mean) / self.std

    def batches(self, recipe: Recipe, seed: int, start: int = 0) -> Iterator[Batch]:
        """Training batches without end, shuffled anew each epoch unless the recipe says no; the
        same for the same seed and kind of device. The first `start` are left out, but for their
        random numbers. Batches are views of the block that they were made in, which ends at the
        latest with its epoch."""
        generator = torch.Generator(self.device).manual_seed(seed)
        x, y = self.splits["train"]
        size = min(recipe.batch_size, len(x))
        a_batch = 4 * size * x.shape[1:].numel()  # bytes, in float32
        block = size * max(1, min(BLOCKS[self.device.type], BLOCK_BYTES // a_batch))
        used = len(x) // size * size  # images an epoch
        order = torch.arange(len(x), device=self.device)
        while True:
            if recipe.shuffle:
                order = torch.randperm(len(x), generator=generator, device=self.device)
            for at in range(0, used, block):
                index = order[at : min(at + block, used)]
                count = len(index) // size
                if start >= count:
                    self._moves(len(index), generator)
                    start -= count
                    continue
                images = self.standardise(self._augmented(index, generator))
                batches = zip(images.split(size), y[index].split(size), strict=True)
                yield from islice(batches, start, None)
                start = 0

    def _moves(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Of so many images: offsets (2, N), and for `crop_flip` whether they are mirrored (N,)."""
        offsets, mirror = torch.empty(2, 0), torch.empty(0)
        if self.augment:
            size = (2, count)
            offsets = torch.randint(2 * PAD + 1, size, generator=generator, device=self.device)
        if self.augment == "crop_flip":
            mirror = torch.rand(count, generator=generator, device=self.device) < 0.5
        return offsets, mirror

    def _augmented(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Images cropped at random offsets and, for `crop_flip`, mirrored half of the time."""
        if self.crops is None:
            return self.splits["train"][0][index]
        offsets, mirror = self._moves(len(index), generator)
        images = self.crops[index, :, offsets[0], offsets[1]]
        if self.augment == "crop_flip":
            images = torch.where(mirror[:, None, None, None], images.flip(3), images)
        return images

    def evaluated(self, split: str, examples: int | None = None) -> Iterator[Batch]:
        """Batches of `split`, or of its first `examples`, in their order."""
        x, y = (part[:examples].split(EVALUATION_BATCH) for part in self.splits[split])
        return zip(map(self.standardise, x), y, strict=True)


def laid_out(x: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    return x.contiguous(memory_format=layout) if x.ndim == 4 else x
