"""Confirming: what is believed after further seeds, what is trained again, and exact resumption."""

from __future__ import annotations

import html
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actsearch.cli import main
from actsearch.controller.confirming import to_confirm
from actsearch.controller.strategies import STRATEGIES, strategy_from
from actsearch.reading.confirming import conclusion
from actsearch.results.expectation import Beliefs, believe
from actsearch.results.leaderboard import leaderboard
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.search_space.space import SPACES
from actsearch.searching.confirming import Confirm
from actsearch.searching.identity import Candidates, Level
from actsearch.searching.live import lines, plain_line
from actsearch.searching.loop import run_trials
from actsearch.searching.progress import Progress, Tally
from actsearch.searching.proposals import Proposals
from actsearch.searching.reevaluation import _seeds
from actsearch.searching.sources import StrategySource, asking
from actsearch.settings import ReevaluateOptions
from actsearch.workers.executor import Beat, InlineExecutor

from .conftest import wait_until

ONE_UNIT = SPACES["one-unit"]
RELU = "relu(x)"


# -- what is believed


def made_up(seed: int, n: int = 60, sd: float = 1.0, noise: float = 0.8) -> dict[str, Any]:
    """A search of functions whose true worths are known, and its best confirmed."""
    rng = np.random.default_rng(seed)
    worth, common = sd * rng.standard_normal(n), 0.4 * rng.standard_normal(8)
    scores = worth[:, None] + common + noise * rng.standard_normal((n, 8))
    first = {f"f{i:02}": float(scores[i, 0]) for i in range(n)}
    best = sorted(first, key=lambda f: -first[f])[:6]
    seeds = {f: 1 + (rank < 4) + (rank < 2) for rank, f in enumerate(best)}
    again = {f: {s: float(scores[int(f[1:]), s]) for s in range(1, 1 + seeds[f])} for f in best}
    relu = -1 + common + noise * rng.standard_normal(8)
    return {
        "first": first,
        "again": again,
        "baselines": {RELU: {s: float(relu[s]) for s in range(4)}},
        "worth": {f"f{i:02}": float(worth[i]) for i in range(n)},
        "noise": noise,
    }


def believed(made: dict[str, Any]) -> Beliefs:
    found = believe(made["first"], made["again"], made["baselines"])
    assert found is not None
    return found


def winner(beliefs: Beliefs) -> str:
    return max((f for f in beliefs.worth if f != RELU), key=lambda f: beliefs.worth[f][0])


def test_what_is_expected_of_the_winner_is_not_its_luck_and_its_interval_covers() -> None:
    inside, above, raw, gained = 0, [], [], 0
    for seed in range(60):
        made = made_up(seed)
        beliefs = believed(made)
        name = winner(beliefs)
        again, gain = beliefs.again(name), beliefs.gain(name, RELU)
        true = made["worth"][name]
        inside += again.low <= true <= again.high
        gained += gain.low <= true + 1 <= gain.high
        above.append(again.mean - true)
        best = max(made["first"], key=made["first"].__getitem__)
        raw.append(made["first"][best] - made["worth"][best])
    assert inside >= 53  # of 60: 95 % would be 57
    assert gained >= 52
    assert abs(np.mean(above)) < 0.25
    assert np.mean(raw) > 0.6  # which naive searches claim too much


def test_the_noise_is_that_of_a_training_whatever_seeds_do_to_all_alike() -> None:
    found = [believed(made_up(seed)).noise_sd for seed in range(30)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.12)
    made = made_up(0)
    moved = {
        **made,
        "again": {f: {s: y + 10.0 * s for s, y in v.items()} for f, v in made["again"].items()},
        "baselines": {RELU: {s: y + 10.0 * s for s, y in made["baselines"][RELU].items()}},
    }
    before, after = believed(made), believed(moved)
    assert after.noise_sd == pytest.approx(before.noise_sd)
    for name, (mean, sd) in before.worth.items():
        assert after.worth[name] == (pytest.approx(mean), pytest.approx(sd))


def test_beliefs_do_not_depend_on_the_unit() -> None:
    made = made_up(3)

    def scaled(scores: dict[Any, float]) -> dict[Any, float]:
        return {k: 1e-4 * y - 7 for k, y in scores.items()}

    before = believed(made)
    after = believe(
        scaled(made["first"]),
        {f: scaled(v) for f, v in made["again"].items()},
        {RELU: scaled(made["baselines"][RELU])},
    )
    assert after is not None
    for name, (mean, sd) in before.worth.items():
        assert after.worth[name][0] == pytest.approx(1e-4 * mean - 7, abs=1e-9)
        assert after.worth[name][1] == pytest.approx(1e-4 * sd, rel=1e-3)


