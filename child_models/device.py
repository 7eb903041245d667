"""How a training meets a device: its memory, its precision, the order of images in memory, and what
it says when it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from actsearch.child_models.recipe import Recipe
from actsearch.results.records import DeviceLostError, NoDeviceError

MEMORY_TO_LEAVE = 0.25  # of a GPU, to others; with less a process keeps none that it does not use


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's precision, for forward passes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def on_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch from main memory; the GPU copies it while the host goes on."""
    if device.type == "cpu":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)


def memory_format(model: nn.Module) -> torch.memory_format:
    """Channels first, unless the model says that it never looks at strides."""
    return getattr(model, "memory_format", torch.contiguous_format)


def usual_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def short(error: BaseException | str) -> str:
    return " ".join(str(error).split())[:300]


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Two workers of one thread beat one of two, and one thread makes a CPU result repeatable."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def precision(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """torch's own default rounds in convolutions, and not in linear layers."""
    if device.type == "cpu":
        yield
        return
    flags: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = recipe.precision == "tf32"
        yield
    finally:
        for flag, allowed in zip(flags, before, strict=True):
            flag.allow_tf32 = allowed


def device_name(device: torch.device) -> str:
    """Raises NoDeviceError where there is a GPU that does not answer."""
    if device.type == "cpu":
        return "cpu"
    try:
        return torch.cuda.get_device_name(device)
    except Exception as error:
        raise NoDeviceError(
            f"{short(error)}; with CUDA_VISIBLE_DEVICES='' children train on the processors"
        ) from error


def out_of_memory(error: BaseException, device: torch.device) -> bool:
    """Of a GPU; libraries that allocate for themselves have words of their own for it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return device.type == "cuda" and any(words in str(error) for words in _FULL)


_FULL = ("out of memory", "ALLOC_FAILED")


def check_still_there(device: torch.device, reason: str) -> None:
    """After a memory fault or a failed assertion a process can use its GPU no more, and all that it
    trained next would fail."""
    if device.type == "cpu":
        return
    try:
        torch.cuda.synchronize(device)
    except Exception as error:
        raise DeviceLostError(
            f"a child ended with {reason}, and the GPU cannot be used any more: {short(error)}. "
            "Ray's workers start anew after that (--executor ray), and the same command goes on"
        ) from error


def free_memory(device: torch.device) -> None:
    """For whoever shares a GPU that is filling: torch keeps for itself what it has once taken."""
    if device.type == "cuda":
        with contextlib.suppress(Exception):
            free, total = torch.cuda.mem_get_info(device)
            if free < MEMORY_TO_LEAVE * total:
                torch.cuda.empty_cache()
