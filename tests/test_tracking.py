"""A search in TensorBoard, Weights & Biases and MLflow: what each shows, read back from what its
package has written, and what their failures cost the search."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actsearch
from actsearch.cli import main
from actsearch.errors import ENVIRONMENT
from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.survey import describe
from actsearch.searching.identity import Level, submit_candidate
from actsearch.searching.progress import Progress
from actsearch.searching.tracking import tracking
from actsearch.searching.tracking.trackers import TRACKERS
from actsearch.searching.tracking.trackers import Row as TrackerRow
from actsearch.searching.tracking.tracking import (
    TRAINED,
    TRIAL,
    Known,
    Row,
    Rows,
    Tracked,
    Tracking,
    Training,
    identifier_of,
)

from .conftest import LIMIT, wait_until
from .test_callbacks import PPO, finished, searched

SPACE = "units=1;unary=identity,relu,tanh;binary=add,mul"
QUICK: dict[str, Any] = {"space": SPACE, "executor": "inline", "quiet": True, "steps": 20}
TABLE = [
    {"rank": 1, "formula": "x + tanh(x)", "smooth": True},
    {"rank": None, "formula": "x", "smooth": None},
]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of their dependencies

Scalars = dict[str, list[tuple[int, float]]]


@dataclass
class Shown:
    """What a tracker shows of one search."""

    scalars: Scalars
    settings: Mapping[str, Any]
    table: Sequence[Mapping[str, Any]] = ()


# -- what each package has written, read back


def of_tensorboard(run: Path) -> Shown:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = {t: [(e.step, e.value) for e in found.Scalars(t)] for t in found.Tags()["scalars"]}
    [event] = found.Tensors("settings/text_summary")
    lines = event.tensor_proto.string_val[0].decode().splitlines()[2:]
    return Shown(scalars, dict(line.strip("| ").split(" | ") for line in lines))


def of_wandb(run: Path) -> Shown:
    [folder] = (run / "wandb").glob("offline-run-*")  # and no second one
    [file] = folder.glob("run-*.wandb")
    shown, config = Shown({}, {}), {}
    records: list[Any] = []

    def whole() -> bool:  # W&B's process writes on for some milliseconds after it has said so
        records[:] = records_of_wandb(file.read_bytes())
        return any(record.WhichOneof("record_type") == "exit" for record in records)

    wait_until(whole, "the end of W&B's file")
    for record in records:
        if record.WhichOneof("record_type") == "run":
            config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
        row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json)
               for i in record.history.item}  # fmt: skip
        axis = next((axis for axis in ("trained", "proposals") if axis in row), None)
        for name, value in row.items():
            if axis and "/" in name:
                shown.scalars.setdefault(name, []).append((row[axis], value))
        if "ranking/path" in row:
            table = json.loads((folder / "files" / row["ranking/path"]).read_text())
            shown.table = [dict(zip(table["columns"], r, strict=True)) for r in table["data"]]
    shown.settings = config
    return shown


def records_of_wandb(data: bytes) -> Iterator[Any]:
    """Records of W&B's protobuf in their log, in the format of LevelDB: blocks of 32 KiB, and in
    them pieces behind a header of seven bytes, checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2 as protobuf

    place, record = 7, b""  # behind a header of the file
    while place + 7 <= len(data):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found = protobuf.Record()
            found.ParseFromString(record)
            yield found
            record = b""


def of_mlflow(run: Path) -> Shown:
    import mlflow

    client = mlflow.MlflowClient(mlflow_uri(run))
    experiment = client.get_experiment_by_name("actsearch")
    assert experiment is not None
    [found] = client.search_runs([experiment.experiment_id])  # and no second one
    names = found.data.metrics
    scalars = {
        name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
        for name in names
    }
    tags = {k.removeprefix("now."): v for k, v in found.data.tags.items()}
    shown = Shown(scalars, found.data.params | {k: tags[k] for k in found.data.params if k in tags})
    if any(a.path == "top.csv" for a in client.list_artifacts(found.info.run_id)):
        import pandas as pd

        top = client.download_artifacts(found.info.run_id, "top.csv", str(run))
        shown.table = pd.read_csv(top).to_dict("records")
    return shown


