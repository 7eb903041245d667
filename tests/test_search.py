"""Whole searches through the Python API: real children, real data, this process."""

from __future__ import annotations

import json
import math
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import actsearch
from actsearch.child_models.source_digest import source_digest
from actsearch.commands.search import SearchConfig
from actsearch.controller.successive_halving import HalvingConfig
from actsearch.errors import EnvironmentProblem, NoCandidateError, RunError, UsageError
from actsearch.results.store import StoreError
from actsearch.search_space.baselines import BASELINES
from actsearch.search_space.kernels import compiler, fused
from actsearch.search_space.kernels.ahead import Ahead
from actsearch.search_space.parser import parse
from actsearch.searching.loop import run_trials
from actsearch.searching.machinery import Machinery
from actsearch.searching.plan import _default_run, make_plan
from actsearch.searching.reevaluation import reevaluate
from actsearch.searching.sources import StrategySource
from actsearch.settings import resolve
from actsearch.workers.executor import Evaluate, Executor, InlineExecutor

from .conftest import wait_until

Arrays = tuple[np.ndarray, np.ndarray]
QUICK: dict[str, Any] = {"executor": "inline", "quiet": True, "steps": 30, "batch_size": 32}
SPACE = "units=1;unary=identity,relu,tanh;binary=add,mul"


def small_net(
    make_activation: Callable[[int], nn.Module], input_shape: tuple[int, ...]
) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], 16), make_activation(16), nn.Linear(16, 3))


@pytest.fixture
def finished(tmp_path: Path, blobs: Arrays) -> actsearch.Run:
    return actsearch.search(
        tmp_path / "run", space=SPACE, dataset=blobs, child=small_net, budget=5, **QUICK
    )


def test_a_users_own_model_and_data_are_searched(finished: actsearch.Run) -> None:
    table = finished.table(wide=True)
    assert list(table["rank"].dropna()) == list(range(1, 9))
    assert {"relu", "swish"} <= set(table["name"])
    trained = table[table["status"] == "ok"]
    assert len(trained) == 8  # five, and ReLU, Swish and the identity
    assert trained["val accuracy"].is_monotonic_decreasing
    assert set(table["status"]) == {"ok", "rejected"}
    assert {"smooth", "monotonic", "symmetry", "slope_at_0"} <= set(table.columns)
    assert table["val accuracy"].max() > 0.9
    files = {p.name for p in finished.path.iterdir()}
    assert {"config.json", "run.sqlite", "run.log", "top.csv"} <= files
    assert len(files) < 10


def test_ppo_trains_the_cohorts_that_its_search_prints(tmp_path: Path, blobs: Arrays) -> None:
    name = "ppo:batch_size=3+halving:eta=2,rungs=3,cohort=8"
    options: dict[str, Any] = {**QUICK, "steps": 24, "space": "two-units", "strategy": name}
    run = actsearch.search(tmp_path / "run", dataset=blobs, child=small_net, budget=8, **options)
    with closing(sqlite3.connect(run.path / "run.sqlite")) as db:
        trained = db.execute(
            "SELECT json_extract(d.description, '$.recipe.steps'), count(*) FROM proposals p "
            "JOIN trials t ON t.id = p.trial JOIN protocols d ON d.hash = t.protocol "
            "GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert trained == [(6, 8), (12, 4), (24, 2)]
    assert HalvingConfig(eta=2, rungs=3, cohort=8).words(24) == "8 x 6, 4 x 12, 2 x 24"


def test_the_same_search_again_trains_nothing(finished: actsearch.Run, blobs: Arrays) -> None:
    before = finished.rows()
    again = actsearch.search(
        finished.path, space=SPACE, dataset=blobs, child=small_net, budget=5, **QUICK
    )
    assert again.rows() == before


def test_a_larger_budget_goes_on_and_keeps_what_is_known(
    finished: actsearch.Run, blobs: Arrays
) -> None:
    before = {row["id"]: row for row in finished.rows()}
    actsearch.search(finished.path, space=SPACE, dataset=blobs, child=small_net, budget=8, **QUICK)
    after = {row["id"]: row for row in finished.rows()}
    assert sum(row["status"] == "ok" for row in after.values()) == 11
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"steps": 40}, "steps=30"), ({"seed": 1}, "seed=0"), ({"space": "tiny"}, "space=units=1")],
)
def test_what_identifies_a_run_cannot_change(
    finished: actsearch.Run, blobs: Arrays, change: dict[str, Any], named: str
) -> None:
    options = {"space": SPACE, "dataset": blobs, "child": small_net, "budget": 8, **QUICK}
    before = finished.rows()
    with pytest.raises(RunError, match=named):
        actsearch.search(finished.path, **{**options, **change})
    assert finished.rows() == before


