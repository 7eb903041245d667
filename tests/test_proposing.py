"""Functions that are proposed from beside the strategy, by `propose` and by `--start`, and what is
left of them after any death."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import shlex
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

import actsearch
from actsearch import cli, errors
from actsearch.controller.strategies import strategy_from
from actsearch.errors import NoCandidateError, UsageError
from actsearch.results.metrics import ACCURACY
from actsearch.results.records import HostError, Outcome, Trial
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.search_space.baselines import FORMS
from actsearch.search_space.candidate import candidate_from
from actsearch.searching.external import External
from actsearch.searching.identity import Candidates, Level
from actsearch.searching.inbox import Inbox
from actsearch.searching.loop import run_trials
from actsearch.searching.progress import Progress
from actsearch.searching.proposals import Proposals
from actsearch.searching.sources import StrategySource, asking
from actsearch.workers.executor import Beat, InlineExecutor

from .conftest import SMALL, wait_until

Arrays = tuple[np.ndarray, np.ndarray]
QUICK: dict[str, Any] = {"executor": "inline", "kernels": "eager", "quiet": True, "steps": 2}
FEW = "units=1;unary=identity,tanh;binary=add,mul"
BEYOND = "sin(x)", "atan(x)", "x * cos(x)", "erf(x)"  # SMALL has none of them


def put(folder: Path, formulas: Iterable[str]) -> None:
    Inbox(Run(folder)).put([*map(candidate_from, formulas)])


def waiting(folder: Path) -> set[str]:
    return Inbox(Run(folder)).waiting()


class Child:
    """A stub evaluation that dies as `die_at` says: at the start of its so-many-th training."""

    def __init__(self, die_at: int | None = None) -> None:
        self.trained: list[str] = []
        self.die_at = die_at

    def __call__(self, trial: Trial, beat: Beat) -> Outcome:
        if len(self.trained) == self.die_at:
            raise KeyboardInterrupt
        self.trained.append(trial.subject)
        return Outcome("ok", val_score=0.5)


def run(store: Store, child: Any, budget: int | None = None, **options: Any) -> str:
    """A search of SMALL by exhaustive enumeration that takes what waits beside its store."""
    strategy = strategy_from("exhaustive", SMALL, 0)
    candidates = Candidates(store, SMALL)
    proposals = Proposals(
        store, strategy, "exhaustive", candidates, lambda share: Level("search", "p")
    )
    inbox = Inbox(Run(store.path.parent))
    chain = asking(proposals, budget=budget, patience=1000, proposers=[inbox], **options)
    source = StrategySource(proposals, chain)
    return run_trials(store, source, InlineExecutor(child), Progress("t", "w", None))


def test_what_is_proposed_is_trained_first_in_its_order_and_counts_in_the_budget(
    store: Store, tmp_path: Path
) -> None:
    put(tmp_path, ["sin(x)", "atan(x)"])
    put(tmp_path, ["sin(x)", "erf(x)"])  # one of them waits already
    child = Child()
    assert run(store, child, budget=4) == "budget spent"
    assert child.trained[:3] == ["sin(x)", "atan(x)", "erf(x)"]
    assert len(child.trained) == 4
    assert store.trained() == set(child.trained)
    assert waiting(tmp_path) == set()


def test_what_the_budget_does_not_pay_for_is_kept_for_the_next_session(
    store: Store, tmp_path: Path
) -> None:
    put(tmp_path, BEYOND)
    assert run(store, Child(), budget=3) == "budget spent"
    assert waiting(tmp_path) == {"erf(x)"}
    again = Child()
    assert run(store, again, budget=4) == "budget spent"
    assert again.trained == ["erf(x)"]


def test_the_strategy_is_told_of_a_proposed_function_when_it_proposes_it_itself(
    store: Store, tmp_path: Path
) -> None:
    form = SMALL.decode(SMALL.digits(SMALL.size - 1)).canonical("guarded")
    put(tmp_path, [form.key])
    child = Child()
    assert run(store, child, screening=False) == "space exhausted"
    assert child.trained[0] == form.key
    assert max(Counter(child.trained).values()) == 1
    assert store.open_proposals("exhaustive") == []
    assert store.proposals() == SMALL.size + 1


def test_a_proposal_that_screening_rejects_is_recorded_with_its_reason_and_costs_nothing(
    store: Store, tmp_path: Path
) -> None:
    put(tmp_path, ["3 * x", "sin(x)"])
    child = Child()
    run(store, child, budget=1)
    assert child.trained == ["sin(x)"]
    [rejected] = [row for row in store.rows("search") if row["status"] == "rejected"]
    assert rejected["reason"].startswith("affine in x")


def test_a_file_that_holds_no_formula_is_left_alone_and_said_once(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, ["sin(x)"])
    (tmp_path / "proposed" / "0.txt").write_bytes(b"import os \xff")
    child = Child()
    with caplog.at_level(logging.WARNING, "actsearch"):
        run(store, child, budget=3)
    assert child.trained[0] == "sin(x)"
    assert len([r for r in caplog.records if "holds no formula" in r.getMessage()]) == 1
    assert (tmp_path / "proposed" / "0.txt").exists()


@pytest.mark.parametrize("die_at", range(4))
def test_a_driver_that_dies_at_any_training_loses_no_proposal_and_trains_none_twice(
    store: Store, tmp_path: Path, die_at: int
) -> None:
    put(tmp_path, BEYOND)
    first, second = Child(die_at), Child()
    with pytest.raises(KeyboardInterrupt):
        run(store, first, budget=6)
    run(store, second, budget=6)
    trained = first.trained + second.trained
    assert sorted(trained[:4]) == sorted(map(str, map(candidate_from, BEYOND)))
    assert len(trained) == len(set(trained)) == 6
    assert waiting(tmp_path) == set()


def test_a_driver_that_dies_between_commit_and_removal_finds_the_function_known(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, BEYOND)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(store, Child(), budget=6)
    assert len(waiting(tmp_path)) == 4
    assert len(store.rows("search")) == 1
    again = Child()
    run(store, again, budget=6)
    assert sorted(again.trained[:3]) == sorted(str(candidate_from(f)) for f in BEYOND[1:])
    assert len(store.trained()) == 6


def test_a_driver_that_dies_before_the_commit_leaves_all_that_it_took(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, BEYOND)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "save_strategy", interrupt)  # the last of what the transaction writes
        with pytest.raises(KeyboardInterrupt):
            run(store, Child())
    assert len(waiting(tmp_path)) == 4
    assert store.rows("search") == []


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


# -- killed by the system


def drive(folder: Path) -> None:
    """A driver, in a process of its own, whose children take 10 ms and note their end."""
    torch.set_num_threads(1)
    store = Store(folder / "run.sqlite", create=True)
    store.add_protocol("p", {})

    def child(trial: Trial, beat: Beat) -> Outcome:
        time.sleep(0.01)
        with open(folder / "ledger", "a") as ledger:
            ledger.write(f"{trial.subject}\n")
        return Outcome("ok", val_score=0.5)

    run(store, child)


def test_a_storm_of_kills_loses_no_proposal_and_records_none_twice(tmp_path: Path) -> None:
    """Two terminals propose while the driver is killed again and again."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.test_proposing"])  # so that each starts at once
    functions = [*BEYOND, *(f"sin({k} * x)" for k in range(2, 30))]
    random = Random(0)

    def proposes(some: list[str]) -> None:
        for formula in some:
            put(tmp_path, [formula])
            time.sleep(0.02)

    terminals = [threading.Thread(target=proposes, args=(functions[i:],)) for i in (0, 12)]
    kills = 0
    driver = processes.Process(target=drive, args=(tmp_path,))
    driver.start()
    wait_until(lambda: (tmp_path / "ledger").exists() or not driver.is_alive())
    for terminal in terminals:
        terminal.start()
    while kills < 8:
        time.sleep(random.uniform(0.02, 0.15))
        driver.kill()
        driver.join()
        kills += 1
        driver = processes.Process(target=drive, args=(tmp_path,))
        driver.start()
    for terminal in terminals:
        terminal.join()
    driver.join()
    last = processes.Process(target=drive, args=(tmp_path,))  # takes what came too late
    last.start()
    last.join()
    assert last.exitcode == 0
    store = Store(tmp_path / "run.sqlite", readonly=True)
    rows = store.rows("search")
    store.close()
    keys = [candidate_from(f).canonical("guarded").key for f in functions]
    assert waiting(tmp_path) == set()
    assert Counter(r["expression"] for r in rows if r["expression"] in keys) == Counter(keys)
    assert {r["status"] for r in rows} <= {"ok", "rejected"}
    ended = Counter((tmp_path / "ledger").read_text().split("\n")[:-1])
    assert sum(ended.values()) - len(ended) <= kills  # ended, and killed before it was stored