def mlflow_uri(run: Path) -> str:
    return f"sqlite:///{run.parent}/mlflow.db"


READERS: dict[str, Callable[[Path], Shown]] = {
    "tensorboard": of_tensorboard,
    "wandb": of_wandb,
    "mlflow": of_mlflow,
}


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make the tables of a new database."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    mlflow.MlflowClient(mlflow_uri(folder / "run"))
    return folder / "mlflow.db"


@pytest.fixture(params=TRACKERS)
def tracker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of each tracker whose package is installed, in turn, offline."""
    name = request.param
    package = TRACKERS[name].package
    pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    if name == "mlflow":
        shutil.copy(request.getfixturevalue("empty_mlflow"), tmp_path / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri(tmp_path / "run"))
    return name


def tracked(run: Path, settings: Mapping[str, Any] | None = None) -> Tracked:
    run.mkdir(exist_ok=True)
    return Tracked(run, identifier_of(run), settings or {"seed": 0, "budget": None}, ACCURACY)


def tracking_by(name: str, run: Path, store: Store, **settings: Any) -> Tracking:
    said: list[str] = []
    made = Tracking([name], tracked(run, settings), store, PPO, said.append)
    wait_until(lambda: said, f"{name} opens")
    assert said[0].startswith("tracked"), said
    return made


# -- what they show


def test_each_shows_a_step_for_each_training(store: Store, tmp_path: Path, tracker: str) -> None:
    store.set_beside({"relu(x)": False})
    run = tmp_path / "run"
    told = tracking_by(tracker, run, store, seed=0, budget=None, baselines=["gelu", "mish"])
    searched(store, [told], budget=30)
    told.whole = True
    assert told.end(TABLE) == []
    shown, rows = READERS[tracker](run), finished(store)
    found = shown.scalars
    assert found["search/seconds"] == [(n, row["seconds"]) for n, row in enumerate(rows, 1)]
    assert found[TRIAL] == [(n, row["id"]) for n, row in enumerate(rows, 1)]
    scores = [(n, row["val_score"]) for n, row in enumerate(rows, 1) if row["val_score"]]
    mine = [(n, score) for n, score in scores if rows[n - 1]["label"] != "relu"]
    assert found["search/val_accuracy"] == pytest.approx(np.array(mine))
    best = [(n, max(s for m, s in mine if m <= n)) for n, _ in mine]
    assert found["search/best"] == pytest.approx(np.array(best))
    [relu] = [pair for pair in scores if rows[pair[0] - 1]["label"] == "relu"]
    assert found["baselines/relu"] == pytest.approx(np.array([relu]))
    diverged = [n for n, row in enumerate(rows, 1) if row["status"] == "diverged"]
    assert found["failures/diverged"] == [(n, k) for k, n in enumerate(diverged, 1)]
    health = store.health(PPO)
    assert len(health) >= 4
    for name in ("reward", "entropy", "KL", "repeats"):
        expected = [(h["proposals"], h[name]) for h in health]
        assert found[f"strategy/{name}"] == pytest.approx(np.array(expected), rel=1e-5), name
    assert str(shown.settings["seed"]) == "0"
    assert str(shown.settings["baselines"]) in ("gelu, mish", "['gelu', 'mish']")
    assert "budget" not in shown.settings
    if tracker != "tensorboard":
        assert (shown.settings["metric"], shown.settings["direction"]) == ("accuracy", "higher")
        assert [row["formula"] for row in shown.table] == ["x + tanh(x)", "x"]


def test_what_a_killed_session_left_is_shown_once_and_without_gaps(
    store: Store, tmp_path: Path, tracker: str
) -> None:
    run = tmp_path / "run"
    for die_at in (1, 4, 3):
        left = die_at

        def die(trial: Trial, outcome: Outcome, progress: Progress) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        told = tracking_by(tracker, run, store, budget=die_at)
        with pytest.raises(KeyboardInterrupt):  # stored, and not yet told to the tracker
            searched(store, [die, told], budget=20)
        assert told.end(()) == []
    told = tracking_by(tracker, run, store, budget=20)
    searched(store, [told], budget=20)
    told.whole = True
    assert told.end(TABLE) == []
    unbroken = Memory()
    rows = Rows(tracked(run), {})
    for training in rows.in_order(tracking._finished(store)):
        unbroken.write(rows.of_training(training))
    for numbers in store.health(PPO):
        unbroken.write(rows.of_strategy(numbers))
    shown = READERS[tracker](run)
    trained = len(finished(store))
    assert trained >= 20
    assert [step for step, _ in shown.scalars[TRIAL]] == [*range(1, trained + 1)]
    assert shown.scalars.keys() == unbroken.scalars.keys()
    for name, values in unbroken.scalars.items():
        assert shown.scalars[name] == pytest.approx(np.array(values), rel=1e-5), name
    assert str(shown.settings["budget"]) == "20"


DIE = """
import os, signal, sys
import actsearch
sys.path.insert(0, {here!r})
from tests.test_tracking import QUICK, READERS, blobs_of, net, wait_until

