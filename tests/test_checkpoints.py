"""A training that was broken off goes on from its checkpoint and ends as the unbroken one, to the
last digit; a checkpoint that does not fit or cannot be written costs nothing but time."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import actsearch
from actsearch.child_models.data import examples, image_folder
from actsearch.child_models.data.data import Task
from actsearch.child_models.data.labelled import make_dataset
from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.model_zoos import ZOOS
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training import checkpoint
from actsearch.child_models.training.checkpoint import Checkpoints
from actsearch.results.records import Milestone, Outcome, Trial
from actsearch.run import Run

from .conftest import LIMIT, wait_until
from .test_cli import COMMAND
from .test_cuda_graph import made_up
from .test_turns import with_dropout

pytestmark = pytest.mark.usefixtures("one_thread")

ALWAYS = 1e-9  # seconds between checkpoints
STEPS = 30
RECIPE = Recipe(steps=STEPS, batch_size=48, lr=0.02, schedule="cosine")
TRIAL = Trial(
    7, "reevaluate", "mul(x, sigmoid(scale(x)))", "p", 3,
    race=(Milestone(4, "accuracy", 0.0), Milestone(20, "loss", 100.0)),
)  # fmt: skip


class Broken(BaseException):
    """Ends a training from within, as a lost lease does."""


def evaluator(child: Any = with_dropout, recipe: Recipe = RECIPE) -> Evaluator:
    return Evaluator(
        made_up(), child_from(child), recipe, test=True, inspect=True, track=7
    )  # fmt: skip


def results(outcome: Outcome) -> dict[str, Any]:
    """All of an outcome that is no time."""
    assert outcome.status in ("ok", "raced_out"), outcome.reason
    found = asdict(outcome)
    return {k: v for k, v in found.items() if k not in ("seconds", "ms_per_step")}


def kept(folder: Path, code: str = "v1", every: float = ALWAYS) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", every, code)


def broken_at(step: int, evaluate: Evaluator, trial: Trial = TRIAL) -> None:
    def beat(at: int) -> None:
        if at == step:
            raise Broken

    with pytest.raises(Broken):
        evaluate(trial, beat)


def went_on(evaluate: Evaluator, trial: Trial = TRIAL) -> tuple[Outcome, int]:
    """The outcome, and the first step that was taken for it."""
    beats: list[int] = []
    return evaluate(trial, beats.append), beats[0]


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("child", [with_dropout, "resnet8:width=4", "cnn:width=4"])
def test_it_goes_on_from_any_step_to_the_same_outcome(
    child: Any, optimiser: str, tmp_path: Path
) -> None:
    """With dropout, crops and mirrors, momenta, a race, a track and an epoch of seven batches."""
    evaluate = evaluator(child, replace(RECIPE, optimiser=optimiser))
    whole = results(evaluate(TRIAL))
    assert len(whole["milestones"]) == 2
    for step in (2, 7, 29):
        folder = tmp_path / str(step)
        folder.mkdir()
        keeping = evaluate.keeping(kept(folder))
        broken_at(step, keeping)
        outcome, first = went_on(keeping)
        assert first == step  # whose beat came before its checkpoint
        assert results(outcome) == whole


def test_a_training_may_be_broken_off_again_and_again(tmp_path: Path) -> None:
    evaluate = evaluator()
    keeping = evaluate.keeping(kept(tmp_path))
    for step in range(2, STEPS, 5):
        broken_at(step, keeping)
    outcome, first = went_on(keeping)
    assert first == 27
    assert results(outcome) == results(evaluate(TRIAL))


def test_the_seconds_of_all_parts_count(tmp_path: Path) -> None:
    keeping = evaluator().keeping(kept(tmp_path))

    def slow(step: int) -> None:
        time.sleep(0.3 * (step == 3))
        if step == 10:
            raise Broken

    with pytest.raises(Broken):
        keeping(TRIAL, slow)
    assert keeping(TRIAL).seconds > 0.3


def test_a_cost_beside_relu_is_whole_after_a_break(tmp_path: Path) -> None:
    evaluate = evaluator("mlp:width=4", replace(RECIPE, steps=100))
    trial = replace(TRIAL, kind="search")
    keeping = evaluate.keeping(kept(tmp_path))
    broken_at(55, keeping, trial)
    low, high = keeping(trial).details["cost"][1:]
    assert 0 < low <= high


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [flipped, lambda c: c[:-1], lambda c: c[:1000], lambda c: b"", lambda c: b"x" * 5000]
)
def test_what_is_damaged_is_left_alone(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate = evaluator()
    keeping = evaluate.keeping(kept(tmp_path))
    broken_at(20, keeping)
    file = tmp_path / "checkpoints" / "7.pt"
    file.write_bytes(damage(file.read_bytes()))
    outcome, first = went_on(keeping)
    assert first == 0  # of the look before the first step
    assert f"{file} is not used, and its training starts over: it is damaged" in caplog.text
    assert results(outcome) == results(evaluate(TRIAL))


FOREIGN: dict[str, Callable[[Path, pytest.MonkeyPatch], tuple[Evaluator, Trial]]] = {
    "code": lambda path, _: (evaluator().keeping(kept(path, "v2")), TRIAL),
    "torch": lambda path, patch: (
        patch.setattr(torch, "__version__", "1.0"), evaluator().keeping(kept(path)), TRIAL
    )[1:],
    "protocol": lambda path, _: (
        evaluator(recipe=replace(RECIPE, lr=0.03)).keeping(kept(path)), TRIAL
    ),
    "trial": lambda path, _: (evaluator().keeping(kept(path)), replace(TRIAL, seed=4)),
    "race": lambda path, _: (
        evaluator().keeping(kept(path)), replace(TRIAL, race=(Milestone(9, "loss", None),))
    ),
}  # fmt: skip


@pytest.mark.parametrize("other", FOREIGN)
def test_what_is_of_another_training_is_left_alone(
    other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(20, evaluator().keeping(kept(tmp_path)))
    evaluate, trial = FOREIGN[other](tmp_path, monkeypatch)
    outcome, first = went_on(evaluate, trial)
    assert first == 0  # of the look before the first step
    assert f"7.pt is not used, and its training starts over: it was written with {other} " in (
        caplog.text
    )
    assert results(outcome) == results(evaluate.keeping(None)(trial))


def test_what_a_process_has_imported_besides_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = evaluator().keeping(kept(tmp_path))
    broken_at(20, keeping)
    for zoo in ZOOS:
        monkeypatch.setitem(sys.modules, zoo, SimpleNamespace(__version__="0"))  # type: ignore[arg-type]
    assert went_on(keeping)[1] == 20


def test_the_version_of_a_models_zoo_is_part_of_its_checkpoint() -> None:
    def zoo(child: Any) -> str:
        return evaluator(child)._identity(TRIAL, torch.device("cpu"))["zoo"]

    assert zoo("torchvision:squeezenet1_1").startswith("torchvision 0.")
    assert zoo(with_dropout) == ""


def test_a_model_that_takes_half_of_it_starts_over_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = evaluator()
    keeping = evaluate.keeping(kept(tmp_path))
    broken_at(20, keeping)
    real = checkpoint._read
    monkeypatch.setattr(checkpoint, "_read", lambda *a: {**real(*a), "optimiser": {}})
    outcome, first = went_on(keeping)
    assert first == 0  # of the look before the first step
    assert "starts over" in caplog.text
    assert results(outcome) == results(evaluate(TRIAL))


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("trouble", ["a full disk", "a folder that is another machine's"])
def test_a_checkpoint_that_cannot_be_written_costs_nothing_and_is_said_once(
    trouble: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path
    if trouble == "a full disk":
        monkeypatch.setattr(checkpoint.os, "fsync", full)
    else:
        folder = tmp_path / "runs" / "a"
    with caplog.at_level(logging.WARNING):
        outcome = evaluator().keeping(kept(folder))(TRIAL)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        f"no checkpoint in {folder / 'checkpoints' / '7.pt'}"
    ]
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []
    assert results(outcome) == results(evaluator()(TRIAL))


def test_short_trainings_leave_none_and_an_outcome_removes_its_own(tmp_path: Path) -> None:
    evaluator().keeping(kept(tmp_path, every=600))(TRIAL)
    assert list(tmp_path.iterdir()) == []
    keeping = kept(tmp_path)
    broken_at(20, evaluator().keeping(keeping))
    (tmp_path / "checkpoints" / "7-123.part").touch()  # of a worker that was killed as it wrote
    (tmp_path / "checkpoints" / "77.pt").touch()
    keeping.forget(TRIAL, Outcome("ok", val_score=0.5), None)
    keeping.forget(TRIAL)
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["77.pt"]


# -- batches


def pictures(augment: str) -> Task:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    return make_dataset("d", (x, np.arange(70) % 3), augment=augment).on(torch.device("cpu"))


def streamed(tmp_path: Path) -> Task:
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (60, 9, 9, 3), np.uint8)):
        folder = tmp_path / f"class{i % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    return load(str(tmp_path), image_size=8).on(torch.device("cpu"))


def sentences(tmp_path: Path) -> Task:
    words = [f"w{i} " * (1 + i % 5) for i in range(60)]
    for split in ("train", "val", "test"):
        for language in ("en", "de"):
            (tmp_path / f"{split}.{language}").write_text("\n".join(words))
    return load(f"{tmp_path}:en-de:vocabulary=300,length=16").on(torch.device("cpu"))


TASKS: dict[str, Callable[[Path], Task]] = {
    **{f"pictures {a}": lambda path, a=a: pictures(a) for a in ("", "crop", "crop_flip")},
    "streamed": streamed,
    "sentences": sentences,
}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("name", "block"),
    [*((name, 1) for name in TASKS), ("pictures ", 20), ("pictures crop_flip", 3)],
)
def test_batches_begin_where_they_are_asked_to(
    name: str, block: int, shuffle: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within an epoch, at its end, and beyond it; within a block of batches, and at its end."""
    monkeypatch.setitem(examples.BLOCKS, "cpu", block)
    monkeypatch.setattr(image_folder, "IN_MEMORY", 0)
    task, recipe = TASKS[name](tmp_path), Recipe(batch_size=8, shuffle=shuffle)

    def some(start: int, count: int) -> list[Any]:
        stream: Iterator[Any] = task.batches(recipe, 5, start)
        found = list(islice(stream, count))
        stream.close()  # type: ignore[attr-defined]
        return found

    whole = some(0, 24)
    for start in (1, 5, 6, 7, 14, 20):
        for one, other in zip(whole[start:], some(start, 24 - start), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# -- kills


SEARCH: dict[str, Any] = {
    "executor": "inline", "strategy": "random", "space": "tiny", "child": "mlp:width=8",
    "steps": 600, "batch_size": 16, "budget": 1, "baselines": "swish",
}  # fmt: skip


@pytest.mark.thorough
def test_a_search_that_is_killed_in_a_training_goes_on_in_it(tmp_path: Path) -> None:
    one = actsearch.search(tmp_path / "unbroken", quiet=True, **SEARCH)
    killed = tmp_path / "killed"
    options = [word for k, v in SEARCH.items() for word in (f"--{k.replace('_', '-')}", f"{v}")]
    process = subprocess.Popen(
        [*COMMAND, "search", str(killed), *options, "--checkpoint-every", "0.02"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: any((killed / "checkpoints").glob("*.pt")))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -9
    [file] = (killed / "checkpoints").glob("*.pt")
    other = actsearch.search(killed, quiet=True, checkpoint_every=60.0, **SEARCH)
    assert f"{file} goes on after step" in (killed / "run.log").read_text()
    assert list(file.parent.iterdir()) == []  # each is removed when its outcome is stored
    stored = [outcomes(run) for run in (one, other)]
    assert stored[0] == stored[1]
    assert len(stored[0]) == 3


def outcomes(run: Run) -> dict[str, Any]:
    """What is stored of each function, but for times, such as its cost beside ReLU."""
    with closing(run.store(readonly=True)) as store:
        found = {
            row["formula"]: store.outcome(
                store.find("search", row["expression"], row["protocol"], row["seed"])
            )
            for row in run.rows()
        }
    return {formula: results(replace(o, details={})) for formula, o in found.items()}


def test_a_training_that_is_killed_at_a_step_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys, torch
from pathlib import Path
from tests.test_checkpoints import TRIAL, evaluator, kept
torch.set_num_threads(1)
evaluator().keeping(kept(Path({str(tmp_path)!r})))(
    TRIAL, lambda step: step == 17 and os.kill(os.getpid(), signal.SIGKILL)
)
"""
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, timeout=LIMIT
    )
    assert done.returncode == -9
    outcome, first = went_on(evaluator().keeping(kept(tmp_path)))
    assert first == 17
    assert results(outcome) == results(evaluator()(TRIAL))