def test_without_a_prior_a_baseline_is_worth_its_mean() -> None:
    """By hand: two functions alone, so that effects of seeds are those of the baseline's."""
    first = {f"f{i}": 0.1 * i for i in range(12)}
    beliefs = believe(first, {}, {RELU: {0: 0.5}})
    assert beliefs is not None
    assert beliefs.worth[RELU][0] == pytest.approx(0.5)


def test_nothing_is_believed_of_fewer_than_ten_functions_or_of_none_that_differ() -> None:
    assert believe({f"f{i}": 0.1 * i for i in range(9)}, {}, {}) is None
    equal = believe({f"f{i}": 0.5 for i in range(40)}, {"f0": {1: 0.5}}, {RELU: {0: 0.5, 1: 0.5}})
    assert equal is not None
    assert all(math.isfinite(mean) for mean, _ in equal.worth.values())


# -- what is trained again


def chosen(left: int | None, hits: float, noise: float = 0.8, sd: float = 1.0) -> str | None:
    made = made_up(5, noise=noise, sd=sd)
    trainings = {f: 1 + len(made["again"].get(f, ())) for f in made["first"]}
    return to_confirm(believed(made), made["first"], trainings, left, hits, 3)


def test_new_functions_come_before_confirming_until_little_is_left() -> None:
    assert chosen(left=100, hits=0.5) is None
    assert chosen(left=4, hits=0.02) is not None
    assert chosen(left=1000, hits=0.0) is None  # out of reach


def test_how_much_goes_into_confirming_follows_from_the_noise() -> None:
    """Where a training says all, nothing is to be confirmed."""

    def most(noise: float) -> int:
        return max((n for n in range(2, 40, 2) if chosen(n, 0.25, noise=noise)), default=0)

    quiet, loud = most(0.02), most(1.5)
    assert quiet < loud


def test_with_nothing_new_left_confirming_ends_where_it_is_not_worth_it() -> None:
    assert chosen(left=None, hits=0.5, noise=1.0) is not None
    first = {f"f{i:02}": 1.0 * i for i in range(40)}
    again = {"f39": {1: 39.0, 2: 39.001}, "f38": {1: 38.0, 2: 38.001}}
    relu = {RELU: {0: 0.0, 1: 0.0, 2: 0.001}}
    beliefs = believe(first, again, relu)
    assert beliefs is not None
    trainings = {f: 1 + len(again.get(f, ())) for f in first}
    assert to_confirm(beliefs, first, trainings, None, 0.5, 2) is None


@pytest.mark.parametrize("name", [*STRATEGIES, "random+halving"])
def test_a_revised_reward_is_kept_and_survives_storing(name: str) -> None:
    strategy = strategy_from(name, SPACES["tiny"], 0)
    told = []
    while len(told) < 12 and (proposals := strategy.ask(1)):
        strategy.tell(proposals[0], 0.5 + 0.01 * len(told))
        told.append(proposals[0].digits)
    strategy.revise(told[0], 0.123456789)
    state = strategy.state_dict()
    again = strategy_from(name, SPACES["tiny"], 0)
    again.load_state_dict(state)
    assert again.state_dict() == state
    keeps = name in ("evolution", "surrogate", "ppo")
    assert ("0.123456789" in repr(state)) == keeps
    assert again.ask(3) == strategy.ask(3)


# -- in the loop


def score(trial: Trial) -> float:
    rng = np.random.default_rng([*map(ord, trial.subject)])
    worth = rng.normal(0.5, 0.05)
    noise = np.random.default_rng([trial.seed, *map(ord, trial.subject)]).normal(0, 0.04)
    return float(worth + 0.01 * trial.seed + noise)


class Child:
    """A stub that dies at the `die_at`-th training."""

    def __init__(self, die_at: int | None = None) -> None:
        self.trained: list[tuple[str, str, int]] = []
        self.die_at = die_at

    def __call__(self, trial: Trial, beat: Beat) -> Outcome:
        if len(self.trained) == self.die_at:
            raise KeyboardInterrupt
        self.trained.append((trial.kind, trial.subject, trial.seed))
        return Outcome("ok", val_score=score(trial))


def level(share: float) -> Level:
    return Level("search", "p") if share == 1.0 else Level("rung", f"p{share}")