def test_an_edited_model_is_another_run(finished: actsearch.Run, blobs: Arrays) -> None:
    def small_net(make_activation: Callable[[int], nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 17), make_activation(17), nn.Linear(17, 3))

    with pytest.raises(RunError, match="child="):
        actsearch.search(finished.path, space=SPACE, dataset=blobs, child=small_net, **QUICK)


def net_of(make_activation: Callable[[int], nn.Module], width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), make_activation(width), nn.Linear(width, 3))


class Net:
    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, make_activation: Callable[[int], nn.Module]) -> nn.Module:
        return net_of(make_activation, self.width)

    build = __call__


def closed_over(width: int) -> Callable[[Callable[[int], nn.Module]], nn.Module]:
    return lambda make_activation: net_of(make_activation, width)


MADE = {
    "partial": lambda width: partial(net_of, width=width),
    "object": Net,
    "method": lambda width: Net(width).build,
    "closure": closed_over,
}


@pytest.mark.thorough
@pytest.mark.parametrize("how", MADE)
def test_what_a_model_was_made_with_is_part_of_it_and_its_place_in_memory_is_not(how: str) -> None:
    digests = [source_digest(MADE[how](width)) for width in (4, 4, 5)]
    assert digests[0] == digests[1] != digests[2]
    code = (
        "from tests.test_search import MADE, source_digest; import sys\n"
        f"sys.stdout.write(source_digest(MADE[{how!r}](4)))"
    )
    root = Path(__file__).parent.parent
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert there.stdout == digests[0], there.stderr


def test_a_model_that_only_its_place_in_memory_names_is_refused() -> None:
    class Slots:
        __slots__ = ()

        def __call__(self, make_activation: Any) -> nn.Module:
            raise NotImplementedError

    with pytest.raises(ValueError, match="use a function"):
        source_digest(Slots())


def test_a_stop_that_is_asked_for_while_the_search_starts_is_heard_and_ends_the_script(
    finished: actsearch.Run, blobs: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = StrategySource.anything_left

    def asked(self: StrategySource, should_stop: Callable[[], bool]) -> bool:
        finished.stop()
        return whole(self, should_stop)

    before = finished.rows()
    finished.stop_request.touch()  # as a driver leaves it that is killed: of no account
    options = {"space": SPACE, "dataset": blobs, "child": small_net, "budget": 8, **QUICK}
    with monkeypatch.context() as patch:
        patch.setattr(StrategySource, "anything_left", asked)
        with pytest.raises(KeyboardInterrupt, match="was asked to stop; nothing is lost"):
            actsearch.search(finished.path, **options)
    assert finished.rows() == before
    assert not finished.stop_request.exists()
    actsearch.search(finished.path, **options)
    assert len(finished.rows()) > len(before)


def test_a_search_computes_with_one_thread_and_gives_the_others_back(
    tmp_path: Path, blobs: Arrays
) -> None:
    before, seen = torch.get_num_threads(), set[int]()
    torch.set_num_threads(2)
    try:
        actsearch.search(
            tmp_path / "run", space=SPACE, dataset=blobs, child=small_net, budget=1,
            callbacks=[lambda *told: seen.add(torch.get_num_threads())], **QUICK,
        )  # fmt: skip
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_a_stop_of_a_reevaluation_ends_the_script_too(
    finished: actsearch.Run, blobs: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*args: Any) -> str:
        finished.stop()
        return run_trials(*args)

    options = {"functions": ["gelu(x)"], "seeds": 2, "child": small_net, "dataset": blobs, **QUICK}
    with monkeypatch.context() as patch:
        patch.setattr("actsearch.searching.batch.run_trials", stopping)
        with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
            actsearch.reevaluate(finished, **options)
    assert actsearch.reevaluate(finished, **options)["n"].min() == 2


def test_data_that_were_given_as_a_path_are_known_by_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "blobs.npz"
    y = np.arange(200) % 3
    np.savez(file, x_train=rng.normal(size=(200, 8)).astype(np.float32), y_train=y,
             x_test=rng.normal(size=(30, 8)).astype(np.float32), y_test=y[:30])  # fmt: skip
    run = actsearch.search(
        tmp_path / "run", space=SPACE, dataset=file, child="mlp", budget=1, **QUICK
    )
    assert run.config["settings"]["dataset"] == str(file)
    assert set(reevaluate(run, seeds=1, **QUICK)["name"]) >= {"relu", "swish"}


def test_an_inline_search_says_nothing_of_rays_workers(finished: actsearch.Run) -> None:
    assert finished.config["settings"]["workers"] is None


def test_a_run_in_use_is_refused_with_its_holder(finished: actsearch.Run, blobs: Arrays) -> None:
    with finished.locked(), pytest.raises(RunError, match="in use by process"):
        actsearch.search(
            finished.path, space=SPACE, dataset=blobs, child=small_net, budget=5, **QUICK
        )


def test_a_process_that_a_driver_starts_does_not_inherit_its_lock(finished: actsearch.Run) -> None:
    def free() -> bool:
        try:
            with finished.locked():
                return True
        except RunError:
            return False

    with finished.locked():
        sleeper = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            close_fds=False,
        )
    try:  # between fork and exec the child has it for an instant
        wait_until(free)
    finally:
        sleeper.communicate()