# -- what `propose` answers


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search that spent its budget of 2, of a child that has no place for gates."""
    folder = tmp_path_factory.mktemp("proposing") / "run"
    return actsearch.search(
        folder, space=FEW, dataset="mnist5k", child="resnet8:width=4,size=8", budget=2, **QUICK
    )


def answers(run: Run, *formulas: str) -> dict[str, str]:
    return {answer.formula: answer.text for answer in actsearch.propose(run, formulas)}


def test_what_is_known_is_answered_and_only_the_rest_waits(finished: Run) -> None:
    best = finished.best()
    score = best.metric.text(best.val_score or 0)
    found = answers(finished, best.formula, f"{finished.path}#1", "2 * x", "x - x", "atan(x)")
    assert found.pop(FORMS.get(best.expression, best.formula)) == f"val accuracy {score}, rank 1"
    assert found == {
        "2 * x": "rejected: affine in x: the network would be linear",
        "0": "rejected: constant",
        "atan(x)": "proposed",
    }
    assert answers(finished, "atan(x)") == {"atan(x)": "was proposed before and waits"}
    assert waiting(finished.path) == {"atan(x)"}


def test_what_a_search_has_taken_and_not_ended_is_answered_as_waiting(finished: Run) -> None:
    with closing(finished.store()) as store, store.transaction():
        (row,) = (row for row in store.rows("search") if row["expression"] == "relu(x)")
        sin = candidate_from("sin(x) * sin(x)").canonical("guarded")
        level = Level("search", row["protocol"])
        trial, _ = Candidates(store, SMALL, seed=row["seed"]).trial_of(sin, level)
    waits = "waits to be trained, or is in training"
    assert answers(finished, "sin(x)**2", "relu") == {
        trial.formula: waits,
        "relu": answers(finished, "relu")["relu"],
    }


@pytest.mark.parametrize(
    ("formulas", "error", "why"),
    [
        (["erf(x)", "mul(x, g)"], ValueError, "this child has no second projection"),
        (["erf(x)", " | ".join(["x", "relu(x)"] * 4)], ValueError, "8 groups of layers need 8"),
        (["erf(x)", "mul(x, y)"], ValueError, "unknown"),
        (["erf(x)", "RUN#99"], NoCandidateError, "has no rank 99"),
    ],
)
def test_a_formula_that_the_run_cannot_take_is_a_sentence_and_nothing_is_proposed(
    finished: Run, formulas: list[str], error: type[Exception], why: str
) -> None:
    before = waiting(finished.path)
    with pytest.raises(error, match=why):
        actsearch.propose(finished, [f.replace("RUN", str(finished.path)) for f in formulas])
    assert waiting(finished.path) == before


def test_the_command_says_who_trains_what_was_proposed(
    finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(finished.path)
    assert cli.main(["propose", path, "erf(x)"]) == errors.DONE
    said = capsys.readouterr()
    assert said.out == "erf(x): proposed\n"
    assert "The budget of 2 is spent; what is proposed is kept for 'actsearch search" in said.err
    config = finished.config
    finished.write_config(config | {"settings": config["settings"] | {"budget": None}})
    assert cli.main(["propose", path, "x * erf(x)"]) == errors.DONE
    assert f"No search runs in {path}; what is proposed is kept" in capsys.readouterr().err
    with finished.locked():
        assert cli.main(["propose", path, "x * atan(x)"]) == errors.DONE
    assert f"process {os.getpid()} on" in capsys.readouterr().err
    assert cli.main(["propose", path, "relu"]) == errors.DONE
    assert capsys.readouterr().err == ""
    assert cli.main(["propose", path]) == errors.USAGE
    finished.write_config(config)


# -- whole searches


def test_a_function_that_is_proposed_while_a_search_runs_is_trained_and_ranked_by_it(
    tmp_path: Path, blobs: Arrays
) -> None:
    proposed: list[str] = []

    def terminal(trial: Trial, outcome: Outcome, progress: Progress) -> None:
        if not proposed:
            proposed.extend(a.text for a in actsearch.propose(tmp_path / "run", ["erf(x)"]))

    found = actsearch.search(
        tmp_path / "run", space=FEW, dataset=blobs, child=net, callbacks=[terminal], **QUICK
    )
    assert proposed == ["proposed"]
    table = found.table(wide=True).set_index("formula")
    assert table.loc["erf(x)", "status"] == "ok"
    assert table.loc["erf(x)", "candidate"]
    assert answers(found, "erf(x)")["erf(x)"].startswith("val accuracy")


def net(make_activation: Any, input_shape: tuple[int, ...]) -> torch.nn.Module:
    first, last = torch.nn.Linear(input_shape[0], 4), torch.nn.Linear(4, 3)
    return torch.nn.Sequential(first, make_activation(4), last)


def test_a_search_starts_with_what_it_is_told_to_and_once(tmp_path: Path, blobs: Arrays) -> None:
    options = {"space": FEW, "dataset": blobs, "child": net, "start": ["mish", "sin(x)"], **QUICK}
    found = actsearch.search(tmp_path / "run", budget=1, **options)
    assert "start" not in found.settings
    first = candidate_from("mish").canonical("guarded").key
    assert [r["expression"] for r in found.rows() if not r["beside"]] == [first]
    assert waiting(found.path) == {"sin(x)"}
    found = actsearch.search(tmp_path / "run", budget=3, **options)
    rows = [r["expression"] for r in found.rows() if not r["beside"] and r["status"] == "ok"]
    assert rows[:2] == [first, "sin(x)"]
    assert len(rows) == 3
    assert waiting(found.path) == set()


def test_a_start_that_the_child_cannot_take_is_refused_before_anything_is_stored(
    tmp_path: Path, blobs: Arrays
) -> None:
    options = {"space": FEW, "dataset": blobs, "child": net, **QUICK}
    with pytest.raises(ValueError, match="this child has no second projection"):
        actsearch.search(tmp_path / "run", start=["mul(x, g)"], **options)
    assert not (tmp_path / "run").exists()


# -- a command that is asked


def proposer(folder: Path, body: str) -> str:
    """A command that runs `body` for each `message`."""
    head = "import json, sys, time, os\nfor line in sys.stdin:\n    message = json.loads(line)\n"
    script = folder / "proposer.py"
    script.write_text(head + textwrap.indent(textwrap.dedent(body), "    "))
    return f"external:{shlex.quote(sys.executable)} {shlex.quote(str(script))}"


SAYS = """
open({said!r}, "a").write(line)
if "ask" in message:
    waiting = [f for f in {formulas!r} if f not in open({said!r}).read()]
    print(json.dumps({{"formulas": waiting[:message["ask"]]}}), flush=True)
