"""A fault of the machine, its disk or its data is recorded against no function: the search ends in
a sentence, and goes on once that is mended. What is evidence stays evidence."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import actsearch
from actsearch import errors
from actsearch.child_models.data.data import DataError
from actsearch.child_models.data.labelled import make_dataset
from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import Child, child_from
from actsearch.child_models.recipe import Recipe
from actsearch.errors import EnvironmentProblem, UsageError
from actsearch.results.records import HostError, Outcome, Trial
from actsearch.workers.executor import Beat, Evaluate, Executor
from actsearch.workers.isolation import KilledFromOutside, run_alone

from .conftest import trial
from .test_executors import finish

QUICK = Recipe(steps=4, batch_size=16, lr=0.1)

# What machines say: Python's exceptions, and the words of C++ libraries, which have no type.
HOST = {
    **{name: OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "/data/x.jpg")
       for name in ("EIO", "ESTALE", "EMFILE", "ENOSPC", "EDQUOT", "ENOENT", "EACCES")},
    "MemoryError": MemoryError("for the pixels of x.jpg"),
    "of torch": RuntimeError("unable to mmap 400 bytes: Cannot allocate memory (12)"),
}  # fmt: skip
EVIDENCE = {
    "a full GPU": torch.OutOfMemoryError("CUDA out of memory"),
    "an operator": RuntimeError("log1p: expected a floating point tensor"),
    "a shape": ValueError("cannot take the maximum of nothing"),
    "recursion": RecursionError("maximum recursion depth exceeded"),
}


def evaluator(error: Exception | None, blobs: Any) -> Evaluator:
    """Its child raises `error` at its second forward pass."""
    passes = iter(range(10_000))

    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if error is not None and next(passes) == 1:
                raise error
            return x

    def build(make_activation: Callable[[int], nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), make_activation(8), Failing(), nn.Linear(8, 3))

    return Evaluator(make_dataset("d", blobs), Child("failing", build, digest="d"), QUICK)


@pytest.mark.parametrize("name", HOST)
def test_a_fault_of_the_machine_makes_no_outcome(name: str, blobs: Any) -> None:
    with pytest.raises(HostError, match=r"relu\(x\)") as caught:
        evaluator(HOST[name], blobs)(trial(1))
    assert str(HOST[name]) in str(caught.value)
    assert "the same command goes on" in str(caught.value)
    assert errors.exit_code(caught.value) == errors.RESUMABLE


@pytest.mark.parametrize("name", EVIDENCE)
def test_what_a_function_does_itself_stays_its_outcome(name: str, blobs: Any) -> None:
    outcome = evaluator(EVIDENCE[name], blobs)(trial(1))
    assert outcome.status == "failed"
    assert str(EVIDENCE[name]) in outcome.reason


def test_main_memory_that_torch_does_not_get_is_the_machines(blobs: Any) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert type(caught.value) is RuntimeError  # should torch have a type for it, use that
    with pytest.raises(HostError, match="Cannot allocate memory"):
        evaluator(caught.value, blobs)(trial(1))


def test_executors_raise_it_after_all_that_had_finished(
    make_executor: Callable[..., Executor], tmp_path: Path
) -> None:
    """Data that are damaged, inline, by threads and by Ray's workers."""

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        if trial.id == 4:
            raise DataError("/data/x.jpg cannot be read as an image")
        return Outcome("ok", val_score=0.5)

    executor = make_executor(evaluate)
    for i in range(1, 4):
        executor.submit(trial(i))
    assert {o.status for _, o in finish(executor, 3)} == {"ok"}
    executor.submit(trial(4))
    with pytest.raises(DataError, match=r"^/data/x.jpg cannot be read as an image$"):
        finish(executor, 1)


def alone(evaluate: Evaluate) -> Outcome:
    """In a process of its own, to which it goes by value: by its name it would import torch."""
    from ray import cloudpickle

    return run_alone(evaluate, trial(1), lambda: None, cloudpickle.dumps)