@pytest.mark.parametrize(
    ("child", "sentence"),
    [
        (lambda make_activation: nn.Linear(8, 3), "has no activation by make_activation in it"),
        (nn.Linear(8, 3), "calls none of the usual activations.*its modules are Linear"),
    ],
)
def test_a_model_without_the_candidate_is_refused(
    tmp_path: Path, blobs: Arrays, child: Any, sentence: str
) -> None:
    with pytest.raises((UsageError, ValueError), match=sentence):
        actsearch.search(tmp_path / "run", space=SPACE, dataset=blobs, child=child, **QUICK)
    assert not (tmp_path / "run" / "run.sqlite").exists()


def test_a_model_that_fails_says_so_before_anything_is_stored(
    tmp_path: Path, blobs: Arrays
) -> None:
    def broken(make_activation: Callable[[int], nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Linear(5, 16), make_activation(16), nn.Linear(16, 3))

    with pytest.raises(UsageError, match=r"the child .*broken fails with ReLU"):
        actsearch.search(tmp_path / "run", space=SPACE, dataset=blobs, child=broken, **QUICK)
    assert not (tmp_path / "run").exists()


class PoisonAfterTraining(nn.Module):
    """Finite while training, NaN in evaluation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training else x * math.nan


def test_a_network_of_nans_is_diverged_and_never_scores_chance(
    tmp_path: Path, blobs: Arrays
) -> None:
    def poisoned(make_activation: Callable[[int], nn.Module]) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 16), make_activation(16), nn.Linear(16, 3), PoisonAfterTraining()
        )

    run = actsearch.search(
        tmp_path / "run", space=SPACE, dataset=blobs, child=poisoned, budget=2, **QUICK
    )
    table = run.table(wide=True)
    assert set(table["status"]) == {"diverged", "rejected"}
    assert table["val accuracy"].isna().all()
    diverged = table[table["status"] == "diverged"]
    assert diverged["reason"].str.contains("logits not finite").all()
    with pytest.raises(NoCandidateError, match="5 diverged"):
        from actsearch.searching.launch import check_found

        check_found(run)


class Wave(torch.autograd.Function):
    """x + sin(x)^2 with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x + torch.sin(x) ** 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * (1 + torch.sin(2 * x))


@pytest.mark.parametrize(
    "fn", [lambda x: x + torch.sin(x) ** 2, lambda x: Wave.apply(x)], ids=["plain", "custom"]
)
def test_an_operator_of_ones_own_is_searched_and_reevaluated(
    tmp_path: Path, blobs: Arrays, fn: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    wave = actsearch.Op("wave", 1, fn)
    space = actsearch.Space(unary=(actsearch.UNARY[0], wave), binary=actsearch.BINARY[:1])
    options: dict[str, Any] = {"dataset": blobs, "child": small_net, **QUICK}
    run = actsearch.search(tmp_path / "run", space=space, **options)
    assert "wave(x)" in " ".join(run.table()["formula"])
    table = reevaluate(run, functions=["wave(x)"], space=space, seeds=1, **options)
    assert set(table["formula"]) >= {"wave(x)", "relu(x)"}


def test_reevaluation_gives_every_function_the_same_seeds_and_a_paired_difference(
    finished: actsearch.Run, blobs: Arrays
) -> None:
    options: dict[str, Any] = {"dataset": blobs, "child": small_net, **QUICK}
    table = reevaluate(finished, top=2, seeds=3, **options)
    assert set(table["n"]) == {3}
    assert len(table) == 4
    assert list(table["test accuracy"]) == sorted(table["test accuracy"], reverse=True)
    scores: dict[str, dict[int, float]] = {}
    for row in finished.rows("reevaluate"):
        scores.setdefault(row["formula"], {})[row["seed"]] = row["test_score"]
    for _, row in table.iterrows():
        own, relu = scores[row["formula"]], scores["relu(x)"]
        assert own.keys() == relu.keys() == {1, 2, 3}  # 0 chose them
        assert row["test accuracy"] == pytest.approx(np.mean(list(own.values())))
        if row["name"] != "relu":
            expected = np.mean([own[s] - relu[s] for s in (1, 2, 3)])
            assert row["to relu, paired"] == pytest.approx(expected)
    assert reevaluate(finished, top=2, seeds=3, **options).equals(table)
    assert len(finished.rows("reevaluate")) == 12


def test_the_search_never_reads_the_test_split(finished: actsearch.Run) -> None:
    assert all(row["test_score"] is None for row in finished.rows())


def test_the_test_split_has_no_part_in_the_search(tmp_path: Path, blobs: Arrays) -> None:
    x, y = blobs
    tables = []
    for name, test in (("a", x[300:]), ("b", -x[300:])):
        data = (x[:300], y[:300], test, y[300:])
        run = actsearch.search(
            tmp_path / name, space=SPACE, dataset=data, child=small_net, budget=3, **QUICK
        )
        tables.append(list(run.table()["val accuracy"].dropna()))
    assert len(tables[0]) == 6
    assert tables[0] == tables[1]


def test_unsaid_settings_come_from_the_run(finished: actsearch.Run) -> None:
    stored = finished.config["settings"]
    config = SearchConfig(run=str(finished.path), budget=9)
    settings = resolve(vars(config), stored)
    assert (settings.steps, settings.budget, settings.space) == (30, 9, SPACE)


def test_a_run_that_left_symmetric_functions_out_is_read_but_not_resumed(
    finished: actsearch.Run, blobs: Arrays
) -> None:
    config = finished.config
    assert "skip_symmetric" not in config["settings"]
    again = {"space": SPACE, "dataset": blobs, "child": small_net, **QUICK}
    for stored in ("on", "off"):
        config["settings"]["skip_symmetric"] = stored
        finished.write_config(config)
        assert len(actsearch.Run.open(finished.path).table()) > 5
        if stored == "on":
            with pytest.raises(RunError, match=r"made with --skip-symmetric on, .* that is gone"):
                actsearch.search(finished.path, budget=6, **again)
    run = actsearch.search(finished.path, budget=6, **again)  # off was the default
    assert "skip_symmetric" not in run.config["settings"]
    assert sum(run.table()["name"] == "") >= 6


def test_a_preset_that_is_said_overrules_what_the_run_has(finished: actsearch.Run) -> None:
    settings = resolve(vars(SearchConfig(preset="paper")), finished.config["settings"])
    assert (settings.steps, settings.child) == (10_000, "resnet20")


def test_the_plan_counts_functions_without_repeats(tmp_path: Path) -> None:
    config = SearchConfig(run=str(tmp_path / "run"), executor="inline", steps=20)
    plan = make_plan(config)
    assert plan.distinct is not None
    assert plan.distinct < plan.space.size == 192
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kernels", ["auto", "generated", "eager"])
def test_the_kind_of_kernels_that_was_asked_for_reaches_the_children(
    kernels: Any, tmp_path: Path
) -> None:
    plan = make_plan(SearchConfig(run=str(tmp_path / "r"), space="tiny", kernels=kernels))
    assert plan.evaluator.kernels == kernels


def test_a_search_ends_by_saying_what_was_computed_slower_than_was_asked_for_and_why(
    tmp_path: Path, blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"space": SPACE, "strategy": "random", "budget": 3, **QUICK}
    options |= {"dataset": blobs, "child": small_net}
    assert actsearch.search(tmp_path / "fast", **options).slower() == []
    assert actsearch.search(tmp_path / "eager", **options, kernels="eager").slower() == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "compiler", lambda: None)
    fused.kernel.cache_clear()
    [said] = actsearch.search(tmp_path / "slow", **options).slower()
    fused.kernel.cache_clear()
    count = "6 of 6 children computed activations in eager mode: "
    assert said == count + "no C compiler ($CC, cc, gcc, clang)"


def test_an_image_size_is_for_folders(tmp_path: Path, blobs: Any) -> None:
    options: dict[str, Any] = {"run": str(tmp_path / "r"), "space": "tiny"}
    with pytest.raises(UsageError, match="--image-size 8 is for folders of images"):
        make_plan(SearchConfig(**options, image_size=8))
    run = actsearch.search(tmp_path / "r", budget=1, dataset=blobs, child=small_net, **QUICK)
    with pytest.raises(UsageError, match="--image-size 8 is for folders of images"):
        actsearch.reevaluate(run, dataset=blobs, child=small_net, image_size=8)


@pytest.mark.parametrize("graphs", ["on", "off", "auto", None])
def test_cuda_graphs_are_asked_for_and_are_no_part_of_what_a_search_is(
    graphs: Any, tmp_path: Path
) -> None:
    plan = make_plan(SearchConfig(run=str(tmp_path / "r"), space="tiny", cuda_graphs=graphs))
    assert plan.evaluator.cuda_graphs == (graphs != "off")
    usual = make_plan(SearchConfig(run=str(tmp_path / "r"), space="tiny"))
    assert plan.evaluator.protocol == usual.evaluator.protocol


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_the_precision_that_was_asked_for_reaches_the_children(
    precision: Any, tmp_path: Path
) -> None:
    plan = make_plan(SearchConfig(run=str(tmp_path / "r"), space="tiny", precision=precision))
    assert plan.evaluator.recipe.precision == (precision or "fp32")


def test_a_search_has_its_kernels_built_before_the_children_ask(
    tmp_path: Path, blobs: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[set[str], list[str]]] = []

    class Noting(Ahead):
        def __call__(self, exprs: Any) -> None:
            told.append(({layout for _, _, layout in self.kinds}, list(map(str, exprs))))
            super().__call__(exprs)

    monkeypatch.setattr("actsearch.searching.launch.Ahead", Noting)
    options: dict[str, Any] = {"space": SPACE, "dataset": blobs, "child": small_net, **QUICK}
    run = actsearch.search(tmp_path / "run", **options)
    trained = {r["expression"] for r in run.rows() if r["status"] == "ok"} - {"relu(x)"}
    prepared = {text for _, texts in told for text in texts}
    assert trained - prepared <= {str(parse(BASELINES["swish"])), "x"}
    assert all(layouts == {"flat", "columns"} for layouts, _ in told)


@pytest.mark.parametrize("name", ["../../etc/passwd.npz", "a b;$(rm -rf ~).npz", "..npz"])
def test_a_run_without_a_name_stays_under_runs(name: str) -> None:
    run = _default_run(SearchConfig(dataset=name), {})
    assert run.parent == Path("runs")
    assert re.fullmatch(r"[A-Za-z0-9._+=,-]+", run.name)
    assert run.name.startswith("tiny-exhaustive-")


def test_config_json_says_what_was_run(finished: actsearch.Run) -> None:
    config = json.loads((finished.path / "config.json").read_text())
    assert config["identity"]["protocol"]["recipe"]["steps"] == 30
    assert config["environment"]["torch"] == torch.__version__


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path, blobs: Arrays) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*file/run"):
        actsearch.search(
            tmp_path / "file/run", space=SPACE, dataset=blobs, child=small_net, **QUICK
        )


def test_a_missing_run_and_a_misspelt_option_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run at"):
        actsearch.Run.open(tmp_path / "none")
    with pytest.raises(TypeError, match="no option 'bugdet'"):
        actsearch.search(tmp_path, bugdet=3)


def test_no_more_workers_are_started_than_a_command_can_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blobs: Arrays
) -> None:
    """`--workers 100` started a hundred processes for three trainings."""
    started: list[int | None] = []

    def start(
        self: Machinery, evaluate: Evaluate, most: int | None, look: Callable[[], object]
    ) -> Executor:
        started.append(most)
        return InlineExecutor(evaluate)

    monkeypatch.setattr(Machinery, "start", start)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    options: dict[str, Any] = {**QUICK, "executor": "ray", "workers": 100}
    run = actsearch.search(
        tmp_path / "run", space=SPACE, dataset=blobs, child=small_net, budget=1, **options
    )
    reevaluate(run, functions=["relu"], seeds=2, dataset=blobs, child=small_net, **options)
    log = (run.path / "run.log").read_text()
    for trainings in started:
        assert f"--workers 100: {trainings} workers start, since there are {trainings} train" in log
    assert started == [4, 4]  # three baselines beside the one; each of two with two seeds
