"""Several trainings in one process compute what each would have computed alone."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import actsearch
from actsearch.child_models import turns
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training import cuda_graph
from actsearch.commands.search import SearchConfig
from actsearch.results.records import DeviceLostError, Outcome, Trial
from actsearch.search_space.kernels import cuda, fused
from actsearch.search_space.kernels.compiler import CompileError
from actsearch.search_space.kernels.tracing import trace
from actsearch.search_space.parser import parse
from actsearch.searching import reevaluation
from actsearch.searching.machinery import Machinery
from actsearch.searching.plan import make_plan
from actsearch.workers.executor import Beat, Evaluate, children_at_once

from .conftest import LIMIT, wait_until
from .test_cuda_graph import WithDropout, made_up
from .test_search import QUICK, small_net

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CPU = torch.device("cpu")
FORMULAS = ("relu(x)", "x * sigmoid(beta * x)", "max(x, sin(x))", "tanh(x) + x")


def with_dropout(make_activation: Any, *, input_shape: Any, classes: int) -> WithDropout:
    network = WithDropout()
    network.layers[2] = make_activation(32)
    return network


def check_as_alone(child: Any, rtol: float = 0.0, **options: Any) -> None:
    recipe = Recipe(steps=60, batch_size=32, lr=0.05)
    alone, shared = (
        Evaluator(made_up(), child_from(child), recipe, in_turns=in_turns, **options)
        for in_turns in (False, True)
    )
    trials = [Trial(i, "search", f, alone.protocol_hash, i) for i, f in enumerate(FORMULAS)]
    one_by_one = [alone(trial) for trial in trials]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(len(trials)) as pool:
        at_once = list(pool.map(shared, trials))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(one_by_one, at_once, strict=True):
        assert (a.status, b.status) == ("ok", "ok"), b.reason
        assert dict(b.curve) == pytest.approx(dict(a.curve), rel=rtol)
        assert b.val_score == pytest.approx(a.val_score, abs=0.05 * (rtol > 0))


class FakeGenerator:
    """States as torch's generators of GPUs have them: objects that can be put in their place."""

    def __init__(self) -> None:
        self.state = 0
        self.made = 0

    def graphsafe_get_state(self) -> int:
        return self.state

    def graphsafe_set_state(self, state: int) -> None:
        self.state = state

    def clone_state(self) -> int:
        self.made += 1
        return self.made


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The turn goes round at each wait; which threads had it."""
    had: list[int] = []

    def sleep(seconds: float) -> None:
        had.append(threading.get_ident())
        real(0.002)

    real = time.sleep
    monkeypatch.setattr(turns.time, "sleep", sleep)
    return had


@pytest.mark.parametrize("child", [with_dropout, "resnet8:width=4"])
def test_a_training_in_turns_is_the_training_alone(child: Any, handed_over: list[int]) -> None:
    check_as_alone(child)
    changes = sum(a != b for a, b in pairwise(handed_over))
    assert changes > 20


def test_one_at_a_time_has_the_turn_and_each_its_own_random_numbers() -> None:
    inside: list[int] = []
    drawn: dict[int, list[float]] = {}

    def work(seed: int) -> None:
        with turns.taking_turns(CPU):
            torch.manual_seed(seed)
            for _ in range(50):
                inside.append(seed)
                assert inside == [seed]
                drawn.setdefault(seed, []).append(torch.rand(()).item())
                inside.remove(seed)
                turns.wait()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for seed, values in drawn.items():
        torch.manual_seed(seed)
        assert values == [torch.rand(()).item() for _ in range(50)]


def test_seconds_are_counted_in_which_others_have_the_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not those in which a thread waits for its own stream."""
    monkeypatch.setattr(turns, "_globals", lambda device: [torch.get_rng_state()])
    monkeypatch.setattr(turns, "_begin", lambda outside, device: None)
    monkeypatch.setattr(turns, "_set_globals", lambda values, device: None)
    event = SimpleNamespace(record=lambda stream: None, synchronize=lambda: time.sleep(1.0))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)

    def work(steps: int) -> float:
        before = turns.waited()
        with turns.taking_turns(torch.device("cuda")):
            for _ in range(steps):
                turns.wait()
        return turns.waited() - before

    assert work(1) < 0.5
    with turns.taking_turns(CPU), ThreadPoolExecutor(1) as pool:
        other = pool.submit(work, 1)
        wait_until(lambda: bool(turns._turn._waiting), "that the other thread waits")
        time.sleep(0.5)
        turns._turn.release()
        assert 0.5 <= other.result() < 1.4
        turns._turn.acquire()