def source(
    store: Store, strategy: str = "random", budget: int | None = 40, on: bool = True, **how: Any
) -> StrategySource:
    beside = store.submit("search", RELU, "p", 0, label="relu")
    store.set_beside({RELU: False})
    space = how.pop("space", ONE_UNIT)
    made = strategy_from(strategy, space, 0)
    proposals = Proposals(store, made, strategy, Candidates(store, space), level)
    confirm = Confirm(level(1.0), 0, RELU) if on else None
    chain = asking(proposals, budget=budget, patience=1000, screening=False, confirm=confirm)
    return StrategySource(proposals, chain, [beside])


def run(store: Store, child: Any, **options: Any) -> str:
    made = source(store, **options)
    return run_trials(store, made, InlineExecutor(child), Progress("t", "w", None))


def test_the_budget_counts_trainings_and_the_best_are_trained_with_the_next_seeds(
    store: Store,
) -> None:
    child = Child()
    assert run(store, child, budget=40) == "budget spent"
    confirming = [(subject, seed) for kind, subject, seed in child.trained if kind == "confirm"]
    assert 2 <= len(confirming) < 38
    assert len(child.trained) == 1 + 40  # ReLU's own, with the search's seed, is beside
    assert len(set(confirming)) == len(confirming)
    seeds: dict[str, list[int]] = {}
    for subject, seed in confirming:
        seeds.setdefault(subject, []).append(seed)
    assert all(found == [*range(1, 1 + len(found))] for found in seeds.values())
    most = max(len(found) for subject, found in seeds.items() if subject != RELU)
    assert len(seeds[RELU]) in (most, most - 1)  # not with the seed of the very last training
    rows = [row for row in store.rows("search") if not row["beside"]]
    head = sorted(rows, key=lambda row: -row["val_score"])[:12]
    assert seeds.keys() - {RELU} <= {row["expression"] for row in head}


def test_a_resumed_budget_pays_for_trainings_that_confirmed(store: Store) -> None:
    run(store, Child(), budget=40)
    again = Child()
    assert run(store, again, budget=40) == "budget spent"
    assert not again.trained
    assert run(store, again, budget=43) == "budget spent"
    assert len(again.trained) == 3


def test_without_confirming_nothing_is_trained_twice(store: Store) -> None:
    child = Child()
    run(store, child, on=False)
    assert {kind for kind, *_ in child.trained} == {"search"}
    assert len(child.trained) == 41


def test_a_space_that_is_exhausted_is_confirmed_until_that_is_worth_nothing(store: Store) -> None:
    child = Child()
    reason = run(store, child, strategy="exhaustive", budget=None, space=SPACES["tiny"])
    assert reason == "space exhausted"
    kinds = [kind for kind, *_ in child.trained]
    assert kinds.index("confirm") == kinds.count("search")
    assert 2 <= kinds.count("confirm") <= 128


