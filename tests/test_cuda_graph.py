"""Steps that are captured: by a graph that is simulated on the processor, and by a GPU's where
there is one (CUDA_VISIBLE_DEVICES=0 pytest tests/test_cuda_graph.py)."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from actsearch.child_models.data.classification import Classification
from actsearch.child_models.data.labelled import make_dataset
from actsearch.child_models.data.text import TextTask, make_text
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import RECIPES, Recipe
from actsearch.child_models.training import cuda_graph
from actsearch.child_models.training import loop as training
from actsearch.child_models.training.cuda_graph import WARM_UP, can_be_captured
from actsearch.child_models.training.looks import Racing, Tracking
from actsearch.child_models.training.loop import train
from actsearch.child_models.training.state import Training
from actsearch.results.records import ALONE, Cause, DeviceLostError, Milestone, Trial
from actsearch.search_space.activation import Activation

pytestmark = pytest.mark.usefixtures("one_thread")

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CPU = torch.device("cpu")
STEPS = 24
RECIPE = Recipe(steps=STEPS, batch_size=32, lr=0.05, schedule="cosine")


class SimulatedGraph(TorchDispatchMode):
    """A CUDA graph as far as memory goes: a capture computes nothing and does not wait for values,
    a replay does the same operations again on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # of what was there already
        self.own: set[int] = set()
        self.replays = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor) and id(leaf) not in self.own:
                self.before.setdefault(id(leaf), (leaf, leaf.clone()))
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))  # which also keeps them alive
        self.own |= {id(leaf) for leaf in tree_leaves(out)} - self.before.keys()
        return out

    def capture_begin(self, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"  # other children go on meanwhile
        self.random = torch.get_rng_state()
        self.__enter__()

    def capture_end(self) -> None:
        self.__exit__(None, None, None)
        torch.set_rng_state(self.random)
        with torch.no_grad():
            for tensor, value in self.before.values():
                tensor.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Asked(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.values += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    found: list[str] = []
    with _Asked() as asked:
        yield found
    found += ["called a synchronizing CUDA operation"] * asked.values


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[SimulatedGraph]:
    """Those that were made, without a GPU."""
    made: list[SimulatedGraph] = []

    def graph() -> SimulatedGraph:
        made.append(SimulatedGraph())
        return made[-1]

    def capturable(model: nn.Module, device: torch.device) -> bool:
        return getattr(model, "capturable", False)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(training, "own_stream", contextlib.nullcontext)
    monkeypatch.setattr(cuda_graph, "watched", watched)
    monkeypatch.setattr(training, "can_be_captured", capturable)
    return made


def made_up(n: int = 400) -> Any:
    chance = np.random.default_rng(0)
    x = chance.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
    y = chance.integers(0, 4, n)
    x[np.arange(n), 0, y] = 255
    return make_dataset("made up", (x, y), augment="crop_flip")


class WithDropout(nn.Module):
    capturable = True

    def __init__(self) -> None:
        super().__init__()
        act = Activation("x * sigmoid(beta * x)", 32, kernels="eager")
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 32), act, nn.Dropout(0.3), nn.Linear(32, 4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def resnet(kernels: str = "eager") -> nn.Module:
    make = partial(Activation, "max(x, sin(beta * x))", kernels=kernels)
    return child_from("resnet8:width=4")(make, input_shape=(3, 8, 8), classes=4)


def trained(
    model: Any, captured: bool, task: Any = None, recipe: Recipe = RECIPE, looks: Any = ()
) -> tuple[Training, nn.Module, float]:
    torch.manual_seed(0)
    network = model()
    task = task or Classification(made_up(), CPU)
    network.to(task.device)
    found = train(Training(network, task, recipe, 0), looks, cuda_graphs=captured)
    return found, network, task.score(network, recipe, "val")


def check_same(one: Any, other: Any, rtol: float = 1e-5) -> None:
    curves = [dict(found.curve) for found, _, _ in (one, other)]
    assert curves[0] == pytest.approx(curves[1], rel=rtol)
    for a, b in zip(one[1].state_dict().values(), other[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=10 * rtol)
    assert one[2] == pytest.approx(other[2], abs=0.03)


@pytest.mark.parametrize("optimiser", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("model", [resnet, WithDropout])
def test_replayed_steps_train_as_launched_ones_do(
    model: Any, optimiser: str, graphs: list[SimulatedGraph]
) -> None:
    recipe = Recipe(**{**vars(RECIPE), "optimiser": optimiser, "lr": 0.01})
    check_same(trained(model, True, recipe=recipe), trained(model, False, recipe=recipe))
    [graph] = graphs
    assert graph.replays == STEPS - WARM_UP


def test_a_gpt_is_replayed_with_its_gradients_clipped(graphs: list[SimulatedGraph]) -> None:
    text = bytes(range(128)) * 8
    task = TextTask(make_text("counting", dict.fromkeys(("train", "val"), text), 16), CPU)
    recipe = Recipe(**{**vars(RECIPES["gpt"]), "steps": STEPS, "clip": 0.3})
    make = partial(Activation, "x * sigmoid(beta * x)", kernels="eager")

    def gpt() -> nn.Module:
        child = child_from("gpt:width=16,layers=1,heads=2")
        return child(make, vocabulary=128, context=16)

    check_same(trained(gpt, True, task, recipe), trained(gpt, False, task, recipe))
    assert graphs[0].replays == STEPS - WARM_UP


def looked_at(captured: bool) -> list[float]:
    """Scores of a training that is raced and tracked."""
    race = (Milestone(8, "accuracy", 0.0), Milestone(16, "loss", 100.0))
    found, *_ = trained(resnet, captured, looks=(Racing(race, STEPS), Tracking(5, STEPS)))
    assert [milestone.step for milestone in found.milestones] == [8, 16]
    assert [step for step, *_ in found.track] == [0, 5, 10, 15, 20, 24]
    return [score for _, score, _ in found.track]


def test_what_is_scored_on_the_way_changes_nothing(graphs: list[SimulatedGraph]) -> None:
    """Normalisation's statistics are read between replays, and are of the model's memory."""
    seen = looked_at(True)
    assert seen == pytest.approx(looked_at(False), abs=0.03)
    assert len(set(seen)) > 2
    assert graphs[0].replays == STEPS - WARM_UP


class TwoSizes(Classification):
    """Every fourth batch is smaller."""

    def batches(self, recipe: Recipe, seed: int) -> Iterator[Any]:
        for i, (x, y) in enumerate(super().batches(recipe, seed)):
            n = 16 if i % 4 == 3 else 32
            yield x[:n], y[:n]


def test_batches_of_another_size_are_launched(graphs: list[SimulatedGraph]) -> None:
    one = trained(resnet, True, TwoSizes(made_up(), CPU))
    check_same(one, trained(resnet, False, TwoSizes(made_up(), CPU)))
    [graph] = graphs  # captured with the first batch after the warm-up, which is a smaller one
    assert 0 < graph.replays < STEPS - WARM_UP


class Kept(Classification):
    """The same few batches again and again."""

    def batches(self, recipe: Recipe, seed: int) -> Iterator[Any]:
        return cycle(list(islice(super().batches(recipe, seed), 5)))


def test_a_tasks_own_batches_are_not_written_to(graphs: list[SimulatedGraph]) -> None:
    one = trained(resnet, True, Kept(made_up(), CPU))
    check_same(one, trained(resnet, False, Kept(made_up(), CPU)))


class Asks(WithDropout):
    """Its host waits for a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return out if out.mean().item() < 1e9 else out + 1


def test_a_host_that_waits_for_a_value_launches_each_step_and_says_why(
    graphs: list[SimulatedGraph], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        one = trained(Asks, True)
    [said] = [record.getMessage() for record in caplog.records]
    assert said == (
        "trains without a CUDA graph, since its host waits: called a synchronizing CUDA operation"
    )
    assert graphs == []
    check_same(one, trained(Asks, False))


def test_a_capture_that_fails_ends_the_process_and_no_candidate(
    graphs: list[SimulatedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's random numbers and memory are broken after it; the worker is replaced, and what it
    lost is tried in a process of its own, without graphs."""
    monkeypatch.setattr(cuda_graph, "watched", lambda: contextlib.nullcontext([]))
    monkeypatch.setattr(cuda_graph, "_broken", [])
    evaluator = Evaluator(made_up(), child_from(asking), RECIPE, cuda_graphs=True)
    trial = Trial(1, "search", "relu(x)", evaluator.protocol_hash, 0)
    other = Evaluator(made_up(), child_from("mlp"), RECIPE)
    for evaluate in (evaluator, other):
        with pytest.raises(DeviceLostError, match=r"could not be captured .*use --cuda-graphs off"):
            evaluate(trial)
    monkeypatch.undo()
    monkeypatch.setenv(ALONE, "1")
    assert not can_be_captured(resnet(), torch.device("cuda"))
    monkeypatch.delenv(ALONE)
    assert can_be_captured(resnet(), torch.device("cuda"))
    assert not can_be_captured(resnet(), CPU)
    assert evaluator(trial).status == "ok"


def test_what_torch_says_of_its_own_mode_is_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so once a process, whose first child would be left without a graph."""
    prototype = (
        "Synchronization debug mode is a prototype feature and does not yet detect all "
        "synchronizing operations"
    )
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    say = partial(warnings.warn, stacklevel=2)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: say(prototype))
    with cuda_graph.watched() as waits:
        pass
    assert waits == []
    with cuda_graph.watched() as waits:
        say("called a synchronizing CUDA operation")
    assert waits == ["called a synchronizing CUDA operation"]


def test_an_outcome_says_how_its_steps_and_activations_were_computed(
    graphs: list[SimulatedGraph],
) -> None:
    def how(child: Any, formula: str = "relu(x)", **options: Any) -> dict[str, Any]:
        evaluator = Evaluator(made_up(), child_from(child), RECIPE, **options)
        details = evaluator(Trial(1, "search", formula, evaluator.protocol_hash, 0)).details
        return {name: details[name] for name in ("kernels", "steps") if name in details}

    small = "resnet8:width=4"
    assert how(small) == {"kernels": "generated"}
    assert how(small, kernels="eager") == {"kernels": "eager"}
    assert how(small, cuda_graphs=True) == {"kernels": "generated", "steps": "captured"}
    waits = "launched: called a synchronizing CUDA operation"
    assert how(asking, cuda_graphs=True)["steps"] == waits
    assert how(small, "exp(exp(exp(x * x)))", cuda_graphs=True)["kernels"] == "generated"


def asking(make_activation: Any, *, input_shape: Any, classes: int) -> nn.Module:
    network = Asks()
    network.layers[2] = make_activation(32)
    return network


def test_memory_that_runs_out_in_a_capture_is_said(
    graphs: list[SimulatedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(graph: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SimulatedGraph, "capture_begin", full)
    evaluator = Evaluator(made_up(), child_from("mlp"), RECIPE, cuda_graphs=True)
    outcome = evaluator(Trial(1, "search", "relu(x)", evaluator.protocol_hash, 0))
    assert outcome.status == "failed"
    assert outcome.reason.startswith("out of memory: ")
    assert outcome.cause is Cause.OUT_OF_MEMORY


def test_only_children_that_say_so_are_captured(graphs: list[SimulatedGraph]) -> None:
    class Other(WithDropout):
        capturable = False

    trained(Other, True)
    trained(WithDropout, False)
    assert graphs == []
    for name in ("resnet20", "preact_resnet", "wide_resnet", "densenet", "mlp", "cnn", "keras_cnn"):
        evaluator = Evaluator(made_up(), child_from(name), RECIPE)
        assert getattr(evaluator.build("relu(x)"), "capturable", False), name


# -- a GPU


@GPU
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("model", [resnet, partial(resnet, "generated"), WithDropout])
def test_a_gpu_replays_what_it_would_have_launched(model: Any, optimiser: str) -> None:
    task = Classification(made_up(), torch.device("cuda"))
    recipe = Recipe(**{**vars(RECIPE), "optimiser": optimiser, "lr": 0.01})
    check_same(trained(model, True, task, recipe), trained(model, False, task, recipe), rtol=1e-3)


@GPU
def test_a_gpu_says_that_a_host_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    task = Classification(made_up(), torch.device("cuda"))
    with caplog.at_level(logging.WARNING):
        trained(Asks, True, task)
    assert "trains without a CUDA graph" in caplog.text
    check_same(trained(resnet, True, task), trained(resnet, False, task), rtol=1e-3)
