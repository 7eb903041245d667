"""The command line as a user meets it: separate processes, exit codes, clean output, interrupts."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import math
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import actsearch
from actsearch import cli, errors
from actsearch.commands.reevaluate import ReevaluateConfig
from actsearch.commands.replay import ReplayConfig
from actsearch.commands.search import SearchConfig
from actsearch.commands.top import TopConfig
from actsearch.run import Run

from .conftest import LIMIT, wait_until

INLINE = ["--executor", "inline", "--steps", "20"]
SPACE = "units=1;unary=identity,relu;binary=add,mul"
COMMAND = [sys.executable, "-m", "actsearch.cli"]


def actsearch_in(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=LIMIT, **options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `runs/a`."""
    path = tmp_path_factory.mktemp("cli")
    with contextlib.chdir(path), contextlib.redirect_stdout(io.StringIO()) as said:
        assert cli.main(["search", "runs/a", "--space", SPACE, *INLINE]) == 0
    assert "rank" in said.getvalue()
    assert "actsearch reevaluate runs/a" in said.getvalue()
    shutil.copytree(path / "runs" / "a", path / "damaged")
    (path / "damaged" / "config.json").write_text("[]")
    (path / "empty.csv").write_text("formula,accuracy\n")
    return path


@pytest.mark.parametrize(
    "arguments", [["--help"], ["search", "--help"], ["top", "--help"], ["plot", "--help"]]
)
def test_help_imports_no_torch_and_no_ray(arguments: list[str]) -> None:
    code = (
        "import sys; from actsearch.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'ray', 'numpy', 'pandas', 'torchvision', 'matplotlib', 'plotly'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr


def test_reading_a_run_imports_neither_torch_nor_ray(folder: Path) -> None:
    code = (
        "import sys; from actsearch.cli import main\n"
        "assert main(['top', 'runs/a']) == 0\n"
        "heavy = {'torch', 'ray', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr


def test_a_plan_tells_what_is_left(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = (folder / "runs" / "a" / "config.json").read_text()
    counts = Run.open("runs/a").counts()
    done = counts["ok"] + counts["diverged"] - 3  # without ReLU, Swish and the identity
    assert cli.main(["search", "runs/a", "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert f"{done} done, 0 to train" in told
    assert "for all on" not in told
    assert cli.main(["search", "runs/a", "--strategy", "random", "--budget", "2"]) == 0
    assert "budget spent" in capsys.readouterr().out
    assert (folder / "runs" / "a" / "config.json").read_text() == before  # nothing was trained


@pytest.mark.parametrize("text", ["-x**2", "-abs(x)", "- beta * x", "-1.5*x", "-(x + 1)"])
def test_a_formula_may_start_with_a_minus(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", text]) == 0
    shown = capsys.readouterr().out
    assert cli.main(["show", f"({text})"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("arguments", [["--help"], ["top", "runs/a"]])
def test_a_reader_that_has_seen_enough_gets_no_traceback(
    folder: Path, arguments: list[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
    )
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_behind_stdout_is_a_sentence(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "top", "runs/a"],
            cwd=folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
        )
    assert done.stderr == "actsearch: the disk is full\n"
    assert done.returncode == 75


def test_every_format_of_top_parses_and_tells_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    expected = [(e.expression, e.val_score) for e in Run.open("runs/a").leaderboard()]
    assert cli.main(["top", "runs/a", "-f", "json"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert [(row["expression"], row["val accuracy"]) for row in parsed] == expected
    assert cli.main(["top", "runs/a", "-f", "csv", "-n", "3"]) == 0
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["expression"] for row in read] == [e for e, _ in expected[:3]]
    assert cli.main(["top", "-f", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("| rank | formula")
    assert cli.main(["top"]) == 0
    assert f"{len(expected)} functions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["search", "--strategy", "randm"], 2, "did you mean 'random'"),
        (["search", "--child", "resnet9"], 2, "unknown child"),
        (["search", "--child", "resnet8:wdith=8"], 2, "did you mean 'width'"),
        (["search", "--space", "huge"], 2, "unknown space"),
        (["search", "--budget", "-3"], 2, "actsearch: --budget -3 is too small; use 1 or more\n"),
        (["search", "--dataset", "mnist6k"], 2, "did you mean 'mnist5k'"),
        (["search", "--dataset", "cifar10"], 4, "no cifar10 under data/"),
        (["search", "--dataset", "none.npz"], 4, "no file none.npz"),
        (["search", "runs/a", "--steps", "21"], 5, "runs/a was made with steps=20"),
        (["top", "runs/none"], 5, "no run at runs/none"),
        (["show", "x * sigmoidd(x)"], 2, "Did you mean sigmoid?"),
        (["reevaluate", "runs/none"], 5, "no run at runs/none"),
        (["reevaluate", "runs/a", "--functions", "sin(x"], 2, "column 6"),
        (["search", "runs/b", "--space", "units=1;units=2"], 2, "units is given twice"),
        (["stop", ""], 2, "RUN is empty"),
        (["compare", "runs/a", ""], 2, "RUN is empty"),
        (["replay", "one-unit", "--space", "tiny"], 2, "leave --space out"),
        (["replay", "one-unit", "--curves", "none/x.csv"], 2, "there is no such folder"),
        (["replay", "empty.csv"], 2, "empty.csv holds no function"),
        (["report", "damaged"], 5, "config.json is no run's"),
    ],
)
def test_bad_input_gets_a_sentence_and_its_exit_code(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(folder)
    before = Run.open("runs/a").rows()
    assert cli.main(arguments) == code
    told = capsys.readouterr()
    assert sentence in told.err
    assert "Traceback" not in told.err
    assert told.out == ""
    assert Run.open("runs/a").rows() == before


def test_a_function_may_be_named_by_its_run_and_rank(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "runs/a", folder / "runs/ranked")
    monkeypatch.chdir(folder)
    best = Run.open("runs/ranked").best()
    assert cli.main(["show", "runs/ranked#1"]) == 0
    assert f"formula        {best.formula}\n" in capsys.readouterr().out
    again = ["reevaluate", "runs/ranked", "--functions", "runs/ranked#1", "--seeds", "1", *INLINE]
    assert cli.main([*again, "-f", "json"]) == 0
    formulas = {row["formula"] for row in json.loads(capsys.readouterr().out)}
    assert formulas == {best.formula, "relu(x)", "x * sigmoid(beta * x)"}
    compared = ["compare", "runs/ranked", "--reference", "runs/ranked#1", "-f", "json"]
    assert cli.main(compared) == 0
    assert best.formula not in {r["formula"] for r in json.loads(capsys.readouterr().out)}
    tried = next(e.rank for e in Run.open("runs/ranked").leaderboard() if e.candidate)
    played = ["replay", "runs/ranked", "--find", f"runs/ranked#{tried}", "--strategy", "random"]
    assert cli.main([*played, "--repeats", "1"]) == 0
    assert cli.main(["show", "runs/ranked#99"]) == errors.NO_CANDIDATE
    assert "runs/ranked has no rank 99" in capsys.readouterr().err


@pytest.mark.parametrize("held", [False, True])
def test_a_run_that_cannot_be_had_is_said_before_anything_trains(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], held: bool
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        "actsearch.searching.plan.warm_up", lambda evaluator: pytest.fail("trained")
    )
    steps, sentence = ("20", "in use by process") if held else ("21", "was made with steps=20")
    with Run.open("runs/a").locked() if held else contextlib.nullcontext():
        assert cli.main(["search", "runs/a", "--steps", steps]) == errors.RUN_UNAVAILABLE
    told = capsys.readouterr().err
    assert sentence in told
    assert "run        runs/a" not in told  # no plan for what cannot be


@pytest.mark.parametrize(
    ("config", "options", "sentence"),
    [
        (ReevaluateConfig, {"timeout": -5.0}, "--timeout -5 must be a number above 0"),
        (SearchConfig, {"timeout": math.nan}, "--timeout nan must be a number above 0"),
        (SearchConfig, {"checkpoint_every": 0.0}, "--checkpoint-every 0 must be a number above 0"),
        (SearchConfig, {"lr": math.inf}, "--lr inf must be a number above 0"),
        (SearchConfig, {"steps": 2.5}, "--steps 2.5 must be a whole number"),
        (SearchConfig, {"download": "no"}, "--download 'no' must be True or False"),
        (SearchConfig, {"budget": "3"}, "--budget '3' must be a whole number"),
        (SearchConfig, {"seed": 10**23}, "is too large"),
        (TopConfig, {"n": 0}, "--n 0 is too small"),
        (ReplayConfig, {"table": "one-unit", "strategy": ()}, "--strategy needs a name"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    config: type, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        config(**options)


def test_a_search_in_which_nothing_trains_exits_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["search", "runs/b", "--space", SPACE, *INLINE, "--lr", "1e30"]
    assert cli.main(arguments) == errors.NO_CANDIDATE
    assert "no function trained in runs/b" in capsys.readouterr().err


def test_dry_run_shows_the_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["search", "--dry-run", *INLINE]) == 0
    assert "192 candidates" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_show_space_and_doctor_say_what_they_are_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["show", "x*sigmoid(beta*x)"]) == 0
    shown = capsys.readouterr().out
    assert "mul(x, sigmoid(scale(x)))" in shown
    assert "f'(x)" in shown
    about = [line.split(" ")[0] for line in shown.split("\n\n")[0].splitlines()]
    assert len(about) == len(set(about))  # nothing is said twice
    assert cli.main(["space", "three-units"]) == 0
    assert "8,789,062,500,000" in capsys.readouterr().out
    assert cli.main(["doctor"]) in (errors.DONE, errors.ENVIRONMENT)
    assert "torchvision imports" in capsys.readouterr().out


def test_every_error_with_an_exit_code_exists() -> None:
    assert all(issubclass(cls, Exception) for cls in errors.known_errors())
    assert errors.exit_code(KeyError("x")) == errors.UNEXPECTED


@pytest.mark.parametrize(
    "how",
    [*(pytest.param(s, marks=pytest.mark.slow) for s in ("SIGINT", "SIGTERM")), "actsearch stop"],
)
def test_a_request_to_stop_drains_and_the_same_command_goes_on(tmp_path: Path, how: str) -> None:
    arguments = [*COMMAND, "search", "runs/a", "--space", "tiny", "--executor", "inline"]
    # A signal comes at once; a command takes seconds to start, in which many of these children end.
    budget = 100 if how == "actsearch stop" else 5
    arguments += ["--steps", "40", "--budget", str(budget)]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: finished(tmp_path / "runs/a") >= 2)
    if how == "actsearch stop":
        asked = actsearch_in(tmp_path, "stop", "runs/a")
        assert f"Asked process {process.pid} on" in asked.stderr
    else:
        process.send_signal(signal.Signals[how])
    said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == errors.RESUMABLE
    assert not (tmp_path / "runs/a/stop").exists()
    assert "nothing runs in" in actsearch_in(tmp_path, "stop", "runs/a").stderr
    assert "nothing is lost, the same command goes on" in said
    stopped_at = finished(tmp_path / "runs/a")
    assert 2 <= stopped_at < budget + 3  # the three baselines are beside the budget
    if how != "SIGINT":  # going on is the same however it was stopped
        return
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == errors.DONE, done.stderr
    assert finished(tmp_path / "runs/a") == budget + 3


@pytest.mark.thorough
def test_the_second_interrupt_ends_at_once_and_loses_nothing_that_had_finished(
    tmp_path: Path,
) -> None:
    arguments = [*COMMAND, "search", "runs/a", "--space", "tiny", "--executor", "inline"]
    arguments += ["--steps", "100000", "--batch-size", "32", "--budget", "1"]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: (tmp_path / "runs/a/run.sqlite").exists())
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # the child goes on to its end
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == errors.INTERRUPTED
    assert "the same command goes on" in said
    rows = Run.open(tmp_path / "runs/a").rows()
    assert rows
    assert {row["status"] for row in rows} <= {None, "rejected"}


def finished(path: Path) -> int:
    if not (path / "run.sqlite").exists():
        return 0
    try:
        return sum(row["status"] not in (None, "rejected") for row in Run.open(path).rows())
    except Exception:  # the file is there before its tables are
        return 0


def test_training_by_ray_keeps_stdout_clean_and_its_token_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in [name for name in os.environ if name.startswith("RAY_AUTH")]:
        monkeypatch.delenv(variable)
    given = ["--functions", "tanh(x)", "--steps", "20", "--workers", "1", "--seeds", "2"]
    done = actsearch_in(tmp_path, "reevaluate", "runs/a", *given, "-f", "json")
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600
    rows = json.loads(done.stdout)
    assert {row["name"] for row in rows} >= {"relu", "swish"}
    assert all(row["n"] == 2 for row in rows)


def test_a_re_evaluation_ends_with_its_table_where_nothing_can_be_said_of_luck(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    rows = [{"formula": "relu(x)", "n": 1}]
    monkeypatch.setattr(
        "actsearch.searching.reevaluation.run_reevaluation", lambda *_: (rows, "done")
    )
    assert cli.main(["reevaluate", "runs/a"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["relu(x)  1"]


@pytest.mark.thorough
def test_a_file_that_would_hide_actsearch_from_the_workers_is_named(tmp_path: Path) -> None:
    (tmp_path / "actsearch.py").write_text("raise SystemExit('the trap was imported')\n")
    script = Path(sys.executable).with_name("actsearch")
    done = subprocess.run(
        [str(script), "search", "runs/a", "--space", SPACE, "--steps", "20"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == errors.ENVIRONMENT
    assert "actsearch.py would be imported" in done.stderr


# A user's modules have the names of our folders, and the child that Ray's workers build uses them.
OWN_NAMES = """
{imports}
import numpy as np
from controller import WIDTH
from workers.deep import DEEP

if __name__ == "__main__":
    x = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    run = actsearch.search(
        "runs/own", child=results.net, dataset=(x, np.arange(120) % 3), space="tiny",
        strategy="random", budget=2, steps=5, batch_size=8, workers=1, quiet=True,
    )
    assert (results.MINE, WIDTH, DEEP) == ("mine", 16, 1)
    print(sorted(row["status"] for row in run.rows() if row["label"]))
"""
OWN_RESULTS = """
from torch import nn
from controller import WIDTH

MINE = "mine"

def net(make_activation, input_shape, classes):
    from workers.deep import DEEP
    width = WIDTH * DEEP
    return nn.Sequential(nn.Linear(*input_shape, width), make_activation(width),
                         nn.Linear(width, classes))
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    "imports",
    [
        "import results, actsearch",
        pytest.param("import actsearch, results", marks=pytest.mark.slow),
    ],
)
def test_a_users_own_modules_may_have_the_names_of_our_folders(
    tmp_path: Path, imports: str
) -> None:
    (tmp_path / "results.py").write_text(OWN_RESULTS)
    (tmp_path / "controller.py").write_text("WIDTH = 16\n")
    (tmp_path / "workers").mkdir()  # without an __init__.py
    (tmp_path / "workers/deep.py").write_text("DEEP = 1\n")
    (tmp_path / "main.py").write_text(OWN_NAMES.format(imports=imports))
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "['ok', 'ok', 'ok']"


def test_a_package_of_ours_under_another_name_is_refused() -> None:
    """In the checkout's folder `import results` would find it a second time, with classes of its
    own."""
    root = Path(actsearch.origin.__file__).resolve().parent.parent
    for name in actsearch.origin.PACKAGES:
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], cwd=root, capture_output=True, text=True
        )
        assert f"this package is actsearch.{name}" in done.stderr


def test_the_public_names_are_there() -> None:
    for name in actsearch.__all__:
        assert getattr(actsearch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        actsearch.serch  # noqa: B018


@pytest.mark.slow  # tests/test_chaos.py kills drivers by default
def test_a_driver_that_is_killed_leaves_a_run_that_the_same_command_finishes(
    tmp_path: Path,
) -> None:
    arguments = [*COMMAND, "search", "runs/a", "--space", "tiny", "--workers", "2"]
    arguments += ["--steps", "60", "--budget", "6"]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: finished(tmp_path / "runs/a") >= 3)
    process.kill()
    process.wait()
    before = {r["id"]: r for r in Run.open(tmp_path / "runs/a").rows() if r["status"]}
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == errors.DONE, done.stderr
    after = {row["id"]: row for row in Run.open(tmp_path / "runs/a").rows()}
    assert before.items() <= after.items()
    assert finished(tmp_path / "runs/a") == 9
    assert None not in {row["status"] for row in after.values()}


def test_a_search_that_is_stopped_before_any_child_has_ended_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from actsearch.searching.loop import STOPPED

    monkeypatch.setattr("actsearch.searching.launch.run_trials", lambda *a: STOPPED)
    command = ["search", str(tmp_path / "run"), "--budget", "2", "--executor", "inline"]
    assert cli.main([*command, "--space", "tiny"]) == 75
    said = capsys.readouterr()
    assert "ended: stopped; nothing is lost, the same command goes on" in said.out
    assert "no function trained" not in said.err


def test_the_command_line_computes_with_one_thread_unless_it_is_told() -> None:
    code = "import sys; sys.argv[1:] = ['--version']; from actsearch.__main__ import main; main(); "
    code += "import torch; print(torch.get_num_threads())"
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for given, threads in (({}, 1), ({"OMP_NUM_THREADS": "2"}, 2)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=free | given,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.stdout.splitlines()[-1] == str(threads), done.stderr


@pytest.mark.parametrize("lost", [True, False])
def test_an_interrupt_while_modules_load_ends_the_command_at_once(
    tmp_path: Path, lost: bool
) -> None:
    """Libraries may swallow what is raised while they load, as this one."""
    caught = "except BaseException: pass" if lost else "finally: pass"
    (tmp_path / "tyro.py").write_text(
        f"import os, signal, time\ntry: os.kill(os.getpid(), signal.SIGINT)\n{caught}\n"
        "print('went on', flush=True)\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "actsearch", "search", "runs/a"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
    assert not (tmp_path / "runs").exists()


def test_an_interrupt_that_the_shell_has_switched_off_stays_so() -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += (
        "import sys; sys.argv[1:] = ['--version']; from actsearch.__main__ import main; main()\n"
    )
    code += "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.fixture(scope="module")
def helps() -> dict[str | None, str]:
    """What each command says of itself, from a process of its own, which has a width of its own."""
    code = (
        "import contextlib, io, json; from actsearch import cli; found = []\n"
        "for words in ([], *([name] for name in cli.COMMANDS)):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        try: assert cli.main([*words, '--help']) == 0, words\n"
        "        except SystemExit as end: assert not end.code, words\n"
        "    found.append(said.getvalue())\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT,
        env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip((None, *cli.COMMANDS), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help_fits_a_terminal_and_leaves_nothing_open(
    command: str | None, helps: dict[str | None, str]
) -> None:
    said = helps[command]
    head, *body = said.splitlines()
    assert head.startswith("usage: actsearch")
    assert max(map(len, body)) <= 80
    assert "(default: )" not in said
    assert "None)" not in said
    assert not re.search(r"\bSTR\b", said)
    if command is None:
        assert all(f"\n  {name} " in said for name in cli.COMMANDS)
        assert "--version" in said
        assert "docs/exit_codes.md" in said
    else:
        assert f"Example: actsearch {command}" in " ".join(said.split())
    if " RUN" in head and command not in ("merge", "propose"):  # where others follow it
        assert "[RUN" in head


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["search", "--steps", "abc"],
            "--steps 'abc' must be a whole number, such as 8\n",
        ),
        (["search", "--lr", "fast"], "actsearch: --lr 'fast' must be a number, such as 0.1\n"),
        (["search", "--screen", "maybe"], "actsearch: unknown --screen 'maybe'. Known: on, off\n"),
        (["top", "-n", "many"], "actsearch: --n 'many' must be a whole number, such as 8\n"),
        (
            ["search", "--stpes", "3"],
            "unknown option '--stpes'; did you mean '--steps'?",
        ),
        (["search", "--steps"], "actsearch: --steps needs a value: --steps INT\n"),
        (["show"], "actsearch: show needs FORMULA; 'actsearch show --help' says"),
        (["show", "relu", "gelu"], "actsearch: show does not take 'gelu'; 'actsearch show"),
        (["worker"], "actsearch: worker needs --ray-address TEXT; "),
        (["serch"], "unknown command 'serch'; did you mean 'search'? Known: search, stop,"),
        ([], "actsearch: a command is missing, such as search; "),
        (["plot", "--of", "lossess"], "unknown --of 'lossess'; did you mean 'losses'? Known:"),
        (["export", "relu", "--to", "tourch"], "unknown --to 'tourch'; did you mean 'torch'?"),
        (["experiment", "mnist-mpl"], "unknown EXPERIMENT 'mnist-mpl'; did you mean 'mnist-mlp'"),
    ],
)
def test_a_wrong_option_is_said_without_the_words_of_a_program(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == errors.USAGE
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1  # a sentence, not a box
    for word in ("None", "class", "literal", "type matching"):
        assert word not in told


def test_the_page_of_exit_codes_has_each_of_them() -> None:
    text = (Path(__file__).parent.parent / "docs/exit_codes.md").read_text()
    named = {v for k, v in vars(errors).items() if k.isupper() and isinstance(v, int)}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == named


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"actsearch {importlib.metadata.version('actsearch')}\n"