def die(trial, outcome, progress):
    if sum(progress.counts.values()) - progress.counts["rejected"] == 3:
        if {name!r} == "mlflow":  # its requests take longer than the trainings
            from pathlib import Path
            wait_until(lambda: "tracked" in Path({run!r}, "run.log").read_text())
        os.kill(os.getpid(), signal.SIGKILL)

actsearch.search({run!r}, child=net, dataset=blobs_of(0), budget=5, track={name!r},
                 callbacks=[die], **QUICK)
"""


def blobs_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(300) % 3
    return (rng.normal(size=(300, 4)) + 3 * y[:, None]).astype(np.float32), y


def net(make_activation: Any) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(4, 8), make_activation(8), nn.Linear(8, 3))


def test_a_search_whose_driver_was_killed_goes_on_in_each(tmp_path: Path, tracker: str) -> None:
    run = tmp_path / "run"
    here = str(Path(__file__).parent.parent)
    script = DIE.format(here=here, run=str(run), name=tracker)
    # A process of W&B that this one has started would outlive the driver that is killed.
    alone = {k: v for k, v in os.environ.items() if "WANDB_SERVICE" not in k}
    killed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=LIMIT, env=alone
    )
    assert killed.returncode == -9, killed.stderr
    again: dict[str, Any] = {"child": net, "dataset": blobs_of(0), **QUICK}
    actsearch.search(run, budget=5, **again)  # without a tracker
    actsearch.search(run, budget=6, track=[tracker], **again)
    shown = READERS[tracker](run)
    assert [step for step, _ in shown.scalars["search/seconds"]] == [*range(1, 10)]
    seconds = [row["seconds"] for row in finished(actsearch.Run.open(run).store(readonly=True))]
    assert [s for _, s in shown.scalars["search/seconds"]] == pytest.approx(seconds)
    assert shown.scalars["baselines/swish"]
    assert shown.scalars["baselines/identity"]
    assert not {"track", "tensorboard"} & actsearch.Run.open(run).config["settings"].keys()
    if tracker != "tensorboard":
        assert len(shown.table) == len(actsearch.Run.open(run).leaderboard())
    assert "left out" not in (run / "run.log").read_text()


# -- what is told, by a tracker in memory


@dataclass
class Memory:
    """As MLflow's server: it keeps what it was told, and says so to the next session."""

    scalars: Scalars = field(default_factory=dict)
    place: str = "memory"
    tables: list[Any] = field(default_factory=list)

    def known(self) -> Known:
        return {(name, s): v for name, values in self.scalars.items() for s, v in values}

    def write(self, row: Row) -> None:
        for name, value in row.numbers.items():
            self.scalars.setdefault(name, []).append((row.step, value))

    def flush(self) -> None:
        pass

    def end(self, table: Sequence[Any], *, whole: bool) -> None:
        self.tables.append((table, whole))


