"""Strategies against known results: what is counted, what a table may be, what is printed."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actsearch
from actsearch.cli import main
from actsearch.controller.strategies import strategy_from
from actsearch.errors import UsageError
from actsearch.results.tables import to_csv
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.space import SPACES, everything
from actsearch.search_space.survey import survey
from actsearch.studies.known_results import Known, Table, table_from
from actsearch.studies.replay import Replayed, Trace, curves, play, replay, summary

from .conftest import wait_until

TINY = SPACES["tiny"]
DISTINCT = survey(everything(TINY)).distinct


def accuracy(formula: str) -> float:
    return 0.1 + (sum(map(ord, formula)) % 89) / 100


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(TINY, {e: {1.0: accuracy(str(e))} for e in DISTINCT}, "guarded")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("t") / "tiny.csv"
    rows = [f"{e},{accuracy(str(e))}" for e in DISTINCT]
    path.write_text(
        "\n".join(
            [
                '"formula","accuracy"',
                *(f'"{r.rsplit(",", 1)[0]}",' + r.rsplit(",", 1)[1] for r in rows),
            ]
        )
    )
    return path  # fmt: skip


def test_every_function_costs_one_training_and_a_repeat_nothing(table: Table) -> None:
    trace = play(strategy_from("exhaustive", TINY, 0), table.look_up, budget=1000)
    assert len(trace.cost) == len(DISTINCT) == 91
    assert trace.cost.tolist() == list(range(1, 92))
    assert trace.best[-1] == max(accuracy(str(e)) for e in DISTINCT)
    assert (np.diff(trace.best) >= 0).all()


def test_a_rejected_function_costs_nothing_and_is_told_the_reward_of_a_failure(
    table: Table,
) -> None:
    constant = TINY.index((0, 0, 0, 1, 0))  # x + -x
    assert table.look_up(TINY.digits(constant), 1.0) == Known(None, None)


def test_any_spelling_finds_the_row_of_the_table(table: Table) -> None:
    for i in range(0, TINY.size, 7):
        digits = TINY.digits(i)
        found, form = table.find(digits), TINY.decode(digits).canonical("guarded")
        if form in table.rewards:
            assert found == form
        assert table.look_up(digits, 1.0).name == (str(found) if found else None)


def test_the_top_per_cent_is_counted_from_the_best(table: Table) -> None:
    best = sorted((accuracy(str(e)) for e in DISTINCT), reverse=True)
    assert table.top(1) == best[0]
    assert table.top(10) == best[9]  # 9.1 of 91, rounded up
    assert table.top(100) == best[-1]


def test_what_it_took_and_what_was_found_for_it() -> None:
    found = {"relu(x)": 1.25, "sin(x)": 2.25}
    trace = Trace(np.array([0.25, 1.25, 2.25]), np.array([-math.inf, 0.5, 0.9]), found)
    assert trace.cost_to(0.5) == 1.25
    assert trace.cost_to(0.9) == 2.25
    assert trace.cost_to(0.95) == math.inf
    assert trace.best_at(0.2) == trace.best_at(1) == -math.inf
    assert trace.best_at(2) == 0.5
    assert trace.cost_of({"sin(x)", "relu(x)"}) == 1.25
    assert trace.cost_of({"sin(x)", "tanh(x)"}) == 2.25
    assert trace.cost_of({"tanh(x)"}) == math.inf


def test_a_function_is_found_however_it_is_written(table: Table) -> None:
    [name] = table.named(["max(0, x)"])
    assert name in {str(e) for e in DISTINCT}
    assert table.named(["relu(x)", "relu(x)"]) == {name}
    with pytest.raises(UsageError, match="does not have sinc"):
        table.named(["sinc(x)"])
    [done] = replay(table, ["exhaustive"], repeats=1, goal={name}, processes=1)
    [trace] = done.traces
    assert trace.cost[-1] == trace.cost_of({name}) == trace.found[name] == len(trace.found)
    assert trace.cost_of({str(e) for e in DISTINCT}) == 1.0
    [row] = summary(table, [done], goal={name})
    assert (row["found"], row["trainings, median"]) == (1.0, trace.found[name])
    assert (row["median from"], row["median to"]) == (None, None)  # of a single replay
    assert not any("regret" in column for column in row)


def test_with_many_workers_a_reward_comes_while_others_are_on_their_way(table: Table) -> None:
    strategy = strategy_from("evolution", TINY, 0)
    told: list[int] = []
    asked: list[int] = []
    ask, tell = strategy.ask, strategy.tell
    strategy.ask = lambda n: [asked.append(p.number) or p for p in ask(n)]  # type: ignore
    strategy.tell = lambda p, r: (told.append(len(asked) - p.number), tell(p, r))  # type: ignore
    play(strategy, table.look_up, budget=40, workers=4)
    assert max(told) >= 4
    assert play(strategy_from("ppo:batch_size=8", TINY, 0), table.look_up, 40, workers=3).cost[-1]


def test_rungs_cost_their_share_and_need_their_column(table: Table) -> None:
    text = "random+halving:eta=2,rungs=2,cohort=8"
    with pytest.raises(UsageError, match=r"accuracy@0\.5"):
        play(strategy_from(text, TINY, 0), table.look_up, 10)
    rewards = {e: {1.0: accuracy(str(e)), 0.5: accuracy(str(e)) / 2} for e in DISTINCT}
    trace = play(strategy_from(text, TINY, 0), Table(TINY, rewards, "guarded").look_up, 8)
    assert trace.cost[:8].tolist() == [0.5 * i for i in range(1, 9)]
    assert trace.cost[8] == 5.0
    assert trace.best[7] == -math.inf  # nothing was trained to its end yet
    assert trace.best[8] > 0


def test_replays_in_processes_are_those_in_this_one(table: Table) -> None:
    here, there = (
        replay(table, ["random", "evolution"], repeats=2, budget=20, processes=n) for n in (1, 2)
    )
    for a, b in zip(here, there, strict=True):
        assert a.strategy == b.strategy
        for one, two in zip(a.traces, b.traces, strict=True):
            assert np.array_equal(one.best, two.best)
    assert not np.array_equal(here[0].traces[0].best, here[0].traces[1].best)


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core plays in the process itself")
def test_processes_that_play_end_with_the_one_that_started_them(file: Path, tmp_path: Path) -> None:
    of_tiny = [str(file), "--space", "tiny"]
    arguments = ["replay", *of_tiny, "--strategy", "ppo", "--repeats", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "actsearch.cli", *arguments],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def children() -> set[int]:
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return {int(pid) for pid in found}

    def busy(pid: int) -> float:
        """Seconds of processor time; -1 where it is gone."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return -1.0
        return -1.0 if fields[0] == "Z" else int(fields[11]) / os.sysconf("SC_CLK_TCK")

    try:
        wait_until(lambda: sum(busy(pid) > 1.0 for pid in children()) >= 2)  # past their imports
        playing = children()
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: all(busy(pid) < 0 for pid in playing))


