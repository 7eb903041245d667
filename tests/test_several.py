"""Several objectives: sorting and volumes against brute force, strategies that are told several
scores, searches with them from start to end, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import actsearch
from actsearch.cli import main
from actsearch.commands.line import read_command
from actsearch.commands.top import TopConfig
from actsearch.controller.evolution import EvolutionConfig
from actsearch.controller.nsga2 import NSGA2
from actsearch.controller.parego import RHO, scalarised, weights
from actsearch.controller.several import (
    OfSeveral,
    Told,
    better,
    crowded_order,
    crowding,
    sorted_fronts,
)
from actsearch.controller.strategies import STRATEGIES, several_from
from actsearch.controller.strategy import Proposal
from actsearch.errors import RunError, UsageError
from actsearch.results.aims import (
    COST,
    Aims,
    Limit,
    Scores,
    aims_from,
    best_of,
    dominates,
    hypervolume,
)
from actsearch.results.front import MAYBE, NO, SURE, fronts
from actsearch.results.leaderboard import Entry
from actsearch.results.metrics import ACCURACY, Metric
from actsearch.results.records import Outcome
from actsearch.search_space.space import SPACES, Space, everything
from actsearch.search_space.survey import survey
from actsearch.studies import replay as played
from actsearch.studies.known_results import Sought, table_from

from .conftest import SPACES_OF_KINDS, case
from .test_objectives import module
from .test_objectives import train as mse_alone

TINY = SPACES["tiny"]
ABLE = tuple(name for name, row in STRATEGIES.items() if row.several)
MSE = Metric("mse", "lower")


# -- sorting, crowding, volume


def drawn(random: Random, n: int, aims: int = 2) -> list[Told]:
    """Scores of few different values, so that many are equal; some fail, some break limits."""

    def one() -> Told:
        if random.random() < 0.1:
            return None
        values = tuple(float(random.randrange(5)) for _ in range(aims))
        return Scores(values, random.choice([0.0, 0.0, 0.0, 1.0, 2.0]))

    return [one() for _ in range(n)]


def beaten_by(a: Told, b: Told) -> bool:
    """Definition 1 of Deb et al. 2002, by cases."""
    if b is None:
        return False
    if a is None:
        return True
    if a.violation == b.violation == 0:
        return all(np.array(b.values) >= a.values) and any(np.array(b.values) > a.values)
    return b.violation < a.violation


@pytest.mark.parametrize("aims", [1, 2, 3])
def test_fronts_are_what_peeling_off_the_unbeaten_gives(aims: int) -> None:
    random = Random(aims)
    for n in (0, 1, 2, 7, 25):
        told = drawn(random, n, aims)
        left, peeled = [*range(n)], []
        while left:
            unbeaten = [i for i in left if not any(beaten_by(told[i], told[j]) for j in left)]
            peeled.append(unbeaten)
            left = [i for i in left if i not in unbeaten]
        assert sorted_fronts(told) == peeled
        assert sorted(crowded_order(told)) == [*range(n)]


def test_constrained_domination_is_a_strict_order() -> None:
    told = drawn(Random(5), 30)
    for a, b in itertools.product(told, told):
        assert better(a, b) == beaten_by(b, a)
        assert not (better(a, b) and better(b, a))
    for a, b, c in itertools.product(told[:14], repeat=3):
        assert not (better(a, b) and better(b, c)) or better(a, c)


def test_crowding_is_the_sum_of_the_gaps_between_neighbours() -> None:
    # Of both aims the range is 10: (3 - 0 + 10 - 4) / 10 and (10 - 1 + 6 - 0) / 10.
    found = crowding([(0, 10), (1, 6), (3, 4), (10, 0)])
    assert found == [float("inf"), pytest.approx(0.9), pytest.approx(1.5), float("inf")]
    assert crowding([]) == []
    assert crowding([(1, 1), (1, 1), (1, 1)])[1] == 0.0  # no range
    order = crowded_order([Scores((1.0, 6.0)), Scores((3.0, 4.0)), Scores((0.0, 10.0)),
                           Scores((10.0, 0.0)), None, Scores((0.0, 0.0))])  # fmt: skip
    assert order == [2, 3, 1, 0, 5, 4]


@pytest.mark.parametrize("aims", [1, 2, 3])
def test_the_hypervolume_is_the_number_of_unit_cells_below_the_points(aims: int) -> None:
    random = Random(aims)
    for n in (0, 1, 3, 8):
        points = [tuple(random.randrange(-1, 5) for _ in range(aims)) for _ in range(n)]
        cells = sum(
            any(all(p > corner for p, corner in zip(point, cell, strict=True)) for point in points)
            for cell in itertools.product(range(5), repeat=aims)
        )
        inside = [p for p in points if all(x > 0 for x in p)]
        assert hypervolume(points, (0,) * aims) == cells
        assert hypervolume(best_of(points), (0,) * aims) == cells
        assert hypervolume(inside, (0,) * aims) == cells


def test_the_best_are_the_different_points_that_none_dominates() -> None:
    random = Random(1)
    for n in (0, 1, 5, 20):
        points = [tuple(random.randrange(4) for _ in range(2)) for _ in range(n)]
        unbeaten = {p for p in points if not any(dominates(q, p) for q in points)}
        assert best_of(points) == sorted(unbeaten, reverse=True)


# -- aims and limits


def test_scores_are_turned_upwards_and_violations_are_shares_of_the_limits() -> None:
    aims = aims_from(MSE, "minimise cost, maximise r2", "cost<=2, r2>=0.5, val_mse<=0")
    assert aims == Aims(
        MSE,
        (COST, Metric("r2")),
        (Limit("cost", "<=", 2.0), Limit("r2", ">=", 0.5), Limit("mse", "<=", 0.0)),
    )
    assert str(aims) == "less mse, less cost, more r2, with cost<=2, r2>=0.5, mse<=0"
    assert aims.names == ("cost", "r2")
    outcome = Outcome("ok", val_score=0.25, details={"cost": (3.0, 2.9, 3.1), "scores": {"r2": 1}})
    # (3 - 2) / 2 of cost, nothing of r2, and 0.25 of mse, whose limit is 0.
    assert aims.scores(outcome) == Scores((-0.25, -3.0, 1.0), 0.75)
    assert aims.scores(Outcome("ok", val_score=0.25, details={"scores": {"r2": 1}})) is None
    assert aims.scores(Outcome("failed", "it did")) is None
    assert aims_from(MSE, "", "") is None
    kept = aims.to_config()
    assert kept == {"aims": "minimise cost, maximise r2", "where": "cost<=2, r2>=0.5, mse<=0"}
    assert aims_from(MSE, kept["aims"], kept["where"]) == aims
    precise = aims_from(MSE, "", " cost  <= 1.0625001 ")
    assert precise is not None
    assert precise.to_config() == {"where": "cost<=1.0625001"}


@pytest.mark.parametrize("where", ["cost", "cost<1.1", "cost=1", "cost<=", "cost<=nan", "cost<=x"])
def test_a_limit_that_is_none_is_one_sentence(where: str) -> None:
    with pytest.raises(ValueError, match=r"^--where '.*must be"):
        aims_from(ACCURACY, "", where)
    with pytest.raises(ValueError, match="accuracy is a fraction of 1"):
        aims_from(ACCURACY, "", "val accuracy>=40")


def test_a_list_that_is_said_twice_counts_twice() -> None:
    words = ["top", "a", "--where", "betas<=1", "-n", "3", "--where=cost<=1.1", "--wide"]
    found = read_command(words, {"top": TopConfig})
    assert (found.where, found.n, found.wide) == ("betas<=1,cost<=1.1", 3, True)
    with pytest.raises(ValueError, match="--where needs a value"):
        read_command(["top", "--where"], {"top": TopConfig})


# -- the front


def entry(name: str, score: float, cost: float | None = None, **more: Any) -> Entry:
    ends = None if cost is None else (cost - 0.1, cost + 0.1)
    filled: dict[str, Any] = {
        "rank": 1, "expression": name, "formula": name, "label": "", "status": "ok", "seeds": 1,
        "seconds": 1.0, "ms_per_step": 1.0, "reason": "", "symmetry": "", "properties": {},
    }  # fmt: skip
    return Entry(**{**filled, "val_score": score, "vs_relu": cost, "vs_relu_range": ends, **more})


BOTH = Aims(ACCURACY, (COST,))


def test_a_function_is_surely_on_the_front_where_intervals_leave_no_doubt() -> None:
    best, near = entry("best", 0.9, 2.0), entry("near", 0.8, 1.9)
    cheap, dear = entry("cheap", 0.7, 1.0), entry("dear", 0.6, 1.5)
    found = fronts([best, near, cheap, dear], BOTH)
    assert found == {"best": SURE, "near": MAYBE, "cheap": SURE, "dear": NO}


def test_limits_leave_out_what_breaks_them_and_doubt_what_may() -> None:
    aims = Aims(ACCURACY, (COST,), (Limit("cost", "<=", 1.55),))
    found = fronts([entry("best", 0.9, 2.0), entry("edge", 0.8, 1.5), entry("cheap", 0.7, 1)], aims)
    assert found == {"best": NO, "edge": MAYBE, "cheap": SURE}
    # One that may keep the limit beats, perhaps, what it would beat within.
    found = fronts([entry("over", 0.9, 1.6), entry("within", 0.8, 1.54)], aims)
    assert found == {"over": NO, "within": MAYBE}


def test_without_intervals_nothing_is_sure() -> None:
    aims = Aims(MSE, (Metric("rough", "lower"),))
    names = {"a": (1.0, 3.0), "b": (2.0, 2.0), "c": (2.5, 2.5)}
    found = [
        entry(n, mse, metric=MSE, scores={"rough": rough}) for n, (mse, rough) in names.items()
    ]
    assert fronts(found, aims) == {"a": MAYBE, "b": MAYBE, "c": NO}
    lacking = entry("d", 0.9, 1.0), entry("e", 0.8)  # of the second the cost is not known
    assert fronts(lacking, BOTH) == {"d": MAYBE, "e": NO}
    asked_for = entry("f", 0.95, 0.5, beside=True, label="mish")
    assert fronts([lacking[0], asked_for], BOTH)["d"] == SURE  # a baseline of the user's


def test_who_is_surely_on_the_front_is_dominated_by_nobody() -> None:
    random = Random(3)
    for _ in range(40):
        found = [entry(str(i), random.randrange(5) / 10, random.randrange(8) / 10 + 0.5)
                 for i in range(9)]  # fmt: skip
        standing = fronts(found, BOTH)
        points = {e.expression: (e.val_score or 0.0, -(e.vs_relu or 0.0)) for e in found}
        for name, point in points.items():
            unbeaten = not any(dominates(other, point) for other in points.values())
            assert (standing[name] != NO) == unbeaten


# -- strategies


def scores_of(proposal: Proposal) -> Told:
    """Two scores that pull apart, a limit that a third breaks, and failures."""
    total = sum(d * (t + 1) for t, d in enumerate(proposal.digits))
    if total % 7 == 0:
        return None
    return Scores((total % 11 / 10, -(total % 5) / 4), float(total % 3 == 0) / 10)


def asked(strategy: OfSeveral, rounds: int, n: int) -> list[Proposal]:
    seen: list[Proposal] = []
    for _ in range(rounds):
        proposals = list(strategy.ask(n))
        for proposal in reversed(proposals):
            strategy.tell_several(proposal, scores_of(proposal))
        seen += proposals
    return seen


NAMES = (*(n for n in ABLE if n != "surrogate"), "surrogate:initial=3,pool=16",
         "evolution:population=4,tournament=2")  # fmt: skip
FEW = ("tiny", "gates")


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_restored_at_any_moment_goes_on_as_the_unbroken_one(name: str) -> None:
    for kind in FEW:
        with case(kind):
            _restored_at_any_moment(name, SPACES_OF_KINDS[kind])


def _restored_at_any_moment(name: str, space: Space) -> None:
    unbroken = several_from(name, space, 5)
    open_: list[Proposal] = []
    numbers: list[int] = []
    for step in range(10):
        restored = several_from(name, space, 99)
        restored.load_state_dict(json.loads(json.dumps(unbroken.state_dict(), allow_nan=False)))
        both = unbroken, restored
        asks = [tuple(s.ask(3)) for s in both]
        assert asks[0] == asks[1]
        assert restored.health() == unbroken.health()
        numbers += [p.number for p in asks[0]]
        open_ += asks[0]
        for proposal in [open_.pop(step % len(open_)) for _ in range(2) if open_]:
            space.index(proposal.digits)  # raises for what is no point of it
            for s in both:
                s.tell_several(proposal, scores_of(proposal))
        unbroken = restored
    assert numbers == [*range(len(numbers))]
    assert asked(several_from(name, space, 3), 2, 4) == asked(several_from(name, space, 3), 2, 4)


@pytest.mark.parametrize("name", NAMES)
def test_one_reward_is_told_as_one_score(name: str) -> None:
    both = [several_from(name, TINY, 1) for _ in range(2)]
    for _ in range(6):
        one, other = (strategy.ask(4) for strategy in both)
        assert list(one) == list(other)
        for i, proposal in enumerate(one):
            reward = None if i == 3 else sum(proposal.digits) / 10
            both[0].tell(proposal, reward)
            both[1].tell_several(proposal, None if reward is None else Scores((reward,)))


def told(strategy: OfSeveral, *scores: Told) -> list[Proposal]:
    proposals = [strategy.ask(1)[0] for _ in scores]
    for proposal, of in zip(proposals, scores, strict=True):
        strategy.tell_several(proposal, of)
    return proposals


def test_the_population_keeps_its_front_and_what_breaks_no_limit() -> None:
    evolution = NSGA2(SPACES["one-unit"], 0, EvolutionConfig(population=3, tournament=2))
    ends = Scores((1.0, 0.0)), Scores((0.0, 1.0))
    best = told(evolution, *ends, Scores((0.6, 0.6)))
    told(evolution, None, Scores((9.0, 9.0), violation=0.1), Scores((0.5, 0.5)))
    alive = {proposal.digits for proposal in best}
    assert {digits for digits, _ in evolution.alive} == alive
    told(evolution, ends[0])  # the same function in another spelling
    assert {digits for digits, _ in evolution.alive} == alive
    for child in evolution.ask(20):
        assert min(sum(a != b for a, b in zip(child.digits, p, strict=True)) for p in alive) == 1
    assert evolution.health() == {"reward": pytest.approx(1.6 / 3), "alive on the front": 3.0}


def test_weights_are_all_multiples_that_sum_to_one() -> None:
    assert [*weights(2, 10)] == [(i / 10, (10 - i) / 10) for i in range(11)]
    assert len({*weights(3, 4)}) == 15
    assert all(sum(w) == pytest.approx(1) for w in weights(3, 4))
    assert [*weights(1, 1)] == [(1.0,)]


def test_scalarised_scores_are_the_augmented_tchebycheff_function() -> None:
    known = {(0,): Scores((1.0, 0.0)), (1,): Scores((0.5, 10.0)), (2,): None,
             (3,): Scores((0.0, 5.0), violation=0.2)}  # fmt: skip
    # Distances to the best as shares of the ranges 1 and 10: (0, 1), (0.5, 0), (1, 0.5).
    found = scalarised(known, (0.2, 0.8))
    assert found[(0,)] == pytest.approx(-(0.8 + RHO * 0.8))
    assert found[(1,)] == pytest.approx(-(0.1 + RHO * 0.1))
    assert found[(2,)] is None
    assert found[(3,)] == pytest.approx(-(1 + RHO + 0.2))  # below all that keep the limits
    assert scalarised({(2,): None}, (1.0,)) == {(2,): None}


@pytest.mark.parametrize("name", ["ppo", "random+halving", "ppo+halving", "external:python x.py"])
def test_a_strategy_of_one_score_names_those_of_several(name: str) -> None:
    sentence = "goes by one score.* choose one of exhaustive, random, evolution, surrogate$"
    with pytest.raises(ValueError, match=sentence):
        several_from(name, TINY, 0)


def test_evolution_has_the_tournaments_of_nsga_2_alone() -> None:
    with pytest.raises(ValueError, match="leave tournament out"):
        several_from("evolution:tournament=5", TINY, 0)


# -- searches


def train(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
    """A fit, with a second score that pulls another way."""
    found = mse_alone(make_activation, seed, steps, report)
    return {"mse": found["mse"], "rough": abs(found["mse"] - 0.01), "steps": steps}


MODULE = """
import torch
from torch import nn