def taking(beats: int, seconds: float) -> Evaluate:
    """A child that works for so many `seconds` between its beats."""

    def evaluate(trial: Trial, beat: Beat) -> Outcome:
        with turns.taking_turns(CPU):
            for step in range(beats):
                time.sleep(seconds)
                turns.wait()
                beat(step)
        return Outcome("ok", val_score=0.5)

    return evaluate


@pytest.mark.parametrize(("timeout", "status"), [(1.5, "ok"), (0.2, "timed_out")])
def test_only_its_own_turns_count_for_the_timeout_of_a_child(timeout: float, status: str) -> None:
    """Six children, each of which works for half a second."""
    machinery = Machinery(executor="inline", children_per_worker=6, timeout=timeout)
    executor = machinery.start(taking(10, 0.05))
    try:
        begun = time.monotonic()
        for i in range(6):
            executor.submit(Trial(i, "search", "x", "", 0))
        found: list[Outcome] = []
        while len(found) < 6:
            found += [outcome for _, outcome in executor.completed(1.0)]
    finally:
        executor.close()
    assert [outcome.status for outcome in found] == [status] * 6
    if status == "ok":
        assert time.monotonic() - begun > 3.0
    else:
        assert all(0.2 < outcome.seconds < 0.8 for outcome in found)


def test_others_have_the_turn_while_a_kernel_for_a_gpu_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, done = threading.Event(), threading.Event()

    class Slow:
        def compile(self, source: cuda.Source, element: str) -> None:
            begun.set()
            assert done.wait(60)
            raise CompileError("which the launch will find as well")

    monkeypatch.setattr("actsearch.child_models.evaluate.builders", Slow)
    source = cuda.source(trace(parse("sin(x)"), "guarded"), "flat")

    def compiling() -> tuple[float, float]:
        with turns.taking_turns(CPU):
            torch.manual_seed(1)
            before = torch.rand(()).item()
            assert fused.compile_first is not None
            fused.compile_first(source, "float32")
            return before, torch.rand(()).item()

    def another() -> None:
        assert begun.wait(60)
        with turns.taking_turns(CPU):
            torch.manual_seed(2)
            done.set()

    with ThreadPoolExecutor(2) as pool:
        drawn, _ = pool.submit(compiling), pool.submit(another).result()
    torch.manual_seed(1)
    assert drawn.result() == (torch.rand(()).item(), torch.rand(()).item())
    assert fused.compile_first is not None
    fused.compile_first(source, "float32")  # without turns nobody waits, and nothing is done


def test_the_turn_is_given_back_whatever_happens() -> None:
    with pytest.raises(ZeroDivisionError), turns.taking_turns(CPU):
        turns.wait()
        _ = 1 / 0
    with turns.taking_turns(CPU):
        pass
    turns.wait()  # out of turn: nothing to give


def test_precision_of_a_gpu_goes_with_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two trainings with different precisions, each has its own after each wait."""
    device = torch.device("cuda")
    states = FakeGenerator()
    monkeypatch.setattr(turns, "_generator", lambda device: states)
    event = SimpleNamespace(record=lambda stream: None, synchronize=lambda: time.sleep(0.002))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    before = torch.backends.cudnn.allow_tf32

    def work(allowed: bool) -> int | None:
        with turns.taking_turns(device):
            torch.backends.cudnn.allow_tf32 = allowed
            state = states.state
            for _ in range(20):
                turns.wait()
                if torch.backends.cudnn.allow_tf32 != allowed or states.state != state:
                    return None
            return state

    with ThreadPoolExecutor(2) as pool:
        used = list(pool.map(work, (True, False)))
    assert sorted(map(bool, used)) == [True, True]
    assert len({0, *used}) == 3  # states of their own, which are not the one outside
    assert states.state == 0
    assert torch.backends.cudnn.allow_tf32 == before


def test_whoever_waits_longest_has_the_next_turn() -> None:
    turn, had = turns._Turn(), []

    def work(number: int) -> None:
        turn.acquire()
        had.append(number)
        turn.release()

    turn.acquire()
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(work, number)
            while len(turn._waiting) <= number:
                time.sleep(0.002)
        turn.release()
    assert had == [*range(8)]
    turn.acquire()  # nobody has it


def test_a_gpu_that_is_gone_is_said_whatever_fails_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = RuntimeError("CUDA error: an illegal memory access was encountered")

    class Stream:
        def __init__(self, *_: Any) -> None: ...

        def wait_stream(self, other: Any) -> None:
            if lost:
                raise gone

    class Generator(FakeGenerator):
        def graphsafe_set_state(self, state: int) -> None:
            if lost:
                raise gone

    lost: list[bool] = []
    generator = Generator()
    monkeypatch.setattr(turns, "_generator", lambda device: generator)
    monkeypatch.setattr(cuda_graph, "_thread", threading.local())  # which keeps a stream
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    device = torch.device("cuda")
    with (
        pytest.raises(DeviceLostError, match="the GPU is gone"),
        turns.taking_turns(device),
        cuda_graph.own_stream(device),
    ):
        lost.append(True)
        raise DeviceLostError("the GPU is gone")
    with turns.taking_turns(CPU):
        pass
    assert turns._outside == []


@pytest.mark.parametrize("children", [None, "auto", 1, 3])
def test_children_at_once_are_asked_for_and_are_no_part_of_what_a_search_is(
    children: Any, tmp_path: Any
) -> None:
    options: dict[str, Any] = {"run": str(tmp_path / "r"), "space": "tiny"}
    plan = make_plan(SearchConfig(**options, children_per_worker=children))
    assert plan.evaluator.in_turns == (children != 1)
    assert plan.evaluator.protocol == make_plan(SearchConfig(**options)).evaluator.protocol
    with pytest.raises(ValueError, match="--children-per-worker 0 is too small; use 1 or more"):
        SearchConfig(**options, children_per_worker=0)


@pytest.mark.parametrize(
    ("gpu", "share", "children"),
    [(False, 0.0, 1), (True, 1.0, 8), (True, 1 / 2, 4), (True, 1 / 3, 2), (True, 1 / 16, 1)],
)
def test_several_are_trained_at_once_where_a_worker_has_that_much_of_a_gpu(
    gpu: bool, share: float, children: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, which has its GPU for itself, eight."""
    assert children_at_once(share) == children
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    executor = Machinery(executor="inline").start(lambda trial, beat: Outcome("ok"))
    assert executor.free == (8 if gpu else 1)
    executor.close()