def test_a_strategy_that_is_named_twice_is_replayed_once(table: Table) -> None:
    once = replay(table, ["random"], repeats=3, budget=5, processes=1)
    twice = replay(table, ["random", "random"], repeats=3, budget=5, processes=1)
    assert [len(r.traces) for r in twice] == [len(r.traces) for r in once] == [3]


def test_random_search_needs_as_long_as_drawing_without_replacement(table: Table) -> None:
    """The best 10 of 91 come, on average, after (91 + 1) / (10 + 1) draws. Functions with more
    spellings come earlier, so this holds only nearly."""
    [done] = replay(table, ["random"], repeats=60, budget=91, processes=1)
    costs = [trace.cost_to(table.top(10)) for trace in done.traces]
    assert np.mean(costs) == pytest.approx(92 / 11, rel=0.35)


def test_the_summary_has_quartiles_regret_and_a_test_against_the_first(table: Table) -> None:
    best = table.top(0.0)
    slow = Replayed("slow", [Trace(np.arange(1, 31), np.full(30, best - 0.2), {})] * 8)
    fast = Replayed("fast", [Trace(np.arange(1, 31), np.full(30, best), {})] * 8)
    first, second = summary(table, [slow, fast])
    assert first["trainings, median"] is None
    assert first["found"] == 0.0
    assert first["p"] is None
    assert (second["found"], second["trainings, median"]) == (1.0, 1.0)
    assert second["p"] < 0.001
    assert first["regret at 30"] == pytest.approx(0.2)
    assert second["regret at 10"] == 0.0
    assert "regret at 100" not in first
    assert (first["median from"], first["median to"]) == (None, None)
    costs = [3, 8, 4, 1, 7, 5, 2, 6, 10, 9]
    mixed = [Trace(np.arange(1.0, 31), np.arange(1, 31) >= c, {"sin(x)": c}) for c in costs]
    [row] = summary(table, [Replayed("mixed", mixed)], goal={"sin(x)"})
    # The second and the second last of ten: P(2 <= B <= 8) = 0.979 for B of ten halves.
    assert (row["median from"], row["trainings, median"], row["median to"]) == (2.0, 6.0, 9.0)
    regrets = curves(table, [slow])
    assert len(regrets) == 30
    assert regrets[0]["q50"] == pytest.approx(0.2)


# -- tables