def train(make_activation, seed, steps, report):
    x = torch.linspace(-1, 1, 64)[:, None]
    model = nn.Sequential(nn.Linear(1, 8), make_activation(8), nn.Linear(8, 1))
    mse = (model(x) - x.abs()).square().mean().item()
    return {"mse": mse, "rough": abs(mse - 0.01)}
"""
OPTIONS: dict[str, Any] = {
    "space": "tiny",
    "minimise": "mse,rough",
    "steps": 5,
    "executor": "inline",
    "quiet": True,
}


def proposed(run: actsearch.Run) -> list[tuple[Any, ...]]:
    """What was proposed and told, and the strategy's state at the end."""
    with closing(run.store(readonly=True)) as store:
        rows = store._db.execute("SELECT number, digits, reward FROM proposals ORDER BY number")
        state = store.strategy(run.settings["strategy"])
        return [*map(tuple, rows), (json.dumps(state),)]


@pytest.mark.parametrize("strategy", ["evolution:population=5,tournament=2",
                                      "surrogate:initial=4,pool=16"])  # fmt: skip
def test_a_search_that_is_broken_off_goes_on_as_the_unbroken_one(
    tmp_path: Path, strategy: str
) -> None:
    calls = tmp_path / "calls"
    calls.write_text("")
    dies = (5, 10)  # trainings in which the driver is killed

    def broken(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
        calls.write_text(calls.read_text() + ".")
        if len(calls.read_text()) in dies:
            raise KeyboardInterrupt
        return train(make_activation, seed, steps, report)

    options = {**OPTIONS, "strategy": strategy, "budget": 9}
    whole = actsearch.search(tmp_path / "whole", objective=train, **options)
    for _ in dies:
        with pytest.raises(KeyboardInterrupt):
            actsearch.search(tmp_path / "broken", objective=broken, **options)
    # The run knows what is sought.
    again = {**options, "minimise": None}
    resumed = actsearch.search(tmp_path / "broken", objective=broken, **again)
    assert proposed(resumed) == proposed(whole)
    assert len(calls.read_text()) > dies[-1]
    assert resumed.aims == Aims(MSE, (Metric("rough", "lower"),))
    with pytest.raises(
        RunError, match="further objectives=minimise rough; you asked for no further"
    ):
        actsearch.search(tmp_path / "broken", objective=broken, **{**options, "minimise": "mse"})
    with pytest.raises(RunError, match="was made with no limits; you asked for mse<=1"):
        actsearch.search(tmp_path / "broken", objective=broken, **again, where="mse<=1")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((400, 6)).astype(np.float32), random.integers(0, 3, 400)


@pytest.fixture(scope="module")
def costed(
    tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray, np.ndarray]
) -> actsearch.Run:
    """A search of a child by accuracy and cost, within a limit that some functions break."""
    return actsearch.search(
        tmp_path_factory.mktemp("runs") / "a", dataset=digits, child="mlp", space="tiny", steps=100,
        batch_size=16, strategy="evolution:population=3,tournament=2", budget=6, minimise="cost",
        where="cost<=1.2", executor="inline", quiet=True, kernels="eager",
    )  # fmt: skip