def test_what_is_evaluated_again_takes_turns_whatever_its_search_did(
    tmp_path: Path, blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def looked_at(run: Any, store: Any, trials: Any, evaluators: Any, machinery: Any, *rest: Any):
        made.extend(evaluator.in_turns for evaluator in evaluators)
        assert machinery.in_turns == made[-1]
        return train(run, store, trials, evaluators, machinery, *rest)

    train = reevaluation.train
    monkeypatch.setattr(reevaluation, "train", looked_at)
    options: dict[str, Any] = {"dataset": blobs, "child": small_net}
    run = actsearch.search(tmp_path / "r", budget=1, children_per_worker=1, **options, **QUICK)
    actsearch.reevaluate(run, top=1, seeds=1, executor="inline", quiet=True, **options)
    actsearch.reevaluate(
        run, top=1, seeds=2, executor="inline", quiet=True, children_per_worker=1, **options
    )
    assert made == [True, False]


def test_a_search_with_children_at_once_has_the_results_of_one_by_one(
    tmp_path: Path, blobs: Any
) -> None:
    """And they are trained in this process by as many threads as were asked for."""
    config = SearchConfig(executor="inline", children_per_worker=3)
    executor = Machinery.of(config).start(lambda trial, beat: Outcome("ok"))
    assert executor.description == "this process, 3 children at once"
    assert executor.free == 3
    executor.close()
    options: dict[str, Any] = {"space": "tiny", "strategy": "random", "budget": 12, **QUICK}
    options |= {"dataset": blobs, "child": small_net}
    one, other = (
        actsearch.search(tmp_path / str(n), children_per_worker=n, **options) for n in (1, 3)
    )
    results = [
        sorted((e.formula, e.status, repr(e.val_score)) for e in run.leaderboard())
        for run in (one, other)
    ]
    assert len(results[0]) >= 14
    assert results[0] == results[1]


def test_what_fails_while_others_have_the_turn_leaves_its_own_random_numbers() -> None:
    go, done = threading.Event(), threading.Event()

    def failing() -> float:
        with turns.taking_turns(CPU):
            torch.manual_seed(1)
            with contextlib.suppress(RuntimeError), turns.released():
                go.set()
                done.wait(LIMIT)
                raise RuntimeError
            return torch.rand(()).item()

    def other() -> None:
        go.wait(LIMIT)
        with turns.taking_turns(CPU):
            torch.manual_seed(2)
            done.set()
            while not turns._turn.wanted:
                time.sleep(0.001)
            turns.pass_on()

    with ThreadPoolExecutor(2) as pool:
        drawn = pool.submit(failing)
        pool.submit(other).result()
    torch.manual_seed(1)
    assert drawn.result() == torch.rand(()).item()


@GPU
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("child", [with_dropout, "resnet8:width=4"])
def test_on_a_gpu_a_training_in_turns_is_the_training_alone(child: Any, cuda_graphs: bool) -> None:
    check_as_alone(child, 1e-3, cuda_graphs=cuda_graphs)