def test_a_finished_run_is_a_table(tmp_path: Path, blobs: tuple[np.ndarray, np.ndarray]) -> None:
    from .test_search import QUICK, SPACE, small_net

    run = actsearch.search(tmp_path / "run", space=SPACE, dataset=blobs, child=small_net, **QUICK)
    found = table_from(run.path)
    trained = run.table().query("status != 'rejected'")
    assert len(found) == len(trained) - 1  # the identity was trained beside it alone
    assert found.top(0.0) == trained["val accuracy"].max()
    assert found.coverage() == 1.0
    trace = play(strategy_from("exhaustive", found.space, 0), found.look_up, 100)
    assert len(trace.cost) == len(found) - 2  # relu and swish, beside it, are not in the space
    exported = tmp_path / "top.csv"
    assert (run.path / "top.csv").exists()
    exported.write_text((run.path / "top.csv").read_text())
    again = table_from(exported, found.space.spec)
    assert again.rewards == found.rewards


@pytest.mark.parametrize("left_behind", [{"racing": "accuracy:2=0.2,4=0.1"}, {"halving": True}])
def test_a_run_that_left_functions_behind_is_no_table(
    tmp_path: Path,
    blobs: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    left_behind: dict[str, Any],
) -> None:
    from .test_search import QUICK, SPACE, small_net

    monkeypatch.setattr("actsearch.controller.racing.FIRST", 2)
    options = {"space": SPACE, "dataset": blobs, "child": small_net, **QUICK, **left_behind}
    run = actsearch.search(tmp_path / "run", **options)
    for source in (run.path, run.path / "top.csv"):
        with pytest.raises(UsageError, match="left behind"):
            table_from(source, SPACE if source.is_file() else None)


def test_a_file_says_its_operators_and_quotes_what_a_spreadsheet_would_compute(
    file: Path, tmp_path: Path
) -> None:
    assert table_from(file, "tiny", operators="paper").operators == "paper"
    path = tmp_path / "minus.csv"
    path.write_text(to_csv([{"formula": "-sin(x)", "accuracy": 0.3}]))
    assert "'-sin(x)" in path.read_text()
    assert table_from(path, "tiny").rewards == {
        candidate_from("-sin(x)").canonical("guarded"): {1.0: 0.3}
    }


def test_a_parquet_file_is_a_table(file: Path, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    target = tmp_path / "t.parquet"
    pd.read_csv(file).to_parquet(target)
    assert table_from(target, "tiny").rewards == table_from(file, "tiny").rewards


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has the columns a, b; a table needs formula and accuracy"),
        ("formula,accuracy\nrelu(x),high\n", "'high' is no number"),
        ("formula,accuracy\nrelu(x),93.1\n", "write them as fractions of 1"),
        ("formula,accuracy\nrelu(,0.5\n", "relu"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_a_sentence(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        table_from(path)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run and no file at"):
        table_from(tmp_path / "none.csv")


def test_an_empty_accuracy_is_a_failed_training(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("formula,accuracy\nrelu(x),0.5\nsin(x),\n")
    rewards = {str(e): told[1.0] for e, told in table_from(path, "tiny").rewards.items()}
    assert rewards == {"relu(x)": 0.5, "sin(x)": None}


# -- the command


def test_the_command_prints_one_row_a_strategy(
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # processes of its own are tested above
    target = tmp_path / "curves.csv"
    options = ["--space", "tiny", "--repeats", "4", "--budget", "40", "--top", "5"]
    strategies = ["--strategy", "random", "evolution:population=8,tournament=4"]
    code = main(["replay", str(file), *strategies, *options, "--curves", str(target), "-f", "json"])
    assert code == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["strategy"] for row in rows] == strategies[1:]
    assert all(row["n"] == 4 for row in rows)
    assert "91 functions of tiny" in printed.err
    lines = list(csv.DictReader(io.StringIO(target.read_text())))
    rows_of = [[line for line in lines if line["strategy"] == s] for s in strategies[1:]]
    assert 0 < len(rows_of[0]) == len(rows_of[1]) <= 40  # until all have found the best
    assert list(lines[0]) == ["strategy", "trainings", "q10", "q25", "q50", "q75", "q90"]


def test_a_table_of_another_space_is_refused(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(file), "--space", "two-units"]) == 2
    assert "% of the candidates of two-units: a replay would tell" in capsys.readouterr().err


def test_the_table_of_the_package_is_of_guarded_operators() -> None:
    with pytest.raises(UsageError, match="one-unit was trained with guarded operators, not paper"):
        table_from("one-unit", operators="paper")


def test_an_unknown_strategy_is_refused_before_anything_is_replayed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(file), "--space", "tiny", "--strategy", "ppo:epoch=3"]) == 2
    assert "did you mean 'epochs'" in capsys.readouterr().err
