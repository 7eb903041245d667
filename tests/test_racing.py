"""Racing: the rules, the limits, trainings that are stopped, and searches that race."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actsearch
from actsearch.child_models.data.labelled import make_dataset
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.commands.search import SearchConfig
from actsearch.controller.racing import FIRST, Race, RaceRules, race_rules
from actsearch.errors import UsageError
from actsearch.results.leaderboard import leaderboard
from actsearch.results.metrics import ACCURACY, METRICS
from actsearch.results.records import AtMilestone, Cause, Milestone, Outcome, RacedBy, Trial, reward
from actsearch.results.store import Store
from actsearch.searching.plan import make_plan
from actsearch.searching.sources import Raced

from .test_loop import source
from .test_search import small_net

RULES = RaceRules("loss", ((20, 0.25), (50, 0.1)))


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("off", None),
        ("on", RaceRules("loss", ((13, 0.7), (33, 0.35), (67, 0.12)))),
        ("loss:20=0.25,50=0.1", RULES),
        ("accuracy: 100=0.5", RaceRules("score", ((100, 0.5),))),
    ],
)
def test_rules_are_read(text: str, rules: RaceRules | None) -> None:
    assert race_rules(text, 200) == rules
    assert rules is None or race_rules(str(rules), 200) == rules


def test_the_usual_milestones_are_shares_of_the_training() -> None:
    assert str(race_rules("on", 10_000)) == "loss:667=0.7,1667=0.35,3333=0.12"
    assert str(race_rules("on", 300)) == "loss:20=0.7,50=0.35,100=0.12"
    assert str(race_rules("on", 4)) == "loss:1=0.7,2=0.35,3=0.12"


@pytest.mark.parametrize(
    "text",
    ["yes", "loss", "loss:", "loss:20", "loss:a=0.5", "speed:20=0.5", "loss:20=0.25,10=0.1",
     "loss:0=0.5", "loss:20=1", "loss:20=0.1,50=0.25", "loss:20=0", "loss:20=nan"],
)  # fmt: skip
def test_rules_that_cannot_be_are_answered_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"loss:20=0\.4,50=0\.15"):
        race_rules(text, 200)


def went(*losses: float) -> Outcome:
    """An outcome of a race by RULES: left after as many milestones as losses, if not two."""
    milestones = tuple(
        AtMilestone(step, x, x / 10) for (step, _), x in zip(RULES.milestones, losses, strict=False)
    )
    if len(losses) == 2:
        return Outcome("ok", val_score=0.5, milestones=milestones)
    return Outcome("raced_out", step=milestones[-1].step, milestones=milestones)


def test_limits_are_those_of_the_best_share_of_all_that_raced() -> None:
    race = Race(RULES)
    for i in range(FIRST - 1):
        race.tell(went(1 + i / 100, 0.5 + i / 100))
        assert [milestone.limit for milestone in race.milestones()] == [None, None]
    race.tell(Outcome("diverged", "loss nan at step 3", step=3))
    # 16 have raced: the 4th and the 2nd best of all
    assert [milestone.limit for milestone in race.milestones()] == [1.03, 0.51]
    for _ in range(24):
        race.tell(went(3.0))
    # 40 have raced: the 10th best at the first milestone, the 4th of all 40 at the second
    assert [milestone.limit for milestone in race.milestones()] == [1.09, 0.53]
    assert race.milestones()[0] == Milestone(20, "loss", 1.09)


def test_limits_do_not_depend_on_the_order() -> None:
    outcomes = [went(2 + i / 10) for i in range(20)] + [went(1 + i / 10, i / 10) for i in range(20)]
    chance = random.Random(0)
    found = set()
    for _ in range(5):
        chance.shuffle(outcomes)
        race = Race(RULES)
        for outcome in outcomes:
            race.tell(outcome)
        found.add(race.milestones())
    assert len(found) == 1


def test_what_did_not_race_and_what_was_lost_says_nothing() -> None:
    race = Race(RULES)
    for status in ("failed", "crashed", "timed_out", "rejected"):
        for _ in range(FIRST):
            race.tell(Outcome(status, "r"))
    for _ in range(FIRST):
        race.tell(Outcome("ok", val_score=0.9))
    assert [milestone.limit for milestone in race.milestones()] == [None, None]


def test_by_accuracy_more_is_better() -> None:
    race = Race(RaceRules("score", ((5, 0.25),)))
    for i in range(FIRST):
        race.tell(Outcome("ok", val_score=0.5, milestones=(AtMilestone(5, 1.0, i / 100),)))
    [milestone] = race.milestones()
    assert milestone.limit == pytest.approx(0.12)
    assert milestone.passed_by(0.12)
    assert not milestone.passed_by(0.11)


def test_by_a_score_that_is_a_loss_less_is_better() -> None:
    rules = race_rules("score:5=0.25", 20, METRICS["loss"])
    assert rules is not None
    assert str(rules) == "score:5=0.25"
    race = Race(rules)
    for i in range(FIRST):  # the training loss says the opposite
        race.tell(Outcome("ok", val_score=2.0, milestones=(AtMilestone(5, -float(i), 1.2 + i),)))
    [milestone] = race.milestones()
    assert milestone.limit == pytest.approx(4.2)  # of the fourth of sixteen
    assert milestone.passed_by(4.2)
    assert not milestone.passed_by(4.3)
    assert not Milestone(5, "loss", 1.0).passed_by(1.01)


# -- one training


@pytest.fixture
def evaluate(blobs: tuple[np.ndarray, np.ndarray]) -> Evaluator:
    recipe = Recipe(steps=30, batch_size=32, lr=0.05)
    return Evaluator(make_dataset("b", blobs), child_from(small_net), recipe)


def raced(*race: Milestone) -> Trial:
    return Trial(1, "search", "relu(x)", "p", 0, race=race)


@pytest.mark.parametrize("by", ["loss", "score"])
def test_a_child_that_passes_is_trained_as_without_a_race(by: RacedBy, evaluate: Evaluator) -> None:
    alone = evaluate(raced())
    passed = evaluate(raced(Milestone(7, by, None), Milestone(11, by, 9.0 if by == "loss" else 0)))
    assert (passed.status, passed.val_score) == ("ok", alone.val_score)
    assert passed.curve == alone.curve
    assert [at.step for at in passed.milestones] == [7, 11]
    losses = dict(alone.curve)
    for at in passed.milestones:
        mean = np.mean([losses[step] for step in range(at.step - 4, at.step + 1)])
        assert at.loss == pytest.approx(mean, rel=1e-4)
        assert (at.score is not None) == (by == "score")
    assert alone.milestones == ()


def test_a_child_that_is_behind_leaves_with_its_step_and_accuracy(evaluate: Evaluator) -> None:
    outcome = evaluate(
        raced(Milestone(7, "loss", None), Milestone(11, "loss", 1e-6), Milestone(20, "loss", None))
    )
    assert (outcome.status, outcome.step) == ("raced_out", 11)
    assert outcome.val_score is None
    assert [at.step for at in outcome.milestones] == [7, 11]
    assert outcome.milestones[-1].score is not None
    assert reward(outcome, ACCURACY) == outcome.milestones[-1].score > 0.2
    assert [step for step, _ in outcome.curve] == list(range(1, 12))
    assert "left after 11 steps with validation accuracy" in outcome.reason
    assert "is above 1e-06" in outcome.reason
    assert outcome.cause is Cause.RACED_OUT


def test_milestones_beyond_a_shorter_training_are_passed_over(evaluate: Evaluator) -> None:
    assert evaluate.with_recipe(steps=5)(raced(Milestone(11, "loss", 1e-6))).status == "ok"


def test_a_restored_race_has_seen_what_raced_and_no_baseline(store: Store) -> None:
    baseline = store.submit("search", "relu(x)", "p", 0)
    store.record(baseline, Outcome("diverged", "loss nan at step 3", step=3))
    for i in range(FIRST - 1):
        store.record(store.submit("search", f"f{i}", "p", 0), went(1 + i / 100, 0.5))
    limits = [
        Raced(source(store), race := Race(RULES), store, first) and race.milestones()[0].limit
        for first in ((baseline,), ())
    ]
    assert limits == [None, 1.03]


def test_outcomes_of_a_race_are_stored_and_ranked_below_whole_trainings(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.sqlite", create=True)
    store.add_protocol("p", {})
    outcomes = {
        "late": went(2.0, 1.5),
        "early": Outcome("raced_out", "left", step=20, milestones=(AtMilestone(20, 2.5, 0.2),)),
        "better": Outcome("raced_out", "left", step=20, milestones=(AtMilestone(20, 2.5, 0.3),)),
        "nan": Outcome("diverged", "loss nan", step=3),
    }
    for name, outcome in outcomes.items():
        store.record(trial := store.submit("search", name, "p", 0), outcome)
        assert store.outcome(trial) == outcome
    entries = leaderboard(store.rows("search"))
    assert [e.expression for e in entries] == ["late", "better", "early", "nan"]
    assert [e.rank for e in entries] == [1, None, None, None]
    assert entries[1].left == (20, 0.3)
    store.close()


# -- searches


def search(path: Path, blobs: Any, **options: Any) -> actsearch.Run:
    given = {"space": "tiny", "dataset": blobs, "child": small_net, "steps": 30, "batch_size": 32}
    given |= {"lr": 0.05, "executor": "inline", "quiet": True, "racing": "loss:6=0.3,12=0.15"}
    return actsearch.search(path, **{**given, **options})


def results(run: actsearch.Run) -> list[tuple[str, ...]]:
    table = run.table(wide=True)[["formula", "status", "val accuracy", "reason"]].astype(str)
    return list(table.itertuples(index=False, name=None))


@pytest.mark.thorough
def test_a_search_races_and_goes_on_as_if_it_had_never_stopped(tmp_path: Path, blobs: Any) -> None:
    whole = search(tmp_path / "whole", blobs)
    counts = whole.counts()
    assert counts["raced_out"] > 20
    assert 5 < counts["ok"] < 50
    table = whole.table()
    named = table[table["name"].isin(["relu", "swish"])]
    assert set(named["status"]) == {"ok"}  # the baselines are trained to their end
    for budget in (10, 33, 200):
        parts = search(tmp_path / "parts", blobs, budget=budget)
    assert results(parts) == results(whole)


@pytest.mark.slow
def test_the_best_of_a_whole_search_are_kept_by_a_race(tmp_path: Path, blobs: Any) -> None:
    every = search(tmp_path / "every", blobs, racing="off").table()
    kept = search(tmp_path / "kept", blobs).table()
    best = every[every["val accuracy"] == every["val accuracy"].max()]["formula"]
    ok = kept[kept["status"] == "ok"]
    assert ok["val accuracy"].max() >= every["val accuracy"].max() - 0.02
    both = every.merge(ok, on="formula", suffixes=("", " raced"))
    assert (both["val accuracy"] == both["val accuracy raced"]).all()
    assert set(ok["formula"]) & set(best)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"racing": "loss:20=0.25"}, "a milestone at step 20, but children train for 20 steps"),
        ({"racing": "loss:5=0.5", "halving": True}, "choose one of them"),
        ({"racing": "maybe"}, "racing by 'maybe' is not known"),
    ],
)
def test_a_race_that_cannot_be_is_a_sentence_before_anything_is_trained(
    options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    config = SearchConfig(run=str(tmp_path / "r"), space="tiny", steps=20, **options)
    with pytest.raises((UsageError, ValueError), match=sentence):
        make_plan(config)
    assert not (tmp_path / "r").exists()


def test_the_plan_says_that_it_races(tmp_path: Path) -> None:
    config = SearchConfig(run=str(tmp_path / "r"), space="tiny", racing="on")
    lines = make_plan(config).lines()
    usual = "the best 70 % by loss go on after 13 steps, 35 % after 33, 12 % after 67"
    assert f"racing     {usual}; the first {FIRST} pass" in lines


def test_strategies_hear_of_every_child_that_left(tmp_path: Path, blobs: Any) -> None:
    run = search(tmp_path / "r", blobs, strategy="evolution", space="one-unit", budget=24)
    store = Store(run.path / "run.sqlite", readonly=True)
    assert store.open_proposals("evolution") == []
    assert store.proposals() >= 24
    left = [o for _, o in store.outcomes("search") if o.status == "raced_out"]
    assert left
    assert all(0 <= (reward(o, ACCURACY) or -1) <= 1 for o in left)
    store.close()