def test_a_child_is_searched_by_accuracy_and_cost(costed: actsearch.Run) -> None:
    assert costed.aims == Aims(ACCURACY, (COST,), (Limit("cost", "<=", 1.2),))
    [*_, (state,)] = proposed(costed)
    alive = json.loads(state)["alive"]
    entries = {e.expression: e for e in costed.leaderboard()}
    scores = {
        (e.val_score, -e.vs_relu): max(0.0, (e.vs_relu - 1.2) / 1.2)
        for e in entries.values()
        if e.vs_relu_range is not None and e.val_score is not None and e.vs_relu is not None
    }
    assert len(alive) == 3
    for _, (values, violation) in (member for member in alive if member[1] is not None):
        assert violation == pytest.approx(scores[tuple(values)])
    table = costed.table()
    assert {*table["front"]} <= {SURE, MAYBE, NO}
    assert {*table["front"]} & {SURE, MAYBE} or all(
        (e.vs_relu or 9) > 1.2 for e in entries.values() if e.rank
    )


def test_top_report_and_archive_know_the_front(
    costed: actsearch.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", str(costed.path), "--where", "cost<=9", "--where", "front!=no", "-f",
                 "json"]) == 0  # fmt: skip
    shown = json.loads(capsys.readouterr().out)
    expected = [e for e, standing in fronts(costed.leaderboard(), BOTH).items() if standing != NO]
    limited = fronts(costed.leaderboard(), costed.aims or BOTH)
    assert [row["expression"] for row in shown] == [e for e, s in limited.items() if s != NO]
    assert expected  # without the limit there is one in any case
    page = actsearch.report(costed, tmp_path / "r.html").read_text()
    assert "several objectives, more accuracy, less cost, with cost&lt;=1.2." in page
    assert page.count("◆</span>") == sum(s == SURE for s in limited.values())
    assert page.count("◇</span>") == sum(s == MAYBE for s in limited.values())
    copy = actsearch.Run.open(costed.archive(tmp_path / "a.zip"))
    assert copy.aims == costed.aims