"""


def searched(folder: Path, blobs: Arrays, strategy: str, **options: Any) -> Run:
    given = {"space": FEW, "dataset": blobs, "child": net, **QUICK, **options}
    return actsearch.search(folder / "run", strategy=strategy, **given)


def heard(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """What a command was told, and how much it was asked for."""
    messages = [json.loads(line) for line in file.read_text().splitlines()]
    told = [message["outcome"] for message in messages if "outcome" in message]
    return told, [message["ask"] for message in messages if "ask" in message]


def test_a_command_proposes_is_told_every_outcome_and_has_the_whole_table_on_resume(
    tmp_path: Path, blobs: Arrays
) -> None:
    said = tmp_path / "said"
    formulas = ["sin(x)", "2 * x", "x ** x", "x * erf(x)", "relu(x)"]
    strategy = proposer(tmp_path, SAYS.format(said=str(said), formulas=formulas))
    found = searched(tmp_path, blobs, strategy, budget=1)
    assert set(found.table()["formula"]) >= {"sin(x)", "relu(x)"}
    told, _ = heard(said)
    ended = {t["formula"]: t for t in told}
    assert (ended["sin(x)"]["status"], ended["sin(x)"]["better"]) == ("ok", "higher")
    score = found.table(wide=True).set_index("formula").loc["sin(x)", "val accuracy"]
    assert ended["sin(x)"]["score"] == pytest.approx(score)
    said.unlink()
    found = searched(tmp_path, blobs, strategy, budget=10)
    told, asks = heard(said)
    assert [t["formula"] for t in told if t["formula"] == "sin(x)"] == ["sin(x)"]
    ended = {t["formula"]: t["status"] for t in told}
    assert ended["2 * x"] == "rejected"
    assert ended["x ** x"] == "refused"
    assert ended["x * erf(x)"] == "ok"
    assert set(asks) == {1}
    rows = Counter(row["expression"] for row in found.rows())
    assert max(rows.values()) == 1
    with pytest.raises(UsageError, match="no command is taken from a run's folder"):
        actsearch.search(found.path, dataset=blobs, child=net, quiet=True)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sys.exit(3)", "ended with code 3"),
        ("os.close(1); time.sleep(60)", "closed its output"),
        ("time.sleep(60)", "did not answer for 0.5 seconds"),
        ("os.fork() or time.sleep(6); os._exit(4)", "ended with code 4"),
        ("sys.stdout.write('{'); sys.stdout.flush(); time.sleep(60)", "did not answer for 0.5"),
        ("print('Sure! Try swish.', flush=True)", "answered 'Sure! Try swish.' and not"),
        ("print('[' * 9999, flush=True)", "and not"),
        ("""print('{"formulas": [1]}', flush=True)""", "and not"),
        (
            """"ask" in message and print('{"formulas": ["y"]}', flush=True)""",
            "gave no formula that can be read in 100 answers",
        ),
    ],
)
def test_a_command_that_is_dead_silent_or_babbles_ends_the_search_in_a_sentence(
    tmp_path: Path, blobs: Arrays, monkeypatch: pytest.MonkeyPatch, body: str, why: str
) -> None:
    monkeypatch.setattr("actsearch.searching.external.SILENCE", 0.5 if "60" in body else 60.0)
    monkeypatch.setattr("actsearch.searching.external.GRACE", 0.3)
    with pytest.raises(HostError, match=re.escape(why)) as caught:
        searched(tmp_path, blobs, proposer(tmp_path, body))
    assert errors.exit_code(caught.value) == errors.RESUMABLE
    good = proposer(tmp_path, SAYS.format(said=str(tmp_path / "said"), formulas=["sin(x)"]))
    found = searched(tmp_path, blobs, good)
    assert "sin(x)" in set(found.table()["formula"])


def alone(folder: Path, command: str, **options: Any) -> External:
    """A command that nobody but the test asks."""
    return External(command, ACCURACY, [], folder / "proposer.log", **options)


def test_a_command_that_babbles_is_read_no_further_than_it_was_asked(tmp_path: Path) -> None:
    with closing(alone(tmp_path, """yes '{"formulas": ["sin(x)"]}'""")) as external:
        assert [c.key for c in external.take(1)] == ["sin(x)"]
        time.sleep(0.2)
        assert external._lines.qsize() == 0  # pyright: ignore[reportPrivateUsage]
        assert [c.key for c in external.take(1)] == ["sin(x)"]


def test_what_a_command_writes_to_stderr_for_ever_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actsearch.searching.external.LOG", 1_000)
    with closing(alone(tmp_path, """sh -c 'yes >&2 & yes "{\\"formulas\\": [\\"x\\"]}"'""")) as it:
        it.take(1)
        time.sleep(0.2)
    assert (tmp_path / "proposer.log").stat().st_size == 1_000


def test_a_command_that_thinks_holds_nothing_up_that_is_in_training(tmp_path: Path) -> None:
    body = """
    if "ask" in message:
        while not os.path.exists(sys.argv[0] + ".go"): time.sleep(0.01)
        print('{"formulas": ["sin(x)", "erf(x)"]}', flush=True)
    """
    command = proposer(tmp_path, body).removeprefix("external:")
    with closing(alone(tmp_path, command, busy=lambda: True)) as external:
        assert external.take(2) == []
        (tmp_path / "proposer.py.go").touch()
        wait_until(lambda: external._lines.qsize() > 0)  # pyright: ignore[reportPrivateUsage]
        assert [c.key for c in external.take(1)] == ["sin(x)"]
        assert [c.key for c in external.take(1)] == ["erf(x)"]


def test_a_stop_does_not_wait_for_an_answer(tmp_path: Path) -> None:
    with closing(alone(tmp_path, "sleep 60", should_stop=lambda: True)) as external:
        began = time.monotonic()
        assert external.take(1) == []
        assert time.monotonic() - began < 30


def test_a_command_that_is_not_there_is_a_sentence(tmp_path: Path, blobs: Arrays) -> None:
    with pytest.raises(UsageError, match="external:nowhere/x does not start"):
        searched(tmp_path, blobs, "external:nowhere/x")
    for text in ("external:", "external"):
        with pytest.raises(ValueError, match="external needs a command"):
            searched(tmp_path, blobs, text)
    with pytest.raises(ValueError, match="external has no rungs, so leave out --halving"):
        searched(tmp_path, blobs, "external:cat", halving=True)


def test_the_example_proposes_as_many_functions_as_the_budget_pays_for(
    tmp_path: Path, blobs: Arrays
) -> None:
    example = Path(__file__).parent.parent / "examples" / "proposer.py"
    assert len(example.read_text().splitlines()) <= 30
    strategy = f"external:{shlex.quote(sys.executable)} {shlex.quote(str(example))}"
    found = searched(tmp_path, blobs, strategy, budget=8)
    ended = [r for r in found.rows() if not r["beside"] and r["status"] != "rejected"]
    assert len({row["expression"] for row in ended}) == 8