@pytest.fixture
def make_tracker(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """A function that puts a tracker `mine` into the table, which it makes by what it is given."""

    def use(make: Callable[[Tracked], Any]) -> None:
        monkeypatch.setattr(tracking, "load", lambda home: make)
        monkeypatch.setattr(tracking, "TRACKERS", {"mine": TrackerRow("", "", "Mine")})

    return use


def training(trial: int, finished: float, score: float | None = 0.5, **fields: Any) -> Training:
    status = "ok" if score is not None else "diverged"
    told = {"label": "", "beside": False, **fields}
    return Training(trial, f"f{trial}", told["label"], told["beside"], status, score, 1.0, finished)


def test_a_step_is_known_by_its_trial_wherever_a_merged_run_has_put_others(tmp_path: Path) -> None:
    """Trainings of another machine, which finished earlier, come behind what is shown already."""
    memory, search = Memory(), tracked(tmp_path / "run")
    first = [training(1, 10.0, 0.4), training(2, 20.0, 0.6)]
    rows = Rows(search, memory.known())
    for one in rows.in_order(first):
        memory.write(rows.of_training(one))
    merged = [training(7, 5.0, 0.5), *first, training(9, 15.0, None)]
    rows = Rows(search, memory.known())
    for one in rows.in_order(merged):
        memory.write(rows.of_training(one))
    assert memory.scalars[TRIAL] == [(1, 1), (2, 2), (3, 7), (4, 9)]
    assert memory.scalars["search/val_accuracy"] == [(1, 0.4), (2, 0.6), (3, 0.5)]
    assert memory.scalars["search/best"] == [(1, 0.4), (2, 0.6), (3, 0.6)]
    assert memory.scalars["failures/diverged"] == [(4, 1)]


def test_a_step_that_was_half_written_is_completed(tmp_path: Path) -> None:
    rows = Rows(tracked(tmp_path / "run"), {(TRIAL, 1): 4.0, ("search/seconds", 1): 1.0})
    row = rows.of_training(training(4, 1.0, 0.25))
    assert (row.axis, row.step) == (TRAINED, 1)
    assert row.numbers == {"search/val_accuracy": 0.25, "search/best": 0.25}


def test_a_score_of_which_less_is_better_has_its_least_as_the_best(tmp_path: Path) -> None:
    search = Tracked(tmp_path, "i", {}, Metric("bits per byte", "lower"))
    rows = Rows(search, {})
    found = [rows.of_training(training(i, i, s)).numbers for i, s in enumerate((2.0, 1.5, 1.7), 1)]
    assert [numbers["search/val_bits_per_byte"] for numbers in found] == [2.0, 1.5, 1.7]
    assert [numbers["search/best"] for numbers in found] == [2.0, 1.5, 1.5]


def test_names_are_such_as_every_tracker_takes(tmp_path: Path) -> None:
    rows = Rows(tracked(tmp_path / "run"), {})
    one = training(1, 1.0, 0.5, label="x * sigmoid(1.7*x)", beside=True)
    assert "baselines/x___sigmoid_1.7_x_" in rows.of_training(one).numbers


def test_a_run_keeps_its_identifier_where_it_is_moved_to(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = identifier_of(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert identifier_of(tmp_path / "b") == first
    (tmp_path / "a").mkdir()
    assert identifier_of(tmp_path / "a") != first


@pytest.mark.parametrize("where", ["open", "known", "write", "end"])
def test_a_tracker_that_fails_is_said_once_and_costs_the_search_nothing(
    where: str, store: Store, tmp_path: Path, make_tracker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Memory):
        def fail(self, place: str) -> None:
            if where == place:
                raise ConnectionError("no route to host.\nand more lines")

        def __init__(self) -> None:
            super().__init__()
            self.fail("open")

        def known(self) -> Known:
            self.fail("known")
            return {}

        def write(self, row: Row) -> None:
            self.fail("write")

        def end(self, table: Any, *, whole: bool) -> None:
            self.fail("end")

    make_tracker(lambda search: Broken())
    said: list[str] = []
    told = Tracking(["mine"], tracked(tmp_path / "run"), store, PPO, said.append)
    searched(store, [told], budget=8, strategy="random")
    [note] = told.end(TABLE)
    assert note.startswith("Mine was left out: no route to host. The search has lost nothing")
    assert said.count(note) == 1
    assert [r.getMessage() for r in caplog.records].count(note) == 1
    assert len(finished(store)) == 9


def test_a_search_does_not_wait_for_a_tracker_that_hangs(
    store: Store, tmp_path: Path, make_tracker: Any
) -> None:
    gone = threading.Event()
    make_tracker(lambda search: gone.wait() and Memory())
    told = Tracking(["mine"], tracked(tmp_path / "run"), store, PPO, lambda line: None)
    try:
        searched(store, [told], budget=8, strategy="random")
        start = time.monotonic()
        [note] = told.end(TABLE, seconds=0.2)
        assert time.monotonic() - start < 0.2 + LIMIT / 10
        assert "had not taken all that it was told" in note
        assert len(finished(store)) == 9
    finally:
        gone.set()


def test_the_strategys_last_word_is_told_when_it_is_final(
    store: Store, tmp_path: Path, make_tracker: Any
) -> None:
    """Until the search has ended its last row may change, and a server keeps what it was told."""
    memory = Memory()
    make_tracker(lambda search: memory)
    for at, whole in ((8, False), (16, False), (16, True)):
        store.save_health(PPO, at, {"reward": at / 100})
        told = Tracking(["mine"], tracked(tmp_path / "run"), store, PPO, lambda line: None)
        told.whole = whole
        assert told.end(()) == []
        expected = [(n, n / 100) for n in (8, 16) if n < at or whole]
        assert memory.scalars.get("strategy/reward", []) == expected
    assert [whole for _, whole in memory.tables] == [False, False, True]


def test_rungs_and_rejected_functions_are_no_steps(
    store: Store, tmp_path: Path, make_tracker: Any
) -> None:
    memory = Memory()
    make_tracker(lambda search: memory)
    candidate = describe(candidate_from("tanh(x)"))
    rung = submit_candidate(store, candidate, Level("rung", "p"), 0)
    told = Tracking(["mine"], tracked(tmp_path / "run"), store, PPO, lambda line: None)
    told(rung, Outcome("ok", val_score=0.5), Progress("t", "w", None))
    told.end(())
    assert memory.scalars == {}


# -- how they are asked for


def test_trackers_are_said_by_commas_and_more_than_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actsearch.searching.plan.check_installed", lambda names: None)
    monkeypatch.chdir(tmp_path)
    for said in (
        ["--track", "wandb", "--track", "mlflow,tensorboard"],
        ["--track=wandb,mlflow", "--tensorboard"],
        ["--tensorboard", "--track", "tensorboard"],
    ):
        assert main(["search", "--executor", "inline", *said, "run", "--dry-run"]) == 0
        [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith("tracked")]
        names = [row.title for row in TRACKERS.values()]
        assert sorted(line.removeprefix("tracked    ").split(", ")) == sorted(
            names if "wandb" in " ".join(said) else ["TensorBoard"]
        )
    assert main(["search", "--track", "wandbb", "--dry-run"]) == 2
    assert "unknown --track 'wandbb'; did you mean 'wandb'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", TRACKERS)
def test_without_the_package_the_search_says_so_before_it_trains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though there is a folder of that name, as such packages leave them."""
    package = TRACKERS[name].package
    found = [m for m in sys.modules if m == package or m.startswith(f"{package}.")]
    for module in found:
        monkeypatch.delitem(sys.modules, module)
    elsewhere = [p for p in sys.path if not (Path(p) / package / "__init__.py").exists()]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    (tmp_path / package).mkdir()
    code = main(["search", str(tmp_path / "run"), "--track", name, "--executor", "inline"])
    assert code == ENVIRONMENT
    assert f"--track {name} needs the package {package}, which is not installed: " in (
        said := capsys.readouterr().err
    )
    assert f"pip install {package}" in said
    assert not (tmp_path / "run").exists()