def test_scores_of_an_objective_have_columns_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module(tmp_path, monkeypatch, "rough", MODULE)
    command = ["search", "a", "--objective", "rough:train", "--minimise", "mse", "--minimise",
               "rough", "--where", "mse<=9", "--space", "tiny", "--strategy", "random", "--steps",
               "5", "--executor", "inline", "--budget", "4"]  # fmt: skip
    assert main(command) == 0
    told = capsys.readouterr()
    assert "sought     less mse, less rough, with mse<=9" in told.err
    assert "on the front of less mse, less rough, with mse<=9: 0 beyond the intervals" in told.out
    run = actsearch.Run.open("a")
    table = run.table()
    best = table.iloc[0]
    assert {"val mse", "val rough", "front"} <= {*table.columns}
    assert best["val rough"] == pytest.approx(abs(best["val mse"] - 0.01))
    assert SURE not in {*table["front"]}  # nothing has an interval
    assert main(["plot", str(run.path), "--of", "front", "-o", str(tmp_path / "f")]) == 0
    assert "rough" in (tmp_path / "f" / "front.svg").read_text()
    page = actsearch.report(run).read_text()
    assert "<button>val rough</button>" in page
    assert "--minimise mse,rough" in page
    assert "--where &#39;mse&lt;=9&#39;" in page


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strategy": "ppo"}, "the strategy ppo goes by one score"),
        ({"strategy": "random", "halving": True}, "random.halving goes by one score"),
        ({"confirm": "on"}, "--confirm goes by one score, and this search has more accuracy, less"),
        ({"racing": "on"}, "--racing goes by one score"),
        ({"steps": 99}, "cost is measured in trainings of 100 steps or more, and --steps is 99"),
        ({"minimise": "cost,loss"}, "--minimise says which score of an objective or of a task"),
        ({"minimise": "loss"}, "of any child there is --minimise cost"),
        ({"maximise": "cost"}, "cost is sought twice"),
        ({"minimise": None, "maximise": "cost"}, "--maximise says which score of an objective"),
        ({"where": "betas<=1"}, "--where betas: a child of a data set has accuracy and cost"),
        ({"where": "cost"}, "must be a score, <= or >=, and a number"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    tmp_path: Path, digits: Any, options: dict[str, Any], sentence: str
) -> None:
    usual = {"dataset": digits, "child": "mlp", "space": "tiny", "steps": 100, "minimise": "cost",
             "strategy": "random", "executor": "inline", "quiet": True}  # fmt: skip
    with pytest.raises((UsageError, ValueError), match=sentence) as refused:
        actsearch.search(tmp_path / "a", **{**usual, **options})
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "a").exists()