@pytest.mark.parametrize("strategy", ["evolution", "surrogate:pool=40", "ppo:pool=40"])
def test_a_search_broken_off_anywhere_goes_on_exactly(strategy: str, tmp_path: Path) -> None:
    def stored(path: Path) -> list[Any]:
        with_scores = [
            (r["kind"], r["expression"], r["seed"], r["val_score"])
            for kind in ("search", "confirm")
            for r in found.rows(kind)
        ]
        return [with_scores, found.strategy(strategy)]

    found = Store(tmp_path / "whole.sqlite", create=True)
    found.add_protocol("p", {"recipe": {"steps": 1}})
    run(found, Child(), strategy=strategy, budget=30)
    whole = stored(tmp_path)
    assert any(row[0] == "confirm" for row in whole[0])
    found = Store(tmp_path / "broken.sqlite", create=True)
    found.add_protocol("p", {"recipe": {"steps": 1}})
    for at in (12, 9, 2, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(found, Child(die_at=at), strategy=strategy, budget=30)
        found.close()
        found = Store(tmp_path / "broken.sqlite")
    run(found, Child(), strategy=strategy, budget=30)
    assert stored(tmp_path) == whole


def test_a_strategy_is_told_the_posterior_means(store: Store) -> None:
    made = source(store, strategy="evolution", budget=40)
    run_trials(store, made, InlineExecutor(Child()), Progress("t", "w", None))
    alive = {reward for _, reward in made.proposals.strategy.state_dict()["alive"]}
    entries = leaderboard(store.rows("search"), confirm=store.rows("confirm"))
    worths = {e.worth for e in entries if e.worth is not None and not e.beside}
    assert len(alive & worths) >= 3
    assert not alive & {e.val_score for e in entries if e.seeds > 1 and not e.beside}


def test_a_function_that_fails_with_another_seed_is_out_of_the_running(store: Store) -> None:
    def child(trial: Trial, beat: Beat) -> Outcome:
        if trial.kind == "confirm" and trial.subject != RELU:
            return Outcome("diverged", "loss nan at step 3", step=3)
        return Outcome("ok", val_score=score(trial))

    run(store, child, budget=40)
    entries = leaderboard(store.rows("search"), confirm=store.rows("confirm"))
    failed = {r["expression"] for r in store.rows("confirm")} - {RELU}
    assert failed
    assert {e.expression for e in entries if e.status == "failed"} == failed
    assert all(e.rank is None for e in entries if e.expression in failed)
    assert len(store.rows("confirm")) > len(failed)


def test_ranks_are_by_what_is_expected_and_off_they_are_by_score(store: Store) -> None:
    run(store, Child(), budget=60)
    rows, again = store.rows("search"), store.rows("confirm")
    off, on = leaderboard(rows), leaderboard(rows, confirm=again)
    scores = [e.val_score for e in off if e.val_score is not None]
    assert scores == sorted(scores, reverse=True)
    worths = [e.worth for e in on if e.worth is not None]
    assert worths == sorted(worths, reverse=True)
    assert {e.expression for e in on[: len(worths)]} == {e.expression for e in on if e.worth}
    assert all(e.expected is None for e in off)
    best = on[0].expected
    assert best is not None
    assert best.low < best.mean < best.high
    assert {e.expression: e.val_score for e in on} == {e.expression: e.val_score for e in off}


def test_the_screen_counts_what_confirms_and_its_bar_ends_at_the_end() -> None:
    progress = Progress("t", "w", 91, beyond=True)
    progress.update(Tally(done=95, confirmed=4), 0)
    assert "95/95" in lines(progress)[1]
    assert "confirming 4" in "".join(lines(progress))
    progress = Progress("t", "w", 100)
    progress.update(Tally(done=95, confirmed=4), 0)
    assert "95/100" in plain_line(progress)


# -- the whole command


SEARCH = textwrap.dedent(
    """
    import sys, zlib
    import numpy as np
    import torch
    import actsearch

    def train(make_activation, seed, steps, report):
        y = make_activation(2)(torch.linspace(-2, 2, 9)[:, None].repeat(1, 2)).detach().sum()
        name = zlib.crc32(f"{y.item():.4f}".encode())
        worth = np.random.default_rng(name).normal(0.5, 0.05)
        return {"accuracy": float(worth + np.random.default_rng([seed, name]).normal(0, 0.04))}

    run = actsearch.search(
        sys.argv[1], objective=train, maximise="accuracy", space="tiny", strategy="evolution",
        budget=26, confirm="on", executor="inline", quiet=True,
    )
    """
)


@pytest.mark.thorough
def test_a_search_that_is_killed_ends_as_one_that_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.py").write_text(SEARCH)
    command = [sys.executable, str(tmp_path / "s.py")]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # threads that wait for each other take minutes

    def trained(name: str) -> int:
        file = tmp_path / name / "run.sqlite"
        if not file.is_file():
            return 0
        try:
            found = Store(file, readonly=True)
        except Exception:
            return 0
        try:
            return len(found.rows("confirm"))
        finally:
            found.close()

    process = subprocess.Popen([*command, str(tmp_path / "killed")], env=alone)
    wait_until(lambda: trained("killed") >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for name in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / name)], check=True, env=alone)
    killed, whole = (
        [
            [(r["expression"], r["seed"], r["val_score"]) for r in store.rows(kind)]
            for kind in ("search", "confirm")
        ]
        for store in (Store(tmp_path / name / "run.sqlite") for name in ("killed", "whole"))
    )
    assert killed == whole
    run = Run.open(tmp_path / "whole")
    winner, luck, spent = conclusion(run)
    first = next(e for e in run.leaderboard() if not e.beside)
    assert first.expected is not None
    assert winner.startswith(f"{first.formula} is the best of ")
    assert run.metric.text(first.expected.mean) in winner
    assert "than relu" in winner
    assert luck.startswith("The best single score, ")
    assert spent.startswith(f"{len(run.rows('confirm'))} of 26 trainings")
    for command in (["top"], ["report"]):
        assert main([*command, str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert winner in shown
    assert "expected 95 %" in shown
    page = html.unescape((run.path / "report.html").read_text())
    assert winner in page
    assert "expected again" in page
    confirmed = {row["seed"] for row in run.rows("confirm")}
    assert min(_seeds(ReevaluateOptions(run=str(run.path)), run, _models_of(run))) > max(confirmed)


def _models_of(run: Run) -> Any:
    """A model whose protocol is the search's own."""
    evaluator = SimpleNamespace(protocol=run.config["identity"]["protocol"])
    return [SimpleNamespace(evaluators=[evaluator])]