def test_a_suspect_in_a_process_of_its_own_is_not_convicted_by_it() -> None:
    def bad_data(trial: Trial, beat: Beat) -> Outcome:
        raise DataError("/data/x.jpg is empty")

    def no_disk(trial: Trial, beat: Beat) -> Outcome:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(DataError, match=r"x\.jpg is empty"):
        alone(bad_data)
    with pytest.raises(HostError, match="Input/output error"):
        alone(no_disk)


def test_a_suspect_whose_outcome_cannot_be_written_is_innocent() -> None:
    def without_room(trial: Trial, beat: Beat) -> Outcome:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        return Outcome("ok", val_score=0.5)

    with pytest.raises(KilledFromOutside, match="ended with 75"):
        alone(without_room)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no such file", "w.pt"), MemoryError("w")])
def test_a_machine_that_fails_before_anything_has_begun_is_no_early_stop(
    error: Exception, tmp_path: Path, blobs: Any
) -> None:
    def child(make_activation: Callable[[int], nn.Module]) -> nn.Module:
        raise error

    with pytest.raises(EnvironmentProblem, match=r"fails with ReLU: .*w"):
        actsearch.search(tmp_path / "run", space="tiny", dataset=blobs, child=child, steps=5)
    assert not (tmp_path / "run").exists()


# -- a search on a folder of images that is read while training


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty images in two classes, streamed."""
    monkeypatch.setattr("actsearch.child_models.data.image_folder.IN_MEMORY", 0)
    rng = np.random.default_rng(0)
    for i in range(60):
        file = tmp_path / "images" / f"class{i % 2}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(file)
    return tmp_path / "images"


def test_relu_tanh_and_sine_are_innocent_of_an_image_that_was_cut_short(images: Path) -> None:
    data = load(str(images), image_size=8)
    file = Path(data.splits["train"][0][3])  # pyright: ignore
    file.write_bytes(file.read_bytes()[:700])
    evaluate = Evaluator(data, child_from("mlp:width=8"), QUICK)
    for function in ("relu(x)", "tanh(x)", "sin(x)"):
        with pytest.raises(DataError, match=rf"{file} cannot be read as an image \(image file is"):
            evaluate(trial(1, function))


@pytest.mark.parametrize("how", ["inline", "inline threads", "ray"])
def test_a_search_ends_at_a_damaged_image_and_goes_on_when_it_is_mended(
    images: Path, tmp_path: Path, how: str, request: pytest.FixtureRequest
) -> None:
    if how == "ray":
        request.getfixturevalue("ray_session")
    file, whole = images / "class0" / "8.jpg", (images / "class0" / "8.jpg").read_bytes()

    def damage(*_: Any) -> None:
        part = tmp_path / "part"
        part.write_bytes(whole[:700] if damaged else whole)
        part.replace(file)

    executor, _, threads = how.partition(" ")
    workers: Any = {"workers": 1} if how == "ray" else {}

    def search() -> actsearch.Run:
        return actsearch.search(
            tmp_path / "run", space="units=1;unary=identity,relu,sin,tanh;binary=add,mul",
            dataset=str(images), image_size=8, child="mlp:width=8", steps=4, batch_size=48,
            executor=executor, children_per_worker=2 if threads else 1, callbacks=[damage],
            budget=10, **workers,
        )  # fmt: skip

    damaged = True
    with pytest.raises(DataError, match=f"{file} cannot be read as an image"):
        search()
    statuses = {row["status"] for row in actsearch.Run.open(tmp_path / "run").rows()}
    assert None in statuses  # what met the image waits
    assert statuses <= {None, "ok", "rejected"}
    damaged = False
    damage()
    rows = search().rows()
    assert {row["status"] for row in rows} <= {"ok", "rejected", "diverged"}
    assert sum(row["status"] == "ok" for row in rows) > 3


def test_the_exit_codes_are_those_that_are_documented() -> None:
    assert errors.exit_code(DataError("x")) == errors.ENVIRONMENT == 4
    assert errors.exit_code(HostError("x")) == errors.RESUMABLE == 75
    assert errors.exit_code(UsageError("x")) == errors.USAGE