def test_a_score_that_the_objective_does_not_return_is_said_before_anything_trains(
    tmp_path: Path,
) -> None:
    sentence = "returned no 'rouge' with ReLU, only mse, rough, steps; name one of these"
    for options in ({"minimise": "mse,rouge"}, {"where": "rouge<=1"}):
        with pytest.raises(UsageError, match=sentence):
            actsearch.search(tmp_path / "a", objective=train, **{**OPTIONS, **options})
    with pytest.raises(ValueError, match="mse is sought twice"):
        actsearch.search(tmp_path / "a", objective=train, **{**OPTIONS, "minimise": "mse,mse"})


@pytest.mark.parametrize(
    ("said", "metric", "aims"),
    [
        ({"minimise": "mse"}, "mse", ""),
        ({"minimise": "mse,cost"}, "mse", "minimise cost"),
        ({"minimise": "cost, mse"}, "mse", "minimise cost"),
        ({"minimise": "cost", "maximise": "r2"}, "r2", "minimise cost"),
        ({"minimise": "mse", "maximise": "r2"}, "mse", "maximise r2"),
        ({"minimise": "cost"}, "cost", ""),  # as of an objective that returns nothing else
        ({"metric": Metric("r2"), "minimise": "mse"}, "r2", "minimise mse"),
    ],
)
def test_the_first_score_that_is_named_is_the_metric(
    said: dict[str, Any], metric: str, aims: str
) -> None:
    from actsearch.searching.building import metric_of
    from actsearch.settings import resolve

    settings = resolve({"objective": train, **said})
    assert (metric_of(settings).name, settings.aims) == (metric, aims)
    # A run that has the metric finds it among those that are named.
    if "metric" not in said:
        stored = {"metric": metric_of(settings).to_config(), "aims": aims, "objective": "m:train"}
        again = resolve({"objective": train, **said}, stored)
        assert (metric_of(again).name, again.aims) == (metric, aims)


