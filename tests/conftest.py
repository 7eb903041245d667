"""The tables that the tests iterate over, and what is shared by a test session: one Ray."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.space import SPACES, Space, space_from
from actsearch.searching.ray_actors import QueueActor, WorkerActor
from actsearch.workers.executor import Evaluate, Executor, InlineExecutor
from actsearch.workers.thread_executor import ThreadExecutor

# With `pytest -n 2` a file's tests run in one process. These files share two: one where commands
# start a Ray of their own, one with the Ray of the session.
GROUPS = {
    "commands": {"test_chaos", "test_cli", "test_versions"},
    "ray": {
        "test_cluster",
        "test_executors",
        "test_host_faults",
        "test_objectives",
        "test_ready",
        "test_survival",
    },
}
GROUP_OF = {file: group for group, files in GROUPS.items() for file in files}
# What takes longest, longest first: it also begins first, or one process would be left with it.
DEAREST = (
    "ray", "commands", "test_report", "test_gpu_compile", "test_kernels", "test_export",
    "test_documented_commands", "test_children", "test_checkpoints", "test_benchmarks",
    "test_search", "test_strategies", "test_replay", "test_hostile_text", "test_turns",
)  # fmt: skip

LIMIT = 300.0  # seconds that a busy machine may take for what takes one or two on a quiet one

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # what tests expect is what processors compute
os.environ.setdefault("RAY_worker_niceness", "0")  # of 15 by default: whoever computes goes first
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # two processes with a thread for each core are slower than one


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--libraries",
        action="store_true",
        help="fail, instead of skip, where a library is not installed",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    missing = call.excinfo is not None and "not installed" in str(call.excinfo.value)
    if report.skipped and missing and item.config.getoption("--libraries"):
        report.outcome = "failed"
    return report


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # torch and some thousand tests, which each full collection would walk through


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # by numbers of tests, which say little
        config.option.loadscopereorder = False
    if not os.environ["CUDA_VISIBLE_DEVICES"] and torch.cuda.is_available():
        raise pytest.UsageError(
            "the GPU was in use before the tests could hide it, and is half hidden now; set "
            "CUDA_VISIBLE_DEVICES to nothing, to test on the processor, or to the number of a GPU"
        )


@pytest.hookimpl(tryfirst=True)  # xdist writes the groups into the tests' names
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def group(item: pytest.Item) -> str:
        return GROUP_OF.get(item.path.stem, item.path.stem)

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {name: i for i, name in enumerate(DEAREST)}
        items.sort(key=lambda item: place.get(group(item), len(place)))


SMALL: Space = space_from("units=1;unary=identity,relu,sigmoid;binary=add,mul")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """One local Ray with two CPUs; Ray ends with the test session."""
    import ray

    # Ray's socket paths must be short, and pytest's temporary folders are not.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
        os.environ.pop("RAY_AUTH_MODE", None)
        yield ray
        ray.shutdown()


def ray_executor(evaluate: Evaluate, workers: int = 1, **options: Any) -> Executor:
    """Each worker is a process, whose start is a second of a processor's time."""
    from actsearch.workers.ray_executor import RayExecutor

    classes: dict[str, Any] = {"queue_class": QueueActor, "worker_class": WorkerActor}
    return RayExecutor(evaluate, workers=workers, **classes, **options)


def two_workers(evaluate: Evaluate, **options: Any) -> Executor:
    return ray_executor(evaluate, workers=2, **options)


def threads_of_one_worker(evaluate: Evaluate, **options: Any) -> Executor:
    return ray_executor(evaluate, children=2, **options)


def threads(evaluate: Evaluate, **options: Any) -> Executor:
    return ThreadExecutor(evaluate, 2, **options)


EXECUTORS: dict[str, Callable[..., Executor]] = {
    "inline": InlineExecutor,
    "threads": threads,
    "ray": two_workers,
    "ray threads": threads_of_one_worker,
}


DEAR_EXECUTORS = {"ray threads"}  # beside the tests that name it


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in DEAR_EXECUTORS else [])
        for name in EXECUTORS
    ]
)
def make_executor(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Executor]]:
    """Each executor in turn, with options, closed after the test."""
    if "ray" in request.param:
        request.getfixturevalue("ray_session")
    made: list[Executor] = []

    def make(evaluate: Evaluate, **options: Any) -> Executor:
        made.append(EXECUTORS[request.param](evaluate, **options))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


SPACES_OF_KINDS: dict[str, Space] = {
    "small": SMALL,
    "tiny": SPACES["tiny"],
    "three-units": SPACES["three-units"],
    "groups": space_from("groups=3;tiny"),
    "gates": SPACES["gates-two"],
    "functions and gates": space_from("tiny+gates"),
    "constants": SPACES["modern-two"],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store with the protocol `p`."""
    opened = Store(tmp_path / "run.sqlite", create=True)
    opened.add_protocol("p", {"child": "stub"})
    yield opened
    opened.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the evaluator has it: threads that wait for each other on small tensors take minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def case(name: object) -> Iterator[None]:
    """One case of many in a test: what fails within says which. A test of pytest for each costs
    some milliseconds, which is more than many a case."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case {name}")
        raise


def wait_until(condition: Callable[[], Any], what: str = "it") -> None:
    """Returns as soon as the condition holds; fails after LIMIT seconds, a bound that no test of a
    working product comes near."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {LIMIT:g} s"
        time.sleep(0.02)


def ok(accuracy: float, **fields: Any) -> Outcome:
    return Outcome("ok", val_score=accuracy, **fields)


def trial(number: int, expression: str = "relu(x)", seed: int = 0) -> Trial:
    return Trial(number, "search", expression, "p", seed)


@pytest.fixture(scope="session")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """400 points in 8 dimensions, three classes that a small network can tell apart."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 3
    centres = rng.normal(size=(3, 8))
    return (centres[y] + 0.3 * rng.normal(size=(400, 8))).astype(np.float32), y