# -- replay


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny space with three scores that its formulas decide."""
    path = tmp_path_factory.mktemp("t") / "tiny.csv"
    lines = ["formula,accuracy,ms per step,size"]
    for e in survey(everything(TINY)).distinct:
        total = sum(map(ord, str(e)))
        lines.append(f'"{e}",{0.1 + total % 89 / 100},{10 + total % 37},{len(str(e))}')
    path.write_text("\n".join(lines))
    return path


def test_all_functions_make_up_the_whole_front(file: Path) -> None:
    table = table_from(file, "tiny", sought=Sought("minimise cost, minimise size"))
    front = played.TrueFront(table)
    known = [s.values for s in table.scores.values()]
    assert {*front.points} == {p for p in known if not any(dominates(q, p) for q in known)}
    assert table.scores["relu(x)"].values[1] == -1.0  # its own time over its own
    assert front.share(table.scores) == 1.0
    assert front.share([]) == 0.0
    [done] = played.replay(table, ["exhaustive"], repeats=1, processes=1)
    [row] = played.fronts(front, [done])
    assert row["front at 91"] == 1.0
    assert 0 < row["front at 10"] <= row["front at 30"] < 1.0


@pytest.mark.parametrize("strategy", ["random", "evolution", "surrogate:initial=4,pool=60"])
def test_strategies_are_played_with_limits(file: Path, strategy: str) -> None:
    sought = Sought("minimise cost", "accuracy>=0.3")
    table = table_from(file, "tiny", sought=sought)
    front = played.TrueFront(table)
    assert all(accuracy >= 0.3 for accuracy, _ in front.points)
    found = played.replay(table, [strategy], repeats=2, budget=25, workers=2, processes=1)
    [row] = played.fronts(front, found)
    assert row["n"] == 2
    assert 0 < row["lower quartile"] <= row["upper quartile"] <= 1
    with pytest.raises(UsageError, match="no function of the table keeps the limits"):
        played.TrueFront(table_from(file, "tiny", sought=Sought("", "cost<=0")))


def test_other_tables_and_runs_have_the_scores_too(costed: actsearch.Run) -> None:
    table = table_from("one-unit", sought=Sought("minimise lm-one-unit"))
    scores = table.scores["mul(atan(x), cos(x))"]
    assert scores.values[1] == pytest.approx(-2.986145, abs=1e-6)
    of_run = table_from(costed.path, sought=Sought("minimise cost"))
    assert 0 < len(of_run.scores) <= len(of_run)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["FILE", "--minimise", "weight"], "has no column 'weight', only formula, accuracy"),
        (["FILE", "--minimise", "size", "--find", "relu"], "--find is of one score"),
        (["FILE", "--minimise", "size", "--strategy", "ppo"], "the strategy ppo goes by one"),
        (["two-units", "--minimise", "cost"], "accuracies alone are predicted"),
        (["one-unit", "--maximise", "lm-one-unit"], "say --minimise lm-one-unit"),
    ],
)
def test_a_replay_that_cannot_be_is_one_sentence(
    file: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    words = [str(file) if word == "FILE" else word for word in words]
    where = ["--space", "tiny"] if str(file) in words else []
    assert main(["replay", *words, *where]) == 2
    [*_, said] = capsys.readouterr().err.strip().splitlines()
    assert sentence in said


def test_the_usual_strategies_of_a_replay_are_those_that_can(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = played.replay
    monkeypatch.setattr(played, "replay", lambda *a, **o: real(*a, **o, processes=1))
    words = ["--space", "tiny", "--repeats", "1", "--budget", "12", "-f", "json"]
    assert main(["replay", str(file), "--minimise", "size", *words]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["strategy"] for row in rows] == ["random", "evolution", "surrogate"]
